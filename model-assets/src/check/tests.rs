//! Each figure of the recorded evidence, spoiled alone: the kind that holds it is refused, and says where.

use super::judge;
use crate::{
    claim::{Claim, ClaimTexts},
    digest::Digest,
    ledger::Ledger,
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
        // tiny's recipe bounds no yardstick: no data of others is in the repository.
        if kind != EvidenceKind::Yardstick {
            assert_eq!(refused(kind, |_| ()), Vec::<String>::new(), "{kind:?}");
        }
        assert_eq!(refused(kind, empty), ["manifest.json"], "{kind:?}");
    }
}

#[test]
fn blocks_are_judged_one_by_one_and_every_way_of_feeding_against_the_floor() {
    let spoiled = |spoil: &dyn Fn(&mut crate::evidence::Parity)| {
        refused(EvidenceKind::Parity, |evidence| spoil(evidence.parity.as_mut().unwrap()))
    };
    let off = |it: &mut crate::evidence::Parity| {
        let layer = &mut it.blocks[2].layers[3];
        (layer.off, layer.token) = (40, 7);
    };
    assert_eq!(spoiled(&off), ["layer 3, token 7, key"]);
    let no_number = |it: &mut crate::evidence::Parity| {
        let layer = &mut it.blocks[4].layers[1];
        (layer.steps, layer.token) = (f64::NAN, 9);
    };
    assert_eq!(spoiled(&no_number), ["layer 1, token 9, attention"]);
    assert_eq!(spoiled(&|it| _ = it.blocks.pop()), ["blocks"]);
    assert_eq!(spoiled(&|it| it.calls = vec![40]), ["blocks"]);
    assert_eq!(spoiled(&|it| it.step_by_step.run.rows = 0), ["step by step"]);
    assert_eq!(spoiled(&|it| it.chunked_prefill.run.max_abs_diff = f64::NAN), ["chunked prefill"]);
    let floor = |it: &mut crate::evidence::Parity| {
        it.prefill_then_decode.run.mean_kl = 1.01 * it.prefill_then_decode.floor.kl_max();
    };
    assert_eq!(spoiled(&floor), ["prefill then decode"]);
}

#[test]
fn a_recipe_can_only_make_parity_stricter() {
    let judged = |limit: &str| {
        let mut claim = claim();
        claim.recipe.parity.max_abs_diff_max = limit.parse().ok();
        let (evidence, mut ledger) = (claim.manifest.evidence.clone().unwrap(), Ledger::default());
        judge::evidence(EvidenceKind::Parity, &evidence, &claim, &mut ledger);
        ledger.findings.len()
    };
    assert_eq!((judged(""), judged("1e9"), judged("0")), (0, 0, 3));
}

#[test]
fn bounds_that_nothing_measures_any_more_are_told() {
    let mut claim = claim();
    claim.recipe.parity =
        toml::from_str("top1_agreement_min = 0.9\n[heldout]\nperplexity_max = 9.0").unwrap();
    let mut ledger = Ledger::default();
    super::rules::of_claim(&claim, &mut ledger);
    let told: Vec<_> =
        ledger.findings.iter().filter(|it| it.id == "recipe-retired").map(|it| &*it.got).collect();
    assert_eq!(told, ["parity.top1_agreement_min", "parity.heldout"]);
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
fn a_checkpoint_from_elsewhere_is_told() {
    let recipe = include_str!("../../models/smollm2-135m/recipe.toml");
    let source = crate::recipe::Recipe::parse(recipe).unwrap().source;
    let crate::recipe::Source::Hub { files: pins, .. } = &source else { panic!("a hub source") };
    let file = |name: &str, sha256| FileRecord { name: name.to_owned(), bytes: 1, sha256 };
    let told = |files: Vec<FileRecord>, gguf: Option<FileRecord>| {
        let mut ledger = Ledger::default();
        let record = SourceRecord { source: source.clone(), files, gguf };
        super::rules::of_source(&source, &record, &mut ledger);
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

#[test]
fn a_gguf_that_the_recipe_names_is_no_news() {
    let sha256 = Digest::of(b"gguf");
    let source = crate::recipe::Source::Gguf { file: "m.gguf".to_owned(), sha256 };
    let told = |sha256: Option<Digest>| {
        let mut ledger = Ledger::default();
        let gguf = sha256.map(|sha256| FileRecord { name: "m.gguf".to_owned(), bytes: 1, sha256 });
        let record = SourceRecord { source: source.clone(), files: Vec::new(), gguf };
        super::rules::of_source(&source, &record, &mut ledger);
        ledger.findings.into_iter().map(|it| it.id).collect::<Vec<_>>()
    };
    assert!(told(Some(sha256)).is_empty());
    assert_eq!(told(Some(Digest::of(b"other"))), ["weights-from-gguf"]);
    assert_eq!(told(None), ["weights-from-gguf"]);
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
        it.text = Digest::parse(crate::evidence::quality::GENERAL_SHA256).unwrap();
    };
    assert_eq!(spoiled(&general), ["text"]);
}
