//! One file: resumed, hashed as it arrives, synced, and given its name only when it is what was promised.
//!
//! **Invariant:** a file without `.incomplete` in its name has the hub's digest and, where the recipe has one, the
//! recipe's. Killed at any instant, a download leaves at most a partial file, from which the next one goes on.

use std::{
    fs,
    io::{Read as _, Seek as _, Write as _},
};

use anyhow::{Context as _, anyhow};
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{digest::Digest, manifest::FileRecord};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use ureq::http::{HeaderMap, StatusCode};

use super::{
    client::{Client, Resume, text},
    fault::{Attempts, Fault},
    tree::{Expected, Wanted},
};

/// An attempt that brought this much was worth it: the count of failures begins anew.
const PROGRESS_BYTES_MIN: u64 = 1 << 20;
const ETAG_BYTES_MAX: u64 = 1024;

/// Where a file and what there is of it lie.
struct Place {
    whole: Utf8PathBuf,
    partial: Utf8PathBuf,
    etag: Utf8PathBuf,
}

impl Place {
    fn new(folder: &Utf8Path, name: &str) -> Self {
        let path = |suffix: &str| folder.join(format!("{name}{suffix}"));
        Self { whole: path(""), partial: path(".incomplete"), etag: path(".incomplete.etag") }
    }

    fn have(&self) -> u64 {
        self.partial.symlink_metadata().map_or(0, |data| data.len())
    }

    fn discard(&self) -> Result<(), Fault> {
        // The bytes go before the tag: bytes without a tag are never resumed, but a tag without bytes is harmless.
        for path in [&self.partial, &self.etag] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Fault::fatal(anyhow!("{path}: cannot be removed: {error}")));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Bytes that are still to come for a file, as far as its partial file tells.
pub(super) fn missing_bytes(folder: &Utf8Path, wanted: &Wanted) -> u64 {
    let place = Place::new(folder, &wanted.name);
    if place.whole.exists() { 0 } else { wanted.bytes.saturating_sub(place.have()) }
}

/// Makes `folder` hold the file, and says what it is; `seen` hears of bytes and of attempts that failed.
pub(super) fn file(
    client: &Client,
    folder: &Utf8Path,
    wanted: &Wanted,
    seen: &mut dyn FnMut(u64, Option<&str>),
) -> Result<FileRecord, Fault> {
    let place = Place::new(folder, &wanted.name);
    if let Some(record) = check_whole(&place, wanted)? {
        return Ok(record);
    }
    let mut attempts = Attempts::new();
    loop {
        let before = place.have();
        match once(client, &place, wanted, seen) {
            Ok(record) => return Ok(record),
            Err(fault) => {
                let progressed = place.have() >= before.saturating_add(PROGRESS_BYTES_MIN);
                let named = match fault {
                    Fault::Passing { error, wait } => {
                        Fault::Passing { error: error.context(wanted.name.clone()), wait }
                    }
                    Fault::Fatal { error, hint } => {
                        Fault::Fatal { error: error.context(wanted.name.clone()), hint }
                    }
                    other => other,
                };
                let told = attempts.next(named, progressed, &client.patience)?;
                seen(place.have(), Some(&told));
            }
        }
    }
}

/// A file that has its name already: right, or away with it (a disk can rot).
fn check_whole(place: &Place, wanted: &Wanted) -> Result<Option<FileRecord>, Fault> {
    let Ok(mut file) = fs::File::open(&place.whole) else { return Ok(None) };
    let mut sums = Sums::new(wanted);
    if file.metadata()?.len() == wanted.bytes {
        sums.absorb(&mut file, wanted.bytes)?;
        if let Ok(record) = sums.finish(wanted) {
            return Ok(Some(record));
        }
    }
    fs::remove_file(&place.whole).with_context(|| format!("{}: cannot be removed", place.whole))?;
    Ok(None)
}

/// One attempt.
fn once(
    client: &Client,
    place: &Place,
    wanted: &Wanted,
    seen: &mut dyn FnMut(u64, Option<&str>),
) -> Result<FileRecord, Fault> {
    let etag = resumable(place, wanted)?;
    let start = if etag.is_some() { place.have() } else { 0 };
    let mut sums = Sums::new(wanted);
    let resumed = if start < wanted.bytes {
        let resume = etag.as_deref().map(|etag| Resume { start, etag });
        let mut reply = client.get(&client.file_url(&wanted.name)?, resume.as_ref())?;
        let start = accept(place, wanted, reply.status(), reply.headers(), resume.as_ref())?;
        let mut file = open(place, start)?;
        sums.absorb(&mut file, start)?;
        seen(start, None);
        let mut have = start;
        let got = client.read(reply.body_mut(), wanted.bytes - start, |part| {
            file.write_all(part).with_context(|| format!("{}: cannot be written", place.partial))?;
            sums.update(part);
            have += part.len() as u64;
            seen(have, None);
            Ok(())
        });
        if let Err(Fault::Fatal { .. }) = &got {
            // Longer than promised. (A full disk keeps what there is.)
            if have >= wanted.bytes {
                place.discard()?;
            }
        }
        if start + got? < wanted.bytes {
            return Err(Fault::passing(anyhow!("cut: got {have} bytes, expected {}", wanted.bytes)));
        }
        file.sync_all()?;
        start > 0
    } else {
        sums.absorb(&mut fs::File::open(&place.partial)?, wanted.bytes)?;
        true
    };
    match sums.finish(wanted) {
        Ok(record) => {
            fs::rename(&place.partial, &place.whole).with_context(|| format!("{}", place.whole))?;
            place.discard()?;
            sync_folder(&place.whole)?;
            Ok(record)
        }
        Err(error) => {
            place.discard()?;
            // The part from an earlier run may be what is wrong: that is worth one fresh start.
            Err(if resumed { Fault::passing(error) } else { Fault::fatal(error) })
        }
    }
}

/// The strong entity tag of what lies there, if it can be gone on from.
fn resumable(place: &Place, wanted: &Wanted) -> Result<Option<String>, Fault> {
    let regular = place.partial.symlink_metadata().is_ok_and(|data| data.is_file());
    let small = place.etag.metadata().is_ok_and(|data| data.len() <= ETAG_BYTES_MAX);
    let etag = small.then(|| fs::read_to_string(&place.etag).ok()).flatten();
    match etag.filter(|etag| is_strong(etag)) {
        Some(etag) if regular && (1..=wanted.bytes).contains(&place.have()) => Ok(Some(etag)),
        _ => {
            place.discard()?;
            Ok(None)
        }
    }
}

/// RFC 9110: only a strong tag says that two answers are the same bytes.
fn is_strong(etag: &str) -> bool {
    let inner = etag.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    inner.is_some_and(|inner| inner.bytes().all(|b| b.is_ascii_graphic() && b != b'"'))
}

/// Where the body begins in the file, if it is the body that was asked for.
fn accept(
    place: &Place,
    wanted: &Wanted,
    status: StatusCode,
    headers: &HeaderMap,
    resume: Option<&Resume<'_>>,
) -> Result<u64, Fault> {
    let start_over = |why: String| {
        place.discard()?;
        Err(Fault::passing(anyhow!("{why}; starting over")))
    };
    if let Some(encoding) = text(headers, "content-encoding").filter(|encoding| *encoding != "identity") {
        return Err(Fault::fatal(anyhow!("got content encoding {encoding:?}, expected none")));
    }
    let etag = text(headers, "etag");
    let start = match (status, resume) {
        (StatusCode::OK, _) => {
            place.discard()?;
            if let Some(etag) = etag.filter(|etag| is_strong(etag) && etag.len() as u64 <= ETAG_BYTES_MAX) {
                fs::write(&place.etag, etag).with_context(|| format!("{}: cannot be written", place.etag))?;
            }
            0
        }
        (StatusCode::PARTIAL_CONTENT, Some(resume)) => {
            if etag.is_some_and(|etag| etag != resume.etag) {
                return start_over("the file changed while it was fetched".to_owned());
            }
            let expected = format!("bytes {}-{}/{}", resume.start, wanted.bytes - 1, wanted.bytes);
            let range = text(headers, "content-range").unwrap_or_default();
            if range != expected {
                return start_over(format!("got content range {range:?}, expected {expected:?}"));
            }
            resume.start
        }
        (status, _) => return start_over(format!("got status {}", status.as_u16())),
    };
    let expected = wanted.bytes - start;
    match text(headers, "content-length").map(str::parse::<u64>) {
        Some(Ok(length)) if length == expected => Ok(start),
        None => Ok(start),
        Some(length) => {
            let got = length.map_or("nonsense".to_owned(), |length| length.to_string());
            Err(Fault::fatal(anyhow!("got content length {got}, expected {expected}")))
        }
    }
}

fn open(place: &Place, start: u64) -> Result<fs::File, Fault> {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true);
    let file = if start == 0 { options.create_new(true) } else { &mut options }.open(&place.partial);
    let mut file = file.with_context(|| format!("{}: cannot be opened", place.partial))?;
    file.rewind()?;
    Ok(file)
}

pub(super) fn sync_folder(path: &Utf8Path) -> Result<(), Fault> {
    let folder = path.parent().context("a file in no folder")?;
    fs::File::open(folder)?.sync_all().with_context(|| format!("{folder}: cannot be synced"))?;
    Ok(())
}

/// Both digests of what went by.
struct Sums {
    sha256: Sha256,
    blob: Option<Sha1>,
    bytes: u64,
}

impl Sums {
    fn new(wanted: &Wanted) -> Self {
        let blob = matches!(wanted.expected, Expected::GitBlob(_)).then(|| {
            let mut sha1 = Sha1::new();
            sha1.update(format!("blob {}\0", wanted.bytes));
            sha1
        });
        Self { sha256: Sha256::new(), blob, bytes: 0 }
    }

    fn update(&mut self, part: &[u8]) {
        self.sha256.update(part);
        if let Some(blob) = &mut self.blob {
            blob.update(part);
        }
        self.bytes += part.len() as u64;
    }

    /// Takes in the first `count` bytes of a file and leaves it there.
    fn absorb(&mut self, file: &mut fs::File, count: u64) -> Result<(), Fault> {
        let mut buffer = vec![0; 1 << 20];
        let mut reader = file.take(count);
        loop {
            match reader.read(&mut buffer)? {
                0 => return Ok(()),
                read => self.update(buffer.get(..read).unwrap_or_default()),
            }
            if crate::supervise::interrupted() {
                return Err(Fault::Interrupted);
            }
        }
    }

    fn finish(self, wanted: &Wanted) -> anyhow::Result<FileRecord> {
        let sha256 = Digest::from_bytes(self.sha256.finalize().into());
        anyhow::ensure!(self.bytes == wanted.bytes, "got {} bytes, expected {}", self.bytes, wanted.bytes);
        match wanted.expected {
            Expected::Sha256(hub) => {
                anyhow::ensure!(sha256 == hub, "got sha256 {sha256}, expected the hub's {hub}")
            }
            Expected::GitBlob(hub) => {
                let got: Option<[u8; 20]> = self.blob.map(|blob| blob.finalize().into());
                anyhow::ensure!(got == Some(hub), "got another git blob than the hub's list names");
            }
        }
        if let Some(pin) = wanted.pin {
            anyhow::ensure!(sha256 == pin, "got sha256 {sha256}, expected the recipe's {pin}");
        }
        Ok(FileRecord { name: wanted.name.clone(), bytes: wanted.bytes, sha256 })
    }
}
