//! Which pages of a file are in memory.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;

use memmap2::Mmap;

/// The pages of a file of this process's own, mapped to ask about them; nothing is read through this. Of a file that belongs to
/// somebody else Linux says that everything is in memory.
pub(crate) struct Pages(Mmap);

impl Pages {
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        // SAFETY: the bytes are never read, so it does not matter if they change.
        unsafe { Mmap::map(file) }.map(Self)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.len()
    }

    /// Whether all pages of a range are in the page cache, so that reading them waits for no disk.
    ///
    /// What cannot be asked counts as there: it is read when it is needed, as without asking.
    pub(crate) fn are_resident(&self, range: Range<usize>) -> bool {
        let page = rustix::param::page_size();
        let start = range.start / page * page;
        let Some(asked) = self.0.get(start..range.end) else { return true };
        let mut pages = vec![0_u8; asked.len().div_ceil(page)];
        let first = asked.as_ptr().cast_mut();
        // SAFETY: the range lies inside the mapping and starts at a page, since a whole file's mapping does; there is a byte for
        // each of its pages. Nothing is read there.
        let failed = unsafe { libc::mincore(first.cast(), asked.len(), pages.as_mut_ptr().cast()) };
        failed != 0 || pages.iter().all(|state| state & 1 == 1)
    }
}

/// Reads the first byte and returns whether that waited for the disk. For files of another owner, such as a package on Android.
pub(crate) fn first_waits(bytes: &[u8]) -> bool {
    let before = major_faults();
    std::hint::black_box(bytes.first().copied());
    major_faults() != before
}

/// How often this thread has waited for a page from a disk; where threads are not told apart, this process.
fn major_faults() -> libc::c_long {
    #[cfg(target_os = "linux")]
    const WHO: libc::c_int = libc::RUSAGE_THREAD;
    #[cfg(not(target_os = "linux"))]
    const WHO: libc::c_int = libc::RUSAGE_SELF;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the system writes no more than that structure, of which zeros are a value if it writes nothing.
    unsafe {
        libc::getrusage(WHO, usage.as_mut_ptr());
        usage.assume_init().ru_majflt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_just_read_is_resident_also_from_the_middle_of_a_page() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, vec![1; 100_000]).unwrap();
        std::fs::read(&path).unwrap();
        let pages = Pages::of(&File::open(&path).unwrap()).unwrap();
        assert!(pages.are_resident(0..pages.bytes()) && pages.are_resident(5000..5001));
        // Past the end there is nothing to ask about.
        assert!(pages.are_resident(0..pages.bytes() + 1));
    }

    #[test]
    fn the_first_look_at_a_dropped_page_waits_and_the_second_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = camino::Utf8PathBuf::from_path_buf(folder.path().join("file")).unwrap();
        std::fs::write(&path, vec![1; 100_000]).unwrap();
        crate::measure::machine::drop_pages(&path);
        let file = File::open(&path).unwrap();
        // A file system in memory drops nothing.
        let there = Pages::of(&file).unwrap().are_resident(0..1);
        // SAFETY: nobody changes the file.
        let map = unsafe { Mmap::map(&file) }.unwrap();
        assert_eq!((first_waits(&map), first_waits(&map)), (!there, false));
    }
}
