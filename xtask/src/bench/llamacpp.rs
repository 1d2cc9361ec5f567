//! `cargo xtask bench --against llamacpp`: both engines on the same checkpoint, in turn, in one run.
//!
//! **Invariant:** the engines take turns and each is a process of its own: what else the machine does hits both, and the
//! memory of one is not the other's. Both get the same threads, prompts, chunks and repeats.

use std::fmt::Write as _;

use anyhow::Context as _;
use model_assets::{
    check::{self, Profile},
    dir::ModelDir,
    evidence::{Benchmark, Resident, Speed},
};

use crate::{
    Failure,
    console::Console,
    engine::{Engine, Files},
    reserve::Reserve,
    verify::{self, refused},
    workspace::Workspace,
};

/// Times that each engine is asked.
const TURNS: usize = 3;
const MB: f64 = 1e6;

/// Both engines' figures, turn by turn.
#[derive(Debug, serde::Serialize)]
pub(super) struct Comparison {
    /// The engine that ships.
    executorch: Vec<Benchmark>,
    /// The reserve.
    llamacpp: Vec<Benchmark>,
    /// Load of the machine (one minute) before each turn.
    load: Vec<Option<f64>>,
}

/// Measures both in turn.
pub(super) fn measure(
    workspace: &Workspace,
    dir: &ModelDir,
    engine: &Engine,
    files: &Files,
    (repeats, threads): (u32, Option<u32>),
    console: &Console,
) -> Result<Comparison, Failure> {
    let claim = dir.reserve_claim().map_err(refused)?;
    let (path, file) = dir.open_gguf(&claim.manifest).map_err(refused)?;
    // Speed is measured on what the bytes prove, as for the `.pte`.
    let mut bare = claim.clone();
    bare.manifest.evidence = None;
    check::validate_reserve(file, &bare, Profile::Dev).map_err(|refusal| refused(refusal.into()))?;
    let failed = |error| verify::failed(dir, error);
    let reserve = Reserve::open(workspace, console).map_err(failed)?;
    let mut it = Comparison { executorch: Vec::new(), llamacpp: Vec::new(), load: Vec::new() };
    for turn in 1..=TURNS {
        it.load.push(load_average());
        console.step(&format!("turn {turn} of {TURNS}: ExecuTorch"));
        let ours = engine.bench(files, repeats, threads, false, console).map_err(failed)?;
        console.step(&format!("turn {turn} of {TURNS}: llama.cpp"));
        let theirs = reserve.bench(&claim, dir, &path, repeats, ours.threads).map_err(failed)?;
        it.executorch.push(ours);
        it.llamacpp.push(theirs);
    }
    Ok(it)
}

fn load_average() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

impl Comparison {
    /// The figures as a Markdown table: the mean over the turns, and the least and most of them.
    pub(super) fn markdown(&self) -> anyhow::Result<String> {
        let (ours, theirs) = (self.executorch.first(), self.llamacpp.first());
        let (ours, theirs) = ours.zip(theirs).context("nothing was measured")?;
        let loads: Vec<_> =
            self.load.iter().map(|load| load.map_or("?".into(), |n| format!("{n:.2}"))).collect();
        let machine = &ours.machine;
        let mut text = format!(
            "{} ({}, {} processors), {} threads, {TURNS} turns of {} repeats, load before each {}\n\n\
             | what | ExecuTorch {} | {} | ratio |\n|---|---|---|---|\n",
            machine.processor,
            machine.architecture,
            machine.processors,
            ours.threads,
            ours.speeds.first().map_or(0, |speed| speed.repeats),
            loads.join(", "),
            ours.runtime,
            theirs.runtime,
        );
        let mb = |bytes: u64| bytes as f64 / MB;
        let mut row = |name: &str, unit: &str, pick: &dyn Fn(&Benchmark) -> Option<f64>| {
            let (a, b) = (Spread::of(&self.executorch, pick), Spread::of(&self.llamacpp, pick));
            let ratio = match (&a, &b) {
                (Some(a), Some(b)) if b.mean > 0.0 => format!("{:.2}", a.mean / b.mean),
                _ => String::new(),
            };
            let show = |it: Option<Spread>| it.map_or("not measured".to_owned(), |it| it.show(unit));
            // Writing to a String cannot fail.
            let _ = writeln!(text, "| {name} | {} | {} | {ratio} |", show(a), show(b));
        };
        row("model file", "MB", &|b| Some(mb(b.file_bytes)));
        row("load, cold", "ms", &|b| b.load_cold_ms);
        row("load, warm", "ms", &|b| Some(b.load_warm_ms));
        row("first prefill", "ms", &|b| Some(b.first_prefill_ms));
        row("time to first token", "ms", &|b| b.ttft_ms);
        for Speed { name, .. } in &ours.speeds {
            row(name, "tok/s", &|b| b.speed(name).map(|speed| speed.mean));
        }
        let steady =
            |b: &Benchmark, part: fn(&Resident) -> u64| b.memory.as_ref().map(|m| mb(part(&m.steady)));
        row("memory, peak", "MB", &|b| b.memory.as_ref().map(|memory| mb(memory.peak_bytes)));
        row("memory, anonymous", "MB", &|b| steady(b, |resident| resident.anonymous_bytes));
        row("memory, file-backed", "MB", &|b| steady(b, |resident| resident.file_bytes));
        row("share of the memory's bandwidth", "%", &|b| Some(b.roofline.share * 100.0));
        Ok(text)
    }
}

struct Spread {
    mean: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(all: &[Benchmark], pick: &dyn Fn(&Benchmark) -> Option<f64>) -> Option<Self> {
        let values: Vec<f64> = all.iter().filter_map(pick).collect();
        if values.is_empty() || values.len() != all.len() {
            return None;
        }
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let min = values.iter().copied().fold(f64::INFINITY, f64::min);
        Some(Self { mean, min, max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max) })
    }

    fn show(&self, unit: &str) -> String {
        let Self { mean, min, max } = self;
        if min == max {
            format!("{mean:.1} {unit}")
        } else {
            format!("{mean:.1} ({min:.1} to {max:.1}) {unit}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_stand_side_by_side_with_their_spread() {
        let ours = crate::bench::tests::sample();
        let slower = |factor: f64| {
            let mut it = ours.clone();
            it.runtime = "other".into();
            it.ttft_ms = None;
            it.speeds.iter_mut().for_each(|speed| speed.mean /= factor);
            it
        };
        let comparison = Comparison {
            executorch: vec![ours.clone(), ours.clone()],
            llamacpp: vec![slower(2.0), slower(4.0)],
            load: vec![Some(0.25), None],
        };
        let text = comparison.markdown().unwrap();
        for part in [
            "load before each 0.25, ?",
            "| what | ExecuTorch 1.5.1 | other | ratio |",
            "| pp64 | 20000.0 tok/s | 7500.0 (5000.0 to 10000.0) tok/s | 2.67 |",
            "| time to first token | 3.0 ms | not measured |  |",
            "| memory, anonymous | 9.0 MB | 9.0 MB | 1.00 |",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        let none = Comparison { executorch: Vec::new(), llamacpp: Vec::new(), load: Vec::new() };
        assert!(none.markdown().is_err());
    }
}
