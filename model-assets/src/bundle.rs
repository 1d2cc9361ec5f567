//! A bundle: one model with everything that its proof is about, in one `.tar.gz` whose bytes depend on nothing else.
//!
//! Layout: a gzip stream without name, time or comment; in it a ustar archive of plain files, `manifest.json` first and the
//! others in ascending order of their names, each header with fixed owner, mode and time; two empty blocks; nothing more.
//!
//! **Invariant:** there is one way to write a header, and [`read`] accepts no other: links, devices, directories, long
//! names, extended headers, sparse files and odd metadata all differ from it in some byte.
//!
//! **Invariant:** sizes are held to limits before a byte is unpacked, so no archive can make a reader write more than
//! it declares, or declare more than a model may have.
//!
//! Deliberately absent: paths. An entry is a file name, and what is unpacked is proved by [`crate::check::validate`]
//! before it is published.

use std::io::{self, BufRead, Read, Write};

use flate2::{Compression, GzBuilder, bufread::GzDecoder, write::GzEncoder};
use thiserror::Error;

use crate::{limits, manifest::MANIFEST_FILE, name::is_plain};

const BLOCK_BYTES: usize = 512;
/// What every bundle's gzip header is: no flags, no time, fastest compression, unknown system.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 0xff];
const CHUNK_BYTES: usize = 1 << 16;

/// A file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Plain file name.
    pub name: String,
    /// Size, bytes.
    pub bytes: u64,
}

/// Why a bundle cannot be read, or an entry not be written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BundleError {
    /// Reading or writing failed; a damaged or cut compressed stream shows up here too.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Not the gzip header of a bundle.
    #[error("gzip header: got {got:02x?}, expected {GZIP_HEADER:02x?}")]
    Gzip {
        /// Its first bytes.
        got: Vec<u8>,
    },
    /// Not the header of a plain file as a bundle has it.
    #[error("entry {index}: got a header that no bundle has, expected a plain file with fixed metadata")]
    Header {
        /// Number of the entry.
        index: usize,
    },
    /// Not a plain file name.
    #[error(
        "entry {index}: got the name `{name}`, expected letters, digits, `.`, `-`, `_`, not starting with `.`"
    )]
    Name {
        /// Number of the entry.
        index: usize,
        /// The name.
        name: String,
    },
    /// Out of order, or there twice.
    #[error(
        "entry {index}: got `{name}` after `{before}`, expected {MANIFEST_FILE} first, then ascending names"
    )]
    Order {
        /// Number of the entry.
        index: usize,
        /// Its name.
        name: String,
        /// The name before it; empty for the first.
        before: String,
    },
    /// More than such a file may have.
    #[error("{name}: got {got} bytes, expected at most {expected}")]
    Size {
        /// File name.
        name: String,
        /// Declared size.
        got: u64,
        /// The most it may have.
        expected: u64,
    },
    /// Too many files.
    #[error("got more than {} files", limits::BUNDLE_FILES_MAX)]
    Files,
    /// Bytes where there must be none.
    #[error("{place}: got bytes that belong to nothing, expected {expected}")]
    Trailing {
        /// Where.
        place: String,
        /// What belongs there.
        expected: &'static str,
    },
    /// The file had another length than was said.
    #[error("{name}: got {got} bytes, expected {expected}")]
    Length {
        /// File name.
        name: String,
        /// Bytes read.
        got: u64,
        /// Bytes promised.
        expected: u64,
    },
}

/// The most bytes that a file of this name may have.
fn bytes_max(name: &str) -> u64 {
    match name.rsplit('.').next() {
        Some("pte") => limits::MODEL_BYTES_MAX,
        Some("reference") => limits::REFERENCE_BYTES_MAX,
        _ if name == MANIFEST_FILE => limits::MANIFEST_BYTES_MAX,
        _ => limits::TOKENIZER_BYTES_MAX,
    }
}

/// The one header that a file of this name and size has.
fn header(name: &str, bytes: u64) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_size(bytes);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    Ok(header)
}

/// Name, order, number and size of entries, checked as they come.
#[derive(Debug, Default)]
struct Sequence {
    before: String,
    index: usize,
    /// Bytes of all entries so far.
    total: u64,
}

impl Sequence {
    fn next(&mut self, name: &str, bytes: u64) -> Result<(), BundleError> {
        let index = self.index;
        if index >= limits::BUNDLE_FILES_MAX {
            return Err(BundleError::Files);
        }
        if !is_plain(name) {
            return Err(BundleError::Name { index, name: name.escape_default().to_string() });
        }
        // The manifest stands first: after it, a name may come before its own.
        let ascends = match index {
            0 => name == MANIFEST_FILE,
            1 => name != MANIFEST_FILE,
            _ => name > self.before.as_str() && name != MANIFEST_FILE,
        };
        if !ascends {
            return Err(BundleError::Order { index, name: name.to_owned(), before: self.before.clone() });
        }
        let expected = bytes_max(name);
        if bytes > expected {
            return Err(BundleError::Size { name: name.to_owned(), got: bytes, expected });
        }
        // A bundle has one model: many files, each within its own bound, must not add up to a bomb.
        let (total, expected) = (self.total.saturating_add(bytes), limits::BUNDLE_BYTES_MAX);
        if total > expected {
            return Err(BundleError::Size { name: "all files".to_owned(), got: total, expected });
        }
        self.total = total;
        self.before = name.to_owned();
        self.index += 1;
        Ok(())
    }
}

/// Writes a bundle, streaming.
#[derive(Debug)]
pub struct Writer<W: Write> {
    gzip: GzEncoder<W>,
    sequence: Sequence,
}

impl<W: Write> Writer<W> {
    /// A bundle that goes to `sink`.
    pub fn new(sink: W) -> Self {
        let gzip = GzBuilder::new().mtime(0).operating_system(0xff).write(sink, Compression::fast());
        Self { gzip, sequence: Sequence::default() }
    }

    /// Appends a file of exactly `bytes` bytes; `manifest.json` first, then in ascending order of names.
    ///
    /// # Errors
    /// A name, order or size that no bundle has, another length than was said, or a failing reader or sink.
    pub fn entry(&mut self, name: &str, bytes: u64, source: &mut dyn Read) -> Result<(), BundleError> {
        self.sequence.next(name, bytes)?;
        self.gzip.write_all(header(name, bytes)?.as_bytes())?;
        // One byte more would show a file that has grown.
        let got = io::copy(&mut source.take(bytes.saturating_add(1)), &mut Exactly(&mut self.gzip, bytes))?;
        if got != bytes {
            return Err(BundleError::Length { name: name.to_owned(), got, expected: bytes });
        }
        let padding = bytes.next_multiple_of(BLOCK_BYTES as u64) - bytes;
        self.gzip
            .write_all([0; BLOCK_BYTES].get(..usize::try_from(padding).unwrap_or(0)).unwrap_or_default())?;
        Ok(())
    }

    /// Ends the bundle and returns the sink.
    ///
    /// # Errors
    /// The sink fails.
    pub fn finish(mut self) -> Result<W, BundleError> {
        self.gzip.write_all(&[0; 2 * BLOCK_BYTES])?;
        Ok(self.gzip.finish()?)
    }
}

/// Passes on so many bytes and drops what follows.
struct Exactly<'a, W: Write>(&'a mut W, u64);

impl<W: Write> Write for Exactly<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let most = usize::try_from(self.1).unwrap_or(usize::MAX).min(bytes.len());
        self.0.write_all(bytes.get(..most).unwrap_or_default())?;
        self.1 = self.1.saturating_sub(most as u64);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Reads a bundle to its last byte. `open` is called for each entry before its bytes, which go to what it returns.
///
/// # Errors
/// The first thing that no bundle has; what was unpacked until then is worth nothing.
pub fn read<R: BufRead, W: Write>(
    mut archive: R,
    open: &mut dyn FnMut(&Entry) -> io::Result<W>,
) -> Result<Vec<Entry>, BundleError> {
    let mut head = [0; GZIP_HEADER.len()];
    archive.read_exact(&mut head)?;
    if head != GZIP_HEADER {
        return Err(BundleError::Gzip { got: head.to_vec() });
    }
    let mut gzip = GzDecoder::new(head.as_slice().chain(archive));
    let entries = read_tar(&mut gzip, open)?;
    // Reads to the end of the stream, where its checksum is compared.
    if gzip.read(&mut [0])? != 0 {
        return Err(trailing("archive", "two empty blocks and the end"));
    }
    if !gzip.into_inner().into_inner().1.fill_buf()?.is_empty() {
        return Err(trailing("bundle", "the end of the file after the gzip stream"));
    }
    Ok(entries)
}

fn trailing(place: &str, expected: &'static str) -> BundleError {
    BundleError::Trailing { place: place.to_owned(), expected }
}

/// Reads the archive inside a bundle up to its two empty blocks.
///
/// # Errors
/// As [`read`].
pub fn read_tar<W: Write>(
    archive: &mut dyn Read,
    open: &mut dyn FnMut(&Entry) -> io::Result<W>,
) -> Result<Vec<Entry>, BundleError> {
    let mut entries = Vec::new();
    let mut sequence = Sequence::default();
    loop {
        let mut block = [0; BLOCK_BYTES];
        archive.read_exact(&mut block)?;
        if block == [0; BLOCK_BYTES] {
            archive.read_exact(&mut block)?;
            if block != [0; BLOCK_BYTES] || entries.is_empty() {
                return Err(trailing("archive", "files, then two empty blocks"));
            }
            return Ok(entries);
        }
        let entry = parse(&block, sequence.index)?;
        sequence.next(&entry.name, entry.bytes)?;
        let mut sink = open(&entry)?;
        copy(archive, &mut sink, entry.bytes)?;
        sink.flush()?;
        let padding =
            usize::try_from(entry.bytes.next_multiple_of(BLOCK_BYTES as u64) - entry.bytes).unwrap_or(0);
        let rest = block.get_mut(..padding).unwrap_or_default();
        archive.read_exact(rest)?;
        if rest.iter().any(|byte| *byte != 0) {
            return Err(trailing(&entry.name, "zeros up to the next block"));
        }
        entries.push(entry);
    }
}

fn parse(block: &[u8; BLOCK_BYTES], index: usize) -> Result<Entry, BundleError> {
    let found = tar::Header::from_byte_slice(block);
    let odd = BundleError::Header { index };
    let (Ok(name), Ok(bytes)) = (String::from_utf8(found.path_bytes().into_owned()), found.entry_size())
    else {
        return Err(odd);
    };
    // A name that no header can hold is odd as well.
    match header(&name, bytes) {
        Ok(expected) if expected.as_bytes() == block => Ok(Entry { name, bytes }),
        _ => Err(odd),
    }
}

/// Exactly so many bytes.
fn copy(from: &mut dyn Read, to: &mut dyn Write, bytes: u64) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES.min(usize::try_from(bytes).unwrap_or(CHUNK_BYTES))];
    let mut left = bytes;
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
        let part = chunk.get_mut(..most).unwrap_or_default();
        from.read_exact(part)?;
        to.write_all(part)?;
        left = left.saturating_sub(most as u64);
    }
    Ok(())
}
