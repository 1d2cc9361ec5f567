//! The token that ends a turn, as a chat template shows it: some checkpoints name another one in every file.

use model_assets::{template, tokenizer::Facts as Vocabulary};

/// The added token behind what the assistant said, in the reference conversation. `None` where there is no such token, or where
/// the template cannot be rendered, which whoever judges it says.
pub(super) fn of_turn(chat_template: &str, vocabulary: &Vocabulary, bos: u32, eos: u32) -> Option<u32> {
    let text = |id: u32| vocabulary.token(id).unwrap_or_default();
    let renderings = template::judge(chat_template, text(bos), text(eos)).ok()?;
    renderings.iter().find_map(|it| {
        let (role, said) = it.messages().last()?;
        if role != "assistant" {
            return None;
        }
        let (_, after) = it.prompt.rsplit_once(said)?;
        vocabulary.added_at_start(after.trim_start())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_behind_a_reply_ends_it() {
        let json = r#"{"added_tokens": [{"id": 1, "content": "<s>"}, {"id": 2, "content": "</s>"}, {"id": 3, "content": "<|end|>"}],
            "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}"#;
        let vocabulary = model_assets::tokenizer::judge(json.as_bytes()).unwrap();
        let each = |after: &str| {
            format!("{{% for m in messages %}}{{{{ m.role }}}}:{{{{ m.content }}}}{after}{{% endfor %}}")
        };
        let found = |after: &str| of_turn(&each(after), &vocabulary, 1, 2);
        assert_eq!(found("<|end|>\n"), Some(3));
        assert_eq!(found("{{ eos_token }}"), Some(2));
        assert_eq!(found(" "), None);
        assert_eq!(of_turn("{% for", &vocabulary, 1, 2), None);
    }
}
