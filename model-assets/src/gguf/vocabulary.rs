//! The vocabulary that a GGUF carries, from `tokenizer.json`.
//!
//! The app tokenizes with `tokenizer.json` itself, whatever the runtime; what is written here is for other programs that
//! open the file, and for the gate, which refuses a GGUF with another vocabulary than the app's.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Byte-level BPE in the terms of llama.cpp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vocabulary {
    /// Name of the rule that cuts a text into words before the merges.
    pub pre: &'static str,
    /// Tokens by id.
    pub tokens: Vec<String>,
    /// What each is: [`NORMAL`], [`CONTROL`], [`USER_DEFINED`] or [`UNUSED`].
    pub types: Vec<i32>,
    /// Merges in order.
    pub merges: Vec<String>,
}

/// An ordinary token.
pub const NORMAL: i32 = 1;
/// A special token that is never part of a text.
pub const CONTROL: i32 = 3;
/// A token that was added and is text.
pub const USER_DEFINED: i32 = 4;
/// An id without a token.
pub const UNUSED: i32 = 5;

/// How Llama 3 cuts a text, as far as it is its own.
const LLAMA3_REGEX_START: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|";

#[derive(Deserialize)]
struct File {
    model: Model,
    #[serde(default)]
    added_tokens: Vec<Added>,
    pre_tokenizer: Option<serde_json::Value>,
    normalizer: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    vocab: BTreeMap<String, u32>,
    merges: Vec<Merge>,
}

/// Both spellings in use: `["a", "b"]` and `"a b"`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair([String; 2]),
    Line(String),
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    special: bool,
}

impl Vocabulary {
    /// The vocabulary of a `tokenizer.json` for a model of `rows` tokens.
    ///
    /// # Errors
    /// A message: no byte-level BPE, one that cuts texts in a way that llama.cpp has no name for, or ids beyond `rows`.
    pub fn parse(json: &[u8], rows: u32) -> Result<Self, String> {
        let file: File = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        if file.model.kind.as_deref() != Some("BPE") {
            return Err(format!("model: got {:?}, expected BPE", file.model.kind));
        }
        if let Some(normalizer) = file.normalizer {
            return Err(format!("normalizer: got {normalizer}, expected none"));
        }
        let pre = pre(file.pre_tokenizer.as_ref())?;
        let mut named: Vec<Option<(String, i32)>> = vec![None; rows as usize];
        let added = file
            .added_tokens
            .into_iter()
            .map(|added| (added.content, added.id, if added.special { CONTROL } else { USER_DEFINED }));
        let all = file.model.vocab.into_iter().map(|(token, id)| (token, id, NORMAL)).chain(added);
        for (token, id, kind) in all {
            let place = named.get_mut(id as usize);
            let place =
                place.ok_or_else(|| format!("token `{token}`: got id {id}, expected less than {rows}"))?;
            match place {
                Some((other, _)) if *other != token => {
                    return Err(format!("id {id}: got `{token}` and `{other}`, expected one token"));
                }
                _ => *place = Some((token, kind)),
            }
        }
        let filled = named.into_iter().enumerate();
        let filled = filled.map(|(id, token)| token.unwrap_or_else(|| (format!("[PAD{id}]"), UNUSED)));
        let (tokens, types) = filled.unzip();
        let merges = file.model.merges.into_iter().map(|merge| match merge {
            Merge::Pair([a, b]) => format!("{a} {b}"),
            Merge::Line(line) => line,
        });
        Ok(Self { pre, tokens, types, merges: merges.collect() })
    }
}

/// llama.cpp's name for a pre-tokenizer.
fn pre(it: Option<&serde_json::Value>) -> Result<&'static str, String> {
    let got = || {
        format!(
            "pre_tokenizer: got {}, expected GPT-2's or Llama 3's",
            it.unwrap_or(&serde_json::Value::Null)
        )
    };
    let field = |value: &serde_json::Value, name: &str| value.get(name).cloned().unwrap_or_default();
    let it = it.ok_or_else(got)?;
    let byte_level = |value: &serde_json::Value, regex: bool| {
        field(value, "type") == "ByteLevel"
            && field(value, "add_prefix_space") == false
            && field(value, "use_regex") == regex
    };
    if byte_level(it, true) {
        return Ok("gpt-2");
    }
    let steps = field(it, "pretokenizers");
    let steps: Vec<&serde_json::Value> = steps.as_array().into_iter().flatten().collect();
    if let [split, bytes] = steps.as_slice() {
        let regex = field(&field(split, "pattern"), "Regex");
        let llama3 = regex.as_str().is_some_and(|regex| regex.starts_with(LLAMA3_REGEX_START));
        if field(split, "type") == "Split" && llama3 && byte_level(bytes, false) {
            return Ok("llama-bpe");
        }
    }
    Err(got())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(pre: &str, merges: &str, added: &str) -> Vec<u8> {
        format!(
            r#"{{"model":{{"type":"BPE","vocab":{{"a":0,"b":1,"ab":2}},"merges":{merges}}},
               "added_tokens":{added},"pre_tokenizer":{pre},"normalizer":null}}"#
        )
        .into_bytes()
    }

    const GPT2: &str =
        r#"{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true}"#;
    const ADDED: &str =
        r#"[{"id":3,"content":"<|end|>","special":true},{"id":4,"content":"x","special":false}]"#;

    #[test]
    fn ids_types_and_merges_are_those_of_the_tokenizer() {
        let it = Vocabulary::parse(&json(GPT2, r#"[["a","b"]]"#, ADDED), 6).unwrap();
        assert_eq!(it.tokens, ["a", "b", "ab", "<|end|>", "x", "[PAD5]"]);
        assert_eq!(it.types, [NORMAL, NORMAL, NORMAL, CONTROL, USER_DEFINED, UNUSED]);
        assert_eq!((it.pre, it.merges), ("gpt-2", vec!["a b".to_owned()]));
        assert_eq!(Vocabulary::parse(&json(GPT2, r#"["a b"]"#, "[]"), 3).unwrap().merges, ["a b"]);
    }

    #[test]
    fn llama_3_is_known_by_its_words() {
        let regex = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*";
        let pre = format!(
            r#"{{"type":"Sequence","pretokenizers":[
              {{"type":"Split","pattern":{{"Regex":"{regex}"}},"behavior":"Isolated","invert":false}},
              {{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}}]}}"#
        );
        assert_eq!(Vocabulary::parse(&json(&pre, "[]", "[]"), 3).unwrap().pre, "llama-bpe");
    }

    #[test]
    fn what_llama_cpp_would_tokenize_otherwise_is_refused() {
        for (bytes, expected) in [
            (json("null", "[]", "[]"), "expected GPT-2's or Llama 3's"),
            (json(r#"{"type":"Whitespace"}"#, "[]", "[]"), "expected GPT-2's or Llama 3's"),
            (json(GPT2, "[]", r#"[{"id":9,"content":"x","special":true}]"#), "expected less than 3"),
            (json(GPT2, "[]", r#"[{"id":1,"content":"x","special":true}]"#), "expected one token"),
            (br#"{"model":{"type":"Unigram","vocab":{},"merges":[]}}"#.to_vec(), "expected BPE"),
            (b"[]".to_vec(), "invalid"),
        ] {
            let error = Vocabulary::parse(&bytes, 3).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
