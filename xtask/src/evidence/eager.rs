//! Asks the eager model: the checkpoint in Python, before quantization and after it.
//!
//! **Invariant:** the checkpoint is the one that the manifest names, by the digest of every file.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::{Context as _, ensure};
use camino::Utf8PathBuf;
use model_assets::{
    evidence::{Answer, AnswerRequest},
    manifest::FileRecord,
    recipe::{Recipe, Source},
};
use serde::Deserialize;
use serde_json::json;

use super::Bench;
use crate::{
    Failure, export, failed, setup,
    supervise::{self, Bounds},
    weights,
};

const STALL: Duration = Duration::from_secs(600);
/// Widened weights come and go by chunks: more than this is a leak.
const MEMORY_BYTES_MAX: u64 = 12_000_000_000;
const THREADS: usize = 2;

/// Where the weights are, when not where the recipe says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Checkpoint(pub(crate) Option<Utf8PathBuf>);

/// One run of one model.
pub(crate) struct Run {
    pub(crate) name: &'static str,
    /// `fp32`, or the scheme of the recipe.
    pub(crate) quantization: &'static str,
    pub(crate) request: AnswerRequest,
}

/// Replies by the name of the run.
pub(crate) type Replies = BTreeMap<String, Vec<Answer>>;

#[derive(Deserialize)]
struct Response {
    #[serde(default)]
    answers: Replies,
    #[serde(default)]
    source_files: Vec<FileRecord>,
}

/// Runs the eager model.
///
/// # Errors
/// There is no checkpoint, it is another than the manifest names, or the worker fails.
pub(super) fn ask(bench: &Bench<'_>, checkpoint: &Checkpoint, runs: &[Run]) -> anyhow::Result<Replies> {
    // The caller's failure has the hint; the set-up's own is in the chain.
    setup::ensure(bench.workspace).map_err(|failure| failure.into_error())?;
    let work = bench.folder("eager")?;
    let folder = tempfile::tempdir_in(&work)?;
    let place = Utf8PathBuf::try_from(folder.path().to_owned())?;
    let (request, response) = (place.join("request.json"), place.join("response.json"));
    let recipe = &bench.claim.recipe;
    let mut asked = shape(recipe)?;
    let object = asked.as_object_mut().context("a request is an object")?;
    object.extend([
        ("source".to_owned(), source(bench, checkpoint)?),
        (
            "tokenizer".to_owned(),
            json!(bench.dir.tokenizer_path(recipe, bench.claim.manifest.bound.tokenizer)),
        ),
        ("chat_template".to_owned(), json!(bench.dir.path().join(&recipe.tokens.chat_template))),
        ("work_dir".to_owned(), json!(place.join("weights"))),
        ("response".to_owned(), json!(response)),
        ("runs".to_owned(), runs.iter().map(run).collect()),
    ]);
    fs::write(&request, serde_json::to_vec(&asked)?)?;
    bench.console.step("eager model");
    supervise::watch_interrupts()?;
    let bounds = Bounds { memory_bytes_max: MEMORY_BYTES_MAX, stall: STALL };
    let script = bench.workspace.python_sources().join("proofmark_worker/run.py");
    let log = work.join("log.txt");
    let ran = supervise::run(&bench.workspace.python(), &script, &request, &log, &bounds, bench.console)?;
    let answer: Response = failed::answer(&response, &ran).context("eager model")?;
    let named: Vec<_> = export::weights(&bench.claim.manifest.source.files).collect();
    ensure!(
        answer.source_files.iter().eq(named.iter().copied()),
        "checkpoint: got {:?}, expected the files of the manifest {named:?}",
        answer.source_files
    );
    for run in runs {
        let ids = answer.answers.get(run.name).map(|answers| answers.iter().map(|a| &a.id));
        let asked = run.request.prompts.iter().map(|prompt| &prompt.id);
        ensure!(ids.is_some_and(|ids| ids.eq(asked)), "eager model: {}: answered other prompts", run.name);
    }
    Ok(answer.answers)
}

fn run(run: &Run) -> serde_json::Value {
    let AnswerRequest { prompts, temperature, seed, tokens_max } = &run.request;
    json!({
        "name": run.name, "quantization": run.quantization, "prompts": prompts, "seed": seed,
        "temperature": f64::from(*temperature), "tokens_max": tokens_max,
    })
}

fn shape(recipe: &Recipe) -> anyhow::Result<serde_json::Value> {
    Ok(json!({
        "protocol": 1, "task": "answers", "architecture": weights::shape(recipe)?, "seq_len": recipe.export.seq_len,
        "bos_id": recipe.tokens.bos, "eos_ids": recipe.tokens.eos, "threads": THREADS,
    }))
}

fn source(bench: &Bench<'_>, checkpoint: &Checkpoint) -> anyhow::Result<serde_json::Value> {
    let folder = match (&checkpoint.0, &bench.claim.manifest.source.source) {
        (_, Source::Random { seed }) => return Ok(json!({"kind": "random", "seed": seed})),
        (Some(given), _) => given
            .canonicalize_utf8()
            .with_context(|| format!("{given}: cannot be opened, expected a checkpoint directory"))?,
        (None, Source::Path { path }) => bench.dir.path().join(path),
        // The checkpoint that was exported, from the cache when it is still there.
        (None, Source::Hub { repo, revision, .. }) => {
            weights::checkpoint(bench.workspace, &bench.claim.recipe, false, bench.console)
                .map_err(Failure::into_error)?
                .with_context(|| format!("{repo}@{revision}: got no checkpoint, expected --checkpoint DIR"))?
        }
    };
    Ok(json!({"kind": "safetensors", "dir": folder}))
}
