//! A linked model: finding its file, proving it against what the binary carries, and remembering that it was proved.
//!
//! **Invariant:** the open file that was validated is the file that is mapped. The whole file is hashed once per
//! install; afterwards its stamp (size, modification time, inode) must be the one that was recorded, or it is hashed
//! again.

use std::{fs, io::Write as _, os::unix::fs::MetadataExt as _};

use anyhow::{Context as _, anyhow};
use camino::{Utf8Path, Utf8PathBuf};
use engine::{ModelBytes, PackedCache};
use model_assets::{
    check::{self, Profile},
    claim::Claim,
    digest::Digest,
    manifest::Manifest,
};

use crate::model::Model;

/// Opens the file of a linked model, proved.
///
/// # Errors
/// It is not there, or it is not what the binary was built for.
pub(crate) fn open(model: &Model, path: Option<&Utf8Path>) -> anyhow::Result<ModelBytes> {
    let manifest = Manifest::parse(model.manifest)?;
    let path = match path {
        Some(path) => path.to_owned(),
        None => beside_the_binary(&manifest.file)?,
    };
    let file = fs::File::open(&path).with_context(|| {
        format!("{path}: cannot be opened, expected the model that this app was built for")
    })?;
    let stamp = stamp(&file, model.sha256)?;
    if !is_recorded(&stamp) {
        let claim = Claim::parse(model.texts()?)?;
        let profile =
            if model.proved_for == Profile::Release.as_str() { Profile::Release } else { Profile::Dev };
        let proved = check::validate(file.try_clone()?, &claim, profile)
            .map_err(|refusal| anyhow!("{path}: {refusal}"))?;
        anyhow::ensure!(
            proved.sha256().to_string() == model.sha256,
            "{path}: got sha256 {}, expected {}",
            proved.sha256(),
            model.sha256
        );
        // Not being able to remember costs time at the next start, nothing else.
        let _ = record(&stamp);
    }
    Ok(ModelBytes::Map { file, path, offset: 0, len: model.file_bytes })
}

fn beside_the_binary(name: &str) -> anyhow::Result<Utf8PathBuf> {
    let binary = Utf8PathBuf::try_from(std::env::current_exe()?)?;
    Ok(binary.parent().context("the binary has no folder")?.join(name))
}

/// What must not have changed since the file was hashed.
fn stamp(file: &fs::File, sha256: &str) -> std::io::Result<String> {
    let data = file.metadata()?;
    let (device, inode, bytes) = (data.dev(), data.ino(), data.len());
    let changed =
        format!("{}.{:09} {}.{:09}", data.mtime(), data.mtime_nsec(), data.ctime(), data.ctime_nsec());
    Ok(format!("{sha256} {bytes} {device}:{inode} {changed}\n"))
}

/// Where a linked model's packed weights are kept. An embedded one is small: packing it costs less than a file.
pub(crate) fn packed_cache(model: &Model) -> Option<PackedCache> {
    if model.embedded().is_some() {
        return None;
    }
    let dir = record_path()?.parent()?.join("packed");
    Some(PackedCache { dir, model: Digest::parse(model.sha256)?, exclusive: true })
}

fn record_path() -> Option<Utf8PathBuf> {
    let cache = std::env::var("XDG_CACHE_HOME").map(Utf8PathBuf::from);
    let cache =
        cache.or_else(|_| std::env::var("HOME").map(|home| Utf8PathBuf::from(home).join(".cache"))).ok()?;
    Some(cache.join("proofmark/installed"))
}

fn is_recorded(stamp: &str) -> bool {
    record_path().and_then(|path| fs::read_to_string(path).ok()).is_some_and(|recorded| recorded == stamp)
}

fn record(stamp: &str) -> std::io::Result<()> {
    let Some(path) = record_path() else { return Ok(()) };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let temporary = path.with_extension("new");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(stamp.as_bytes())?;
    file.sync_all()?;
    fs::rename(temporary, path)
}
