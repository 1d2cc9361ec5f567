//! Each figure of the recorded evidence, spoiled alone: the kind that holds it is refused, and says where.

use super::{Ledger, judge};
use crate::{
    claim::{Claim, ClaimTexts},
    manifest::Evidence,
    recipe::EvidenceKind,
};

fn claim() -> Claim {
    Claim::parse(ClaimTexts {
        recipe: include_str!("../../models/tiny/recipe.toml"),
        policy: include_str!("../../models/policy.toml"),
        manifest: include_bytes!("../../models/tiny/manifest.json"),
        tokenizer: Some(include_bytes!("../../models/tiny/tokenizer.json")),
        chat_template: Some(include_str!("../../models/tiny/chat_template.jinja")),
    })
    .unwrap()
}

/// Where the evidence of a kind is refused after a change; empty when it passes.
fn refused(kind: EvidenceKind, spoil: impl FnOnce(&mut Evidence)) -> Vec<String> {
    let claim = claim();
    let mut evidence = claim.manifest.evidence.clone().unwrap();
    spoil(&mut evidence);
    let mut ledger = Ledger::default();
    judge::evidence(kind, &evidence, &claim, &mut ledger);
    ledger.findings.iter().for_each(|it| assert_eq!(it.id, format!("evidence-{}", kind.as_str())));
    ledger.findings.into_iter().map(|finding| finding.location).collect()
}

#[test]
fn the_recorded_evidence_passes_and_each_kind_can_be_missing() {
    let empty = |evidence: &mut Evidence| *evidence = Evidence::none(evidence.bound.clone());
    for kind in EvidenceKind::ALL {
        // tiny's recipe bounds no yardstick: no data of others is in the repository.
        if kind != EvidenceKind::Yardstick {
            assert_eq!(refused(kind, |_| ()), Vec::<String>::new(), "{kind:?}");
        }
        assert_eq!(refused(kind, empty), ["manifest.json"], "{kind:?}");
    }
}

#[test]
fn a_benchmark_is_of_this_file_fits_memory_and_gains_by_prefill() {
    let spoiled = |spoil: &dyn Fn(&mut crate::evidence::Benchmark)| {
        refused(EvidenceKind::Benchmark, |evidence| spoil(evidence.benchmark.as_mut().unwrap()))
    };
    assert_eq!(spoiled(&|it| it.pte_sha256 = "00".repeat(32)), ["speeds"]);
    assert_eq!(spoiled(&|it| it.memory.as_mut().unwrap().peak_bytes = 1 << 30), ["memory"]);
    assert_eq!(spoiled(&|it| it.speeds.iter_mut().for_each(|speed| speed.mean = 100.0)), ["speeds"]);
    assert_eq!(spoiled(&|it| it.speeds.clear()), ["speeds", "speeds"]);
}

#[test]
fn the_score_is_computed_from_the_ratings() {
    let spoiled = |spoil: &dyn Fn(&mut crate::evidence::Eq)| {
        refused(EvidenceKind::Eq, |evidence| spoil(evidence.eq.as_mut().unwrap()))
    };
    let unread = |count: usize| {
        move |it: &mut crate::evidence::Eq| it.items.iter_mut().take(count).for_each(|item| item.pte = None)
    };
    assert_eq!(spoiled(&unread(1)), Vec::<String>::new(), "nine of ten are enough");
    assert_eq!(spoiled(&unread(2)), ["score"]);
    assert_eq!(spoiled(&unread(10)), ["readable answers", "score"]);
    // As bad as each other: the score alone is refused.
    let blind = |it: &mut crate::evidence::Eq| {
        it.items.iter_mut().for_each(|item| (item.pte, item.eager) = (Some([10.0; 4]), Some([10.0; 4])));
    };
    assert_eq!(spoiled(&blind), ["score"]);
    let worse =
        |it: &mut crate::evidence::Eq| it.items.iter_mut().for_each(|item| item.pte = Some([10.0; 4]));
    assert_eq!(spoiled(&worse), ["score", "difference from eager"]);
    assert_eq!(spoiled(&|it| it.items.swap(0, 1)), ["items"]);
    assert_eq!(spoiled(&|it| it.talk.looping = 1), ["conversation"]);
    assert_eq!(spoiled(&|it| it.talk.special = 1), ["conversation"]);
    assert_eq!(spoiled(&|it| it.talk.turns = 9), ["conversation"]);
    assert_eq!(spoiled(&|it| it.talk.prompt_tokens_max = 513), ["conversation"]);
}

#[test]
fn acceptance_is_a_share_of_the_same_replies() {
    let spoiled = |spoil: &dyn Fn(&mut crate::evidence::Grammar)| {
        refused(EvidenceKind::Grammar, |evidence| spoil(evidence.grammar.as_mut().unwrap()))
    };
    assert_eq!(spoiled(&|it| it.pte.accepted = it.fp32.accepted * 94 / 100), ["accepted replies"]);
    assert_eq!(spoiled(&|it| it.pte.replies -= 1), ["accepted replies"]);
    assert_eq!(spoiled(&|it| (it.pte.replies, it.pte.accepted) = (0, 0)), ["accepted replies"]);
}

#[test]
fn text_quality_is_judged_by_the_recipes_own_text_and_bounds() {
    let spoiled = |spoil: &dyn Fn(&mut crate::evidence::Quality)| {
        refused(EvidenceKind::Quality, |evidence| spoil(evidence.quality.as_mut().unwrap()))
    };
    let more = |it: &mut crate::evidence::Quality| it.windows.iter_mut().for_each(|it| it.nll += 2.0);
    assert_eq!(spoiled(&more), ["perplexity ratio"]);
    let fluent = |it: &mut crate::evidence::Quality| {
        it.windows.iter_mut().for_each(|it| (it.nll, it.nll_fp32) = (it.nll * 3.0, it.nll_fp32 * 3.0));
    };
    assert_eq!(spoiled(&fluent), ["perplexity"], "tiny's own bound");
    assert_eq!(spoiled(&|it| it.windows.truncate(8)), ["tokens"]);
    let general = |it: &mut crate::evidence::Quality| {
        it.text = crate::digest::Digest::parse(crate::evidence::quality::GENERAL_SHA256).unwrap();
    };
    assert_eq!(spoiled(&general), ["text"]);
}
