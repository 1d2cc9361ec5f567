//! A limit on everything that is read from outside, unit last in the name.
//!
//! The limits of the `.pte` reader itself are in [`crate::pte`].

/// Largest `recipe.toml` or `policy.toml` that is read.
pub const TOML_BYTES_MAX: u64 = 256 << 10;
/// Largest `manifest.json` that is read.
pub const MANIFEST_BYTES_MAX: u64 = 8 << 20;
/// Largest `tokenizer.json` that is read (Llama 3's is 9 MB).
pub const TOKENIZER_BYTES_MAX: u64 = 64 << 20;
/// Largest chat template that is read.
pub const TEMPLATE_BYTES_MAX: u64 = 256 << 10;
/// Longest prompt, in bytes of text: 16 for every token of the largest context window.
pub const PROMPT_BYTES_MAX: usize = 2 << 20;
/// Largest model file that any recipe may allow: room for the int8 of eight billion parameters, and below the 8 GiB that the header
/// of an archive can tell. Stores take less (`docs/mobile.md`); the policy says what a repository allows.
pub const MODEL_BYTES_MAX: u64 = 8_500_000_000;
/// Most files of a checkpoint that a recipe may pin or a hub's index may name.
pub const CHECKPOINT_FILES_MAX: usize = 512;
/// Longest name of a model or file: fits the name field of an archive's header.
pub const NAME_BYTES_MAX: usize = 96;
/// Longest name of a signer.
pub const SIGNER_CHARS_MAX: usize = 64;
/// Largest vocabulary; four times the largest in use.
pub const VOCAB_ROWS_MAX: u32 = 1 << 20;
/// Smallest vocabulary: a model of one token says nothing.
pub const VOCAB_ROWS_MIN: u32 = 2;
/// Largest context window in tokens.
pub const SEQ_LEN_TOKENS_MAX: u32 = 1 << 17;
/// Smallest context window in tokens: room for a prompt and a reply.
pub const SEQ_LEN_TOKENS_MIN: u32 = 8;
/// Most heads of a layer.
pub const HEADS_MAX: u32 = 1024;
/// Channels of a head: what the engine's attention has room for (`ENGINE_HEAD_DIM_MAX`), and whole pairs.
pub const HEAD_DIM_MAX: u32 = 256;
/// Fewest channels of a head.
pub const HEAD_DIM_MIN: u32 = 2;
/// Longest text that a model was ever trained on, or sees at once, tokens.
pub const POSITIONS_MAX: u32 = 1 << 30;
/// What no number of a model's description reaches.
pub const NUMBER_MAX: f64 = 1e12;
/// Largest seed or count in a request to the worker.
pub const COUNT_MAX: u64 = 1 << 62;
/// Most threads of the worker.
pub const WORKER_THREADS_MAX: u32 = 1024;
/// Most layers of a model.
pub const LAYERS_MAX: u32 = 1024;
/// Largest width (`dim`, `ffn`) of a model.
pub const WIDTH_MAX: u32 = 1 << 17;
/// Largest file of reference logits.
pub const REFERENCE_BYTES_MAX: u64 = 1 << 30;
/// Most files of a bundle.
pub const BUNDLE_FILES_MAX: usize = 16;
/// Most bytes of all files of a bundle: one model, its reference and some small files.
pub const BUNDLE_BYTES_MAX: u64 = MODEL_BYTES_MAX + REFERENCE_BYTES_MAX + (256 << 20);
/// Largest `model.sig` that is read.
pub const SIGNATURE_BYTES_MAX: u64 = 4 << 20;
/// Most files that a signature may name, and most paths that it may leave out.
pub const SIGNATURE_FILES_MAX: usize = 4096;
/// Most keys of `signers.toml`.
pub const SIGNERS_MAX: usize = 64;
/// Largest text of an agreement or a notice.
pub const LICENCE_BYTES_MAX: u64 = 256 << 10;
