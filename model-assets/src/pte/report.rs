//! What the verifier answers: findings, each with its id, place, what was got and what was expected.

use std::fmt;

use serde::{Deserialize, Serialize};

pub use crate::ledger::Severity;

use super::admitted::Admitted;
use super::check_id::CheckId;
use super::limits;
use super::summary::Summary;

/// One thing that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// The check that found it.
    pub id: CheckId,
    /// Whether it stops the file.
    pub severity: Severity,
    /// Where: `plan forward / value 12 / delegate 3`.
    pub location: String,
    /// What the file has.
    pub got: String,
    /// What it should have.
    pub expected: String,
    /// What is wrong, as a fragment.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, location, got, expected, message, .. } = self;
        write!(f, "{id} {location}: {message}: got {got}, expected {expected}")
    }
}

/// The verdict on one file.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    /// Everything found, at most [`limits::FINDINGS_MAX`] per severity, in the order found.
    pub findings: Vec<Finding>,
    /// Findings beyond that number.
    pub findings_dropped: u64,
    /// What the file holds; absent when the program could not be read.
    pub summary: Option<Summary>,
    /// What is called, as patterns: kinds, dtypes and ranks of the arguments, and the numbers that are no sizes.
    #[serde(skip)]
    pub calls: Admitted,
    /// SHA-256 of the whole file; present at [`super::Level::Hash`] unless reading failed.
    pub sha256: Option<[u8; 32]>,
    #[serde(skip)]
    rejects: u64,
    #[serde(skip)]
    warns: u64,
}

impl Report {
    /// Whether nothing rejects the file.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        self.rejects == 0
    }

    /// The findings that reject the file.
    pub fn rejects(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.severity == Severity::Reject)
    }

    /// The findings that only warn.
    pub fn warnings(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.severity == Severity::Warn)
    }

    /// Whether the check fired, at any severity.
    #[must_use]
    pub fn has(&self, id: CheckId) -> bool {
        self.findings.iter().any(|finding| finding.id == id)
    }

    pub(super) fn reject(
        &mut self,
        id: CheckId,
        at: &Place<'_>,
        message: impl Into<String>,
        got: impl fmt::Display,
        expected: impl fmt::Display,
    ) {
        self.add(Severity::Reject, id, at, message, got, expected);
    }

    pub(super) fn warn(
        &mut self,
        id: CheckId,
        at: &Place<'_>,
        message: impl Into<String>,
        got: impl fmt::Display,
        expected: impl fmt::Display,
    ) {
        self.add(Severity::Warn, id, at, message, got, expected);
    }

    /// Rejects when a promise was made about it, otherwise warns.
    pub(super) fn add(
        &mut self,
        severity: Severity,
        id: CheckId,
        at: &Place<'_>,
        message: impl Into<String>,
        got: impl fmt::Display,
        expected: impl fmt::Display,
    ) {
        let seen = match severity {
            Severity::Reject => &mut self.rejects,
            Severity::Warn => &mut self.warns,
        };
        *seen = seen.saturating_add(1);
        // The cap is per severity, so that a flood of warnings cannot hide the rejection.
        if *seen > limits::FINDINGS_MAX as u64 {
            self.findings_dropped = self.findings_dropped.saturating_add(1);
            return;
        }
        self.findings.push(Finding {
            id,
            severity,
            location: at.to_string(),
            got: shorten(got.to_string()),
            expected: shorten(expected.to_string()),
            message: message.into(),
        });
    }
}

/// Text from the file goes into messages: keep it printable and short.
fn shorten(text: String) -> String {
    const CHARS_MAX: usize = 200;
    if text.chars().count() <= CHARS_MAX && !text.chars().any(char::is_control) {
        return text;
    }
    let mut short: String = text.chars().take(CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().count() > CHARS_MAX {
        short.push('…');
    }
    short
}

/// A place in the file, built on the stack and only turned into text when something is wrong there.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    up: Option<&'a Place<'a>>,
    what: &'a str,
    id: PlaceId<'a>,
}

#[derive(Clone, Copy)]
enum PlaceId<'a> {
    None,
    Index(usize),
    Name(&'a str),
}

impl<'a> Place<'a> {
    pub(super) const fn root(what: &'a str) -> Self {
        Self { up: None, what, id: PlaceId::None }
    }

    pub(super) const fn root_named(what: &'a str, name: &'a str) -> Self {
        Self { up: None, what, id: PlaceId::Name(name) }
    }

    pub(super) const fn root_at(what: &'a str, index: usize) -> Self {
        Self { up: None, what, id: PlaceId::Index(index) }
    }

    pub(super) const fn part(&'a self, what: &'a str) -> Self {
        Self { up: Some(self), what, id: PlaceId::None }
    }

    pub(super) const fn at(&'a self, what: &'a str, index: usize) -> Self {
        Self { up: Some(self), what, id: PlaceId::Index(index) }
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(up) = self.up {
            write!(f, "{up} / ")?;
        }
        f.write_str(self.what)?;
        match self.id {
            PlaceId::None => Ok(()),
            PlaceId::Index(index) => write!(f, " {index}"),
            PlaceId::Name(name) => write!(f, " {}", shorten(name.to_owned())),
        }
    }
}
