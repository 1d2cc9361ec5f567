//! What a model must prove: which evidence a profile demands, and the thresholds by which each kind is judged.

use serde::{Deserialize, Serialize};

use crate::eq::ItemSet;

/// Evidence demanded per profile, on top of the static proof that every build demands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Demands {
    /// For dev builds.
    pub dev: Vec<EvidenceKind>,
    /// For release builds.
    pub release: Vec<EvidenceKind>,
}

/// Kinds of measured evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum EvidenceKind {
    /// Loads and runs with finite logits.
    Load,
    /// Logits agree with the eager quantized model.
    Parity,
    /// Speed and memory were measured.
    Benchmark,
    /// The EQ test was passed.
    Eq,
    /// The grammar of the model's world accepts its replies.
    Quality,
}

impl EvidenceKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Load, Self::Parity, Self::Benchmark, Self::Eq, Self::Quality];

    /// The name used in files and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Parity => "parity",
            Self::Benchmark => "benchmark",
            Self::Eq => "eq",
            Self::Quality => "quality",
        }
    }
}

/// What parity must show beyond what it always must: the bounds on blocks follow from the scheme, those end to end from the
/// floor that the eager model measures (see [`crate::evidence::Parity`]). A recipe can only be stricter.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ParityLimits {
    /// Largest absolute logit difference, end to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_abs_diff_max: Option<f64>,
    /// Largest mean KL divergence, end to end, nats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_kl_max: Option<f64>,
    /// What held-out texts must show beside that.
    #[serde(default)]
    pub heldout: HeldoutLimits,
}

/// Thresholds on held-out texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct HeldoutLimits {
    /// Largest perplexity: a model that does not know its language is not helped by agreeing with itself.
    pub perplexity_max: f64,
    /// Largest perplexity relative to the eager model before quantization.
    pub perplexity_ratio_max: f64,
    /// Largest mean KL divergence from the eager model before quantization, nats.
    pub fp32_mean_kl_max: f64,
    /// Smallest share of positions with that model's arg-max, 0 to 1.
    pub fp32_top1_agreement_min: f64,
    /// Largest logit difference between a text in one prefill and the same text step by step.
    pub prefill_step_diff_max: f64,
}

impl Default for HeldoutLimits {
    /// Loose enough for int8 of any size; a recipe that knows its model is stricter.
    fn default() -> Self {
        Self {
            perplexity_max: 100.0,
            perplexity_ratio_max: 1.05,
            fp32_mean_kl_max: 0.05,
            fp32_top1_agreement_min: 0.85,
            prefill_step_diff_max: 0.5,
        }
    }
}

/// EQ test thresholds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct EqLimits {
    /// Smallest score, 0 to 100.
    pub score_min: f64,
    /// Which items are asked.
    #[serde(default)]
    pub items: ItemSet,
}

/// Benchmark bounds. Never a time: another machine must come to the same verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct BenchmarkLimits {
    /// Largest resident memory of a process that loads and runs the model, bytes.
    pub peak_rss_bytes_max: u64,
    /// Smallest ratio of the fastest prefill to the slowest decode: below 1 a prompt goes through token by token.
    pub prefill_over_decode_min: f64,
}

impl Default for BenchmarkLimits {
    /// What a phone with 8 GB leaves to one app.
    fn default() -> Self {
        Self { peak_rss_bytes_max: 4_000_000_000, prefill_over_decode_min: 1.5 }
    }
}

/// Quality bounds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct QualityLimits {
    /// Smallest share of accepted replies, 0 to 1.
    pub acceptance_min: f64,
    /// Smallest ratio of that share to the eager models', 0 to 1.
    pub acceptance_ratio_min: f64,
}
