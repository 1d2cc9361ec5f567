//! Runs the reserve's own binary: builds llama.cpp, asks for evidence and figures.
//!
//! It is built in a target directory of its own, so that its compiler flags and its ten minutes touch no other build.
//!
//! **Invariant:** an answer counts only if it names the bytes of the claim, and the runtime that evidence must come from.

use std::{
    fs,
    process::{Command, Output, Stdio},
};

use anyhow::{Context as _, bail, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{
    digest::Digest,
    dir::ModelDir,
    evidence::Benchmark,
    reserve::{RESERVE_RUNTIME, ReserveBinding, ReserveCheck, ReserveClaim, ReserveEvidence},
};

use crate::{
    child,
    console::Console,
    evidence::{Checkpoint, Subject, quality},
    setup, supervise,
    workspace::Workspace,
};

/// The reserve's binary and a place for its answers.
pub(crate) struct Reserve {
    binary: Utf8PathBuf,
    folder: tempfile::TempDir,
}

impl Reserve {
    /// Builds the binary and opens a folder for its answers.
    pub(crate) fn open(workspace: &Workspace, console: &Console) -> anyhow::Result<Self> {
        // It links the engine too, for tokenizer and template.
        setup::ensure(workspace).map_err(crate::exit::Failure::into_error)?;
        console.step("reserve: build llama.cpp (the first time ten minutes of one core)");
        let binary = build(workspace)?;
        Ok(Self { binary, folder: tempfile::tempdir_in(workspace.state())? })
    }

    /// Loads and runs a GGUF, and compares it with the unquantized model where there is a checkpoint.
    pub(crate) fn check(
        &self,
        claim: &ReserveClaim,
        gguf: &Utf8Path,
        checkpoint: Option<(&Subject<'_>, &Checkpoint)>,
        console: &Console,
    ) -> anyhow::Result<ReserveEvidence> {
        console.step("reserve: load");
        let folder = Utf8Path::from_path(self.folder.path()).context("a path is not UTF-8")?;
        let response = folder.join("check.json");
        // Its threads spin at every barrier: beside another load two of them are far slower than one.
        let model = ["--threads", "1", "--model", gguf.as_str()];
        self.run(&[&["check"][..], &model, &["--response", response.as_str()]].concat())?;
        let bytes =
            fs::read(&response).with_context(|| format!("{response}: the reserve wrote no answer"))?;
        let check: ReserveCheck = serde_json::from_slice(&bytes).with_context(|| response.clone())?;
        let ReserveCheck { runtime, gguf: ran, load } = check;
        ensure_same_model(claim.manifest.sha256, &runtime, &ran.to_string())?;
        let bound = ReserveBinding::current(ran, claim.bound());
        let Some((subject, checkpoint)) = checkpoint else {
            return Ok(ReserveEvidence { bound, load, quality: None });
        };
        let words =
            subject.words.iter().flat_map(|(tokenizer, template)| word_arguments(tokenizer, template));
        let command = [self.binary.as_str(), "score"].into_iter().chain(model).map(str::to_owned);
        let runtime = quality::Runtime {
            who: "the reserve",
            command: command.chain(words).collect(),
            version: RESERVE_RUNTIME,
            sha256: claim.manifest.sha256,
        };
        let parameters = claim.recipe.architecture.parameters();
        let quality = quality::measure(subject, &runtime, parameters, checkpoint)?;
        Ok(ReserveEvidence { bound, load, quality: Some(quality) })
    }

    /// Measures speed and memory.
    pub(crate) fn bench(
        &self,
        claim: &ReserveClaim,
        dir: &ModelDir,
        gguf: &Utf8Path,
        repeats: u32,
        threads: u32,
    ) -> anyhow::Result<Benchmark> {
        let (repeats, threads) = (repeats.to_string(), threads.to_string());
        let mut arguments =
            vec!["bench", "--model", gguf.as_str(), "--repeats", &repeats, "--threads", &threads];
        let words = words(claim, dir);
        arguments.extend(words.iter().map(String::as_str));
        let stdout = self.run(&arguments)?;
        believed(&stdout, claim.manifest.sha256)
    }

    fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let Output { status, stdout, stderr } =
            supervise::output(child::command(&self.binary).args(arguments))?;
        if !status.success() {
            bail!("the reserve ended with {status}: {}", String::from_utf8_lossy(&stderr).trim_end());
        }
        String::from_utf8(stdout).context("the reserve's output is not UTF-8")
    }
}

/// Figures, if they are about the file that was asked about.
fn believed(answer: &str, expected: Digest) -> anyhow::Result<Benchmark> {
    let benchmark: Benchmark =
        serde_json::from_str(answer).context("the reserve's benchmark cannot be read")?;
    ensure_same_model(expected, &benchmark.runtime, &benchmark.pte_sha256)?;
    Ok(benchmark)
}

fn ensure_same_model(expected: Digest, runtime: &str, sha256: &str) -> anyhow::Result<()> {
    crate::engine::ran("the reserve", (RESERVE_RUNTIME, expected), runtime, sha256)
}

fn words(claim: &ReserveClaim, dir: &ModelDir) -> Vec<String> {
    if claim.tokenizer.is_none() {
        return Vec::new();
    }
    let tokenizer = dir.tokenizer_path(&claim.recipe, claim.manifest.bound.tokenizer);
    word_arguments(&tokenizer, &dir.path().join(&claim.recipe.tokens.chat_template))
}

/// The arguments that name a tokenizer and a template, for the engine and the reserve alike.
fn word_arguments(tokenizer: &Utf8Path, template: &Utf8Path) -> Vec<String> {
    ["--tokenizer", tokenizer.as_str(), "--template", template.as_str()].map(str::to_owned).into()
}

/// A cargo command in the reserve's own target directory, optimized, with what this processor can do.
pub(crate) fn cargo(workspace: &Workspace, command: &str) -> Command {
    let mut cargo = child::cargo();
    cargo
        .current_dir(workspace.root())
        .args([command, "--release", "--package", "reserve", "--features", "runtime-llamacpp"])
        .env("CARGO_TARGET_DIR", workspace.state().join("reserve/target"))
        .envs(features().into_iter().map(|name| (name, "ON")));
    cargo
}

/// ExecuTorch looks at the processor when it runs, llama.cpp when it is built: a comparison with its defaults (AVX2)
/// would be unfair to it.
fn features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        let has = |name: &'static str, there: bool| there.then_some(name);
        [
            has("GGML_AVX512", std::arch::is_x86_feature_detected!("avx512bw")),
            has("GGML_AVX512_VBMI", std::arch::is_x86_feature_detected!("avx512vbmi")),
            has("GGML_AVX512_VNNI", std::arch::is_x86_feature_detected!("avx512vnni")),
            has("GGML_AVX512_BF16", std::arch::is_x86_feature_detected!("avx512bf16")),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
    #[cfg(not(target_arch = "x86_64"))]
    Vec::new()
}

fn build(workspace: &Workspace) -> anyhow::Result<Utf8PathBuf> {
    let mut build = cargo(workspace, "build");
    build
        .args(["--quiet", "--bin", "reserve", "--message-format=json-render-diagnostics"])
        .stderr(Stdio::inherit());
    let (status, stdout) = supervise::stdout(&mut build)?;
    ensure!(status.success(), "the reserve does not build; it needs cmake and libclang");
    crate::engine::executable(&stdout).context("cargo named no executable for the reserve")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_another_file_or_runtime_are_not_believed() {
        let ours = Digest::from_bytes([0; 32]);
        let answer = |runtime: &str| {
            let benchmark = Benchmark { runtime: runtime.to_owned(), ..crate::bench::tests::sample() };
            serde_json::to_string(&benchmark).unwrap()
        };
        assert_eq!(believed(&answer(RESERVE_RUNTIME), ours).unwrap().runtime, RESERVE_RUNTIME);
        let error = believed(&answer(RESERVE_RUNTIME), Digest::of(b"another")).unwrap_err().to_string();
        assert!(error.starts_with("the reserve ran 0000"), "{error}");
        assert!(
            believed(&answer("llama-cpp-sys-2 0.0.0"), ours)
                .unwrap_err()
                .to_string()
                .contains("runtime: got")
        );
    }
}
