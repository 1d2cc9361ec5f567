//! `cargo xtask bench --against`: both sides of a ratio, measured in one run on one machine.
//!
//! Sides take turns, one repeat each, and every other round the other side begins, because a machine's speed changes from minute
//! to minute. A ratio compares the two figures of one round. Its median over the rounds is shown with the least and the most, so
//! that rounds in which the speed changed are visible and do not count.
//!
//! **Invariant:** a table names the machine and its load; a ratio is ours over theirs, of figures taken in this run.

use std::{fmt::Write as _, fs};

use anyhow::{bail, ensure};
use camino::Utf8Path;
use model_assets::{evidence::Machine, manifest::LOG_FILE};
use serde::Serialize;

use crate::{
    console::Console,
    supervise::{self, Bounds, WorkerRun},
    workspace::Workspace,
};

/// What to compare with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Against {
    /// The same `.pte` in upstream's Python runtime
    Python,
    /// An export of the same shapes, on random weights, by upstream's `export_llm`
    ExportLlm,
    /// The reserve: llama.cpp on the GGUF of the same checkpoint
    Llamacpp,
}

/// Figures of two sides.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    /// What was compared.
    pub(super) what: String,
    /// Where.
    pub(super) machine: Machine,
    /// Runnable processes over the last minute, before the run: see proc_loadavg(5).
    pub(super) load: Option<f64>,
    /// Names of the sides: ours, theirs.
    pub(super) sides: [&'static str; 2],
    pub(super) rows: Vec<Row>,
}

/// One figure of both sides.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(super) figure: String,
    pub(super) unit: &'static str,
    /// Median of the rounds.
    pub(super) ours: f64,
    /// Median of the rounds.
    pub(super) theirs: f64,
    /// Ours over theirs in each round: the median.
    pub(super) ratio: f64,
    /// Ours and theirs, round by round.
    pub(super) rounds: Vec<[f64; 2]>,
}

impl Row {
    pub(super) fn new(figure: impl Into<String>, unit: &'static str, rounds: Vec<[f64; 2]>) -> Self {
        let of = |pick: fn(&[f64; 2]) -> f64| median(&rounds.iter().map(pick).collect::<Vec<_>>());
        let (ours, theirs, ratio) = (of(|round| round[0]), of(|round| round[1]), of(ratio));
        Self { figure: figure.into(), unit, ours, theirs, ratio, rounds }
    }

    /// The middle value of the rounds and, of more than one, the least and the most.
    fn cell(&self, middle: f64, unit: &str, digits: usize, pick: fn(&[f64; 2]) -> f64) -> String {
        let text = format!("{middle:.digits$}{unit}");
        if self.rounds.len() < 2 {
            return text;
        }
        let least = self.rounds.iter().map(pick).fold(f64::INFINITY, f64::min);
        let most = self.rounds.iter().map(pick).fold(f64::NEG_INFINITY, f64::max);
        format!("{text} ({least:.digits$} to {most:.digits$})")
    }
}

fn ratio([ours, theirs]: &[f64; 2]) -> f64 {
    ours / theirs
}

/// Measures both sides in turn; every other round the other side begins. `theirs` gets the first answer of ours.
///
/// # Errors
/// As either side.
pub(super) fn in_turn<A: Clone, B>(
    rounds: u32,
    mut ours: impl FnMut() -> anyhow::Result<A>,
    mut theirs: impl FnMut(&A) -> anyhow::Result<B>,
) -> anyhow::Result<Vec<(A, B)>> {
    let first = ours()?;
    let mut taken = vec![(first.clone(), theirs(&first)?)];
    for round in 1..rounds {
        if round % 2 == 1 {
            let answer = theirs(&first)?;
            taken.push((ours()?, answer));
        } else {
            taken.push((ours()?, theirs(&first)?));
        }
    }
    Ok(taken)
}

/// Runs a script of the other side on its request, in `folder`.
///
/// # Errors
/// It was killed, or failed: with the last lines that it said.
pub(super) fn script(
    workspace: &Workspace,
    name: &str,
    folder: &Utf8Path,
    asked: &serde_json::Value,
    bounds: &Bounds,
    console: &Console,
) -> anyhow::Result<WorkerRun> {
    let script = workspace.python_sources().join("compare").join(name);
    let request = folder.join("request.json");
    fs::write(&request, serde_json::to_vec(asked)?)?;
    let run =
        supervise::run(&workspace.python(), &script, &request, &folder.join(LOG_FILE), bounds, console)?;
    if let Some(reason) = &run.killed {
        bail!("{script}: {reason}");
    }
    ensure!(run.ok, "{script}: failed:\n{}", run.tail.join("\n"));
    Ok(run)
}

/// The load of the machine, where the system reports it.
pub(super) fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

/// The middle value, or the mean of the two in the middle; not a number when there is none.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    if sorted.len() % 2 == 1 { at(half) } else { f64::midpoint(at(half.wrapping_sub(1)), at(half)) }
}

/// The comparison as a Markdown table.
pub(crate) fn markdown(c: &Comparison) -> String {
    let m = &c.machine;
    let machine = format!("{} ({}, {} processors, {})", m.processor, m.architecture, m.processors, m.system);
    let load = c.load.map_or("unknown".to_owned(), |load| format!("{load:.2}"));
    let [ours, theirs] = c.sides;
    let mut text = format!(
        "{}\n{machine}, load before the run {load}\n\n| figure | {ours} | {theirs} | ratio |\n|---|---|---|---|\n",
        c.what
    );
    for row in &c.rows {
        // Writing to a String cannot fail.
        let unit = format!(" {}", row.unit);
        let ours = row.cell(row.ours, &unit, 2, |round| round[0]);
        let theirs = row.cell(row.theirs, &unit, 2, |round| round[1]);
        let ratio = row.cell(row.ratio, "", 3, ratio);
        let _ = writeln!(text, "| {} | {ours} | {theirs} | {ratio} |", row.figure);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_both_sides_and_their_ratio() {
        let comparison = Comparison {
            what: "x.pte, 2 threads".into(),
            machine: crate::bench::tests::sample().machine,
            load: Some(0.25),
            sides: ["ours", "theirs"],
            rows: vec![
                Row::new("decode", "tok/s", vec![[30.0, 20.0]]),
                Row::new("prefill", "tok/s", vec![[38.0, 24.0], [24.0, 24.0], [39.0, 38.0]]),
            ],
        };
        let text = markdown(&comparison);
        let machine = "A <fast> processor & co (x86_64, 2 processors, linux 6), load before the run 0.25";
        assert!(text.contains(machine), "{text}");
        assert!(text.contains("| decode | 30.00 tok/s | 20.00 tok/s | 1.500 |"), "{text}");
        // The median of the ratios, and not the ratio of the medians, 38 over 24.
        let row = "| prefill | 38.00 tok/s (24.00 to 39.00) | 24.00 tok/s (24.00 to 38.00) | 1.026 (1.000 to 1.583) |";
        assert!(text.contains(row), "{text}");
    }

    #[test]
    fn sides_take_turns_to_begin() {
        let calls = std::cell::RefCell::new(String::new());
        let ours = || {
            calls.borrow_mut().push('a');
            Ok(calls.borrow().len())
        };
        let theirs = |first: &usize| {
            calls.borrow_mut().push('b');
            Ok(*first)
        };
        let taken = in_turn(4, ours, theirs).unwrap();
        assert_eq!(*calls.borrow(), "abbaabba");
        assert_eq!(taken, [(1, 1), (4, 1), (5, 1), (8, 1)]);
        assert!(in_turn(1, || Ok(()), |()| anyhow::Result::<()>::Err(anyhow::anyhow!("no"))).is_err());
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }
}
