//! The needs and steps of a mobile build, as data.
//!
//! **Invariant:** making or printing a plan has no effect. A step with an output is done once: its command writes to
//! `<output>.new`, which takes its place when the command has succeeded, so a killed step is done again.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, anyhow};
use camino::Utf8PathBuf;
use serde::Serialize;

use crate::exit::{Exit, Failure};

/// A tool or SDK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Need {
    /// What it is.
    pub(super) what: String,
    /// What was found.
    pub(super) found: Option<String>,
    /// The command that installs it.
    pub(super) fix: String,
}

impl Need {
    pub(super) fn new(what: &str, found: Option<String>, fix: &str) -> Self {
        Self { what: what.to_owned(), found, fix: fix.to_owned() }
    }

    /// A program on the path.
    pub(super) fn program(name: &str, fix: &str) -> Self {
        Self::new(name, find_program(name).map(Utf8PathBuf::into_string), fix)
    }
}

/// Where the path has a program.
pub(super) fn find_program(name: &str) -> Option<Utf8PathBuf> {
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths)
        .filter_map(|folder| Utf8PathBuf::from_path_buf(folder.join(name)).ok())
        .find(|path| path.is_file())
}

/// One command.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Step {
    /// Why it is there.
    pub(super) why: String,
    /// Program and arguments.
    pub(super) argv: Vec<String>,
    /// Variables that it is given.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) env: BTreeMap<String, String>,
    /// Where it runs, when not at the root of the repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) folder: Option<Utf8PathBuf>,
    /// What it makes, once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) output: Option<Utf8PathBuf>,
}

impl Step {
    pub(super) fn new(why: &str, argv: &[&str]) -> Self {
        Self {
            why: why.to_owned(),
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
            ..Self::default()
        }
    }

    pub(super) fn env(mut self, pairs: &[(&str, &str)]) -> Self {
        self.env.extend(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        self
    }

    pub(super) fn folder(self, folder: Utf8PathBuf) -> Self {
        Self { folder: Some(folder), ..self }
    }

    /// The command writes to `<output>.new`.
    pub(super) fn output(self, output: Utf8PathBuf) -> Self {
        Self { output: Some(output), ..self }
    }
}

/// Where a step's command writes before its output is whole.
pub(super) fn unfinished(output: &Utf8PathBuf) -> Utf8PathBuf {
    Utf8PathBuf::from(format!("{output}.new"))
}

/// Everything that a build needs and does, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct BuildPlan {
    pub(super) target: String,
    pub(super) needs: Vec<Need>,
    pub(super) steps: Vec<Step>,
}

impl BuildPlan {
    /// Stops with every missing tool and how to get it, before anything is done.
    pub(super) fn check_needs(&self) -> Result<(), Failure> {
        let missing: Vec<_> = self.needs.iter().filter(|need| need.found.is_none()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = missing.iter().map(|need| need.what.as_str()).collect();
        let fixes: Vec<_> = missing.iter().map(|need| format!("{}: {}", need.what, need.fix)).collect();
        let error = anyhow!("{}: missing: {}", self.target, names.join(", "));
        Err(Failure::new(Exit::MobileTools, error, format!("install\n  {}", fixes.join("\n  "))))
    }

    /// Does every step.
    pub(super) fn run(&self, root: &camino::Utf8Path) -> Result<(), Failure> {
        for step in &self.steps {
            if step.output.as_ref().is_some_and(|output| output.exists()) {
                continue;
            }
            eprintln!("{}", step.why);
            run(step, root).map_err(|error| {
                Failure::new(
                    Exit::MobileBuild,
                    error,
                    format!("fix it, then run: cargo xtask mobile {}", self.target),
                )
            })?;
        }
        Ok(())
    }
}

fn run(step: &Step, root: &camino::Utf8Path) -> anyhow::Result<()> {
    if let Some(output) = &step.output {
        let temporary = unfinished(output);
        if temporary.exists() {
            fs::remove_dir_all(&temporary).with_context(|| format!("{temporary}: cannot be removed"))?;
        }
        output.parent().map_or(Ok(()), fs::create_dir_all)?;
    }
    let (program, arguments) = step.argv.split_first().context("a step without a command")?;
    let status = crate::child::with(program, crate::child::Needs::Network)
        .args(arguments)
        .current_dir(step.folder.as_deref().unwrap_or(root))
        // What cargo and rustup say of this process must not decide about another toolchain.
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("RUSTC")
        .env_remove("CARGO")
        // Either would put aside the flags that a target's own variable gives.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .envs(&step.env)
        .status()
        .with_context(|| format!("{program}: cannot be started"))?;
    anyhow::ensure!(status.success(), "{}: ended with {status}", step.argv.join(" "));
    if let Some(output) = &step.output {
        let temporary = unfinished(output);
        fs::rename(&temporary, output).with_context(|| format!("{output}: cannot be put in place"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(steps: Vec<Step>) -> BuildPlan {
        BuildPlan { target: "test".to_owned(), needs: Vec::new(), steps }
    }

    #[test]
    fn an_output_is_made_once_and_a_killed_step_is_done_again() {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8PathBuf::try_from(folder.path().to_owned()).unwrap();
        let output = root.join("deep/made");
        let fresh = unfinished(&output);
        // What a killed step left.
        fs::create_dir_all(fresh.join("half")).unwrap();
        let step = Step::new("a folder", &["mkdir", fresh.as_str()]).output(output.clone());
        plan(vec![step]).run(&root).unwrap();
        assert!(output.is_dir() && !fresh.exists() && !output.join("half").exists());

        let never = Step::new("a folder", &["false"]).output(output);
        plan(vec![never]).run(&root).unwrap();
    }

    #[test]
    fn a_step_that_fails_ends_the_build_and_leaves_no_output() {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8PathBuf::try_from(folder.path().to_owned()).unwrap();
        let output = root.join("made");
        let failure =
            plan(vec![Step::new("a folder", &["false"]).output(output.clone())]).run(&root).unwrap_err();
        assert_eq!(failure.code, Exit::MobileBuild);
        assert!(!output.exists());
    }
}
