//! The files of an unpacked `.app` folder.

use anyhow::{Context as _, ensure};
use camino::Utf8Path;
use walkdir::WalkDir;

use super::{ITEMS_MAX, Item, Place, check_name};

/// Every file below `root`, sorted.
///
/// # Errors
/// A link (what it leads to is not part of what ships), a special file, a name that is not UTF-8, or too many files.
pub(super) fn list(root: &Utf8Path) -> anyhow::Result<Vec<Item>> {
    let mut items = Vec::new();
    for entry in WalkDir::new(root).follow_links(false).sort_by_file_name() {
        let entry = entry.with_context(|| format!("{root}: cannot be listed"))?;
        let path = Utf8Path::from_path(entry.path())
            .with_context(|| format!("{}: got a name that is not UTF-8", entry.path().display()))?;
        if entry.file_type().is_dir() {
            continue;
        }
        ensure!(
            entry.file_type().is_file(),
            "{path}: got a link or special file, expected files and folders only"
        );
        ensure!(items.len() < ITEMS_MAX, "{root}: got more than {ITEMS_MAX} files");
        let name = check_name(path.strip_prefix(root)?.as_str().as_bytes())?.to_owned();
        items.push(Item { name, bytes: entry.metadata()?.len(), place: Place::Disk(path.to_owned()) });
    }
    Ok(items)
}
