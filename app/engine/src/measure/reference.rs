//! The reference file: the eager quantized model's values at every boundary of the program, and its logits.
//!
//! A safetensors file: `tokens` i64 `[T]`, fed in `calls` i64 `[C]`; `residual`, `query`, `key`, `value`, `attention` f32
//! `[layers, T, width]`, each but the last with what quantization and what fp32 rounding change in its block, as norms:
//! `.._noise` and `.._floor` f32 `[layers, T]`; `logits` f32 `[R, V]` after the tokens `logit_rows` i64 `[R]`, with
//! `logits_noise` and `logits_floor` f32 `[R]`; `floor` f32 `[2, runs, R]`: how far the whole eager model with fp32 rounding
//! is from itself, KL and largest difference.

use camino::Utf8Path;
use model_assets::evidence::Boundary;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

/// Largest reference file: hundreds of rows of the largest vocabulary in use.
const REFERENCE_BYTES_MAX: u64 = 1 << 30;
/// Boundaries of a layer by the names of their tensors. The output of attention is not quantized.
const BOUNDARIES: [(Boundary, bool); 5] = [
    (Boundary::Residual, true),
    (Boundary::Query, true),
    (Boundary::Key, true),
    (Boundary::Value, true),
    (Boundary::Attention, false),
];

/// A checked reference.
#[derive(Debug)]
pub struct Reference {
    /// The text.
    pub tokens: Vec<u32>,
    /// Tokens per call: the prompt in pieces, then at least one single step.
    pub calls: Vec<usize>,
    /// Layers.
    pub layers: usize,
    /// What layers hand on, in the order of computation.
    pub boundaries: Vec<Values>,
    /// Tokens, as places, whose logits follow: ascending, the ends of calls among them.
    pub rows: Vec<usize>,
    /// Row-major, `rows.len() * vocab`, all finite.
    pub logits: Vec<f32>,
    /// Size of the quantization noise of what computes them, by row.
    pub logits_noise: Vec<f32>,
    /// Size of what fp32 rounding changes in them, by row.
    pub logits_floor: Vec<f32>,
    /// How far each of some runs of the eager model with fp32 rounding is from the one without, by run and row: KL, nats.
    pub floor_kl: Vec<f32>,
    /// The same: largest difference of a logit.
    pub floor_diff: Vec<f32>,
    /// Tokens of the vocabulary.
    pub vocab: usize,
}

/// One kind of boundary: every layer, every token.
#[derive(Debug)]
pub struct Values {
    /// Which.
    pub boundary: Boundary,
    /// Floats of a token.
    pub width: usize,
    /// `[layers, tokens, width]`.
    pub values: Vec<f32>,
    /// Size of the block's quantization noise, `[layers, tokens]`; empty where nothing is quantized.
    pub noise: Vec<f32>,
    /// Size of what fp32 rounding changes in the block, `[layers, tokens]`; empty where nothing is quantized.
    pub floor: Vec<f32>,
    tokens: usize,
}

impl Values {
    /// A layer's values for some tokens, row-major.
    pub fn of(&self, layer: usize, first: usize, count: usize) -> &[f32] {
        let begin = (layer * self.tokens + first) * self.width;
        self.values.get(begin..begin + count * self.width).unwrap_or_default()
    }

    /// Sizes of the quantization noise and of the floor in a layer at a token.
    pub fn sizes_of(&self, layer: usize, token: usize) -> (f64, f64) {
        let at = |sizes: &[f32]| sizes.get(layer * self.tokens + token).copied().map_or(0.0, f64::from);
        (at(&self.noise), at(&self.floor))
    }

    fn parse(
        file: &SafeTensors<'_>,
        (boundary, noisy): (Boundary, bool),
        tokens: usize,
    ) -> Result<Self, String> {
        let name = boundary.as_str();
        let view = tensor(file, name)?;
        let [layers, of, width] = view.shape() else {
            return Err(format!("{name}: got {:?}, expected [layers, tokens, width]", view.shape()));
        };
        if *of != tokens || *layers == 0 || *width == 0 {
            return Err(format!(
                "{name}: got {:?}, expected {tokens} tokens of at least one layer",
                view.shape()
            ));
        }
        let sizes = |kind: &str| match noisy {
            true => shaped(file, &format!("{name}_{kind}"), &[*layers, tokens]),
            false => Ok(Vec::new()),
        };
        let (noise, floor) = (sizes("noise")?, sizes("floor")?);
        Ok(Self { boundary, width: *width, values: floats(name, &view)?, noise, floor, tokens })
    }

    fn layers(&self) -> usize {
        self.values.len() / (self.width * self.tokens)
    }
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
        let text = tokens("tokens", &tensor(&file, "tokens")?)?;
        let calls = places(&file, "calls")?;
        let fed: usize = calls.iter().fold(0, |sum, count| sum.saturating_add(*count));
        if text.is_empty() || fed != text.len() || calls.contains(&0) {
            return Err(format!("calls: got {calls:?}, expected pieces of {} tokens", text.len()));
        }
        if calls.len() < 2 || calls.last() != Some(&1) {
            return Err(format!("calls: got {calls:?}, expected a prompt and single steps"));
        }
        let boundaries = BOUNDARIES.map(|kind| Values::parse(&file, kind, text.len()));
        let boundaries = boundaries.into_iter().collect::<Result<Vec<_>, _>>()?;
        let layers = boundaries.first().map_or(0, Values::layers);
        if let Some(other) = boundaries.iter().find(|it| it.layers() != layers) {
            let name = other.boundary.as_str();
            return Err(format!("{name}: got {} layers, expected {layers}", other.layers()));
        }
        let rows = places(&file, "logit_rows")?;
        let mut ends = calls.iter().scan(0, |end, count| {
            *end += count;
            Some(*end - 1)
        });
        let ascending = rows.windows(2).all(|pair| pair.first() < pair.last());
        if !ascending
            || rows.last().is_none_or(|last| *last >= text.len())
            || !ends.all(|end| rows.contains(&end))
        {
            return Err(format!("logit_rows: got {rows:?}, expected places that end the calls {calls:?}"));
        }
        let view = tensor(&file, "logits")?;
        let [found, vocab] = view.shape() else {
            return Err(format!("logits: got {:?}, expected [rows, vocabulary]", view.shape()));
        };
        if *found != rows.len() || *vocab == 0 {
            return Err(format!("logits: got {found} rows of {vocab}, expected {} rows", rows.len()));
        }
        let floor = tensor(&file, "floor")?;
        let (kinds, runs) = match floor.shape() {
            [2, runs, of] if *runs > 0 && *of == rows.len() => (floats("floor", &floor)?, *runs),
            other => return Err(format!("floor: got {other:?}, expected [2, runs, {}]", rows.len())),
        };
        let (floor_kl, floor_diff) = kinds.split_at(runs * rows.len());
        Ok(Self {
            layers,
            boundaries,
            logits: floats("logits", &view)?,
            logits_noise: shaped(&file, "logits_noise", &[rows.len()])?,
            logits_floor: shaped(&file, "logits_floor", &[rows.len()])?,
            floor_kl: floor_kl.to_vec(),
            floor_diff: floor_diff.to_vec(),
            vocab: *vocab,
            tokens: text,
            calls,
            rows,
        })
    }

    /// Whether a model can be fed all of it: a reference of another model is a mistake in the call, not a failure of the model.
    ///
    /// # Errors
    /// A message that says what does not fit.
    pub fn fits(&self, vocab: u32, window: usize, prefill_max: usize) -> Result<(), String> {
        if self.vocab != vocab as usize {
            return Err(format!("got rows of {} logits, expected the model's {vocab}", self.vocab));
        }
        if let Some(token) = self.tokens.iter().find(|token| **token >= vocab) {
            return Err(format!("got token {token}, expected less than {vocab}"));
        }
        let (prompt, tokens) = (self.prompt().len(), self.tokens.len());
        if prompt > prefill_max || tokens > window {
            return Err(format!(
                "got {prompt} prompt tokens and {tokens} in all, expected at most {prefill_max} and {window}"
            ));
        }
        Ok(())
    }

    /// The tokens before the single steps at the end.
    pub fn prompt(&self) -> &[u32] {
        let steps = self.calls.iter().rev().take_while(|count| **count == 1).count();
        // A text of nothing but steps begins with one that is the prompt.
        let steps = steps.min(self.tokens.len().saturating_sub(1));
        self.tokens.get(..self.tokens.len() - steps).unwrap_or_default()
    }

    /// Logits after a token, if they were recorded.
    pub fn logits_after(&self, token: usize) -> Option<(usize, &[f32])> {
        let row = self.rows.binary_search(&token).ok()?;
        Some((row, self.logits.get(row * self.vocab..(row + 1) * self.vocab)?))
    }
}

/// Floats of exactly this shape.
fn shaped(file: &SafeTensors<'_>, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
    let view = tensor(file, name)?;
    if view.shape() != shape {
        return Err(format!("{name}: got {:?}, expected {shape:?}", view.shape()));
    }
    floats(name, &view)
}

fn places(file: &SafeTensors<'_>, name: &str) -> Result<Vec<usize>, String> {
    Ok(tokens(name, &tensor(file, name)?)?.into_iter().map(|place| place as usize).collect())
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

    /// A whole file of one layer, with one tensor replaced.
    fn file(replaced: &str, shape: &[usize], ids: &[i64], fill: f32) -> Vec<u8> {
        let le = |ids: &[i64]| ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<_>>();
        let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = vec![
            ("tokens".into(), Dtype::I64, vec![4], le(&[5, 6, 7, 8])),
            ("calls".into(), Dtype::I64, vec![3], le(&[2, 1, 1])),
            ("logit_rows".into(), Dtype::I64, vec![3], le(&[1, 2, 3])),
        ];
        let mut add = |name: String, shape: &[usize], fill: f32| {
            let count = shape.iter().product::<usize>();
            let data = (0..count).flat_map(|i| (fill + i as f32).to_le_bytes()).collect();
            tensors.push((name, Dtype::F32, shape.to_vec(), data));
        };
        for (boundary, noisy) in BOUNDARIES {
            add(boundary.as_str().to_owned(), &[1, 4, 2], 0.0);
            if noisy {
                add(format!("{}_noise", boundary.as_str()), &[1, 4], 0.0);
                add(format!("{}_floor", boundary.as_str()), &[1, 4], 4.0);
            }
        }
        for (name, shape) in
            [("logits", &[3, 2][..]), ("logits_noise", &[3]), ("logits_floor", &[3]), ("floor", &[2, 2, 3])]
        {
            add(name.to_owned(), shape, 0.0);
        }
        if !shape.is_empty() {
            add(replaced.to_owned(), shape, fill);
        } else if !ids.is_empty() {
            tensors.push((replaced.to_owned(), Dtype::I64, vec![ids.len()], le(ids)));
        }
        let newest = tensors.len() - 1;
        let kept = tensors.iter().enumerate().filter(|(at, it)| it.0 != replaced || *at == newest);
        let views: Vec<_> =
            kept.map(|(_, it)| (it.0.clone(), TensorView::new(it.1, it.2.clone(), &it.3).unwrap())).collect();
        safetensors::serialize(views, None).unwrap()
    }

    #[test]
    fn reads_what_the_worker_writes() {
        let it = Reference::parse(&file("", &[], &[], 0.0)).unwrap();
        assert_eq!((it.tokens.as_slice(), it.prompt()), (&[5, 6, 7, 8][..], &[5, 6][..]));
        assert_eq!((it.layers, it.vocab, it.calls.as_slice()), (1, 2, &[2, 1, 1][..]));
        assert_eq!(it.boundaries[2].of(0, 1, 2), [2.0, 3.0, 4.0, 5.0]);
        assert_eq!(it.boundaries[2].sizes_of(0, 3), (3.0, 7.0));
        assert_eq!(it.boundaries[4].sizes_of(0, 3), (0.0, 0.0), "attention quantizes nothing");
        assert_eq!(it.logits_after(2), Some((1, &[2.0, 3.0][..])));
        assert_eq!(it.logits_after(0), None);
        assert_eq!((it.floor_kl.len(), it.floor_diff[0]), (6, 6.0));
    }

    #[test]
    fn refuses_what_does_not_fit() {
        for (bytes, expected) in [
            (file("tokens", &[], &[-1, 2, 3, 4], 0.0), "got -1, expected a token id"),
            (file("calls", &[], &[2, 1], 0.0), "expected pieces of 4 tokens"),
            (file("calls", &[], &[4, 0], 0.0), "expected pieces of 4 tokens"),
            (file("calls", &[], &[2, 2], 0.0), "expected a prompt and single steps"),
            (file("query", &[1, 3, 2], &[], 0.0), "query: got [1, 3, 2], expected 4 tokens"),
            (file("query", &[2, 4, 2], &[], 0.0), "query_noise: got [1, 4], expected [2, 4]"),
            (file("value_floor", &[1, 3], &[], 0.0), "value_floor: got [1, 3], expected [1, 4]"),
            (file("logits_floor", &[2], &[], 0.0), "logits_floor: got [2], expected [3]"),
            (file("attention", &[2, 4, 2], &[], 0.0), "attention: got 2 layers, expected 1"),
            (file("key", &[1, 4, 2], &[], f32::NAN), "key: got no finite number at 0"),
            (file("logit_rows", &[], &[1, 3, 2], 0.0), "logit_rows: got [1, 3, 2]"),
            (file("logit_rows", &[], &[0, 1, 2], 0.0), "expected places that end the calls"),
            (file("logits", &[2, 2], &[], 0.0), "logits: got 2 rows of 2, expected 3 rows"),
            (file("floor", &[2, 3], &[], 0.0), "floor: got [2, 3], expected [2, runs, 3]"),
            (file("value", &[], &[], 0.0), "tensor value"),
            (vec![1, 2, 3], "header"),
        ] {
            let error = Reference::parse(&bytes).unwrap_err();
            assert!(error.to_lowercase().contains(&expected.to_lowercase()), "{error}, expected {expected}");
        }
    }
}
