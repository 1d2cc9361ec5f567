//! The one door: [`prove`] reads a file once, and [`Proved::judge`] makes a [`Validated`] of it if what is claimed about it
//! holds; [`validate_reserve`] does so for a GGUF. There is no other way to a [`Validated`], and only a [`Validated`] is
//! published, embedded, linked or loaded.
//!
//! **Invariant:** the bytes that were checked are the bytes that come out: a [`Validated`] holds the buffer or the open file
//! that was read, and nothing here opens a path.
//!
//! **Invariant:** no check is skipped because a record says that it passed. Figures in the evidence are judged
//! here again, against the recipe.
//!
//! Deliberately absent: a constructor, a `Default`, an environment variable, or a feature that yields a
//! [`Validated`] by any other way.

#[cfg(feature = "signature")]
mod authentic;
mod judge;
mod proof;
mod recorded;
mod reserve;
mod rules;

use std::fmt;

use crate::{digest::Digest, ledger::Check, pte, recipe::Delivery};

pub use self::{
    proof::{Expectation, Proved, prove, validate},
    reserve::validate_reserve,
};
pub use crate::{
    ledger::{Finding, Severity},
    recipe::Profile,
};
#[cfg(feature = "signature")]
pub use authentic::{Authentic, refusal as signature_refusal, signed_by};

/// A model that was refused, with every reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Model name.
    pub model: String,
    /// Every finding, warnings included; at least one rejects.
    pub findings: Vec<Finding>,
    /// Every check that was made, passed or not; none where a single demand was not met.
    pub checks: Vec<Check>,
    /// The command that fixes it.
    pub hint: String,
}

impl Refusal {
    /// The findings that reject.
    pub fn reasons(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.severity == Severity::Reject)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "model `{}` is not proved", self.model)?;
        // A file of garbage fails in a hundred places; the first few tell the story.
        const SHOWN_MAX: usize = 8;
        self.reasons().take(SHOWN_MAX).try_for_each(|finding| write!(f, "\n  {finding}"))?;
        match self.reasons().count().saturating_sub(SHOWN_MAX) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}

impl std::error::Error for Refusal {}

/// A model whose bytes were checked against its claim. See the module's invariants.
#[derive(Debug)]
pub struct Validated<S, T = pte::Summary> {
    source: S,
    sha256: Digest,
    file_bytes: u64,
    delivery: Delivery,
    summary: T,
    warnings: Vec<Finding>,
    checks: Vec<Check>,
}

impl<S, T> Validated<S, T> {
    /// The very bytes or open file that were checked.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// Gives up the proof and returns the bytes.
    pub fn into_source(self) -> S {
        self.source
    }

    /// SHA-256 of the bytes.
    pub fn sha256(&self) -> Digest {
        self.sha256
    }

    /// Length of the bytes.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// [`Delivery::Embed`] or [`Delivery::Link`], `auto` resolved.
    pub fn delivery(&self) -> Delivery {
        self.delivery
    }

    /// What the bytes say.
    pub fn summary(&self) -> &T {
        &self.summary
    }

    /// Findings that do not reject.
    pub fn warnings(&self) -> &[Finding] {
        &self.warnings
    }

    /// Every check that was made, for the manifest.
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }
}

impl<T> Validated<(), T> {
    /// The verdict on these bytes, with them.
    fn with_source<S>(self, source: S) -> Validated<S, T> {
        let Self { source: (), sha256, file_bytes, delivery, summary, warnings, checks } = self;
        Validated { source, sha256, file_bytes, delivery, summary, warnings, checks }
    }
}

#[cfg(test)]
mod tests;
