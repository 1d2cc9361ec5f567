//! The one pass over all bytes: digest, finite scales, tensors that are not all zero, zero padding.

use sha2::{Digest as _, Sha256};

use super::{
    fault::{Fault, Rule},
    quantize::from_half,
    value::{ALIGNMENT_BYTES, BLOCK_BYTES, Head, Kind},
};
use crate::pte::{ReadAt, witness::Same};

/// A whole number of blocks and of `f32`s.
const CHUNK_BYTES: u64 = BLOCK_BYTES * (1 << 15);

/// Reads the file from start to end.
pub(super) fn check(file: &dyn ReadAt, head: &Head, same: Same, file_bytes: u64) -> Result<[u8; 32], Fault> {
    let mut pass = Pass { file, at: 0, digest: Sha256::new(), same, buffer: Vec::new() };
    pass.each(head.bytes, &mut |_, _| Ok(()))?;
    for tensor in &head.tensors {
        let bytes = tensor.bytes().unwrap_or(0);
        let mut some = false;
        pass.each(bytes, &mut |start, chunk| {
            let found = match tensor.kind {
                Kind::Q8_0 => quantized(chunk),
                Kind::F32 => single(chunk),
            };
            match found {
                Ok(nonzero) => some |= nonzero,
                Err((index, value)) => {
                    let location = format!("{}: byte {}", tensor.name, start.saturating_add(index));
                    return Err(Fault::new(Rule::Finite, location, value, "a finite number"));
                }
            }
            Ok(())
        })?;
        if !some {
            return Err(Fault::new(Rule::Zero, &tensor.name, "only zeros", "weights"));
        }
        let padding = bytes.next_multiple_of(ALIGNMENT_BYTES).saturating_sub(bytes);
        pass.each(padding, &mut |start, chunk| match chunk.iter().all(|byte| *byte == 0) {
            true => Ok(()),
            false => Err(Fault::new(
                Rule::Padding,
                format!("{}: byte {start}", tensor.name),
                "hidden bytes",
                "zeros",
            )),
        })?;
    }
    // `places` has checked it: a file that grew meanwhile is another file.
    if pass.at != file_bytes {
        return Err(Fault::new(Rule::Size, "file", format!("{} bytes", pass.at), file_bytes));
    }
    pass.same.judge().map_err(|range| {
        let got = format!("other bytes at {} to {}", range.start, range.end);
        Fault::new(Rule::Changed, "file", got, "the same bytes twice")
    })?;
    Ok(pass.digest.finalize().into())
}

/// Whether there is a weight that is not zero; the place and value of a scale that is not finite.
fn quantized(chunk: &[u8]) -> Result<bool, (u64, f32)> {
    let (blocks, _) = chunk.as_chunks::<{ BLOCK_BYTES as usize }>();
    let mut some = false;
    for (index, [low, high, weights @ ..]) in blocks.iter().enumerate() {
        let scale = from_half(u16::from_le_bytes([*low, *high]));
        if !scale.is_finite() {
            return Err(((index as u64).saturating_mul(BLOCK_BYTES), scale));
        }
        some |= scale != 0.0 && weights.iter().any(|weight| *weight != 0);
    }
    Ok(some)
}

fn single(chunk: &[u8]) -> Result<bool, (u64, f32)> {
    let (numbers, _) = chunk.as_chunks::<4>();
    let mut some = false;
    for (index, bytes) in numbers.iter().enumerate() {
        let value = f32::from_le_bytes(*bytes);
        if !value.is_finite() {
            return Err(((index as u64).saturating_mul(4), value));
        }
        some |= value != 0.0;
    }
    Ok(some)
}

/// Is shown the bytes at a place of the file.
type Show<'a> = dyn FnMut(u64, &[u8]) -> Result<(), Fault> + 'a;

struct Pass<'a> {
    file: &'a dyn ReadAt,
    at: u64,
    digest: Sha256,
    same: Same,
    buffer: Vec<u8>,
}

impl Pass<'_> {
    /// Reads and hashes the next `len` bytes and shows them in chunks, each with its place in the file.
    fn each(&mut self, len: u64, show: &mut Show<'_>) -> Result<(), Fault> {
        let end = self.at.saturating_add(len);
        while self.at < end {
            let step = end.saturating_sub(self.at).min(CHUNK_BYTES);
            self.buffer.resize(usize::try_from(step).unwrap_or_default(), 0);
            let read = self.file.read_exact_at(&mut self.buffer, self.at);
            read.map_err(|error| {
                Fault::new(Rule::Read, format!("byte {}", self.at), error, "a readable file")
            })?;
            self.digest.update(&self.buffer);
            self.same.feed(self.at, &self.buffer);
            show(self.at, &self.buffer)?;
            self.at = self.at.saturating_add(step);
        }
        Ok(())
    }
}
