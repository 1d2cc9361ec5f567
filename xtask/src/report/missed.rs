//! Figures that were measured and refused: the page shows them in place of recorded ones, with the bounds that they missed.

use model_assets::recipe::EvidenceKind;

use super::{Report, html::Page};

/// The report with refused figures where none stand.
pub(super) fn with_refused_figures(mut report: Report) -> Report {
    let Some(refused) = &report.refused else { return report };
    let Some(measured) = refused.evidence() else { return report };
    let manifest = &mut report.claim.manifest;
    let stands = manifest.evidence.as_ref().is_some_and(|evidence| evidence.has(EvidenceKind::Eq));
    manifest.evidence = Some(match manifest.evidence.take() {
        // Void evidence belongs to other files: it is not completed.
        Some(standing) => standing.or(measured),
        None => measured,
    });
    if !stands {
        report.transcript = refused.transcript();
    }
    report
}

/// Says of a kind of evidence that it was refused, and why.
pub(super) fn note(page: &mut Page, report: &Report, kind: EvidenceKind) {
    let Some(refused) = &report.refused else { return };
    let reasons: Vec<_> = refused.reasons.iter().filter(|reason| reason.is_of(kind)).collect();
    let when = &refused.refused;
    if !reasons.is_empty() {
        let row =
            |it: &&crate::refused::Reason| [&it.location, &it.got, &it.expected].map(String::clone).to_vec();
        let rows: Vec<_> = reasons.iter().map(row).collect();
        page.table(&format!("Measured, refused on {when}"), &["where", "got", "expected"], &rows);
    } else if refused.evidence().is_some_and(|evidence| evidence.has(kind)) {
        page.text(format!("Measured with what was refused on {when}: not recorded."));
    }
}
