//! `cargo xtask mobile`: the app for ARM64 Linux, Android and iOS.
//!
//! **Invariant:** every build goes through the gate at release level unless it is a developer's debug build for a phone,
//! and what was built is inspected before the command says that it succeeded.

mod android;
mod arm64_linux;
mod compare;
mod ios;
mod plan;
mod runtime;

use crate::{exit::Outcome, workspace::Workspace};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    target: Target,
}

#[derive(clap::Subcommand)]
enum Target {
    /// Cross-build engine and app for ARM64 Linux
    ///
    /// `--run` runs them under emulation and compares their tokens with those of this machine.
    Arm64Linux(arm64_linux::Args),
    /// Build the Android package
    ///
    /// With `--release`, the bundle for a store.
    Android(Build),
    /// Build the iOS app
    ///
    /// With `--release`, the archive for a store.
    Ios(Build),
}

/// A build for a phone.
#[derive(clap::Args)]
pub(crate) struct Build {
    /// The model inside
    #[arg(default_value = "tiny")]
    model: String,
    /// Build for users: the gate demands all evidence
    #[arg(long)]
    release: bool,
    /// Print the plan as JSON and do nothing
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Outcome {
    match &args.target {
        Target::Arm64Linux(args) => arm64_linux::run(workspace, args),
        Target::Android(args) => android::run(workspace, args),
        Target::Ios(args) => ios::run(workspace, args),
    }
}

/// Where the pinned compiler has the library of a target.
fn rust_target(triple: &str) -> Option<String> {
    let asked = crate::child::command("rustc")
        .args(["--print", "target-libdir", "--target", triple])
        .output()
        .ok()?;
    let place = String::from_utf8(asked.stdout).ok()?;
    Some(place.trim().to_owned()).filter(|place| std::path::Path::new(place).is_dir())
}

/// The venv: the runtime's build generates code with it.
fn python_need(workspace: &Workspace) -> plan::Need {
    let python = workspace.python();
    let found = python.exists().then(|| python.to_string());
    plan::Need::new("Python venv", found, "cargo xtask setup")
}
