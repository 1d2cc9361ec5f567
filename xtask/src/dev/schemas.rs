//! `cargo xtask dev schemas`: kinds, names and defaults of the arguments of every operator that the linked runtime has, and
//! the schema of the worker's requests.
//!
//! A kernel is held to the schema that the exporter itself uses; the worker's reader to what this side writes.

use std::fs;

use anyhow::{Context as _, anyhow};

use crate::{
    child::{self, cmd},
    exit::{Exit, Failure, Outcome},
    protocol, setup,
    workspace::Workspace,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write nothing; fail when the operators and the table differ
    #[arg(long)]
    check: bool,
}

impl Args {
    /// `--check`.
    pub(crate) fn comparing() -> Self {
        Self { check: true }
    }
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Outcome {
    requests(workspace, args)?;
    setup::ensure(workspace)?;
    let shell = child::shell(workspace.root())?;
    let (python, script) = (workspace.python(), workspace.python_sources().join("schemas.py"));
    let check = args.check.then_some("--check");
    cmd!(shell, "{python} -B {script} {check...}").run().map_err(|_| {
        let error = anyhow!("{script}: the table of operator schemas is not what the operators say");
        Failure::new(Exit::Tests, error, "run: cargo xtask dev schemas")
    })
}

/// The schema of the worker's requests.
fn requests(workspace: &Workspace, args: &Args) -> Outcome {
    let (path, wanted) = (workspace.python_sources().join(protocol::SCHEMA), protocol::schema()?);
    if fs::read_to_string(&path).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    if args.check {
        let error = anyhow!("{path}: the schema of requests is not what the types say");
        return Err(Failure::new(Exit::Tests, error, "run: cargo xtask dev schemas"));
    }
    fs::create_dir_all(crate::atomic_file::folder(&path)).with_context(|| path.to_string())?;
    fs::write(&path, wanted).with_context(|| path.to_string())?;
    println!("{path}: written");
    Ok(())
}
