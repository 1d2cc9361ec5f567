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

/// What a build is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// A developer's build: static proof, and what the recipe demands for dev.
    Dev,
    /// A build that may reach users: real weights and all evidence.
    Release,
}

impl Profile {
    /// The name used in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Release => "release",
        }
    }
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
    /// On real text it is nearly as good as the unquantized model.
    Quality,
    /// The grammar of the model's world accepts its replies.
    Grammar,
    /// On tasks that others publish figures of it loses little.
    Yardstick,
}

impl EvidenceKind {
    /// Every kind.
    pub const ALL: [Self; 7] =
        [Self::Load, Self::Parity, Self::Benchmark, Self::Eq, Self::Quality, Self::Grammar, Self::Yardstick];

    /// The name used in files and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Parity => "parity",
            Self::Benchmark => "benchmark",
            Self::Eq => "eq",
            Self::Quality => "quality",
            Self::Grammar => "grammar",
            Self::Yardstick => "yardstick",
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
    /// Retired: blocks are compared instead of the most likely tokens. Whoever proves such a recipe is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top1_agreement_min: Option<f64>,
    /// Retired: `quality` measures more of the same. Whoever proves such a recipe is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heldout: Option<std::collections::BTreeMap<String, f64>>,
}

impl ParityLimits {
    /// Keys that older recipes have and nothing measures any more.
    pub fn retired(&self) -> Vec<&'static str> {
        let keys =
            [("top1_agreement_min", self.top1_agreement_min.is_some()), ("heldout", self.heldout.is_some())];
        keys.into_iter().filter(|(_, there)| *there).map(|(key, _)| key).collect()
    }
}

/// EQ test thresholds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct EqLimits {
    /// Smallest score, 0 to 100; without it the answers are only compared with the eager model's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score_min: Option<f64>,
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
