//! Errors of the contract files themselves (recipe, policy, manifest); a refused *model* is a
//! [`crate::check::Refusal`].

use thiserror::Error;

/// A contract file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ContractError {
    /// The file is larger than any honest one.
    #[error("{file}: got {got} bytes, expected at most {expected}")]
    TooLarge {
        /// Which contract file.
        file: &'static str,
        /// Its size in bytes.
        got: u64,
        /// The limit in bytes.
        expected: u64,
    },
    /// Not TOML/JSON of the expected shape, unknown keys included.
    #[error("{file}: {message}")]
    Syntax {
        /// Which contract file.
        file: &'static str,
        /// The parser's message.
        message: String,
    },
    /// Written by another version of the tools.
    #[error("{file}: got schema version {got}, expected {expected}")]
    Schema {
        /// Which contract file.
        file: &'static str,
        /// Its version.
        got: u32,
        /// The version this crate reads.
        expected: u32,
    },
    /// A value that cannot be.
    #[error("{file}: `{key}` got {got}, expected {expected}")]
    Value {
        /// Which contract file.
        file: &'static str,
        /// Dotted key.
        key: &'static str,
        /// The value.
        got: String,
        /// What it must be.
        expected: String,
    },
}

impl ContractError {
    pub(crate) fn syntax(file: &'static str, message: impl Into<String>) -> Self {
        Self::Syntax { file, message: message.into().trim_end().to_owned() }
    }

    pub(crate) fn value(
        file: &'static str,
        key: &'static str,
        got: impl ToString,
        expected: impl ToString,
    ) -> Self {
        Self::Value { file, key, got: got.to_string(), expected: expected.to_string() }
    }

    pub(crate) fn check_size(file: &'static str, len: usize, max: u64) -> Result<(), Self> {
        let got = len as u64;
        if got > max { Err(Self::TooLarge { file, got, expected: max }) } else { Ok(()) }
    }

    pub(crate) fn check_schema(file: &'static str, got: u32, expected: u32) -> Result<(), Self> {
        if got == expected { Ok(()) } else { Err(Self::Schema { file, got, expected }) }
    }
}
