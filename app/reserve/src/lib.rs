//! The reserve: the same model from a GGUF in llama.cpp, behind the engine's [`Decoder`](engine::Decoder), so that
//! generation, sampling, tokenizer and template are the engine's own.
//!
//! **Invariant:** a file is loaded through the descriptor that was opened, hashed or proved, never by its path again.
//!
//! **Invariant:** no token reaches llama.cpp that is not in its vocabulary: see [`Session`].
#![cfg(feature = "runtime-llamacpp")]
#![forbid(unsafe_code)]

mod model;
mod session;

pub use model::{Model, Runtime};
pub use session::Session;
