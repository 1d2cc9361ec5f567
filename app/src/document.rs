//! A conversation as a document.

use serde::{Deserialize, Serialize};

use crate::store::Conversation;

/// How to write a conversation down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For programs: everything that was kept.
    Json,
    /// For people.
    Markdown,
}

impl Format {
    /// Ending of the file's name.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Markdown => "md",
        }
    }
}

/// The document.
pub(crate) fn document(conversation: &Conversation, format: Format) -> anyhow::Result<String> {
    match format {
        Format::Json => Ok(serde_json::to_string_pretty(conversation)? + "\n"),
        Format::Markdown => Ok(markdown(conversation)),
    }
}

fn markdown(conversation: &Conversation) -> String {
    let mut text = format!("# {}\n\nModel: `{}`\n", escaped(&conversation.title), conversation.model);
    for message in &conversation.messages {
        let who = match message.role {
            engine::chat::Role::Assistant => "Model",
            engine::chat::Role::System => "System",
            engine::chat::Role::User => "You",
        };
        text += &format!("\n**{who}:**\n\n");
        // A quotation: whatever was said, a heading or a fence in it does not end the document's own structure.
        for line in message.content.lines() {
            text += &format!("> {line}\n");
        }
    }
    text
}

/// A title holds no markup of its own.
fn escaped(text: &str) -> String {
    text.replace(['#', '`', '*', '_', '[', ']', '<', '>'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    fn conversation() -> Conversation {
        let mut store = Store::open(None).unwrap();
        let id = store.said(None, "# hello\n```\nfence", "ab12").unwrap();
        store.replied(id, "hi\n\nthere", "stop", false).unwrap();
        store.conversation(id).unwrap()
    }

    #[test]
    fn markdown_keeps_what_was_said_inside_quotations() {
        let text = document(&conversation(), Format::Markdown).unwrap();
        assert!(text.contains("\n**You:**\n\n> # hello\n> ```\n> fence\n"), "{text}");
        assert!(text.contains("\n**Model:**\n\n> hi\n> \n> there\n"), "{text}");
        assert_eq!(text.lines().filter(|line| line.starts_with('#')).count(), 1, "{text}");
    }

    #[test]
    fn json_holds_everything() {
        let text = document(&conversation(), Format::Json).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["messages"][1]["finish"], "stop");
        assert_eq!(value["messages"][0]["role"], "user");
        assert_eq!(value["model"], "ab12");
    }
}
