//! `cargo xtask dev operators`: which operators, called how, the gate admits, from what the worker exports.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, anyhow};
use model_assets::{
    manifest::RUNTIME_VERSION,
    pte::{self, Admitted, AdmittedTable, Expect, Level},
    recipe::Backend,
};

use super::mutate;
use crate::{
    exit::{Exit, Failure, Outcome},
    setup,
    workspace::Workspace,
};

/// Decides the shapes of the exported models: nothing of them is in the table.
const SEED: u64 = 1;
const TABLE: &str = "model-assets/src/kernels/admitted.json";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write nothing; fail when the exports and the table differ
    #[arg(long)]
    check: bool,
    /// Export the models again
    #[arg(long)]
    reexport: bool,
}

impl Args {
    /// `--check`.
    pub(crate) fn comparing() -> Self {
        Self { check: true, reexport: false }
    }
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Outcome {
    setup::ensure(workspace)?;
    let mut families: BTreeMap<String, BTreeMap<String, Admitted>> = BTreeMap::new();
    for (shown, subject) in mutate::export_families(workspace, SEED, args.reexport)? {
        let file = fs::File::open(&subject.path).with_context(|| subject.path.to_string())?;
        let expect = Expect { kernels: Some(pte::linked_runtime().clone()), ..Expect::default() };
        let report = pte::verify(&file, Level::Structure, &expect);
        if let Some(finding) = report.rejects().next() {
            return Err(anyhow!("{}: the worker's own export is refused: {finding}", subject.path).into());
        }
        let summary = report.summary.with_context(|| format!("{}: cannot be read", subject.path))?;
        let backend = if summary.backends.is_empty() { Backend::Portable } else { Backend::Xnnpack };
        for family in shown {
            let backends = families.entry(family.as_str().to_owned()).or_default();
            backends.entry(backend.as_str().to_owned()).or_default().merge(&report.calls);
        }
    }
    let table = AdmittedTable { runtime: RUNTIME_VERSION.to_owned(), families };
    let text = serde_json::to_string_pretty(&table)? + "\n";
    let path = workspace.root().join(TABLE);
    let old = fs::read_to_string(&path).with_context(|| path.to_string())?;
    if old == text {
        println!("{TABLE}: as the worker exports");
    } else if args.check {
        let (error, hint) = (
            anyhow!("{path}: the worker exports other calls:\n{}", difference(&old, &text)),
            "look at what is new, judge it in model-assets/src/pte/judge.rs, then run: cargo xtask dev operators",
        );
        return Err(Failure::new(Exit::Refused, error, hint));
    } else {
        print!("{}", difference(&old, &text));
        fs::write(&path, text).with_context(|| path.to_string())?;
        println!("{TABLE}: written");
    }
    Ok(())
}

/// Lines that only one of two texts has.
fn difference(old: &str, new: &str) -> String {
    let lacks = |text: &str, line: &str| !text.lines().any(|other| other.trim_end_matches(',') == line);
    let only = |sign: char, one: &str, other: &str| -> String {
        let lines = one.lines().map(|line| line.trim_end_matches(','));
        lines.filter(|line| lacks(other, line)).map(|line| format!("{sign} {}\n", line.trim())).collect()
    };
    only('-', old, new) + &only('+', new, old)
}

#[cfg(test)]
mod tests {
    use super::difference;

    #[test]
    fn a_difference_names_what_is_new_and_what_is_gone() {
        assert_eq!(difference("a,\n b\n", "a\n b\n"), "");
        assert_eq!(difference("a\nb\n", "a,\n c\n"), "- b\n+ c\n");
    }
}
