//! What was *measured* on a model, as opposed to what its bytes say.
//!
//! The engine binary fills these in (the proof comes from the runtime that ships), xtask writes them into
//! `manifest.json`, and the gate in `app/build.rs` demands them per profile.
//!
//! **Invariant:** nothing here is believed on its own: the manifest binds it to the digests
//! it was measured under, and a changed digest voids it.

mod answer;
mod benchmark;
mod eq;
mod grammar;
mod parity;
pub mod quality;
pub mod yardstick;

use serde::{Deserialize, Serialize};

pub use self::{
    answer::{
        Answer, AnswerRequest, Answers, Benched, EventShare, PackedWeights, Profile, Prompt, TalkRequest,
        Talked, Turn,
    },
    benchmark::{Benchmark, Energy, Machine, MemorySteps, Resident, Roofline, Speed, SweepStep},
    eq::{Eq, EqItem, Talk},
    grammar::{Acceptance, Grammar, GrammarLimits},
    parity::{Boundary, BoundaryFigures, Deviation, Divergence, Fed, Floor, LayerFigures, Parity, ROUNDING},
    quality::{Quality, QualityBounds, QualityFigures, QualityLimits, QualityWindow},
    yardstick::{Task, Yardstick, YardstickFigures, YardstickItem, YardstickLimit},
};

/// The model was loaded by the runtime and ran: a prefill, then decode steps, with finite logits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// Wall time from open to a loaded `forward` method, milliseconds.
    pub load_ms: f64,
    /// Wall time of the first prefill (includes weight packing), milliseconds.
    pub first_prefill_ms: f64,
    /// Tokens prefilled in one piece.
    pub prefill_tokens: u32,
    /// Single-token decode steps after it.
    pub decode_tokens: u32,
    /// Whether every logit seen was finite.
    pub finite: bool,
    /// Peak resident memory of the process, bytes.
    pub peak_rss_bytes: u64,
}

/// How far one way of running the `.pte` is from the recorded logits of the eager quantized model.
///
/// All figures are over `rows` teacher-forced positions times the vocabulary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ParityRun {
    /// Positions compared.
    pub rows: u32,
    /// Largest absolute logit difference.
    pub max_abs_diff: f64,
    /// Mean absolute logit difference.
    pub mean_abs_diff: f64,
    /// Mean KL divergence KL(eager ‖ pte) over positions, nats.
    pub mean_kl: f64,
    /// Share of positions where both have the same arg-max, 0 to 1.
    pub top1_agreement: f64,
}

/// What `engine check` answers: written to the response file that xtask named.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct EngineCheck {
    /// Version of the ExecuTorch runtime that ran the model, such as `1.5.1`.
    pub runtime: String,
    /// Lower-case hex SHA-256 of the `.pte` bytes that were run.
    pub pte_sha256: String,
    /// Load evidence.
    pub load: Load,
    /// Parity evidence; absent when no reference file was given.
    pub parity: Option<Parity>,
}
