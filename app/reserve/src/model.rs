//! llama.cpp itself, and a model in it.

use std::{fs::File, os::fd::AsRawFd as _};

use camino::Utf8Path;
use engine::{Error, Result};
use llama_cpp_2::{
    llama_backend::LlamaBackend,
    model::{LlamaModel, params::LlamaModelParams},
};
use model_assets::limits::{SEQ_LEN_TOKENS_MAX, VOCAB_ROWS_MAX};

/// llama.cpp, started; there is one in a process.
#[derive(Debug)]
pub struct Runtime(pub(crate) LlamaBackend);

impl Runtime {
    /// Starts it, without its log.
    ///
    /// # Errors
    /// It was started before.
    pub fn start() -> Result<Self> {
        let mut backend = LlamaBackend::init().map_err(other("start llama.cpp"))?;
        backend.void_logs();
        Ok(Self(backend))
    }
}

/// A model whose weights are mapped from its file.
#[derive(Debug)]
pub struct Model {
    pub(crate) inner: LlamaModel,
    window: usize,
    vocab: u32,
    file: File,
}

impl Model {
    /// Loads a GGUF from an open file; `path` is for messages only.
    ///
    /// # Errors
    /// llama.cpp refuses the file, or it is no model that this crate can run.
    pub fn load(runtime: &Runtime, file: File, path: &Utf8Path) -> Result<Self> {
        // llama.cpp opens by name only; this is a name of the very file that is open here.
        let name = if cfg!(any(target_os = "linux", target_os = "android")) {
            format!("/proc/self/fd/{}", file.as_raw_fd())
        } else {
            format!("/dev/fd/{}", file.as_raw_fd())
        };
        let params = LlamaModelParams::default().with_use_mmap(true);
        let inner = LlamaModel::load_from_file(&runtime.0, name, &params)
            .map_err(|error| Error::Other { doing: "load the GGUF", message: format!("{path}: {error}") })?;
        let contract = |what: &str, got: String, max: u32| Error::Contract {
            what: format!("{path}: {what}"),
            got,
            expected: format!("1 to {max}"),
        };
        let window = inner.n_ctx_train();
        if !(1..=SEQ_LEN_TOKENS_MAX).contains(&window) {
            return Err(contract("context length", window.to_string(), SEQ_LEN_TOKENS_MAX));
        }
        let rows = inner.n_vocab();
        let vocab = u32::try_from(rows).ok().filter(|rows| (1..=VOCAB_ROWS_MAX).contains(rows));
        let vocab = vocab.ok_or_else(|| contract("vocabulary", rows.to_string(), VOCAB_ROWS_MAX))?;
        Ok(Self { inner, window: window as usize, vocab, file })
    }

    /// Tokens that the context window holds.
    pub fn window(&self) -> usize {
        self.window
    }

    /// Tokens of the vocabulary.
    pub fn vocab(&self) -> u32 {
        self.vocab
    }

    /// The file that was loaded.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Begin-of-sequence token, if the file names one.
    pub fn bos(&self) -> Option<u32> {
        u32::try_from(self.inner.vocab().bos().0).ok()
    }

    /// The first token that ends a reply, if the file names one.
    pub fn eos(&self) -> Option<u32> {
        u32::try_from(self.inner.vocab().eos().0).ok()
    }
}

pub(crate) fn other<E: std::fmt::Display>(doing: &'static str) -> impl Fn(E) -> Error {
    move |error| Error::Other { doing, message: error.to_string() }
}
