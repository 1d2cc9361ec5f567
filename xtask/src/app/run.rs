//! `cargo xtask app run`: the app with a model, as a developer starts it.

use anyhow::{Context as _, anyhow};

use crate::{
    child,
    exit::{Exit, Failure, Outcome},
    workspace::Workspace,
};

/// Runs the app from where this command was typed, so that paths among its arguments mean what they meant there. Its exit code
/// is printed, not passed on: the codes of this command have other meanings.
pub(super) fn with(workspace: &Workspace, model: &str, arguments: &[String]) -> Outcome {
    let status = child::cargo()
        .args(["run", "--quiet", "--package", "app", "--manifest-path"])
        .arg(workspace.root().join("Cargo.toml"))
        .arg("--")
        .args(arguments)
        .env("PROOFMARK_MODEL", model)
        .status()
        .context("cargo cannot be started")?;
    if status.success() {
        return Ok(());
    }
    let hint = format!("where the model is missing or void, run: cargo xtask export {model}");
    Err(Failure::new(Exit::Failure, anyhow!("the app ended with {status}"), hint))
}
