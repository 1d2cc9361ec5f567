//! Quality of a model whose world has a grammar: the share of sampled replies that the grammar accepts.

use serde::{Deserialize, Serialize};

/// The same prompts answered by the model before quantization, after it, and as exported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Quality {
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

impl Quality {
    /// Acceptance of the `.pte` over that of the eager model before quantization; 0 when that is 0.
    pub fn ratio(&self) -> f64 {
        if self.fp32.accepted == 0 { 0.0 } else { self.pte.share() / self.fp32.share() }
    }
}
