//! What the structure was read from, compared with what is hashed.
//!
//! A file is read twice: pieces of it for its structure, then all of it for its digest. Whoever writes between the two
//! reads could have one file checked and another one hashed.
//!
//! **Invariant:** when [`Same::judge`] finds nothing, every byte that was read through the [`Witness`] was the same
//! when the whole file was read.

use std::cell::RefCell;
use std::io;

use sha2::{Digest, Sha256};

use super::read::ReadAt;

/// A file that remembers the digest of each piece that was read of it.
pub(crate) struct Witness<'a> {
    file: &'a dyn ReadAt,
    pieces: RefCell<Vec<Piece>>,
}

struct Piece {
    start: u64,
    end: u64,
    digest: [u8; 32],
}

impl<'a> Witness<'a> {
    pub(crate) fn new(file: &'a dyn ReadAt) -> Self {
        Self { file, pieces: RefCell::default() }
    }

    /// What the second read must give.
    pub(crate) fn into_same(self) -> Same {
        let again = |piece| Again { piece, hasher: Sha256::new() };
        Same(self.pieces.into_inner().into_iter().map(again).collect())
    }
}

impl ReadAt for Witness<'_> {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)?;
        let bytes = u64::try_from(buf.len()).map_err(io::Error::other)?;
        let end = offset.checked_add(bytes).ok_or(io::ErrorKind::UnexpectedEof)?;
        let digest = Sha256::digest(&*buf).into();
        self.pieces.borrow_mut().push(Piece { start: offset, end, digest });
        Ok(())
    }
}

/// The pieces as they are read again, from the first byte of the file to the last.
pub(crate) struct Same(Vec<Again>);

struct Again {
    piece: Piece,
    hasher: Sha256,
}

impl Same {
    /// Takes the next bytes of the file.
    pub(crate) fn feed(&mut self, offset: u64, bytes: &[u8]) {
        for Again { piece, hasher } in &mut self.0 {
            let place = |at: u64| usize::try_from(at.saturating_sub(offset)).unwrap_or(usize::MAX);
            let (from, to) = (place(piece.start), place(piece.end).min(bytes.len()));
            if let Some(part) = bytes.get(from..to) {
                hasher.update(part);
            }
        }
    }

    /// The first piece that was not the same, as a range of the file.
    pub(crate) fn judge(self) -> Result<(), std::ops::Range<u64>> {
        let mut pieces = self.0.into_iter();
        let differs = |again: &Again| again.hasher.clone().finalize()[..] != again.piece.digest;
        match pieces.find(differs) {
            Some(Again { piece, .. }) => Err(piece.start..piece.end),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::indexing_slicing, reason = "a test ends at what it does not foresee")]
    use super::*;

    /// Reads two pieces, lets `change` happen, and reads all of it again in chunks of `chunk` bytes.
    fn judge(chunk: usize, change: impl Fn(&mut Vec<u8>)) -> Result<(), std::ops::Range<u64>> {
        let mut file: Vec<u8> = (0..200).collect();
        let before = file.clone();
        let witness = Witness::new(&before);
        witness.read_exact_at(&mut [0; 64], 0).unwrap();
        witness.read_exact_at(&mut [0; 10], 100).unwrap();
        witness.read_exact_at(&mut [0; 1], 300).unwrap_err();
        let mut same = witness.into_same();
        change(&mut file);
        for (at, part) in (0..).step_by(chunk).zip(file.chunks(chunk)) {
            same.feed(at, part);
        }
        same.judge()
    }

    #[test]
    fn a_change_of_what_was_read_is_seen_whatever_the_chunks_are() {
        for chunk in [1, 7, 64, 100, 105, 200, 1000] {
            assert_eq!(judge(chunk, |_| {}), Ok(()));
            assert_eq!(judge(chunk, |file| file[63] ^= 1), Err(0..64), "{chunk}");
            assert_eq!(judge(chunk, |file| file[105] ^= 1), Err(100..110), "{chunk}");
            assert_eq!(judge(chunk, |file| file.truncate(104)), Err(100..110), "{chunk}");
            // Nobody read that: its digest speaks for it.
            assert_eq!(judge(chunk, |file| file[80] ^= 1), Ok(()));
        }
    }
}
