//! A benchmark as Markdown: in which mode it was taken, its figures, and where a token's time goes.

use std::fmt::Write as _;

use model_assets::evidence;

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
    format!("{mode}\n\n{}{}{profile}", measured.benchmark.markdown(), starts.unwrap_or_default())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::tests::sample;

    #[test]
    fn the_table_says_what_is_absent() {
        let text = sample().markdown();
        for part in [
            "load, cold | not measured",
            "pp64 | 20000.0 ± 400.0",
            "pp64, threads: 1",
            "0.00200 J",
            "20.0 MB",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        let dark = evidence::Benchmark { energy: None, memory: None, ..sample() };
        assert!(
            dark.markdown().contains("not told by this platform")
                && !dark.markdown().contains("memory, peak")
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
