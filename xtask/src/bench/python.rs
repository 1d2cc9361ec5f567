//! `bench --against python`: the engine beside upstream's Python runtime, on the same `.pte`, tokens and threads.
//!
//! The engine runs as the app does: a linked model's packed weights are in a file. The Python runtime packs them in memory;
//! it has no other way.

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

const MEMORY_BYTES_MAX: u64 = 16_000_000_000;
const STALL: Duration = Duration::from_secs(600);

/// Tokens per second of each repeat.
#[derive(Deserialize)]
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
    (rounds, threads): (u32, Option<u32>),
    console: &Console,
) -> anyhow::Result<Comparison> {
    let engine = Engine::open(workspace, crate::engine::Profile::Release, console)?;
    // After the compiler, whose load it would be.
    let load = against::load();
    engine.first_start(files, threads, console)?;
    let ours = || Ok(engine.measure(files, 1, threads, &[], console)?.benchmark);
    let theirs = |first: &Benchmark| {
        let (prefill, decode) = cases(first)?;
        console.step("upstream's Python runtime: benchmark");
        run(workspace, files, first, (prefill.0, decode.0), console)
    };
    let taken = against::in_turn(rounds, ours, theirs)?;
    let (benchmark, _) = taken.first().context("no round ran")?;
    let (prefill, decode) = cases(benchmark)?;
    let (mut prefills, mut decodes) = (Vec::new(), Vec::new());
    for (ours, theirs) in &taken {
        let (prefill, decode) = cases(ours)?;
        prefills.push([prefill.1, median(&theirs.prefill)]);
        decodes.push([decode.1, median(&theirs.decode)]);
    }
    Ok(Comparison {
        what: format!("{} ({}), {} threads, {rounds} rounds", files.pte, files.mode(), benchmark.threads),
        machine: benchmark.machine.clone(),
        load,
        sides: ["engine", "Python runtime"],
        rows: vec![
            Row::new(format!("prefill of {}", prefill.0), "tok/s", prefills),
            Row::new(format!("decode of {}", decode.0), "tok/s", decodes),
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
    console: &Console,
) -> anyhow::Result<Rates> {
    let folder = tempfile::tempdir_in(workspace.state())?;
    let folder = Utf8Path::from_path(folder.path()).context("a path is not UTF-8")?;
    let response = folder.join("response.json");
    // Small numbers are tokens of every vocabulary; which ones does not change the arithmetic.
    let tokens = |count: u32| (0..count).map(|token| token % 97).collect::<Vec<_>>();
    let asked = json!({
        "pte": files.pte.canonicalize_utf8()?, "threads": benchmark.threads, "chunk": benchmark.chunk_tokens,
        "repeats": 1, "prefill": tokens(prefill), "decode": tokens(decode + 1), "response": response,
    });
    let bounds = Bounds { memory_bytes_max: MEMORY_BYTES_MAX, stall: STALL };
    against::script(workspace, "runner.py", folder, &asked, &bounds, console)?;
    serde_json::from_slice(&fs::read(&response)?).with_context(|| format!("{response}: cannot be read"))
}
