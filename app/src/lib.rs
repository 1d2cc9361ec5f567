//! The chat core: a conversation with the model that the build proved, free of any front.
//!
//! ```text
//! front ── Command ──▶ Host ──▶ the model's thread: Chat (engine) and Store (SQLite)
//!   ▲                                │
//!   └───────────── Event ◀───────────┘
//! ```
//!
//! Fronts over it: the terminal (`terminal`), the graphical one (feature `gui`), and hosts in C and Swift (feature
//! `capi`) or Kotlin and Java (feature `jvm`).
//!
//! **Invariant:** the model's bytes are private to this crate. They are baked in by the gate in `build.rs`, or come from
//! a file that the gate's own checks accepted in this process; there is no function that takes other bytes.

#[cfg(feature = "capi")]
pub mod capi;
mod card;
mod chat;
pub mod dirs;
mod document;
#[cfg(feature = "gui")]
pub mod gui;
pub mod host;
mod install;
#[cfg(feature = "jvm")]
pub mod jvm;
pub mod message;
mod model;
mod provenance;
mod settings;
mod store;
pub mod terminal;

pub use card::{Card, LicenceText, Proof};
pub use document::Format;
pub use host::{Config, Host};
pub use install::{Asset, Refusal};
pub use message::Cause;
pub use settings::{Appearance, Overrides, Settings};
pub use store::{Conversation, Kept, Summary};

/// Which model is inside and what proved it; the digest of embedded bytes is computed anew.
///
/// # Errors
/// What the binary carries cannot be read: it was altered.
pub fn provenance() -> anyhow::Result<serde_json::Value> {
    provenance::provenance(&model::MODEL)
}

/// The model card.
///
/// # Errors
/// As [`provenance`].
pub fn card() -> anyhow::Result<Card> {
    Card::of(&model::MODEL)
}
