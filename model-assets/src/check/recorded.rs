//! What a manifest says of the verdicts about itself, compared with what was found. Whoever shows a verdict derives it; the
//! record is for people who read the file, and one that says otherwise was not written by the tools.

use crate::{claim::Claim, ledger::Ledger, manifest::Manifest};

/// Compares the record with what the files say.
pub(super) fn rules(claim: &Claim, ledger: &mut Ledger) {
    let Manifest { prd_compliant, prd_reasons, checks, .. } = &claim.manifest;
    let derived = claim.manifest.prd_findings(&claim.policy);
    ledger.rule(
        "prd-compliant",
        "manifest.json",
        verdict(*prd_compliant, prd_reasons),
        verdict(derived.is_empty(), &derived),
    );
    // Nothing that failed is published.
    let failed: Vec<_> = checks.iter().filter(|check| !check.passed).map(|check| check.id.as_str()).collect();
    let got = if failed.is_empty() { "none".to_owned() } else { failed.join(", ") };
    ledger.judge("recorded-checks", "manifest.json", failed.is_empty(), got, "no check that failed");
}

fn verdict(compliant: bool, reasons: &[String]) -> String {
    let verdict = if compliant { "compliant" } else { "not compliant" };
    if reasons.is_empty() { verdict.to_owned() } else { format!("{verdict}: {}", reasons.join("; ")) }
}
