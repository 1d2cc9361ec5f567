//! What each kind of evidence must be able to do: be judged, and be shown.

use serde::Serialize;
use serde_json::Value;

use super::{BenchmarkLimits, Demands, EqLimits, GrammarLimits, ParityLimits, QualityLimits, YardstickLimit};
use crate::{digest::Digest, error::ContractError, ledger::Ledger, scheme::Quantization};

/// What a kind is called where it is shown, and how its bounds are checked.
#[derive(Debug)]
pub struct Kind {
    /// Its name on the app's model card.
    pub name: &'static str,
    /// Heading of its section in a report.
    pub title: &'static str,
    /// What a report says where it was not measured.
    pub absent: &'static str,
    /// Whether a recipe asks what can be asked.
    pub(crate) check: fn(&Bounds<'_>) -> Result<(), ContractError>,
}

/// What a recipe asks of evidence.
#[derive(Debug, Clone, Copy)]
pub struct Bounds<'a> {
    /// Weight scheme.
    pub quantization: Quantization,
    /// Layers of the network.
    pub layers: u32,
    /// Which kinds are demanded, and bounds of kinds without a table of their own.
    pub demands: &'a Demands,
    /// `[parity]`.
    pub parity: &'a ParityLimits,
    /// `[eq]`.
    pub eq: &'a EqLimits,
    /// `[benchmark]`.
    pub benchmark: &'a BenchmarkLimits,
    /// `[quality]`.
    pub quality: Option<&'a QualityLimits>,
    /// `[grammar]`.
    pub grammar: Option<&'a GrammarLimits>,
    /// `[[yardstick]]`.
    pub yardstick: &'a [YardstickLimit],
}

/// What evidence is judged by: the recipe's bounds, and facts of the file that was measured.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// What the recipe asks.
    pub bounds: Bounds<'a>,
    /// SHA-256 of the file.
    pub sha256: Digest,
    /// Parameters of the network.
    pub parameters: u64,
    /// Version of the runtime that the evidence names.
    pub runtime: &'a str,
}

/// What was measured of one kind.
pub trait Measurement {
    /// Judges the figures by today's bounds.
    ///
    /// A comparison must be written so that only a proven pass passes: no number (NaN) fails each of them.
    fn judge(&self, id: &str, asked: &Asked<'_>, ledger: &mut Ledger);

    /// Lines for a terminal.
    fn lines(&self, asked: &Asked<'_>) -> Vec<String>;

    /// Rows of the app's model card: the figures that matter to whoever uses the app.
    fn card(&self, asked: &Asked<'_>) -> Vec<String>;

    /// Metrics of a bill of materials: what holds of the model on any machine.
    fn metrics(&self, asked: &Asked<'_>) -> Vec<Metric>;

    /// A report's section.
    fn parts(&self, asked: &Asked<'_>) -> Vec<Part>;

    /// What an app prints of it as JSON.
    fn value(&self) -> Value;
}

/// A figure with its name and what it is of.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// What is measured.
    pub name: &'static str,
    /// On what.
    pub slice: String,
    /// The figure.
    pub value: f64,
}

/// A part of a report's section.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// A paragraph.
    Text(String),
    /// Single figures with their names.
    Cards(Vec<(&'static str, String)>),
    /// A table.
    Table {
        /// What it shows.
        caption: &'static str,
        /// Heads of the columns.
        heads: Vec<&'static str>,
        /// Cells, row by row.
        rows: Vec<Vec<String>>,
    },
}

/// For a kind of which a recipe can ask nothing wrong.
pub(super) fn unbounded(_: &Bounds<'_>) -> Result<(), ContractError> {
    Ok(())
}

/// Refuses a bound that is not in the range.
pub(super) fn within(key: &'static str, got: f64, max: f64) -> Result<(), ContractError> {
    if (0.0..=max).contains(&got) {
        return Ok(());
    }
    let expected = if max == f64::MAX { "0 or more".into() } else { format!("0 to {max}") };
    Err(ContractError::value("recipe.toml", key, got, expected))
}

/// As JSON has it: a figure that is no number is `null`.
pub(super) fn json(record: &impl Serialize) -> Value {
    serde_json::to_value(record).unwrap_or_default()
}

pub(super) fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

pub(super) fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
