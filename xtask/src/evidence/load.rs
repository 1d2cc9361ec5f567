//! Load: the engine opens the file and runs it. One run of the engine measures load and parity.

use super::{Measured, Measurer, Round, no_questions};

pub(super) const MEASURER: Measurer = Measurer { ask: no_questions, measure };

pub(super) fn measure(round: &Round<'_>, measured: &mut Measured) -> anyhow::Result<()> {
    if measured.evidence.load.is_none() {
        let (evidence, _) = round.bench.load_and_parity(round.reference)?;
        (measured.evidence.load, measured.evidence.parity) = (evidence.load, evidence.parity);
    }
    Ok(())
}
