//! One conversation with a model: the contents of its key/value cache, and how tokens are added to it.
//!
//! **Invariant:** `fed` lists exactly the tokens whose keys and values are valid in the cache, in order; a
//! failed call leaves it at the last chunk that succeeded. Every token is checked against the vocabulary
//! before the runtime sees it, because the runtime aborts the process on one that is out of range.

use model_assets::pte::Tap;

use crate::decoder::Decoder;
use crate::error::{Error, Result};
use crate::ffi::Probe;
use crate::model::Model;

/// Tokens fed in one call of a prefill, unless set otherwise. Measured on two cores (docs/full-scale.md, "Prefill chunk"): a
/// longer chunk gains nothing once the matrix products are large, while its activations grow.
pub const PREFILL_CHUNK_TOKENS: usize = 128;
/// Tokens after which the pages of a mapped file are let go. A token reads one row of the embedding, and the system
/// may map up to 2 MiB around it; the head's rows are read from the packed copy. Without this the whole embedding
/// (0.26 GB in a 1B model) is resident after a few hundred tokens.
const RELEASE_TOKENS: usize = 32;

/// A model with the state of its cache.
#[derive(Debug)]
pub struct Session {
    model: Model,
    fed: Vec<u32>,
    /// The current chunk's tokens in the runtime's type; allocated once.
    chunk: Vec<i64>,
    chunk_max: usize,
    /// Tokens fed since the file's pages were let go.
    since_release: usize,
}

impl Session {
    /// A session with an empty cache. What loading read of the file is let go: the backend has its own copy, and a
    /// refusal costs memory, nothing else.
    pub fn new(model: Model) -> Self {
        let _ = model.release_pages();
        let chunk_max = PREFILL_CHUNK_TOKENS.min(model.prefill_max());
        let (context, most) = (model.context(), model.prefill_max());
        Self {
            model,
            fed: Vec::with_capacity(context),
            chunk: Vec::with_capacity(most),
            chunk_max,
            since_release: 0,
        }
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The model, to reset its profile.
    pub fn model_mut(&mut self) -> &mut Model {
        &mut self.model
    }

    /// Sets how many tokens a prefill feeds per call.
    ///
    /// # Errors
    /// When `tokens` is zero or more than the program takes.
    pub fn set_chunk(&mut self, tokens: usize) -> Result<()> {
        if !(1..=self.model.prefill_max()).contains(&tokens) {
            return Err(Error::Setting {
                name: "prefill chunk",
                got: tokens.to_string(),
                expected: "1 to the most tokens that the program takes in a call",
            });
        }
        self.chunk_max = tokens;
        Ok(())
    }

    /// Tokens that a prefill feeds per call.
    pub fn chunk(&self) -> usize {
        self.chunk_max
    }

    /// Tokens in the cache.
    pub fn tokens(&self) -> &[u32] {
        &self.fed
    }

    /// Position of the next token.
    pub fn position(&self) -> usize {
        self.fed.len()
    }

    /// Tokens that still fit.
    pub fn remaining(&self) -> usize {
        self.model.context().saturating_sub(self.fed.len())
    }

    /// Empties the cache.
    pub fn reset(&mut self) {
        self.fed.clear();
    }

    /// Forgets everything from position `len` on; keeps all when there is less.
    pub fn truncate(&mut self, len: usize) {
        self.fed.truncate(len);
    }

    /// Feeds tokens in chunks and returns the logits after the last one, borrowed from the runtime.
    ///
    /// # Errors
    /// When there are no tokens, one is out of vocabulary, they do not fit the window, or the runtime fails.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<&[f32]> {
        Decoder::check(self, tokens)?;
        let last = match tokens.len() % self.chunk_max {
            0 => self.chunk_max,
            rest => rest,
        };
        let (most, last) = tokens.split_at(tokens.len().saturating_sub(last));
        for chunk in most.chunks(self.chunk_max) {
            self.feed(chunk, None)?;
        }
        self.feed(last, None)
    }

    /// Feeds one token and returns the logits after it, borrowed from the runtime. Allocates nothing.
    ///
    /// # Errors
    /// As [`Self::prefill`].
    pub fn decode(&mut self, token: u32) -> Result<&[f32]> {
        Decoder::check(self, &[token])?;
        self.feed(&[token], None)
    }

    /// Feeds tokens in one call and shows every fp32 value that is computed to `probe`, which may change it before it is
    /// read; the model must have been loaded with [`Record::Values`](crate::Record), else nothing is shown.
    ///
    /// # Errors
    /// As [`Self::prefill`], and when there are more tokens than a call takes.
    pub fn probe(&mut self, tokens: &[u32], probe: &mut dyn FnMut(Tap, &mut [f32])) -> Result<&[f32]> {
        Decoder::check(self, tokens)?;
        self.feed(tokens, Some(probe))
    }

    /// Makes the cache hold exactly `tokens`, feeding only what differs from what it holds, and returns the
    /// logits after the last one. At least one token is always fed: its logits are the answer.
    ///
    /// # Errors
    /// As [`Self::prefill`]; the whole of `tokens` must fit the window.
    pub fn extend_to(&mut self, tokens: &[u32]) -> Result<&[f32]> {
        Decoder::extend_to(self, tokens)
    }

    /// How many leading tokens [`Self::extend_to`] would not feed again.
    pub fn shared_prefix(&self, tokens: &[u32]) -> usize {
        Decoder::shared_prefix(self, tokens)
    }

    /// Feeds one checked chunk.
    fn feed(&mut self, tokens: &[u32], probe: Option<Probe<'_>>) -> Result<&[f32]> {
        // Before the call and not after it: the logits are still borrowed then.
        if self.since_release >= RELEASE_TOKENS {
            self.model.release_mapped();
            self.since_release = 0;
        }
        self.since_release += tokens.len();
        self.chunk.clear();
        self.chunk.extend(tokens.iter().copied().map(i64::from));
        let logits = self.model.forward(&self.chunk, self.fed.len(), probe)?;
        self.fed.extend_from_slice(tokens);
        Ok(logits)
    }
}

impl Decoder for Session {
    fn window(&self) -> usize {
        self.model.context()
    }

    fn vocab(&self) -> u32 {
        self.model.vocab()
    }

    fn chunk(&self) -> usize {
        self.chunk_max
    }

    fn tokens(&self) -> &[u32] {
        &self.fed
    }

    fn truncate(&mut self, len: usize) {
        Self::truncate(self, len);
    }

    fn prefill(&mut self, tokens: &[u32]) -> Result<&[f32]> {
        Self::prefill(self, tokens)
    }

    fn decode(&mut self, token: u32) -> Result<&[f32]> {
        Self::decode(self, token)
    }
}
