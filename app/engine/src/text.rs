//! Text to tokens and back, with the model's own tokenizer.
//!
//! **Invariant:** no token that leaves this module is outside the model's vocabulary.
//!
//! **Invariant:** a text is encoded whole: `truncation` and `padding` of the file are passed over, and a text too long for
//! any context window is an error.

mod detokenizer;
mod stream;

use std::sync::Arc;

use camino::Utf8Path;
use model_assets::limits::{PROMPT_BYTES_MAX, TOKENIZER_BYTES_MAX};
use model_assets::tokenizer::{self, DecoderStep};
use tokenizers::Model as _;

pub use self::detokenizer::Detokenizer;
use self::{detokenizer::TokenBytes, stream::Stage};
use crate::error::{Error, Result};

/// A tokenizer bound to a vocabulary.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    rows: usize,
    decoding: Decoding,
}

/// How tokens become text.
#[derive(Debug, Clone)]
enum Decoding {
    /// Tokens are rows of bytes.
    Bytes(Arc<TokenBytes>),
    /// Tokens are rewritten; a stream starts with a copy of these.
    Steps(Arc<[Stage]>),
}

impl Tokenizer {
    /// Reads a Hugging Face `tokenizer.json` whose every token a model of `vocab` tokens has.
    ///
    /// # Errors
    /// When the text is too large, is no tokenizer that the gate admits, or knows a token that the model lacks.
    pub fn from_bytes(json: &[u8], vocab: u32) -> Result<Self> {
        let wrong = |message: String| Err(Error::Tokenizer(message));
        if json.len() as u64 > TOKENIZER_BYTES_MAX {
            return wrong(format!("got {} bytes, expected at most {TOKENIZER_BYTES_MAX}", json.len()));
        }
        let facts = tokenizer::judge(json).map_err(Error::Tokenizer)?;
        let mut inner =
            tokenizers::Tokenizer::from_bytes(json).map_err(|e| Error::Tokenizer(e.to_string()))?;
        inner.with_padding(None).with_truncation(None).map_err(|e| Error::Tokenizer(e.to_string()))?;
        // Ids may have gaps, so the number of tokens says nothing: look at the largest id.
        match inner.get_vocab(true).into_iter().max_by_key(|(_, id)| *id) {
            None => wrong("got no tokens, expected at least one".to_owned()),
            Some((token, id)) if id >= vocab => {
                wrong(format!("got token {token:?} with id {id}, expected ids below the model's {vocab}"))
            }
            Some((_, id)) => {
                let decoding = match facts.decoder.as_slice() {
                    [DecoderStep::ByteLevel] => Decoding::Bytes(TokenBytes::of_tokenizer(&inner, id).into()),
                    steps => Decoding::Steps(Stage::all(steps).into()),
                };
                Ok(Self { inner, rows: (id as usize).saturating_add(1), decoding })
            }
        }
    }

    /// Reads a `tokenizer.json` from a file.
    ///
    /// # Errors
    /// As [`Self::from_bytes`], and when the file cannot be read.
    pub fn from_file(path: &Utf8Path, vocab: u32) -> Result<Self> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let len = std::fs::metadata(path).map_err(io)?.len();
        if len > TOKENIZER_BYTES_MAX {
            let message = format!("{path}: got {len} bytes, expected at most {TOKENIZER_BYTES_MAX}");
            return Err(Error::Tokenizer(message));
        }
        Self::from_bytes(&std::fs::read(path).map_err(io)?, vocab).map_err(|error| match error {
            Error::Tokenizer(message) => Error::Tokenizer(format!("{path}: {message}")),
            other => other,
        })
    }

    /// Tokens of a text. Special tokens written out in it are recognised; with `add_special` the tokenizer
    /// adds its own (a start token, usually), which a chat template has already written.
    ///
    /// # Errors
    /// When the text is too long or the tokenizer fails.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        if text.len() > PROMPT_BYTES_MAX {
            let message = format!("got a text of {} bytes, expected at most {PROMPT_BYTES_MAX}", text.len());
            return Err(Error::Tokenizer(message));
        }
        let encoding =
            self.inner.encode_fast(text, add_special).map_err(|e| Error::Tokenizer(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of tokens, special ones left out.
    ///
    /// # Errors
    /// As [`Detokenizer::push`].
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        let (mut stream, mut text) = (self.stream(), String::new());
        for token in tokens {
            text.push_str(stream.push(*token)?);
        }
        text.push_str(&stream.finish()?);
        Ok(text)
    }

    /// The written form of a token that is part of a text: none for special ones.
    pub(crate) fn printable_token(&self, id: u32) -> Option<String> {
        let added = self.inner.get_added_vocabulary();
        let token = added.simple_id_to_token(id).or_else(|| self.inner.get_model().id_to_token(id));
        token.filter(|token| !added.is_special_token(token))
    }

    /// Rows of the vocabulary up to the last token. What a model has beyond them pads its matrix: it stands for no text, and
    /// is never to be chosen.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The written form of a token.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The token with a written form.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Starts turning tokens into text one by one.
    pub fn stream(&self) -> Detokenizer<'_> {
        match &self.decoding {
            Decoding::Bytes(bytes) => Detokenizer::of_bytes(bytes),
            Decoding::Steps(stages) => Detokenizer::of_steps(self, stages.to_vec()),
        }
    }
}

#[cfg(test)]
mod decoder_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every byte a token, with two merges on top and one special token: small, and it splits every
    /// character that is not ASCII.
    fn byte_level() -> Tokenizer {
        let mut vocab = serde_json::Map::new();
        let mut extra = 0_u32;
        for byte in 0..=255_u32 {
            // GPT-2's printable stand-ins for bytes.
            let printable =
                (33..=126).contains(&byte) || (161..=172).contains(&byte) || (174..=255).contains(&byte);
            let code = if printable { byte } else { 256 + extra };
            extra += u32::from(!printable);
            vocab.insert(char::from_u32(code).unwrap().to_string(), byte.into());
        }
        vocab.insert("th".into(), 256.into());
        vocab.insert("the".into(), 257.into());
        let json = serde_json::json!({
            "version": "1.0",
            "added_tokens": [{"id": 258, "content": "<|end|>", "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true}],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "vocab": vocab, "merges": [["t", "h"], ["th", "e"]]},
        });
        Tokenizer::from_bytes(json.to_string().as_bytes(), 259).unwrap()
    }

    fn streamed(tokenizer: &Tokenizer, tokens: &[u32]) -> Vec<String> {
        assert!(matches!(tokenizer.decoding, Decoding::Bytes(_)));
        let mut stream = tokenizer.stream();
        let mut pieces: Vec<String> =
            tokens.iter().map(|token| stream.push(*token).unwrap().to_owned()).collect();
        pieces.push(stream.finish().unwrap());
        pieces
    }

    #[test]
    fn a_character_waits_for_its_last_byte() {
        let tokenizer = byte_level();
        let tokens = tokenizer.encode("é€🙂", false).unwrap();
        assert_eq!(tokens.len(), 9);
        assert_eq!(streamed(&tokenizer, &tokens), ["", "é", "", "", "€", "", "", "", "🙂", ""]);
    }

    #[test]
    fn an_unfinished_character_comes_out_at_the_end() {
        let tokenizer = byte_level();
        let pieces = streamed(&tokenizer, &[u32::from(b'a'), 0xf0, 0x9f]);
        assert_eq!(pieces.first().unwrap(), "a");
        assert_eq!(pieces.concat().trim_end_matches(char::REPLACEMENT_CHARACTER), "a");
        assert!(pieces.last().unwrap().contains(char::REPLACEMENT_CHARACTER));
    }

    #[test]
    fn endless_broken_bytes_do_not_hold_back_text_for_ever() {
        let tokenizer = byte_level();
        let mut stream = tokenizer.stream();
        let text: usize = (0..40).map(|_| stream.push(0x9f).unwrap().len()).sum();
        assert!(text > 0);
    }

    #[test]
    fn special_tokens_are_recognised_and_left_out() {
        let tokenizer = byte_level();
        let tokens = tokenizer.encode("the<|end|>", false).unwrap();
        assert_eq!(tokens, [257, 258]);
        assert_eq!(streamed(&tokenizer, &tokens).concat(), "the");
    }

    #[test]
    fn a_tokenizer_larger_than_the_model_is_refused() {
        let json = br#"{"version":"1.0","model":{"type":"BPE","vocab":{"a":0,"b":9},"merges":[]}}"#;
        assert!(Tokenizer::from_bytes(json, 10).is_ok());
        let error = Tokenizer::from_bytes(json, 9).unwrap_err().to_string();
        assert!(error.contains("id 9, expected ids below the model's 9"), "{error}");
        assert!(Tokenizer::from_bytes(b"{}", 9).is_err());
        assert!(
            Tokenizer::from_bytes(br#"{"version":"1.0","model":{"type":"BPE","vocab":{},"merges":[]}}"#, 9)
                .is_err()
        );
    }

    proptest! {
        #[test]
        fn pieces_of_any_tokens_join_to_what_the_tokenizer_decodes(tokens in prop::collection::vec(0_u32..300, 0..40)) {
            let tokenizer = byte_level();
            let text = streamed(&tokenizer, &tokens).concat();
            prop_assert_eq!(text, tokenizer.inner.decode(&tokens, true).unwrap());
        }

        #[test]
        fn pieces_join_to_the_text(text in "\\PC{0,40}") {
            let tokenizer = byte_level();
            let tokens = tokenizer.encode(&text, false).unwrap();
            prop_assert_eq!(streamed(&tokenizer, &tokens).concat(), text);
        }
    }
}
