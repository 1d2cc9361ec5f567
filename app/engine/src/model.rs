//! A loaded model: its bytes, its metadata and the contract of its `forward` method.
//!
//! **Invariant:** a [`Model`] exists only if its program takes tokens `i64 [1, n]` and a position `i64 [1]`
//! and yields logits `f32 [.., vocabulary]`; so a session can feed it without looking at it again.

use std::collections::BTreeMap;

use model_assets::evidence::PackedWeights;
use model_assets::limits::{SEQ_LEN_TOKENS_MAX, VOCAB_ROWS_MAX};

use crate::bytes::{Mapped, ModelBytes};
use crate::error::{Error, Result};
use crate::ffi::{BackendOption, Event, Handle, Probe, Record, TensorInfo, Value};
use crate::packed::{self, Held, Packing};
use crate::runtime::Live;

/// Most values that one metadata method may return (stop tokens are the longest list in use).
const METADATA_VALUES_MAX: usize = 64;
/// Most methods whose values are read.
const METHODS_MAX: usize = 64;

/// How to load a model.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Load-time options of backends.
    pub backend: Vec<BackendOption>,
    /// What to record while it runs.
    pub record: Record,
    /// Where packed weights go.
    pub packing: Packing,
}

/// Values of a program's metadata methods, by method name.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metadata(BTreeMap<String, Vec<Value>>);

impl Metadata {
    /// All of them.
    pub fn values(&self) -> &BTreeMap<String, Vec<Value>> {
        &self.0
    }

    /// The one integer of a method, if the program has the method.
    ///
    /// # Errors
    /// When it returns something else.
    pub fn int(&self, name: &str) -> Result<Option<i64>> {
        match self.0.get(name).map(Vec::as_slice) {
            None => Ok(None),
            Some([Value::Int(value)]) => Ok(Some(*value)),
            Some(other) => Err(contract(name, format!("{other:?}"), "one integer")),
        }
    }

    /// The truth value of a method, if the program has the method.
    ///
    /// # Errors
    /// When it returns something else.
    pub fn flag(&self, name: &str) -> Result<Option<bool>> {
        match self.0.get(name).map(Vec::as_slice) {
            None => Ok(None),
            Some([Value::Bool(value)]) => Ok(Some(*value)),
            Some(other) => Err(contract(name, format!("{other:?}"), "one truth value")),
        }
    }

    /// The integers of a method as token ids below `vocab`; empty when the program lacks the method.
    ///
    /// # Errors
    /// When it returns something else.
    pub fn tokens(&self, name: &str, vocab: u32) -> Result<Vec<u32>> {
        let values = self.0.get(name).map(Vec::as_slice).unwrap_or_default();
        values
            .iter()
            .map(|value| match value {
                Value::Int(id) => u32::try_from(*id).ok().filter(|id| *id < vocab),
                _ => None,
            })
            .collect::<Option<_>>()
            .ok_or_else(|| contract(name, format!("{values:?}"), &format!("token ids below {vocab}")))
    }
}

/// A loaded model.
#[derive(Debug)]
pub struct Model {
    // Before `bytes` and the packed file: fields drop in order, and the handle reads both until it is gone.
    handle: Handle,
    bytes: Mapped,
    _packed: Option<Held>,
    packed_weights: Option<PackedWeights>,
    _live: Live,
    metadata: Metadata,
    vocab: u32,
    context: usize,
    prefill_max: usize,
    bos: Option<u32>,
    eos: Vec<u32>,
}

impl Model {
    /// Loads a program and its `forward` method, and checks that a session can run it.
    ///
    /// # Errors
    /// When the bytes cannot be mapped or are misaligned, the runtime refuses them, or the program is no
    /// language model of this contract.
    pub fn load(bytes: ModelBytes, options: &LoadOptions) -> Result<Self> {
        let bytes = bytes.map()?;
        // Locals drop in reverse: an error below frees the handle before it stops counting as live, and before the
        // packed file that it reads is let go.
        let (packed, packed_weights, live, mut handle);
        let mut load = |extra: &[BackendOption]| load_handle(&bytes, options, extra);
        ((handle, live), packed, packed_weights) = match &options.packing {
            Packing::Heap => (load(&[])?.0, None, None),
            Packing::Kept(cache) => {
                let (loaded, file, found) = packed::load(cache, &bytes, &mut load)?;
                (loaded, file, Some(found))
            }
            Packing::Scratch(dir) => packed::load_once(dir, &bytes, &mut load)?,
        };
        let metadata = read_metadata(&mut handle)?;
        let (inputs, outputs) =
            handle.signature().map_err(Error::runtime("read the signature of forward"))?;
        let prefill_max = check_inputs(&inputs)?;
        let vocab = check_outputs(&outputs)?;
        let context = context_length(&metadata)?;
        if let Some(declared) = metadata.int("get_vocab_size")?
            && declared != i64::from(vocab)
        {
            return Err(contract("get_vocab_size", declared, &format!("{vocab}, the width of the logits")));
        }
        if metadata.flag("use_kv_cache")? == Some(false) {
            return Err(contract("use_kv_cache", false, "a program with a key/value cache"));
        }
        Ok(Self {
            vocab,
            context,
            prefill_max: prefill_max.min(context),
            bos: metadata.tokens("get_bos_id", vocab)?.first().copied(),
            eos: metadata.tokens("get_eos_ids", vocab)?,
            handle,
            bytes,
            _packed: packed,
            packed_weights,
            _live: live,
            metadata,
        })
    }

    /// The very bytes that run.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// Lets the system take back the file pages that loading touched: the backend has packed its own copy of
    /// the weights by then. Says whether the system agreed.
    pub fn release_pages(&self) -> bool {
        self.bytes.release_pages()
    }

    /// [`Self::release_pages`] where it is cheap: pages of a mapped file come back from the page cache, those of a binary
    /// would be read from the disk again.
    pub(crate) fn release_mapped(&self) {
        if matches!(self.bytes, Mapped::File(_)) {
            self.bytes.release_pages();
        }
    }

    /// What became of the packed-weights cache when the model was loaded; nothing when none was asked for, or when a file for this
    /// once was used as asked.
    pub fn packed_weights(&self) -> Option<&PackedWeights> {
        self.packed_weights.as_ref()
    }

    /// The program's metadata.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Size of the vocabulary: logits per position.
    pub fn vocab(&self) -> u32 {
        self.vocab
    }

    /// Size of the context window in tokens.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Most tokens that one call takes.
    pub fn prefill_max(&self) -> usize {
        self.prefill_max
    }

    /// The token that starts a text, if the program names one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The tokens that end a reply.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// Time per operator so far; empty unless loaded with [`Record::Time`].
    pub fn profile(&self) -> Vec<Event> {
        self.handle.profile()
    }

    /// Forgets the recorded times.
    pub fn profile_reset(&mut self) {
        self.handle.profile_reset();
    }

    /// Runs `tokens`, already checked against the vocabulary, at `position`; a probe sees what is computed on the way.
    pub(crate) fn forward(
        &mut self,
        tokens: &[i64],
        position: usize,
        probe: Option<Probe<'_>>,
    ) -> Result<&[f32]> {
        // A context is below SEQ_LEN_TOKENS_MAX, so the position always fits.
        let position = i64::try_from(position).unwrap_or(i64::MAX);
        let vocab = self.vocab as usize;
        let logits = match probe {
            None => self.handle.forward(tokens, position),
            Some(probe) => self.handle.forward_probed(tokens, position, probe),
        };
        let logits = logits.map_err(Error::runtime("run forward"))?;
        if logits.len() == vocab {
            Ok(logits)
        } else {
            Err(contract("logits of forward", logits.len(), &format!("{vocab}, the last token's alone")))
        }
    }
}

/// Loads a program of any signature and runs its `forward` once, on inputs made up from their declared types: its outputs
/// as bytes, of which more than a mebibyte is left out.
///
/// For studies of programs. An app has no use for it: nothing here is checked against the contract of a [`Model`].
///
/// # Errors
/// When the bytes cannot be mapped or are misaligned, or the runtime refuses to load or to run them.
pub fn call(bytes: ModelBytes) -> Result<Vec<u8>> {
    const OUTPUT_BYTES_MAX: usize = 1 << 20;
    let bytes = bytes.map()?;
    // Dropped in reverse: the handle before it stops counting as live, and both before the bytes.
    let (_live, mut handle);
    ((handle, _live), _) = load_handle(&bytes, &LoadOptions::default(), &[])?;
    handle.call(OUTPUT_BYTES_MAX).map_err(Error::runtime("run forward"))
}

/// Loads a program over `bytes`, which the caller keeps until the handle is dropped; also returns the runtime's complaints.
fn load_handle(
    bytes: &Mapped,
    options: &LoadOptions,
    extra: &[BackendOption],
) -> Result<((Handle, Live), String)> {
    let backend = [options.backend.as_slice(), extra].concat();
    // A pair drops in order: the handle is freed before it stops counting as live.
    #[expect(unsafe_code, reason = "only here are a handle and its bytes tied together")]
    let (live, (handle, complaints)) = Live::while_loading(|| {
        // SAFETY: `load` keeps `bytes` beside the handle, its memory stays in place (a mapping or a static), and the
        // handle drops first.
        unsafe { Handle::load(bytes.as_slice(), &backend, options.record) }
            .map_err(Error::runtime("load the model"))
    })?;
    Ok(((handle, live), complaints))
}

fn contract(what: impl ToString, got: impl ToString, expected: &str) -> Error {
    Error::Contract { what: what.to_string(), got: got.to_string(), expected: expected.to_owned() }
}

/// Reads every method but `forward`. One that takes inputs or computes something is no metadata; it is not run.
fn read_metadata(handle: &mut Handle) -> Result<Metadata> {
    let mut metadata = Metadata::default();
    let methods = handle.methods();
    if methods.len() > METHODS_MAX {
        return Err(contract("methods", methods.len(), &format!("at most {METHODS_MAX}")));
    }
    for name in methods.iter().filter(|name| name.as_bytes() != b"forward") {
        let text = name.to_string_lossy().into_owned();
        match handle.metadata(name, METADATA_VALUES_MAX) {
            Ok(values) => _ = metadata.0.insert(text, values),
            Err(failure) => return Err(contract(format!("method {text}"), failure, "constant values")),
        }
    }
    Ok(metadata)
}

fn check_inputs(inputs: &[TensorInfo]) -> Result<usize> {
    let expected = "tokens i64 [1, n] and a position i64 [1]";
    let wrong = || contract("inputs of forward", describe(inputs), expected);
    let [tokens, position] = inputs else { return Err(wrong()) };
    if tokens.scalar_type != TensorInfo::LONG || position.scalar_type != TensorInfo::LONG {
        return Err(wrong());
    }
    match (tokens.sizes(), position.sizes()) {
        ([1, most], [1]) if *most >= 1 => Ok(usize::try_from(*most).unwrap_or(usize::MAX)),
        _ => Err(wrong()),
    }
}

fn check_outputs(outputs: &[TensorInfo]) -> Result<u32> {
    let expected = "logits f32 [1, vocabulary]";
    let wrong = || contract("outputs of forward", describe(outputs), expected);
    let [logits] = outputs else { return Err(wrong()) };
    // [1, V], or [1, 1, V] as some exporters have it; more than one row would mean logits of every token.
    let ([1, vocab] | [1, 1, vocab], TensorInfo::FLOAT) = (logits.sizes(), logits.scalar_type) else {
        return Err(wrong());
    };
    u32::try_from(*vocab).ok().filter(|vocab| (1..=VOCAB_ROWS_MAX).contains(vocab)).ok_or_else(wrong)
}

fn describe(tensors: &[TensorInfo]) -> String {
    let one = |info: &TensorInfo| match info.scalar_type {
        -1 => "no tensor".to_owned(),
        TensorInfo::LONG => format!("i64 {:?}", info.sizes()),
        TensorInfo::FLOAT => format!("f32 {:?}", info.sizes()),
        other => format!("scalar type {other} {:?}", info.sizes()),
    };
    let list: Vec<_> = tensors.iter().map(one).collect();
    if list.is_empty() { "none".to_owned() } else { list.join(", ") }
}

fn context_length(metadata: &Metadata) -> Result<usize> {
    let name = "get_max_context_len";
    let declared = match metadata.int(name)? {
        Some(value) => Some(value),
        None => metadata.int("get_max_seq_len")?,
    };
    let most = i64::from(SEQ_LEN_TOKENS_MAX);
    match declared {
        Some(value) if (2..=most).contains(&value) => Ok(usize::try_from(value).unwrap_or(usize::MAX)),
        other => Err(contract(
            name,
            other.map_or("nothing".to_owned(), |value| value.to_string()),
            &format!("2 to {most} (or get_max_seq_len)"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use camino::Utf8Path;

    #[test]
    fn any_program_is_called_on_made_up_inputs() {
        let path =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../model-assets/models/tiny/tiny-int8-seq512.pte");
        let bytes = || ModelBytes::open(Utf8Path::new(path)).expect("run: cargo xtask export");
        let outputs = call(bytes()).unwrap();
        // Kind, dtype and sizes, then a logit of four bytes for each of the vocabulary.
        assert_eq!(outputs.len(), 4 + 4 + 2 * 4 + 1024 * 4);
        assert_eq!(call(bytes()).unwrap(), outputs);
        let cut = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(cut.path(), [0; 64]).unwrap();
        let cut = ModelBytes::open(Utf8Path::from_path(cut.path()).unwrap()).unwrap();
        assert!(matches!(call(cut), Err(Error::Runtime { .. })));
    }

    #[test]
    fn what_the_runtime_refuses_is_an_error_and_the_model_still_runs() {
        // A session lets none of these through; the runtime and our operators must hold all the same.
        let path =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../model-assets/models/tiny/tiny-int8-seq512.pte");
        let bytes = ModelBytes::open(Utf8Path::new(path)).expect("run: cargo xtask export");
        let mut model = Model::load(bytes, &LoadOptions::default()).unwrap();
        let expected = model.forward(&[1, 2, 3], 0, None).unwrap().to_vec();
        for (count, position) in
            [(1, 512), (2, 511), (513, 0), (0, 0), (1, usize::MAX), (1, 1 << 40), (512, 1)]
        {
            let result = model.forward(&vec![1; count], position, None).map(<[f32]>::to_vec);
            assert!(matches!(result, Err(Error::Runtime { .. })), "{count} at {position}: {result:?}");
            assert_eq!(model.forward(&[1, 2, 3], 0, None).unwrap(), expected);
        }
    }
}
