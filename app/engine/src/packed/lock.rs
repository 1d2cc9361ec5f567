//! Advisory locks on open files.
//!
//! By `flock` and not by std, whose `File::lock` and its kin are `Unsupported` on Android before Rust 1.98
//! (rust-lang/rust#148325): the cache would pack on the heap at every start there, and only there.

use std::fs::File;
use std::io;

use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, retry_on_intr};

/// Waits for the exclusive lock on the file. Dropping the file releases it.
pub(super) fn exclusive(file: &File) -> io::Result<()> {
    retry_on_intr(|| flock(file, FlockOperation::LockExclusive)).map_err(named)
}

/// Takes a shared lock, unless the exclusive one is held. Dropping the file releases it.
pub(super) fn try_shared(file: &File) -> io::Result<()> {
    retry_on_intr(|| flock(file, FlockOperation::NonBlockingLockShared)).map_err(named)
}

/// The system's text alone, such as `No locks available`, does not say what was tried.
fn named(error: Errno) -> io::Error {
    match error {
        Errno::WOULDBLOCK => io::Error::other("is locked by another process"),
        error => io::Error::other(format!("cannot be locked: {}", io::Error::from(error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_share_or_one_has_it_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let open = || File::options().create(true).truncate(false).write(true).open(&path).unwrap();
        let (first, second) = (open(), open());
        try_shared(&first).unwrap();
        try_shared(&second).unwrap();
        drop(second);
        exclusive(&first).unwrap();
        let error = try_shared(&open()).unwrap_err().to_string();
        assert_eq!(error, "is locked by another process");
        drop(first);
        try_shared(&open()).unwrap();
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[test]
    fn a_file_that_cannot_be_locked_says_so() {
        use rustix::fs::{Mode, OFlags, open};
        // A descriptor that only names a file has no locks, as some file systems have none.
        let nameless = open("/", OFlags::PATH, Mode::empty()).unwrap();
        let error = exclusive(&File::from(nameless)).unwrap_err().to_string();
        assert!(error.starts_with("cannot be locked: "), "{error}");
    }
}
