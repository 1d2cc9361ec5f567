//! Why a template was refused or failed.

use std::fmt;

/// A reason with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Line in the template, from 1; 0 when it is about the whole.
    pub line: u32,
    /// What is wrong.
    pub message: String,
    /// Whether the template itself refused the conversation (`raise_exception`).
    pub raised: bool,
}

pub(super) type Result<T> = std::result::Result<T, Box<Fault>>;

impl Fault {
    pub(super) fn new(message: impl Into<String>) -> Box<Self> {
        Box::new(Self { line: 0, message: message.into(), raised: false })
    }

    pub(super) fn at(line: u32, message: impl Into<String>) -> Box<Self> {
        Box::new(Self { line, message: message.into(), raised: false })
    }

    /// The innermost place wins.
    pub(super) fn or_line(mut self: Box<Self>, line: u32) -> Box<Self> {
        if self.line == 0 {
            self.line = line;
        }
        self
    }
}

pub(super) fn fail<T>(message: impl Into<String>) -> Result<T> {
    Err(Fault::new(message))
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.message),
            line => write!(f, "line {line}: {}", self.message),
        }
    }
}

impl std::error::Error for Fault {}
