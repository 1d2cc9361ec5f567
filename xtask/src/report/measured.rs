//! What was measured, kind by kind.

use model_assets::evidence::{EvidenceKind, Part};

use super::{
    Report, begin,
    html::{Page, escape},
};
use crate::{bench, evidence::eq::Transcript};

/// The section of one kind.
pub(super) fn section(page: &mut Page, report: &Report, kind: EvidenceKind) -> anyhow::Result<()> {
    begin(page, kind.as_str());
    let evidence = report.claim.manifest.evidence.as_ref();
    let Some(measured) = evidence.and_then(|evidence| evidence.get(kind)) else {
        page.text(kind.facts().absent);
        return Ok(());
    };
    for part in measured.parts(&report.claim.asked()) {
        match part {
            Part::Text(text) => page.text(text),
            Part::Cards(cards) => page.cards(&cards),
            Part::Table { caption, heads, rows } => page.table(caption, &heads, &rows),
        }
    }
    extras(page, report, kind)
}

/// What only a page has: a picture of the speeds, and the transcript of the conversation.
fn extras(page: &mut Page, report: &Report, kind: EvidenceKind) -> anyhow::Result<()> {
    let evidence = report.claim.manifest.evidence.as_ref();
    match kind {
        EvidenceKind::Benchmark => {
            if let Some(benchmark) = evidence.and_then(|evidence| evidence.benchmark.as_ref()) {
                page.raw(&format!(
                    "<div role=\"img\" aria-label=\"Speeds by case and by number of threads; the table above has the figures\">{}</div>",
                    bench::svg(benchmark)?
                ));
            }
        }
        EvidenceKind::Eq => match &report.transcript {
            Some(it) => transcript(page, it),
            None => page.text("The transcript that the evidence names is not beside the manifest."),
        },
        _ => {}
    }
    Ok(())
}

fn transcript(page: &mut Page, transcript: &Transcript) {
    page.raw("<details><summary>Transcript of the conversation</summary>");
    for turn in &transcript.talk {
        page.raw(&format!(
            "<div class=\"talk\"><p class=\"soft\">person</p><pre>{}</pre><p class=\"soft\">model</p><pre>{}</pre></div>",
            escape(&turn.said),
            escape(&turn.replied)
        ));
    }
    page.raw("</details>");
    for item in &transcript.items {
        page.raw(&format!("<details><summary>{}</summary>", escape(&item.id)));
        for (who, text) in [("asked", &item.prompt), (".pte", &item.pte), ("eager", &item.eager)] {
            page.raw(&format!("<p class=\"soft\">{who}</p><pre>{}</pre>", escape(text)));
        }
        page.raw("</details>");
    }
}
