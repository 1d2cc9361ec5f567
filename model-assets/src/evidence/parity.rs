//! Parity of a `.pte` with the eager quantized model: block by block on the same inputs, then end to end.
//!
//! Int8 activations make logits useless as the only measure: where a value lies between two steps the last bit of a sum
//! decides, the next block amplifies it, and after some layers two correct implementations differ as much as either differs
//! from the model before quantization. So each block, from one attention call to the next, gets the eager model's input and
//! is judged alone. There a correct block differs by what fp32 rounding changes: with activations in one int8 row by 1e-7 at
//! most tokens, and by a step where a code flips; in two rows, whose steps are fine, by a few flipped codes at most tokens.
//! The export measures that floor with the eager model: the same block, on the same input, with rounding added.
//!
//! **Invariant:** no bound here knows a model. They follow from fp32 rounding, and from the floor and the quantization noise
//! of the very block, which the eager model measured beside the value.
//!
//! **Invariant:** a comparison is written so that no number (NaN) passes none of them.

mod blocks;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::blocks::{Boundary, BoundaryFigures, Deviation, LayerFigures, ROUNDING};
use self::blocks::{GAIN_FLOOR_TIMES, OFF_FLOOR_TIMES, STEPS_MAX};
use super::measurement::{Asked, Bounds, Kind, Measurement, Metric, Part, json, percent, within};
use crate::{error::ContractError, ledger::Ledger};

/// Largest share of a kind's values that are off. One of a hundred is usual.
const OFF_SHARE_MAX: f64 = 0.1;
/// How much further from the eager model the engine may be than the eager model with fp32 rounding is from itself.
const FLOOR_TIMES_MAX: f64 = 1.5;
/// The same for the largest difference of a logit, which is one number out of many.
const FLOOR_DIFF_TIMES_MAX: f64 = 3.0;
/// Where nothing is quantized the floor is nil, and this remains.
const KL_MIN: f64 = 1e-9;
const DIFF_MIN: f64 = 1e-3;

pub(super) const KIND: Kind = Kind { name: "Parity", title: "Parity", absent: "Not measured.", check };

/// What parity must show beyond what it always must: the bounds on blocks follow from the scheme, those end to end from the
/// floor that the eager model measures (see [`Parity`]). A recipe can only be stricter.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ParityLimits {
    /// Largest absolute logit difference, end to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_abs_diff_max: Option<f64>,
    /// Largest mean KL divergence, end to end, nats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_kl_max: Option<f64>,
    /// Retired: blocks are compared instead of the most likely tokens. Whoever proves such a recipe is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top1_agreement_min: Option<f64>,
    /// Retired: `quality` measures more of the same. Whoever proves such a recipe is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heldout: Option<std::collections::BTreeMap<String, f64>>,
}

impl ParityLimits {
    /// Keys that older recipes have and nothing measures any more.
    pub fn retired(&self) -> Vec<&'static str> {
        let keys =
            [("top1_agreement_min", self.top1_agreement_min.is_some()), ("heldout", self.heldout.is_some())];
        keys.into_iter().filter(|(_, there)| *there).map(|(key, _)| key).collect()
    }
}

/// How far one way of running the `.pte` is from the recorded logits of the eager quantized model.
///
/// All figures are over `rows` teacher-forced positions times the vocabulary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ParityRun {
    /// Positions compared.
    pub rows: u32,
    /// Largest absolute logit difference.
    pub max_abs_diff: f64,
    /// Mean absolute logit difference.
    pub mean_abs_diff: f64,
    /// Mean KL divergence KL(eager ‖ pte) over positions, nats.
    pub mean_kl: f64,
    /// Share of positions where both have the same arg-max, 0 to 1.
    pub top1_agreement: f64,
}

/// How far the eager model is from itself when what goes into its matrices is changed by fp32 rounding, over the same rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Floor {
    /// Mean KL divergence, nats.
    pub mean_kl: f64,
    /// Standard error of that mean.
    pub standard_error: f64,
    /// Largest absolute difference of a logit.
    pub max_abs_diff: f64,
}

/// One way of feeding the text, end to end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Fed {
    /// Against the eager quantized model.
    pub run: ParityRun,
    /// The floor over the same rows.
    pub floor: Floor,
}

/// Parity of the `.pte` in the engine with the eager quantized model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Parity {
    /// Tokens of each call: the prompt in pieces, then single steps.
    pub calls: Vec<u32>,
    /// Block by block on the eager model's inputs: one entry for each of [`Boundary::ALL`].
    pub blocks: Vec<BoundaryFigures>,
    /// The prompt in one prefill, then one decode step per token.
    pub prefill_then_decode: Fed,
    /// The prompt in the pieces of `calls`, then decode.
    pub chunked_prefill: Fed,
    /// Every token in a step of its own.
    pub step_by_step: Fed,
}

/// Where and why the blocks are refused.
#[derive(Debug, Clone, PartialEq)]
pub struct Divergence {
    /// `layer 3, token 17, query`.
    pub place: String,
    /// What was found there, and which operators it points to.
    pub got: String,
}

impl Floor {
    /// The largest mean KL divergence that passes.
    pub fn kl_max(&self) -> f64 {
        KL_MIN.max(FLOOR_TIMES_MAX * self.mean_kl + 3.0 * self.standard_error)
    }

    /// The largest difference of a logit that passes.
    pub fn diff_max(&self) -> f64 {
        DIFF_MIN.max(FLOOR_DIFF_TIMES_MAX * self.max_abs_diff)
    }
}

impl Parity {
    /// The three ways of feeding with their names.
    pub fn runs(&self) -> [(&'static str, &Fed); 3] {
        [
            ("prefill then decode", &self.prefill_then_decode),
            ("chunked prefill", &self.chunked_prefill),
            ("step by step", &self.step_by_step),
        ]
    }

    /// Whether every boundary was compared, in every layer and at every token.
    pub fn is_complete(&self, layers: u32) -> bool {
        let tokens: u32 = self.calls.iter().sum();
        let kinds = self.blocks.iter().map(|it| it.boundary);
        let past_a_call = self.calls.windows(2).any(|pair| pair.iter().all(|count| *count > 1));
        let whole = |it: &BoundaryFigures| match it.boundary {
            Boundary::Logits => (it.layers.len(), it.tokens as usize) == (1, self.calls.len()),
            _ => (it.layers.len(), it.tokens) == (layers as usize, tokens),
        };
        kinds.eq(Boundary::ALL)
            && self.blocks.iter().all(whole)
            && past_a_call
            && self.calls.last() == Some(&1)
    }

    /// The first block that is not what it should be, in the order of computation.
    pub fn divergence(&self) -> Option<Divergence> {
        let layers = self.blocks.iter().map(|it| it.layers.len()).max().unwrap_or_default();
        for layer in 0..layers {
            let failing = |it: &&BoundaryFigures| {
                it.boundary != Boundary::Logits && it.layers.get(layer).is_some_and(|at| !at.holds(it.tokens))
            };
            let wrong: Vec<_> = self.blocks.iter().filter(failing).collect();
            if let Some(first) = wrong.first() {
                let kinds: Vec<_> = wrong.iter().map(|it| it.boundary).collect();
                return Some(divergence(first, layer, suspects(layer, &kinds)));
            }
        }
        let logits = self.blocks.iter().find(|it| it.boundary == Boundary::Logits);
        if let Some(it) = logits.filter(|it| it.layers.iter().any(|at| !at.holds(it.tokens))) {
            return Some(divergence(
                it,
                0,
                "the last layer's output or feed-forward, the final norm or the head",
            ));
        }
        // No layer alone, but too many flipped codes for rounding.
        self.blocks.iter().find(|it| it.off_share() > OFF_SHARE_MAX).map(|it| Divergence {
            place: format!("all layers, {}", it.boundary.as_str()),
            got: format!("{:.2} % of the values off by more than rounding", it.off_share() * 100.0),
        })
    }

    /// What [`Self::divergence`] expects, for a message.
    pub fn expected() -> String {
        format!(
            "most tokens of every layer within {ROUNDING:.0e} of their norm or {OFF_FLOOR_TIMES} times the eager model's own \
             rounding, in scale within {GAIN_FLOOR_TIMES} times that, none off by more than {STEPS_MAX} times the block's \
             quantization noise, at most {:.0} % off in all",
            OFF_SHARE_MAX * 100.0
        )
    }
}

impl Measurement for Parity {
    /// Judges the blocks, each on the eager model's input, then every way of feeding against the measured floor.
    fn judge(&self, id: &str, asked: &Asked<'_>, ledger: &mut Ledger) {
        let layers = asked.bounds.layers;
        let calls: Vec<_> = self.calls.iter().map(u32::to_string).collect();
        let got = format!("{} boundaries over calls of {}", self.blocks.len(), calls.join(" + "));
        let expected =
            format!("every boundary of {layers} layers, past the end of a call and in single steps");
        ledger.judge(id, "blocks", self.is_complete(layers), got, expected);
        match self.divergence() {
            Some(found) => ledger.fail(id, &found.place, found.got, Self::expected()),
            None => ledger.judge(id, "blocks", true, "all agree", Self::expected()),
        }
        for (name, fed) in self.runs() {
            fed.judge(id, name, asked.bounds.parity, ledger);
        }
    }

    fn lines(&self, _: &Asked<'_>) -> Vec<String> {
        let blocks = self.blocks.iter().map(|it| format!("parity, {}: {}", it.boundary.as_str(), it.line()));
        let runs = self.runs().map(|(name, Fed { run, floor })| {
            format!(
                "parity, {name}: {} rows, KL {:.3e} (floor {:.3e}), max |d| {:.3e} (floor {:.3e}), top-1 {:.4}",
                run.rows,
                run.mean_kl,
                floor.mean_kl,
                run.max_abs_diff,
                floor.max_abs_diff,
                run.top1_agreement
            )
        });
        blocks.chain(runs).collect()
    }

    fn card(&self, _: &Asked<'_>) -> Vec<String> {
        let layers = self.blocks.iter().map(|it| it.layers.len()).max().unwrap_or_default();
        vec![match self.divergence() {
            None => format!("each of {layers} layers computes what the eager model's does"),
            Some(found) => format!("diverges at {}", found.place),
        }]
    }

    fn metrics(&self, _: &Asked<'_>) -> Vec<Metric> {
        let of_run = |(slice, fed): (&str, &Fed)| {
            [
                ("mean KL divergence from the eager model, nats", fed.run.mean_kl),
                ("top-1 agreement with the eager model", fed.run.top1_agreement),
            ]
            .map(|(name, value)| Metric { name, slice: slice.to_owned(), value })
        };
        self.runs().into_iter().flat_map(of_run).collect()
    }

    fn parts(&self, _: &Asked<'_>) -> Vec<Part> {
        vec![blocks_table(&self.blocks), runs_table(&self.runs())]
    }

    fn value(&self) -> Value {
        json(self)
    }
}

impl Fed {
    fn judge(&self, id: &str, name: &str, limits: &ParityLimits, ledger: &mut Ledger) {
        let ParityRun { rows, max_abs_diff, mean_kl, .. } = self.run;
        let stricter = |own: f64, limit: Option<f64>| limit.map_or(own, |limit| limit.min(own));
        let kl_max = stricter(self.floor.kl_max(), limits.mean_kl_max);
        let diff_max = stricter(self.floor.diff_max(), limits.max_abs_diff_max);
        let holds = rows > 0 && mean_kl <= kl_max && max_abs_diff <= diff_max;
        let got = format!("{rows} rows, KL {mean_kl:.3e}, max |d| {max_abs_diff:.3e}");
        let expected = format!(
            "KL ≤ {kl_max:.3e}, max |d| ≤ {diff_max:.3e} (the eager model with fp32 rounding is {:.3e} from itself)",
            self.floor.mean_kl
        );
        ledger.judge(id, name, holds, got, expected);
    }
}

/// One row per kind of boundary.
fn blocks_table(blocks: &[BoundaryFigures]) -> Part {
    let row = |it: &BoundaryFigures| {
        let typical = |figure: &dyn Fn(&LayerFigures) -> f64| format!("{:.1e}", it.over_layers(figure).0);
        let largest = |figure: &dyn Fn(&LayerFigures) -> f64| it.over_layers(figure).1;
        vec![
            it.boundary.as_str().to_owned(),
            format!("{} x {}", it.layers.len(), it.tokens),
            typical(&|layer| layer.noise),
            typical(&|layer| layer.floor),
            typical(&|layer| layer.median),
            format!("{:.1e}", largest(&|layer| layer.median)),
            percent(it.off_share()),
            format!("{:.1e}", largest(&|layer| layer.largest)),
            format!("{:.2}", largest(&|layer| layer.steps)),
        ]
    };
    Part::Table {
        caption: "Each block of the .pte on the eager model's input, relative to the value's norm",
        heads: vec![
            "boundary",
            "layers x tokens",
            "quantization noise",
            "eager model with rounding",
            "median error",
            "worst layer's median",
            "with a flipped code",
            "largest error",
            "in units of the noise",
        ],
        rows: blocks.iter().map(row).collect(),
    }
}

/// Two rows per way of feeding: the `.pte`, and the floor.
fn runs_table(runs: &[(&'static str, &Fed)]) -> Part {
    let mut rows = Vec::new();
    for (name, Fed { run, floor }) in runs {
        rows.push(vec![
            (*name).to_owned(),
            run.rows.to_string(),
            format!("{:.3e}", run.max_abs_diff),
            format!("{:.3e}", run.mean_abs_diff),
            format!("{:.3e}", run.mean_kl),
            format!("{:.4}", run.top1_agreement),
        ]);
        rows.push(vec![
            format!("{name}: the eager model with fp32 rounding against itself"),
            run.rows.to_string(),
            format!("{:.3e}", floor.max_abs_diff),
            String::new(),
            format!("{:.3e}", floor.mean_kl),
            String::new(),
        ]);
    }
    Part::Table {
        caption: "The .pte in the engine against the eager model, teacher-forced",
        heads: vec!["fed and compared with", "rows", "max |d|", "mean |d|", "KL, nats", "same top token"],
        rows,
    }
}

fn check(bounds: &Bounds<'_>) -> Result<(), ContractError> {
    let ParityLimits { max_abs_diff_max, mean_kl_max, .. } = bounds.parity;
    within("parity.max_abs_diff_max", max_abs_diff_max.unwrap_or(0.0), f64::MAX)?;
    within("parity.mean_kl_max", mean_kl_max.unwrap_or(0.0), f64::MAX)
}

fn divergence(it: &BoundaryFigures, layer: usize, suspects: &str) -> Divergence {
    let name = it.boundary.as_str();
    let (place, figures) = match (it.boundary, it.layers.get(layer)) {
        (Boundary::Logits, figures) => ("after the last layer".to_owned(), figures),
        (_, figures) => (format!("layer {layer}"), figures),
    };
    let Some(LayerFigures { median, gain, floor, noise, largest, steps, off, token }) = figures else {
        return Divergence { place: format!("{place}, {name}"), got: "no figures".to_owned() };
    };
    let got = format!(
        "{off} of {} tokens off by more than rounding, the most at token {token}: {largest:.2e} of the norm, {steps:.2e} \
         times the block's quantization noise (medians: error {median:.2e}, in scale {gain:+.2e}, eager rounding \
         {floor:.2e}, noise {noise:.2e}); on the eager model's own input, so look at {suspects}",
        it.tokens
    );
    Divergence { place: format!("{place}, token {token}, {name}"), got }
}

/// The operators that the boundaries which diverge in a layer point to.
fn suspects(layer: usize, kinds: &[Boundary]) -> &'static str {
    use Boundary::{Attention, Key, Query, Residual, Value};
    match kinds {
        [Residual, ..] if layer == 0 => "the embedding",
        [Residual, ..] => {
            "the layer before: its output projection, feed-forward norm, gate, up or down projection, or a residual sum"
        }
        [Query, Key, Value, ..] => "the layer's first norm, or the weights of this layer",
        [Query, Key, ..] => "rope (its base, tables or positions)",
        [Query, ..] => "the query projection",
        [Key, ..] => "the key projection",
        [Value, ..] => "the value projection",
        [Attention, ..] => "attention: the cache, its positions, or the mask",
        _ => "the head",
    }
}

#[cfg(test)]
mod tests;
