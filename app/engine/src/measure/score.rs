//! Feeds windows of text token by token and writes the logits after every token: the export worker compares them with the
//! unquantized model's as they come.
//!
//! The stream: for each window the number of its tokens and the tokens (`u32`, little-endian), then the logits (`f32`,
//! little-endian) after each of them but the last, which predicts nothing; or, where it is asked for, after the last alone.
//!
//! **Invariant:** texts are tokenized here, by what ships with the model: the worker refuses a window of other tokens than its
//! own libraries give.

use std::io::Write;

use camino::Utf8Path;
use serde::Deserialize;

use crate::chat::Message;
use crate::decoder::Decoder;
use crate::error::Result;

/// Largest file of texts.
const TEXTS_BYTES_MAX: u64 = 64 << 20;

/// What the tokenizer and the chat template make of words.
pub trait Words {
    /// Tokens of a text, without any that the text does not have.
    ///
    /// # Errors
    /// When the tokenizer fails.
    fn text(&self, text: &str) -> Result<Vec<u32>>;

    /// Tokens of a conversation as the template writes it, up to where the assistant is to speak if it is a prompt.
    ///
    /// # Errors
    /// When the template or the tokenizer fails.
    fn conversation(&self, messages: &[Message], prompt: bool) -> Result<Vec<u32>>;
}

/// One line of a file of texts; what else stands there is for others.
#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    messages: Vec<Message>,
    #[serde(default)]
    prompt: bool,
}

/// After which tokens logits are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// After each but the last, one decoded token at a time: as an app decodes, and the same for every runtime.
    EachToken,
    /// After the last, of one prefill.
    Last,
}

/// Reads a file of texts and cuts it into the first `count` windows of at most `size` tokens. A text begins with the token
/// that begins one, in every window; a conversation has what its template writes and ends with its window.
///
/// # Errors
/// A message: the file cannot be read, or a line is no text.
pub fn windows(
    path: &Utf8Path,
    words: &impl Words,
    bos: Option<u32>,
    size: usize,
    count: usize,
) -> std::result::Result<Vec<Vec<u32>>, String> {
    let failed = |e: std::io::Error| format!("{path}: {e}");
    let len = std::fs::metadata(path).map_err(failed)?.len();
    if len > TEXTS_BYTES_MAX {
        return Err(format!("{path}: got {len} bytes, expected at most {TEXTS_BYTES_MAX}"));
    }
    let lines = std::fs::read_to_string(path).map_err(failed)?;
    let mut found = Vec::new();
    for (number, line) in lines.lines().enumerate() {
        let wrong = |e: &dyn std::fmt::Display| format!("{path}: line {}: {e}", number + 1);
        let item: Item = serde_json::from_str(line).map_err(|e| wrong(&e))?;
        let room = size.saturating_sub(usize::from(bos.is_some())).max(1);
        match item.text {
            Some(text) => {
                let tokens = words.text(&text).map_err(|e| wrong(&e))?;
                found.extend(tokens.chunks(room).map(|piece| bos.iter().chain(piece).copied().collect()));
            }
            None => {
                let mut tokens = words.conversation(&item.messages, item.prompt).map_err(|e| wrong(&e))?;
                tokens.truncate(size);
                found.push(tokens);
            }
        }
        if found.len() >= count {
            break;
        }
    }
    found.truncate(count);
    Ok(found)
}

/// What ended a stream.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// The runtime failed.
    #[error(transparent)]
    Run(#[from] crate::error::Error),
    /// The reader closed it, or it cannot be written.
    #[error("the logits cannot be written: {0}")]
    Write(#[from] std::io::Error),
}

/// Runs the windows, each from an empty cache.
///
/// # Errors
/// The runtime fails, or the reader is gone.
pub fn stream(
    session: &mut dyn Decoder,
    windows: &[Vec<u32>],
    rows: Rows,
    out: &mut dyn Write,
) -> std::result::Result<(), Ended> {
    let mut bytes = Vec::new();
    for window in windows {
        bytes.clear();
        bytes.extend(u32::try_from(window.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend(window.iter().flat_map(|token| token.to_le_bytes()));
        out.write_all(&bytes)?;
        session.reset();
        let fed: Vec<&[u32]> = match rows {
            Rows::EachToken => {
                window.get(..window.len().saturating_sub(1)).unwrap_or_default().chunks(1).collect()
            }
            Rows::Last => vec![window],
        };
        for tokens in fed {
            let logits = session.prefill(tokens)?;
            bytes.clear();
            bytes.extend(logits.iter().flat_map(|logit| logit.to_le_bytes()));
            out.write_all(&bytes)?;
        }
    }
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::Role;

    /// Tokens are letters, a conversation is its messages in a row.
    struct Letters;

    impl Words for Letters {
        fn text(&self, text: &str) -> Result<Vec<u32>> {
            Ok(text.bytes().map(u32::from).collect())
        }

        fn conversation(&self, messages: &[Message], prompt: bool) -> Result<Vec<u32>> {
            assert!(!prompt);
            assert!(messages.iter().all(|message| message.role != Role::System));
            self.text(&messages.iter().map(|message| message.content.as_str()).collect::<String>())
        }
    }

    fn cut(lines: &str, size: usize, count: usize) -> std::result::Result<Vec<Vec<u32>>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(folder.path()).unwrap().join("texts.jsonl");
        std::fs::write(&path, lines).unwrap();
        windows(&path, &Letters, Some(0), size, count)
    }

    #[test]
    fn a_text_is_cut_and_a_conversation_ends() {
        let lines = "{\"id\": \"a\", \"text\": \"ABCDE\"}\n{\"messages\": [{\"role\": \"user\", \"content\": \"XYZW\"}]}\n";
        let all = [vec![0, 65, 66], vec![0, 67, 68], vec![0, 69], vec![88, 89, 90]];
        assert_eq!(cut(lines, 3, 9).unwrap(), all);
        assert_eq!(cut(lines, 3, 2).unwrap(), all[..2]);
    }

    #[test]
    fn what_is_no_text_is_named_with_its_line() {
        let error = cut("{\"text\": \"A\"}\n{\"text\": 1}\n", 3, 9).unwrap_err();
        assert!(error.contains("texts.jsonl: line 2:"), "{error}");
    }

    /// Logits are the token and its place.
    struct Counting(Vec<u32>);

    impl Decoder for Counting {
        fn window(&self) -> usize {
            8
        }
        fn vocab(&self) -> u32 {
            100
        }
        fn chunk(&self) -> usize {
            1
        }
        fn tokens(&self) -> &[u32] {
            &self.0
        }
        fn truncate(&mut self, len: usize) {
            self.0.truncate(len);
        }
        fn prefill(&mut self, tokens: &[u32]) -> Result<&[f32]> {
            self.0.extend(tokens);
            Ok(if self.0.len() == 1 { &[1.0, 0.5] } else { &[2.0, 0.25] })
        }
    }

    #[test]
    fn the_stream_is_tokens_and_then_their_logits() {
        let mut out = Vec::new();
        stream(&mut Counting(vec![9]), &[vec![7, 8, 9], vec![5]], Rows::EachToken, &mut out).unwrap();
        let words: Vec<_> = out.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let rows = [1.0_f32, 0.5, 2.0, 0.25].map(f32::to_bits);
        assert_eq!(words, [&[3, 7, 8, 9][..], &rows, &[1, 5]].concat());
        let mut out = Vec::new();
        stream(&mut Counting(vec![9]), &[vec![7, 8, 9]], Rows::Last, &mut out).unwrap();
        let words: Vec<_> = out.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
        assert_eq!(words, [&[3, 7, 8, 9][..], &rows[2..]].concat());
    }

    #[test]
    fn a_reader_that_is_gone_ends_it() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let ended = stream(&mut Counting(Vec::new()), &[vec![1, 2]], Rows::EachToken, &mut Gone);
        assert!(matches!(ended, Err(Ended::Write(_))), "{ended:?}");
    }
}
