//! A small good GGUF, to be broken by tests and changed by the fuzzer.

use model_assets::gguf::{self, Kind, Tensor, Value};

/// A GGUF in parts.
pub(crate) struct Gguf {
    /// Metadata in order.
    pub(crate) metadata: Vec<(String, Value)>,
    /// Tensors in order.
    pub(crate) tensors: Vec<Tensor>,
    /// Bytes of each, padding included.
    pub(crate) weights: Vec<Vec<u8>>,
}

impl Default for Gguf {
    fn default() -> Self {
        let text = |text: &str| Value::Text(text.to_owned());
        let metadata = [
            ("general.architecture", text("llama")),
            ("llama.block_count", Value::U32(1)),
            ("some.offset", Value::I32(-1)),
            ("llama.rope.freq_base", Value::F32(10_000.0)),
            ("tokenizer.ggml.tokens", Value::Texts(vec!["a".to_owned(), "é".to_owned()])),
            ("tokenizer.ggml.token_type", Value::I32s(vec![1, 3])),
            ("tokenizer.ggml.add_bos_token", Value::Bool(false)),
        ];
        let metadata = metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let mut rows = Vec::new();
        gguf::q8_0(&[0.5; 96], &mut rows);
        rows.resize(rows.len().next_multiple_of(32), 0);
        let vector: Vec<u8> = [1.0_f32; 5].iter().flat_map(|x| x.to_le_bytes()).chain([0; 12]).collect();
        let tensor = |name: &str, width, rows, kind, offset| Tensor {
            name: name.to_owned(),
            width,
            rows,
            kind,
            offset,
        };
        let tensors = vec![
            tensor("token_embd.weight", 32, Some(3), Kind::Q8_0, 0),
            tensor("output_norm.weight", 5, None, Kind::F32, rows.len() as u64),
        ];
        Self { metadata, tensors, weights: vec![rows, vector] }
    }
}

impl Gguf {
    /// The bytes before the weights.
    pub(crate) fn head(&self) -> Vec<u8> {
        gguf::head_bytes(&self.metadata, &self.tensors)
    }

    /// The whole file.
    pub(crate) fn build(&self) -> Vec<u8> {
        let mut file = self.head();
        self.weights.iter().for_each(|weights| file.extend(weights));
        file
    }

    /// Place of the first byte that holds this number.
    pub(crate) fn find(&self, needle: &[u8]) -> usize {
        let file = self.build();
        file.windows(needle.len()).position(|window| window == needle).expect("the good file holds it")
    }
}
