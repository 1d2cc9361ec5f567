//! Tokens per second, measured as llama-bench does: some repeats after one that does not count.

use std::time::Instant;

use model_assets::evidence::Speed;

use crate::decoder::Decoder;
use crate::error::Result;

/// Prefill from an empty cache.
///
/// # Errors
/// When the runtime fails.
pub fn prefill(session: &mut dyn Decoder, tokens: &[u32], repeats: u32) -> Result<Speed> {
    speed(format!("pp{}", tokens.len()), tokens.len(), repeats, &mut || (), || {
        session.reset();
        session.prefill(tokens).map(|_| ())
    })
}

/// Decodes given tokens from an almost empty cache, as llama-bench does.
///
/// # Errors
/// When the runtime fails.
pub fn decode(session: &mut dyn Decoder, tokens: &[u32], count: usize, repeats: u32) -> Result<Speed> {
    decode_beside(session, tokens, count, repeats, &mut || ())
}

/// The same; `beside` is called before each timed repeat.
pub(super) fn decode_beside(
    session: &mut dyn Decoder,
    tokens: &[u32],
    count: usize,
    repeats: u32,
    beside: &mut dyn FnMut(),
) -> Result<Speed> {
    let (first, rest) = tokens.split_at(1.min(tokens.len()));
    let rest = rest.get(..count).unwrap_or(rest);
    session.reset();
    session.prefill(first)?;
    speed(format!("tg{}", rest.len()), rest.len(), repeats, beside, || {
        session.truncate(1);
        rest.iter().try_for_each(|token| session.decode(*token).map(|_| ()))
    })
}

fn speed(
    name: String,
    tokens: usize,
    repeats: u32,
    beside: &mut dyn FnMut(),
    work: impl FnMut() -> Result<()>,
) -> Result<Speed> {
    let seconds = timed_beside(repeats, beside, work)?;
    let rates: Vec<f64> = seconds.into_iter().map(|seconds| tokens as f64 / seconds).collect();
    let (mean, sd) = mean_sd(&rates);
    Ok(Speed {
        name,
        tokens: u32::try_from(tokens).unwrap_or(u32::MAX),
        repeats,
        mean,
        sd,
        min: rates.iter().copied().fold(f64::INFINITY, f64::min),
        max: rates.iter().copied().fold(0.0, f64::max),
    })
}

/// Seconds of each repeat, after one that does not count.
///
/// # Errors
/// When the work fails.
pub fn timed(repeats: u32, work: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    timed_beside(repeats, &mut || (), work)
}

fn timed_beside(
    repeats: u32,
    beside: &mut dyn FnMut(),
    mut work: impl FnMut() -> Result<()>,
) -> Result<Vec<f64>> {
    work()?;
    let mut once = |_| {
        beside();
        let started = Instant::now();
        work().map(|()| started.elapsed().as_secs_f64())
    };
    (0..repeats).map(&mut once).collect()
}

/// Mean and standard deviation.
pub fn mean_sd(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
    (mean, variance.sqrt())
}

/// `count` token ids spread over a vocabulary.
pub fn spread(count: usize, vocab: u32) -> Vec<u32> {
    // An odd multiplier close to the golden ratio of 2^32 scatters consecutive numbers.
    (1..=count as u64).map(|i| (i.wrapping_mul(2_654_435_761) % u64::from(vocab)) as u32).collect()
}
