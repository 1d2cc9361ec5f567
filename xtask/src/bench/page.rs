//! A benchmark as Markdown: in which mode it was taken, its figures, and where a token's time goes.

use std::fmt::Write as _;

use model_assets::evidence::{self, Benchmark};

use crate::engine::Measured;

use super::MB;

/// The figures, and in which mode they were taken.
pub(super) fn page(measured: &Measured) -> String {
    let mode = match &measured.packed {
        None => "embedded: weights are packed in memory at every start".to_owned(),
        Some(packed) => {
            let first = &packed.first_start;
            format!(
                "linked: weights are packed in a file, which the measured start found {}; the first start, which made it, \
                 took {:.0} ms to load and {:.1} MB at its peak",
                packed.found.as_str(),
                first.load_ms,
                first.peak_rss_bytes as f64 / MB
            )
        }
    };
    let profile = measured.profile.as_ref().map(profile).unwrap_or_default();
    let starts = measured.packed.as_ref().map(|packed| {
        format!(
            "| start, packed weights known by their stamp | {:.1} ms | |\n| start, packed weights hashed | {:.1} ms | |\n",
            packed.known_start.load_ms, packed.hashed_start.load_ms
        )
    });
    format!("{mode}\n\n{}{}{profile}", markdown(&measured.benchmark), starts.unwrap_or_default())
}

/// Where a decoded token's time goes, as a Markdown table.
fn profile(profile: &evidence::Profile) -> String {
    let (tokens, outside) = (profile.tokens, profile.outside_delegates * 100.0);
    let mut text = format!(
        "\nof {:.1} us per token, over {tokens} tokens at the middle of the window, {outside:.2} % is outside the delegates\n\n\
         | event | us per token | calls | share |\n|---|---|---|---|\n",
        profile.token_us
    );
    for event in &profile.events {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {} | {:.1} | {:.1} | {:.3} % |",
            event.name,
            event.us_per_token,
            event.calls_per_token,
            event.share * 100.0
        );
    }
    text
}

/// The figures as a Markdown table.
pub(crate) fn markdown(b: &Benchmark) -> String {
    let machine = &b.machine;
    let memory = machine.memory_bytes.map_or(String::new(), |n| format!(", {:.1} GB", n as f64 / 1e9));
    // Writing to a String cannot fail.
    let mut text = format!(
        "{} ({}, {} processors{memory}, {}), ExecuTorch {}, {} threads, model {:.1} MB\n\n| what | mean ± sd | least to most |\n|---|---|---|\n",
        machine.processor,
        machine.architecture,
        machine.processors,
        machine.system,
        b.runtime,
        b.threads,
        b.file_bytes as f64 / MB
    );
    let cold = b
        .load_cold_ms
        .map_or("not measured: the system drops no pages".to_owned(), |ms| format!("{ms:.1} ms"));
    let _ = writeln!(text, "| load, cold | {cold} | |");
    let _ = writeln!(text, "| load, warm | {:.2} ± {:.2} ms | |", b.load_warm_ms, b.load_warm_sd_ms);
    let _ = writeln!(text, "| first prefill | {:.1} ms | |", b.first_prefill_ms);
    if let (Some(ms), Some(sd), Some(tokens)) = (b.ttft_ms, b.ttft_sd_ms, b.ttft_prompt_tokens) {
        let _ = writeln!(text, "| time to first token, prompt of {tokens} | {ms:.2} ± {sd:.2} ms | |");
    }
    let row = |text: &mut String, name: &str, s: &evidence::Speed| {
        let _ =
            writeln!(text, "| {name} | {:.1} ± {:.1} tok/s | {:.1} to {:.1} |", s.mean, s.sd, s.min, s.max);
    };
    for speed in &b.speeds {
        row(&mut text, &speed.name, speed);
    }
    for step in &b.sweep {
        for speed in [&step.prefill, &step.decode] {
            row(&mut text, &format!("{}, threads: {}", speed.name, step.threads), speed);
        }
    }
    if let Some(memory) = &b.memory {
        let _ = writeln!(text, "| memory, peak | {:.1} MB | |", memory.peak_bytes as f64 / MB);
        let steps = [
            ("loaded", &memory.loaded),
            ("first prefill", &memory.first_prefill),
            ("steady", &memory.steady),
        ];
        for (name, r) in steps {
            let (anonymous, file) = (r.anonymous_bytes as f64 / MB, r.file_bytes as f64 / MB);
            let _ = writeln!(
                text,
                "| memory, {name} | {anonymous:.1} MB anonymous, {file:.1} MB file-backed | |"
            );
        }
        let steady = memory.steady.anonymous_bytes + memory.steady.file_bytes;
        let _ =
            writeln!(text, "| memory, steady over the file | {:.3} | |", steady as f64 / b.file_bytes as f64);
    }
    match &b.energy {
        Some(energy) => {
            let _ = writeln!(
                text,
                "| energy | {:.5} J per token ({}) | |",
                energy.joules_per_token, energy.counter
            );
        }
        None => text.push_str("| energy | not told by this platform | |\n"),
    }
    let r = &b.roofline;
    let (used, read, share) = (r.used_bytes_per_second / 1e9, r.read_bytes_per_second / 1e9, r.share * 100.0);
    let _ =
        writeln!(text, "| memory bandwidth used by decoding | {used:.2} of {read:.1} GB/s, {share:.0} % | |");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::tests::sample;

    #[test]
    fn the_table_says_what_is_absent() {
        let text = markdown(&sample());
        for part in [
            "load, cold | not measured",
            "pp64 | 20000.0 ± 400.0",
            "pp64, threads: 1",
            "0.00200 J",
            "20.0 MB",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        let dark = Benchmark { energy: None, memory: None, ..sample() };
        assert!(
            markdown(&dark).contains("not told by this platform")
                && !markdown(&dark).contains("memory, peak")
        );
    }

    #[test]
    fn the_page_says_in_which_mode_the_figures_were_taken() {
        use crate::engine::Packed;
        use model_assets::evidence::{EventShare, Load, PackedWeights};
        let embedded = Measured { benchmark: sample(), packed: None, profile: None };
        assert!(page(&embedded).starts_with("embedded: weights are packed in memory"));
        let start = |load_ms| Load {
            load_ms,
            first_prefill_ms: 400.0,
            prefill_tokens: 16,
            decode_tokens: 8,
            finite: true,
            peak_rss_bytes: 2_500_000_000,
        };
        let packed = Packed {
            found: PackedWeights::Warm,
            first_start: start(9000.0),
            hashed_start: start(800.0),
            known_start: start(3.0),
        };
        let linked = Measured { packed: Some(packed), ..embedded };
        let text = page(&linked);
        assert!(!text.contains("outside the delegates"), "{text}");
        let event = EventShare {
            name: "DELEGATE_CALL".into(),
            calls_per_token: 17.0,
            us_per_token: 970.0,
            share: 0.97,
        };
        let profile =
            evidence::Profile { tokens: 32, token_us: 1000.0, outside_delegates: 0.03, events: vec![event] };
        let profiled = page(&Measured { profile: Some(profile), ..linked });
        for part in [
            "32 tokens at the middle of the window, 3.00 % is outside",
            "| DELEGATE_CALL | 970.0 | 17.0 | 97.000 % |",
        ] {
            assert!(profiled.contains(part), "{part} in\n{profiled}");
        }
        for part in [
            "found warm",
            "took 9000 ms to load and 2500.0 MB",
            "steady over the file | 7.199",
            "known by their stamp | 3.0 ms",
            "packed weights hashed | 800.0 ms",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }
}
