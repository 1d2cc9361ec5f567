//! What xtask asks the engine (and the eager model) to answer, and what they answer: files between processes.

use serde::{Deserialize, Serialize};

use super::{Benchmark, Load, Parity};
use crate::digest::Digest;

/// A conversation that waits for the assistant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prompt {
    /// Name of the item.
    pub id: String,
    /// Roles and texts, oldest first.
    pub messages: Vec<Turn>,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Turn {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Turn {
    /// A message of the person.
    pub fn user(content: impl Into<String>) -> Self {
        Self { role: "user".to_owned(), content: content.into() }
    }
}

/// A run over prompts that do not depend on each other; prompt `i` is sampled with seed `seed + i`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerRequest {
    /// What is to be answered.
    pub prompts: Vec<Prompt>,
    /// Sampling temperature.
    pub temperature: f32,
    /// Seed of the first prompt.
    pub seed: u64,
    /// Most tokens of a reply.
    pub tokens_max: u32,
}

/// A conversation in which the model reads its own earlier replies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TalkRequest {
    /// What the person says, turn by turn.
    pub says: Vec<String>,
    /// Sampling temperature.
    pub temperature: f32,
    /// Seed.
    pub seed: u64,
    /// Most tokens of a reply.
    pub tokens_max: u32,
}

/// One reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// Name of the item.
    pub id: String,
    /// Its text; special tokens show as they are written.
    pub text: String,
    /// Whether the model ended it, and not a limit.
    pub finished: bool,
    /// Tokens of the reply.
    pub tokens: u32,
    /// Special tokens inside it: none may be.
    pub special: u32,
    /// Tokens of the prompt, after windowing.
    pub prompt_tokens: u32,
    /// Messages that were forgotten so that prompt and reply fit the window.
    pub forgotten: u32,
}

/// What the engine answers to an [`AnswerRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answers {
    /// Version of the runtime.
    pub runtime: String,
    /// SHA-256 of the `.pte` that was run.
    pub pte: Digest,
    /// Replies in the order of the prompts.
    pub answers: Vec<Answer>,
}

/// What the engine answers to a [`TalkRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Talked {
    /// Version of the runtime.
    pub runtime: String,
    /// SHA-256 of the `.pte` that was run.
    pub pte: Digest,
    /// Context window, tokens.
    pub window: u32,
    /// Replies, one per turn; the id is the turn's number.
    pub turns: Vec<Answer>,
}

/// What `engine check` answers: written to the response file that xtask named.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct EngineCheck {
    /// Version of the ExecuTorch runtime that ran the model, such as `1.5.1`.
    pub runtime: String,
    /// Lower-case hex SHA-256 of the `.pte` bytes that were run.
    pub pte_sha256: String,
    /// Load evidence.
    pub load: Load,
    /// Parity evidence; absent when no reference file was given.
    pub parity: Option<Parity>,
}

/// What `engine bench --json` answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Benched {
    /// The figures.
    pub benchmark: Benchmark,
    /// Where the packed weights were in the load that was measured; absent when no cache was asked for.
    pub packed: Option<PackedWeights>,
    /// Where a decoded token's time went; absent unless it was asked for.
    pub profile: Option<Profile>,
}

/// Where the time of decoded tokens went, operator by operator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Tokens decoded while operators were recorded.
    pub tokens: u32,
    /// Wall time per token as the runtime sees it, microseconds.
    pub token_us: f64,
    /// Share of it outside delegates.
    pub outside_delegates: f64,
    /// Largest first; those of a method hold those of its operators.
    pub events: Vec<EventShare>,
}

/// One operator, or a whole method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventShare {
    /// As the runtime names it.
    pub name: String,
    /// Calls per token.
    pub calls_per_token: f64,
    /// Wall time per token, microseconds.
    pub us_per_token: f64,
    /// Share of the token's time.
    pub share: f64,
}

/// What became of the packed-weights cache in one load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "state")]
pub enum PackedWeights {
    /// Mapped: nothing about the file changed since it was last hashed.
    Warm,
    /// Mapped after its whole digest was checked.
    Proved,
    /// Made in this load.
    Made {
        /// What was wrong with the file that it replaced, if there was one.
        replaced: Option<String>,
    },
    /// No file was to be had: the weights are on the heap.
    Heap {
        /// Why.
        reason: String,
    },
}

impl PackedWeights {
    /// Its name, as it is written.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Proved => "proved",
            Self::Made { .. } => "made",
            Self::Heap { .. } => "heap",
        }
    }

    /// What a person should be told.
    pub fn warning(&self) -> Option<String> {
        match self {
            Self::Warm | Self::Proved | Self::Made { replaced: None } => None,
            Self::Made { replaced: Some(reason) } => {
                Some(format!("packed weights were made again: {reason}"))
            }
            Self::Heap { reason } => Some(format!("weights are packed in memory at every start: {reason}")),
        }
    }
}
