//! The engine on the exported default model: the library, generation, and the binary.
#![expect(clippy::unwrap_used, reason = "a test ends at what it does not foresee")]

mod answers;
mod cli;
mod generate;
mod library;
mod packed;

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
