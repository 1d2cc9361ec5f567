//! Blocks: each from one attention call to the next, on the eager model's input, compared value by value.

use serde::{Deserialize, Serialize};

/// What sums in another order may change, relative to a value's norm.
pub const ROUNDING: f64 = 3e-6;
/// A value is off if it errs by more than rounding and by more than this times what rounding changes in the eager block at
/// the median token. A correct block errs as much as the eager one with rounding does.
pub(super) const OFF_FLOOR_TIMES: f64 = 2.0;
/// How much of the floor the median error along the value itself may reach. Rounding and flipped codes point anywhere, so
/// that next to nothing of them is left; a wrong epsilon or scale makes every value of a layer too large or too small.
pub(super) const GAIN_FLOOR_TIMES: f64 = 0.4;
/// The unit of an error beyond rounding where there is less quantization noise than this share of the norm.
const GRAIN: f64 = 1e-5;
/// A flipped code is a step; a step is at most the square root of 12 times the noise that its rounding makes, and what it
/// flips further on in the same block adds to that.
pub(super) const STEPS_MAX: f64 = 4.0;

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
    pub(super) fn holds(&self, tokens: u32) -> bool {
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
