//! What a recipe or a manifest promises about a file, beyond its being well formed.

use std::collections::BTreeMap;

use super::admitted::Admitted;
use super::kernels::RuntimeTable;
use super::summary::MetaValue;
pub use crate::recipe::Quantization;

/// Which operators a file may call, and how.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Operators {
    /// Any that the linked runtime has; one whose arguments the verifier cannot judge is a warning (X16).
    #[default]
    Linked,
    /// Only those whose arguments the verifier can judge (X16 rejects).
    Judged,
    /// Only calls, and nodes inside delegates, that the table has, and of those only what can be judged (O4, G12, X16).
    Admitted(&'static Admitted),
}

/// Promises to hold a file to. The default demands nothing beyond the format itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Expect {
    /// Smallest length of the file, bytes (L4).
    pub file_bytes_min: Option<u64>,
    /// Largest length of the file, bytes (L4).
    pub file_bytes_max: Option<u64>,
    /// Largest planned memory, summed over all methods, bytes (L3).
    pub planned_bytes_max: Option<u64>,
    /// SHA-256 of the whole file (N6; looked at by [`super::Level::Hash`]).
    pub sha256: Option<[u8; 32]>,
    /// Whether a method `forward` must exist (P6); without it, its absence is a warning.
    pub forward: bool,
    /// Whether control flow is refused (X14); without it, control flow is a warning.
    pub straight_line: bool,
    /// Whether an all-zero or non-finite weight tensor is refused (Q17, Q18); without it, a warning.
    pub sound_weights: bool,
    /// Quantization of delegated linears and of the embedding (QC).
    pub quantization: Option<Quantization>,
    /// Delegated linears in `forward` (QC).
    pub delegated_linears: Option<u32>,
    /// Linears of a 4-bit model that keep 8 bits, and their parameters (QC).
    pub eight_bit_linears: Option<(u32, u64)>,
    /// Of the delegated linears, those that take their input in two int8 rows (QC).
    pub two_row_linears: Option<u32>,
    /// Delegated products of unquantized weights beside the linears of a quantized model, and the most parameters that they have
    /// (QC).
    pub small_linears: Option<(u32, u64)>,
    /// Delegates that `forward` calls (D11).
    pub partitions: Option<u32>,
    /// Backend ids allowed (D1); empty allows any that `kernels` registers, or any at all without it.
    pub backends: Vec<String>,
    /// What the linked runtime can execute (O3, D1).
    pub kernels: Option<RuntimeTable>,
    /// Which of those a file may call (O4, G12, X16).
    pub operators: Operators,
    /// Smallest share of weight bytes inside delegates, 0 to 1 (D12).
    pub delegated_weight_share_min: Option<f64>,
    /// Smallest share of multiply-accumulates inside delegates, 0 to 1 (D12).
    pub delegated_mac_share_min: Option<f64>,
    /// Metadata methods that must exist (K1).
    pub metadata_required: Vec<String>,
    /// Metadata values that must be equal (K3).
    pub metadata: BTreeMap<String, MetaValue>,
    /// Vocabulary: of the tokenizer, the logits' last dimension, the embedding's rows (K3, I6).
    pub vocab: Option<u64>,
    /// Longest sequence (K3).
    pub seq_len: Option<u64>,
    /// Width of the model: the embedding's columns (K3).
    pub dim: Option<u64>,
    /// Id of the token that begins a text (K3).
    pub bos: Option<i64>,
    /// Ids of the tokens that end a text; empty demands nothing (K3).
    pub eos: Vec<i64>,
}
