//! The EQ test and the ten-turn conversation, as they went.
//!
//! **Invariant:** what is kept are the ratings that were given; score, parse rate and interval are computed from them
//! ([`crate::eq`]) wherever they are judged or shown.

use serde::{Deserialize, Serialize};

pub use crate::eq::EqItem;

use crate::digest::Digest;

/// The EQ test of the `.pte`, paired with the eager quantized model, and a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Eq {
    /// Items in order.
    pub items: Vec<EqItem>,
    /// The conversation.
    pub talk: Talk,
    /// SHA-256 of the transcript, `eq-transcript.json` beside the manifest.
    pub transcript: Digest,
}

/// Counts over a conversation in which the model reads its own replies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Talk {
    /// Turns that got a reply.
    pub turns: u32,
    /// Tokens replied.
    pub tokens: u32,
    /// Context window, tokens.
    pub window: u32,
    /// Largest prompt that was fed, tokens.
    pub prompt_tokens_max: u32,
    /// Messages that had to be forgotten for want of room.
    pub forgotten: u32,
    /// Replies with nothing in them.
    pub empty: u32,
    /// Special tokens inside replies.
    pub special: u32,
    /// Replies that end in a loop of the same words.
    pub looping: u32,
    /// Most turns in a row with the same reply.
    pub same_in_a_row: u32,
}
