//! What a `tokenizer.json` may be.
//!
//! The file is a program: it names steps that rewrite a text, cut it, and join tokens again, and each step brings
//! patterns of its own. The gate admits only steps whose work and growth it can bound, and the engine asks the same
//! function before it reads a file.
//!
//! **Invariant:** a step that is not named here is refused, so a new kind is a decision and not an accident.
//!
//! **Invariant:** the steps of an accepted file turn one byte of text into at most [`GROWTH_MAX`] bytes.
//!
//! `truncation` and `padding` are settings of a training run that some scripts leave in the file. Whoever reads the file
//! for a conversation passes over them (`transformers` sets both anew at every call), so they are not judged here.

mod decoder;
mod growth;
mod regex;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde_json::Value;

pub use decoder::{DecoderStep, decoder_steps};
pub use growth::GROWTH_MAX;

/// Most added tokens; Llama 3 has 256, Gemma 3 some 6 400.
const ADDED_TOKENS_MAX: usize = 1 << 16;
/// Longest added token.
const ADDED_TOKEN_BYTES_MAX: usize = 256;
/// Most pieces and special tokens of a post-processor.
const POST_PROCESSOR_PARTS_MAX: usize = 64;
/// Longest word that WordPiece looks up: it tries every part of a word.
const WORD_CHARS_MAX: u64 = 1000;

/// What a reader of conversations must know of an accepted file.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The highest id plus one.
    pub rows: u32,
    /// How tokens become text, in order; empty when tokens are joined by spaces.
    pub decoder: Vec<DecoderStep>,
    vocab: HashMap<String, u32>,
    added: HashMap<u32, String>,
}

impl Facts {
    /// The text of a token.
    pub fn token(&self, id: u32) -> Option<&str> {
        let known = || self.vocab.iter().find(|(_, known)| **known == id).map(|(text, _)| text);
        self.added.get(&id).or_else(known).map(String::as_str)
    }

    /// The token that a text is, whole.
    pub fn id(&self, text: &str) -> Option<u32> {
        let added = || self.added.iter().find(|(_, known)| *known == text).map(|(id, _)| *id);
        self.vocab.get(text).copied().or_else(added)
    }

    /// The longest added token that a text begins with: what a template puts between turns.
    pub fn added_at_start(&self, text: &str) -> Option<u32> {
        let fits = self.added.iter().filter(|(_, known)| text.starts_with(known.as_str()));
        fits.max_by_key(|(_, known)| known.len()).map(|(id, _)| *id)
    }
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    model: Model,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: String,
    vocab: Vocab,
    dropout: Option<f64>,
    max_input_chars_per_word: Option<u64>,
}

/// Judges a file.
///
/// # Errors
/// A message that names the part, what was got and what is expected.
pub fn judge(json: &[u8]) -> Result<Facts, String> {
    let file: File = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    model(&file.model)?;
    let added = added_tokens(&file.added_tokens, &file.model.vocab.0)?;
    let grown =
        growth::normalizer(&file.normalizer)?.saturating_mul(growth::pre_tokenizer(&file.pre_tokenizer)?);
    if grown > GROWTH_MAX {
        return Err(format!(
            "normalizer and pre_tokenizer: got steps that turn one byte into {grown}, expected at most {GROWTH_MAX}"
        ));
    }
    post_processor(&file.post_processor, 0)?;
    let decoder = decoder_steps(&file.decoder)?;
    let vocab = file.model.vocab.0;
    let highest = vocab.values().chain(added.keys()).max();
    let rows = highest.and_then(|id| id.checked_add(1)).ok_or("model: got an empty vocabulary")?;
    Ok(Facts { rows, decoder, vocab, added })
}

fn model(model: &Model) -> Result<(), String> {
    if !matches!(model.kind.as_str(), "BPE" | "WordPiece" | "WordLevel" | "Unigram") {
        return Err(format!(
            "model: got type `{}`, expected BPE, Unigram, WordPiece or WordLevel",
            model.kind.escape_debug()
        ));
    }
    if let Some(dropout) = model.dropout.filter(|share| *share != 0.0) {
        return Err(format!("model: got dropout {dropout}, expected none: tokens would be drawn by chance"));
    }
    match model.max_input_chars_per_word {
        Some(chars) if chars > WORD_CHARS_MAX => {
            Err(format!("model: got max_input_chars_per_word {chars}, expected at most {WORD_CHARS_MAX}"))
        }
        _ => Ok(()),
    }
}

/// The added tokens by id, which say one thing each and agree with the vocabulary.
fn added_tokens(added: &[Added], vocab: &HashMap<String, u32>) -> Result<HashMap<u32, String>, String> {
    if added.len() > ADDED_TOKENS_MAX {
        return Err(format!("added_tokens: got {}, expected at most {ADDED_TOKENS_MAX}", added.len()));
    }
    let mut by_id: HashMap<u32, &str> = HashMap::new();
    let mut by_text: HashMap<&str, u32> = HashMap::new();
    for Added { id, content } in added {
        let name = content.escape_debug();
        if content.is_empty() || content.len() > ADDED_TOKEN_BYTES_MAX {
            return Err(format!(
                "added_tokens: got {} bytes for id {id}, expected 1 to {ADDED_TOKEN_BYTES_MAX}",
                content.len()
            ));
        }
        // The library keeps the vocabulary's id and only logs that the file says another.
        match vocab.get(content).or(by_text.get(content.as_str())) {
            Some(other) if other != id => {
                return Err(format!("added_tokens: got `{name}` with ids {other} and {id}, expected one id"));
            }
            _ => by_text.insert(content, *id),
        };
        match by_id.insert(*id, content) {
            Some(other) if other != content => {
                let other = other.escape_debug();
                return Err(format!(
                    "added_tokens: got `{other}` and `{name}` with id {id}, expected one text"
                ));
            }
            _ => {}
        }
    }
    Ok(by_id.into_iter().map(|(id, text)| (id, text.to_owned())).collect())
}

fn post_processor(it: &Value, depth: usize) -> Result<(), String> {
    let part = "post_processor";
    if it.is_null() {
        return Ok(());
    }
    match kind(it, part)? {
        "ByteLevel" | "BertProcessing" | "RobertaProcessing" => Ok(()),
        "Sequence" => {
            steps(it, part, "processors", depth)?.iter().try_for_each(|step| post_processor(step, depth + 1))
        }
        "TemplateProcessing" => {
            let count = |value: &Value| match value {
                Value::Array(items) => items.len(),
                // Each special token lists its ids and their texts.
                Value::Object(fields) => fields
                    .values()
                    .map(|token| token.get("ids").and_then(Value::as_array).map_or(0, Vec::len))
                    .fold(0, usize::saturating_add),
                _ => 0,
            };
            let parts = ["single", "pair", "special_tokens"].map(|name| it.get(name).map_or(0, count));
            match parts.into_iter().fold(0, usize::saturating_add) {
                parts if parts > POST_PROCESSOR_PARTS_MAX => Err(format!(
                    "{part}: got {parts} pieces and tokens, expected at most {POST_PROCESSOR_PARTS_MAX}"
                )),
                _ => Ok(()),
            }
        }
        other => Err(unknown(
            part,
            other,
            "ByteLevel, BertProcessing, RobertaProcessing, Sequence or TemplateProcessing",
        )),
    }
}

/// The `type` of a step. A file without it is of a version that no exporter writes any more, and the library guesses.
fn kind<'v>(it: &'v Value, part: &str) -> Result<&'v str, String> {
    it.get("type").and_then(Value::as_str).ok_or_else(|| format!("{part}: got no `type`, expected one"))
}

fn unknown(part: &str, got: &str, expected: &str) -> String {
    format!("{part}: got `{}`, expected {expected}", got.escape_debug())
}

/// Most steps of one sequence, and how deep sequences may stand in each other.
const STEPS_MAX: usize = 32;
const SEQUENCE_DEPTH_MAX: usize = 4;

fn steps<'v>(it: &'v Value, part: &str, field: &str, depth: usize) -> Result<&'v [Value], String> {
    let steps = it.get(field).and_then(Value::as_array);
    let steps = steps.ok_or_else(|| format!("{part}: got a Sequence without `{field}`, expected a list"))?;
    if steps.len() > STEPS_MAX || depth >= SEQUENCE_DEPTH_MAX {
        return Err(format!(
            "{part}: got {} steps at depth {depth}, expected at most {STEPS_MAX}, less than {SEQUENCE_DEPTH_MAX} deep",
            steps.len()
        ));
    }
    Ok(steps)
}

fn string<'v>(it: &'v Value, part: &str, field: &str) -> Result<&'v str, String> {
    let text = it.get(field).and_then(Value::as_str);
    text.ok_or_else(|| format!("{part}: got no `{field}`, expected a text"))
}

/// Tokens and ids: a map of both, or (Unigram) a list of tokens with their scores.
struct Vocab(HashMap<String, u32>);

impl<'de> Deserialize<'de> for Vocab {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Vocab;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a map of tokens to ids, or a list of tokens with scores")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocab, A::Error> {
                let mut found = HashMap::new();
                while let Some((token, id)) = map.next_entry()? {
                    found.insert(token, id);
                }
                Ok(Vocab(found))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vocab, A::Error> {
                let mut found = HashMap::new();
                while let Some((token, _)) = seq.next_element::<(String, f64)>()? {
                    // A text that stands twice is the first one's; the library counts the ids by place.
                    let id = u32::try_from(found.len()).unwrap_or(u32::MAX);
                    found.insert(token, id);
                }
                Ok(Vocab(found))
            }
        }
        deserializer.deserialize_any(Read)
    }
}
