//! What was *measured* on a model, as opposed to what its bytes say.
//!
//! The engine binary fills these in (the proof comes from the runtime that ships), xtask writes them into
//! `manifest.json`, and the gate in `app/build.rs` demands them per profile.
//!
//! Each kind has one file: its type, the bounds that a recipe may set, its judge, its figures and their labels. The table
//! of kinds is [`evidence_kinds!`]; whoever judges or shows evidence goes through it and knows no kind by name.
//!
//! **Invariant:** nothing here is believed on its own: the manifest binds it to the digests
//! it was measured under, and a changed digest voids it.

mod answer;
mod benchmark;
mod binding;
mod eq;
mod grammar;
mod load;
mod measurement;
mod parity;
pub mod quality;
pub mod yardstick;

use serde::{Deserialize, Serialize};

pub use self::{
    answer::{
        Answer, AnswerRequest, Answers, Benched, EngineCheck, EventShare, PackedWeights, Profile, Prompt,
        TalkRequest, Talked, Turn,
    },
    benchmark::{
        Benchmark, BenchmarkLimits, Energy, Machine, MemorySteps, Resident, Roofline, Speed, SweepStep,
    },
    binding::{Bound, EvidenceBinding, KERNELS_SHA256, RUNTIME_VERSION, SUITE_VERSION},
    eq::{Eq, EqItem, EqLimits, Talk},
    grammar::{Acceptance, Grammar, GrammarLimits},
    load::Load,
    measurement::{Asked, Bounds, Kind, Measurement, Metric, Part},
    parity::{
        Boundary, BoundaryFigures, Deviation, Divergence, Fed, Floor, LayerFigures, Parity, ParityLimits,
        ParityRun, ROUNDING,
    },
    quality::{Quality, QualityBounds, QualityFigures, QualityLimits, QualityWindow},
    yardstick::{Task, Yardstick, YardstickFigures, YardstickItem, YardstickLimit},
};
use crate::error::ContractError;

/// The table of kinds, in the order in which everything shows them: passes the rows to the macro `$rows`.
///
/// A row is a kind, its file here (which has a constant `KIND`) and in xtask (which has a function `measure`), and the type
/// of what was measured.
#[macro_export]
macro_rules! evidence_kinds {
    ($rows:ident) => {
        $rows! {
            /// Loads and runs with finite logits.
            Load {
                /// Load and run.
                load: Load
            }
            /// Logits agree with the eager quantized model.
            Parity {
                /// Parity with the eager quantized model.
                parity: Parity
            }
            /// Speed and memory were measured.
            Benchmark {
                /// Speed and memory.
                #[serde(default)]
                benchmark: Benchmark
            }
            /// The EQ test was passed.
            Eq {
                /// The EQ test.
                #[serde(default)]
                eq: Eq
            }
            /// On real text it is nearly as good as the unquantized model.
            Quality {
                /// Text quality against the unquantized model.
                #[serde(default)]
                quality: Quality
            }
            /// The grammar of the model's world accepts its replies.
            Grammar {
                /// Acceptance by the grammar of the model's world.
                #[serde(default)]
                grammar: Grammar
            }
            /// On tasks that others publish figures of it loses little.
            Yardstick {
                /// Tasks that others publish figures of.
                #[serde(default, skip_serializing_if = "Option::is_none")]
                yardstick: Vec<Yardstick>
            }
        }
    };
}

macro_rules! define_kinds {
    ($($(#[$about:meta])* $kind:ident { $(#[$field:meta])* $name:ident: $record:ty })*) => {
        /// Kinds of measured evidence.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[cfg_attr(test, derive(schemars::JsonSchema))]
        #[serde(rename_all = "kebab-case")]
        pub enum EvidenceKind {
            $($(#[$about])* $kind,)*
        }

        impl EvidenceKind {
            /// Every kind.
            pub const ALL: [Self; [$(Self::$kind),*].len()] = [$(Self::$kind),*];

            /// The name used in files and messages.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$kind => stringify!($name),)*
                }
            }

            /// What it is called where it is shown, and how its bounds are checked.
            pub fn facts(self) -> &'static Kind {
                match self {
                    $(Self::$kind => &$name::KIND,)*
                }
            }
        }

        /// Measured evidence, bound to what it was measured on.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[cfg_attr(test, derive(schemars::JsonSchema))]
        #[serde(deny_unknown_fields)]
        pub struct Evidence {
            /// What it was measured on.
            pub bound: EvidenceBinding,
            $($(#[$field])* pub $name: Option<$record>,)*
        }

        impl Evidence {
            /// No evidence yet, for these files.
            pub fn none(bound: EvidenceBinding) -> Self {
                Self { bound, $($name: None,)* }
            }

            /// What was measured of this kind.
            pub fn get(&self, kind: EvidenceKind) -> Option<&dyn Measurement> {
                match kind {
                    $(EvidenceKind::$kind => self.$name.as_ref().map(|it| it as &dyn Measurement),)*
                }
            }

            /// This evidence, completed by what `other` has of the same files.
            #[must_use]
            pub fn or(self, other: Self) -> Self {
                if self.bound != other.bound {
                    return self;
                }
                Self { bound: self.bound, $($name: self.$name.or(other.$name),)* }
            }
        }
    };
}

evidence_kinds!(define_kinds);

impl Evidence {
    /// Whether this kind was measured.
    pub fn has(&self, kind: EvidenceKind) -> bool {
        self.get(kind).is_some()
    }

    /// The kinds that were measured.
    pub fn kinds(&self) -> impl Iterator<Item = EvidenceKind> {
        EvidenceKind::ALL.into_iter().filter(|kind| self.has(*kind))
    }

    /// What was measured, kind by kind.
    pub fn measured(&self) -> impl Iterator<Item = (EvidenceKind, &dyn Measurement)> {
        EvidenceKind::ALL.into_iter().filter_map(|kind| Some((kind, self.get(kind)?)))
    }
}

/// Evidence demanded per profile, on top of the static proof that every build demands: `[evidence]` of a recipe. The bounds
/// of a kind that has no table of its own in the recipe belong here, under the kind's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Demands {
    /// For dev builds.
    pub dev: Vec<EvidenceKind>,
    /// For release builds.
    pub release: Vec<EvidenceKind>,
}

impl Demands {
    /// Whether any profile demands this kind.
    pub fn any(&self, kind: EvidenceKind) -> bool {
        self.dev.iter().chain(&self.release).any(|demanded| *demanded == kind)
    }
}

/// Checks what a recipe asks of each kind.
///
/// # Errors
/// The first bound that cannot be.
pub(crate) fn check_bounds(bounds: &Bounds<'_>) -> Result<(), ContractError> {
    EvidenceKind::ALL.into_iter().try_for_each(|kind| (kind.facts().check)(bounds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_has_one_name() {
        for kind in EvidenceKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }
}
