//! `bench --against export-llm`: an export by `cargo xtask export --rehearse` beside one by upstream's `export_llm`.
//!
//! Both start from the same shapes and random weights, and their workers are sampled by the same supervisor. Our time is
//! the whole command with its proofs and publish; upstream's ends with the file written.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use camino::Utf8Path;
use model_assets::{dir::ModelDir, evidence::Machine, manifest::Stage, recipe::Recipe};
use serde_json::json;

use crate::{
    console::{Console, ENGINE_STAGE},
    engine::{self, Profile},
    exit::{Exit, Failure, refused},
    export, setup,
    supervise::{self, Bounds, WorkerRun},
    workspace::Workspace,
};

use super::against::{self, Comparison, Row};

/// Upstream keeps the weights in memory several times; see what it takes rather than stop it.
const MEMORY_BYTES_MAX: u64 = 64_000_000_000;
const STALL: Duration = Duration::from_secs(900);
const MB: f64 = 1e6;

/// Runs both exports, ours first.
///
/// # Errors
/// One of them fails, or ours is refused.
pub(super) fn compare(workspace: &Workspace, model: &str, console: &Console) -> Result<Comparison, Failure> {
    let recipe = ModelDir::new(workspace.models(), model).recipe().map_err(refused)?;
    setup::ensure(workspace)?;
    // Neither side waits for a compiler.
    engine::build(workspace, Profile::Dev, Some(console))?;
    let load = against::load();
    let rehearsal = ModelDir::new(workspace.rehearsals(), model);
    let began = Instant::now();
    export::run_with(workspace, &export::Args::of_rehearsal(model), console.clone())?;
    let our_seconds = began.elapsed().as_secs_f64();
    let manifest = rehearsal.manifest().map_err(refused)?.context("the rehearsal published no manifest")?;
    let (engine, worker): (Vec<_>, Vec<_>) =
        manifest.export.stages.iter().partition(|stage| stage.name == ENGINE_STAGE);
    let worker: f64 = worker.iter().map(|stage| stage.seconds).sum();
    let whole =
        |peak: fn(&Stage) -> u64, worker: u64| engine.iter().map(|stage| peak(stage)).fold(worker, u64::max);
    console.clear();
    console.step("export_llm: export");
    let began = Instant::now();
    let (run, file_bytes) = upstream(workspace, &recipe, console)
        .map_err(|error| failed(model, supervise::interrupted(), error))?;
    let their_seconds = began.elapsed().as_secs_f64();
    let (anonymous, resident) =
        (manifest.export.peak_anon_bytes.unwrap_or_default(), manifest.export.peak_rss_bytes);
    let theirs = run.peaks;
    let once = |name: &str, unit, ours: f64, theirs: f64| Row::new(name, unit, vec![[ours, theirs]]);
    let mb = |name: &str, ours: u64, theirs: u64| once(name, "MB", ours as f64 / MB, theirs as f64 / MB);
    Ok(Comparison {
        what: format!("{model}: export of random weights"),
        machine: Machine::here(),
        load,
        sides: ["cargo xtask export", "export_llm"],
        rows: vec![
            once("whole command (ours with load, parity and publish)", "s", our_seconds, their_seconds),
            once("until the file is written", "s", worker, their_seconds),
            mb("until the file is written: peak anonymous memory", anonymous, theirs.anon_bytes),
            mb("until the file is written: peak resident memory", resident, theirs.rss_bytes),
            mb(
                "whole command: peak anonymous memory",
                whole(|it| it.peak_anon_bytes, anonymous),
                theirs.anon_bytes,
            ),
            mb(
                "whole command: peak resident memory",
                whole(|it| it.peak_rss_bytes, resident),
                theirs.rss_bytes,
            ),
            mb("file", manifest.file_bytes, file_bytes),
        ],
    })
}

/// Upstream's half did not come to its end; ours has.
fn failed(model: &str, interrupted: bool, error: anyhow::Error) -> Failure {
    let again = format!("cargo xtask bench {model} --against export-llm");
    if interrupted {
        let hint = format!("our rehearsal stays, nothing was compared; run again: {again}");
        return Failure::new(Exit::Interrupted, error, hint);
    }
    let hint =
        format!("upstream's exporter failed and ours did not; look at its lines above, then run: {again}");
    Failure::new(Exit::Export, error, hint)
}

/// Runs upstream's exporter; returns what it used and the size of its file, bytes.
fn upstream(workspace: &Workspace, recipe: &Recipe, console: &Console) -> anyhow::Result<(WorkerRun, u64)> {
    let folder = tempfile::tempdir_in(workspace.state())?;
    let folder = Utf8Path::from_path(folder.path()).context("a path is not UTF-8")?.canonicalize_utf8()?;
    let asked = json!({
        "architecture": recipe.architecture, "seq_len": recipe.export.seq_len, "folder": folder,
    });
    let bounds = Bounds { memory_bytes_max: MEMORY_BYTES_MAX, stall: STALL };
    let run = against::script(workspace, "export_llm.py", &folder, &asked, &bounds, console)?;
    let file = folder.join("upstream.pte");
    ensure!(file.exists(), "{file}: export_llm wrote no file:\n{}", run.tail.join("\n"));
    let bytes = fs::metadata(&file)?.len();
    Ok((run, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_upstreams_half_ends_is_told_by_the_exit_code() {
        let ended = |interrupted| {
            let failure = failed("tiny", interrupted, anyhow::anyhow!("export_llm.py: was interrupted"));
            let hint = failure.hint.unwrap();
            assert!(hint.ends_with("cargo xtask bench tiny --against export-llm"), "{hint}");
            failure.code
        };
        assert_eq!((ended(false), ended(true)), (Exit::Export, Exit::Interrupted));
    }
}
