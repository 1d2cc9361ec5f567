//! Tokens to text, one by one.
//!
//! **Invariant:** the pieces of a stream join to what the tokenizer decodes of all its tokens, and no piece splits a
//! character.

use tokenizers::{DecoderWrapper, Model as _};

use crate::error::Result;
use crate::text::Tokenizer;

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
    /// Any other tokenizer decodes a token differently after others (a leading space, a character spread over several
    /// byte tokens), so a piece is what the text *gains* by a token, decoded together with those before it, and the end
    /// waits while it may be an unfinished character.
    Text {
        tokenizer: &'a Tokenizer,
        /// Tokens since the last but one point at which nothing was waiting: context for those that follow.
        tokens: Vec<u32>,
        /// How many of them were there at the last such point.
        settled: usize,
        /// What of their text has been written out.
        written: String,
    },
}

/// Longest row of bytes that is expected of a token; a longer one costs an allocation.
const TOKEN_BYTES: usize = 256;

/// A character of four bytes lacks at most its last: decoders show each of the others as U+FFFD until it comes.
const UNFINISHED_CHARS_MAX: usize = 3;

impl<'a> Detokenizer<'a> {
    pub(crate) fn of_bytes(bytes: &'a TokenBytes) -> Self {
        let pending = Vec::with_capacity(TOKEN_BYTES);
        Self { source: Source::Bytes { bytes, pending }, piece: String::with_capacity(TOKEN_BYTES) }
    }

    pub(crate) fn of_text(tokenizer: &'a Tokenizer) -> Self {
        let source = Source::Text { tokenizer, tokens: Vec::new(), settled: 0, written: String::new() };
        Self { source, piece: String::new() }
    }

    /// Takes a token and returns the text that became final by it; empty while a character is unfinished. Allocates
    /// nothing where tokens are rows of bytes.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn push(&mut self, token: u32) -> Result<&str> {
        self.piece.clear();
        match &mut self.source {
            Source::Bytes { bytes, pending } => {
                pending.extend_from_slice(bytes.of(token));
                let unfinished = finished(pending, &mut self.piece);
                pending.drain(..pending.len() - unfinished);
            }
            Source::Text { tokenizer, tokens, settled, written } => {
                tokens.push(token);
                let text = tokenizer.decode(tokens)?;
                let mut certain = text.as_str();
                for _ in 0..UNFINISHED_CHARS_MAX {
                    certain = certain.strip_suffix(char::REPLACEMENT_CHARACTER).unwrap_or(certain);
                }
                self.piece.push_str(gained(written, certain));
                if certain.len() == text.len() {
                    tokens.drain(..*settled);
                    *settled = tokens.len();
                    *written = tokenizer.decode(tokens)?;
                } else {
                    certain.clone_into(written);
                }
            }
        }
        Ok(&self.piece)
    }

    /// Returns what is left; an unfinished character becomes U+FFFD.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn finish(self) -> Result<String> {
        match self.source {
            Source::Bytes { pending, .. } => Ok(String::from_utf8_lossy(&pending).into_owned()),
            Source::Text { tokenizer, tokens, written, .. } => {
                Ok(gained(&written, &tokenizer.decode(&tokens)?).to_owned())
            }
        }
    }
}

/// Appends the characters of `bytes`, U+FFFD for what is none, and returns how many bytes at the end may become one.
fn finished(bytes: &[u8], text: &mut String) -> usize {
    let mut left = bytes.len();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        let invalid = chunk.invalid();
        left -= chunk.valid().len() + invalid.len();
        // Only what stands at the end can lack something.
        let unfinished = std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
        if left == 0 && unfinished {
            return invalid.len();
        }
        if !invalid.is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    0
}

/// What `now` has beyond `written`. Where a tokenizer rewrites what came before, the common beginning counts as
/// written and the rest as new.
fn gained<'t>(written: &str, now: &'t str) -> &'t str {
    let same = written.chars().zip(now.chars()).take_while(|(a, b)| a == b);
    let same: usize = same.map(|(c, _)| c.len_utf8()).sum();
    now.get(same..).unwrap_or_default()
}

/// The bytes of every token of a byte-level tokenizer, special ones left out.
#[derive(Debug)]
pub(crate) struct TokenBytes {
    bytes: Vec<u8>,
    /// Where each token's bytes end.
    ends: Vec<usize>,
}

impl TokenBytes {
    /// `None` for any other tokenizer.
    pub(crate) fn of_tokenizer(tokenizer: &tokenizers::Tokenizer, id_max: u32) -> Option<Self> {
        let Some(DecoderWrapper::ByteLevel(_)) = tokenizer.get_decoder() else { return None };
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
        Some(table)
    }

    fn of(&self, token: u32) -> &[u8] {
        let index = token as usize;
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.ends.get(index).and_then(|&end| self.bytes.get(start..end)).unwrap_or_default()
    }
}

/// The byte that each character stands for in a byte-level vocabulary: itself where it is printable, and the others from
/// 256 on.
fn stand_ins() -> Vec<Option<u8>> {
    let mut bytes = vec![None; 256];
    for byte in 0..=u8::MAX {
        if matches!(byte, 33..=126 | 161..=172 | 174..=255) {
            bytes[usize::from(byte)] = Some(byte);
        } else {
            bytes.push(Some(byte));
        }
    }
    bytes
}
