//! Judges measured evidence: its figures against today's bounds, kind by kind.

use crate::{
    claim::Claim,
    evidence::{Evidence, EvidenceKind},
    ledger::Ledger,
};

/// One kind of demanded evidence: it is there, and its figures pass today's bounds.
pub(super) fn evidence(kind: EvidenceKind, evidence: &Evidence, claim: &Claim, ledger: &mut Ledger) {
    let id = format!("evidence-{}", kind.as_str());
    match evidence.get(kind) {
        Some(measured) => measured.judge(&id, &claim.asked(), ledger),
        None => ledger.fail(&id, "manifest.json", "none", kind.as_str()),
    }
}
