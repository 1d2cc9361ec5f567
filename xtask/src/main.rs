//! `cargo xtask`: the commands of the monorepo, one file per command.
//!
//! **Invariant:** links no C++ and never depends on the app.

mod app;
mod atomic_file;
mod bench;
mod cache;
mod checkpoint;
mod child;
mod ci;
mod clean;
mod cli;
mod completions;
mod console;
mod datasets;
mod dev;
mod diff;
mod doctor;
mod engine;
mod eval;
mod evidence;
mod exit;
mod export;
mod failed;
mod fetch;
mod http;
mod import;
mod inspect;
mod lock;
mod meter;
mod mobile;
mod new;
mod pack;
mod package;
mod packages;
mod pinned_venv;
mod predict;
mod protocol;
mod published;
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
mod verify;
mod weights;
mod workspace;

use std::process::ExitCode;

use clap::FromArgMatches as _;

fn main() -> ExitCode {
    // A reader that closes the pipe early, as `head` does, is no failure of the command.
    model_assets::closed_pipe::quietly(run).unwrap_or_else(|| exit::Exit::Success.into())
}

fn run() -> ExitCode {
    let cli = cli::Cli::from_arg_matches(&cli::command().get_matches()).unwrap_or_else(|error| error.exit());
    let workspace = workspace::Workspace::find(cli.root.as_deref()).map_err(exit::Failure::from);
    let outcome = workspace.and_then(|workspace| cli.command.run(&workspace));
    outcome.map_or_else(|failure| failure.report().into(), |()| exit::Exit::Success.into())
}
