//! What can go wrong, named: the crate's own checks, and the runtime's codes with its log.

use std::fmt;

use camino::Utf8PathBuf;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error code of the ExecuTorch runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(pub u32);

impl Code {
    /// The runtime has no kernel for an operator of the program.
    pub const OPERATOR_MISSING: Self = Self(0x14);
    /// An argument is out of contract.
    pub const INVALID_ARGUMENT: Self = Self(0x12);
    /// A resource, often a backend, is not there.
    pub const NOT_FOUND: Self = Self(0x20);
    /// The program's bytes are damaged or no program at all.
    pub const INVALID_PROGRAM: Self = Self(0x23);

    /// The name that the runtime's own headers use.
    pub fn name(self) -> &'static str {
        match self.0 {
            0x00 => "Ok",
            0x01 => "Internal",
            0x02 => "InvalidState",
            0x03 => "EndOfMethod",
            0x04 => "AlreadyLoaded",
            0x10 => "NotSupported",
            0x11 => "NotImplemented",
            0x12 => "InvalidArgument",
            0x13 => "InvalidType",
            0x14 => "OperatorMissing",
            0x15 => "RegistrationExceedingMaxKernels",
            0x16 => "RegistrationAlreadyRegistered",
            0x20 => "NotFound",
            0x21 => "MemoryAllocationFailed",
            0x22 => "AccessFailed",
            0x23 => "InvalidProgram",
            0x24 => "InvalidExternalData",
            0x25 => "OutOfResources",
            0x30 => "DelegateInvalidCompatibility",
            0x31 => "DelegateMemoryAllocationFailed",
            0x32 => "DelegateInvalidHandle",
            _ => "unknown",
        }
    }

    fn hint(self) -> Option<&'static str> {
        Some(match self {
            Self::OPERATOR_MISSING => {
                "the program uses an operator that this runtime lacks; compare it with `engine kernels`"
            }
            Self::NOT_FOUND => "a backend or method is missing; compare the program with `engine kernels`",
            Self::INVALID_PROGRAM => {
                "the bytes are damaged or from another format version; export the model again"
            }
            Self(0x21 | 0x25 | 0x31) => "free memory, or use a smaller model or context",
            Self(0x30) => {
                "the program was lowered for another version of the backend; export the model again"
            }
            _ => return None,
        })
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:#04x})", self.name(), self.0)
    }
}

/// A call into the runtime that failed: the code and what the runtime logged about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The runtime's code.
    pub code: Code,
    /// The runtime's own words; may be empty.
    pub log: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if self.log.is_empty() { Ok(()) } else { write!(f, ": {}", self.log.trim_end()) }
    }
}

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be opened, read or mapped.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: Utf8PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file is shorter than the range that was asked for.
    #[error("{path}: got {file_bytes} bytes, expected {len} at offset {offset}")]
    Range {
        /// The file.
        path: Utf8PathBuf,
        /// Its size.
        file_bytes: u64,
        /// Start of the range.
        offset: u64,
        /// Length of the range.
        len: u64,
    },
    /// The model's bytes do not start at a multiple of 16.
    #[error(
        "model bytes: got an address {past} past a multiple of {expected}, expected a multiple of {expected}"
    )]
    Misaligned {
        /// How far off the address is.
        past: usize,
        /// The alignment that the runtime needs.
        expected: usize,
    },
    /// The runtime refused.
    #[error("{doing}: {failure}")]
    Runtime {
        /// What was being done.
        doing: &'static str,
        /// Its code and log.
        failure: Failure,
    },
    /// Another runtime than ExecuTorch refused.
    #[error("{doing}: {message}")]
    Other {
        /// What was being done.
        doing: &'static str,
        /// Its own words.
        message: String,
    },
    /// The program is well-formed but not a model that this crate can run.
    #[error("{what}: got {got}, expected {expected}")]
    Contract {
        /// The part that differs.
        what: String,
        /// What the program has.
        got: String,
        /// What a runner needs.
        expected: String,
    },
    /// A token outside the vocabulary; the runtime would abort the process on it.
    #[error("token {token} at {index}: expected less than {vocab}")]
    Token {
        /// The token.
        token: u32,
        /// Where in the input it stands.
        index: usize,
        /// Size of the vocabulary.
        vocab: u32,
    },
    /// Nothing to run.
    #[error("got no tokens, expected at least one")]
    NoTokens,
    /// The tokens do not fit the context window any more.
    #[error("context window: got {tokens} tokens at position {position}, expected at most {window} in all")]
    WindowFull {
        /// Tokens to feed.
        tokens: usize,
        /// Tokens already in the cache.
        position: usize,
        /// Size of the window.
        window: usize,
    },
    /// A logit that is no number, where sampling needs one.
    #[error("logits: got no finite value, expected at least one")]
    NotFinite,
    /// The tokenizer could not be loaded or used.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The chat template could not be compiled or rendered.
    #[error("chat template: {0}")]
    Template(String),
    /// A setting is out of range.
    #[error("{name}: got {got}, expected {expected}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// Its value.
        got: String,
        /// Its range.
        expected: &'static str,
    },
}

impl Error {
    /// What to do about it, when that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Runtime { failure, .. } => failure.code.hint(),
            Self::Contract { .. } => Some("export the model with `cargo xtask export`"),
            Self::WindowFull { .. } => Some("shorten the conversation or start a new one"),
            Self::Token { .. } => Some("use the tokenizer that belongs to the model"),
            _ => None,
        }
    }

    pub(crate) fn runtime(doing: &'static str) -> impl FnOnce(Failure) -> Self {
        move |failure| Self::Runtime { doing, failure }
    }
}
