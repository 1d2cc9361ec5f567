//! Generation: a prompt in, pieces of text out, with statistics.
//!
//! **Invariant:** what is reported was measured on this very generation; time to first token starts before
//! tokenization.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::decoder::Decoder;
use crate::error::{Error, Result};
use crate::sample::Sampler;
use crate::text::Tokenizer;

/// Text that room is made for per token; English has four or five bytes.
const TOKEN_TEXT_BYTES: usize = 8;

/// Limits of a reply. A full context window ends it too: whoever wants to go on leaves out old turns of the next prompt.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// Most tokens; `None` is until a stop token or the end of the window.
    pub tokens_max: Option<usize>,
    /// Tokens that end the reply and are not part of it.
    pub stop: Vec<u32>,
}

/// Why a reply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model said so.
    Stop,
    /// The limit on tokens.
    Length,
    /// The context window is full.
    Window,
    /// The caller asked to.
    Interrupted,
}

/// Figures of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Statistics {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt that were still in the cache.
    pub reused_tokens: usize,
    /// Tokens of the reply.
    pub reply_tokens: usize,
    /// Text to tokens.
    pub tokenize: Duration,
    /// Feeding the prompt.
    pub prefill: Duration,
    /// From the call to the first token chosen, tokenization included.
    pub first_token: Duration,
    /// From the first token to the last.
    pub decode: Duration,
}

impl Statistics {
    /// Prompt tokens fed per second.
    pub fn prefill_rate(&self) -> f64 {
        rate(self.prompt_tokens.saturating_sub(self.reused_tokens), self.prefill)
    }

    /// Tokens per second after the first.
    pub fn decode_rate(&self) -> f64 {
        rate(self.reply_tokens.saturating_sub(1), self.decode)
    }
}

fn rate(tokens: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() }
}

/// A finished reply.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// Its text.
    pub text: String,
    /// Its tokens, without the stop token.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
    /// Figures.
    pub statistics: Statistics,
}

/// The state of a reply while it is generated.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'a> {
    /// Text that became final; never part of a character. Empty while a character is unfinished.
    pub text: &'a str,
    /// The token just chosen.
    pub token: u32,
    /// Figures so far.
    pub statistics: &'a Statistics,
}

/// Generates a reply to `prompt` (a rendered template: no special tokens are added).
///
/// The cache is extended from the longest prefix it shares with the prompt. `on_piece` sees every token as it
/// comes and can end the reply.
///
/// # Errors
/// When the prompt does not fit, or tokenizer, runtime or sampler fail.
pub fn generate<D: Decoder + ?Sized>(
    session: &mut D,
    tokenizer: &Tokenizer,
    sampler: &mut Sampler,
    prompt: &str,
    limits: &Limits,
    on_piece: &mut dyn FnMut(Piece<'_>) -> ControlFlow<()>,
) -> Result<Reply> {
    generate_until(session, tokenizer, sampler, prompt, limits, on_piece, &mut || false)
}

/// As [`generate`], but asks before each chunk of the prompt whether to go on: a long prompt takes seconds on a phone,
/// and no piece comes before its end.
///
/// # Errors
/// As [`generate`].
pub fn generate_until<D: Decoder + ?Sized>(
    session: &mut D,
    tokenizer: &Tokenizer,
    sampler: &mut Sampler,
    prompt: &str,
    limits: &Limits,
    on_piece: &mut dyn FnMut(Piece<'_>) -> ControlFlow<()>,
    interrupted: &mut dyn FnMut() -> bool,
) -> Result<Reply> {
    let started = Instant::now();
    let tokens = tokenizer.encode(prompt, false)?;
    let mut statistics = Statistics {
        prompt_tokens: tokens.len(),
        reused_tokens: session.shared_prefix(&tokens),
        tokenize: started.elapsed(),
        ..Statistics::default()
    };
    let window = session.window();
    if tokens.len() > window {
        return Err(Error::WindowFull { tokens: tokens.len(), position: 0, window });
    }
    let feeding = Instant::now();
    let fed = feed_until(session, &tokens, interrupted)?;
    statistics.prefill = feeding.elapsed();
    let Some(logits) = fed else {
        return Ok(Reply {
            text: String::new(),
            tokens: Vec::new(),
            finish: Finish::Interrupted,
            statistics,
        });
    };
    // Rows behind the last token only pad the matrix: whatever they score, they stand for nothing.
    let choose = |sampler: &mut Sampler, logits: &[f32]| {
        sampler.sample(logits.get(..tokenizer.rows()).unwrap_or(logits))
    };
    let mut token = choose(sampler, logits)?;
    statistics.first_token = started.elapsed();

    let first = Instant::now();
    let tokens_max = limits.tokens_max.unwrap_or(usize::MAX);
    let mut stream = tokenizer.stream();
    // As many as fit, so that a reply does not move as it grows.
    let expected = tokens_max.min(session.remaining().saturating_add(1));
    let mut reply = Reply {
        text: String::with_capacity(expected.saturating_mul(TOKEN_TEXT_BYTES)),
        tokens: Vec::with_capacity(expected),
        finish: Finish::Stop,
        statistics,
    };
    reply.finish = loop {
        if limits.stop.contains(&token) {
            break Finish::Stop;
        }
        // True here only when no token is allowed.
        if tokens_max == 0 {
            break Finish::Length;
        }
        reply.tokens.push(token);
        statistics.reply_tokens = reply.tokens.len();
        statistics.decode = first.elapsed();
        let text = stream.push(token)?;
        reply.text.push_str(text);
        if on_piece(Piece { text, token, statistics: &statistics }).is_break() {
            break Finish::Interrupted;
        }
        // Before the next token is computed: it would be thrown away.
        if reply.tokens.len() >= tokens_max {
            break Finish::Length;
        }
        if session.remaining() == 0 {
            break Finish::Window;
        }
        token = choose(sampler, session.decode(token)?)?;
    };
    let rest = stream.finish()?;
    if !rest.is_empty() {
        reply.text.push_str(&rest);
        let token = reply.tokens.last().copied().unwrap_or_default();
        // The reply is over whatever the caller answers.
        let _ = on_piece(Piece { text: &rest, token, statistics: &statistics });
    }
    reply.statistics = statistics;
    Ok(reply)
}

/// Feeds a prompt as [`Decoder::extend_to`] does, chunk for chunk the same; nothing when it was interrupted, and what was
/// fed until then stays in the cache.
fn feed_until<'a, D: Decoder + ?Sized>(
    session: &'a mut D,
    tokens: &[u32],
    interrupted: &mut dyn FnMut() -> bool,
) -> Result<Option<&'a [f32]>> {
    session.truncate(session.shared_prefix(tokens));
    loop {
        if interrupted() {
            return Ok(None);
        }
        let rest = tokens.get(session.tokens().len()..).unwrap_or_default();
        match rest.split_at_checked(session.chunk()) {
            Some((chunk, more)) if !more.is_empty() => session.prefill(chunk)?,
            _ => return session.prefill(rest).map(Some),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Settings;

    /// Ten rows, of which the tokenizer has the first three; the others score higher the further behind they stand.
    struct Padded {
        held: Vec<u32>,
        logits: [f32; 10],
    }

    impl Decoder for Padded {
        fn window(&self) -> usize {
            64
        }
        fn vocab(&self) -> u32 {
            10
        }
        fn chunk(&self) -> usize {
            16
        }
        fn tokens(&self) -> &[u32] {
            &self.held
        }
        fn truncate(&mut self, len: usize) {
            self.held.truncate(len);
        }
        fn prefill(&mut self, tokens: &[u32]) -> Result<&[f32]> {
            self.held.extend(tokens);
            Ok(&self.logits)
        }
    }

    #[test]
    fn a_row_that_only_pads_the_vocabulary_is_never_chosen() {
        let json = br#"{"version":"1.0","model":{"type":"BPE","vocab":{"a":0,"b":1,"c":2},"merges":[]}}"#;
        let tokenizer = Tokenizer::from_bytes(json, 10).unwrap();
        assert_eq!(tokenizer.rows(), 3);
        for temperature in [0.0, 1.0] {
            let settings = Settings { temperature, ..Settings::default() };
            let mut decoder =
                Padded { held: Vec::new(), logits: [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0] };
            let mut sampler = Sampler::new(settings).unwrap();
            let limits = Limits { tokens_max: Some(40), stop: Vec::new() };
            let go_on = &mut |_: Piece<'_>| ControlFlow::Continue(());
            let reply = generate(&mut decoder, &tokenizer, &mut sampler, "ab", &limits, go_on).unwrap();
            assert!(
                reply.tokens.len() == 40 && reply.tokens.iter().all(|token| *token < 3),
                "{:?}",
                reply.tokens
            );
        }
    }
}
