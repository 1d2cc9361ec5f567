//! Grammar: for a model whose world has one, the share of sampled replies that it accepts.

use serde::{Deserialize, Serialize};

use crate::ledger::Ledger;

/// Bounds of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct GrammarLimits {
    /// Smallest share of accepted replies, 0 to 1.
    pub acceptance_min: f64,
    /// Smallest ratio of that share to the eager models', 0 to 1.
    pub acceptance_ratio_min: f64,
}

/// The same prompts answered by the model before quantization, after it, and as exported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Grammar {
    /// The eager model before quantization.
    pub fp32: Acceptance,
    /// The eager quantized model.
    pub quantized: Acceptance,
    /// The `.pte` in the engine.
    pub pte: Acceptance,
}

/// How many replies the grammar could have given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Acceptance {
    /// Replies.
    pub replies: u32,
    /// Those that the grammar accepts; one that did not end by itself is none of them.
    pub accepted: u32,
}

impl Acceptance {
    /// Share of accepted replies, 0 to 1; 0 when there are none.
    pub fn share(self) -> f64 {
        if self.replies == 0 { 0.0 } else { f64::from(self.accepted) / f64::from(self.replies) }
    }
}

impl Grammar {
    pub(crate) fn judge(&self, id: &str, limits: &GrammarLimits, ledger: &mut Ledger) {
        let (share, eager) = (self.pte.share(), self.fp32.share().max(self.quantized.share()));
        let same = self.pte.replies == self.fp32.replies && self.pte.replies == self.quantized.replies;
        let holds = same && share >= limits.acceptance_min && share >= limits.acceptance_ratio_min * eager;
        let got = format!("{:.2} % of {}, eager {:.2} %", share * 100.0, self.pte.replies, eager * 100.0);
        let expected = format!(
            "at least {:.2} %, and {:.2} of eager's",
            limits.acceptance_min * 100.0,
            limits.acceptance_ratio_min
        );
        ledger.judge(id, "accepted replies", holds, got, expected);
    }
}
