//! Why a GGUF is refused.

use std::fmt;

/// The rule that a file breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// The source can be read to its end.
    Read,
    /// The file's size is within the recipe's limits.
    FileBytes,
    /// The first four bytes are `GGUF`.
    Magic,
    /// The format's version is 3.
    Version,
    /// Counts and lengths are below the limits.
    Count,
    /// The head ends within the file.
    Truncated,
    /// Keys, names and texts are UTF-8.
    Text,
    /// Values are of types that this reader allows, and a truth value is 0 or 1.
    Type,
    /// No key and no tensor name occurs twice.
    Duplicate,
    /// Tensors have one or two dimensions above 0, whole blocks, and a size that does not overflow.
    Shape,
    /// A tensor begins where the one before it ends, padded: no overlap, no gap, no odd place.
    Place,
    /// The file ends where the last tensor's padding does.
    Size,
    /// Padding is zero.
    Padding,
    /// The metadata are those that recipe, tokenizer and template give.
    Metadata,
    /// Names, shapes and types of the tensors are those that the recipe gives.
    Tensors,
    /// Scales and unquantized weights are finite.
    Finite,
    /// No tensor is all zero: weights that were lost in a conversion are.
    Zero,
    /// The promised SHA-256.
    Digest,
    /// The head is the same when it is hashed as it was when it was parsed.
    Changed,
}

impl Rule {
    /// Every rule.
    pub const ALL: [Self; 19] = [
        Self::Read,
        Self::FileBytes,
        Self::Magic,
        Self::Version,
        Self::Count,
        Self::Truncated,
        Self::Text,
        Self::Type,
        Self::Duplicate,
        Self::Shape,
        Self::Place,
        Self::Size,
        Self::Padding,
        Self::Metadata,
        Self::Tensors,
        Self::Finite,
        Self::Zero,
        Self::Digest,
        Self::Changed,
    ];

    /// The name used in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "gguf-read",
            Self::FileBytes => "gguf-file-bytes",
            Self::Magic => "gguf-magic",
            Self::Version => "gguf-version",
            Self::Count => "gguf-count",
            Self::Truncated => "gguf-truncated",
            Self::Text => "gguf-text",
            Self::Type => "gguf-type",
            Self::Duplicate => "gguf-duplicate",
            Self::Shape => "gguf-shape",
            Self::Place => "gguf-place",
            Self::Size => "gguf-size",
            Self::Padding => "gguf-padding",
            Self::Metadata => "gguf-metadata",
            Self::Tensors => "gguf-tensors",
            Self::Finite => "gguf-finite",
            Self::Zero => "gguf-zero",
            Self::Digest => "gguf-digest",
            Self::Changed => "gguf-changed",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The first rule that a file breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{rule}: {location}: got {got}, expected {expected}")]
pub struct Fault {
    /// The rule.
    pub rule: Rule,
    /// Where: a key, a tensor, a byte.
    pub location: String,
    /// What was found.
    pub got: String,
    /// What was expected.
    pub expected: String,
}

impl Fault {
    pub(super) fn new(
        rule: Rule,
        location: impl fmt::Display,
        got: impl fmt::Display,
        expected: impl fmt::Display,
    ) -> Self {
        Self { rule, location: location.to_string(), got: got.to_string(), expected: expected.to_string() }
    }
}
