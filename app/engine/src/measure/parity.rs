//! Comparison of logits, accumulated row by row in double precision.
//!
//! **Invariant:** a difference that is no finite number counts as `f64::MAX`: JSON has no infinity, and no
//! threshold lets it pass.

use model_assets::evidence::{Floor, ParityRun};

use crate::measure::reference::Reference;

/// Adds up the differences between reference rows and measured rows.
#[derive(Debug, Default)]
pub struct Comparison {
    rows: u32,
    values: f64,
    max_abs_diff: f64,
    sum_abs_diff: f64,
    sum_kl: f64,
    same_top: u32,
    /// Whether every measured logit was finite.
    pub finite: bool,
}

impl Comparison {
    /// Nothing compared yet.
    pub fn new() -> Self {
        Self { finite: true, ..Self::default() }
    }

    /// Compares one position; both rows have the same length.
    pub fn add(&mut self, expected: &[f32], got: &[f32]) {
        self.rows += 1;
        self.values += expected.len() as f64;
        self.finite &= got.iter().all(|logit| logit.is_finite());
        for (e, g) in expected.iter().zip(got) {
            let diff = bounded((f64::from(*e) - f64::from(*g)).abs());
            self.max_abs_diff = self.max_abs_diff.max(diff);
            self.sum_abs_diff = bounded(self.sum_abs_diff + diff);
        }
        self.sum_kl = bounded(self.sum_kl + bounded(kl(expected, got)));
        self.same_top += u32::from(arg_max(expected) == arg_max(got));
    }

    /// The figures.
    pub fn finish(&self) -> ParityRun {
        let rows = f64::from(self.rows.max(1));
        ParityRun {
            rows: self.rows,
            max_abs_diff: self.max_abs_diff,
            mean_abs_diff: self.sum_abs_diff / self.values.max(1.0),
            mean_kl: self.sum_kl / rows,
            top1_agreement: f64::from(self.same_top) / rows,
        }
    }
}

/// How far the eager model with fp32 rounding is from itself, over these rows of the reference.
pub fn floor(reference: &Reference, rows: &[usize]) -> Floor {
    let of_rows = |all: &[f32]| -> Vec<f64> {
        let runs = all.chunks_exact(reference.rows.len().max(1));
        runs.flat_map(|run| rows.iter().filter_map(|row| run.get(*row))).copied().map(f64::from).collect()
    };
    let kl = of_rows(&reference.floor_kl);
    let count = kl.len().max(1) as f64;
    let mean_kl = kl.iter().sum::<f64>() / count;
    let variance = kl.iter().map(|it| (it - mean_kl).powi(2)).sum::<f64>() / count;
    Floor {
        mean_kl,
        // Runs of the same row are no independent rows.
        standard_error: (variance / rows.len().max(1) as f64).sqrt(),
        max_abs_diff: of_rows(&reference.floor_diff).into_iter().fold(0.0, f64::max),
    }
}

fn bounded(value: f64) -> f64 {
    if value.is_finite() { value } else { f64::MAX }
}

/// KL(expected ‖ got) of the distributions that the logits stand for, nats.
fn kl(expected: &[f32], got: &[f32]) -> f64 {
    let normaliser = |row: &[f32]| {
        let top = row.iter().copied().map(f64::from).fold(f64::MIN, f64::max);
        top + row.iter().map(|x| (f64::from(*x) - top).exp()).sum::<f64>().ln()
    };
    let (e_sum, g_sum) = (normaliser(expected), normaliser(got));
    let terms = expected.iter().zip(got).map(|(e, g)| {
        let (log_e, log_g) = (f64::from(*e) - e_sum, f64::from(*g) - g_sum);
        log_e.exp() * (log_e - log_g)
    });
    // Rounding can leave a sum of a few -1e-17 for equal rows.
    let sum = terms.sum::<f64>();
    if sum.is_nan() { sum } else { sum.max(0.0) }
}

fn arg_max(row: &[f32]) -> Option<usize> {
    let best = row
        .iter()
        .enumerate()
        .filter(|(_, x)| !x.is_nan())
        .max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
    best.map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_rows_differ_in_nothing() {
        let mut comparison = Comparison::new();
        comparison.add(&[1.0, -2.0, 3.5], &[1.0, -2.0, 3.5]);
        let run = comparison.finish();
        assert_eq!((run.rows, run.max_abs_diff, run.mean_kl, run.top1_agreement), (1, 0.0, 0.0, 1.0));
        assert!(comparison.finite);
    }

    #[test]
    fn figures_are_those_of_a_hand_calculation() {
        let mut comparison = Comparison::new();
        // p = (1/2, 1/2), q = (1/4, 3/4): KL = ln 2 - (ln 3) / 2.
        comparison.add(&[0.0, 0.0], &[0.0, 3.0_f32.ln()]);
        comparison.add(&[1.0, 0.0], &[1.0, 0.0]);
        let run = comparison.finish();
        let expected = (2.0_f64.ln() - 3.0_f64.ln() / 2.0) / 2.0;
        assert!((run.mean_kl - expected).abs() < 1e-7, "{run:?}");
        assert!((run.max_abs_diff - 3.0_f64.ln()).abs() < 1e-6);
        assert!((run.mean_abs_diff - 3.0_f64.ln() / 4.0).abs() < 1e-6);
        // Of equals the first is the top, so the first row disagrees.
        assert!((run.top1_agreement - 0.5).abs() < f64::EPSILON);
    }

    #[test]
    fn what_is_not_finite_passes_no_threshold() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut comparison = Comparison::new();
            comparison.add(&[1.0, 2.0], &[bad, 2.0]);
            let run = comparison.finish();
            assert!(!comparison.finite);
            assert!(run.max_abs_diff >= f64::MAX && run.mean_kl.is_finite(), "{run:?}");
            assert!(serde_json::to_string(&run).unwrap().parse::<serde_json::Value>().is_ok());
        }
    }
}
