//! The reference file: what the eager quantized model answered when the model was exported.
//!
//! A safetensors file with `prompt` i64 `[P]`, `decode` i64 `[K]` and `logits` f32 `[K+1, V]`: row 0 holds the
//! logits after the prompt, row i those after `decode[i-1]`.

use camino::Utf8Path;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

/// Largest reference file: hundreds of rows of the largest vocabulary in use.
const REFERENCE_BYTES_MAX: u64 = 1 << 30;

/// A checked reference.
#[derive(Debug)]
pub struct Reference {
    /// The prompt's tokens.
    pub prompt: Vec<u32>,
    /// Tokens fed after it, one by one.
    pub decode: Vec<u32>,
    /// Row-major, `(decode.len() + 1) * vocab`, all finite.
    pub logits: Vec<f32>,
    /// Tokens of the vocabulary.
    pub vocab: usize,
}

impl Reference {
    /// Reads a reference file.
    ///
    /// # Errors
    /// A message that names the file: unreadable, too large, malformed.
    pub fn read(path: &Utf8Path) -> Result<Self, String> {
        let failed = |e: std::io::Error| format!("{path}: {e}");
        let len = std::fs::metadata(path).map_err(failed)?.len();
        if len > REFERENCE_BYTES_MAX {
            return Err(format!("{path}: got {len} bytes, expected at most {REFERENCE_BYTES_MAX}"));
        }
        Self::parse(&std::fs::read(path).map_err(failed)?).map_err(|message| format!("{path}: {message}"))
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let file = SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
        let prompt = tokens("prompt", &tensor(&file, "prompt")?)?;
        let decode = tokens("decode", &tensor(&file, "decode")?)?;
        if prompt.is_empty() || decode.is_empty() {
            return Err("got no tokens in prompt or decode, expected at least one in each".to_owned());
        }
        let view = tensor(&file, "logits")?;
        let (Dtype::F32, [rows, vocab]) = (view.dtype(), view.shape()) else {
            return Err(format!("logits: got {:?} {:?}, expected F32 [K+1, V]", view.dtype(), view.shape()));
        };
        if *rows != decode.len() + 1 || *vocab == 0 {
            return Err(format!("logits: got {rows} rows of {vocab}, expected {} rows", decode.len() + 1));
        }
        let logits = floats("logits", &view)?;
        Ok(Self { prompt, decode, logits, vocab: *vocab })
    }

    /// Whether a model can be fed all of it: a reference of another model is a mistake in the call, not a failure of the model.
    ///
    /// # Errors
    /// A message that says what does not fit.
    pub fn fits(&self, vocab: u32, window: usize, prefill_max: usize) -> Result<(), String> {
        if self.vocab != vocab as usize {
            return Err(format!("got rows of {} logits, expected the model's {vocab}", self.vocab));
        }
        let mut all = self.prompt.iter().chain(&self.decode);
        if let Some(token) = all.find(|token| **token >= vocab) {
            return Err(format!("got token {token}, expected less than {vocab}"));
        }
        let (prompt, tokens) = (self.prompt.len(), self.prompt.len() + self.decode.len());
        if prompt > prefill_max || tokens > window {
            return Err(format!(
                "got {prompt} prompt tokens and {tokens} in all, expected at most {prefill_max} and {window}"
            ));
        }
        Ok(())
    }

    /// Reference logits in rows.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.logits.chunks_exact(self.vocab)
    }
}

fn tensor<'a>(file: &SafeTensors<'a>, name: &str) -> Result<TensorView<'a>, String> {
    file.tensor(name).map_err(|e| format!("tensor {name}: {e}"))
}

fn floats(name: &str, view: &TensorView<'_>) -> Result<Vec<f32>, String> {
    if view.dtype() != Dtype::F32 {
        return Err(format!("{name}: got {:?}, expected F32", view.dtype()));
    }
    let floats: Vec<f32> = view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    match floats.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(format!("{name}: got no finite number at {index}, expected only finite ones")),
        None => Ok(floats),
    }
}

fn tokens(name: &str, view: &TensorView<'_>) -> Result<Vec<u32>, String> {
    let (Dtype::I64, [_]) = (view.dtype(), view.shape()) else {
        return Err(format!("{name}: got {:?} {:?}, expected I64 [n]", view.dtype(), view.shape()));
    };
    let ids = view.data().as_chunks().0.iter().map(|b| i64::from_le_bytes(*b));
    ids.map(|id| u32::try_from(id).map_err(|_| format!("{name}: got {id}, expected a token id"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(prompt: &[i64], decode: &[i64], logits: &[f32], shape: [usize; 2]) -> Vec<u8> {
        let le = |ids: &[i64]| ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<_>>();
        let (p, d) = (le(prompt), le(decode));
        let l: Vec<u8> = logits.iter().flat_map(|x| x.to_le_bytes()).collect();
        let view = |dtype, shape: Vec<usize>, data| TensorView::new(dtype, shape, data).unwrap();
        let tensors = [
            ("prompt", view(Dtype::I64, vec![prompt.len()], p.as_slice())),
            ("decode", view(Dtype::I64, vec![decode.len()], d.as_slice())),
            ("logits", view(Dtype::F32, shape.to_vec(), l.as_slice())),
        ];
        safetensors::serialize(tensors, None).unwrap()
    }

    #[test]
    fn reads_what_the_worker_writes() {
        let reference = Reference::parse(&file(&[1, 2], &[3], &[0.0, 1.0, 2.0, 3.0], [2, 2])).unwrap();
        assert_eq!(
            (reference.prompt.as_slice(), reference.decode.as_slice()),
            ([1, 2].as_slice(), [3].as_slice())
        );
        assert_eq!(reference.rows().nth(1).unwrap(), [2.0, 3.0]);
    }

    #[test]
    fn refuses_what_does_not_fit() {
        for (bytes, expected) in [
            (file(&[-1], &[3], &[0.0; 4], [2, 2]), "got -1, expected a token id"),
            (file(&[1], &[3], &[0.0; 6], [3, 2]), "got 3 rows"),
            (file(&[], &[3], &[0.0; 4], [2, 2]), "expected at least one in each"),
            (file(&[1], &[3], &[0.0, f32::NAN, 0.0, 0.0], [2, 2]), "expected only finite ones"),
            (vec![1, 2, 3], "header"),
        ] {
            let error = Reference::parse(&bytes).unwrap_err();
            assert!(error.to_lowercase().contains(expected), "{error}");
        }
    }
}
