//! Reading a packed file ahead of the first token, which needs all of it.
//!
//! The runtime reads through a mapping, one fault after the other, and how much of the file a fault brings in is the device's
//! setting: 128 KiB on many phones, too little to keep a disk busy. It must be reads and no advice: what is advised comes in
//! as single small pages, and no more of one range than the device reads at once.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::resident::Pages;

/// Read at once. A quarter of it was slower, more is no faster.
const CHUNK_BYTES: usize = 1 << 20;

/// A thread that reads a file into the page cache, until this is dropped.
#[derive(Debug)]
pub(super) struct ReadAhead(Arc<AtomicBool>);

impl ReadAhead {
    /// Nothing of a file that is in the page cache is read.
    pub(super) fn start(file: &File) -> io::Result<Self> {
        let file = file.try_clone()?;
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        // Pages that could not be read ahead are read on demand.
        let work = move || drop(read(&file, &stopped));
        std::thread::Builder::new().name("read-ahead".to_owned()).spawn(work)?;
        Ok(Self(stop))
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Reads what of the file is not in memory; how many bytes those were.
fn read(file: &File, stop: &AtomicBool) -> io::Result<usize> {
    let pages = Pages::of(file)?;
    let (mut buffer, mut done) = (Vec::new(), 0);
    for chunk in chunks(pages.bytes()) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let start = chunk.start as u64;
        if !is_there(&pages, &chunk) {
            buffer.resize(CHUNK_BYTES, 0);
            done += file.read_at(&mut buffer, start)?;
        }
    }
    Ok(done)
}

/// By its last page: to ask about all 300 000 of a file took 35 ms of a processor, of each start.
fn is_there(pages: &Pages, chunk: &Range<usize>) -> bool {
    pages.are_resident(chunk.end - 1..chunk.end)
}

fn chunks(bytes: usize) -> impl Iterator<Item = Range<usize>> {
    (0..bytes).step_by(CHUNK_BYTES).map(move |start| start..bytes.min(start + CHUNK_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_in_memory_is_read_once_and_nothing_after_a_stop() {
        let folder = tempfile::tempdir().unwrap();
        let path = camino::Utf8PathBuf::from_path_buf(folder.path().join("file")).unwrap();
        std::fs::write(&path, vec![1; 3 * CHUNK_BYTES + 5]).unwrap();
        // A file system in memory drops nothing: then there is nothing to read.
        crate::measure::machine::drop_pages(&path);
        let file = File::open(&path).unwrap();
        let pages = Pages::of(&file).unwrap();
        let absent = chunks(pages.bytes()).filter(|chunk| !is_there(&pages, chunk));
        let absent: usize = absent.map(|chunk| chunk.len()).sum();
        assert_eq!(read(&file, &AtomicBool::new(true)).unwrap(), 0);
        let brought = read(&file, &AtomicBool::new(false)).unwrap();
        // The system may bring in the next chunk with one that is read.
        assert!(brought <= absent && (brought > 0) == (absent > 0), "{brought} of {absent}");
        assert!(pages.are_resident(0..pages.bytes()));
        assert_eq!(read(&file, &AtomicBool::new(false)).unwrap(), 0);
        drop(ReadAhead::start(&file).unwrap());
    }
}
