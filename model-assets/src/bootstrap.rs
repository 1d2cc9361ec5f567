//! How sure a figure is: percentile bootstrap over the units that were measured (items, windows of text).
//!
//! **Invariant:** seeded: the same measurements give the same interval on every machine, so that a recorded verdict can be
//! judged again.

use std::fmt;

use serde::Serialize;

use crate::random::SplitMix64;

/// Resamples of an interval.
const RESAMPLES: usize = 10_000;
/// Share of the resamples below the interval, and above it.
const TAIL: f64 = 0.025;

/// A figure with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// The figure over all units.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// Whether the units cannot tell the figure from 0. No number is told from nothing, and holds nothing.
    pub fn holds_zero(&self) -> bool {
        self.low <= 0.0 && 0.0 <= self.high
    }

    /// The interval under a function that never falls.
    #[must_use]
    pub fn map(self, rising: impl Fn(f64) -> f64) -> Self {
        Self { value: rising(self.value), low: rising(self.low), high: rising(self.high) }
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(4);
        let Self { value, low, high } = self;
        if f.sign_plus() {
            write!(f, "{value:+.digits$} [{low:+.digits$}, {high:+.digits$}]")
        } else {
            write!(f, "{value:.digits$} [{low:.digits$}, {high:.digits$}]")
        }
    }
}

/// Mean of values, each a unit.
pub fn mean(values: &[f64], seed: u64) -> Interval {
    let pairs: Vec<_> = values.iter().map(|value| (*value, 1.0)).collect();
    ratio(&pairs, seed)
}

/// Sum of the first over sum of the second, each pair a unit: a mean per token of windows that are not equally long.
/// Of nothing it is no number, which no bound lets pass.
pub fn ratio(pairs: &[(f64, f64)], seed: u64) -> Interval {
    let quotient = |(sum, count): (f64, f64)| sum / count;
    let add = |a: (f64, f64), b: (f64, f64)| (a.0 + b.0, a.1 + b.1);
    let value = quotient(pairs.iter().copied().fold((0.0, 0.0), add));
    if pairs.is_empty() {
        return Interval { value: f64::NAN, low: f64::NAN, high: f64::NAN };
    }
    let mut random = SplitMix64::new(seed);
    let mut found: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let draw = |_| pairs.get(random.below(pairs.len())).copied().unwrap_or((f64::NAN, f64::NAN));
            quotient((0..pairs.len()).map(draw).fold((0.0, 0.0), add))
        })
        .collect();
    found.sort_by(f64::total_cmp);
    let at = |share: f64| found.get((share * RESAMPLES as f64) as usize).copied().unwrap_or(f64::NAN);
    Interval { value, low: at(TAIL), high: at(1.0 - TAIL) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_that_of_the_normal_law_where_there_are_many_units() {
        // Mean 0.5, standard deviation 0.5: of 400 units the interval is 0.5 ± 1.96 × 0.025.
        let values: Vec<_> = (0..400).map(|i| f64::from(i % 2)).collect();
        let found = mean(&values, 1);
        assert_eq!(found.value, 0.5);
        assert!((found.low - 0.451).abs() < 0.005 && (found.high - 0.549).abs() < 0.005, "{found}");
        assert_eq!(mean(&values, 1), found, "the interval is seeded");
    }

    #[test]
    fn long_units_count_for_more() {
        let found = ratio(&[(1.0, 1.0), (0.0, 3.0)], 1);
        assert_eq!((found.value, found.low, found.high), (0.25, 0.0, 1.0));
    }

    #[test]
    fn nothing_and_no_number_hold_no_zero() {
        assert!(!mean(&[], 1).holds_zero() && !mean(&[f64::NAN, 0.0], 1).holds_zero());
        assert!(mean(&[0.0, 0.0], 1).holds_zero());
        assert!(mean(&[-1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 1).holds_zero());
        assert!(!mean(&[-1.0, -0.9, -1.1, -1.0, -1.2, -1.0, -1.0, -0.7, -1.0, -1.0], 1).holds_zero());
    }

    #[test]
    fn figures_are_written_with_their_interval() {
        let found = Interval { value: 1.0, low: 0.5, high: 1.5 };
        assert_eq!(
            format!("{found:.2} {:+.1}", found.map(|x| x - 1.0)),
            "1.00 [0.50, 1.50] +0.0 [-0.5, +0.5]"
        );
    }
}
