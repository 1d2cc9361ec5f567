//! What was measured: parity, quality, EQ, speed and memory.

use model_assets::{
    bootstrap::Interval,
    claim::Claim,
    eq,
    evidence::{BoundaryFigures, LayerFigures, ParityRun, QualityBounds, Speed, Yardstick},
};

use super::{
    Report, begin,
    html::{Page, escape},
    joined, megabytes, percent,
};
use crate::{bench, evidence::yardstick::published};

pub(super) fn parity(page: &mut Page, claim: &Claim) {
    begin(page, "parity");
    let Some(parity) = claim.manifest.evidence.as_ref().and_then(|evidence| evidence.parity.as_ref()) else {
        page.text("Not measured.");
        return;
    };
    let row = |name: &str, run: &ParityRun| {
        vec![
            name.to_owned(),
            run.rows.to_string(),
            format!("{:.3e}", run.max_abs_diff),
            format!("{:.3e}", run.mean_abs_diff),
            format!("{:.3e}", run.mean_kl),
            format!("{:.4}", run.top1_agreement),
        ]
    };
    blocks(page, &parity.blocks);
    let mut rows: Vec<_> = Vec::new();
    for (name, fed) in parity.runs() {
        rows.push(row(name, &fed.run));
        let floor = &fed.floor;
        rows.push(vec![
            format!("{name}: the eager model with fp32 rounding against itself"),
            fed.run.rows.to_string(),
            format!("{:.3e}", floor.max_abs_diff),
            String::new(),
            format!("{:.3e}", floor.mean_kl),
            String::new(),
        ]);
    }
    let heads = ["fed and compared with", "rows", "max |d|", "mean |d|", "KL, nats", "same top token"];
    page.table("The .pte in the engine against the eager model, teacher-forced", &heads, &rows);
}

/// One row per kind of boundary.
fn blocks(page: &mut Page, blocks: &[BoundaryFigures]) {
    let row = |it: &BoundaryFigures| {
        let typical = |figure: &dyn Fn(&LayerFigures) -> f64| format!("{:.1e}", it.over_layers(figure).0);
        let largest = |figure: &dyn Fn(&LayerFigures) -> f64| it.over_layers(figure).1;
        vec![
            it.boundary.as_str().to_owned(),
            format!("{} x {}", it.layers.len(), it.tokens),
            typical(&|layer| layer.noise),
            typical(&|layer| layer.floor),
            typical(&|layer| layer.median),
            format!("{:.1e}", largest(&|layer| layer.median)),
            percent(it.off_share()),
            format!("{:.1e}", largest(&|layer| layer.largest)),
            format!("{:.2}", largest(&|layer| layer.steps)),
        ]
    };
    let heads = [
        "boundary",
        "layers x tokens",
        "quantization noise",
        "eager model with rounding",
        "median error",
        "worst layer's median",
        "with a flipped code",
        "largest error",
        "in units of the noise",
    ];
    let rows: Vec<_> = blocks.iter().map(row).collect();
    page.table(
        "Each block of the .pte on the eager model's input, relative to the value's norm",
        &heads,
        &rows,
    );
}

pub(super) fn quality(page: &mut Page, claim: &Claim) {
    begin(page, "quality");
    let Some(quality) = claim.manifest.evidence.as_ref().and_then(|evidence| evidence.quality.as_ref())
    else {
        page.text("Not measured.");
        return;
    };
    let it = quality.figures();
    let bounds = QualityBounds::of(claim.recipe.export.quantization).with(claim.recipe.quality.as_ref());
    let row = |name: &str, figure: Interval, bound: String| {
        vec![
            name.to_owned(),
            format!("{:.5}", figure.value),
            format!("{:.5} to {:.5}", figure.low, figure.high),
            bound,
        ]
    };
    page.table(
        "The .pte in the engine against the unquantized model in fp32, token by token on real text",
        &["figure", "measured", "95 % interval", "bound"],
        &[
            row("perplexity ratio", it.ratio, format!("upper end at most {}", bounds.perplexity_ratio_max)),
            row("KL divergence, nats", it.kl, format!("upper end at most {}", bounds.kl_max)),
            row("same top token", it.top1, format!("lower end at least {}", bounds.top1_agreement_min)),
        ],
    );
    page.text(format!(
        "{} tokens in {} windows of text {}; perplexity {:.4}, unquantized {:.4}. The interval is a bootstrap over the windows.",
        it.tokens, it.windows, quality.text, it.perplexity, it.perplexity_fp32
    ));
}

pub(super) fn grammar(page: &mut Page, claim: &Claim) {
    begin(page, "grammar");
    let Some(grammar) = claim.manifest.evidence.as_ref().and_then(|evidence| evidence.grammar.as_ref())
    else {
        page.text(
            "Not measured: this model's world has no grammar to judge by, or the evidence is still to come.",
        );
        return;
    };
    let sides = [
        ("before quantization", grammar.fp32),
        ("quantized, eager", grammar.quantized),
        (".pte in the engine", grammar.pte),
    ];
    let row = |(name, it): (&str, model_assets::evidence::Acceptance)| {
        vec![format!("Model {name}"), it.accepted.to_string(), it.replies.to_string(), percent(it.share())]
    };
    page.table(
        "Sampled replies to held-out conversations that the grammar accepts",
        &["model", "accepted", "replies", "share"],
        &sides.map(row),
    );
}

pub(super) fn yardstick(page: &mut Page, claim: &Claim) {
    begin(page, "yardstick");
    let measured = claim.manifest.evidence.as_ref().and_then(|evidence| evidence.yardstick.as_ref());
    let Some(measured) = measured.filter(|measured| !measured.is_empty()) else {
        page.text("Not measured: the recipe bounds none, or the evidence is still to come.");
        return;
    };
    let bound = |it: &Yardstick| {
        let limit = claim.recipe.yardstick.iter().find(|limit| limit.task == it.task);
        limit.map_or("none".to_owned(), |limit| format!("upper end at most {}", limit.loss_max))
    };
    let row = |it: &Yardstick| {
        let figures = it.figures();
        vec![
            it.task.as_str().to_owned(),
            format!("{:.4}", figures.pte),
            format!("{:.4}", figures.fp32),
            format!("{:+.4}", figures.loss),
            bound(it),
            figures.items.to_string(),
        ]
    };
    let heads = [".pte", "unquantized", "loss, 95 % interval", "bound", "items"];
    let rows: Vec<_> = measured.iter().map(row).collect();
    page.table("Yardsticks, item by item", &[&["task"], &heads[..]].concat(), &rows);
    for it in measured {
        page.text(format!(
            "{}: {}. Published, by other protocols: {}.",
            it.task.as_str(),
            it.protocol,
            published(it.task)
        ));
    }
}

pub(super) fn eq_test(page: &mut Page, report: &Report) {
    begin(page, "eq");
    let claim = &report.claim;
    let evidence = claim.manifest.evidence.as_ref().and_then(|evidence| evidence.eq.as_ref());
    let items = claim.recipe.eq.items.items().unwrap_or_default();
    let Some((evidence, verdict)) = evidence.and_then(|it| Some((it, eq::judge(&items, &it.items)?))) else {
        page.text("Not measured.");
        return;
    };
    page.text(format!(
        "Of 100: {verdict}. Readable answers: {} of {}, eager {}. So few items tell a broken model from a whole one; they \
         do not rank good ones.",
        verdict.readable, verdict.items, verdict.eager_readable
    ));
    let ratings = |given: &Option<[f64; 4]>| given.map_or("not readable".to_owned(), |it| joined(&it));
    let rows: Vec<_> = items
        .iter()
        .zip(&evidence.items)
        .map(|(item, given)| {
            // Too few to be scored are not scored one by one either.
            let rated = given.pte.filter(|_| verdict.scores.is_some());
            let score =
                rated.map_or("none".to_owned(), |it| format!("{:.1}", eq::item_score(&it, &item.reference)));
            let expected = format!("({})", joined(&item.reference));
            vec![
                item.id.clone(),
                item.emotions.join(", "),
                expected,
                ratings(&given.pte),
                ratings(&given.eager),
                score,
            ]
        })
        .collect();
    page.table("Ratings, 0 to 10", &["item", "emotions", "right", ".pte", "eager", "score"], &rows);
    let talk = &evidence.talk;
    page.text(format!(
        "Conversation of {} turns: {} tokens said, largest prompt {} of {} tokens, {} messages forgotten for want of room, \
         {} empty, {} looping, {} special tokens.",
        talk.turns,
        talk.tokens,
        talk.prompt_tokens_max,
        talk.window,
        talk.forgotten,
        talk.empty,
        talk.looping,
        talk.special
    ));
    let Some(transcript) = &report.transcript else {
        page.text("The transcript that the evidence names is not beside the manifest.");
        return;
    };
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
        for (who, words) in [("asked", &item.prompt), (".pte", &item.pte), ("eager", &item.eager)] {
            page.raw(&format!("<p class=\"soft\">{who}</p><pre>{}</pre>", escape(words)));
        }
        page.raw("</details>");
    }
}

pub(super) fn benchmark(page: &mut Page, claim: &Claim) -> anyhow::Result<()> {
    begin(page, "benchmark");
    let Some(it) = claim.manifest.evidence.as_ref().and_then(|evidence| evidence.benchmark.as_ref()) else {
        page.text("Not measured.");
        return Ok(());
    };
    let machine = &it.machine;
    page.text(format!(
        "On {}, {}, {} processors, {}: ExecuTorch {}, {} threads. Figures of this machine alone.",
        machine.processor, machine.architecture, machine.processors, machine.system, it.runtime, it.threads
    ));
    let milliseconds = |ms: Option<f64>| ms.map_or("not measured".to_owned(), |ms| format!("{ms:.2} ms"));
    let mut cards = vec![
        ("load, cold", milliseconds(it.load_cold_ms)),
        ("load, warm", milliseconds(Some(it.load_warm_ms))),
        ("first token", milliseconds(it.ttft_ms)),
    ];
    if let Some(memory) = &it.memory {
        cards.push(("memory, peak", megabytes(memory.peak_bytes)));
        cards.push(("steady, anonymous", megabytes(memory.steady.anonymous_bytes)));
        cards.push(("steady, file-backed", megabytes(memory.steady.file_bytes)));
    }
    let energy =
        it.energy.as_ref().map_or("not told".to_owned(), |e| format!("{:.4} J/token", e.joules_per_token));
    cards.push(("energy", energy));
    page.cards(&cards);
    page.raw(&format!(
        "<div role=\"img\" aria-label=\"Speeds by case and by number of threads; the table below has the figures\">{}</div>",
        bench::svg(it)?
    ));
    let row = |threads: u32, speed: &Speed| {
        vec![
            speed.name.clone(),
            threads.to_string(),
            format!("{:.1}", speed.mean),
            format!("{:.1}", speed.sd),
            format!("{:.1}", speed.min),
            format!("{:.1}", speed.max),
        ]
    };
    let mut rows: Vec<_> = it.speeds.iter().map(|speed| row(it.threads, speed)).collect();
    rows.extend(
        it.sweep.iter().flat_map(|step| [row(step.threads, &step.prefill), row(step.threads, &step.decode)]),
    );
    page.table("Tokens per second", &["case", "threads", "mean", "sd", "least", "most"], &rows);
    Ok(())
}
