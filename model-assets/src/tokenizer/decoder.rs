//! How tokens become text again, as steps that a stream can take one token at a time.
//!
//! **Invariant:** every accepted order of steps can be streamed: a step that needs a whole token never stands after one
//! that joins tokens, so what a stream holds back is bounded by a pattern, one token or one character.

use serde_json::Value;

use super::{kind, steps, string, unknown};

/// Longest pattern of a decoder's step, and most characters that `Strip` may take.
const PATTERN_BYTES_MAX: usize = 64;
const STRIP_CHARS_MAX: u64 = 64;

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecoderStep {
    /// Tokens are stand-ins for bytes; joins them.
    ByteLevel,
    /// Tokens like `<0x41>` are bytes.
    ByteFallback,
    /// Joins the tokens.
    Fuse,
    /// Takes up to `start` of a character from the beginning and up to `stop` from the end.
    Strip {
        /// The character.
        content: char,
        /// Most at the beginning.
        start: usize,
        /// Most at the end.
        stop: usize,
    },
    /// Writes one text for another.
    Replace {
        /// What is looked for; never empty.
        pattern: String,
        /// What is written instead.
        content: String,
    },
    /// A character stands for a space, and is nothing in the first token unless `keep_first`.
    Metaspace {
        /// The character.
        replacement: char,
        /// Whether the first token keeps it.
        keep_first: bool,
    },
    /// A token begins a word unless it has the prefix.
    WordPiece {
        /// Of a token that continues a word.
        prefix: String,
        /// Whether spaces before punctuation are taken away.
        cleanup: bool,
    },
    /// A token with the suffix ends a word.
    Suffix {
        /// Of a token that ends a word.
        suffix: String,
    },
}

impl DecoderStep {
    /// Whether the step needs a token from its beginning to its end.
    fn needs_whole_tokens(&self) -> bool {
        matches!(self, Self::ByteLevel | Self::ByteFallback | Self::WordPiece { .. } | Self::Suffix { .. })
    }

    /// Whether tokens run into each other in the step's result.
    fn joins(&self) -> bool {
        matches!(self, Self::ByteLevel | Self::ByteFallback | Self::Fuse)
    }
}

/// The steps of a `decoder`, sequences unfolded.
///
/// # Errors
/// A message that names the step.
pub fn decoder_steps(it: &Value) -> Result<Vec<DecoderStep>, String> {
    let mut found = Vec::new();
    if !it.is_null() {
        unfold(it, 0, &mut found)?;
    }
    let joined = found.iter().position(DecoderStep::joins).map_or(found.len(), |place| place + 1);
    match found.iter().skip(joined).find(|step| step.needs_whole_tokens()) {
        None => Ok(found),
        Some(step) => {
            Err(format!("decoder: got {step:?} after a step that joins tokens, expected it before"))
        }
    }
}

fn unfold(it: &Value, depth: usize, found: &mut Vec<DecoderStep>) -> Result<(), String> {
    let part = "decoder";
    let short = |field: &str| match string(it, part, field)? {
        text if text.len() > PATTERN_BYTES_MAX => Err(format!(
            "{part}: got {} bytes of `{field}`, expected at most {PATTERN_BYTES_MAX}",
            text.len()
        )),
        text => Ok(text.to_owned()),
    };
    let one_char = |field: &str| {
        let text = string(it, part, field)?;
        let mut chars = text.chars();
        match (chars.next(), chars.next()) {
            (Some(one), None) => Ok(one),
            _ => Err(format!("{part}: got `{field}` of {} bytes, expected one character", text.len())),
        }
    };
    let count = |field: &str| match it.get(field).and_then(Value::as_u64) {
        Some(count) if count <= STRIP_CHARS_MAX => Ok(count as usize),
        got => Err(format!("{part}: got `{field}` {got:?}, expected at most {STRIP_CHARS_MAX}")),
    };
    found.push(match kind(it, part)? {
        "Sequence" => {
            return steps(it, part, "decoders", depth)?
                .iter()
                .try_for_each(|step| unfold(step, depth + 1, found));
        }
        "ByteLevel" => DecoderStep::ByteLevel,
        "ByteFallback" => DecoderStep::ByteFallback,
        "Fuse" => DecoderStep::Fuse,
        "Strip" => {
            DecoderStep::Strip { content: one_char("content")?, start: count("start")?, stop: count("stop")? }
        }
        "Replace" => DecoderStep::Replace { pattern: pattern(it)?, content: short("content")? },
        "Metaspace" => {
            let scheme = it.get("prepend_scheme").and_then(Value::as_str).unwrap_or("always");
            let never =
                it.get("add_prefix_space").and_then(Value::as_bool) == Some(false) || scheme == "never";
            DecoderStep::Metaspace { replacement: one_char("replacement")?, keep_first: never }
        }
        "WordPiece" => {
            let cleanup = it.get("cleanup").and_then(Value::as_bool);
            let cleanup =
                cleanup.ok_or_else(|| format!("{part}: got no `cleanup`, expected true or false"))?;
            DecoderStep::WordPiece { prefix: short("prefix")?, cleanup }
        }
        "BPEDecoder" => DecoderStep::Suffix { suffix: short("suffix")? },
        other => {
            return Err(unknown(
                part,
                other,
                "ByteLevel, ByteFallback, Fuse, Strip, Replace, Metaspace, WordPiece, BPEDecoder or Sequence",
            ));
        }
    });
    Ok(())
}

/// Only a plain text: where a match of a regular expression ends may depend on all that follows.
fn pattern(it: &Value) -> Result<String, String> {
    match it.get("pattern").and_then(|pattern| pattern.get("String")).and_then(Value::as_str) {
        Some(text) if (1..=PATTERN_BYTES_MAX).contains(&text.len()) => Ok(text.to_owned()),
        Some(text) => {
            Err(format!("decoder: got a pattern of {} bytes, expected 1 to {PATTERN_BYTES_MAX}", text.len()))
        }
        None => Err("decoder: got a Replace of a regular expression, expected of a plain text".to_owned()),
    }
}
