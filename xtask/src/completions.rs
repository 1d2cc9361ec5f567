//! `cargo xtask completions`: a script that completes this command line in a shell.

use std::io::Write as _;

use clap_complete::Shell;

use crate::exit::Outcome;

/// What the shell completes: a function, because a shell cannot complete the words after `cargo`, which has completions of
/// its own.
const NAME: &str = "xtask";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: For,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum For {
    Bash,
    Zsh,
    Fish,
}

/// `line` is the whole command line.
pub(crate) fn run(args: &Args, line: clap::Command) -> Outcome {
    std::io::stdout().write_all(script(args.shell, line).as_bytes())?;
    Ok(())
}

fn script(shell: For, mut line: clap::Command) -> String {
    let (generator, function) = match shell {
        For::Bash => (Shell::Bash, "xtask() { cargo xtask \"$@\"; }\n"),
        For::Zsh => (Shell::Zsh, "xtask() { cargo xtask \"$@\" }\n"),
        For::Fish => (Shell::Fish, "function xtask; cargo xtask $argv; end\n"),
    };
    let mut script = Vec::new();
    clap_complete::generate(generator, &mut line, NAME, &mut script);
    String::from_utf8_lossy(&script).into_owned() + function
}
