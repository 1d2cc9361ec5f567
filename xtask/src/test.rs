//! `cargo xtask test`: every test of the repository, on a bare machine.

use anyhow::anyhow;

use crate::{EXIT_TESTS, Failure, Outcome, setup, workspace::Workspace};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave out the tests of the Python worker (they import PyTorch)
    #[arg(long)]
    rust_only: bool,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Outcome {
    let shell = xshell::Shell::new()?;
    shell.change_dir(workspace.root());
    let failed =
        |what: &str, hint: &str| Failure::new(EXIT_TESTS, anyhow!("{what} failed"), format!("run: {hint}"));
    xshell::cmd!(shell, "cargo test --workspace")
        .run()
        .map_err(|_| failed("the Rust tests", "cargo test --workspace"))?;
    if !args.rust_only {
        setup::ensure(workspace)?;
        let python = workspace.python();
        shell.change_dir(workspace.python_sources());
        xshell::cmd!(shell, "{python} -m unittest discover -s tests -t .")
            .run()
            .map_err(|_| failed("the worker's tests", "cargo xtask test"))?;
    }
    Ok(())
}
