//! `cargo xtask test`: every test of the repository but those of `app test`, on a bare machine.

use std::{
    fs::{self, File},
    io,
    process::Stdio,
};

use anyhow::{Context as _, anyhow};

use crate::{
    child::{self, Needs, network_cmd},
    dev,
    exit::{Exit, Failure, Outcome},
    export, setup, verify,
    workspace::Workspace,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only one half of the tests
    ///
    /// Without it both halves run side by side: much of either uses one core.
    #[arg(long, value_enum)]
    only: Option<Half>,
    /// Run the tests of the reserve instead
    ///
    /// Builds llama.cpp: ten minutes of one core, the first time.
    #[arg(long, conflicts_with = "only")]
    reserve: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Half {
    /// `cargo test`, and a short run of the fuzz targets
    Rust,
    /// The Python programs, what is derived from their exports, and some mutants of these
    Python,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Outcome {
    dev::lint(workspace)?;
    setup::ensure(workspace)?;
    // The app cannot be built, nor the engine tested, without a proved model.
    export::run(workspace, &export::Args::of_default_model())?;
    verify::ensure_release(workspace, "tiny")?;
    match args.only {
        _ if args.reserve => of_reserve(workspace),
        Some(Half::Rust) => rust(workspace),
        Some(Half::Python) => python(workspace),
        None => both(workspace),
    }
}

/// Runs the Python half in a process of its own; what it prints is shown when the Rust half has ended.
fn both(workspace: &Workspace) -> Outcome {
    let folder = workspace.state().join("work");
    fs::create_dir_all(&folder).with_context(|| folder.to_string())?;
    let path = folder.join("python-tests.log");
    let log = File::create(&path).with_context(|| path.to_string())?;
    let mut half = child::with(std::env::current_exe()?, Needs::Network);
    half.args(["test", "--only", "python"]).current_dir(workspace.root());
    half.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut half = half.spawn().context("the Python half cannot be started")?;
    println!("the Python half runs beside this one and writes to {path}");
    let of_rust = rust(workspace);
    let passed = half.wait()?.success();
    io::copy(&mut File::open(&path)?, &mut io::stdout())?;
    match (of_rust, passed) {
        (outcome, true) => outcome,
        (Ok(()), false) => Err(failed("the Python half", "cargo xtask test --only python")),
        (Err(_), false) => Err(failed("both halves", "cargo xtask test")),
    }
}

fn rust(workspace: &Workspace) -> Outcome {
    let shell = child::shell(workspace.root())?;
    network_cmd!(shell, "cargo test --workspace --no-fail-fast")
        .run()
        .map_err(|_| failed("the Rust tests", "cargo test --workspace"))?;
    dev::fuzz_shortly(workspace)
}

fn python(workspace: &Workspace) -> Outcome {
    // The tests ask the binary at this path what it thinks of a file. Asked for now: once the Rust tests have built it again,
    // the system names the one that runs as deleted.
    let xtask = std::env::current_exe()?;
    dev::check_exports(workspace)?;
    let (shell, python) = (child::shell(workspace.root())?, workspace.python());
    for folder in ["xtask/python", "xtask/python/train_tiny"] {
        shell.change_dir(workspace.root().join(folder));
        network_cmd!(shell, "{python} -B -m unittest discover -s tests -t .")
            .env("PROOFMARK_XTASK", &xtask)
            .run()
            .map_err(|_| failed(&format!("the tests in {folder}/tests"), "cargo xtask test --only python"))?;
    }
    Ok(())
}

fn failed(what: &str, command: &str) -> Failure {
    Failure::new(Exit::Tests, anyhow!("{what} failed"), format!("run: {command}"))
}

/// The reserve's GGUF is made, and llama.cpp runs it beside the engine.
fn of_reserve(workspace: &Workspace) -> Outcome {
    export::run(workspace, &export::Args::of_reserve())?;
    let status = crate::reserve::cargo(workspace, "test").status()?;
    if status.success() {
        return Ok(());
    }
    Err(failed("the tests of the reserve", "cargo xtask test --reserve"))
}
