//! The download of one file: resumed, hashed while it arrives, synced, and renamed only when it is the promised one.
//!
//! **Invariant:** a file without `.incomplete` in its name has every digest that was promised. Killed at any instant, or
//! out of disk, a download leaves at most a partial file, which the next one resumes.

use std::{
    fs,
    io::{Seek as _, Write as _},
};

use anyhow::{Context as _, anyhow};
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::manifest::FileRecord;
use ureq::http::{HeaderMap, StatusCode, Uri};

use crate::predict;

use super::{
    client::{Client, Resume, text},
    fault::{Attempts, DISK_HINT, Fault},
    wanted::{Size, Sums, Wanted},
};

/// Disk that must stay free.
pub(crate) const DISK_SPARE_BYTES: u64 = 256 << 20;

/// An attempt that brought this much was worth it: the count of failures begins anew.
const PROGRESS_BYTES_MIN: u64 = 1 << 20;
const ETAG_BYTES_MAX: u64 = 1024;

/// Hears of bytes that are there, of how many there will be where that is known, and of attempts that failed.
pub(crate) type Seen<'a> = dyn FnMut(u64, Option<u64>, Option<&str>) + 'a;

/// Paths of a file and of its partial download.
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

/// Bytes of a file that are still missing, by the size of its partial download.
pub(crate) fn missing_bytes(folder: &Utf8Path, wanted: &Wanted) -> u64 {
    let place = Place::new(folder, &wanted.name);
    if place.whole.exists() { 0 } else { wanted.size.max().saturating_sub(place.have()) }
}

/// Where a fetched file lies. One that no digest names keeps its `.incomplete`: the server is asked again whether it is all.
pub(crate) fn path(folder: &Utf8Path, wanted: &Wanted) -> Utf8PathBuf {
    let place = Place::new(folder, &wanted.name);
    if wanted.has_digest() { place.whole } else { place.partial }
}

/// Makes `folder` hold the file, and says what it is.
pub(crate) fn file(
    client: &Client,
    url: &Uri,
    folder: &Utf8Path,
    wanted: &Wanted,
    seen: &mut Seen<'_>,
) -> Result<FileRecord, Fault> {
    let place = Place::new(folder, &wanted.name);
    if let Some(record) = check_whole(&place, wanted)? {
        return Ok(record);
    }
    let mut attempts = Attempts::new();
    loop {
        let before = place.have();
        match once(client, url, &place, wanted, seen) {
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
                let failure = attempts.next(named, progressed, &client.patience)?;
                seen(place.have(), None, Some(&failure));
            }
        }
    }
}

/// A file that has its name already: right, or away with it (a disk can rot).
fn check_whole(place: &Place, wanted: &Wanted) -> Result<Option<FileRecord>, Fault> {
    let Ok(mut file) = fs::File::open(&place.whole) else { return Ok(None) };
    let mut sums = Sums::new(wanted);
    let bytes = file.metadata()?.len();
    if wanted.size.fits(bytes) && wanted.has_digest() {
        sums.absorb(&mut file, bytes)?;
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
    url: &Uri,
    place: &Place,
    wanted: &Wanted,
    seen: &mut Seen<'_>,
) -> Result<FileRecord, Fault> {
    let etag = resumable(place, wanted)?;
    let start = if etag.is_some() { place.have() } else { 0 };
    let mut sums = Sums::new(wanted);
    let resumed = if wanted.size == Size::Exactly(start) {
        sums.absorb(&mut fs::File::open(&place.partial)?, start)?;
        true
    } else {
        let resume = etag.as_deref().map(|etag| Resume { start, etag });
        let mut reply = client.get(url, resume.as_ref())?;
        let part = accept(place, wanted, reply.status(), reply.headers(), resume.as_ref())?;
        let mut file = open(place, part.start)?;
        sums.absorb(&mut file, part.start)?;
        seen(part.start, part.end, None);
        let mut have = part.start;
        let most = part.end.unwrap_or(wanted.size.max());
        room(place, &part)?;
        let got = if part.is_empty() {
            Ok(0)
        } else {
            client.read(reply.body_mut(), most - part.start, |bytes| {
                file.write_all(bytes).with_context(|| format!("{}: cannot be written", place.partial))?;
                sums.update(bytes);
                have += bytes.len() as u64;
                seen(have, part.end, None);
                Ok(())
            })
        };
        if let Err(Fault::Fatal { .. }) = &got {
            // Longer than promised. (A full disk keeps what there is.)
            if have >= most {
                place.discard()?;
            }
        }
        got?;
        if let Some(end) = part.end.filter(|end| have < *end) {
            return Err(Fault::passing(anyhow!("cut: got {have} bytes, expected {end}")));
        }
        if part.end.is_none() {
            seen(have, Some(have), None);
        }
        file.sync_all().with_context(|| format!("{}: cannot be synced", place.partial))?;
        part.start > 0
    };
    match sums.finish(wanted) {
        Ok(record) if !wanted.has_digest() => Ok(record),
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
        Some(etag) if regular && (1..=wanted.size.max()).contains(&place.have()) => Ok(Some(etag)),
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

/// Which bytes of the file a body has.
struct Part {
    start: u64,
    /// Where the file ends, if the answer says it.
    end: Option<u64>,
}

impl Part {
    /// Whether everything is there already.
    fn is_empty(&self) -> bool {
        self.end == Some(self.start) && self.start > 0
    }
}

/// Refuses to start what cannot fit.
fn room(place: &Place, part: &Part) -> Result<(), Fault> {
    let folder = place.whole.parent().context("a file in no folder")?;
    let needed = part.end.unwrap_or(part.start).saturating_sub(part.start).saturating_add(DISK_SPARE_BYTES);
    match predict::free_disk_bytes(folder) {
        Some(free) if free < needed => {
            let error = anyhow!("{folder}: got {free} bytes of free disk, expected at least {needed}");
            Err(Fault::Fatal { error, hint: Some(DISK_HINT.to_owned()) })
        }
        _ => Ok(()),
    }
}

/// Which bytes an answer brings, if they are those that were asked for.
fn accept(
    place: &Place,
    wanted: &Wanted,
    status: StatusCode,
    headers: &HeaderMap,
    resume: Option<&Resume<'_>>,
) -> Result<Part, Fault> {
    let start_over = |why: String| {
        place.discard()?;
        Err(Fault::passing(anyhow!("{why}; starting over")))
    };
    if let Some(encoding) = text(headers, "content-encoding").filter(|encoding| *encoding != "identity") {
        return Err(Fault::fatal(anyhow!("got content encoding {encoding:?}, expected none")));
    }
    let etag = text(headers, "etag");
    let range = text(headers, "content-range").unwrap_or_default();
    let part = match (status, resume) {
        (StatusCode::OK, _) => {
            place.discard()?;
            if let Some(etag) = etag.filter(|etag| is_strong(etag) && etag.len() as u64 <= ETAG_BYTES_MAX) {
                fs::write(&place.etag, etag).with_context(|| format!("{}: cannot be written", place.etag))?;
            }
            let Size::Exactly(end) = wanted.size else { return of_any_length(wanted, headers) };
            Part { start: 0, end: Some(end) }
        }
        (StatusCode::PARTIAL_CONTENT, Some(resume)) => {
            if etag.is_some_and(|etag| etag != resume.etag) {
                return start_over("the file changed while it was fetched".to_owned());
            }
            let end = end_of(range, resume.start).filter(|end| wanted.size.fits(*end));
            if end.is_none() {
                let expected = format!("bytes {}- of {}", resume.start, wanted.size);
                return start_over(format!("got content range {range:?}, expected {expected}"));
            }
            Part { start: resume.start, end }
        }
        // The tag is still right, and nothing is behind the last byte that is here.
        (StatusCode::RANGE_NOT_SATISFIABLE, Some(Resume { start, .. }))
            if matches!(wanted.size, Size::AtMost(_)) && range == format!("bytes */{start}") =>
        {
            return Ok(Part { start: *start, end: Some(*start) });
        }
        (status, _) => return start_over(format!("got status {}", status.as_u16())),
    };
    let expected = part.end.unwrap_or(part.start) - part.start;
    match text(headers, "content-length").map(str::parse::<u64>) {
        Some(Ok(length)) if length == expected => Ok(part),
        None => Ok(part),
        Some(length) => Err(other_length(length.ok(), &expected.to_string())),
    }
}

/// The whole of a file whose size only the server knows.
fn of_any_length(wanted: &Wanted, headers: &HeaderMap) -> Result<Part, Fault> {
    match text(headers, "content-length").map(str::parse::<u64>) {
        None => Ok(Part { start: 0, end: None }),
        Some(Ok(length)) if wanted.size.fits(length) && length > 0 => {
            Ok(Part { start: 0, end: Some(length) })
        }
        Some(length) => Err(other_length(length.ok(), &wanted.size.to_string())),
    }
}

fn other_length(got: Option<u64>, expected: &str) -> Fault {
    let got = got.map_or("nonsense".to_owned(), |length| length.to_string());
    Fault::fatal(anyhow!("got content length {got}, expected {expected}"))
}

/// Where the file ends by a range that begins at `start` and goes to that end.
fn end_of(range: &str, start: u64) -> Option<u64> {
    let (last, end) = range.strip_prefix(&format!("bytes {start}-"))?.split_once('/')?;
    let (last, end) = (last.parse::<u64>().ok()?, end.parse::<u64>().ok()?);
    (last >= start && last.checked_add(1)? == end).then_some(end)
}

fn open(place: &Place, start: u64) -> Result<fs::File, Fault> {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true);
    let file = if start == 0 { options.create_new(true) } else { &mut options }.open(&place.partial);
    let mut file = file.with_context(|| format!("{}: cannot be opened", place.partial))?;
    file.rewind()?;
    Ok(file)
}

pub(crate) fn sync_folder(path: &Utf8Path) -> Result<(), Fault> {
    let folder = path.parent().context("a file in no folder")?;
    fs::File::open(folder)?.sync_all().with_context(|| format!("{folder}: cannot be synced"))?;
    Ok(())
}
