//! The count of weights by place, role and dtype, and of multiply-accumulates.

use std::collections::BTreeMap;

use super::summary::WeightRow;

/// Place, role and dtype of a weight.
type Key = (bool, &'static str, &'static str);

/// A running count of weights.
#[derive(Debug, Default)]
pub(super) struct Weights {
    rows: BTreeMap<Key, (u32, u64, u64)>,
}

impl Weights {
    pub(super) fn add(
        &mut self,
        delegated: bool,
        role: &'static str,
        dtype: &'static str,
        params: u64,
        bytes: u64,
    ) {
        let row = self.rows.entry((delegated, role, dtype)).or_default();
        row.0 = row.0.saturating_add(1);
        row.1 = row.1.saturating_add(params);
        row.2 = row.2.saturating_add(bytes);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (&key, &(tensors, params, bytes)) in &other.rows {
            let row = self.rows.entry(key).or_default();
            row.0 = row.0.saturating_add(tensors);
            row.1 = row.1.saturating_add(params);
            row.2 = row.2.saturating_add(bytes);
        }
    }

    pub(super) fn bytes(&self, delegated: bool) -> u64 {
        let rows = self.rows.iter().filter(|((place, ..), _)| *place == delegated);
        rows.fold(0, |sum, (_, row)| sum.saturating_add(row.2))
    }

    pub(super) fn rows(&self) -> Vec<WeightRow> {
        let rows = self.rows.iter().map(|(&(delegated, role, dtype), &(tensors, params, bytes))| WeightRow {
            delegated,
            role: role.to_owned(),
            dtype: dtype.to_owned(),
            tensors,
            params,
            bytes,
        });
        rows.collect()
    }
}

/// Product of sizes, saturating: it only feeds shares.
pub(super) fn product(sizes: &[u64]) -> u64 {
    sizes.iter().fold(1, |product, &size| product.saturating_mul(size))
}
