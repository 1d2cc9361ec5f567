//! Why a model on disk cannot be used, and the command that fixes it.

use std::io;

use camino::Utf8PathBuf;
use thiserror::Error;

use crate::{check::Refusal, error::ContractError};

/// Why a model on disk cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GateError {
    /// A file that must be there is not.
    #[error("{path}: no such file, expected {expected}")]
    Missing {
        /// The path.
        path: Utf8PathBuf,
        /// What it should hold.
        expected: &'static str,
        /// The command that makes it.
        hint: String,
    },
    /// A name that no model can have. It is told escaped: it may hold anything.
    #[error("model name: got {got:?}, expected letters, digits, `.`, `-` and `_`")]
    Name {
        /// The name.
        got: String,
    },
    /// A file that cannot be read.
    #[error("{path}: {error}")]
    Io {
        /// The path.
        path: Utf8PathBuf,
        /// The reason.
        error: io::Error,
    },
    /// A contract file that cannot be used.
    #[error("{dir}: {error}")]
    Contract {
        /// The model's directory.
        dir: Utf8PathBuf,
        /// The reason.
        error: Box<ContractError>,
        /// The command that fixes it.
        hint: String,
    },
    /// The model was refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl GateError {
    /// The command that fixes it.
    pub fn hint(&self) -> &str {
        match self {
            Self::Missing { hint, .. } | Self::Contract { hint, .. } => hint,
            Self::Name { .. } => "name a directory of model-assets/models",
            Self::Io { .. } => "make the file readable and run the command again",
            Self::Refused(refusal) => &refusal.hint,
        }
    }
}
