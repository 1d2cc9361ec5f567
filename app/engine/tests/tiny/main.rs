//! The engine on the exported default model: the library, generation, and the binary.
#![expect(clippy::unwrap_used, reason = "a test ends at what it does not foresee")]

mod answers;
mod cli;
mod files;
mod generate;
mod library;
mod packed;
mod probe;

use files::{folder, only, tiny, tiny_pte};
