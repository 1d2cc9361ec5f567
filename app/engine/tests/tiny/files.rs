//! Files that tests read and make.

use camino::{Utf8Path, Utf8PathBuf};

/// A file of the exported default model. Its absence is a failure: a test that skips itself proves nothing.
pub(crate) fn tiny(name: &str) -> Utf8PathBuf {
    let path = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../../model-assets/models/tiny").join(name);
    assert!(path.is_file(), "{path}: no such file, run: cargo xtask export");
    path
}

/// The exported program.
pub(crate) fn tiny_pte() -> Utf8PathBuf {
    tiny("tiny-int8-seq512.pte")
}

/// A folder of the test's own.
pub(crate) fn folder() -> (tempfile::TempDir, Utf8PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = Utf8Path::from_path(folder.path()).unwrap().to_owned();
    (folder, path)
}

/// The one file with this extension.
pub(crate) fn only(dir: &Utf8Path, extension: &str) -> Utf8PathBuf {
    let files: Vec<_> = dir.read_dir_utf8().unwrap().map(|entry| entry.unwrap().into_path()).collect();
    let found: Vec<_> = files.iter().filter(|path| path.extension() == Some(extension)).collect();
    assert_eq!(found.len(), 1, "{extension} in {files:?}");
    found[0].clone()
}
