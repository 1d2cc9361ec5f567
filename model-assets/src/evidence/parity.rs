//! Parity of a `.pte` with the eager quantized model: block by block on the same inputs, then end to end.
//!
//! Int8 activations make logits useless as the only measure: where a value lies between two steps the last bit of a sum
//! decides, the next block amplifies it, and after some layers two correct implementations differ as much as either differs
//! from the model before quantization. On the same input one block agrees to fp32 rounding, but for the tokens where a
//! code flips, and there by a step. So each block gets the eager model's input and is judged alone.
//!
//! **Invariant:** no bound here knows a model. They follow from fp32 rounding and from the quantization noise of the very
//! block and token, which the eager model measured beside the value.
//!
//! **Invariant:** a comparison is written so that no number (NaN) passes none of them.

use serde::{Deserialize, Serialize};

use super::ParityRun;

/// What sums in another order may change, relative to a value's norm.
pub const ROUNDING: f64 = 3e-6;
/// Activations in two int8 rows have steps so fine that some code of the second row flips at many tokens, and where a norm
/// or a bias cancels, rounding shows. So a value may err by this part of its own quantization noise ...
const FLIPS: f64 = 0.3;
/// ... but by no more than this share of its norm: a flipped code of a single row is larger.
const FLIPS_SHARE: f64 = 1e-4;
/// The unit of an error beyond rounding where there is less quantization noise than this share of the norm.
const GRAIN: f64 = 1e-5;
/// A flipped code is a step; a step is at most the square root of 12 times the noise that its rounding makes, and what it
/// flips further on in the same block adds to that.
const STEPS_MAX: f64 = 4.0;
/// Largest share of a kind's values where a code flipped: half of what the median of one layer allows. One value of a hundred
/// is usual with activations in one row, one of ten with two, whose second row has many codes near a boundary.
const OFF_SHARE_MAX: f64 = 0.25;
/// How much further from the eager model the engine may be than the eager model with fp32 rounding is from itself.
const FLOOR_TIMES_MAX: f64 = 1.5;
/// The same for the largest difference of a logit, which is one number out of many.
const FLOOR_DIFF_TIMES_MAX: f64 = 3.0;
/// Where nothing is quantized the floor is nil, and this remains.
const KL_MIN: f64 = 1e-9;
const DIFF_MIN: f64 = 1e-3;

/// What a layer hands on, in the order of computation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Boundary {
    /// What goes into a layer.
    Residual,
    /// After rope.
    Query,
    /// After rope.
    Key,
    /// As it goes into the cache.
    Value,
    /// What attention mixed.
    Attention,
    /// After the last layer, norm and head.
    Logits,
}

impl Boundary {
    /// All, in the order of computation.
    pub const ALL: [Self; 6] =
        [Self::Residual, Self::Query, Self::Key, Self::Value, Self::Attention, Self::Logits];

    /// The name used in files and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Residual => "residual",
            Self::Query => "query",
            Self::Key => "key",
            Self::Value => "value",
            Self::Attention => "attention",
            Self::Logits => "logits",
        }
    }
}

/// One kind of boundary, over all layers and tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct BoundaryFigures {
    /// Which.
    pub boundary: Boundary,
    /// Values compared in each layer: one per token, or per call for logits.
    pub tokens: u32,
    /// By layer; one entry for logits.
    pub layers: Vec<LayerFigures>,
}

/// One boundary of one layer, over the tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LayerFigures {
    /// Median error, relative to the value's norm.
    pub median: f64,
    /// Median quantization noise of the block, relative to the value's norm.
    pub noise: f64,
    /// Largest error, relative to the value's norm.
    pub largest: f64,
    /// Largest error beyond rounding, in units of the block's quantization noise.
    pub steps: f64,
    /// Values off by more than rounding: a code flipped, or the block is wrong.
    pub off: u32,
    /// Position of the token that is off by the most.
    pub token: u32,
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

/// How far one value is from what it should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Deviation {
    /// Error relative to the norm.
    pub relative: f64,
    /// Error beyond rounding, in units of the noise, or of a hundred-thousandth of the norm where there is less noise.
    pub steps: f64,
    /// Whether rounding alone does not explain it.
    pub off: bool,
}

impl Deviation {
    /// Of a value whose error, norm and quantization noise are these.
    pub fn of(error: f64, norm: f64, noise: f64) -> Self {
        let beyond = error - ROUNDING * norm;
        let allowed = (ROUNDING * norm).max((FLIPS * noise).min(FLIPS_SHARE * norm));
        let ratio = |top: f64, bottom: f64| {
            if top <= 0.0 {
                return 0.0;
            }
            let ratio = top / bottom;
            if ratio.is_finite() { ratio } else { f64::MAX }
        };
        // An error that is no number is within nothing, and off by as much as there is.
        let within = error <= allowed;
        let steps = if within { 0.0 } else { ratio(beyond, noise.max(GRAIN * norm)) };
        Self { relative: ratio(error, norm), steps, off: !within }
    }
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

impl LayerFigures {
    /// Whether most tokens agree to rounding, and none is off by more than flipped codes.
    fn holds(&self, tokens: u32) -> bool {
        self.steps <= STEPS_MAX && u64::from(self.off) * 2 < u64::from(tokens)
    }
}

impl BoundaryFigures {
    /// Share of the values that rounding alone does not explain.
    pub fn off_share(&self) -> f64 {
        let values = f64::from(self.tokens) * self.layers.len() as f64;
        let off: f64 = self.layers.iter().map(|layer| f64::from(layer.off)).sum();
        if values > 0.0 { off / values } else { 1.0 }
    }

    /// Median over the layers of a layer's figure, and its largest.
    pub fn over_layers(&self, figure: impl Fn(&LayerFigures) -> f64) -> (f64, f64) {
        let mut all: Vec<_> = self.layers.iter().map(figure).collect();
        all.sort_unstable_by(f64::total_cmp);
        let largest = all.last().copied().unwrap_or(f64::MAX);
        (all.get(all.len() / 2).copied().unwrap_or(f64::MAX), largest)
    }

    /// One line for a person.
    pub fn line(&self) -> String {
        let (median, _) = self.over_layers(|layer| layer.median);
        let (noise, _) = self.over_layers(|layer| layer.noise);
        let (_, largest) = self.over_layers(|layer| layer.largest);
        let (_, steps) = self.over_layers(|layer| layer.steps);
        format!(
            "{} x {} values, median error {median:.1e} of the norm (quantization noise {noise:.1e}), {:.2} % with a \
             flipped code, largest {largest:.1e} = {steps:.1} times the noise",
            self.layers.len(),
            self.tokens,
            self.off_share() * 100.0
        )
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
            "the median token of every layer within rounding ({ROUNDING:.0e} of its norm), none off by more than \
             {STEPS_MAX} times the block's quantization noise, at most {:.0} % off in all",
            OFF_SHARE_MAX * 100.0
        )
    }
}

fn divergence(it: &BoundaryFigures, layer: usize, suspects: &str) -> Divergence {
    let name = it.boundary.as_str();
    let (place, figures) = match (it.boundary, it.layers.get(layer)) {
        (Boundary::Logits, figures) => ("after the last layer".to_owned(), figures),
        (_, figures) => (format!("layer {layer}"), figures),
    };
    let Some(LayerFigures { median, noise, largest, steps, off, token }) = figures else {
        return Divergence { place: format!("{place}, {name}"), got: "no figures".to_owned() };
    };
    let got = format!(
        "{off} of {} tokens off by more than rounding, the most at token {token}: {largest:.2e} of the norm, {steps:.2e} \
         times the block's quantization noise (median error {median:.2e}, noise {noise:.2e}); on the eager model's own \
         input, so look at {suspects}",
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
