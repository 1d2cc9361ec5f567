//! How much longer a text can become before it is looked up.
//!
//! **Invariant:** the factor of a sequence is the product of its steps' factors, each rounded up, so chained steps
//! cannot hide growth from each other.

use serde_json::Value;

use super::{kind, regex, steps, string, unknown};

/// Most bytes that one byte of text may become. The largest that public models need: NFKC (one character of three
/// bytes becomes 33) before a character of three bytes for every space.
pub const GROWTH_MAX: u64 = 33;

/// Longest text that a step adds or looks for.
const TEXT_BYTES_MAX: usize = 256;

/// Bytes that one byte can become in the normalizer.
pub(super) fn normalizer(it: &Value) -> Result<u64, String> {
    if it.is_null() { Ok(1) } else { normalizer_step(it, 0) }
}

fn normalizer_step(it: &Value, depth: usize) -> Result<u64, String> {
    let part = "normalizer";
    Ok(match kind(it, part)? {
        "Sequence" => {
            product(steps(it, part, "normalizers", depth)?, |step| normalizer_step(step, depth + 1))?
        }
        "Strip" | "StripAccents" | "Nmt" => 1,
        // U+0130: two bytes become three.
        "Lowercase" => 2,
        // One byte becomes a character of up to two.
        "ByteLevel" => 2,
        // U+0390 (NFD): two bytes become six. U+FDFA (NFKD): three become 33.
        "NFC" | "NFD" => 3,
        "NFKC" | "NFKD" => 11,
        // Spaces around a character of three bytes, decomposed, lowercase.
        "BertNormalizer" => 2 * 3 * 2,
        "Prepend" => {
            // Once per stretch between two added tokens: two bytes of text, where both are as short as can be.
            1 + (text(it, part, "prepend")?.len() as u64).div_ceil(2)
        }
        "Replace" => replace(it, part)?,
        other => {
            return Err(unknown(
                part,
                other,
                "Sequence, NFC, NFD, NFKC, NFKD, Strip, StripAccents, Lowercase, Nmt, BertNormalizer, ByteLevel, \
                 Prepend or Replace",
            ));
        }
    })
}

/// Bytes that one byte can become in the pre-tokenizer.
pub(super) fn pre_tokenizer(it: &Value) -> Result<u64, String> {
    if it.is_null() { Ok(1) } else { pre_tokenizer_step(it, 0) }
}

fn pre_tokenizer_step(it: &Value, depth: usize) -> Result<u64, String> {
    let part = "pre_tokenizer";
    Ok(match kind(it, part)? {
        "Sequence" => {
            product(steps(it, part, "pretokenizers", depth)?, |step| pre_tokenizer_step(step, depth + 1))?
        }
        "ByteLevel" => 2,
        // A space becomes a character of three bytes.
        "Metaspace" => 3,
        "BertPreTokenizer" | "Whitespace" | "WhitespaceSplit" | "Punctuation" | "Digits"
        | "UnicodeScripts" => 1,
        "CharDelimiterSplit" | "FixedLength" => 1,
        "Split" => {
            pattern(it, part)?;
            1
        }
        other => {
            return Err(unknown(
                part,
                other,
                "Sequence, ByteLevel, Metaspace, Split, Digits, Punctuation, Whitespace, WhitespaceSplit, \
                 BertPreTokenizer, UnicodeScripts, CharDelimiterSplit or FixedLength",
            ));
        }
    })
}

fn product(steps: &[Value], of: impl Fn(&Value) -> Result<u64, String>) -> Result<u64, String> {
    steps.iter().try_fold(1_u64, |grown, step| Ok(grown.saturating_mul(of(step)?)))
}

/// A plain text gives way to another; a regular expression can match nothing between any two bytes.
fn replace(it: &Value, part: &str) -> Result<u64, String> {
    let content = text(it, part, "content")?.len() as u64;
    Ok(match pattern(it, part)? {
        Some(bytes) => content.div_ceil(bytes as u64).max(1),
        None => content.saturating_add(1),
    })
}

/// Length of a plain pattern, `None` for a regular expression that can be bounded.
fn pattern(it: &Value, part: &str) -> Result<Option<usize>, String> {
    let found = it.get("pattern");
    let field = |name: &str| found.and_then(|pattern| pattern.get(name)).and_then(Value::as_str);
    if let Some(expression) = field("Regex") {
        regex::judge(expression).map_err(|why| format!("{part}: {why}"))?;
        return Ok(None);
    }
    match field("String") {
        Some(plain) if (1..=TEXT_BYTES_MAX).contains(&plain.len()) => Ok(Some(plain.len())),
        Some(plain) => {
            Err(format!("{part}: got a pattern of {} bytes, expected 1 to {TEXT_BYTES_MAX}", plain.len()))
        }
        None => Err(format!("{part}: got no `pattern`, expected `String` or `Regex`")),
    }
}

fn text<'v>(it: &'v Value, part: &str, field: &str) -> Result<&'v str, String> {
    match string(it, part, field)? {
        text if text.len() > TEXT_BYTES_MAX => {
            Err(format!("{part}: got {} bytes of `{field}`, expected at most {TEXT_BYTES_MAX}", text.len()))
        }
        text => Ok(text),
    }
}
