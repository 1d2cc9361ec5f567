//! What the models of a family call: operators with the pattern of their arguments, and nodes inside delegates.
//!
//! The gate admits nothing else. The runtime's other operators have kernels that trust their arguments, and no model
//! of ours was ever run with them.
//!
//! **Invariant:** the table is what the pinned worker's exports contain. `cargo xtask dev operators` writes it, a test of
//! the exporter compares it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

const TABLE: &str = include_str!("../kernels/admitted.json");

/// Calls as patterns: see [`super::Report::calls`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admitted {
    /// Of operators outside delegates: `aten::mm.out(f32[2]~, constant f32[2], f32[2]~)`.
    pub operators: BTreeSet<String>,
    /// Of nodes inside XNNPACK delegates: `multiply(f32, f32 constant) f32`.
    pub nodes: BTreeSet<String>,
}

impl Admitted {
    /// Adds the other's calls.
    pub fn merge(&mut self, other: &Self) {
        self.operators.extend(other.operators.iter().cloned());
        self.nodes.extend(other.nodes.iter().cloned());
    }

    /// The operators without their patterns.
    pub fn names(&self) -> BTreeSet<&str> {
        self.operators.iter().filter_map(|call| call.split('(').next()).collect()
    }
}

/// The whole table, as it is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdmittedTable {
    /// Version of the runtime and exporter that it was derived from.
    pub runtime: String,
    /// By family and backend, as recipes name them.
    pub families: BTreeMap<String, BTreeMap<String, Admitted>>,
}

/// What models of a family may call on a backend; nothing at all for a pair that the table does not have.
#[must_use]
pub fn admitted(family: &str, backend: &str) -> &'static Admitted {
    static NOTHING: Admitted = Admitted { operators: BTreeSet::new(), nodes: BTreeSet::new() };
    table().families.get(family).and_then(|backends| backends.get(backend)).unwrap_or(&NOTHING)
}

/// The table of this version.
#[must_use]
pub fn table() -> &'static AdmittedTable {
    static PARSED: OnceLock<AdmittedTable> = OnceLock::new();
    // The text is part of this crate and a test parses it; an empty table would admit nothing.
    PARSED.get_or_init(|| serde_json::from_str(TABLE).unwrap_or_default())
}

#[cfg(test)]
#[expect(clippy::expect_used, reason = "a test may fail")]
mod tests {
    use super::super::{judge, kernels, linked_runtime};
    use super::*;
    use crate::recipe::{Backend, Family};

    #[test]
    fn every_admitted_operator_is_linked_and_can_be_judged() {
        let table: AdmittedTable = serde_json::from_str(TABLE).expect("the table parses");
        assert_eq!(table.runtime, linked_runtime().runtime);
        let pairs = Family::ALL.into_iter().flat_map(|it| [(it, Backend::Xnnpack), (it, Backend::Portable)]);
        for (family, backend) in pairs {
            let admitted = admitted(family.as_str(), backend.as_str());
            assert!(!admitted.operators.is_empty(), "{}", backend.as_str());
            assert_eq!(admitted.nodes.is_empty(), backend == Backend::Portable);
            for name in admitted.names() {
                assert!(linked_runtime().kernels.iter().any(|kernel| kernel == name), "{name}");
                assert!(judge::knows(name), "{name} is admitted and not judged");
                assert!(kernels::schema(name).is_some(), "{name}");
            }
        }
    }
}
