//! What evidence is bound to: change any of it and the evidence is void.

use serde::{Deserialize, Serialize};

use crate::{digest::Digest, eq};

/// Version of the check suite. Raise it when a check becomes stricter: evidence gathered under an older
/// suite is void.
pub const SUITE_VERSION: u32 = 5;
/// Version of the ExecuTorch runtime that evidence must come from: the one the engine links.
pub const RUNTIME_VERSION: &str = "1.5.1";
/// SHA-256 of the sources of the engine's own operators, one after the other (a test of the engine names them): evidence
/// gathered with other ones is void.
pub const KERNELS_SHA256: &str = "20396ef668fa252b682ea300930e3c996a055338bcad7887588bb5db78317f31";

/// Digests of what the model was made from and is used with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Bound {
    /// Canonical digest of the recipe.
    pub recipe: Digest,
    /// Canonical digest of the policy.
    pub policy: Digest,
    /// `tokenizer.json`; absent only for random weights.
    pub tokenizer: Option<Digest>,
    /// Chat template; absent only for random weights.
    pub chat_template: Option<Digest>,
}

/// What evidence was measured on. Change any of it and the evidence is void.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct EvidenceBinding {
    /// SHA-256 of the `.pte`.
    pub pte: Digest,
    /// The files it is used with.
    pub bound: Bound,
    /// Version of the ExecuTorch runtime.
    pub runtime: String,
    /// Version of the check suite.
    pub suite: u32,
    /// Digest of the items of the EQ test and of the conversation; absent in evidence of suite 2 and older.
    #[serde(default)]
    pub items: Option<Digest>,
    /// Digest of the engine's own operators; absent in evidence that is void for this reason.
    #[serde(default)]
    pub kernels: Option<Digest>,
}

impl EvidenceBinding {
    /// The binding that evidence for these files must carry today.
    pub fn current(pte: Digest, bound: Bound) -> Self {
        let (runtime, items) = (RUNTIME_VERSION.to_owned(), Some(eq::items_digest()));
        Self { pte, bound, runtime, suite: SUITE_VERSION, items, kernels: Digest::parse(KERNELS_SHA256) }
    }
}
