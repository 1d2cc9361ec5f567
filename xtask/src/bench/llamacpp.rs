//! `bench --against llamacpp`: the engine beside the reserve, on files of the same checkpoint, with the same tokens, prefill
//! chunks, threads and repeats.
//!
//! Each side is a process of its own, so that the memory of one is not the other's. The engine runs as the app does: a linked model's packed weights are in a file,
//! which a start before the rounds has made.

use anyhow::Context as _;
use model_assets::{
    check::{self, Profile},
    dir::ModelDir,
    evidence::{Benchmark, MemorySteps, Speed},
};

use crate::{
    console::Console,
    engine::{Engine, Files},
    exit::{Failure, refused},
    published::failed,
    reserve::Reserve,
    workspace::Workspace,
};

use super::against::{self, Comparison, Row};

/// Runs both sides in turn.
///
/// # Errors
/// There is no proved GGUF, or one side does not load or run.
pub(super) fn compare(
    workspace: &Workspace,
    dir: &ModelDir,
    files: &Files,
    (rounds, threads): (u32, Option<u32>),
    console: &Console,
) -> Result<Comparison, Failure> {
    let mut claim = dir.reserve_claim().map_err(refused)?;
    let (path, file) = dir.open_gguf(&claim.manifest).map_err(refused)?;
    // Speed is measured on what the bytes prove; evidence that failed is another command's matter.
    claim.manifest.evidence = None;
    check::validate_reserve(file, &claim, Profile::Dev).map_err(refused)?;
    let measured = || -> anyhow::Result<Comparison> {
        let engine = Engine::open(workspace, crate::engine::Profile::Release, console)?;
        let reserve = Reserve::open(workspace, console)?;
        let load = against::load();
        engine.first_start(files, threads, console)?;
        let ours = || Ok(engine.measure(files, 1, threads, &files.words(), console)?.benchmark);
        let theirs = |first: &Benchmark| {
            console.step("llama.cpp: benchmark");
            reserve.bench(&claim, dir, &path, 1, first.threads)
        };
        let taken = against::in_turn(rounds, ours, theirs)?;
        let (first, _) = taken.first().context("no round ran")?;
        let threads = first.threads;
        Ok(Comparison {
            what: format!("{} ({}) and {path}, {threads} threads, {rounds} rounds", files.pte, files.mode()),
            machine: first.machine.clone(),
            load,
            sides: ["engine", "llama.cpp"],
            rows: rows(&taken),
        })
    };
    measured().map_err(|error| failed(dir, error))
}

/// One row for each figure that both sides have in every round.
fn rows(taken: &[(Benchmark, Benchmark)]) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut row = |name: &str, unit, pick: &dyn Fn(&Benchmark) -> Option<f64>| {
        let rounds = taken.iter().map(|(ours, theirs)| Some([pick(ours)?, pick(theirs)?]));
        if let Some(rounds) = rounds.collect::<Option<Vec<_>>>() {
            rows.push(Row::new(name, unit, rounds));
        }
    };
    let mb = |bytes: u64| bytes as f64 / super::MB;
    row("model file", "MB", &|b| Some(mb(b.file_bytes)));
    row("load, pages dropped", "ms", &|b| b.load_cold_ms);
    row("load, warm", "ms", &|b| Some(b.load_warm_ms));
    row("first prefill of 64", "ms", &|b| Some(b.first_prefill_ms));
    row("time to first token", "ms", &|b| b.ttft_ms);
    for Speed { name, .. } in taken.first().iter().flat_map(|(ours, _)| &ours.speeds) {
        row(name, "tok/s", &|b| b.speed(name).map(|speed| speed.mean));
    }
    let memory = |b: &Benchmark, part: fn(&MemorySteps) -> u64| b.memory.as_ref().map(|m| mb(part(m)));
    row("resident memory, peak", "MB", &|b| memory(b, |m| m.peak_bytes));
    row("steady: anonymous", "MB", &|b| memory(b, |m| m.steady.anonymous_bytes));
    row("steady: file-backed", "MB", &|b| memory(b, |m| m.steady.file_bytes));
    row("share of the memory's bandwidth", "%", &|b| Some(b.roofline.share * 100.0));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_medians_and_those_that_one_side_lacks_are_left_out() {
        let ours = crate::bench::tests::sample();
        let slower = |factor: f64| {
            let mut it = Benchmark { ttft_ms: None, ..ours.clone() };
            it.speeds.iter_mut().for_each(|speed| speed.mean /= factor);
            it
        };
        let rows = rows(&[2.0, 4.0, 5.0].map(|factor| (ours.clone(), slower(factor))));
        let prefill = rows.iter().find(|row| row.figure == "pp64").unwrap();
        assert!((prefill.ratio - 4.0).abs() < 1e-9, "{prefill:?}");
        assert!(!rows.iter().any(|row| row.figure == "time to first token"));
        let memory = rows.iter().find(|row| row.figure == "steady: anonymous").unwrap();
        assert!((memory.ours - 9.0).abs() < 1e-9 && memory.unit == "MB");
    }
}
