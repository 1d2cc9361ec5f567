//! A conversation as a document.

use std::{fs, io, io::Write as _};

use camino::{Utf8Path, Utf8PathBuf};
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

/// Writes a document into a folder, under its name or the next one that is free: a file that is there stays.
///
/// # Errors
/// The folder cannot be made or written to.
#[cfg_attr(not(feature = "gui"), expect(dead_code, reason = "the terminal is told where to write"))]
pub(crate) fn write(folder: &Utf8Path, name: &str, document: &str) -> io::Result<Utf8PathBuf> {
    fs::create_dir_all(folder)?;
    let name = Utf8Path::new(name);
    let (stem, extension) = (name.file_stem().unwrap_or("conversation"), name.extension().unwrap_or("txt"));
    for number in 1_u32.. {
        let path = match number {
            1 => folder.join(name),
            _ => folder.join(format!("{stem}-{number}.{extension}")),
        };
        match fs::OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(mut file) => return file.write_all(document.as_bytes()).map(|()| path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
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
        let id = store.keep_message(None, "# hello\n```\nfence", "ab12").unwrap();
        store.keep_reply(id, "hi\n\nthere", "stop", false).unwrap();
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
