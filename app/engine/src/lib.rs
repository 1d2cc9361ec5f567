//! Safe Rust over the ExecuTorch C++ runtime: load a model, prefill, decode, sample, tokenize, generate.
//!
//! ```text
//! ModelBytes → Model::load → Session (cache) → generate (Tokenizer, Sampler) → pieces of text
//! ```
//!
//! **Invariant:** all unsafe code of the crate is in the modules `ffi`, `bytes`, `resident` and `stamp` and at the two
//! places that call them (`model`, `runtime`), each with its reason; no input makes this crate panic, and no input that it
//! accepts makes the runtime abort.
#![deny(unsafe_code)]

#[expect(unsafe_code, reason = "maps files and advises the system about pages")]
mod bytes;
pub mod chat;
mod decoder;
mod error;
#[expect(unsafe_code, reason = "calls the C interface of the runtime")]
mod ffi;
pub mod generate;
#[cfg(test)]
mod kernel_tests;
pub mod measure;
mod model;
mod packed;
#[expect(unsafe_code, reason = "asks the system which pages are in memory")]
mod resident;
pub mod runtime;
pub mod sample;
mod session;
#[expect(unsafe_code, reason = "asks the kernel for a digest")]
pub mod stamp;
pub mod text;

pub use bytes::{MODEL_ALIGNMENT, ModelBytes};
pub use decoder::Decoder;
pub use error::{Code, Error, Failure, Result};
pub use ffi::{BackendOption, Event, OptionValue, Record, Value};
pub use model::{LoadOptions, Metadata, Model, call};
pub use packed::{PackedCache, Packing};
pub use session::{PREFILL_CHUNK_TOKENS, Session};
