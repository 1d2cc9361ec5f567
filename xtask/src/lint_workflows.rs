//! `cargo xtask lint-workflows`: two linters over the workflows, offline: actionlint for what GitHub would not run,
//! zizmor for what it should not.
//!
//! **Invariant:** the linters come from a hash-pinned lock, as wheels only, into a venv of their own: the export's lock,
//! whose digest is in every manifest, does not change with them.

use std::fs;

use anyhow::{Context as _, anyhow, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::digest::Digest;

use crate::{EXIT_SETUP, EXIT_TESTS, Failure, Outcome, setup::system_python, workspace::Workspace};

const LOCK: &[u8] = include_bytes!("../python/lint.lock");

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The workflows
    #[arg(value_name = "DIR")]
    folder: Option<Utf8PathBuf>,
}

impl Args {
    /// As if `cargo xtask lint-workflows` had been typed.
    pub(crate) fn of_repository() -> Self {
        Self { folder: None }
    }
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Outcome {
    let folder = args.folder.clone().unwrap_or_else(|| workspace.root().join(".github/workflows"));
    let files = workflows(&folder)?;
    let venv = ensure(workspace).map_err(|error| {
        Failure::new(
            EXIT_SETUP,
            error,
            "needs Python with venv and the package index; then run: cargo xtask lint-workflows",
        )
    })?;
    let shell = xshell::Shell::new()?;
    // Its optional helpers are switched off: whether they are installed must not decide.
    let paths = &files;
    let (actionlint, zizmor) = (venv.join("bin/actionlint"), venv.join("bin/zizmor"));
    let outcomes = [
        ("actionlint", xshell::cmd!(shell, "{actionlint} -shellcheck= -pyflakes= {paths...}").quiet().run()),
        ("zizmor", xshell::cmd!(shell, "{zizmor} --offline --quiet --no-config {paths...}").quiet().run()),
    ];
    let failed: Vec<_> =
        outcomes.iter().filter(|(_, outcome)| outcome.is_err()).map(|(name, _)| *name).collect();
    if failed.is_empty() {
        println!("{} workflows: actionlint and zizmor find nothing", files.len());
        return Ok(());
    }
    let error = anyhow!("{folder}: {} found faults", failed.join(" and "));
    Err(Failure::new(EXIT_TESTS, error, "mend them, then run: cargo xtask lint-workflows"))
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

/// The linters' venv, made when it is not there or of another lock.
fn ensure(workspace: &Workspace) -> anyhow::Result<Utf8PathBuf> {
    let venv = workspace.state().join("lint-venv");
    let (receipt, wanted) = (venv.join("proofmark-lock"), Digest::of(LOCK).to_string());
    fs::create_dir_all(workspace.state())?;
    let lock = fs::File::create(workspace.state().join("lint-venv.lock"))?;
    lock.lock()?;
    if fs::read_to_string(&receipt).is_ok_and(|made| made == wanted) {
        return Ok(venv);
    }
    if venv.exists() {
        fs::remove_dir_all(&venv).with_context(|| format!("{venv}: cannot be removed"))?;
    }
    let shell = xshell::Shell::new()?;
    let (base, python) = (system_python(), venv.join("bin/python"));
    xshell::cmd!(shell, "{base} -m venv {venv}").quiet().run()?;
    let list = venv.join("lint.lock");
    fs::write(&list, LOCK)?;
    xshell::cmd!(
        shell,
        "{python} -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes -r {list}"
    )
    .quiet()
    .run()?;
    fs::write(&receipt, wanted)?;
    Ok(venv)
}
