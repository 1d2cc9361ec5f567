//! `cargo xtask bench --against`: both sides of a ratio, measured in one run on one machine.
//!
//! **Invariant:** a table names the machine and its load; a ratio is ours over theirs, of figures taken in this run.

use std::{fmt::Write as _, fs};

use anyhow::{bail, ensure};
use camino::Utf8Path;
use model_assets::{evidence::Machine, manifest::LOG_FILE};
use serde::Serialize;

use crate::{
    console::Console,
    supervise::{self, Bounds, Run},
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
    pub(super) machine: Option<Machine>,
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
    pub(super) ours: f64,
    pub(super) theirs: f64,
    /// Ours over theirs.
    pub(super) ratio: f64,
}

impl Row {
    pub(super) fn new(figure: impl Into<String>, unit: &'static str, ours: f64, theirs: f64) -> Self {
        Self { figure: figure.into(), unit, ours, theirs, ratio: ours / theirs }
    }
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
) -> anyhow::Result<Run> {
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

/// The load of the machine, where it tells.
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
    let machine = c.machine.as_ref().map_or(String::new(), |m| {
        format!("{} ({}, {} processors, {}), ", m.processor, m.architecture, m.processors, m.system)
    });
    let load = c.load.map_or("unknown".to_owned(), |load| format!("{load:.2}"));
    let [ours, theirs] = c.sides;
    let mut text = format!(
        "{}\n{machine}load before the run {load}\n\n| figure | {ours} | {theirs} | ratio |\n|---|---|---|---|\n",
        c.what
    );
    for row in &c.rows {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {} | {:.2} {unit} | {:.2} {unit} | {:.3} |",
            row.figure,
            row.ours,
            row.theirs,
            row.ratio,
            unit = row.unit
        );
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
            machine: None,
            load: Some(0.25),
            sides: ["ours", "theirs"],
            rows: vec![Row::new("decode", "tok/s", 30.0, 20.0)],
        };
        let text = markdown(&comparison);
        assert!(text.contains("load before the run 0.25"), "{text}");
        assert!(text.contains("| decode | 30.00 tok/s | 20.00 tok/s | 1.500 |"), "{text}");
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }
}
