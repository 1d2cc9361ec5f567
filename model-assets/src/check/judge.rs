//! Judges measured evidence: its figures against today's thresholds, kind by kind.
//!
//! **Invariant:** a comparison is written so that only a proven pass passes: no number (NaN) fails each of them.

use super::Ledger;
use crate::{
    claim::Claim,
    eq,
    evidence::{Benchmark, Eq, Fed, Heldout, Load, Parity, ParityRun, Quality},
    manifest::Evidence,
    recipe::{BenchmarkLimits, EvidenceKind, ParityLimits, QualityLimits, Recipe},
};

/// Most turns in a row with the same reply: a person may say three things that deserve the same answer.
const SAME_IN_A_ROW_MAX: u32 = 3;

/// One kind of demanded evidence: it is there, and its figures pass today's thresholds.
pub(super) fn evidence(kind: EvidenceKind, evidence: &Evidence, claim: &Claim, ledger: &mut Ledger) {
    let id = format!("evidence-{}", kind.as_str());
    let Claim { recipe, manifest, .. } = claim;
    match kind {
        EvidenceKind::Load => evidence.load.as_ref().map(|it| load(&id, it, ledger)),
        EvidenceKind::Parity => evidence.parity.as_ref().map(|it| {
            parity(&id, it, recipe.architecture.layers, &recipe.parity, ledger);
            // Without a tokenizer there is no text to hold out: random weights only, which no release accepts.
            match &it.heldout {
                Some(it) => heldout_fp32(&id, it, &recipe.parity, ledger),
                None if manifest.weights == crate::manifest::WeightsKind::Random => {}
                None => ledger.fail(&id, "held-out texts", "none", "parity over held-out texts"),
            }
        }),
        EvidenceKind::Benchmark => {
            let sha256 = manifest.sha256.to_string();
            evidence.benchmark.as_ref().map(|it| benchmark(&id, it, &sha256, &recipe.benchmark, ledger))
        }
        EvidenceKind::Eq => evidence.eq.as_ref().map(|it| eq_test(&id, it, recipe, ledger)),
        EvidenceKind::Quality => match (&evidence.quality, &recipe.quality) {
            (Some(it), Some(limits)) => {
                quality(&id, it, limits, ledger);
                Some(())
            }
            // Measured although the recipe bounds nothing: nothing to judge.
            (Some(_), None) => Some(()),
            (None, _) => None,
        },
    }
    .unwrap_or_else(|| ledger.fail(&id, "manifest.json", "none", kind.as_str()));
}

pub(super) fn load(id: &str, load: &Load, ledger: &mut Ledger) {
    let ran = load.finite && load.prefill_tokens > 0 && load.decode_tokens > 0;
    ledger.judge(id, "manifest.json", ran, format!("{load:?}"), "a prefill and decode with finite logits");
}

/// Judges the blocks, each on the eager model's input, then every way of feeding against the measured floor.
fn parity(id: &str, parity: &Parity, layers: u32, limits: &ParityLimits, ledger: &mut Ledger) {
    let calls: Vec<_> = parity.calls.iter().map(u32::to_string).collect();
    let got = format!("{} boundaries over calls of {}", parity.blocks.len(), calls.join(" + "));
    let expected = format!("every boundary of {layers} layers, past the end of a call and in single steps");
    ledger.judge(id, "blocks", parity.is_complete(layers), got, expected);
    match parity.divergence() {
        Some(found) => ledger.fail(id, &found.place, found.got, Parity::expected()),
        None => ledger.judge(id, "blocks", true, "all agree", Parity::expected()),
    }
    for (name, fed) in parity.runs() {
        end_to_end(id, name, fed, limits, ledger);
    }
}

fn end_to_end(id: &str, name: &str, fed: &Fed, limits: &ParityLimits, ledger: &mut Ledger) {
    let ParityRun { rows, max_abs_diff, mean_kl, .. } = fed.run;
    let stricter = |own: f64, limit: Option<f64>| limit.map_or(own, |limit| limit.min(own));
    let kl_max = stricter(fed.floor.kl_max(), limits.mean_kl_max);
    let diff_max = stricter(fed.floor.diff_max(), limits.max_abs_diff_max);
    let holds = rows > 0 && mean_kl <= kl_max && max_abs_diff <= diff_max;
    let got = format!("{rows} rows, KL {mean_kl:.3e}, max |d| {max_abs_diff:.3e}");
    let expected = format!(
        "KL ≤ {kl_max:.3e}, max |d| ≤ {diff_max:.3e} (the eager model with fp32 rounding is {:.3e} from itself)",
        fed.floor.mean_kl
    );
    ledger.judge(id, name, holds, got, expected);
}

/// What held-out texts say without the eager quantized model: a runtime that quantizes in its own way has only the model
/// before quantization to be compared with.
pub(super) fn heldout_fp32(id: &str, it: &Heldout, limits: &ParityLimits, ledger: &mut Ledger) {
    let bounds = &limits.heldout;
    let same = it.texts > 0 && it.same_tokens == it.texts;
    let got = format!("{} of {} texts with the tokens of the eager model", it.same_tokens, it.texts);
    ledger.judge(id, "held-out texts: tokenizer and template", same, got, "all of them");
    let ParityRun { rows, mean_kl, top1_agreement, .. } = it.fp32;
    let near =
        rows > 0 && mean_kl <= bounds.fp32_mean_kl_max && top1_agreement >= bounds.fp32_top1_agreement_min;
    let got = format!("{rows} rows, KL {mean_kl:.3e}, top-1 {top1_agreement:.4}");
    let expected =
        format!("KL ≤ {:.3e}, top-1 ≥ {:.4}", bounds.fp32_mean_kl_max, bounds.fp32_top1_agreement_min);
    ledger.judge(id, "held-out texts: eager fp32", near, got, expected);
    let ratio = it.perplexity_ratio();
    let fluent =
        it.scored > 0 && it.perplexity <= bounds.perplexity_max && ratio <= bounds.perplexity_ratio_max;
    let got = format!("{:.4}, {ratio:.5} times eager fp32", it.perplexity);
    let expected = format!(
        "at most {}, at most {} times eager fp32",
        bounds.perplexity_max, bounds.perplexity_ratio_max
    );
    ledger.judge(id, "held-out texts: perplexity", fluent, got, expected);
    let got = format!("max |d| {:.3e}", it.prefill_step_diff);
    let agree = it.prefill_step_diff <= bounds.prefill_step_diff_max;
    let expected = format!("max |d| ≤ {:.3e}", bounds.prefill_step_diff_max);
    ledger.judge(id, "held-out texts: one prefill against steps", agree, got, expected);
}

fn benchmark(id: &str, it: &Benchmark, sha256: &str, limits: &BenchmarkLimits, ledger: &mut Ledger) {
    let measured = it.speeds.iter().all(|speed| speed.repeats > 0 && speed.mean > 0.0 && speed.sd >= 0.0);
    let whole =
        measured && ["pp", "tg"].iter().all(|kind| it.speeds.iter().any(|s| s.name.starts_with(kind)));
    let got = format!("{} cases of {}", it.speeds.len(), it.pte_sha256);
    ledger.judge(
        id,
        "speeds",
        whole && it.pte_sha256 == sha256,
        got,
        format!("prefill and decode of {sha256}"),
    );
    let ratio = it.prefill_over_decode();
    let got = format!("prefill {ratio:.2} times as fast as decode");
    let expected = format!("at least {}", limits.prefill_over_decode_min);
    ledger.judge(id, "speeds", ratio >= limits.prefill_over_decode_min, got, expected);
    // A system that does not tell memory apart still told the load's peak.
    if let Some(memory) = &it.memory {
        let fits = memory.peak_bytes > 0 && memory.peak_bytes <= limits.peak_rss_bytes_max;
        let got = format!("peak {} bytes", memory.peak_bytes);
        ledger.judge(id, "memory", fits, got, format!("at most {}", limits.peak_rss_bytes_max));
    }
}

fn eq_test(id: &str, it: &Eq, recipe: &Recipe, ledger: &mut Ledger) {
    let items = recipe.eq.items.items().unwrap_or_default();
    let Some(verdict) = eq::judge(&items, &it.items) else {
        ledger.fail(id, "items", format!("{} answers", it.items.len()), "one for each item of the test");
        return;
    };
    let readable = verdict.parse_rate >= eq::PARSE_RATE_MIN;
    let percent = |share: f64| format!("{:.2} %", share * 100.0);
    let got = percent(verdict.parse_rate);
    ledger.judge(id, "readable answers", readable, got, format!("at least {}", percent(eq::PARSE_RATE_MIN)));
    let passed = verdict.score >= recipe.eq.score_min;
    let got = format!("{:.2}", verdict.score);
    ledger.judge(id, "score", passed, got, format!("at least {}", recipe.eq.score_min));
    let got = format!(
        "{:+.3} [{:+.3}, {:+.3}] of eager {:.2}",
        verdict.difference, verdict.low, verdict.high, verdict.eager_score
    );
    ledger.judge(id, "difference from eager", verdict.agrees(), got, "an interval that holds 0");
    let talk = &it.talk;
    let holds = talk.turns as usize == eq::TALK_TURNS
        && talk.tokens > 0
        && talk.prompt_tokens_max <= talk.window
        && (talk.empty, talk.special, talk.looping) == (0, 0, 0)
        && talk.same_in_a_row <= SAME_IN_A_ROW_MAX;
    let expected = format!(
        "{} turns within the window, none empty or looping, no special token, at most {SAME_IN_A_ROW_MAX} same \
         replies in a row",
        eq::TALK_TURNS
    );
    ledger.judge(id, "conversation", holds, format!("{talk:?}"), expected);
}

fn quality(id: &str, it: &Quality, limits: &QualityLimits, ledger: &mut Ledger) {
    let (share, eager) = (it.pte.share(), it.fp32.share().max(it.quantized.share()));
    let same = it.pte.replies == it.fp32.replies && it.pte.replies == it.quantized.replies;
    let holds = same && share >= limits.acceptance_min && share >= limits.acceptance_ratio_min * eager;
    let got = format!("{:.2} % of {}, eager {:.2} %", share * 100.0, it.pte.replies, eager * 100.0);
    let expected = format!(
        "at least {:.2} %, and {:.2} of eager's",
        limits.acceptance_min * 100.0,
        limits.acceptance_ratio_min
    );
    ledger.judge(id, "accepted replies", holds, got, expected);
}
