//! Runs the binary `engine`, so that evidence comes from the runtime that ships.
//!
//! **Invariant:** an answer counts only if it names the bytes of the claim, and the runtime that evidence must come from.

mod benchmark;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Command, Output, Stdio},
    time::Instant,
};

use anyhow::{Context as _, bail, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{
    claim::Claim,
    digest::Digest,
    dir::ModelDir,
    evidence::{Answer, AnswerRequest, Answers, EngineCheck, Load, Parity, TalkRequest, Talked},
    manifest::{RUNTIME_VERSION, Stage},
    recipe::Delivery,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    child,
    console::{Console, ENGINE_STAGE},
    failed::{Cause, Failed},
    supervise::{self, Peaks},
    workspace::Workspace,
};

pub(crate) use self::benchmark::Measured;
#[cfg(test)]
pub(crate) use self::benchmark::Packed;

/// The engine's binary and a place for its answers.
pub(crate) struct Engine {
    binary: Utf8PathBuf,
    folder: tempfile::TempDir,
}

/// What [`Engine::check`] found, and what it took.
pub(crate) struct Checked {
    pub(crate) load: Load,
    pub(crate) parity: Option<Parity>,
    /// For the record of an export.
    pub(crate) stage: Stage,
}

/// The files that a model is run with.
pub(crate) struct Files {
    /// The `.pte`.
    pub(crate) pte: Utf8PathBuf,
    /// Its digest, as it was claimed or proved.
    pub(crate) sha256: Digest,
    /// Tokenizer and template; absent for random weights and for a file without a claim.
    pub(crate) words: Option<(Utf8PathBuf, Utf8PathBuf)>,
    /// Whether the app has it as a file beside it, and so keeps its packed weights in a file too.
    pub(crate) linked: bool,
}

impl Files {
    /// The files of a claim, with the `.pte` at `pte`.
    pub(crate) fn of(dir: &ModelDir, claim: &Claim, pte: Utf8PathBuf) -> Self {
        let place = |name: &str| dir.path().join(name);
        let template = &claim.recipe.tokens.chat_template;
        let tokenizer = || dir.tokenizer_path(&claim.recipe, claim.manifest.bound.tokenizer);
        let words = claim.tokenizer.as_ref().map(|_| (tokenizer(), place(template)));
        let linked = claim.delivery(claim.manifest.file_bytes) == Delivery::Link;
        Self { pte, sha256: claim.manifest.sha256, words, linked }
    }

    /// Where a start has its packed weights.
    pub(crate) fn mode(&self) -> &'static str {
        if self.linked { "packed weights in a file" } else { "packed weights in memory" }
    }

    pub(crate) fn words(&self) -> Vec<String> {
        let pair = |(tokenizer, template): &(Utf8PathBuf, Utf8PathBuf)| {
            ["--tokenizer", tokenizer.as_str(), "--template", template.as_str()].map(str::to_owned)
        };
        self.words.iter().flat_map(pair).collect()
    }
}

impl Engine {
    /// Builds the engine and opens a folder for its answers.
    pub(crate) fn open(workspace: &Workspace, profile: Profile, console: &Console) -> anyhow::Result<Self> {
        let binary = build(workspace, profile, Some(console))?;
        fs::create_dir_all(workspace.state())?;
        Ok(Self { binary, folder: tempfile::tempdir_in(workspace.state())? })
    }

    /// Loads and runs the model and compares it with the eager model's logits in `reference`.
    ///
    /// A linked model's weights are packed into a file for this once, so that a model may be larger than the memory.
    ///
    /// # Errors
    /// It does not load or run, or what ran is not the file that the claim is about.
    pub(crate) fn check(
        &self,
        claim: &Claim,
        files: &Files,
        reference: &Utf8Path,
        console: &Console,
    ) -> anyhow::Result<Checked> {
        console.step("engine: load and parity");
        let began = Instant::now();
        let (EngineCheck { load, parity, .. }, peaks) = self.ran(files, claim.manifest.sha256, reference)?;
        let stage = Stage {
            name: ENGINE_STAGE.to_owned(),
            seconds: began.elapsed().as_secs_f64(),
            // The system's own mark; anonymous memory has none.
            peak_rss_bytes: load.peak_rss_bytes,
            peak_anon_bytes: peaks.anon_bytes,
        };
        Ok(Checked { load, parity, stage })
    }

    /// What the engine says of a file without a claim.
    ///
    /// # Errors
    /// It does not load or run, or what ran is another file.
    pub(crate) fn measured(&self, files: &Files, reference: &Utf8Path) -> anyhow::Result<EngineCheck> {
        Ok(self.ran(files, files.sha256, reference)?.0)
    }

    fn ran(
        &self,
        files: &Files,
        sha256: Digest,
        reference: &Utf8Path,
    ) -> anyhow::Result<(EngineCheck, Peaks)> {
        let response = self.place("check.json")?;
        let arguments = ["--reference", reference.as_str(), "--response", response.as_str()];
        let command = &mut self.command("check", files, &arguments.map(str::to_owned));
        let (output, peaks) = supervise::metered(command)?;
        output_text(files, output)?;
        let found: EngineCheck = self.answer(&response)?;
        ensure_same_model(sha256, &found.runtime, &found.pte_sha256)?;
        Ok((found, peaks))
    }

    /// Replies to prompts that do not depend on each other.
    ///
    /// # Errors
    /// It does not load or run, or what ran is not the file that the claim is about.
    pub(crate) fn answers(
        &self,
        claim: &Claim,
        files: &Files,
        request: &AnswerRequest,
        console: &Console,
    ) -> anyhow::Result<Vec<Answer>> {
        console.step(&format!("engine: {} replies", request.prompts.len()));
        let answers: Answers = self.ask("answer", files, request)?;
        ensure_same_model(claim.manifest.sha256, &answers.runtime, &answers.pte.to_string())?;
        let asked = request.prompts.iter().map(|prompt| &prompt.id);
        ensure!(asked.eq(answers.answers.iter().map(|a| &a.id)), "the engine answered other prompts");
        Ok(answers.answers)
    }

    /// A conversation.
    ///
    /// # Errors
    /// As [`Self::answers`].
    pub(crate) fn talk(
        &self,
        claim: &Claim,
        files: &Files,
        request: &TalkRequest,
        console: &Console,
    ) -> anyhow::Result<Talked> {
        console.step(&format!("engine: conversation of {} turns", request.says.len()));
        let talked: Talked = self.ask("talk", files, request)?;
        ensure_same_model(claim.manifest.sha256, &talked.runtime, &talked.pte.to_string())?;
        Ok(talked)
    }

    /// The command that writes the logits after every token of a text, without the text.
    pub(crate) fn score(&self, files: &Files) -> Vec<String> {
        let command = [self.binary.as_str(), "score", "--model", files.pte.as_str()].map(str::to_owned);
        [command.to_vec(), files.words(), self.scratch(files)].concat()
    }

    /// Arguments that make it pack a linked model's weights into a file for this once.
    fn scratch(&self, files: &Files) -> Vec<String> {
        let folder = Utf8Path::from_path(self.folder.path()).filter(|_| files.linked);
        folder.iter().flat_map(|folder| ["--packed-scratch".to_owned(), folder.to_string()]).collect()
    }

    fn ask<T: DeserializeOwned>(
        &self,
        command: &str,
        files: &Files,
        request: &impl Serialize,
    ) -> anyhow::Result<T> {
        ensure!(files.words.is_some(), "{}: got no tokenizer, expected one beside the recipe", files.pte);
        let (asked, response) =
            (self.place(&format!("{command}-request.json"))?, self.place(&format!("{command}.json"))?);
        fs::write(&asked, serde_json::to_vec(request)?)?;
        let arguments = ["--request", asked.as_str(), "--response", response.as_str()];
        self.run(command, files, &arguments.map(str::to_owned))?;
        self.answer(&response)
    }

    fn place(&self, name: &str) -> anyhow::Result<Utf8PathBuf> {
        let folder = Utf8Path::from_path(self.folder.path()).context("a path is not UTF-8")?;
        Ok(folder.join(name))
    }

    fn answer<T: DeserializeOwned>(&self, response: &Utf8Path) -> anyhow::Result<T> {
        let bytes = fs::read(response).with_context(|| format!("{response}: the engine wrote no answer"))?;
        serde_json::from_slice(&bytes).with_context(|| format!("{response}"))
    }

    /// Runs a command of the engine and returns its standard output; ends it when this process is interrupted.
    fn run(&self, command: &str, files: &Files, arguments: &[String]) -> anyhow::Result<String> {
        output_text(files, supervise::output(&mut self.command(command, files, arguments))?)
    }

    fn command(&self, command: &str, files: &Files, arguments: &[String]) -> Command {
        // What is measured is a start as the app's.
        let scratch = if command == "bench" { Vec::new() } else { self.scratch(files) };
        let words = if ["bench", "check"].contains(&command) { Vec::new() } else { files.words() };
        let mut engine = child::command(&self.binary);
        engine.args([command, "--model", files.pte.as_str()]).args(words).args(scratch).args(arguments);
        engine
    }
}

/// The standard output of an engine that succeeded.
fn output_text(files: &Files, Output { status, stdout, stderr }: Output) -> anyhow::Result<String> {
    if !status.success() {
        let log = String::from_utf8_lossy(&stderr);
        let message = format!("{}: the engine ended with {status}: {}", files.pte, log.trim_end());
        // With a code it refused the file; a signal is a crash, or the system's want of memory.
        let cause = if status.code().is_some() { Cause::Inputs } else { Cause::Machine };
        bail!(Failed::new(cause, message));
    }
    String::from_utf8(stdout).context("the engine's output is not UTF-8")
}

/// How the engine's own code is compiled; the runtime under it is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// As built for tests.
    Dev,
    /// As users get it: benchmarks want this one.
    Release,
}

/// Builds the engine and returns its path. A fresh clone compiles half a minute here, so that a console is told of every
/// package.
pub(crate) fn build(
    workspace: &Workspace,
    profile: Profile,
    console: Option<&Console>,
) -> anyhow::Result<Utf8PathBuf> {
    if let Some(console) = console {
        console.step("engine: build");
    }
    let mut build = child::cargo()
        .current_dir(workspace.root())
        .args(["build", "--quiet", "--package", "engine", "--bin", "engine"])
        .args((profile == Profile::Release).then_some("--release"))
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .context("cargo cannot be started")?;
    let (mut binary, mut compiled) = (None, 0);
    for line in BufReader::new(build.stdout.take().context("cargo has no standard output")?).lines() {
        let line = line?;
        binary = executable(line.as_bytes()).or(binary);
        if let (Some(package), Some(console)) = (compiled_package(&line), console) {
            compiled += 1;
            console.compiled(&package, compiled);
        }
    }
    ensure!(build.wait()?.success(), "the engine does not build");
    binary.context("cargo named no executable for the engine")
}

/// The package that a JSON message of cargo says was compiled now.
fn compiled_package(line: &str) -> Option<String> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let fresh = message["fresh"].as_bool()?;
    (message["reason"] == "compiler-artifact" && !fresh)
        .then(|| message["target"]["name"].as_str().map(str::to_owned))?
}

/// The executable that cargo names last in its JSON messages.
pub(crate) fn executable(messages: &[u8]) -> Option<Utf8PathBuf> {
    String::from_utf8_lossy(messages).lines().rev().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        message.get("executable")?.as_str().map(Utf8PathBuf::from)
    })
}

fn ensure_same_model(expected: Digest, runtime: &str, sha256: &str) -> anyhow::Result<()> {
    ran("the engine", (RUNTIME_VERSION, expected), runtime, sha256)
}

/// What `who` ran is the file that was asked about, in the runtime that evidence must come from.
pub(crate) fn ran(who: &str, expected: (&str, Digest), runtime: &str, sha256: &str) -> anyhow::Result<()> {
    let (wanted, file) = expected;
    ensure!(runtime == wanted, "runtime: got {runtime}, expected {wanted}");
    ensure!(sha256 == file.to_string(), "{who} ran {sha256}, expected {file}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_compiles_is_told_from_what_is_there() {
        let message = |fresh: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"name":"camino"}},"executable":null,"fresh":{fresh}}}"#
            )
        };
        assert_eq!(compiled_package(&message("false")).as_deref(), Some("camino"));
        assert_eq!(compiled_package(&message("true")), None);
        assert_eq!(compiled_package(r#"{"reason":"build-finished","success":true}"#), None);
        assert_eq!(compiled_package("warning: no message"), None);
        assert_eq!(executable(message("false").as_bytes()), None);
    }
}
