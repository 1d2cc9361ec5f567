//! Programs of one operator each: `xtask/python/operators` makes them with upstream's exporter.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, bail};
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{digest::Digest, pte};
use serde::Deserialize;

use super::corpus::{self, Subject};
use crate::{child, workspace::Workspace};

/// Whose programs are studied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Operators {
    /// Those whose calls the verifier judges; what a model may call is among them
    Judged,
    /// All others of the linked runtime
    Others,
}

impl Operators {
    fn names(self) -> Vec<String> {
        let judged: Vec<&str> = pte::judged_operators().collect();
        match self {
            Self::Judged => judged.into_iter().map(str::to_owned).collect(),
            Self::Others => {
                let linked = pte::linked_runtime().kernels.iter();
                linked.filter(|name| !judged.contains(&name.as_str())).cloned().collect()
            }
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Judged => "judged",
            Self::Others => "others",
        }
    }
}

/// What the exporting program leaves behind.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Made {
    /// By operator.
    files: BTreeMap<String, Vec<Utf8PathBuf>>,
    /// Why an operator has none.
    missing: BTreeMap<String, String>,
}

/// Exports the programs, or takes what the very same sources made before.
pub(crate) fn export(
    workspace: &Workspace,
    wanted: Operators,
    only: &[String],
    again: bool,
) -> anyhow::Result<Vec<Subject>> {
    let mut names = wanted.names();
    if let Some(unknown) = only.iter().find(|name| !names.contains(name)) {
        bail!("got the operator {unknown}, expected one of: {}", names.join(", "));
    }
    names.retain(|name| only.is_empty() || only.contains(name));
    let sources = workspace.python_sources().join("operators");
    // A few programs do not take the place of all.
    let part = if only.is_empty() { "" } else { "-some" };
    let folder = workspace.state().join("mutation").join(format!("operators-{}{part}", wanted.as_str()));
    let receipt = folder.join("made-of");
    let made_of =
        Digest::of(format!("{} {}", corpus::digest_of(&sources)?, names.join(" ")).as_bytes()).to_string();
    if again || !fs::read_to_string(&receipt).is_ok_and(|made| made == made_of) {
        make(workspace, &sources, &folder, &names)?;
        fs::write(&receipt, &made_of)?;
    }
    let list = folder.join("programs.json");
    let made: Made = serde_json::from_slice(&fs::read(&list).with_context(|| list.to_string())?)
        .with_context(|| list.to_string())?;
    for (operator, why) in &made.missing {
        eprintln!("no program of {operator}: {why}");
    }
    let subjects = made
        .files
        .into_iter()
        .flat_map(|(operator, files)| files.into_iter().map(move |path| Subject::program(&operator, path)));
    Ok(subjects.collect())
}

fn make(
    workspace: &Workspace,
    sources: &Utf8Path,
    folder: &Utf8Path,
    names: &[String],
) -> anyhow::Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder)?;
    eprintln!("export programs of {} operators to {folder}", names.len());
    let log = folder.join("export.log");
    let output = fs::File::create(&log)?;
    let status = child::command(workspace.python())
        .args(["-I", "-B", sources.join("programs.py").as_str(), folder.as_str()])
        .args(names)
        // It reads no network, and has no use for the hub's token.
        .env_remove("HF_TOKEN")
        .stdout(output.try_clone()?)
        .stderr(output)
        .status()
        .with_context(|| format!("{}: cannot be started", workspace.python()))?;
    if !status.success() {
        bail!("the programs of single operators were not exported ({status}), see {log}");
    }
    Ok(())
}
