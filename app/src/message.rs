//! The messages between a front and the core.
//!
//! These are also the JSON of `app --json` and of the C surface: a front in another language sees the same.

use engine::generate::Finish;
use serde::{Deserialize, Serialize};

use crate::{
    card::Card,
    document::Format,
    settings::Settings,
    store::{Conversation, Summary},
};

/// What a front asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Say something; begins a conversation when none is open.
    Say {
        /// What.
        text: String,
    },
    /// Reply again to the last message.
    Regenerate,
    /// Leave the conversation; the next thing said begins another.
    New,
    /// Go on with a conversation that was kept.
    Open {
        /// Its number.
        id: i64,
    },
    /// Delete a conversation.
    Delete {
        /// Its number.
        id: i64,
    },
    /// List the conversations.
    List,
    /// Write a conversation down.
    Export {
        /// Its number; the open one when absent.
        #[serde(default)]
        id: Option<i64>,
        /// How.
        format: Format,
    },
    /// Change the settings. Changed values are stored; flags of this run alone are not.
    Set {
        /// All of it.
        settings: Settings,
    },
    /// Tell how much memory is in use.
    Memory,
    /// The app goes to the background: stop, and free what can be loaded again.
    Pause,
    /// The system is short of memory: free what can be loaded again, after the reply being written.
    Release,
}

impl Command {
    /// Its name, as in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Say { .. } => "say",
            Self::Regenerate => "regenerate",
            Self::New => "new",
            Self::Open { .. } => "open",
            Self::Delete { .. } => "delete",
            Self::List => "list",
            Self::Export { .. } => "export",
            Self::Set { .. } => "set",
            Self::Memory => "memory",
            Self::Pause => "pause",
            Self::Release => "release",
        }
    }

    /// Whether a reply being written is no longer needed, whatever conversation it is in.
    pub(crate) fn interrupts(&self) -> bool {
        matches!(self, Self::New | Self::Open { .. } | Self::Regenerate | Self::Pause)
    }

    /// Whether it can be done while a reply is being written in the conversation `open`.
    pub(crate) fn is_aside(&self, open: Option<i64>) -> bool {
        match self {
            Self::List | Self::Export { .. } | Self::Memory => true,
            Self::Delete { id } => Some(*id) != open,
            _ => false,
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Facts about the model, before it is loaded. Always the first event.
    Card {
        /// The card.
        card: Box<Card>,
    },
    /// The model's file is being proved for the first time.
    Installing {
        /// Bytes done.
        done_bytes: u64,
        /// Bytes to do: the file's, and again where it is copied first.
        total_bytes: u64,
    },
    /// There is nothing to talk to; no event follows.
    Refused {
        /// What keeps the app from running.
        cause: Cause,
        /// What is wrong.
        reason: String,
        /// What to do.
        hint: String,
    },
    /// The model waits for the first message.
    Ready {
        /// From the start of the core until now, milliseconds.
        start_ms: f64,
        /// The message for the user.
        warning: Option<String>,
        /// What is set.
        settings: Settings,
    },
    /// The message was stored; a reply follows.
    Said {
        /// Number of the conversation.
        id: i64,
        /// The message; absent when the model replies to it again.
        text: Option<String>,
    },
    /// The reply grows.
    Piece {
        /// More of its text.
        text: String,
        /// Tokens so far.
        reply_tokens: usize,
        /// Tokens per second so far.
        decode_tokens_per_second: f64,
    },
    /// The reply ended and is on disk.
    Reply(Box<Reply>),
    /// What was asked for failed; all is as before. Where that cannot be (the disk does not take back what was said),
    /// the conversation as it is comes first, opened anew.
    Error {
        /// Name of the command that failed: others are answered while a reply is being written.
        command: &'static str,
        /// Why.
        message: String,
    },
    /// A conversation was opened; none is open when absent.
    Opened {
        /// All of it.
        conversation: Option<Conversation>,
    },
    /// The conversations, newest first.
    Listed {
        /// All of them.
        conversations: Vec<Summary>,
    },
    /// A conversation as a document.
    Exported {
        /// A name for the file.
        name: String,
        /// What is in it.
        document: String,
    },
    /// What is set now.
    Settings {
        /// All of it.
        settings: Settings,
    },
    /// How much memory is in use, and the answer to what gives some back.
    Memory {
        /// Of this process; absent where the system does not tell.
        memory: Option<Memory>,
    },
}

impl Event {
    /// A command failed.
    pub(crate) fn error(command: &'static str, error: &anyhow::Error) -> Self {
        Self::Error { command, message: format!("{error:#}") }
    }
}

/// What keeps the app from running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The model is not the one that was proved.
    Model,
    /// The conversations that are kept cannot be used.
    Conversations,
    /// Anything else: a file that is not there, a setting, the system.
    App,
}

/// A finished reply.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reply {
    /// Its text.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// Messages at the start of the conversation that the model no longer sees.
    pub forgotten: usize,
    /// Figures.
    pub statistics: Statistics,
}

/// Figures of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Statistics {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt that were still in the cache.
    pub reused_tokens: usize,
    /// Tokens of the reply.
    pub reply_tokens: usize,
    /// From the message to the first token, milliseconds.
    pub ttft_ms: f64,
    /// Prompt tokens fed per second.
    pub prefill_tokens_per_second: f64,
    /// Tokens of the reply per second.
    pub decode_tokens_per_second: f64,
    /// Tokens in the context window.
    pub held_tokens: usize,
    /// Tokens that it can hold.
    pub window_tokens: usize,
    /// Memory; absent where the system does not tell.
    pub memory: Option<Memory>,
}

/// Resident memory of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Heap, stacks, packed weights.
    pub anonymous_bytes: u64,
    /// Mapped files; the system can take them back.
    pub file_bytes: u64,
    /// Peak of the whole.
    pub peak_bytes: u64,
}

impl Memory {
    /// Now.
    pub(crate) fn now() -> Option<Self> {
        let engine::runtime::Memory { anonymous_bytes, file_bytes, peak_bytes } = engine::runtime::memory()?;
        Some(Self { anonymous_bytes, file_bytes, peak_bytes })
    }
}

#[cfg(test)]
mod tests;
