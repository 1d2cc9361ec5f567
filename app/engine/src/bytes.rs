//! Where a model's bytes come from: the binary itself or a mapped range of a file. Neither is copied.
//!
//! **Invariant:** the bytes that are hashed are the bytes that run: one range of memory serves both.

use std::fs::File;

use camino::{Utf8Path, Utf8PathBuf};
use memmap2::{Mmap, MmapOptions};

use crate::error::{Error, Result};

/// Alignment that the runtime needs of a program's first byte.
pub const MODEL_ALIGNMENT: usize = 16;

/// A model's bytes.
#[derive(Debug)]
pub enum ModelBytes {
    /// Bytes embedded in the binary.
    Static(&'static [u8]),
    /// A range of a file, to be mapped. The file must not change while a model made of it lives: an app maps
    /// files of its own, which nobody else may write.
    Map {
        /// The file.
        file: File,
        /// Its name, for messages.
        path: Utf8PathBuf,
        /// First byte of the program.
        offset: u64,
        /// Length of the program.
        len: u64,
    },
}

impl ModelBytes {
    /// The whole of a file.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Utf8Path) -> Result<Self> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        Ok(Self::Map { file, path: path.to_owned(), offset: 0, len })
    }

    /// Makes the bytes addressable.
    pub(crate) fn map(self) -> Result<Mapped> {
        let mapped = match self {
            Self::Static(bytes) => Mapped::Static(bytes),
            Self::Map { file, path, offset, len } => Mapped::File(map_range(&file, &path, offset, len)?),
        };
        let past = mapped.as_slice().as_ptr().addr() % MODEL_ALIGNMENT;
        if past != 0 {
            return Err(Error::Misaligned { past, expected: MODEL_ALIGNMENT });
        }
        Ok(mapped)
    }
}

fn map_range(file: &File, path: &Utf8Path, offset: u64, len: u64) -> Result<Mmap> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let file_bytes = file.metadata().map_err(io)?.len();
    let range = Error::Range { path: path.to_owned(), file_bytes, offset, len };
    let inside = len > 0 && offset.checked_add(len).is_some_and(|end| end <= file_bytes);
    let (true, Ok(size)) = (inside, usize::try_from(len)) else { return Err(range) };
    // SAFETY: the range lies inside the file, and `ModelBytes::Map` demands that nobody changes the file.
    unsafe { MmapOptions::new().offset(offset).len(size).map(file) }.map_err(io)
}

/// Addressable bytes of a model.
#[derive(Debug)]
pub(crate) enum Mapped {
    Static(&'static [u8]),
    File(Mmap),
}

impl Mapped {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Static(bytes) => bytes,
            Self::File(map) => map,
        }
    }

    /// Lets the system take back the resident pages; a later read brings them in again from the file.
    ///
    /// Says whether the system agreed: it is advice, and a refusal changes nothing but memory use.
    pub(crate) fn release_pages(&self) -> bool {
        let bytes = self.as_slice();
        let skipped = bytes.as_ptr().align_offset(rustix::param::page_size());
        match bytes.get(skipped..) {
            Some(rest) if !rest.is_empty() => self.advise(rest),
            _ => false,
        }
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn advise(&self, pages: &[u8]) -> bool {
        use rustix::mm::{Advice, madvise};
        let advice = match self {
            // A static slice may be anything, such as leaked heap: only advice that keeps the contents will do.
            Self::Static(_) => Advice::LinuxPageOut,
            Self::File(_) => Advice::LinuxDontNeed,
        };
        let len = pages.len() / rustix::param::page_size() * rustix::param::page_size();
        // SAFETY: `PageOut` keeps the contents of any memory; `DontNeed` drops clean pages of a read-only
        // mapping of a file, which come back from the file.
        unsafe { madvise(pages.as_ptr().cast_mut().cast(), len, advice) }.is_ok()
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn advise(&self, _pages: &[u8]) -> bool {
        false
    }
}
