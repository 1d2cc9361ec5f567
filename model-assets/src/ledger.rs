//! What a check leaves behind: findings for people, verdicts for the manifest.
//!
//! Stands on the ground floor: whoever judges writes into a [`Ledger`], and whoever shows a verdict reads a [`Check`].

use std::fmt;

use serde::{Deserialize, Serialize};

/// Whether a finding stops the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth a look; the file may still ship.
    Warn,
    /// The file must not ship.
    Reject,
}

/// One thing that is wrong (or odd) with a model or with what is claimed about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check: an id of the `.pte` specification such as `C7`, or the name of a gate rule.
    pub id: String,
    /// Whether it rejects.
    pub severity: Severity,
    /// Where: `plan forward / value 12`, or the contract file.
    pub location: String,
    /// What was found.
    pub got: String,
    /// What was expected.
    pub expected: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: got {}, expected {}", self.id, self.location, self.got, self.expected)
    }
}

/// One verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Name of the check.
    pub id: String,
    /// Whether it passed.
    pub passed: bool,
    /// What was seen.
    pub got: String,
    /// What was demanded.
    pub expected: String,
}

/// Collects findings and verdicts.
#[derive(Default)]
pub struct Ledger {
    pub(crate) findings: Vec<Finding>,
    pub(crate) checks: Vec<Check>,
}

impl Ledger {
    pub(crate) fn push(&mut self, severity: Severity, id: &str, location: &str, got: &str, expected: &str) {
        let [id, location, got, expected] = [id, location, got, expected].map(str::to_owned);
        self.findings.push(Finding { id, severity, location, got, expected });
    }

    pub(crate) fn judge(
        &mut self,
        id: &str,
        location: &str,
        holds: bool,
        got: impl ToString,
        expected: impl ToString,
    ) {
        let (got, expected) = (got.to_string(), expected.to_string());
        if !holds {
            self.push(Severity::Reject, id, location, &got, &expected);
        }
        self.checks.push(Check { id: id.to_owned(), passed: holds, got, expected });
    }

    pub(crate) fn rule(&mut self, id: &str, location: &str, got: impl ToString, expected: impl ToString) {
        let (got, expected) = (got.to_string(), expected.to_string());
        self.judge(id, location, got == expected, got, expected);
    }

    pub(crate) fn fail(&mut self, id: &str, location: &str, got: impl ToString, expected: impl ToString) {
        self.judge(id, location, false, got, expected);
    }

    /// Records one verdict over many findings that were pushed already.
    pub(crate) fn passed_all(&mut self, id: &str, rejected: usize, expected: &str) {
        let got = if rejected == 0 { "all passed".to_owned() } else { format!("{rejected} findings") };
        self.checks.push(Check {
            id: id.to_owned(),
            passed: rejected == 0,
            got,
            expected: expected.to_owned(),
        });
    }

    /// Where something was rejected.
    #[cfg(test)]
    pub(crate) fn refused(self) -> Vec<String> {
        self.findings.into_iter().map(|finding| finding.location).collect()
    }

    pub(crate) fn rejects(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Reject)
    }
}
