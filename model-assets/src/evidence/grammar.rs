//! Grammar: for a model whose world has one, the share of sampled replies that it accepts.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    EvidenceKind,
    measurement::{Asked, Bounds, Kind, Measurement, Metric, Part, json, percent, within},
};
use crate::{error::ContractError, ledger::Ledger};

pub(super) const KIND: Kind = Kind {
    name: "Grammar",
    title: "Grammar",
    absent: "Not measured: this model's world has no grammar to judge by, or the evidence is still to come.",
    check,
};

/// Bounds of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct GrammarLimits {
    /// Smallest share of accepted replies, 0 to 1.
    pub acceptance_min: f64,
    /// Smallest ratio of that share to the eager models', 0 to 1.
    pub acceptance_ratio_min: f64,
}

/// The same prompts answered by the model before quantization, after it, and as exported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Grammar {
    /// The eager model before quantization.
    pub fp32: Acceptance,
    /// The eager quantized model.
    pub quantized: Acceptance,
    /// The `.pte` in the engine.
    pub pte: Acceptance,
}

/// How many replies the grammar could have given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Acceptance {
    /// Replies.
    pub replies: u32,
    /// Those that the grammar accepts; one that did not end by itself is none of them.
    pub accepted: u32,
}

impl Acceptance {
    /// Share of accepted replies, 0 to 1; 0 when there are none.
    pub fn share(self) -> f64 {
        if self.replies == 0 { 0.0 } else { f64::from(self.accepted) / f64::from(self.replies) }
    }
}

impl Measurement for Grammar {
    /// Judges by the recipe's bounds; without any there is nothing to judge.
    fn judge(&self, id: &str, asked: &Asked<'_>, ledger: &mut Ledger) {
        let Some(limits) = asked.bounds.grammar else { return };
        let (share, eager) = (self.pte.share(), self.fp32.share().max(self.quantized.share()));
        let same = self.pte.replies == self.fp32.replies && self.pte.replies == self.quantized.replies;
        let holds = same && share >= limits.acceptance_min && share >= limits.acceptance_ratio_min * eager;
        let got = format!("{:.2} % of {}, eager {:.2} %", share * 100.0, self.pte.replies, eager * 100.0);
        let expected = format!(
            "at least {:.2} %, and {:.2} of eager's",
            limits.acceptance_min * 100.0,
            limits.acceptance_ratio_min
        );
        ledger.judge(id, "accepted replies", holds, got, expected);
    }

    fn lines(&self, _: &Asked<'_>) -> Vec<String> {
        let sides = [("fp32", self.fp32), ("quantized", self.quantized), (".pte", self.pte)];
        let line = |(name, it): (&str, Acceptance)| {
            format!("grammar accepts, {name}: {} of {} ({})", it.accepted, it.replies, percent(it.share()))
        };
        sides.map(line).into()
    }

    fn card(&self, _: &Asked<'_>) -> Vec<String> {
        vec![format!("accepts {:.1} % of replies", self.pte.share() * 100.0)]
    }

    fn metrics(&self, _: &Asked<'_>) -> Vec<Metric> {
        vec![Metric {
            name: "share of replies that the grammar accepts",
            slice: "held-out conversations".to_owned(),
            value: self.pte.share(),
        }]
    }

    fn parts(&self, _: &Asked<'_>) -> Vec<Part> {
        let sides = [
            ("Model before quantization", self.fp32),
            ("Model quantized, eager", self.quantized),
            ("Model .pte in the engine", self.pte),
        ];
        let row = |(name, it): (&str, Acceptance)| {
            vec![name.to_owned(), it.accepted.to_string(), it.replies.to_string(), percent(it.share())]
        };
        vec![Part::Table {
            caption: "Sampled replies to held-out conversations that the grammar accepts",
            heads: vec!["model", "accepted", "replies", "share"],
            rows: sides.map(row).into(),
        }]
    }

    fn value(&self) -> Value {
        json(self)
    }
}

fn check(bounds: &Bounds<'_>) -> Result<(), ContractError> {
    let Some(limits) = bounds.grammar else {
        if bounds.demands.any(EvidenceKind::Grammar) {
            let expected = "bounds, as `evidence` demands it";
            return Err(ContractError::value("recipe.toml", "grammar", "no table", expected));
        }
        return Ok(());
    };
    within("grammar.acceptance_min", limits.acceptance_min, 1.0)?;
    within("grammar.acceptance_ratio_min", limits.acceptance_ratio_min, 1.0)
}
