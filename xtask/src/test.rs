//! `cargo xtask test`: every test of the repository but those of `app test`, on a bare machine.

use anyhow::anyhow;

use crate::{
    child::{self, network_cmd},
    dev,
    exit::{Exit, Failure, Outcome},
    export, setup, verify,
    workspace::Workspace,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave out the tests of the Python programs
    #[arg(long)]
    rust_only: bool,
    /// Run the tests of the reserve instead
    ///
    /// Builds llama.cpp: ten minutes of one core, the first time.
    #[arg(long, conflicts_with = "rust_only")]
    reserve: bool,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Outcome {
    // The Python tests ask the binary at this path what it thinks of a file. Asked for now: once the Rust tests have
    // built it again, the system names the one that runs as deleted.
    let xtask = std::env::current_exe()?;
    dev::lint(workspace)?;
    setup::ensure(workspace)?;
    // The app cannot be built, nor the engine tested, without a proved model.
    export::run(workspace, &export::Args::of_default_model())?;
    verify::ensure_release(workspace, "tiny")?;
    if args.reserve {
        return of_reserve(workspace);
    }
    let shell = child::shell(workspace.root())?;
    let failed =
        |what: &str, hint: &str| Failure::new(Exit::Tests, anyhow!("{what} failed"), format!("run: {hint}"));
    network_cmd!(shell, "cargo test --workspace --no-fail-fast")
        .run()
        .map_err(|_| failed("the Rust tests", "cargo test --workspace"))?;
    dev::fuzz_shortly(workspace)?;
    if args.rust_only {
        return Ok(());
    }
    dev::check_exports(workspace)?;
    let python = workspace.python();
    for folder in ["xtask/python", "xtask/python/train_tiny"] {
        shell.change_dir(workspace.root().join(folder));
        network_cmd!(shell, "{python} -B -m unittest discover -s tests -t .")
            .env("PROOFMARK_XTASK", &xtask)
            .run()
            .map_err(|_| failed(&format!("the tests in {folder}/tests"), "cargo xtask test"))?;
    }
    Ok(())
}

/// The reserve's GGUF is made, and llama.cpp runs it beside the engine.
fn of_reserve(workspace: &Workspace) -> Outcome {
    export::run(workspace, &export::Args::of_reserve())?;
    let status = crate::reserve::cargo(workspace, "test").status()?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Tests,
        anyhow!("the tests of the reserve failed"),
        "run: cargo xtask test --reserve",
    ))
}
