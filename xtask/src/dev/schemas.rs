//! `cargo xtask dev schemas`: kinds, names and defaults of the arguments of every operator that the linked runtime has.
//! A kernel is held to the schema that the exporter itself uses.

use anyhow::anyhow;

use crate::{
    child::{self, cmd},
    exit::{Exit, Failure, Outcome},
    setup,
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
    setup::ensure(workspace)?;
    let shell = child::shell(workspace.root())?;
    let (python, script) = (workspace.python(), workspace.python_sources().join("schemas.py"));
    let check = args.check.then_some("--check");
    cmd!(shell, "{python} -B {script} {check...}").run().map_err(|_| {
        let error = anyhow!("{script}: the table of operator schemas is not what the operators say");
        Failure::new(Exit::Tests, error, "run: cargo xtask dev schemas")
    })
}
