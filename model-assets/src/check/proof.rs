//! The one read of a file: [`prove`] hashes and parses it, and what it found is judged as often as claims about it change.
//!
//! **Invariant:** [`Proved::judge`] reads nothing. Whatever it is asked, it answers about the bytes that [`prove`] read.

use std::ops::RangeInclusive;

use super::{Profile, Refusal, Validated, recorded, rules};
use crate::{
    claim::{self, Claim},
    digest::Digest,
    ledger::Ledger,
    manifest::Structure,
    pte::{self, ReadAt},
    recipe::Recipe,
};

/// What a file must be, whatever else is claimed about it.
#[derive(Debug, Clone)]
pub struct Expectation {
    recipe: Digest,
    expect: pte::Expect,
    /// A file of another length is not read to its end: it may be endless, as a sparse file is.
    file_bytes: RangeInclusive<u64>,
}

impl Expectation {
    /// Of a file with a manifest, which promises its length and digest.
    pub fn claimed(claim: &Claim) -> Self {
        let file_bytes = claim.manifest.file_bytes;
        Self { recipe: claim.recipe.digest(), expect: claim.expect(), file_bytes: file_bytes..=file_bytes }
    }

    /// Of a file that was just made by this recipe.
    pub fn made_by(recipe: &Recipe) -> Self {
        Self {
            recipe: recipe.digest(),
            expect: claim::expect(recipe),
            file_bytes: 0..=recipe.limits.file_bytes_max,
        }
    }
}

/// A file that was read: its digest, its structure and every finding, with the buffer or open file itself.
#[derive(Debug)]
pub struct Proved<S> {
    source: S,
    file_bytes: u64,
    recipe: Digest,
    report: pte::Report,
}

/// Runs every static check over `source`.
///
/// Reads it once, from start to end, plus the program and the delegates' graphs again; what differs between the two reads is
/// a finding.
pub fn prove<S: ReadAt>(source: S, expectation: &Expectation) -> Proved<S> {
    let Expectation { recipe, expect, file_bytes: lengths } = expectation;
    let file_bytes = source.len().unwrap_or_default();
    let level = if lengths.contains(&file_bytes) { pte::Level::Hash } else { pte::Level::Structure };
    let report = pte::verify(&source, level, expect);
    Proved { source, file_bytes, recipe: *recipe, report }
}

/// As [`prove`] and [`Proved::judge`], for a file that is judged once.
///
/// # Errors
/// The refusal with every reason and the command that fixes it.
pub fn validate<S: ReadAt>(source: S, claim: &Claim, profile: Profile) -> Result<Validated<S>, Refusal> {
    let proved = prove(source, &Expectation::claimed(claim));
    Ok(proved.verdict(claim, profile)?.with_source(proved.source))
}

impl<S> Proved<S> {
    /// The very bytes or open file that were read.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// SHA-256 of the bytes; none of a file that could not be read to its end.
    pub fn sha256(&self) -> Option<Digest> {
        self.report.sha256.map(Digest::from_bytes)
    }

    /// What was found.
    pub fn report(&self) -> &pte::Report {
        &self.report
    }

    /// Judges what is claimed about the bytes, for `profile`.
    ///
    /// # Errors
    /// The refusal with every reason and the command that fixes it.
    pub fn judge(&self, claim: &Claim, profile: Profile) -> Result<Validated<&S>, Refusal> {
        Ok(self.verdict(claim, profile)?.with_source(&self.source))
    }

    fn verdict(&self, claim: &Claim, profile: Profile) -> Result<Validated<()>, Refusal> {
        let (sha256, mut ledger) = (self.sha256(), Ledger::default());
        let Self { file_bytes, recipe, report, .. } = self;
        rules::of_claim(claim, &mut ledger);
        recorded::rules(claim, &mut ledger);
        if *recipe != claim.recipe.digest() {
            ledger.fail("proved-by", "recipe.toml", "a proof by another recipe", "one by this recipe");
        }
        for finding in &report.findings {
            let location = format!("{}: {}", finding.location, finding.message);
            ledger.push(finding.severity, finding.id.as_str(), &location, &finding.got, &finding.expected);
        }
        let rejected = report.rejects().count();
        ledger.passed_all("pte", rejected, "every check of the .pte specification");
        ledger.rule("file-size", "manifest.json", file_bytes, claim.manifest.file_bytes);
        // A file of another length has another digest, which need not be known.
        if *file_bytes == claim.manifest.file_bytes {
            ledger.rule("sha256", "manifest.json", rules::text(sha256), claim.manifest.sha256);
        }
        let structure = report.summary.as_ref().map(Structure::of);
        let same = structure.as_ref() == Some(&claim.manifest.structure);
        let got = if same { "the file's own" } else { "another structure than the file's" };
        ledger.judge("structure", "manifest.json", same, got, "the file's own");
        rules::of_profile(claim, sha256, profile, &mut ledger);
        match (ledger.rejects(), &report.summary, sha256) {
            (false, Some(summary), Some(sha256)) => Ok(Validated {
                source: (),
                sha256,
                file_bytes: *file_bytes,
                delivery: claim.delivery(*file_bytes),
                summary: summary.clone(),
                warnings: ledger.findings,
                checks: ledger.checks,
            }),
            _ => Err(Refusal {
                model: claim.recipe.name.clone(),
                hint: rules::hint(claim, profile, &ledger.findings),
                findings: ledger.findings,
                checks: ledger.checks,
            }),
        }
    }
}
