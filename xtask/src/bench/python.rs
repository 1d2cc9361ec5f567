//! `bench --against python`: the engine beside upstream's Python runtime, on the same `.pte`, tokens and threads.
//!
//! Rounds alternate, so that a machine that slows down does so for both. The engine runs as the app does: a linked model's
//! packed weights are in a file. The Python runtime packs them in memory, which is all that it can.

use std::{fs, time::Duration};

use anyhow::Context as _;
use camino::Utf8Path;
use model_assets::evidence::Benchmark;
use serde::Deserialize;
use serde_json::json;

use crate::{
    console::Console,
    engine::{Engine, Files},
    supervise::Bounds,
    workspace::Workspace,
};

use super::against::{self, Comparison, Row, median};

const ROUNDS: u32 = 3;
const MEMORY_BYTES_MAX: u64 = 16_000_000_000;
const STALL: Duration = Duration::from_secs(600);

/// Tokens per second of each repeat.
#[derive(Default, Deserialize)]
struct Rates {
    prefill: Vec<f64>,
    decode: Vec<f64>,
}

/// Runs both sides in turn.
///
/// # Errors
/// One side does not load or run.
pub(super) fn compare(
    workspace: &Workspace,
    files: &Files,
    repeats: u32,
    threads: Option<u32>,
    console: &Console,
) -> anyhow::Result<Comparison> {
    let load = against::load();
    let engine = Engine::open(workspace, crate::engine::Profile::Release)?;
    engine.first_start(files, threads, console)?;
    let mut ours = Rates::default();
    let mut theirs = Rates::default();
    let mut last = None;
    for _ in 0..ROUNDS {
        let benchmark = engine.measure(files, repeats, threads, &[], console)?.benchmark;
        let (prefill, decode) = cases(&benchmark)?;
        ours.prefill.push(prefill.1);
        ours.decode.push(decode.1);
        console.step("upstream's Python runtime: benchmark");
        let rates = run(workspace, files, &benchmark, (prefill.0, decode.0), repeats, console)?;
        theirs.prefill.extend(rates.prefill);
        theirs.decode.extend(rates.decode);
        last = Some((benchmark, prefill.0, decode.0));
    }
    let (benchmark, prefill, decode) = last.context("no round ran")?;
    let row =
        |name: String, ours: &[f64], theirs: &[f64]| Row::new(name, "tok/s", median(ours), median(theirs));
    Ok(Comparison {
        what: format!(
            "{} ({}), {} threads, {ROUNDS} rounds of {repeats}",
            files.pte,
            files.mode(),
            benchmark.threads
        ),
        machine: Some(benchmark.machine),
        load,
        sides: ["engine", "Python runtime"],
        rows: vec![
            row(format!("prefill of {prefill}"), &ours.prefill, &theirs.prefill),
            row(format!("decode of {decode}"), &ours.decode, &theirs.decode),
        ],
    })
}

/// The longest prefill and the longest decode: tokens, and tokens per second.
fn cases(benchmark: &Benchmark) -> anyhow::Result<((u32, f64), (u32, f64))> {
    let longest = |kind: &str| {
        let of_kind = benchmark.speeds.iter().filter(|speed| speed.name.starts_with(kind));
        of_kind.max_by_key(|speed| speed.tokens).map(|speed| (speed.tokens, speed.mean))
    };
    longest("pp").zip(longest("tg")).context("the engine measured no prefill or no decode")
}

fn run(
    workspace: &Workspace,
    files: &Files,
    benchmark: &Benchmark,
    (prefill, decode): (u32, u32),
    repeats: u32,
    console: &Console,
) -> anyhow::Result<Rates> {
    let folder = tempfile::tempdir_in(workspace.state())?;
    let folder = Utf8Path::from_path(folder.path()).context("a path is not UTF-8")?;
    let response = folder.join("response.json");
    // Small numbers are tokens of every vocabulary; which ones does not change the arithmetic.
    let tokens = |count: u32| (0..count).map(|token| token % 97).collect::<Vec<_>>();
    let asked = json!({
        "pte": files.pte.canonicalize_utf8()?, "threads": benchmark.threads, "chunk": benchmark.chunk_tokens,
        "repeats": repeats, "prefill": tokens(prefill), "decode": tokens(decode + 1), "response": response,
    });
    let bounds = Bounds { memory_bytes_max: MEMORY_BYTES_MAX, stall: STALL };
    against::script(workspace, "runner.py", folder, &asked, &bounds, console)?;
    serde_json::from_slice(&fs::read(&response)?).with_context(|| format!("{response}: cannot be read"))
}
