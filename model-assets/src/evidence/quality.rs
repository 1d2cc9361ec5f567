//! Text quality: the `.pte` in the engine against the unquantized checkpoint in fp32, token by token on real text.
//!
//! **Invariant:** what is kept are sums per window of text; every figure and its interval (a seeded bootstrap over the windows)
//! is computed from them wherever it is judged or shown, and a bound is compared with the interval's worse end.
//!
//! **Invariant:** which text was scored is bound: by this crate for the general one, by the recipe for a model's own.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::measurement::{Asked, Bounds, Kind, Measurement, Metric, Part, json};
use crate::{
    bootstrap::{self, Interval},
    digest::Digest,
    error::ContractError,
    ledger::Ledger,
    name::is_plain,
    scheme::Quantization,
};

pub(super) const KIND: Kind = Kind { name: "Quality", title: "Quality", absent: "Not measured.", check };

/// SHA-256 of the general text, `model-assets/evidence/text-general.jsonl` (a test compares them). The text itself stays out of
/// the crate, and so out of every app.
pub const GENERAL_SHA256: &str = "22bb48cfeb60c1b0e0e26e3fc78ea6bd95669eb7f0909356b3027a1b148e8aa4";
/// Tokens of a window, where the model's own is not smaller.
pub const WINDOW_TOKENS_MAX: u32 = 512;
/// Most tokens that are fed.
const TOKENS_MAX: u64 = 16_384;
/// Fewest tokens that are fed to a model of any size, where the text has them.
const TOKENS_FED_MIN: u64 = 2_048;
/// Tokens times parameters: some ten minutes on two cores.
const WORK_MAX: u64 = 10_000_000_000_000;
/// Tokens that must be scored for a model whose size does not limit them.
const SCORED_MIN: u64 = 8_000;
/// The same of a model's own text: what a small world has to say soon repeats itself.
const OWN_SCORED_MIN: u64 = 4_000;
/// Windows below which a bootstrap over them says nothing.
const WINDOWS_MIN: usize = 8;
const SEED: u64 = 12;

/// Bounds of a recipe: each must be at least as strict as [`QualityBounds::of`] its scheme.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct QualityLimits {
    /// Largest perplexity relative to the unquantized model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perplexity_ratio_max: Option<f64>,
    /// Largest mean KL divergence from the unquantized model, nats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl_max: Option<f64>,
    /// Smallest share of tokens with that model's best next token, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top1_agreement_min: Option<f64>,
    /// Largest perplexity: a model that does not know its language is not helped by agreeing with itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perplexity_max: Option<f64>,
    /// The model's own text instead of the general one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<OwnText>,
}

/// A text beside the recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct OwnText {
    /// File name: one JSON object a line, as in the general text.
    pub file: String,
    /// Its SHA-256.
    pub sha256: Digest,
}

/// What a scheme may cost, and a recipe at most.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QualityBounds {
    /// Largest perplexity relative to the unquantized model.
    pub perplexity_ratio_max: f64,
    /// Largest mean KL divergence, nats.
    pub kl_max: f64,
    /// Smallest share of tokens with the same best next token.
    pub top1_agreement_min: f64,
}

impl QualityBounds {
    /// Of a scheme, whatever the model.
    pub fn of(quantization: Quantization) -> Self {
        let bounds = |perplexity_ratio_max, kl_max, top1_agreement_min| Self {
            perplexity_ratio_max,
            kl_max,
            top1_agreement_min,
        };
        match quantization {
            Quantization::Int8 => bounds(1.02, 0.02, 0.9),
            Quantization::Int4 => bounds(1.12, 0.12, 0.8),
            // Two correct implementations differ by the order of their sums alone.
            Quantization::Fp32 => bounds(1.0005, 1e-6, 0.998),
        }
    }

    /// The bounds of a recipe.
    #[must_use]
    pub fn with(self, limits: Option<&QualityLimits>) -> Self {
        let Some(limits) = limits else { return self };
        Self {
            perplexity_ratio_max: limits.perplexity_ratio_max.unwrap_or(self.perplexity_ratio_max),
            kl_max: limits.kl_max.unwrap_or(self.kl_max),
            top1_agreement_min: limits.top1_agreement_min.unwrap_or(self.top1_agreement_min),
        }
    }
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Quality {
    /// SHA-256 of the text.
    pub text: Digest,
    /// SHA-256 of the results per token, which xtask leaves below `.proofmark`.
    pub tokens: Digest,
    /// Windows in order.
    pub windows: Vec<QualityWindow>,
}

/// Sums over one window of text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct QualityWindow {
    /// The text's name and the window's number in it.
    pub id: String,
    /// Tokens whose probability counts.
    pub scored: u32,
    /// Negative log-likelihood of these tokens under the unquantized model, nats.
    pub nll_fp32: f64,
    /// The same under the exported file.
    pub nll: f64,
    /// KL(unquantized ‖ exported) over the whole vocabulary, nats.
    pub kl: f64,
    /// Tokens with the same best next token.
    pub same_top: u32,
}

/// The first line of what a runtime writes when it is asked for the logits of a text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scored {
    /// Version of the runtime.
    pub runtime: String,
    /// SHA-256 of the file that was run.
    pub sha256: Digest,
}

/// What the windows amount to, each with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct QualityFigures {
    /// Scored tokens.
    pub tokens: u64,
    /// Windows.
    pub windows: usize,
    /// Perplexity under the unquantized model.
    pub perplexity_fp32: f64,
    /// Perplexity under the exported file.
    pub perplexity: f64,
    /// The second over the first.
    pub ratio: Interval,
    /// Mean KL divergence, nats.
    pub kl: Interval,
    /// Share of tokens with the same best next token.
    pub top1: Interval,
}

impl fmt::Display for QualityFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tokens, windows, perplexity_fp32, perplexity, ratio, kl, top1 } = self;
        write!(
            f,
            "perplexity {perplexity:.4}, fp32 {perplexity_fp32:.4}, ratio {ratio:.4}; KL {kl:.5} nats; same top token \
             {top1:.4}; {tokens} tokens in {windows} windows"
        )
    }
}

/// Tokens that are fed to a model of so many parameters.
pub fn tokens_max(parameters: u64) -> u64 {
    (WORK_MAX / parameters.max(1)).clamp(TOKENS_FED_MIN, TOKENS_MAX)
}

/// Tokens that must be scored.
fn scored_min(parameters: u64, own_text: bool) -> u64 {
    let most = if own_text { OWN_SCORED_MIN } else { SCORED_MIN };
    most.min(tokens_max(parameters) / 2)
}

impl Quality {
    /// Figures and intervals.
    pub fn figures(&self) -> QualityFigures {
        let tokens: u64 = self.windows.iter().map(|window| u64::from(window.scored)).sum();
        let per_token = |sum: &dyn Fn(&QualityWindow) -> f64| {
            let pairs: Vec<_> = self.windows.iter().map(|it| (sum(it), f64::from(it.scored))).collect();
            bootstrap::ratio(&pairs, SEED)
        };
        let perplexity = |sum: &dyn Fn(&QualityWindow) -> f64| {
            (self.windows.iter().map(sum).sum::<f64>() / tokens as f64).exp()
        };
        QualityFigures {
            tokens,
            windows: self.windows.len(),
            perplexity_fp32: perplexity(&|it| it.nll_fp32),
            perplexity: perplexity(&|it| it.nll),
            ratio: per_token(&|it| it.nll - it.nll_fp32).map(f64::exp),
            kl: per_token(&|it| it.kl),
            top1: per_token(&|it| f64::from(it.same_top)),
        }
    }
}

impl Measurement for Quality {
    /// Judges by the bounds of the scheme, or stricter ones of the recipe.
    fn judge(&self, id: &str, asked: &Asked<'_>, ledger: &mut Ledger) {
        let (limits, quantization) = (asked.bounds.quality, asked.bounds.quantization);
        let it = self.figures();
        let own = limits.and_then(|limits| limits.text.as_ref());
        let text = own.map_or_else(|| GENERAL_SHA256.to_owned(), |own| own.sha256.to_string());
        ledger.judge(id, "text", self.text.to_string() == text, self.text, text);
        let possible = self.windows.iter().all(|it| it.same_top <= it.scored && it.kl >= 0.0);
        let least = scored_min(asked.parameters, own.is_some());
        let enough = possible && it.tokens >= least && it.windows >= WINDOWS_MIN;
        let got = format!("{} tokens in {} windows", it.tokens, it.windows);
        ledger.judge(id, "tokens", enough, got, format!("at least {least} in {WINDOWS_MIN}"));
        let bounds = QualityBounds::of(quantization).with(limits);
        let most = bounds.perplexity_ratio_max;
        let got = format!("{:.4} times fp32", it.ratio);
        ledger.judge(id, "perplexity ratio", it.ratio.high <= most, got, format!("upper end at most {most}"));
        let most = bounds.kl_max;
        let got = format!("{:.6} nats", it.kl);
        ledger.judge(id, "KL divergence", it.kl.high <= most, got, format!("upper end at most {most}"));
        let least = bounds.top1_agreement_min;
        let got = format!("{:.4}", it.top1);
        ledger.judge(id, "same top token", it.top1.low >= least, got, format!("lower end at least {least}"));
        if let Some(most) = limits.and_then(|limits| limits.perplexity_max) {
            let got = format!("{:.4}", it.perplexity);
            ledger.judge(id, "perplexity", it.perplexity <= most, got, format!("at most {most}"));
        }
    }

    fn lines(&self, _: &Asked<'_>) -> Vec<String> {
        vec![format!("quality: {}", self.figures())]
    }

    fn card(&self, _: &Asked<'_>) -> Vec<String> {
        let it = self.figures();
        let kept = it.top1.value * 100.0;
        vec![format!("perplexity × {:.4} of the original, same next token in {kept:.1} %", it.ratio)]
    }

    fn metrics(&self, _: &Asked<'_>) -> Vec<Metric> {
        let it = self.figures();
        let metric = |(name, value)| Metric {
            name,
            slice: format!("{} tokens of text {}", it.tokens, self.text),
            value,
        };
        let figures = [
            ("perplexity", it.perplexity),
            ("perplexity, eager fp32", it.perplexity_fp32),
            ("perplexity ratio, upper end of 95 %", it.ratio.high),
            ("mean KL divergence from eager fp32, nats", it.kl.value),
            ("top-1 agreement with eager fp32", it.top1.value),
        ];
        figures.map(metric).into()
    }

    fn parts(&self, asked: &Asked<'_>) -> Vec<Part> {
        let it = self.figures();
        let bounds = QualityBounds::of(asked.bounds.quantization).with(asked.bounds.quality);
        let row = |name: &str, figure: Interval, bound: String| {
            let interval = format!("{:.5} to {:.5}", figure.low, figure.high);
            vec![name.to_owned(), format!("{:.5}", figure.value), interval, bound]
        };
        let upper = |most: f64| format!("upper end at most {most}");
        let table = Part::Table {
            caption: "The .pte in the engine against the unquantized model in fp32, token by token on real text",
            heads: vec!["figure", "measured", "95 % interval", "bound"],
            rows: vec![
                row("perplexity ratio", it.ratio, upper(bounds.perplexity_ratio_max)),
                row("KL divergence, nats", it.kl, upper(bounds.kl_max)),
                row("same top token", it.top1, format!("lower end at least {}", bounds.top1_agreement_min)),
            ],
        };
        let text = format!(
            "{} tokens in {} windows of text {}; perplexity {:.4}, unquantized {:.4}. The interval is a bootstrap over the \
             windows.",
            it.tokens, it.windows, self.text, it.perplexity, it.perplexity_fp32
        );
        vec![table, Part::Text(text)]
    }

    fn value(&self) -> Value {
        json(&self.figures())
    }
}

/// A recipe can only be stricter than its scheme.
fn check(bounds: &Bounds<'_>) -> Result<(), ContractError> {
    let Some(limits) = bounds.quality else { return Ok(()) };
    let own = QualityBounds::of(bounds.quantization);
    for (key, got, least, most) in [
        ("quality.perplexity_ratio_max", limits.perplexity_ratio_max, 1.0, own.perplexity_ratio_max),
        ("quality.kl_max", limits.kl_max, 0.0, own.kl_max),
        ("quality.top1_agreement_min", limits.top1_agreement_min, own.top1_agreement_min, 1.0),
        ("quality.perplexity_max", limits.perplexity_max, 1.0, f64::MAX),
    ] {
        if let Some(got) = got.filter(|got| !(least..=most).contains(got)) {
            let (most, scheme) = (
                if most == f64::MAX { "more".to_owned() } else { most.to_string() },
                bounds.quantization.as_str(),
            );
            let expected = format!("{least} to {most}, stricter than what {scheme} may cost");
            return Err(ContractError::value("recipe.toml", key, got, expected));
        }
    }
    match &limits.text {
        Some(own) if !is_plain(&own.file) => {
            let (got, expected) = (format!("`{}`", own.file), "a file name beside the recipe");
            Err(ContractError::value("recipe.toml", "quality.text.file", got, expected))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Windows of 500 tokens whose cost varies a little from one to the next.
    fn sample(cost: f64, kl: f64, same: u32) -> Quality {
        let window = |number: u32| QualityWindow {
            id: format!("prose/{number}"),
            scored: 500,
            nll_fp32: 1000.0 + f64::from(number),
            nll: 1000.0 + f64::from(number) + 500.0 * cost * (0.9 + 0.02 * f64::from(number % 11)),
            kl: 500.0 * kl,
            same_top: same - number % 3,
        };
        let text = Digest::parse(GENERAL_SHA256).unwrap();
        Quality { text, tokens: Digest::of(b""), windows: (0..20).map(window).collect() }
    }

    fn refused(it: &Quality, quantization: Quantization, limits: Option<&QualityLimits>) -> Vec<String> {
        let tiny = include_str!("../../models/tiny/recipe.toml");
        let tiny = crate::recipe::Recipe::parse(tiny).unwrap();
        let bounds = Bounds { quantization, quality: limits, ..tiny.bounds() };
        let (sha256, mut ledger) = (Digest::of(b""), Ledger::default());
        let asked = Asked { bounds, sha256, parameters: 135_000_000, runtime: "" };
        it.judge("evidence-quality", &asked, &mut ledger);
        ledger.refused()
    }

    #[test]
    fn the_general_text_is_the_one_that_is_named() {
        let text = include_bytes!("../../evidence/text-general.jsonl");
        assert_eq!(Digest::of(text).to_string(), GENERAL_SHA256);
    }

    #[test]
    fn figures_are_per_token_and_have_an_interval() {
        let it = sample(0.01, 0.005, 480).figures();
        assert_eq!((it.tokens, it.windows), (10_000, 20));
        assert!((it.ratio.value - (it.perplexity / it.perplexity_fp32)).abs() < 1e-9, "{it}");
        assert!(it.ratio.low < it.ratio.value && it.ratio.value < it.ratio.high, "{it}");
        assert!((it.kl.value - 0.005).abs() < 1e-12 && (it.top1.value - 0.9581).abs() < 1e-9, "{it}");
    }

    #[test]
    fn each_figure_is_judged_by_the_worse_end_of_its_interval() {
        let good = sample(0.01, 0.005, 480);
        assert_eq!(refused(&good, Quantization::Int8, None), Vec::<String>::new());
        assert_eq!(
            refused(&good, Quantization::Fp32, None),
            ["perplexity ratio", "KL divergence", "same top token"]
        );
        // The figure itself would pass.
        let ratio = good.figures().ratio;
        let between = QualityLimits {
            perplexity_ratio_max: Some(f64::midpoint(ratio.value, ratio.high)),
            ..QualityLimits::default()
        };
        assert_eq!(refused(&good, Quantization::Int8, Some(&between)), ["perplexity ratio"]);
        assert_eq!(refused(&sample(0.01, 0.03, 480), Quantization::Int8, None), ["KL divergence"]);
        assert_eq!(refused(&sample(0.01, 0.005, 440), Quantization::Int8, None), ["same top token"]);
        let fluent = QualityLimits { perplexity_max: Some(2.0), ..QualityLimits::default() };
        assert_eq!(refused(&good, Quantization::Int8, Some(&fluent)), ["perplexity"]);
    }

    #[test]
    fn too_little_text_another_text_and_no_numbers_prove_nothing() {
        let mut few = sample(0.0, 0.0, 500);
        few.windows.truncate(15);
        assert_eq!(refused(&few, Quantization::Int8, None), ["tokens"]);
        let mut other = sample(0.0, 0.0, 500);
        other.text = Digest::of(b"an easy text");
        assert_eq!(refused(&other, Quantization::Int8, None), ["text"]);
        let mut broken = sample(0.0, 0.0, 500);
        broken.windows[0].nll = f64::NAN;
        assert_eq!(refused(&broken, Quantization::Int8, None), ["perplexity ratio"]);
        let mut negative = sample(0.0, 0.0, 500);
        negative.windows[0].kl = -1.0;
        assert_eq!(refused(&negative, Quantization::Int8, None), ["tokens"]);
        let mut none = sample(0.0, 0.0, 500);
        none.windows.clear();
        assert_eq!(
            refused(&none, Quantization::Int8, None),
            ["tokens", "perplexity ratio", "KL divergence", "same top token"]
        );
    }

    #[test]
    fn how_much_text_follows_from_the_models_size() {
        let amount = |parameters| (tokens_max(parameters), scored_min(parameters, false));
        assert_eq!(amount(2_000_000), (16_384, 8_000));
        assert_eq!(amount(200_000_000), (16_384, 8_000));
        assert_eq!(amount(1_236_000_000), (8_090, 4_045));
        assert_eq!(amount(70_000_000_000), (2_048, 1_024));
        assert_eq!((scored_min(2_000_000, true), scored_min(70_000_000_000, true)), (4_000, 1_024));
    }
}
