//! Limits of the GGUF reader, unit last in the name.

/// Largest head (metadata and tensor table); Llama 3's vocabulary and merges take 8 MB.
pub const HEAD_BYTES_MAX: u64 = 32 << 20;
/// Most metadata keys.
pub const KEYS_MAX: u64 = 256;
/// Most tensors: nine per layer of the deepest model, and a few.
pub const TENSORS_MAX: u64 = 9 * crate::limits::LAYERS_MAX as u64 + 8;
/// Longest key or tensor name; ggml's own limit for names is 64.
pub const NAME_BYTES_MAX: u64 = 63;
/// Longest text value: a chat template.
pub const TEXT_BYTES_MAX: u64 = crate::limits::TEMPLATE_BYTES_MAX;
/// Most elements of an array: the merges of four times the largest vocabulary in use.
pub const ELEMENTS_MAX: u64 = 1 << 22;
