//! Whether the runtime mapped the file that it was given.
//!
//! It says nothing when it did not: a file that it cannot open, or made by other kernels, is one that it packs anew, on the
//! heap.

use std::fs::File;

use camino::Utf8Path;

/// Whether any of the file is mapped into this process. Where the system does not tell (no `/proc`), it is believed.
pub(super) fn is_mapped(file: &File, path: &Utf8Path) -> bool {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return true };
    maps.lines().any(|line| is_of(line, file, path))
}

/// Whether a line of `/proc/self/maps` is of the file: by its number, or, where a layered file system shows the number of the
/// layer below, by its name, which no file of another model, runtime or processor has.
fn is_of(line: &str, file: &File, path: &Utf8Path) -> bool {
    // Start and end, rights, offset, device, number, name.
    let mut fields = line.split_ascii_whitespace().skip(3);
    let (Some(device), Some(number)) = (fields.next(), fields.next()) else { return false };
    let same = rustix::fs::fstat(file).is_ok_and(|data| {
        let (major, minor) = (rustix::fs::major(data.st_dev), rustix::fs::minor(data.st_dev));
        device == format!("{major:02x}:{minor:02x}") && number == data.st_ino.to_string()
    });
    same || path.file_name().is_some_and(|name| line.ends_with(&format!("/{name}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resident::Pages;
    use camino::Utf8PathBuf;

    #[test]
    fn a_file_counts_while_it_is_mapped_and_no_longer() {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(folder.path().join("packed-of-this-test.bin")).unwrap();
        std::fs::write(&path, "weights").unwrap();
        let file = File::open(&path).unwrap();
        assert!(!is_mapped(&file, &path));
        let map = Pages::of(&file).unwrap();
        assert!(is_mapped(&file, &path));
        drop(map);
        assert!(!is_mapped(&file, &path));
    }

    #[test]
    fn a_layered_file_system_names_it_and_a_file_of_another_key_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(folder.path().join("packed-1234.bin")).unwrap();
        std::fs::write(&path, "weights").unwrap();
        let file = File::open(&path).unwrap();
        let line = |name: &str| format!("7f0000000000-7f0000001000 r--s 00000000 00:1f 42 {name}");
        assert!(is_of(&line("/data/packed-1234.bin"), &file, &path));
        assert!(!is_of(&line("/data/packed-5678.bin"), &file, &path));
        assert!(!is_of(&line("/data/old-packed-1234.bin"), &file, &path));
        assert!(!is_of("", &file, &path));
    }
}
