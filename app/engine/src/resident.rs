//! Which pages of a file are in memory.

use std::fs::File;
use std::io;
use std::ops::Range;

use memmap2::Mmap;

/// The pages of a file, mapped to ask about them; nothing is read through this.
pub(crate) struct Pages(Mmap);

impl Pages {
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        // SAFETY: the bytes are never looked at, so nobody can be misled by their change.
        unsafe { Mmap::map(file) }.map(Self)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn are_resident(&self, range: Range<usize>) -> bool {
        are_resident(&self.0, range)
    }
}

/// Whether all pages of a range are in the page cache, so that reading them waits for no disk.
///
/// What cannot be asked counts as there: it is read when it is needed, as without asking.
pub(crate) fn are_resident(map: &Mmap, range: Range<usize>) -> bool {
    let page = rustix::param::page_size();
    let start = range.start / page * page;
    let Some(asked) = map.get(start..range.end) else { return true };
    // A mapping of a file at an offset starts within a page.
    let skipped = asked.as_ptr().addr() % page;
    let mut pages = vec![0_u8; (skipped + asked.len()).div_ceil(page)];
    let first = asked.as_ptr().cast_mut().wrapping_sub(skipped);
    // SAFETY: `first` is the start of a page that is mapped, as all up to the end of the range are; there is a byte for each of
    // them. Nothing is read there.
    let failed = unsafe { libc::mincore(first.cast(), skipped + asked.len(), pages.as_mut_ptr().cast()) };
    failed != 0 || pages.iter().all(|state| state & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use memmap2::MmapOptions;

    #[test]
    fn what_was_just_written_is_resident_also_from_the_middle_of_a_page() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, vec![1; 100_000]).unwrap();
        let file = File::open(&path).unwrap();
        // Nothing is in memory for certain but what was just read.
        std::fs::read(&path).unwrap();
        let pages = Pages::of(&file).unwrap();
        assert!(pages.are_resident(0..pages.bytes()) && pages.are_resident(5000..5001));
        // SAFETY: nobody changes the file.
        let map = unsafe { MmapOptions::new().offset(48).len(90_000).map(&file) }.unwrap();
        assert!(are_resident(&map, 0..90_000) && are_resident(&map, 89_999..90_000));
        // Past the end there is nothing to ask about.
        assert!(are_resident(&map, 0..90_001));
    }
}
