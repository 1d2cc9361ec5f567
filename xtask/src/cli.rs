//! The command line: which commands there are, in groups, and the help that shows them so.

use camino::Utf8PathBuf;
use clap::{CommandFactory as _, Parser, Subcommand};

use crate::{
    app, bench, ci, clean, completions, dev, diff, doctor, eval, exit::Outcome, export, fetch, inspect,
    mobile, new, pack, report, sbom, setup, sign, test, verify, weights, workspace::Workspace,
};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    version,
    about = "Export, prove and gate on-device models"
)]
pub(crate) struct Cli {
    /// Work tree to use instead of the one that contains the current folder
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) root: Option<Utf8PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Everyday(Everyday),
    #[command(flatten)]
    Model(Model),
    #[command(flatten)]
    Ship(Ship),
    #[command(flatten)]
    Repository(Repository),
}

#[derive(Subcommand)]
pub(crate) enum Everyday {
    /// Check that this machine has what the work needs
    ///
    /// Checks tools, disk and memory against the model's predicted peak, and lists caches. Changes nothing. Each row that is not
    /// `ok` names the command that fixes it.
    Doctor(doctor::Args),
    /// Install the Python packages and the ExecuTorch SDK
    ///
    /// Makes a venv from a hash-pinned lock and copies the C++ SDK out of the ExecuTorch wheel, both below `.proofmark`. Every
    /// command that needs them runs this by itself.
    Setup,
    /// Export a model, prove it and publish it
    ///
    /// Checkpoint → `.pte` → static checks → load and parity in the engine → publish, all or nothing. Does nothing when the
    /// published model was made from the same inputs.
    Export(export::Args),
    /// Prove a published model, or any `.pte` file, again
    ///
    /// Of a model: measures and records the evidence that is missing for the level. Of a file: checks it against the format's
    /// rules and the kernels of the linked runtime.
    Verify(verify::Args),
    /// Write one HTML page about a model
    ///
    /// Verdicts, census, parity, EQ transcript, speed, memory and provenance, in one file that loads nothing and runs nothing.
    Report(report::Args),
    /// Show what a `.pte` file holds, or which model an app contains
    ///
    /// Of a `.pte`: plans, operators, delegates, weights by dtype, memory plan, metadata. Of an app (binary, `.apk`, `.aab`,
    /// `.ipa`, `.app`): the model of every ABI, proved again.
    Inspect(inspect::Args),
    /// Remove caches, and other files that can be made again
    ///
    /// Never removes a manifest, a recipe or committed weights. `--dry-run` lists what there is and how large it is.
    Clean(clean::Args),
}

#[derive(Subcommand)]
pub(crate) enum Model {
    /// Write the recipe of a model that has none
    ///
    /// From a repository of the Hugging Face hub, a checkpoint's folder or a GGUF: source, architecture, tokens, limits and
    /// licence come from its own files. Asks nothing, and never overwrites. What cannot be exported is refused by name.
    New(new::Args),
    /// Fetch a model's checkpoint, or make it from a GGUF
    ///
    /// Fetches from the Hugging Face hub by commit and digest, and resumes an interrupted fetch. With `--from-gguf` it needs no
    /// hub.
    Weights(weights::Args),
    /// Measure speed, memory and energy
    ///
    /// Runs the engine as the app does, and writes JSON, Markdown and a plot. Run it on an idle machine.
    Bench(bench::Args),
    /// Measure the quality of a model's answers
    ///
    /// Shows the figures and records nothing; `verify --level release` records them.
    Eval(eval::Args),
    /// Show what differs between two `.pte` files, down to the layer
    Diff(diff::Args),
}

#[derive(Subcommand)]
pub(crate) enum Ship {
    /// Sign a published model, or check its signature
    ///
    /// The public tool `model_signing` verifies these signatures, and this command verifies its.
    Sign(sign::Args),
    /// Put a proven model into one `.tar.gz`
    ///
    /// The bundle is deterministic, and holds everything that the proof is about.
    Pack(pack::Args),
    /// Get a model from a bundle, an address or a run on GitHub
    ///
    /// Proves it as an export's own file, and publishes it.
    Fetch(fetch::Args),
    /// Write a model's bill of materials (CycloneDX 1.6)
    Sbom(sbom::Args),
    /// Export on GitHub Actions
    ///
    /// Sets up the repository, starts a run, watches it, and brings the model home.
    Ci(ci::Args),
    /// Build the app for ARM64 Linux, Android and iOS
    Mobile(mobile::Args),
    /// Run, test and measure the app on this machine
    App(app::Args),
}

#[derive(Subcommand)]
pub(crate) enum Repository {
    /// Run every test but those of `app test`
    ///
    /// Sets up and exports `tiny` first; passes on a bare machine.
    Test(test::Args),
    /// Commands for developers of this repository
    Dev(dev::Args),
    /// Print shell completions for bash, zsh or fish
    ///
    /// They complete `xtask`, a shell function for `cargo xtask` that the script defines, too. In bash, put this into ~/.bashrc:
    /// source <(cargo xtask completions bash)
    Completions(completions::Args),
}

impl Command {
    /// Whether it may work in `.proofmark`; `clean` has to be alone there, the others only read.
    fn uses_caches(&self) -> bool {
        !matches!(
            self,
            Self::Everyday(Everyday::Clean(_) | Everyday::Doctor(_) | Everyday::Inspect(_))
                | Self::Model(Model::Diff(_))
                | Self::Repository(Repository::Completions(_))
        )
    }

    pub(crate) fn run(&self, workspace: &Workspace) -> Outcome {
        let _in_use = self.uses_caches().then(|| workspace.in_use());
        match self {
            Self::Everyday(command) => command.run(workspace),
            Self::Model(command) => command.run(workspace),
            Self::Ship(command) => command.run(workspace),
            Self::Repository(command) => command.run(workspace),
        }
    }
}

impl Everyday {
    fn run(&self, workspace: &Workspace) -> Outcome {
        match self {
            Self::Doctor(args) => doctor::run(workspace, args),
            Self::Setup => setup::run(workspace),
            Self::Export(args) => export::run(workspace, args),
            Self::Verify(args) => verify::run(workspace, args),
            Self::Report(args) => report::run(workspace, args),
            Self::Inspect(args) => inspect::run(args),
            Self::Clean(args) => clean::run(workspace, args),
        }
    }
}

impl Model {
    fn run(&self, workspace: &Workspace) -> Outcome {
        match self {
            Self::New(args) => new::run(workspace, args),
            Self::Weights(args) => weights::run(workspace, args),
            Self::Bench(args) => bench::run(workspace, args),
            Self::Eval(args) => eval::run(workspace, args),
            Self::Diff(args) => diff::run(args),
        }
    }
}

impl Ship {
    fn run(&self, workspace: &Workspace) -> Outcome {
        match self {
            Self::Sign(args) => sign::run(workspace, args),
            Self::Pack(args) => pack::run(workspace, args),
            Self::Fetch(args) => fetch::run(workspace, args),
            Self::Sbom(args) => sbom::run(workspace, args),
            Self::Ci(args) => ci::run(workspace, args),
            Self::Mobile(args) => mobile::run(workspace, args),
            Self::App(args) => app::run(workspace, args),
        }
    }
}

impl Repository {
    fn run(&self, workspace: &Workspace) -> Outcome {
        match self {
            Self::Test(args) => test::run(workspace, args),
            Self::Dev(args) => dev::run(workspace, args, &groups()),
            Self::Completions(args) => completions::run(args, command()),
        }
    }
}

/// The groups, in the order in which the help shows them; which commands are in one is what its enum says.
pub(crate) fn groups() -> [(&'static str, clap::Command); 4] {
    [
        ("Everyday", Everyday::augment_subcommands(clap::Command::default())),
        ("Model", Model::augment_subcommands(clap::Command::default())),
        ("Ship", Ship::augment_subcommands(clap::Command::default())),
        ("This repository", Repository::augment_subcommands(clap::Command::default())),
    ]
}

/// All commands; the help of the root shows them in groups.
pub(crate) fn command() -> clap::Command {
    let mut list = String::new();
    for (heading, group) in groups() {
        list += &format!("{heading}:\n");
        for command in group.get_subcommands() {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            list += &format!("  {:<13}{about}\n", command.get_name());
        }
        list += "\n";
    }
    let template = format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{list}Options:\n{{options}}\n\n\
         `cargo xtask COMMAND --help` has the details of a command, docs/commands.md all commands and exit codes.\n"
    );
    Cli::command().help_template(template)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn commands_and_arguments_have_a_short_help_of_one_line() {
        fn check(command: &clap::Command) {
            for command in command.get_subcommands() {
                let about = command.get_about().map(ToString::to_string).unwrap_or_default();
                assert!((10..=66).contains(&about.len()), "{}: {about:?}", command.get_name());
                assert!(!about.ends_with('.') && about.starts_with(char::is_uppercase), "{about}");
                for argument in command.get_arguments() {
                    let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
                    let of = format!("{} {}", command.get_name(), argument.get_id());
                    assert!((5..=90).contains(&help.len()), "{of}: {help:?}");
                }
                check(command);
            }
        }
        check(&command());
    }
}
