//! `cargo xtask test`: every test of the repository, on a bare machine.

use anyhow::anyhow;

use crate::{
    EXIT_TESTS, Failure, Outcome,
    child::{self, network_cmd},
    export, fuzz, lint_workflows, mutate, operators, setup,
    workspace::Workspace,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave out the tests of the Python programs (they import PyTorch and export small models)
    #[arg(long)]
    rust_only: bool,
    /// The tests of the reserve instead: builds llama.cpp (ten minutes of one core the first time)
    #[arg(long, conflicts_with = "rust_only")]
    reserve: bool,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Outcome {
    // The Python tests ask the binary at this path what it thinks of a file. Asked for now: once the Rust tests have
    // built it again, the system names the one that runs as deleted.
    let xtask = std::env::current_exe()?;
    lint_workflows::run(workspace, &lint_workflows::Args::of_repository())?;
    setup::ensure(workspace)?;
    // The app cannot be built, nor the engine tested, without a proved model.
    export::run(workspace, &export::Args::of_default_model())?;
    if args.reserve {
        return of_reserve(workspace);
    }
    let shell = child::shell(workspace.root())?;
    let failed =
        |what: &str, hint: &str| Failure::new(EXIT_TESTS, anyhow!("{what} failed"), format!("run: {hint}"));
    network_cmd!(shell, "cargo test --workspace --no-fail-fast")
        .run()
        .map_err(|_| failed("the Rust tests", "cargo test --workspace"))?;
    fuzz::run(workspace, &fuzz::Args::short())?;
    if args.rust_only {
        return Ok(());
    }
    let python = workspace.python();
    // A kernel is held to the schema that the exporter itself uses.
    let schemas = workspace.root().join("model-assets/src/kernels/schemas.py");
    network_cmd!(shell, "{python} {schemas} --check")
        .run()
        .map_err(|_| failed("the table of operator schemas", &format!("{python} {schemas}")))?;
    // The gate admits what the worker exports, and a study of a few changes of each export still works.
    operators::run(workspace, &operators::Args::comparing())?;
    mutate::run(workspace, &mutate::Args::smallest())?;
    mutate::run(workspace, &mutate::Args::smallest_of_operators())?;
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
        EXIT_TESTS,
        anyhow!("the tests of the reserve failed"),
        "run: cargo xtask test --reserve",
    ))
}
