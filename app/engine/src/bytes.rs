//! Where a model's bytes come from: the binary itself or a mapped range of a file. Neither is copied.
//!
//! **Invariant:** the bytes that are hashed are the bytes that run: one range of memory serves both.

use std::fs::File;
use std::ops::Range;

use camino::{Utf8Path, Utf8PathBuf};
use memmap2::{Advice, Mmap, MmapOptions};
use model_assets::{pte, regular};

use crate::error::{Error, Result};
use crate::resident::first_waits;

/// Alignment that the runtime needs of a program's first byte.
pub const MODEL_ALIGNMENT: usize = 16;

/// Advised at once: of a longer range the system may read the start alone, as much as the device reads ahead.
const ADVISED_BYTES: usize = 128 << 10;

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
    /// The whole of a regular file.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Utf8Path) -> Result<Self> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let file = regular::open(path).map_err(io)?;
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

/// Where the scales of the weights lie: the backend looks at each of them though it has packed copies.
fn scales(program: &[u8]) -> Vec<Range<usize>> {
    let items = pte::outline(&program).unwrap_or_default();
    let range = |item: &pte::Item| {
        let (start, bytes) = item.scales()?;
        let start = usize::try_from(start).ok()?;
        let end = start.checked_add(usize::try_from(bytes).ok()?)?;
        (end <= program.len()).then_some(start..end)
    };
    items.iter().filter_map(range).collect()
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

    /// Advises the system of sparse, random reads from now on: the weights come from the packed file.
    ///
    /// Otherwise a fault brings in as much around its page as the device reads ahead, and loading, which looks at each
    /// delegate, reads most of a file of which it needs a few megabytes.
    pub(crate) fn expect_few_reads(&self) {
        let Self::File(map) = self else { return };
        // It is all advice: a refusal costs time at most.
        let _ = map.advise(Advice::Random);
        // Every load reads the head: if it was in memory, so is the rest of what a load reads.
        if !first_waits(map) {
            return;
        }
        for range in scales(map) {
            for start in range.clone().step_by(ADVISED_BYTES) {
                let _ = map.advise_range(Advice::WillNeed, start, ADVISED_BYTES.min(range.end - start));
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resident::Pages;

    fn tiny() -> Vec<u8> {
        let models = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../../model-assets/models");
        std::fs::read(models.join("tiny/tiny-int8-seq512.pte")).expect("run: cargo xtask export")
    }

    #[test]
    fn scales_are_found_and_are_a_small_part_of_the_file() {
        let program = tiny();
        let found = scales(&program);
        let bytes: usize = found.iter().map(|range| range.len()).sum();
        assert!(bytes > 0 && bytes < program.len() / 20, "{bytes} of {}", program.len());
        assert!(scales(&program[..1000]).is_empty());
    }

    #[test]
    fn after_the_advice_a_look_at_the_file_brings_in_little_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(folder.path().join("model.pte")).unwrap();
        std::fs::write(&path, tiny()).unwrap();
        // A file system in memory drops nothing: then there is nothing to bring in.
        crate::measure::machine::drop_pages(&path);
        let pages = Pages::of(&File::open(&path).unwrap()).unwrap();
        let page = rustix::param::page_size();
        let resident = || {
            let starts = (0..pages.bytes()).step_by(page);
            starts.filter(|start| pages.are_resident(*start..start + 1)).count() * page
        };
        let before = resident();
        let mapped = ModelBytes::open(&path).unwrap().map().unwrap();
        mapped.expect_few_reads();
        let middle = mapped.as_slice().get(pages.bytes() / 2).copied();
        std::hint::black_box(middle);
        let brought = resident() - before;
        assert!(brought < pages.bytes() / 4, "{brought} of {}", pages.bytes());
    }
}
