//! What the page says, read from its text: no browser needed.

use camino::Utf8Path;
use model_assets::{
    evidence::{Eq, EqItem, Talk},
    manifest::{Evidence, EvidenceBinding},
};

use super::*;
use crate::evidence::eq::{TranscriptItem, TranscriptTurn};

const HOSTILE: &str = "</pre><script src=//evil>alert(1)</script>";

/// The committed claim of `tiny` with a hostile transcript; the exported file is not needed.
fn report() -> Report {
    let models = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../model-assets/models");
    let (mut claim, _) = ModelDir::new(models, "tiny").open().unwrap();
    claim.recipe.description = HOSTILE.to_owned();
    let items = claim.recipe.eq.items.items().unwrap();
    let bound = EvidenceBinding::current(claim.manifest.sha256, claim.bound());
    let first = items.first().map(|item| item.id.clone());
    let given = |item: &eq::Item| EqItem {
        id: item.id.clone(),
        pte: Some(item.reference),
        eager: (Some(&item.id) != first.as_ref()).then_some(item.reference),
    };
    let talk = Talk {
        turns: 10,
        tokens: 99,
        window: 512,
        prompt_tokens_max: 400,
        forgotten: 2,
        empty: 0,
        special: 0,
        looping: 0,
        same_in_a_row: 1,
    };
    claim.manifest.evidence = Some(Evidence {
        benchmark: Some(crate::bench::tests::sample()),
        eq: Some(Eq { items: items.iter().map(given).collect(), talk, transcript: Digest::of(b"") }),
        ..Evidence::none(bound)
    });
    let item = |item: &eq::Item| TranscriptItem {
        id: item.id.clone(),
        prompt: item.prompt.clone(),
        emotions: item.emotions.clone(),
        reference: item.reference,
        pte: HOSTILE.to_owned(),
        eager: "I cannot say".to_owned(),
    };
    let turn =
        TranscriptTurn { said: "hello".into(), replied: HOSTILE.into(), prompt_tokens: 5, forgotten: 0 };
    let transcript = Transcript {
        pte: claim.manifest.sha256,
        temperature: 0.01,
        items: items.iter().map(item).collect(),
        talk: vec![turn],
    };
    let refusal = Refusal {
        model: "tiny".into(),
        findings: vec![check::Finding {
            id: "evidence-quality".into(),
            severity: check::Severity::Reject,
            location: "manifest.json".into(),
            got: HOSTILE.into(),
            expected: "quality".into(),
        }],
        hint: "run: cargo xtask verify tiny --level release".into(),
        checks: vec![check("evidence-quality", false)],
    };
    // What the manifest records is not what the page shows.
    claim.manifest.checks = vec![check("made-up", true)];
    (claim.manifest.prd_compliant, claim.policy.prd.seq_len) = (true, 4096);
    let passed = vec![check("sha256", true); 21];
    let verdicts = vec![(Profile::Dev, Ok(passed)), (Profile::Release, Err(refusal))];
    Report { claim, verdicts, transcript: Some(transcript), refused: None }
}

fn check(id: &str, passed: bool) -> Check {
    Check { id: id.to_owned(), passed, got: "a".to_owned(), expected: "b".to_owned() }
}

#[test]
fn verdicts_are_derived_and_not_read_from_the_record() {
    let html = page(&report()).unwrap();
    for part in ["Checks of a dev build", "Checks of a release build", "Requirement not met: sequence length"]
    {
        assert!(html.contains(part), "{part}");
    }
    assert!(html.contains("not met") && !html.contains("made-up"));
}

#[test]
fn the_page_has_everything_that_a_release_manager_reads() {
    let html = page(&report()).unwrap();
    for part in [
        "A dev build takes this model: 21 checks passed.",
        "A release build refuses this model; run: cargo xtask verify tiny --level release",
        "✗ refused",
        "Quantization census",
        "qcint8",
        "planned by the program",
        "pp64",
        "<svg",
        "score 100.00, eager 100.00, difference +0.00 [+0.00, +0.00] over 9 of 10 items",
        "not readable",
        "small-01-loss",
        "I cannot say",
        "Conversation of 10 turns",
        "dependency lock",
        "partition",
    ] {
        assert!(html.contains(part), "{part}");
    }
    let digest = report().claim.manifest.sha256.to_string();
    assert!(html.contains(&digest));
    for (id, _) in sections() {
        assert!(
            html.contains(&format!("<h2 id=\"{id}\">")) && html.contains(&format!("href=\"#{id}\"")),
            "{id}"
        );
    }
}

#[test]
fn the_page_loads_nothing_and_runs_nothing() {
    let html = page(&report()).unwrap();
    assert!(html.contains("&lt;/pre&gt;&lt;script src=//evil&gt;"), "the words themselves are shown");
    for part in ["<script", "<link", "<img", "<iframe", "src=\"", "url(", "@import", " onload", "href=\"http"]
    {
        assert!(!html.contains(part), "{part}");
    }
    // The one address is the name of SVG's namespace, which nothing fetches.
    assert_eq!(
        html.matches("http").count(),
        html.matches("http://www.w3.org/2000/svg").count() + 1,
        "and http-equiv"
    );
    assert!(html.contains("Content-Security-Policy"));
}

#[test]
fn the_page_can_be_read_by_everybody() {
    let html = page(&report()).unwrap();
    assert!(html.starts_with("<!doctype html>\n<html lang=\"en\">"));
    assert!(html.contains("prefers-color-scheme: dark") && html.contains("name=\"viewport\""));
    assert!(html.contains("role=\"img\" aria-label="));
    let tables = html.matches("<table>").count();
    assert!(tables > 6 && html.matches("<caption>").count() == tables && html.contains("<th scope=\"col\""));
    for tag in ["main", "table", "tr", "td", "details", "summary", "pre", "p", "div", "dl", "nav", "ul", "li"]
    {
        let (open, close) = (
            html.matches(&format!("<{tag}>")).count() + html.matches(&format!("<{tag} ")).count(),
            html.matches(&format!("</{tag}>")).count(),
        );
        assert_eq!(open, close, "{tag}");
    }
}

#[test]
fn evidence_that_is_missing_is_called_missing() {
    let mut report = report();
    report.claim.manifest.evidence = None;
    report.transcript = None;
    let html = page(&report).unwrap();
    assert!(html.matches("Not measured").count() >= 4);
}

#[test]
fn what_was_refused_is_shown_with_the_bound_that_it_missed() {
    let mut report = report();
    let measured = report.claim.manifest.evidence.take().unwrap();
    let missed = |kind: &str| check::Finding {
        id: format!("evidence-{kind}"),
        severity: check::Severity::Reject,
        location: "memory".into(),
        got: "peak 9 bytes".into(),
        expected: "at most 8".into(),
    };
    let refusal = Refusal {
        model: "tiny".into(),
        findings: vec![missed("benchmark")],
        hint: String::new(),
        checks: Vec::new(),
    };
    let refused = Refused::new(&report.claim, &measured, None, Profile::Release, &refusal).unwrap();
    report.refused = Some(refused);
    let html = page(&missed::with_refused_figures(report)).unwrap();
    for part in
        ["Measured, refused on", "peak 9 bytes", "at most 8", "pp64", "Measured with what was refused"]
    {
        assert!(html.contains(part), "{part}");
    }
    assert!(html.contains("score 100.00, eager"), "the figures themselves are shown");
}

#[test]
fn answers_that_cannot_be_read_have_no_score() {
    let mut report = report();
    let evidence = report.claim.manifest.evidence.as_mut().and_then(|it| it.eq.as_mut()).unwrap();
    evidence.items.iter_mut().skip(3).for_each(|item| item.pte = None);
    let html = page(&report).unwrap();
    assert!(html.contains("readable 3 of 10 (eager 9), the score means nothing"));
    for score in ["score 100", ">100.0</td>"] {
        assert!(!html.contains(score), "no score anywhere: {score}");
    }
}
