//! Tokens to text, one by one.
//!
//! **Invariant:** the pieces of a stream join to what [`Tokenizer::decode`] gives for all its tokens, and no piece
//! splits a character.
//!
//! **Invariant:** what a stream holds back is bounded: an unfinished character, the beginning of a pattern, or one
//! token, whatever the tokens are.
//!
//! Both read tokens by the same steps, so this holds by construction. The steps give what the `tokenizers` crate gives,
//! with one difference: where byte tokens in a row (`<0xE4>`) are not UTF-8, the crate writes U+FFFD for every byte of the
//! row, the good characters in it too. That can only be known when the row has ended, which may be never. Here a good
//! character is written as soon as it is whole, and U+FFFD stands for each broken byte alone.

use tokenizers::Model as _;

use super::Tokenizer;
use super::stream::{self, Stage, finished, stand_ins};
use crate::error::Result;

/// Turns a stream of tokens into pieces of text.
#[derive(Debug)]
pub struct Detokenizer<'a> {
    source: Source<'a>,
    /// The piece at hand; its memory is used again.
    piece: String,
}

#[derive(Debug)]
enum Source<'a> {
    /// Every token is a row of bytes, whatever stands before it; `pending` is an unfinished character.
    Bytes { bytes: &'a TokenBytes, pending: Vec<u8> },
    /// Any other tokenizer rewrites its tokens step by step.
    Steps { tokenizer: &'a Tokenizer, stages: Vec<Stage> },
}

/// Longest row of bytes that is expected of a token; a longer one costs an allocation.
const TOKEN_BYTES: usize = 256;

impl<'a> Detokenizer<'a> {
    pub(crate) fn of_bytes(bytes: &'a TokenBytes) -> Self {
        let pending = Vec::with_capacity(TOKEN_BYTES);
        Self { source: Source::Bytes { bytes, pending }, piece: String::with_capacity(TOKEN_BYTES) }
    }

    pub(crate) fn of_steps(tokenizer: &'a Tokenizer, stages: Vec<Stage>) -> Self {
        Self { source: Source::Steps { tokenizer, stages }, piece: String::new() }
    }

    /// Takes a token and returns the text that became final by it; empty while a character is unfinished. Allocates
    /// nothing where tokens are rows of bytes.
    ///
    /// # Errors
    /// None today; a tokenizer that can fail on a token would say so here.
    pub fn push(&mut self, token: u32) -> Result<&str> {
        self.piece.clear();
        match &mut self.source {
            Source::Bytes { bytes, pending } => {
                pending.extend_from_slice(bytes.of(token));
                let unfinished = finished(pending, &mut self.piece);
                pending.drain(..pending.len() - unfinished);
            }
            Source::Steps { tokenizer, stages } => {
                if let Some(text) = tokenizer.printable_token(token) {
                    stream::feed(stages, &text, true, &mut self.piece);
                }
            }
        }
        Ok(&self.piece)
    }

    /// Returns the rest; an unfinished character becomes U+FFFD.
    ///
    /// # Errors
    /// None today, as for [`Self::push`].
    pub fn finish(self) -> Result<String> {
        match self.source {
            Source::Bytes { pending, .. } => Ok(String::from_utf8_lossy(&pending).into_owned()),
            Source::Steps { mut stages, .. } => {
                let mut rest = String::new();
                stream::finish(&mut stages, &mut rest);
                Ok(rest)
            }
        }
    }
}

/// The bytes of every token of a byte-level tokenizer, special ones left out.
#[derive(Debug)]
pub(crate) struct TokenBytes {
    bytes: Vec<u8>,
    /// Where each token's bytes end.
    ends: Vec<usize>,
}

impl TokenBytes {
    /// The table of a tokenizer whose only step is `ByteLevel`.
    pub(crate) fn of_tokenizer(tokenizer: &tokenizers::Tokenizer, id_max: u32) -> Self {
        let (added, model) = (tokenizer.get_added_vocabulary(), tokenizer.get_model());
        let stand_ins = stand_ins();
        let mut table = Self { bytes: Vec::new(), ends: Vec::new() };
        for id in 0..=id_max {
            let token = added.simple_id_to_token(id).or_else(|| model.id_to_token(id));
            if let Some(token) = token.filter(|token| !added.is_special_token(token)) {
                let byte = |c: char| stand_ins.get(c as usize).copied().flatten();
                let bytes: Option<Vec<u8>> = token.chars().map(byte).collect();
                // A token with any other character is text as it stands.
                table.bytes.extend(bytes.unwrap_or_else(|| token.into_bytes()));
            }
            table.ends.push(table.bytes.len());
        }
        table
    }

    fn of(&self, token: u32) -> &[u8] {
        let index = token as usize;
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.ends.get(index).and_then(|&end| self.bytes.get(start..end)).unwrap_or_default()
    }
}
