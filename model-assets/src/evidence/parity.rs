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

use serde::{Deserialize, Serialize};

use super::ParityRun;

/// What sums in another order may change, relative to a value's norm.
pub const ROUNDING: f64 = 3e-6;
/// A value is off if it errs by more than rounding and by more than this times what rounding changes in the eager block at
/// the median token. A correct block errs as much as the eager one with rounding does.
const OFF_FLOOR_TIMES: f64 = 2.0;
/// How much of the floor the median error along the value itself may reach. Rounding and flipped codes point anywhere, so
/// that next to nothing of them is left; a wrong epsilon or scale makes every value of a layer too large or too small.
const GAIN_FLOOR_TIMES: f64 = 0.4;
/// The unit of an error beyond rounding where there is less quantization noise than this share of the norm.
const GRAIN: f64 = 1e-5;
/// A flipped code is a step; a step is at most the square root of 12 times the noise that its rounding makes, and what it
/// flips further on in the same block adds to that.
const STEPS_MAX: f64 = 4.0;
/// Largest share of a kind's values that are off. One of a hundred is usual.
const OFF_SHARE_MAX: f64 = 0.1;
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

/// One boundary of one layer, over the tokens. All but the last three relative to the value's norm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LayerFigures {
    /// Median error.
    pub median: f64,
    /// Median of the error's part along the value, with its sign: how much too large the values are.
    pub gain: f64,
    /// Median of what fp32 rounding changes in the eager block.
    pub floor: f64,
    /// Median quantization noise of the block.
    pub noise: f64,
    /// Largest error.
    pub largest: f64,
    /// Largest error of a value that is off, in units of the block's quantization noise.
    pub steps: f64,
    /// Values that are off: a code flipped, or the block is wrong.
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

/// How far one value is from what it should be, relative to its norm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Deviation {
    /// Norm of the difference.
    pub error: f64,
    /// The difference's part along the value.
    pub gain: f64,
    /// Quantization noise of the block.
    pub noise: f64,
    /// What fp32 rounding changes in the eager block.
    pub floor: f64,
    /// Position of the token.
    pub token: u32,
}

impl Deviation {
    /// Of a value from another one, beside the sizes of the noise and of the floor.
    pub fn of(got: &[f32], want: &[f32], (noise, floor): (f64, f64), token: u32) -> Self {
        let (mut square, mut along, mut error) = (0.0, 0.0, 0.0);
        for (got, want) in got.iter().zip(want) {
            let (want, difference) = (f64::from(*want), f64::from(*got) - f64::from(*want));
            square += want * want;
            along += want * difference;
            error += difference * difference;
        }
        let norm = square.sqrt();
        let share = |size: f64| if norm > 0.0 { size / norm } else { 0.0 };
        // As JSON can have it: what is no number is off by as much as there is.
        let of_norm = |size: f64, norm: f64| match size / norm {
            ratio if ratio.is_finite() => ratio,
            _ if size == 0.0 => 0.0,
            _ => f64::MAX,
        };
        let (error, gain) = (of_norm(error.sqrt(), norm), of_norm(along, square));
        Self { error, gain, noise: share(noise), floor: share(floor), token }
    }

    /// In units of the noise, or of a hundred-thousandth of the norm where there is less noise.
    fn steps(&self) -> f64 {
        ((self.error - ROUNDING) / self.noise.max(GRAIN)).min(f64::MAX)
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
    /// Over the values of a layer.
    pub fn of(values: &[Deviation]) -> Self {
        let floor = median(values.iter().map(|it| it.floor));
        let allowed = off_above(floor);
        let off = || values.iter().filter(|it| it.error > allowed);
        let worst = values.iter().max_by(|a, b| {
            let key = |it: &Deviation| (it.error > allowed, it.steps(), it.error);
            key(a).partial_cmp(&key(b)).unwrap_or(std::cmp::Ordering::Equal)
        });
        Self {
            median: median(values.iter().map(|it| it.error)),
            gain: median(values.iter().map(|it| it.gain)),
            floor,
            noise: median(values.iter().map(|it| it.noise)),
            largest: values.iter().map(|it| it.error).fold(0.0, f64::max),
            steps: off().map(Deviation::steps).fold(0.0, f64::max),
            off: u32::try_from(off().count()).unwrap_or(u32::MAX),
            token: worst.map_or(0, |it| it.token),
        }
    }

    /// Whether most tokens agree to rounding in size, all of them together in scale, and none is off by more than flipped
    /// codes.
    fn holds(&self, tokens: u32) -> bool {
        self.steps <= STEPS_MAX
            && u64::from(self.off) * 2 < u64::from(tokens)
            && self.gain.abs() <= ROUNDING.max(GAIN_FLOOR_TIMES * self.floor)
    }
}

/// What a value may err without being off.
fn off_above(floor: f64) -> f64 {
    ROUNDING.max(OFF_FLOOR_TIMES * floor)
}

/// As if one more of nothing were there where there is none.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<_> = values.collect();
    all.sort_unstable_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::MAX)
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
        let largest = self.layers.iter().map(&figure).max_by(f64::total_cmp).unwrap_or(f64::MAX);
        (median(self.layers.iter().map(figure)), largest)
    }

    /// One line for a person.
    pub fn line(&self) -> String {
        let (median, _) = self.over_layers(|layer| layer.median);
        let (floor, _) = self.over_layers(|layer| layer.floor);
        let (noise, _) = self.over_layers(|layer| layer.noise);
        let (_, largest) = self.over_layers(|layer| layer.largest);
        let (_, steps) = self.over_layers(|layer| layer.steps);
        format!(
            "{} x {} values, median error {median:.1e} of the norm (the eager model with rounding {floor:.1e}, quantization \
             noise {noise:.1e}), {:.2} % with a flipped code, largest {largest:.1e} = {steps:.1} times the noise",
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
            "most tokens of every layer within {ROUNDING:.0e} of their norm or {OFF_FLOOR_TIMES} times the eager model's own \
             rounding, in scale within {GAIN_FLOOR_TIMES} times that, none off by more than {STEPS_MAX} times the block's \
             quantization noise, at most {:.0} % off in all",
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
