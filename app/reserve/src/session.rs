//! One conversation with a model: llama.cpp's cache behind the engine's interface.
//!
//! **Invariant:** `fed` lists exactly the tokens in llama.cpp's cache, in order.

use std::num::NonZeroU32;

use engine::{Decoder, Error, PREFILL_CHUNK_TOKENS, Result};
use llama_cpp_2::{
    context::{LlamaContext, params::LlamaContextParams},
    llama_batch::LlamaBatch,
    token::LlamaToken,
};

use crate::model::{Model, Runtime, other};

/// The one sequence of a session.
const SEQUENCE: i32 = 0;

/// A model with the state of its cache.
pub struct Session<'a> {
    model: &'a Model,
    context: LlamaContext<'a>,
    batch: LlamaBatch<'static>,
    fed: Vec<u32>,
    chunk: usize,
}

impl<'a> Session<'a> {
    /// A session with an empty cache.
    ///
    /// # Errors
    /// llama.cpp has no memory for the cache.
    pub fn new(runtime: &Runtime, model: &'a Model, threads: u32) -> Result<Self> {
        let chunk = PREFILL_CHUNK_TOKENS.min(model.window());
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let threads = i32::try_from(threads).unwrap_or(1);
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(count(model.window())))
            .with_n_batch(count(chunk))
            .with_n_ubatch(count(chunk))
            .with_n_threads(threads)
            .with_n_threads_batch(threads);
        let context = model.inner.new_context(&runtime.0, params).map_err(other("make a context"))?;
        let batch = LlamaBatch::new(chunk, 1);
        Ok(Self { model, context, batch, fed: Vec::with_capacity(model.window()), chunk })
    }

    /// The model.
    pub fn model(&self) -> &'a Model {
        self.model
    }

    fn feed(&mut self, tokens: &[u32], last: bool) -> Result<()> {
        self.batch.clear();
        for (index, token) in tokens.iter().enumerate() {
            let position = i32::try_from(self.fed.len() + index).unwrap_or(i32::MAX);
            let wanted = last && index + 1 == tokens.len();
            // Checked against the vocabulary before, which is below the range of an i32.
            let token = LlamaToken::new(i32::try_from(*token).unwrap_or(i32::MAX));
            self.batch.add(token, position, &[SEQUENCE], wanted).map_err(other("fill a batch"))?;
        }
        self.context.decode(&mut self.batch).map_err(other("run llama.cpp"))?;
        self.fed.extend_from_slice(tokens);
        Ok(())
    }
}

impl Decoder for Session<'_> {
    fn window(&self) -> usize {
        self.model.window()
    }

    fn vocab(&self) -> u32 {
        self.model.vocab()
    }

    fn chunk(&self) -> usize {
        self.chunk
    }

    fn tokens(&self) -> &[u32] {
        &self.fed
    }

    fn truncate(&mut self, len: usize) {
        if len >= self.fed.len() {
            return;
        }
        let from = u32::try_from(len).unwrap_or(u32::MAX);
        let cut = self.context.kv_cache_seq_rm(SEQUENCE, Some(from), None);
        if cut.is_ok() {
            self.fed.truncate(len);
        } else {
            // A cache that cannot forget a part forgets all: what it held is fed again.
            self.context.clear_kv_cache();
            self.fed.clear();
        }
    }

    fn prefill(&mut self, tokens: &[u32]) -> Result<&[f32]> {
        self.check(tokens)?;
        let pieces = tokens.len().div_ceil(self.chunk);
        for (index, piece) in tokens.chunks(self.chunk).enumerate() {
            self.feed(piece, index + 1 == pieces)?;
        }
        let row = self.batch.n_tokens().checked_sub(1).ok_or(Error::NoTokens)?;
        Ok(self.context.get_logits_ith(row))
    }
}

impl std::fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("fed", &self.fed.len())
            .field("chunk", &self.chunk)
            .finish_non_exhaustive()
    }
}
