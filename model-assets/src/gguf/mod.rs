//! The GGUF reader and verifier: what stands between the reserve's model file and llama.cpp.
//!
//! A GGUF is data: metadata, a table of tensors, weights. So it can be held to more than a `.pte`: every byte before the
//! weights follows from recipe, tokenizer and template ([`plan`]), and [`verify`] demands just those. llama.cpp itself
//! checks bounds and trusts the rest: it would run with another vocabulary, other positions, weights that are no number.
//!
//! **Invariant:** no input makes this module panic, loop without bound or allocate beyond [`limits`]; the first fault
//! ends it.
//!
//! **Invariant:** every byte of an accepted file belongs to the head, a tensor or zero padding.
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fault;
pub mod limits;
pub mod plan;
mod quantize;
mod read;
mod value;
mod vocabulary;
mod weights;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::{
    fault::{Fault, Rule},
    quantize::{Precision, from_half, from_q8_0, interleave, q8_0, to_half},
    value::{ALIGNMENT_BYTES, BLOCK_BYTES, BLOCK_WEIGHTS, Head, Kind, Tensor, Value, head_bytes},
    vocabulary::{CONTROL, NORMAL, UNUSED, USER_DEFINED, Vocabulary},
};
use crate::pte::{ReadAt, witness::Witness};

/// The key that moves every tensor.
const ALIGNMENT_KEY: &str = "general.alignment";

/// What a file must be.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Expect {
    /// Smallest and largest file, bytes.
    pub file_bytes: Option<(u64, u64)>,
    /// The metadata, key by key, in order.
    pub metadata: Option<Vec<(String, Value)>>,
    /// The tensors in order.
    pub tensors: Option<Vec<Tensor>>,
    /// SHA-256.
    pub sha256: Option<[u8; 32]>,
}

/// What a file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// Length of the file, bytes.
    pub file_bytes: u64,
    /// Length of the head, padding included, bytes.
    pub head_bytes: u64,
    /// Metadata keys.
    pub keys: u32,
    /// Tensors.
    pub tensors: u32,
    /// Weights.
    pub elements: u64,
    /// Bytes of weights by how they are stored.
    pub weights: BTreeMap<Kind, u64>,
}

/// A file that keeps every rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// What it says.
    pub summary: Summary,
    /// Its SHA-256.
    pub sha256: [u8; 32],
}

/// Checks a file: reads every byte once, and the head twice.
///
/// The head was the same when it was hashed: the digest is of the file that was checked. A file may change afterwards, so
/// load from the same buffer, or compare the digest.
///
/// # Errors
/// The first rule that it breaks.
pub fn verify(file: &dyn ReadAt, expect: &Expect) -> Result<Verified, Fault> {
    let witness = Witness::new(file);
    let (head, summary) = structure(&witness, expect)?;
    let sha256 = weights::check(file, &head, witness.into_same(), summary.file_bytes)?;
    if let Some(expected) = expect.sha256.filter(|expected| *expected != sha256) {
        let [got, expected] = [sha256, expected].map(crate::digest::Digest::from_bytes);
        return Err(Fault::new(Rule::Digest, "file", got, expected));
    }
    Ok(Verified { summary, sha256 })
}

/// Checks the head and the places of the tensors and leaves the weights unread: milliseconds, whatever their size.
///
/// # Errors
/// The first rule that it breaks.
pub fn structure(file: &dyn ReadAt, expect: &Expect) -> Result<(Head, Summary), Fault> {
    let file_bytes =
        file.len().map_err(|error| Fault::new(Rule::Read, "file", error, "a file with a length"))?;
    if let Some((min, max)) = expect.file_bytes.filter(|(min, max)| !(*min..=*max).contains(&file_bytes)) {
        let got = format!("{file_bytes} bytes");
        return Err(Fault::new(Rule::FileBytes, "file", got, format!("{min} to {max}")));
    }
    let head = read::head(file, file_bytes)?;
    // llama.cpp would look for the tensors elsewhere.
    let alignment = head.metadata.iter().find(|(key, _)| key == ALIGNMENT_KEY);
    if let Some((key, value)) = alignment.filter(|(_, value)| *value != Value::U32(ALIGNMENT_BYTES as u32)) {
        return Err(Fault::new(Rule::Place, key, value.describe(), ALIGNMENT_BYTES));
    }
    places(&head, file_bytes)?;
    if let Some(expected) = &expect.metadata {
        same_metadata(&head.metadata, expected)?;
    }
    if let Some(expected) = &expect.tensors {
        same_tensors(&head.tensors, expected)?;
    }
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let mut weights = BTreeMap::new();
    for tensor in &head.tensors {
        let bytes = weights.entry(tensor.kind).or_insert(0_u64);
        *bytes = bytes.saturating_add(tensor.bytes().unwrap_or(0));
    }
    let elements = head.tensors.iter().fold(0, |sum: u64, it| sum.saturating_add(it.elements().unwrap_or(0)));
    let summary = Summary {
        file_bytes,
        head_bytes: head.bytes,
        keys: count(head.metadata.len()),
        tensors: count(head.tensors.len()),
        elements,
        weights,
    };
    Ok((head, summary))
}

/// Each tensor begins where the one before it ends, and the file ends with the last.
fn places(head: &Head, file_bytes: u64) -> Result<(), Fault> {
    let mut end = 0_u64;
    for tensor in &head.tensors {
        if tensor.offset != end {
            return Err(Fault::new(Rule::Place, &tensor.name, format!("offset {}", tensor.offset), end));
        }
        let after = tensor.bytes().and_then(|bytes| bytes.checked_next_multiple_of(ALIGNMENT_BYTES));
        let next = after.and_then(|bytes| end.checked_add(bytes));
        end = next.ok_or_else(|| {
            Fault::new(Rule::Shape, &tensor.name, tensor.shape(), "a size that can be counted")
        })?;
    }
    match head.bytes.checked_add(end) {
        Some(expected) if expected == file_bytes => Ok(()),
        expected => {
            let expected = expected.map_or_else(|| "a size that can be counted".into(), |n| n.to_string());
            Err(Fault::new(Rule::Size, "file", format!("{file_bytes} bytes"), expected))
        }
    }
}

fn same_metadata(got: &[(String, Value)], expected: &[(String, Value)]) -> Result<(), Fault> {
    for index in 0..got.len().max(expected.len()) {
        let (got, expected) = (got.get(index), expected.get(index));
        if got != expected {
            let key = expected.or(got).map_or("key", |(key, _)| key);
            let show = |it: Option<&(String, Value)>| {
                it.map_or_else(
                    || "nothing".to_owned(),
                    |(key, value)| format!("`{key}` = {}", value.describe()),
                )
            };
            return Err(Fault::new(Rule::Metadata, key, show(got), show(expected)));
        }
    }
    Ok(())
}

fn same_tensors(got: &[Tensor], expected: &[Tensor]) -> Result<(), Fault> {
    for index in 0..got.len().max(expected.len()) {
        let (got, expected) = (got.get(index), expected.get(index));
        if got != expected {
            let name = expected.or(got).map_or("tensor", |tensor| &tensor.name);
            let show = |it: Option<&Tensor>| {
                it.map_or_else(|| "nothing".to_owned(), |it| format!("`{}` {}", it.name, it.shape()))
            };
            return Err(Fault::new(Rule::Tensors, name, show(got), show(expected)));
        }
    }
    Ok(())
}
