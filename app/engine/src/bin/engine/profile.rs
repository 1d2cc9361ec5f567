//! Where the time of decoded tokens goes, operator by operator.

use engine::Session;
use model_assets::evidence::{EventShare, Profile};

/// Tokens decoded while recording operators.
const PROFILE_TOKENS: usize = 32;

pub(crate) fn profile(session: &mut Session, tokens: &[u32]) -> engine::Result<Profile> {
    // From the middle of the window: attention costs its average there.
    let middle = tokens.len() / 2;
    let (before, after) = tokens.split_at(middle);
    let after = after.get(..PROFILE_TOKENS).unwrap_or(after);
    session.reset();
    session.prefill(before)?;
    session.model_mut().profile_reset();
    after.iter().try_for_each(|token| session.decode(*token).map(|_| ()))?;
    let count = after.len().max(1) as f64;
    let events = session.model().profile();
    let total = |name: &str| {
        events.iter().find(|event| event.name == name).map_or(0.0, |event| event.nanoseconds as f64)
    };
    let whole = total("Method::execute").max(1.0);
    let mut shares: Vec<EventShare> = events
        .iter()
        .filter(|event| event.calls > 0)
        .map(|event| EventShare {
            name: event.name.clone(),
            calls_per_token: event.calls as f64 / count,
            us_per_token: event.nanoseconds as f64 / 1e3 / count,
            share: event.nanoseconds as f64 / whole,
        })
        .collect();
    shares.sort_by(|a, b| b.share.total_cmp(&a.share).then_with(|| a.name.cmp(&b.name)));
    Ok(Profile {
        tokens: u32::try_from(after.len()).unwrap_or(u32::MAX),
        token_us: whole / 1e3 / count,
        outside_delegates: 1.0 - total("DELEGATE_CALL") / whole,
        events: shares,
    })
}
