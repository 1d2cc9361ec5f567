//! Speed and memory, with the engine compiled as users get it and weights packed where the app has them.

use super::{Measured, Measurer, Round, no_questions};
use crate::engine::Profile;

/// Timed repeats of each case.
pub(crate) const REPEATS: u32 = 5;

pub(super) const MEASURER: Measurer = Measurer { ask: no_questions, measure };

fn measure(round: &Round<'_>, measured: &mut Measured) -> anyhow::Result<()> {
    let (bench, engine) = (round.bench, round.bench.engine(Profile::Release)?);
    let benchmark = engine.bench(&bench.files, REPEATS, None, bench.console)?.into_evidence();
    measured.evidence.benchmark = Some(benchmark);
    Ok(())
}
