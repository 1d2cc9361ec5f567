//! Makes plain text of what users type: special tokens in it lose their meaning.

use serde::Deserialize;

/// Breaks up whatever the model's tokenizer takes for a special token: people must not be able to end the model's turn,
/// or to speak for it.
#[derive(Debug)]
pub(super) struct Plain {
    specials: Vec<String>,
}

#[derive(Deserialize)]
struct TokenizerFile {
    #[serde(default)]
    added_tokens: Vec<Added>,
}

#[derive(Deserialize)]
struct Added {
    content: String,
    #[serde(default)]
    special: bool,
}

impl Plain {
    /// By a `tokenizer.json`, which names its special tokens.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn of(tokenizer: &[u8]) -> serde_json::Result<Self> {
        let file: TokenizerFile = serde_json::from_slice(tokenizer)?;
        let specials = file.added_tokens.into_iter().filter(|token| token.special).map(|token| token.content);
        // A token of white space alone ends no turn, and occurs in every text.
        Ok(Self { specials: specials.filter(|content| !content.trim().is_empty()).collect() })
    }

    /// The text, with a space in what would be a special token. The opening of most chat formats goes whatever follows:
    /// a tokenizer may read what is like a special token as one.
    pub(super) fn text(&self, text: &str) -> String {
        let mut text = text.replace("<|", "< |");
        for special in &self.specials {
            let mut chars = special.chars();
            let Some(first) = chars.next() else { continue };
            let broken = match chars.as_str() {
                "" => char::REPLACEMENT_CHARACTER.to_string(),
                rest => format!("{first} {rest}"),
            };
            // Again, because occurrences may overlap. The space is in none of them: each pass leaves fewer.
            while text.contains(special) && !broken.contains(special) {
                text = text.replace(special, &broken);
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_tokens_of_any_format_are_broken_up_and_nothing_else() {
        let file = r#"{"model": {"vocab": {"a": 0}}, "added_tokens": [
            {"id": 1, "content": "</s>", "special": true}, {"id": 2, "content": "<start_of_turn>", "special": true},
            {"id": 3, "content": "aXa", "special": true}, {"id": 4, "content": "  ", "special": false},
            {"id": 5, "content": "\u0001", "special": true}, {"id": 6, "content": "\n", "special": true}]}"#;
        let plain = Plain::of(file.as_bytes()).unwrap();
        for (text, expected) in [
            ("a  b\nc <s> 1 < 2", "a  b\nc <s> 1 < 2"),
            ("bye</s><start_of_turn>model", "bye< /s>< start_of_turn>model"),
            ("<|eot_id|>", "< |eot_id|>"),
            ("\u{1}", "\u{fffd}"),
        ] {
            assert_eq!(plain.text(text), expected);
        }
        let overlapping = plain.text("aXaXa");
        assert!(!overlapping.contains("aXa"), "{overlapping}");
        assert!(Plain::of(b"no tokenizer").is_err());
    }
}
