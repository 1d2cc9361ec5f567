//! `cargo xtask`: the commands of the monorepo, one file per command.
//!
//! **Invariant:** links no C++ and never depends on the app.

mod app;
mod bench;
mod cache;
mod child;
mod ci;
mod clean;
mod console;
mod datasets;
mod diff;
mod doctor;
mod engine;
mod eval;
mod evidence;
mod export;
mod failed;
mod fetch;
mod fuzz;
mod http;
mod inspect;
mod inspect_app;
mod inspect_package;
mod lint_workflows;
mod meter;
mod mobile;
mod mutate;
mod operators;
mod pack;
mod package;
mod packages;
mod pinned_venv;
mod predict;
mod refused;
mod release;
mod report;
mod reserve;
mod sarif;
mod sbom;
mod setup;
mod sign;
mod supervise;
mod test;
mod token;
mod torch_index;
mod train_tiny;
mod verify;
mod weights;
mod whole;
mod workspace;
mod yardstick;

use clap::{CommandFactory as _, Parser, Subcommand};

/// Success.
pub const EXIT_OK: u8 = 0;
/// Anything that has no code of its own.
pub const EXIT_FAILURE: u8 = 1;
// 2 is a wrong command line, by clap.
/// The set-up (venv, packages, SDK) could not be made.
pub const EXIT_SETUP: u8 = 3;
/// The export failed twice through the machine, or was refused once: nothing was published.
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
/// A signature is missing, or is not one that a release accepts.
pub const EXIT_SIGNATURE: u8 = 25;
/// What the model's licence demands is missing.
pub const EXIT_LICENCE: u8 = 26;

/// A tool or SDK that a mobile build needs is not installed.
pub const EXIT_MOBILE_TOOLS: u8 = 30;
/// A mobile build failed.
pub const EXIT_MOBILE_BUILD: u8 = 31;
/// The model does not compute on ARM64 what it computes here.
pub const EXIT_MOBILE_RUN: u8 = 32;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "export, prove and gate on-device models", version)]
struct Cli {
    /// The work tree, if it is not the one that this is called in
    #[arg(long, value_name = "DIR", global = true)]
    root: Option<camino::Utf8PathBuf>,
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
    /// Bring a model home from a bundle's file or address, or from a run on GitHub; prove and publish it
    Fetch(fetch::Args),
    /// Remove what can be made or fetched again
    Clean(clean::Args),
    /// Sign a published model, or check its signature
    Sign(sign::Args),
    /// Write a model's bill of materials: CycloneDX 1.6
    Sbom(sbom::Args),
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
    /// Derive which operators a model may call from what the worker exports
    Operators(operators::Args),
    /// Fuzz the parsers with coverage feedback; needs no nightly compiler
    Fuzz(fuzz::Args),
    /// Train the embedded default model again (half an hour on one core)
    TrainTiny(train_tiny::Args),
    /// Build the app for ARM64 Linux and phones
    Mobile(mobile::Args),
    /// Lint the GitHub workflows with actionlint and zizmor
    LintWorkflows(lint_workflows::Args),
    /// Test, draw and measure the app with its graphical front and its C surface
    App(app::Args),
    /// Run every test but those of `app test`
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

/// Ends the process as for any wrong command line: flags that mean nothing together are refused, not ignored.
fn usage(message: &str) -> ! {
    Cli::command().error(clap::error::ErrorKind::ArgumentConflict, message).exit()
}

impl Command {
    /// Whether it may work in `.proofmark`; `clean` has to be alone there, the others look only.
    fn uses_caches(&self) -> bool {
        !matches!(self, Self::Clean(_) | Self::Doctor(_) | Self::Inspect(_) | Self::Diff(_))
    }

    fn run(&self, workspace: &workspace::Workspace) -> Outcome {
        let _in_use = self.uses_caches().then(|| workspace.in_use());
        match self {
            Self::Doctor(args) => doctor::run(workspace, args),
            Self::Setup => setup::run(workspace),
            Self::Export(args) => export::run(workspace, args),
            Self::Weights(args) => weights::run(workspace, args),
            Self::Ci(args) => ci::run(workspace, args),
            Self::Pack(args) => pack::run(workspace, args),
            Self::Fetch(args) => fetch::run(workspace, args),
            Self::Clean(args) => clean::run(workspace, args),
            Self::Sign(args) => sign::run(workspace, args),
            Self::Sbom(args) => sbom::run(workspace, args),
            Self::Verify(args) => verify::run(workspace, args),
            Self::Bench(args) => bench::run(workspace, args),
            Self::Eval(args) => eval::run(workspace, args),
            Self::Report(args) => report::run(workspace, args),
            Self::Inspect(args) => inspect::run(args),
            Self::Diff(args) => diff::run(args),
            Self::Mutate(args) => mutate::run(workspace, args),
            Self::Operators(args) => operators::run(workspace, args),
            Self::Fuzz(args) => fuzz::run(workspace, args),
            Self::TrainTiny(args) => train_tiny::run(workspace, args),
            Self::LintWorkflows(args) => lint_workflows::run(workspace, args),
            Self::Mobile(args) => mobile::run(workspace, args),
            Self::App(args) => app::run(workspace, args),
            Self::Test(args) => test::run(workspace, args),
        }
    }
}

fn main() -> std::process::ExitCode {
    // Whoever read the output has had enough of it, as `head` has: that is no failure of the command.
    model_assets::closed_pipe::quietly(run).unwrap_or_else(|| EXIT_OK.into())
}

fn run() -> std::process::ExitCode {
    let Cli { root, command } = Cli::parse();
    let workspace = workspace::Workspace::find(root.as_deref()).map_err(Failure::from);
    let outcome = workspace.and_then(|workspace| command.run(&workspace));
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
