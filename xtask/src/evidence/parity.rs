//! Parity: measured with [`super::load`].

use super::{Measurer, load, no_questions};

pub(super) const MEASURER: Measurer = Measurer { ask: no_questions, measure: load::measure };
