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

use super::{Heldout, ParityRun};

/// What sums in another order may change, relative to a value's norm.
pub const ROUNDING: f64 = 3e-6;
/// Below this share of its norm a value may err as much as its own quantization does: two rows of int8 err so little that
/// some of their codes flip everywhere.
const FLIPS: f64 = 1e-4;
/// The unit of an error beyond rounding where there is less quantization noise than this share of the norm.
const GRAIN: f64 = 1e-5;
/// A flipped code is a step; a step is at most the square root of 12 times the noise that its rounding makes, and what it
/// flips further on in the same block adds to that.
const STEPS_MAX: f64 = 4.0;
/// Largest share of a kind's values where a code flipped.
const OFF_SHARE_MAX: f64 = 0.05;
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
    /// On held-out texts; absent for random weights, which have no tokenizer.
    #[serde(default)]
    pub heldout: Option<Heldout>,
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
        let flips = if noise <= FLIPS * norm { noise } else { 0.0 };
        let allowed = (ROUNDING * norm).max(flips);
        let ratio = |top: f64, bottom: f64| match () {
            () if top <= 0.0 => 0.0,
            () if (top / bottom).is_finite() => top / bottom,
            () => f64::MAX,
        };
        // An error that is no number is off, and off by as much as there is.
        let off = !(error <= allowed);
        Self {
            relative: ratio(error, norm),
            steps: if off { ratio(beyond, noise.max(GRAIN * norm)) } else { 0.0 },
            off,
        }
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
        self.blocks.iter().find(|it| !(it.off_share() <= OFF_SHARE_MAX)).map(|it| Divergence {
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
mod tests {
    use super::*;

    fn layer(off: u32, steps: f64) -> LayerFigures {
        LayerFigures { median: 1e-7, noise: 1e-2, largest: 1e-2, steps, off, token: 5 }
    }

    fn parity() -> Parity {
        let fed = Fed {
            run: ParityRun {
                rows: 3,
                max_abs_diff: 0.0,
                mean_abs_diff: 0.0,
                mean_kl: 0.0,
                top1_agreement: 1.0,
            },
            floor: Floor { mean_kl: 0.0, standard_error: 0.0, max_abs_diff: 0.0 },
        };
        let blocks = Boundary::ALL.map(|boundary| match boundary {
            Boundary::Logits => BoundaryFigures { boundary, tokens: 4, layers: vec![layer(0, 0.0)] },
            _ => BoundaryFigures { boundary, tokens: 10, layers: vec![layer(0, 0.0); 4] },
        });
        Parity {
            calls: vec![5, 3, 1, 1],
            blocks: blocks.into(),
            prefill_then_decode: fed.clone(),
            chunked_prefill: fed.clone(),
            step_by_step: fed,
            heldout: None,
        }
    }

    #[test]
    fn an_error_is_measured_against_rounding_and_noise() {
        let of = Deviation::of;
        assert_eq!(of(0.0, 0.0, 0.0), Deviation { relative: 0.0, steps: 0.0, off: false });
        assert!(
            !of(ROUNDING, 1.0, 0.0).off && of(1e-5, 1.0, 0.0).off,
            "nothing is quantized: rounding alone"
        );
        assert!(!of(2e-6, 1.0, 1e-2).off && of(1e-5, 1.0, 1e-2).off, "one row of int8: a flipped code shows");
        assert!(!of(4e-5, 1.0, 5e-5).off && of(6e-5, 1.0, 5e-5).off, "two rows: as much as their own noise");
        assert!((of(1e-2 + ROUNDING, 1.0, 5e-3).steps - 2.0).abs() < 1e-9);
        for bad in [f64::NAN, f64::INFINITY] {
            let it = of(bad, 1.0, 1e-2);
            assert!(it.off && it.steps >= f64::MAX && it.relative >= f64::MAX, "{it:?}");
        }
        assert!(of(1.0, 0.0, 0.0).steps >= f64::MAX && of(f64::MAX, f64::MAX, 0.0).off);
        assert!((of(2.3e-5, 1.0, 0.0).steps - 2.0).abs() < 1e-9, "no noise: in units of the grain");
    }

    #[test]
    fn the_first_block_that_diverges_is_named_with_its_operators() {
        let with = |changes: &[(usize, usize)]| {
            let mut parity = parity();
            changes.iter().for_each(|(kind, at)| parity.blocks[*kind].layers[*at] = layer(5, 1.0));
            parity.divergence()
        };
        assert_eq!(with(&[]), None);
        let named = |changes: &[(usize, usize)], place: &str, operator: &str| {
            let it = with(changes).unwrap();
            assert!(it.place == place && it.got.contains(operator), "{it:?}");
        };
        named(&[(1, 2), (0, 3)], "layer 2, token 5, query", "the query projection");
        named(&[(1, 2), (2, 2)], "layer 2, token 5, query", "rope");
        named(&[(1, 0), (2, 0), (3, 0)], "layer 0, token 5, query", "first norm");
        named(&[(3, 1), (0, 2)], "layer 1, token 5, value", "value projection");
        named(&[(4, 3)], "layer 3, token 5, attention", "the cache");
        named(&[(0, 0)], "layer 0, token 5, residual", "the embedding");
        named(&[(0, 1), (1, 1)], "layer 1, token 5, residual", "the layer before");
        named(&[(5, 0)], "after the last layer, token 5, logits", "the head");
    }

    #[test]
    fn a_layer_fails_by_its_median_or_its_worst_token_and_a_kind_by_its_share() {
        let with = |change: &dyn Fn(&mut Parity)| {
            let mut parity = parity();
            change(&mut parity);
            parity.divergence().map(|it| it.place)
        };
        assert_eq!(with(&|it| it.blocks[1].layers[0] = layer(1, 3.4)), None);
        assert_eq!(
            with(&|it| it.blocks[1].layers[0] = layer(1, f64::NAN)).unwrap(),
            "layer 0, token 5, query"
        );
        assert_eq!(with(&|it| it.blocks[1].layers[0] = layer(1, 7.0)).unwrap(), "layer 0, token 5, query");
        assert_eq!(with(&|it| it.blocks[2].layers = vec![layer(1, 1.0); 4]).unwrap(), "all layers, key");
    }

    #[test]
    fn what_was_not_compared_is_no_parity() {
        let complete = |change: &dyn Fn(&mut Parity)| {
            let mut parity = parity();
            change(&mut parity);
            parity.is_complete(4)
        };
        assert!(complete(&|_| ()));
        assert!(!complete(&|it| it.blocks.truncate(5)));
        assert!(!complete(&|it| it.blocks[1].layers.truncate(3)));
        assert!(!complete(&|it| it.blocks[3].tokens = 9));
        assert!(!complete(&|it| it.blocks[5].tokens = 3));
        assert!(!complete(&|it| it.calls = vec![8, 1, 1]), "no position past the end of a call");
        assert!(!complete(&|it| it.calls = vec![5, 5]), "no single step");
    }

    #[test]
    fn the_floor_bounds_what_is_quantized_and_what_is_not() {
        let floor = |mean_kl, standard_error, max_abs_diff| Floor { mean_kl, standard_error, max_abs_diff };
        assert!((floor(0.0, 0.0, 0.0).kl_max() - 1e-9).abs() < 1e-15);
        assert!((floor(0.02, 0.002, 4.0).kl_max() - 0.036).abs() < 1e-12);
        assert!((floor(0.0, 0.0, 0.0).diff_max() - 1e-3).abs() < 1e-12);
        assert!(!(1.0 <= floor(f64::NAN, 0.0, 0.0).kl_max()), "no floor, no pass");
    }
}
