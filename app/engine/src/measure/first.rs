//! Whether a model runs at all: a prefill and greedy steps after it, where no reference says what must come out.

use std::time::Instant;

use super::speed::spread;
use crate::{decoder::Decoder, error::Result, sample};

const PROMPT_TOKENS: usize = 16;
const DECODE_TOKENS: usize = 8;

/// What such a run showed.
#[derive(Debug, Clone, Copy)]
pub struct FirstRun {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens decoded after it.
    pub decode: usize,
    /// Every logit was finite.
    pub finite: bool,
    /// Time of the prefill, the first after the load.
    pub first_prefill_ms: f64,
}

/// Runs tokens spread over the vocabulary in one call, then greedy ones.
///
/// # Errors
/// When the runtime fails.
pub fn run(session: &mut dyn Decoder) -> Result<FirstRun> {
    let prompt = PROMPT_TOKENS.min(session.chunk()).min(session.window() / 2);
    let decode = DECODE_TOKENS.min(session.window() - prompt);
    let tokens = spread(prompt, session.vocab());
    let began = Instant::now();
    let mut logits = session.prefill(&tokens)?;
    let first_prefill_ms = began.elapsed().as_secs_f64() * 1e3;
    let mut finite = true;
    for _ in 0..decode {
        finite &= logits.iter().all(|logit| logit.is_finite());
        // Without a finite logit any token will do: the verdict is already in.
        let token = sample::greedy(logits).unwrap_or(0);
        logits = session.decode(token)?;
    }
    finite &= logits.iter().all(|logit| logit.is_finite());
    Ok(FirstRun { prompt, decode, finite, first_prefill_ms })
}
