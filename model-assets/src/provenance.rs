//! The proof inside an app binary: one block that holds everything the gate looked at, so that anyone can ask of a
//! shipped app which model is inside, and check the answer.
//!
//! Layout, little-endian: the magic, then the lengths of recipe, policy, manifest, tokenizer, chat template and `.pte`
//! as u64 (0 for what is absent), then the offset of the `.pte` from the magic as u64 (a whole number of pages), then
//! the five texts one after the other, padding, and the `.pte`.
//!
//! **Invariant:** reading is bounded and never trusts a length: a binary is a file from anywhere.

use std::io;

use thiserror::Error;

use crate::{
    check::{Expectation, Proved, prove},
    claim::{Claim, ClaimTexts},
    error::ContractError,
    limits,
    pte::ReadAt,
};

/// The complement of the magic `PROOFMARK\0BLOCK\x01`: a program that searches for blocks must not look like one.
const MAGIC_COMPLEMENT: [u8; 16] =
    [0xaf, 0xad, 0xb0, 0xb0, 0xb9, 0xb2, 0xbe, 0xad, 0xb4, 0xff, 0xbd, 0xb3, 0xb0, 0xbc, 0xb4, 0xfe];
/// Length of the magic, the six lengths and the offset.
pub const HEADER_BYTES: u64 = 16 + 7 * 8;
/// Alignment of the `.pte`: pages of 16 KiB are the largest in use on phones.
pub const PTE_ALIGN_BYTES: u64 = 1 << 14;

/// Blocks looked at in one file; an app has one.
const BLOCKS_MAX: usize = 16;
const CHUNK_BYTES: usize = 1 << 20;

/// Why a block cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BlockError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// A length that cannot be.
    #[error("block at {offset}: {what}: got {got} bytes, expected at most {expected}")]
    Length {
        /// Offset of the block in the file.
        offset: u64,
        /// Which part.
        what: &'static str,
        /// Its length.
        got: u64,
        /// The most it can have.
        expected: u64,
    },
    /// A text that is none.
    #[error("block at {offset}: {what}: got bytes that are not UTF-8")]
    Text {
        /// Offset of the block in the file.
        offset: u64,
        /// Which part.
        what: &'static str,
    },
    /// A contract file that cannot be used.
    #[error("block at {offset}: {error}")]
    Contract {
        /// Offset of the block in the file.
        offset: u64,
        /// The reason.
        error: Box<ContractError>,
    },
}

/// A block found in a binary.
#[derive(Debug, Clone)]
pub struct Block {
    /// Offset of the block in the file.
    pub offset: u64,
    /// What is claimed about the model.
    pub claim: Claim,
    /// Offset and length of the `.pte` in the file; absent when the model is linked.
    pub pte: Option<(u64, u64)>,
}

impl Block {
    /// Reads the embedded `.pte` again; `None` when the model is linked.
    pub fn prove<'a>(&self, file: &'a dyn ReadAt) -> Option<Proved<Part<'a>>> {
        let (offset, len) = self.pte?;
        Some(prove(Part { file, offset, len }, &Expectation::claimed(&self.claim)))
    }
}

/// A part of a file, read as if it were one.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    file: &'a dyn ReadAt,
    offset: u64,
    len: u64,
}

impl<'a> Part<'a> {
    /// The part of `len` bytes at `offset`; a part that leads past the file's end reads as one that ends early.
    pub fn new(file: &'a dyn ReadAt, offset: u64, len: u64) -> Self {
        Self { file, offset, len }
    }
}

impl std::fmt::Debug for Part<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes at {}", self.len, self.offset)
    }
}

impl ReadAt for Part<'_> {
    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= self.len);
        let start = self.offset.checked_add(offset).filter(|_| end.is_some());
        self.file.read_exact_at(buf, start.ok_or(io::ErrorKind::UnexpectedEof)?)
    }
}

/// The header and the offset of the `.pte` for parts of these lengths: what the gate writes before them.
pub fn header(lengths: [u64; 6]) -> (Vec<u8>, u64) {
    let texts: u64 = lengths.iter().take(5).sum();
    let offset = (HEADER_BYTES + texts).next_multiple_of(PTE_ALIGN_BYTES);
    let numbers = lengths.iter().chain([&offset]).flat_map(|number| number.to_le_bytes());
    (magic().into_iter().chain(numbers).collect(), offset)
}

/// What marks a block.
fn magic() -> [u8; 16] {
    // Opaque to the optimizer, which would otherwise write the complement's complement into the program.
    std::hint::black_box(MAGIC_COMPLEMENT).map(|byte| !byte)
}

/// Every block in a file.
///
/// # Errors
/// The file cannot be read, or a block in it is damaged.
pub fn find(file: &dyn ReadAt) -> Result<Vec<Block>, BlockError> {
    let mut blocks = Vec::new();
    for offset in offsets(file)? {
        blocks.push(read(file, offset)?);
    }
    Ok(blocks)
}

/// Where the magic stands.
fn offsets(file: &dyn ReadAt) -> io::Result<Vec<u64>> {
    let (len, magic) = (file.len()?, magic());
    let (mut found, mut start) = (Vec::new(), 0);
    let mut chunk = vec![0; CHUNK_BYTES + magic.len()];
    while start < len && found.len() < BLOCKS_MAX {
        // Chunks overlap by the magic's length, so that none is cut in two.
        let size = usize::try_from(len - start).unwrap_or(usize::MAX).min(chunk.len());
        let part = chunk.get_mut(..size).unwrap_or_default();
        file.read_exact_at(part, start)?;
        let here = part.windows(magic.len()).take(CHUNK_BYTES).enumerate();
        found.extend(here.filter(|(_, window)| *window == magic).map(|(index, _)| start + index as u64));
        start += CHUNK_BYTES as u64;
    }
    found.truncate(BLOCKS_MAX);
    Ok(found)
}

fn read(file: &dyn ReadAt, offset: u64) -> Result<Block, BlockError> {
    let end = file.len()?;
    let number = |index: u64| -> io::Result<u64> {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, offset + MAGIC_COMPLEMENT.len() as u64 + index * 8)?;
        Ok(u64::from_le_bytes(bytes))
    };
    let mut at = offset + HEADER_BYTES;
    let mut part = |index: u64, what, most: u64| -> Result<Vec<u8>, BlockError> {
        let got = number(index)?;
        let expected = most.min(end.saturating_sub(at));
        if got > expected {
            return Err(BlockError::Length { offset, what, got, expected });
        }
        let mut bytes = vec![0; usize::try_from(got).unwrap_or_default()];
        file.read_exact_at(&mut bytes, at)?;
        at += got;
        Ok(bytes)
    };
    let recipe = part(0, "recipe", limits::TOML_BYTES_MAX)?;
    let policy = part(1, "policy", limits::TOML_BYTES_MAX)?;
    let manifest = part(2, "manifest", limits::MANIFEST_BYTES_MAX)?;
    let tokenizer = part(3, "tokenizer", limits::TOKENIZER_BYTES_MAX)?;
    let template = part(4, "chat template", limits::TEMPLATE_BYTES_MAX)?;
    let (len, from) = (number(5)?, number(6)?);
    let start = offset.saturating_add(from);
    let expected = end.saturating_sub(start).min(limits::MODEL_BYTES_MAX);
    if len > expected {
        return Err(BlockError::Length { offset, what: ".pte", got: len, expected });
    }
    let text = |bytes, what| std::str::from_utf8(bytes).map_err(|_| BlockError::Text { offset, what });
    let texts = ClaimTexts {
        recipe: text(&recipe, "recipe")?,
        policy: text(&policy, "policy")?,
        manifest: &manifest,
        tokenizer: Some(tokenizer.as_slice()).filter(|bytes| *bytes != b""),
        chat_template: Some(text(&template, "chat template")?).filter(|text| !text.is_empty()),
    };
    let claim =
        Claim::parse(texts).map_err(|error| BlockError::Contract { offset, error: Box::new(error) })?;
    Ok(Block { offset, claim, pte: (len > 0).then_some((start, len)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Profile;

    const RECIPE: &str = include_str!("../models/tiny/recipe.toml");
    const POLICY: &str = include_str!("../models/policy.toml");
    const MANIFEST: &[u8] = include_bytes!("../models/tiny/manifest.json");

    fn binary(pte: &[u8]) -> Vec<u8> {
        let parts: [&[u8]; 5] = [RECIPE.as_bytes(), POLICY.as_bytes(), MANIFEST, b"{}", b"template"];
        let lengths = [0, 1, 2, 3, 4].map(|index: usize| parts[index].len() as u64);
        let [recipe, policy, manifest, tokenizer, template] = lengths;
        let (header, offset) = header([recipe, policy, manifest, tokenizer, template, pte.len() as u64]);
        let mut block = [header, parts.concat()].concat();
        block.resize(usize::try_from(offset).unwrap(), 0);
        // Across the border of two chunks, as no linker would be kind enough to avoid.
        let mut file = vec![0x90; CHUNK_BYTES - 5];
        file.extend(block);
        file.extend(pte);
        file
    }

    #[test]
    fn a_block_is_found_wherever_it_lies() {
        let file = binary(b"not a model");
        let blocks = find(&file).unwrap();
        let [block] = blocks.as_slice() else { panic!("{blocks:?}") };
        assert_eq!(block.claim.recipe.name, "tiny");
        let (offset, len) = block.pte.unwrap();
        let range = usize::try_from(offset).unwrap()..usize::try_from(offset + len).unwrap();
        assert_eq!(&file[range], b"not a model");
        let refusal = block.prove(&file).unwrap().judge(&block.claim, Profile::Dev).unwrap_err();
        assert!(refusal.reasons().any(|finding| finding.id == "file-size"), "{refusal}");
    }

    #[test]
    fn the_magic_says_what_it_is() {
        assert_eq!(&magic(), b"PROOFMARK\0BLOCK\x01");
    }

    #[test]
    fn a_linked_model_has_no_bytes() {
        let file = binary(b"");
        let blocks = find(&file).unwrap();
        assert_eq!(blocks.first().and_then(|block| block.pte), None);
        assert!(blocks.first().unwrap().prove(&file).is_none());
    }

    #[test]
    fn a_file_without_a_block_has_none() {
        assert!(find(&vec![0x50_u8; 3 << 20]).unwrap().is_empty());
        assert!(find(&Vec::new()).unwrap().is_empty());
    }

    #[test]
    fn no_length_is_trusted() {
        let good = binary(b"model");
        let start = CHUNK_BYTES - 5 + magic().len();
        for index in 0..7 {
            for value in [u64::MAX, u64::MAX / 2, 1 << 33, good.len() as u64] {
                let mut file = good.clone();
                file[start + index * 8..][..8].copy_from_slice(&value.to_le_bytes());
                assert!(find(&file).is_err(), "number {index} = {value}");
            }
        }
        let mut cut = good;
        cut.truncate(CHUNK_BYTES + 40);
        assert!(find(&cut).is_err());
        cut.truncate(CHUNK_BYTES + 12);
        assert!(matches!(find(&cut), Err(BlockError::Io(_))));
    }

    #[test]
    fn texts_must_be_texts() {
        let mut file = binary(b"model");
        file[CHUNK_BYTES - 5 + usize::try_from(HEADER_BYTES).unwrap()] = 0xff;
        assert!(matches!(find(&file), Err(BlockError::Text { what: "recipe", .. })));
        let mut file = binary(b"model");
        file[CHUNK_BYTES - 5 + usize::try_from(HEADER_BYTES).unwrap()] = b'=';
        assert!(matches!(find(&file), Err(BlockError::Contract { .. })));
    }
}
