//! What one rendering may take.
//!
//! **Invariant:** every step, every byte and every level of recursion is paid for before it is taken. Bytes are never
//! given back, so they bound the memory whatever is freed in between.

use super::fault::{Result, fail};

/// Steps of one rendering: a conversation of hundreds of turns needs a small share.
pub const STEPS_MAX: u64 = 4_000_000;
/// Bytes of all texts and lists that one rendering makes.
pub const MEMORY_BYTES_MAX: u64 = 64 << 20;
/// How deep evaluation may go, macros and recursive loops included. A macro that calls itself takes some eight levels.
pub const RECURSION_MAX: u32 = 200;
/// How deep lists and dictionaries may stand in each other.
pub const VALUE_DEPTH_MAX: u16 = 64;

/// A step pays for this many bytes that are looked at or copied.
const BYTES_PER_STEP: u64 = 64;

#[derive(Debug)]
pub(super) struct Budget {
    steps: u64,
    bytes: u64,
    depth: u32,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self { steps: STEPS_MAX, bytes: MEMORY_BYTES_MAX, depth: 0 }
    }

    pub(super) fn steps(&mut self, count: u64) -> Result<()> {
        match self.steps.checked_sub(count) {
            Some(left) => {
                self.steps = left;
                Ok(())
            }
            None => {
                self.steps = 0;
                fail(format!("got more work than {STEPS_MAX} steps"))
            }
        }
    }

    /// Pays for looking at bytes.
    pub(super) fn scan(&mut self, bytes: usize) -> Result<()> {
        self.steps(1 + bytes as u64 / BYTES_PER_STEP)
    }

    /// Pays for bytes that are about to be made.
    pub(super) fn bytes(&mut self, count: u64) -> Result<()> {
        match self.bytes.checked_sub(count) {
            Some(left) => {
                self.bytes = left;
                self.steps(count / BYTES_PER_STEP)
            }
            None => {
                self.bytes = 0;
                fail(format!("got more texts and lists than {MEMORY_BYTES_MAX} bytes"))
            }
        }
    }

    /// Pays for places in a list.
    pub(super) fn slots(&mut self, count: usize) -> Result<()> {
        self.bytes((count as u64).saturating_mul(size_of::<super::value::Value>() as u64))
    }

    pub(super) fn enter(&mut self) -> Result<()> {
        self.steps(1)?;
        if self.depth >= RECURSION_MAX {
            return fail(format!("got a recursion deeper than {RECURSION_MAX}"));
        }
        self.depth += 1;
        Ok(())
    }

    pub(super) fn leave(&mut self) {
        self.depth -= 1;
    }
}
