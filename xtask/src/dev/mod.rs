//! `cargo xtask dev`: what only the developers of this repository need.

mod docs;
mod families;
mod fuzz;
mod lint_workflows;
mod mutate;
mod operators;
mod schemas;
mod train_tiny;

use crate::{exit::Outcome, workspace::Workspace};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Dev,
}

#[derive(clap::Subcommand)]
enum Dev {
    /// Change bytes of small models, and run what the verifier accepts
    ///
    /// The mutation study: every accepted change runs in the real runtime. Fails when one crashes it, does not end, or gives an
    /// unstable answer. With `--operators` it changes programs of one operator each.
    Mutate(mutate::Args),
    /// Derive from exports which operators a model may call
    Operators(operators::Args),
    /// Derive the arguments of every operator of the runtime
    Schemas(schemas::Args),
    /// Compare small models of every family with `transformers`
    ///
    /// From `config.json` to the engine: what a family's settings mean, the eager model, and exports in fp32, int8 and int4. Some
    /// minutes.
    Families(families::Args),
    /// Fuzz the parsers with coverage feedback
    ///
    /// Runs on the pinned compiler; needs no nightly one.
    Fuzz(fuzz::Args),
    /// Lint the GitHub workflows with actionlint and zizmor, offline
    LintWorkflows(lint_workflows::Args),
    /// Train the default model `tiny` again
    ///
    /// From text that the repository generates; half an hour on one core. Killed, it resumes from its last saved state.
    TrainTiny(train_tiny::Args),
    /// Write the generated parts of the documentation
    Docs(docs::Args),
}

/// `groups` are those of the whole command line.
pub(crate) fn run(workspace: &Workspace, args: &Args, groups: &[(&str, clap::Command)]) -> Outcome {
    match &args.command {
        Dev::Mutate(args) => mutate::run(workspace, args),
        Dev::Operators(args) => operators::run(workspace, args),
        Dev::Schemas(args) => schemas::run(workspace, args),
        Dev::Families(args) => families::run(workspace, args),
        Dev::Fuzz(args) => fuzz::run(workspace, args),
        Dev::LintWorkflows(args) => lint_workflows::run(workspace, args),
        Dev::TrainTiny(args) => train_tiny::run(workspace, args),
        Dev::Docs(args) => docs::run(workspace, args, groups),
    }
}

/// Lints the workflows of this repository.
pub(crate) fn lint(workspace: &Workspace) -> Outcome {
    lint_workflows::run(workspace, &lint_workflows::Args::of_repository())
}

/// A short run of every fuzz target.
pub(crate) fn fuzz_shortly(workspace: &Workspace) -> Outcome {
    fuzz::run(workspace, &fuzz::Args::short())
}

/// Compares what was derived from exports and operators with what is committed, and studies a few mutants of each kind.
pub(crate) fn check_exports(workspace: &Workspace) -> Outcome {
    schemas::run(workspace, &schemas::Args::comparing())?;
    families::run(workspace, &families::Args::eager())?;
    operators::run(workspace, &operators::Args::comparing())?;
    mutate::run(workspace, &mutate::Args::smallest())?;
    mutate::run(workspace, &mutate::Args::smallest_of_operators())
}
