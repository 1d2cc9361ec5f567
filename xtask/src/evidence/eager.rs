//! Asks the eager model: the checkpoint in Python, before quantization and after it.
//!
//! **Invariant:** the checkpoint is the one that the manifest names, by the digest of every file.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::{Context as _, ensure};
use camino::Utf8PathBuf;
use model_assets::{
    evidence::{Answer, AnswerRequest},
    manifest::FileRecord,
    recipe::{Quantization, Source},
};
use serde::{Deserialize, de::DeserializeOwned};

use super::Subject;
use crate::{
    checkpoint,
    exit::Failure,
    failed,
    protocol::{self, Question},
    setup,
    supervise::{self, Bounds},
    weights,
};

const STALL: Duration = Duration::from_secs(600);
/// Widened weights come and go by chunks: more than this is a leak.
const MEMORY_BYTES_MAX: u64 = 12_000_000_000;
const THREADS: u32 = 2;

/// Where the weights are, when not where the recipe says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Checkpoint(pub(crate) Option<Utf8PathBuf>);

/// One run of one model.
pub(crate) struct EagerRun {
    pub(crate) name: &'static str,
    /// None, or the scheme of the recipe.
    pub(crate) quantization: Quantization,
    pub(crate) request: AnswerRequest,
}

/// Replies by the name of the run.
pub(crate) type Replies = BTreeMap<String, Vec<Answer>>;

#[derive(Deserialize)]
struct Response {
    #[serde(default)]
    source_files: Vec<FileRecord>,
}

#[derive(Deserialize)]
struct Answered {
    answers: Replies,
}

/// Runs the eager model.
///
/// # Errors
/// There is no checkpoint, it is another than the manifest names, or the worker fails.
pub(crate) fn ask(
    subject: &Subject<'_>,
    checkpoint: &Checkpoint,
    runs: &[EagerRun],
) -> anyhow::Result<Replies> {
    subject.console.step("eager model");
    let run = |it: &EagerRun| protocol::EagerRun::new(it.name, it.quantization, subject.recipe, &it.request);
    let question = Question::Answers { runs: runs.iter().map(run).collect() };
    let Answered { answers } = work(subject, checkpoint, question)?;
    for run in runs {
        let ids = answers.get(run.name).map(|answers| answers.iter().map(|a| &a.id));
        let asked = run.request.prompts.iter().map(|prompt| &prompt.id);
        ensure!(ids.is_some_and(|ids| ids.eq(asked)), "eager model: {}: answered other prompts", run.name);
    }
    Ok(answers)
}

/// Gives the worker a task on the checkpoint, and believes its answer if it is about the files of the manifest.
///
/// # Errors
/// As [`ask`].
pub(crate) fn work<T: DeserializeOwned>(
    subject: &Subject<'_>,
    checkpoint: &Checkpoint,
    question: Question,
) -> anyhow::Result<T> {
    // The caller's failure has the hint; the set-up's own is in the chain.
    setup::ensure(subject.workspace).map_err(|failure| failure.into_error())?;
    let work = subject.folder("eager")?;
    let folder = tempfile::tempdir_in(&work)?;
    let place = Utf8PathBuf::try_from(folder.path().to_owned())?;
    let (request, response) = (place.join("request.json"), place.join("response.json"));
    let (recipe, words) = (subject.recipe, subject.words.as_ref());
    let (tokenizer, template) = words.context("got no tokenizer, expected one beside the recipe")?;
    let model = protocol::Model {
        source: source(subject, checkpoint)?,
        architecture: (&recipe.architecture).into(),
        seq_len: recipe.export.seq_len,
        bos_id: recipe.tokens.bos,
        eos_ids: recipe.tokens.eos.clone(),
        tokenizer: tokenizer.clone(),
        chat_template: template.clone(),
        threads: THREADS,
        work_dir: place.join("weights"),
    };
    let asked = protocol::Ask { protocol: protocol::PROTOCOL, model, question, response: response.clone() };
    fs::write(&request, serde_json::to_vec(&asked)?)?;
    supervise::watch_interrupts()?;
    let bounds = Bounds { memory_bytes_max: MEMORY_BYTES_MAX, stall: STALL };
    let script = subject.workspace.python_sources().join("proofmark_worker/run.py");
    let log = work.join("log.txt");
    let python = subject.workspace.python();
    let ran = supervise::run(&python, &script, &request, &log, &bounds, subject.console)?;
    let all: serde_json::Value = failed::answer(&response, &ran).context("eager model")?;
    let answer = Response::deserialize(&all).with_context(|| format!("{response}"))?;
    let named: Vec<_> = checkpoint::weights(&subject.source.files).collect();
    ensure!(
        answer.source_files.iter().eq(named.iter().copied()),
        "checkpoint: got {:?}, expected the files of the manifest {named:?}",
        answer.source_files
    );
    serde_json::from_value(all).with_context(|| format!("{response}"))
}

fn source(subject: &Subject<'_>, checkpoint: &Checkpoint) -> anyhow::Result<protocol::Source> {
    let folder = match (&checkpoint.0, &subject.source.source) {
        (_, Source::Random { seed }) => return Ok(protocol::Source::Random { seed: *seed }),
        (Some(given), _) => given
            .canonicalize_utf8()
            .with_context(|| format!("{given}: cannot be opened, expected a checkpoint directory"))?,
        (None, Source::Path { path, .. }) => subject.dir.path().join(path),
        (None, Source::Gguf { .. }) => {
            weights::of_gguf(subject.workspace, subject.recipe).map_err(Failure::into_error)?
        }
        // The checkpoint that was exported, from the cache when it is still there.
        (None, Source::Hub { repo, revision, .. }) => {
            weights::checkpoint(subject.workspace, subject.recipe, false, subject.console)
                .map_err(Failure::into_error)?
                .with_context(|| format!("{repo}@{revision}: got no checkpoint, expected --checkpoint DIR"))?
        }
    };
    Ok(protocol::Source::Safetensors { dir: folder })
}
