//! Each figure of the recorded evidence, spoiled alone: the kind that holds it is refused, and says where.

use super::{Ledger, judge};
use crate::{
    claim::{Claim, ClaimTexts},
    digest::Digest,
    manifest::{Evidence, FileRecord, SourceRecord},
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
        assert_eq!(refused(kind, |_| ()), Vec::<String>::new(), "{kind:?}");
        assert_eq!(refused(kind, empty), ["manifest.json"], "{kind:?}");
    }
}

#[test]
fn held_out_figures_are_judged_one_by_one() {
    let spoiled = |spoil: &dyn Fn(&mut crate::evidence::Heldout)| {
        refused(EvidenceKind::Parity, |evidence| {
            spoil(evidence.parity.as_mut().unwrap().heldout.as_mut().unwrap());
        })
    };
    let place = |name: &str| vec![format!("held-out texts: {name}")];
    assert_eq!(spoiled(&|it| it.same_tokens -= 1), place("tokenizer and template"));
    assert_eq!(spoiled(&|it| it.quantized.mean_kl = 0.01), place("eager quantized"));
    assert_eq!(spoiled(&|it| it.quantized.max_abs_diff = f64::NAN), place("eager quantized"));
    assert_eq!(spoiled(&|it| it.quantized.rows = 0), place("eager quantized"));
    assert_eq!(spoiled(&|it| it.fp32.top1_agreement = 0.9), place("eager fp32"));
    assert_eq!(spoiled(&|it| it.perplexity = f64::NAN), place("perplexity"));
    assert_eq!(spoiled(&|it| it.perplexity_fp32 *= 0.9), place("perplexity"));
    assert_eq!(spoiled(&|it| it.scored = 0), place("perplexity"));
    assert_eq!(spoiled(&|it| it.prefill_step_diff = 1.0), place("one prefill against steps"));
    let none = refused(EvidenceKind::Parity, |it| it.parity.as_mut().unwrap().heldout = None);
    assert_eq!(none, ["held-out texts"]);
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
    assert_eq!(spoiled(&unread(2)), ["readable answers"]);
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
fn quality_is_a_share_of_the_same_replies() {
    let spoiled = |spoil: &dyn Fn(&mut crate::evidence::Quality)| {
        refused(EvidenceKind::Quality, |evidence| spoil(evidence.quality.as_mut().unwrap()))
    };
    assert_eq!(spoiled(&|it| it.pte.accepted = it.fp32.accepted * 94 / 100), ["accepted replies"]);
    assert_eq!(spoiled(&|it| it.pte.replies -= 1), ["accepted replies"]);
    assert_eq!(spoiled(&|it| (it.pte.replies, it.pte.accepted) = (0, 0)), ["accepted replies"]);
}

#[test]
fn a_checkpoint_from_elsewhere_is_told() {
    let recipe = include_str!("../../models/smollm2-135m/recipe.toml");
    let source = crate::recipe::Recipe::parse(recipe).unwrap().source;
    let crate::recipe::Source::Hub { files: pins, .. } = &source else { panic!("a hub source") };
    let file = |name: &str, sha256| FileRecord { name: name.to_owned(), bytes: 1, sha256 };
    let told = |files: Vec<FileRecord>, gguf: Option<FileRecord>| {
        let mut ledger = Ledger::default();
        let record = SourceRecord { source: source.clone(), files, gguf };
        super::source_rules(&source, &record, &mut ledger);
        assert!(!ledger.rejects(), "a warning alone");
        ledger.findings.into_iter().map(|it| (it.id, it.got)).collect::<Vec<_>>()
    };
    let pinned = file("model.safetensors", pins["model.safetensors"]);
    let other = file("model.safetensors", Digest::of(b"other"));
    assert_eq!(told(vec![pinned], None), []);
    assert_eq!(told(vec![other.clone()], None)[0].0, "weights-pinned");
    let [(id, got)] = &told(vec![other], Some(file("m.gguf", Digest::of(b"gguf"))))[..] else {
        panic!("one warning")
    };
    assert!(id == "weights-from-gguf" && got.contains("m.gguf, sha256 "), "{id}: {got}");
}
