//! `cargo xtask dev lint-workflows`: two linters over the workflows, offline: actionlint finds what GitHub cannot run,
//! zizmor what it should not run.
//!
//! **Invariant:** the linters are pinned by a lock, in a venv of their own: see [`crate::pinned_venv`].

use anyhow::{Context as _, anyhow, ensure};
use camino::{Utf8Path, Utf8PathBuf};

use crate::{
    child::{self, cmd},
    exit::{Exit, Failure, Outcome},
    pinned_venv,
    workspace::Workspace,
};

const LOCK: &[u8] = include_bytes!("../../python/lint.lock");

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of the workflows [default: .github/workflows]
    #[arg(value_name = "DIR")]
    folder: Option<Utf8PathBuf>,
}

impl Args {
    /// As if `cargo xtask dev lint-workflows` had been typed.
    pub(crate) fn of_repository() -> Self {
        Self { folder: None }
    }
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Outcome {
    let folder = args.folder.clone().unwrap_or_else(|| workspace.root().join(".github/workflows"));
    let files = workflows(&folder)?;
    let venv = pinned_venv::ensure(workspace, "lint-venv", LOCK).map_err(|error| {
        Failure::new(
            Exit::Setup,
            error,
            "needs Python with venv and the package index; then run: cargo xtask dev lint-workflows",
        )
    })?;
    let shell = child::shell(workspace.root())?;
    // Its optional helpers are switched off: whether they are installed must not decide.
    let paths = &files;
    let (actionlint, zizmor) = (venv.join("bin/actionlint"), venv.join("bin/zizmor"));
    let outcomes = [
        ("actionlint", cmd!(shell, "{actionlint} -shellcheck= -pyflakes= {paths...}").quiet().run()),
        ("zizmor", cmd!(shell, "{zizmor} --offline --quiet --no-config {paths...}").quiet().run()),
    ];
    let failed: Vec<_> =
        outcomes.iter().filter(|(_, outcome)| outcome.is_err()).map(|(name, _)| *name).collect();
    if failed.is_empty() {
        println!("{} workflows: actionlint and zizmor find nothing", files.len());
        return Ok(());
    }
    let error = anyhow!("{folder}: {} found faults", failed.join(" and "));
    Err(Failure::new(Exit::Tests, error, "fix them, then run: cargo xtask dev lint-workflows"))
}

/// The workflow files, sorted; at least one.
fn workflows(folder: &Utf8Path) -> anyhow::Result<Vec<Utf8PathBuf>> {
    let entries = folder.read_dir_utf8().with_context(|| format!("{folder}: cannot be opened"))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.into_path();
        if matches!(path.extension(), Some("yml" | "yaml")) {
            files.push(path);
        }
    }
    files.sort();
    ensure!(!files.is_empty(), "{folder}: holds no workflow");
    Ok(files)
}
