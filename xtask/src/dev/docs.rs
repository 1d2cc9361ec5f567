//! `cargo xtask dev docs`: `docs/commands.md`, written from the command line's own description.

use std::fmt::Write as _;

use anyhow::{Context as _, anyhow};

use crate::{
    exit::{Exit, Failure, Outcome},
    workspace::Workspace,
};

const PAGE: &str = "docs/commands.md";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write nothing; fail when the page is not what would be written
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(workspace: &Workspace, args: &Args, groups: &[(&str, clap::Command)]) -> Outcome {
    let (path, new) = (workspace.root().join(PAGE), page(groups)?);
    let old = std::fs::read_to_string(&path).unwrap_or_default();
    if old == new {
        println!("{PAGE}: up to date");
        return Ok(());
    }
    if args.check {
        let error = anyhow!("{path}: got another text, expected what the commands say of themselves");
        return Err(Failure::new(Exit::Tests, error, "run: cargo xtask dev docs"));
    }
    std::fs::write(&path, new).with_context(|| format!("{path}: cannot be written"))?;
    println!("{PAGE}: written");
    Ok(())
}

/// The page: every command with its flags, and the exit codes.
fn page(groups: &[(&str, clap::Command)]) -> Result<String, std::fmt::Error> {
    let mut page = "# Commands\n\n\
        Written by `cargo xtask dev docs`: do not edit. `cargo xtask COMMAND --help` explains every flag. `--root DIR` names another\n\
        work tree for any of them.\n"
        .to_owned();
    for (heading, group) in groups {
        write!(page, "\n## {heading}\n\n| command | what it does | flags |\n|---|---|---|\n")?;
        for command in group.get_subcommands() {
            rows(&mut page, "cargo xtask", command)?;
        }
    }
    page += "\n## Exit codes\n\n| code | name | meaning |\n|---|---|---|\n";
    for exit in Exit::ALL {
        writeln!(page, "| {} | {} | {} |", *exit as u8, exit.name(), exit.meaning())?;
    }
    Ok(page)
}

/// A row for the command, and one for each command below it.
fn rows(page: &mut String, parent: &str, command: &clap::Command) -> std::fmt::Result {
    let path = format!("{parent} {}", command.get_name());
    let description = command.get_about().map(ToString::to_string).unwrap_or_default();
    let values = command.get_positionals().map(|value| {
        let name = value.get_value_names().and_then(<[_]>::first).map_or("", |name| name.as_str());
        if value.is_required_set() { format!(" {name}") } else { format!(" [{name}]") }
    });
    let values: String = values.collect();
    let flags = command.get_arguments().filter_map(clap::Arg::get_long).filter(|flag| *flag != "help");
    let flags: Vec<_> = flags.map(|flag| format!("`--{flag}`")).collect();
    let values = values.replace('|', "\\|");
    writeln!(page, "| `{path}{values}` | {description} | {} |", flags.join(" "))?;
    command.get_subcommands().try_for_each(|command| rows(page, &path, command))
}

#[cfg(test)]
mod tests {
    use crate::exit::Exit;

    #[test]
    fn the_page_is_up_to_date() {
        let page = super::page(&crate::cli::groups()).unwrap();
        assert_eq!(page, include_str!("../../../docs/commands.md"), "run: cargo xtask dev docs");
        for exit in Exit::ALL {
            assert!(page.contains(&format!(
                "\n| {} | {} | {} |\n",
                *exit as u8,
                exit.name(),
                exit.meaning()
            )));
        }
    }
}
