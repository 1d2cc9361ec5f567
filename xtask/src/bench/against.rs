//! What a benchmark is compared with, in one run.

/// Another way of running the same weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Against {
    /// The reserve: llama.cpp on the model's GGUF
    Llamacpp,
}
