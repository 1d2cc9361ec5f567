//! A file that is replaced atomically: written beside its place, then renamed.
//!
//! **Invariant:** the name holds what it held before or everything that was written, whenever the process is killed or the
//! disk is full. One hidden sibling at most is left behind; the next writer takes it over, and two at once never share it.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
};

use anyhow::{Context as _, ensure};
use camino::{Utf8Path, Utf8PathBuf};

/// The sibling while it is written; it is removed unless it is put in place.
pub(crate) struct AtomicFile {
    file: fs::File,
    sibling: Utf8PathBuf,
    place: Utf8PathBuf,
    placed: bool,
}

impl AtomicFile {
    /// Begins to write the file that will be at `place`.
    pub(crate) fn create(place: &Utf8Path) -> anyhow::Result<Self> {
        let sibling = sibling(place)?;
        loop {
            let mut options = fs::OpenOptions::new();
            // What lies there may be another writer's: it is emptied only under its lock, and never through a link.
            options.read(true).write(true).create(true).truncate(false);
            options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
            let file = options.open(&sibling).with_context(|| format!("{sibling}: cannot be made"))?;
            ensure!(file.try_lock().is_ok(), "{sibling}: another command is writing it");
            if is_at(&file, &sibling)? {
                file.set_len(0).with_context(|| format!("{sibling}: cannot be emptied"))?;
                return Ok(Self { file, sibling, place: place.to_owned(), placed: false });
            }
            // Its writer put it in place between the opening and the lock.
        }
    }

    /// What was written is on the disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Gives it its name.
    pub(crate) fn put_in_place(mut self) -> anyhow::Result<()> {
        self.file.sync_all().with_context(|| format!("{}: cannot be synced", self.sibling))?;
        fs::rename(&self.sibling, &self.place)
            .with_context(|| format!("{}: cannot be put in place", self.place))?;
        self.placed = true;
        let folder = folder(&self.place);
        fs::File::open(folder)?.sync_all().with_context(|| format!("{folder}: cannot be synced"))
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.placed {
            // Best effort: a leftover is hidden, and the next writer takes it over.
            let _ = fs::remove_file(&self.sibling);
        }
    }
}

/// Removes the sibling that a killed writer of `place` left; one that is being written stays. Returns the name of what it
/// removed.
pub(crate) fn discard(place: &Utf8Path) -> anyhow::Result<Option<String>> {
    let sibling = sibling(place)?;
    let left = sibling.symlink_metadata().is_ok_and(|data| data.is_file());
    // Taken over, and removed as it is dropped.
    Ok(match AtomicFile::create(place) {
        Ok(_) if left => sibling.file_name().map(str::to_owned),
        _ => None,
    })
}

fn sibling(place: &Utf8Path) -> anyhow::Result<Utf8PathBuf> {
    let name = place.file_name().with_context(|| format!("{place}: names no file"))?;
    Ok(folder(place).join(format!(".{name}.new")))
}

/// The folder of a file.
pub(crate) fn folder(place: &Utf8Path) -> &Utf8Path {
    place.parent().filter(|folder| !folder.as_str().is_empty()).unwrap_or(Utf8Path::new("."))
}

/// Whether the open file is the one at the path itself, not the target of a link.
pub(crate) fn is_at(file: &fs::File, path: &Utf8Path) -> anyhow::Result<bool> {
    let here = file.metadata()?;
    Ok(path.symlink_metadata().is_ok_and(|there| (here.dev(), here.ino()) == (there.dev(), there.ino())))
}

/// Removes a folder or file, if it is there.
pub(crate) fn remove(path: &Utf8Path) -> anyhow::Result<()> {
    let Ok(data) = path.symlink_metadata() else { return Ok(()) };
    let removed = if data.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.with_context(|| format!("{path}: cannot be removed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> (tempfile::TempDir, Utf8PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let place = Utf8Path::from_path(folder.path()).unwrap().join("file");
        (folder, place)
    }

    #[test]
    fn what_was_not_put_in_place_leaves_nothing() {
        let (folder, place) = scratch();
        fs::write(&place, "old").unwrap();
        let mut file = AtomicFile::create(&place).unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        assert_eq!(fs::read(&place).unwrap(), b"old");
        assert_eq!(folder.path().read_dir().unwrap().count(), 1);
    }

    #[test]
    fn a_killed_writers_sibling_is_taken_over_and_a_living_ones_is_not() {
        let (folder, place) = scratch();
        fs::write(folder.path().join(".file.new"), "longer than what comes").unwrap();
        let mut file = AtomicFile::create(&place).unwrap();
        let error = AtomicFile::create(&place).err().unwrap().to_string();
        assert!(error.contains("another command is writing it"), "{error}");
        file.write_all(b"new").unwrap();
        file.put_in_place().unwrap();
        assert_eq!(fs::read(&place).unwrap(), b"new");
        assert_eq!(folder.path().read_dir().unwrap().count(), 1);
    }

    #[test]
    fn a_link_in_the_way_is_not_written_through() {
        let (folder, place) = scratch();
        let victim = folder.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, folder.path().join(".file.new")).unwrap();
        assert!(AtomicFile::create(&place).is_err());
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
    }
}
