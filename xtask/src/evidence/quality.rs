//! Text quality: the worker computes the unquantized model's logits and compares those that a runtime writes, token by token.
//!
//! The worker starts the runtime's own binary and reads its standard output, so that neither waits for the other when one
//! dies, and both end with the group that this process supervises.
//!
//! **Invariant:** the figures are believed only if the runtime ran the very file that the claim is about.

use std::fs::File;

use anyhow::{Context as _, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{
    digest::Digest,
    evidence::{
        Quality, QualityWindow,
        quality::{GENERAL_SHA256, Scored, WINDOW_TOKENS_MAX, tokens_max},
    },
    manifest::RUNTIME_VERSION,
};
use serde::Deserialize;

use super::{Bench, Checkpoint, Measured, Measurer, Round, Subject, eager, no_questions};
use crate::{
    engine::{self, Engine, Profile},
    protocol::Question,
};

/// Results per token, below `.proofmark`.
const TOKENS_FILE: &str = "tokens.jsonl";

pub(super) const MEASURER: Measurer = Measurer { ask: no_questions, measure: evidence };

/// The binary that writes logits, with all of its arguments but those about the text; what it must say that it ran.
pub(crate) struct Runtime {
    pub(crate) who: &'static str,
    pub(crate) command: Vec<String>,
    pub(crate) version: &'static str,
    pub(crate) sha256: Digest,
}

#[derive(Deserialize)]
struct Response {
    engine: Scored,
    windows: Vec<QualityWindow>,
}

fn evidence(round: &Round<'_>, measured: &mut Measured) -> anyhow::Result<()> {
    let (bench, engine) = (round.bench, round.bench.engine(Profile::Dev)?);
    let parameters = bench.claim.manifest.export.parameters;
    let quality = measure(&bench.subject(), &runtime(bench, &engine), parameters, round.checkpoint)?;
    measured.evidence.quality = Some(quality);
    Ok(())
}

/// The engine on the `.pte`.
pub(crate) fn runtime(bench: &Bench<'_>, engine: &Engine) -> Runtime {
    Runtime {
        who: "the engine",
        command: engine.score(&bench.files),
        version: RUNTIME_VERSION,
        sha256: bench.claim.manifest.sha256,
    }
}

/// The command on a text.
pub(crate) fn with_text(runtime: &Runtime, text: &Utf8Path, window: u32) -> Vec<String> {
    let text = ["--texts", text.as_str(), "--window", &window.to_string()].map(str::to_owned);
    [runtime.command.as_slice(), &text].concat()
}

/// Of a file in the runtime that runs it, on the text that the recipe names, or the general one.
///
/// # Errors
/// As [`scored`], and when the text is another than is named.
pub(crate) fn measure(
    subject: &Subject<'_>,
    runtime: &Runtime,
    parameters: u64,
    checkpoint: &Checkpoint,
) -> anyhow::Result<Quality> {
    let (text, sha256) = text(subject)?;
    of_text(subject, runtime, parameters, checkpoint, &text, sha256)
}

/// The same on any text.
///
/// # Errors
/// As [`scored`].
pub(crate) fn of_text(
    subject: &Subject<'_>,
    runtime: &Runtime,
    parameters: u64,
    checkpoint: &Checkpoint,
    text: &Utf8Path,
    sha256: Digest,
) -> anyhow::Result<Quality> {
    let window = subject.recipe.export.seq_len.min(WINDOW_TOKENS_MAX);
    let windows = scored(subject, runtime, checkpoint, text, window, tokens_max(parameters))?;
    Ok(Quality { text: sha256, tokens: digest(&tokens_file(subject)?)?, windows })
}

/// Sums per window.
///
/// # Errors
/// The text is tokenized differently by the two sides; there is no checkpoint; one of the two processes fails; another file was
/// run.
pub(crate) fn scored(
    subject: &Subject<'_>,
    runtime: &Runtime,
    checkpoint: &Checkpoint,
    text: &Utf8Path,
    window: u32,
    tokens_max: u64,
) -> anyhow::Result<Vec<QualityWindow>> {
    subject.console.step("quality: unquantized model and engine, token by token");
    let question = Question::Quality {
        window,
        tokens_max,
        texts: text.to_owned(),
        engine: with_text(runtime, text, window),
        tokens_file: tokens_file(subject)?,
    };
    let Response { engine: Scored { runtime: ran, sha256: file }, windows } =
        eager::work(subject, checkpoint, question)?;
    engine::ran(runtime.who, (runtime.version, runtime.sha256), &ran, &file.to_string())?;
    Ok(windows)
}

/// Where the results per token are left.
pub(crate) fn tokens_file(subject: &Subject<'_>) -> anyhow::Result<Utf8PathBuf> {
    Ok(subject.folder("quality")?.join(TOKENS_FILE))
}

/// The text that the recipe names, or the general one: the very bytes that are named.
fn text(subject: &Subject<'_>) -> anyhow::Result<(Utf8PathBuf, Digest)> {
    let own = subject.recipe.quality.as_ref().and_then(|limits| limits.text.as_ref());
    let (path, expected) = match own {
        Some(own) => (subject.dir.path().join(&own.file), own.sha256.to_string()),
        None => {
            let general = "model-assets/evidence/text-general.jsonl";
            (subject.workspace.root().join(general), GENERAL_SHA256.to_owned())
        }
    };
    let got = digest(&path)?;
    ensure!(got.to_string() == expected, "{path}: got sha256 {got}, expected {expected}");
    Ok((path.canonicalize_utf8()?, got))
}

pub(crate) fn digest(path: &Utf8Path) -> anyhow::Result<Digest> {
    let mut file = File::open(path).with_context(|| format!("{path}: cannot be opened"))?;
    Digest::of_reader(&mut file).with_context(|| format!("{path}: cannot be read"))
}
