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
use serde_json::json;

use super::{Bench, Checkpoint, Subject, eager};
use crate::engine::{self, Engine};

/// Results per token, below `.proofmark`.
pub(crate) const TOKENS_FILE: &str = "tokens.jsonl";

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

/// Of a `.pte` in the engine.
///
/// # Errors
/// As [`measure`].
pub(super) fn of_pte(
    bench: &Bench<'_>,
    engine: &Engine,
    checkpoint: &Checkpoint,
) -> anyhow::Result<Quality> {
    ensure!(bench.files.words.is_some(), "{}: got no tokenizer, expected one beside the recipe", bench.files.pte);
    let runtime = Runtime {
        who: "the engine",
        command: engine.score(&bench.files),
        version: RUNTIME_VERSION,
        sha256: bench.claim.manifest.sha256,
    };
    let parameters = bench.claim.manifest.export.parameters;
    measure(&bench.subject(), &runtime, parameters, checkpoint)
}

/// Of any file in the runtime that runs it.
///
/// # Errors
/// The text is another than the recipe or this repository names, or is tokenized differently; there is no checkpoint; one of
/// the two processes fails; another file was run.
pub(crate) fn measure(
    subject: &Subject<'_>,
    runtime: &Runtime,
    parameters: u64,
    checkpoint: &Checkpoint,
) -> anyhow::Result<Quality> {
    let (text, sha256) = text(subject)?;
    let window = subject.recipe.export.seq_len.min(WINDOW_TOKENS_MAX);
    let tokens = subject.folder("quality")?.join(TOKENS_FILE);
    let mut command = runtime.command.clone();
    command.extend(["--texts", text.as_str(), "--window", &window.to_string()].map(str::to_owned));
    subject.console.step("quality: unquantized model and engine, token by token");
    let asked = json!({
        "window": window, "tokens_max": tokens_max(parameters), "texts": text, "engine": command,
        "tokens_file": tokens,
    });
    let Response { engine: Scored { runtime: ran, sha256: file }, windows } =
        eager::work(subject, checkpoint, "quality", asked)?;
    engine::ran(runtime.who, (runtime.version, runtime.sha256), &ran, &file.to_string())?;
    Ok(Quality { text: sha256, tokens: digest(&tokens)?, windows })
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

fn digest(path: &Utf8Path) -> anyhow::Result<Digest> {
    let mut file = File::open(path).with_context(|| format!("{path}: cannot be opened"))?;
    Digest::of_reader(&mut file).with_context(|| format!("{path}: cannot be read"))
}
