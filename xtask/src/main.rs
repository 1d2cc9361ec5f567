//! `cargo xtask`: the commands of the monorepo, one file per command.
//!
//! **Invariant:** links no C++ and never depends on the app.

mod bench;
mod ci;
mod console;
mod diff;
mod doctor;
mod engine;
mod eval;
mod evidence;
mod export;
mod fuzz;
mod inspect;
mod inspect_app;
mod inspect_package;
mod lint_workflows;
mod mobile;
mod mutate;
mod pack;
mod package;
mod predict;
mod report;
mod sarif;
mod setup;
mod supervise;
mod test;
mod torch_index;
mod train_tiny;
mod unpack;
mod verify;
mod weights;
mod workspace;

use clap::{Parser, Subcommand};

/// Success.
pub const EXIT_OK: u8 = 0;
/// Anything that has no code of its own.
pub const EXIT_FAILURE: u8 = 1;
// 2 is a wrong command line, by clap.
/// The set-up (venv, packages, SDK) could not be made.
pub const EXIT_SETUP: u8 = 3;
/// The export failed in every attempt: nothing was published.
pub const EXIT_EXPORT: u8 = 4;
/// The model was refused.
pub const EXIT_REFUSED: u8 = 5;
/// Tests failed.
pub const EXIT_TESTS: u8 = 6;
/// Interrupted by Ctrl-C or SIGTERM.
pub const EXIT_INTERRUPTED: u8 = 130;
/// `doctor` found something missing.
pub const EXIT_DOCTOR: u8 = 7;
/// `inspect` was given something that holds no model that it could judge.
pub const EXIT_UNSUPPORTED: u8 = 8;
/// `diff` found that the files differ.
pub const EXIT_DIFFERENT: u8 = 9;
/// The checkpoint could not be fetched, or is not what was promised.
pub const EXIT_FETCH: u8 = 20;
/// The hub wants a licence accepted or a token.
pub const EXIT_ACCESS: u8 = 21;
/// The GitHub CLI is missing, too old, or knows no repository.
pub const EXIT_GH: u8 = 22;
/// The GitHub CLI is not logged in, or its account may not do this.
pub const EXIT_GH_ACCESS: u8 = 23;
/// The run on GitHub failed.
pub const EXIT_RUN: u8 = 24;

/// A tool or SDK that a mobile build needs is not installed.
pub const EXIT_MOBILE_TOOLS: u8 = 30;
/// A mobile build failed.
pub const EXIT_MOBILE_BUILD: u8 = 31;
/// The model does not compute on ARM64 what it computes here.
pub const EXIT_MOBILE_RUN: u8 = 32;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "export, prove and gate on-device models", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Look whether this machine can do the work; changes nothing
    Doctor(doctor::Args),
    /// Make the Python venv from the hash-pinned lock and stage the ExecuTorch C++ SDK
    Setup,
    /// Export a model, prove what its bytes say, and publish it
    Export(export::Args),
    /// Fetch and prove a model's checkpoint from the Hugging Face hub
    Weights(weights::Args),
    /// Export on GitHub Actions: set up, start, watch, bring home
    Ci(ci::Args),
    /// Put a proven model and all that its proof is about into one deterministic `.tar.gz`
    Pack(pack::Args),
    /// Prove and publish the model of a bundle
    Unpack(unpack::Args),
    /// Prove a published model, or any `.pte` file, again
    Verify(verify::Args),
    /// Measure speed, memory and energy of a model in the runtime that ships
    Bench(bench::Args),
    /// Ask a model questions and judge its answers
    Eval(eval::Args),
    /// Write one page about a model: verdicts, parity, EQ transcript, speed, memory, provenance
    Report(report::Args),
    /// Show what a `.pte` file holds, or which model is inside an app and what proved it
    Inspect(inspect::Args),
    /// Name what differs between two `.pte` files, down to the layer
    Diff(diff::Args),
    /// Change every byte of small models and run in the real runtime what the verifier accepts
    Mutate(mutate::Args),
    /// Fuzz the parsers with coverage feedback; needs no nightly compiler
    Fuzz(fuzz::Args),
    /// Train the embedded default model again (half an hour on one core)
    TrainTiny(train_tiny::Args),
    /// Build the app for ARM64 Linux and phones
    Mobile(mobile::Args),
    /// Lint the GitHub workflows with actionlint and zizmor
    LintWorkflows(lint_workflows::Args),
    /// Run every test
    Test(test::Args),
}

/// An error with its exit code and the command that mends it.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    error: anyhow::Error,
    hint: Option<String>,
}

impl Failure {
    fn new(code: u8, error: impl Into<anyhow::Error>, hint: impl Into<String>) -> Self {
        Self { code, error: error.into(), hint: Some(hint.into()) }
    }
}

impl Failure {
    /// The error alone, for a caller with a code and hint of its own.
    fn into_error(self) -> anyhow::Error {
        self.error
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { code: EXIT_FAILURE, error: error.into(), hint: None }
    }
}

type Outcome = Result<(), Failure>;

fn main() -> std::process::ExitCode {
    let outcome =
        workspace::Workspace::find().map_err(Failure::from).and_then(|workspace| {
            match Cli::parse().command {
                Command::Doctor(args) => doctor::run(&workspace, &args),
                Command::Setup => setup::run(&workspace),
                Command::Export(args) => export::run(&workspace, &args),
                Command::Weights(args) => weights::run(&workspace, &args),
                Command::Ci(args) => ci::run(&workspace, &args),
                Command::Pack(args) => pack::run(&workspace, &args),
                Command::Unpack(args) => unpack::run(&workspace, &args),
                Command::Verify(args) => verify::run(&workspace, &args),
                Command::Bench(args) => bench::run(&workspace, &args),
                Command::Eval(args) => eval::run(&workspace, &args),
                Command::Report(args) => report::run(&workspace, &args),
                Command::Inspect(args) => inspect::run(&args),
                Command::Diff(args) => diff::run(&args),
                Command::Mutate(args) => mutate::run(&workspace, &args),
                Command::Fuzz(args) => fuzz::run(&workspace, &args),
                Command::TrainTiny(args) => train_tiny::run(&workspace, &args),
                Command::Mobile(args) => mobile::run(&workspace, &args),
                Command::LintWorkflows(args) => lint_workflows::run(&workspace, &args),
                Command::Test(args) => test::run(&workspace, &args),
            }
        });
    match outcome {
        Ok(()) => EXIT_OK.into(),
        Err(Failure { code, error, hint }) => {
            eprintln!("error: {error:#}");
            if let Some(hint) = hint {
                eprintln!("hint: {hint}");
            }
            code.into()
        }
    }
}
