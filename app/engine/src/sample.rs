//! Choosing the next token from logits: greedy, temperature, top-k, top-p, seeded.
//!
//! The vocabulary is never sorted: one pass finds the maximum and the normaliser, a second collects the few
//! candidates that can matter, and only those are ordered. The order of filters is that of Hugging Face:
//! temperature, top-k, top-p.
//!
//! **Invariant:** the same seed, settings and logits give the same tokens (across platforms up to the last bit of
//! their `exp`); equal probabilities are ordered by token.

use std::cmp::Ordering;

use model_assets::random::SplitMix64;

use crate::error::{Error, Result};

/// How to choose.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// 0 is greedy; 1 is the model's own distribution.
    pub temperature: f32,
    /// Keep the fewest tokens whose probabilities reach this sum; 1 keeps all.
    pub top_p: f32,
    /// Keep this many tokens; `None` keeps all.
    pub top_k: Option<usize>,
    /// Start of the random sequence.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { temperature: 0.0, top_p: 1.0, top_k: None, seed: 0 }
    }
}

/// Chooses tokens; holds the random state and a buffer that is allocated once.
#[derive(Debug, Clone)]
pub struct Sampler {
    settings: Settings,
    random: SplitMix64,
    candidates: Vec<Candidate>,
    /// Weight of all tokens, the ones that are no candidates included.
    total: f32,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    weight: f32,
    token: u32,
}

impl Candidate {
    /// Heaviest first, then by token.
    fn order(a: &Self, b: &Self) -> Ordering {
        b.weight.total_cmp(&a.weight).then(a.token.cmp(&b.token))
    }
}

impl Sampler {
    /// A sampler with settings that make sense.
    ///
    /// # Errors
    /// When a setting is out of range.
    pub fn new(settings: Settings) -> Result<Self> {
        let wrong = |name, got: String, expected| Err(Error::Setting { name, got, expected });
        if !(0.0..=100.0).contains(&settings.temperature) {
            return wrong("temperature", settings.temperature.to_string(), "0 to 100");
        }
        if !(settings.top_p > 0.0 && settings.top_p <= 1.0) {
            return wrong("top-p", settings.top_p.to_string(), "more than 0, at most 1");
        }
        if settings.top_k == Some(0) {
            return wrong("top-k", "0".to_owned(), "at least 1");
        }
        Ok(Self { settings, random: SplitMix64::new(settings.seed), candidates: Vec::new(), total: 0.0 })
    }

    /// The settings.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// Chooses a token.
    ///
    /// # Errors
    /// When no logit is finite.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32> {
        let best = greedy(logits)?;
        if self.settings.temperature <= 0.0 {
            return Ok(best);
        }
        let top = logits.get(best as usize).copied().unwrap_or_default();
        self.collect(logits, top);
        if let Some(k) = self.settings.top_k.filter(|k| *k < self.candidates.len()) {
            self.candidates.select_nth_unstable_by(k, Candidate::order);
            self.candidates.truncate(k);
            self.total = self.candidates.iter().map(|candidate| candidate.weight).sum();
        }
        if self.settings.top_p < 1.0 {
            self.keep_nucleus();
        } else if self.settings.top_k.is_some() {
            // Selection leaves an order of its own; the choice below must not depend on it.
            self.candidates.sort_unstable_by(Candidate::order);
        }
        Ok(self.draw().unwrap_or(best))
    }

    /// Weights relative to the best token, of all tokens that top-p could keep.
    fn collect(&mut self, logits: &[f32], top: f32) {
        let scale = self.settings.temperature.recip();
        // A subnormal temperature has no finite inverse; the difference 0 must still weigh 1.
        let weigh = |logit: f32| if logit >= top { 1.0 } else { ((logit - top) * scale).exp() };
        let finite = || (0..).zip(logits.iter().copied()).filter(|(_, logit)| logit.is_finite());
        self.total = finite().map(|(_, logit)| weigh(logit)).sum();
        // A token lighter than its fair share of what top-p cuts off cannot be in the nucleus. Only valid
        // over the whole vocabulary: top-k renormalises.
        let floor = match self.settings.top_k {
            None => (1.0 - self.settings.top_p) * self.total / logits.len() as f32,
            Some(_) => 0.0,
        };
        self.candidates.clear();
        self.candidates.reserve(logits.len());
        let candidates = finite().map(|(token, logit)| Candidate { weight: weigh(logit), token });
        // The best token stays whatever rounding says.
        self.candidates.extend(candidates.filter(|c| c.weight >= floor || c.weight >= 1.0));
    }

    /// Orders the candidates and keeps the fewest whose weights reach the share `top_p`.
    fn keep_nucleus(&mut self) {
        self.candidates.sort_unstable_by(Candidate::order);
        let goal = self.settings.top_p * self.total;
        let mut sum = 0.0;
        let kept = self.candidates.iter().position(|candidate| {
            sum += candidate.weight;
            sum >= goal
        });
        self.candidates.truncate(kept.map_or(self.candidates.len(), |index| index + 1));
    }

    fn draw(&mut self) -> Option<u32> {
        let total: f32 = self.candidates.iter().map(|candidate| candidate.weight).sum();
        let goal = unit(&mut self.random) * total;
        let mut sum = 0.0;
        let chosen = self.candidates.iter().find(|candidate| {
            sum += candidate.weight;
            sum > goal
        });
        chosen.or(self.candidates.last()).map(|candidate| candidate.token)
    }
}

/// The token with the largest finite logit; the lowest such token if there are several.
///
/// # Errors
/// When no logit is finite.
pub fn greedy(logits: &[f32]) -> Result<u32> {
    let mut best: Option<(u32, f32)> = None;
    for (token, logit) in (0..).zip(logits.iter().copied()) {
        if logit.is_finite() && best.is_none_or(|(_, top)| logit > top) {
            best = Some((token, logit));
        }
    }
    best.map(|(token, _)| token).ok_or(Error::NotFinite)
}

/// Uniform in [0, 1), with the 24 bits that an `f32` holds.
fn unit(random: &mut SplitMix64) -> f32 {
    (random.draw() >> 40) as f32 / (1_u32 << 24) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sampler(temperature: f32, top_p: f32, top_k: Option<usize>, seed: u64) -> Sampler {
        Sampler::new(Settings { temperature, top_p, top_k, seed }).unwrap()
    }

    /// What a plain implementation that sorts everything keeps, as tokens in order.
    fn kept_by_sorting(logits: &[f32], temperature: f32, top_p: f32, top_k: Option<usize>) -> Vec<u32> {
        let top = logits.iter().copied().filter(|l| l.is_finite()).fold(f32::MIN, f32::max);
        let mut all: Vec<(u32, f64)> = (0..)
            .zip(logits)
            .filter(|(_, l)| l.is_finite())
            .map(|(t, l)| (t, (f64::from(l - top) / f64::from(temperature)).exp()))
            .collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        all.truncate(top_k.unwrap_or(usize::MAX));
        let total: f64 = all.iter().map(|(_, w)| w).sum();
        let mut sum = 0.0;
        let end = all.iter().position(|(_, w)| {
            sum += w;
            sum >= f64::from(top_p) * total
        });
        all.truncate(end.map_or(all.len(), |end| end + 1));
        all.into_iter().map(|(t, _)| t).collect()
    }

    #[test]
    fn greedy_takes_the_lowest_of_equals_and_skips_what_is_not_finite() {
        assert_eq!(greedy(&[1.0, f32::NAN, 3.0, 3.0, f32::INFINITY]).unwrap(), 2);
        assert!(matches!(greedy(&[f32::NAN, f32::NEG_INFINITY]), Err(Error::NotFinite)));
        assert!(matches!(greedy(&[]), Err(Error::NotFinite)));
    }

    #[test]
    fn a_seed_fixes_the_sequence() {
        let logits: Vec<f32> = (0..50_u8).map(|i| f32::from(i % 7)).collect();
        let draw = |seed| {
            let mut sampler = sampler(1.0, 0.9, None, seed);
            (0..64).map(|_| sampler.sample(&logits).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn frequencies_follow_the_distribution() {
        // Weights 4 : 2 : 1 at temperature 1.
        let logits = [4.0_f32.ln(), 2.0_f32.ln(), 0.0];
        let mut sampler = sampler(1.0, 1.0, None, 42);
        let mut counts = [0_i32; 3];
        for _ in 0..70_000 {
            counts[sampler.sample(&logits).unwrap() as usize] += 1;
        }
        for (count, expected) in counts.into_iter().zip([40_000, 20_000, 10_000]) {
            // Five standard deviations of the least likely outcome are below 500.
            assert!((count - expected).abs() < 700, "{counts:?}");
        }
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        for (temperature, top_p, top_k) in [
            (-1.0, 1.0, None),
            (f32::NAN, 1.0, None),
            (1.0, 0.0, None),
            (1.0, 1.5, None),
            (1.0, f32::NAN, None),
            (1.0, 1.0, Some(0)),
        ] {
            assert!(Sampler::new(Settings { temperature, top_p, top_k, seed: 0 }).is_err());
        }
    }

    proptest! {
        /// Whatever is drawn is something that a full sort would have kept; and the best is always kept.
        #[test]
        fn draws_only_what_a_full_sort_keeps(
            logits in proptest::collection::vec(-20.0_f32..20.0, 1..400),
            temperature in 0.05_f32..4.0,
            top_p in 0.01_f32..=1.0,
            top_k in proptest::option::of(1_usize..50),
            seed: u64,
        ) {
            let kept = kept_by_sorting(&logits, temperature, top_p, top_k);
            let mut sampler = sampler(temperature, top_p, top_k, seed);
            for _ in 0..20 {
                let token = sampler.sample(&logits).unwrap();
                // One more is allowed: f32 sums may cross the goal one token later than f64 sums.
                let generous = kept_by_sorting(&logits, temperature, (top_p + 1e-4).min(1.0), top_k);
                prop_assert!(kept.contains(&token) || generous.contains(&token));
            }
            // `total` left out of candidates never removes a member of the nucleus.
            prop_assert!(sampler.candidates.len() + 1 >= kept.len());
        }
    }
}
