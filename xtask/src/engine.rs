//! Runs the engine's own binary: what it proves was proved by the runtime that ships.

use std::{fs, process::Command};

use anyhow::{Context as _, anyhow, bail, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{
    claim::Claim,
    evidence::EngineCheck,
    manifest::{Evidence, EvidenceBinding, RUNTIME_VERSION},
};

use crate::workspace::Workspace;

/// Builds the engine and returns its path.
pub(crate) fn build(workspace: &Workspace) -> anyhow::Result<Utf8PathBuf> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .current_dir(workspace.root())
        .args(["build", "--quiet", "--package", "engine", "--bin", "engine"])
        .arg("--message-format=json-render-diagnostics")
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cargo cannot be started")?;
    ensure!(output.status.success(), "the engine does not build");
    let messages = String::from_utf8_lossy(&output.stdout);
    let executable = messages.lines().rev().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        message.get("executable")?.as_str().map(Utf8PathBuf::from)
    });
    executable.context("cargo named no executable for the engine")
}

/// Loads and runs `pte` in the engine and compares it with the eager model's logits in `reference`.
///
/// # Errors
/// It does not load or run, or what ran is not the file that the claim is about.
pub(crate) fn measure(
    workspace: &Workspace,
    claim: &Claim,
    pte: &Utf8Path,
    reference: &Utf8Path,
) -> anyhow::Result<Evidence> {
    let engine = build(workspace)?;
    let folder = tempfile::tempdir_in(workspace.state())?;
    let folder = Utf8Path::from_path(folder.path()).ok_or_else(|| anyhow!("a path is not UTF-8"))?.to_owned();
    let response = folder.join("engine.json");
    let output = Command::new(&engine)
        .args([
            "check",
            "--model",
            pte.as_str(),
            "--reference",
            reference.as_str(),
            "--response",
            response.as_str(),
        ])
        .output()
        .with_context(|| format!("{engine}: cannot be started"))?;
    if !output.status.success() {
        bail!(
            "{pte}: the engine ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    let answer = fs::read(&response).with_context(|| format!("{response}: the engine wrote no answer"))?;
    let check: EngineCheck = serde_json::from_slice(&answer).with_context(|| format!("{response}"))?;
    ensure!(check.runtime == RUNTIME_VERSION, "runtime: got {}, expected {RUNTIME_VERSION}", check.runtime);
    let sha256 = claim.manifest.sha256;
    ensure!(
        check.pte_sha256 == sha256.to_string(),
        "{pte}: the engine ran {}, expected {sha256}",
        check.pte_sha256
    );
    let bound = EvidenceBinding::current(sha256, claim.bound());
    Ok(Evidence { bound, load: Some(check.load), parity: check.parity })
}
