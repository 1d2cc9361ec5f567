//! Judges measured evidence: its figures against today's thresholds, kind by kind.
//!
//! **Invariant:** a comparison is written so that only a proven pass passes: no number (NaN) fails each of them.

use crate::{
    claim::Claim,
    eq,
    evidence::{
        Benchmark, Eq, Fed, Load, Parity, ParityRun, Quality, Yardstick, YardstickLimit, quality::Asked,
    },
    ledger::Ledger,
    manifest::Evidence,
    recipe::{BenchmarkLimits, EvidenceKind, ParityLimits, Recipe},
};

/// Most turns in a row with the same reply: a person may say three things that deserve the same answer.
const SAME_IN_A_ROW_MAX: u32 = 3;

/// One kind of demanded evidence: it is there, and its figures pass today's thresholds.
pub(super) fn evidence(kind: EvidenceKind, evidence: &Evidence, claim: &Claim, ledger: &mut Ledger) {
    let id = format!("evidence-{}", kind.as_str());
    let Claim { recipe, manifest, .. } = claim;
    match kind {
        EvidenceKind::Load => evidence.load.as_ref().map(|it| load(&id, it, ledger)),
        EvidenceKind::Parity => {
            let layers = recipe.architecture.layers;
            evidence.parity.as_ref().map(|it| parity(&id, it, layers, &recipe.parity, ledger))
        }
        EvidenceKind::Benchmark => {
            let sha256 = manifest.sha256.to_string();
            evidence.benchmark.as_ref().map(|it| benchmark(&id, it, &sha256, &recipe.benchmark, ledger))
        }
        EvidenceKind::Eq => evidence.eq.as_ref().map(|it| eq_test(&id, it, recipe, ledger)),
        EvidenceKind::Quality => evidence.quality.as_ref().map(|it| {
            quality(&id, it, recipe, manifest.export.parameters, ledger);
        }),
        EvidenceKind::Grammar => match (&evidence.grammar, &recipe.grammar) {
            (Some(it), Some(limits)) => {
                it.judge(&id, limits, ledger);
                Some(())
            }
            // Measured although the recipe bounds nothing: nothing to judge.
            (Some(_), None) => Some(()),
            (None, _) => None,
        },
        EvidenceKind::Yardstick => {
            evidence.yardstick.as_ref().map(|it| yardstick(&id, it, &recipe.yardstick, ledger))
        }
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

/// Every task of the recipe was measured; what else was measured is not judged.
fn yardstick(id: &str, measured: &[Yardstick], limits: &[YardstickLimit], ledger: &mut Ledger) {
    for limit in limits {
        match measured.iter().find(|it| it.task == limit.task) {
            Some(it) => it.judge(id, limit, ledger),
            None => ledger.fail(id, limit.task.as_str(), "none", "a measurement of this task"),
        }
    }
}

/// Against the bounds of the scheme, or stricter ones of the recipe.
pub(super) fn quality(id: &str, it: &Quality, recipe: &Recipe, parameters: u64, ledger: &mut Ledger) {
    let quantization = recipe.export.quantization;
    it.judge(id, &Asked { quantization, parameters, limits: recipe.quality.as_ref() }, ledger);
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
    let eq::Verdict { items, readable, eager_readable, readable_difference, scores } = &verdict;
    let got = format!("{readable} of {items}, eager {eager_readable}");
    let holds = readable_difference.holds_zero();
    ledger.judge(id, "readable answers", holds, got, "as many as eager's, as far as the items can tell");
    if let Some(min) = recipe.eq.score_min {
        let passed = scores.is_some_and(|it| it.score >= min);
        let expected = format!("at least {min}, {:.2} % of the answers readable", eq::PARSE_RATE_MIN * 100.0);
        ledger.judge(id, "score", passed, &verdict, expected);
    }
    if let Some(scores) = scores {
        let holds = scores.difference.holds_zero();
        ledger.judge(id, "difference from eager", holds, &verdict, "an interval that holds 0");
    }
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
