//! What generation needs of a runtime: a context window that tokens are fed into.
//!
//! **Invariant:** an implementation lists in [`Decoder::tokens`] exactly the tokens whose keys and values are valid in
//! its cache, and answers a token outside the vocabulary with an error, whatever its runtime would do with it.

use crate::error::{Error, Result};

/// A model with the state of its cache, in some runtime.
pub trait Decoder {
    /// Tokens that the context window holds.
    fn window(&self) -> usize;

    /// Tokens of the vocabulary.
    fn vocab(&self) -> u32;

    /// Tokens that a prefill feeds per call of the runtime.
    fn chunk(&self) -> usize;

    /// Tokens in the cache.
    fn tokens(&self) -> &[u32];

    /// Forgets everything from position `len` on; keeps all when there is less.
    fn truncate(&mut self, len: usize);

    /// Feeds tokens and returns the logits after the last one, borrowed from the runtime.
    ///
    /// # Errors
    /// When there are no tokens, one is out of vocabulary, they do not fit the window, or the runtime fails.
    fn prefill(&mut self, tokens: &[u32]) -> Result<&[f32]>;

    /// Feeds one token and returns the logits after it.
    ///
    /// # Errors
    /// As [`Self::prefill`].
    fn decode(&mut self, token: u32) -> Result<&[f32]> {
        self.prefill(&[token])
    }

    /// Empties the cache.
    fn reset(&mut self) {
        self.truncate(0);
    }

    /// Tokens that still fit.
    fn remaining(&self) -> usize {
        self.window().saturating_sub(self.tokens().len())
    }

    /// Makes the cache hold exactly `tokens`, feeding only what differs from what it holds, and returns the
    /// logits after the last one. At least one token is always fed: its logits are the answer.
    ///
    /// # Errors
    /// As [`Self::prefill`]; the whole of `tokens` must fit the window.
    fn extend_to(&mut self, tokens: &[u32]) -> Result<&[f32]> {
        let shared = self.shared_prefix(tokens);
        self.truncate(shared);
        // It may have had to forget more than was asked.
        let held = self.tokens().len();
        self.prefill(tokens.get(held..).unwrap_or_default())
    }

    /// How many leading tokens [`Self::extend_to`] would not feed again.
    fn shared_prefix(&self, tokens: &[u32]) -> usize {
        let same = self.tokens().iter().zip(tokens).take_while(|(a, b)| a == b).count();
        same.min(tokens.len().saturating_sub(1))
    }

    /// Refuses what must not reach a runtime.
    ///
    /// # Errors
    /// No tokens, one out of vocabulary, or more than still fit.
    fn check(&self, tokens: &[u32]) -> Result<()> {
        let vocab = self.vocab();
        if tokens.is_empty() {
            return Err(Error::NoTokens);
        }
        if let Some((index, token)) = tokens.iter().enumerate().find(|(_, token)| **token >= vocab) {
            return Err(Error::Token { token: *token, index, vocab });
        }
        if tokens.len() > self.remaining() {
            let (position, window) = (self.tokens().len(), self.window());
            return Err(Error::WindowFull { tokens: tokens.len(), position, window });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cache that cannot forget a part, as those of recurrent models.
    struct AllOrNothing {
        held: Vec<u32>,
        fed: Vec<u32>,
    }

    impl Decoder for AllOrNothing {
        fn window(&self) -> usize {
            16
        }
        fn vocab(&self) -> u32 {
            100
        }
        fn chunk(&self) -> usize {
            16
        }
        fn tokens(&self) -> &[u32] {
            &self.held
        }
        fn truncate(&mut self, len: usize) {
            if len < self.held.len() {
                self.held.clear();
            }
        }
        fn prefill(&mut self, tokens: &[u32]) -> Result<&[f32]> {
            self.held.extend(tokens);
            self.fed = tokens.to_vec();
            Ok(&[])
        }
    }

    #[test]
    fn what_was_forgotten_beyond_what_was_asked_is_fed_again() {
        let mut decoder = AllOrNothing { held: vec![1, 2, 3, 4], fed: Vec::new() };
        decoder.extend_to(&[1, 2, 5]).unwrap();
        assert_eq!((decoder.held.as_slice(), decoder.fed.as_slice()), (&[1, 2, 5][..], &[1, 2, 5][..]));
        decoder.extend_to(&[1, 2, 5, 6]).unwrap();
        assert_eq!((decoder.held.len(), decoder.fed.as_slice()), (4, &[6][..]));
    }
}
