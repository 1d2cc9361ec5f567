//! The one pass over every byte: the file's digest, the digests that weights name themselves, and what weights must
//! not be.
//!
//! With a promised digest that matches, the self-named digests were already checked when that promise was made, so
//! they are hashed only without a promise, or to find the place when the promise is broken.

use sha2::{Digest, Sha256};

use super::check_id::CheckId::{C0, C11, N5, N6, Q11b, Q17, Q18};
use super::expect::Expect;
use super::limits;
use super::read::ReadAt;
use super::report::{Place, Report, Severity};
use super::segment::Segments;
use super::witness::Same;

/// Floating-point formats whose exponents are inspected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Float {
    F16,
    Bf16,
    F32,
}

/// What to look for in a range of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Weights: not all bytes the same (zero, or the packed zero of 4-bit weights), and finite when floating-point.
    Weight(Option<Float>),
    /// Scales: finite and positive.
    Scale(Float),
}

/// A range of the file to look at while it is hashed.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    pub(super) at: u64,
    pub(super) bytes: u64,
    pub(super) look: Look,
    pub(super) place: String,
}

/// Weights shorter than this may well be uniform.
const UNIFORM_BYTES_MIN: u64 = 64;

pub(super) fn check(
    file: &dyn ReadAt,
    file_bytes: u64,
    (segments, watches): (&Segments<'_>, &[Watch]),
    mut same: Same,
    expect: &Expect,
    report: &mut Report,
) {
    let mut observers: Vec<Observer<'_>> = watches.iter().filter_map(Observer::of_watch).collect();
    if expect.sha256.is_none() {
        observers.extend(named(segments));
    }
    let look = &mut |offset: u64, bytes: &[u8]| same.feed(offset, bytes);
    let Some(digest) = scan(file, file_bytes, &mut observers, look, report) else { return };
    report.sha256 = Some(digest);
    if let Err(range) = same.judge() {
        let got = format!("other bytes at {} to {}", range.start, range.end);
        report.reject(
            C11,
            &Place::root("file"),
            "the file changed while it was read",
            got,
            "the same bytes twice",
        );
    }
    observers.iter().for_each(|observer| observer.judge(expect, report));
    let Some(expected) = expect.sha256.filter(|expected| *expected != digest) else { return };
    let at = Place::root("file");
    report.reject(N6, &at, "the file is not the promised one", hex(&digest), hex(&expected));
    let mut observers: Vec<Observer<'_>> = named(segments).collect();
    if scan(file, file_bytes, &mut observers, &mut |_, _| {}, report).is_some() {
        observers.iter().for_each(|observer| observer.judge(expect, report));
    }
}

/// The digest alone, for a file whose structure cannot be read.
pub(super) fn digest_only(file: &dyn ReadAt, file_bytes: u64, expect: &Expect, report: &mut Report) {
    report.sha256 = scan(file, file_bytes, &mut [], &mut |_, _| {}, report);
    if let (Some(digest), Some(expected)) = (report.sha256, expect.sha256)
        && digest != expected
    {
        report.reject(
            N6,
            &Place::root("file"),
            "the file is not the promised one",
            hex(&digest),
            hex(&expected),
        );
    }
}

/// Named data whose key is a digest, also behind the prefix that scales carry.
fn named<'s>(segments: &'s Segments<'_>) -> impl Iterator<Item = Observer<'s>> {
    segments.named.iter().filter_map(|(key, &slot)| {
        let digest = key.strip_prefix("scale_").unwrap_or(key);
        let is_digest =
            digest.len() == 64 && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let (start, size) = segments.ranges.get(slot).copied().flatten().filter(|_| is_digest)?;
        let state = State::Digest { key, digest, hasher: Box::new(Sha256::new()) };
        Some(Observer { start, end: start.checked_add(size)?, state })
    })
}

struct Observer<'s> {
    start: u64,
    end: u64,
    state: State<'s>,
}

enum State<'s> {
    Digest { key: &'s str, digest: &'s str, hasher: Box<Sha256> },
    Watch { watch: &'s Watch, first: Option<u8>, uniform: bool, unsound: bool },
}

impl<'s> Observer<'s> {
    fn of_watch(watch: &'s Watch) -> Option<Self> {
        let uniform = matches!(watch.look, Look::Weight(_)) && watch.bytes >= UNIFORM_BYTES_MIN;
        let state = State::Watch { watch, first: None, uniform, unsound: false };
        Some(Self { start: watch.at, end: watch.at.checked_add(watch.bytes)?, state })
    }

    fn feed(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Digest { hasher, .. } => hasher.update(bytes),
            State::Watch { watch, first, uniform, unsound } => match watch.look {
                Look::Scale(float) => *unsound |= !all_positive(bytes, float),
                Look::Weight(float) => {
                    if *uniform {
                        let first = *first.get_or_insert(bytes.first().copied().unwrap_or(0));
                        *uniform = bytes.iter().all(|&byte| byte == first);
                    }
                    if let Some(float) = float {
                        *unsound |= !all_finite(bytes, float);
                    }
                }
            },
        }
    }

    fn judge(&self, expect: &Expect, report: &mut Report) {
        match &self.state {
            State::Digest { key, digest, hasher } => {
                let got = hex(&hasher.clone().finalize());
                if got != *digest {
                    let at = Place::root_named("named data", key);
                    report.reject(N5, &at, "the bytes do not match the digest that names them", got, digest);
                }
            }
            State::Watch { watch, uniform, unsound, .. } => {
                let severity = if expect.sound_weights { Severity::Reject } else { Severity::Warn };
                let at = Place::root(&watch.place);
                if *uniform {
                    let message = "every byte of the weight is the same";
                    report.add(
                        severity,
                        Q17,
                        &at,
                        message,
                        format!("{} equal bytes", watch.bytes),
                        "weights",
                    );
                }
                match watch.look {
                    Look::Scale(_) if *unsound => {
                        report.reject(
                            Q11b,
                            &at,
                            "a stored scale is not finite and positive",
                            "0, < 0 or not finite",
                            "> 0",
                        );
                    }
                    Look::Weight(_) if *unsound => {
                        report.add(
                            severity,
                            Q18,
                            &at,
                            "a weight is not finite",
                            "infinity or not a number",
                            "finite",
                        );
                    }
                    _ => {}
                }
            }
        }
    }
}

/// Reads the file once, from its first byte to its last; `look` sees all of it.
fn scan(
    file: &dyn ReadAt,
    file_bytes: u64,
    observers: &mut [Observer<'_>],
    look: &mut dyn FnMut(u64, &[u8]),
    report: &mut Report,
) -> Option<[u8; 32]> {
    observers.sort_by_key(|observer| observer.start);
    let mut whole = Sha256::new();
    let mut chunk = vec![0; limits::HASH_CHUNK_BYTES];
    let (mut offset, mut begun) = (0_u64, 0_usize);
    let mut active: Vec<usize> = Vec::new();
    while offset < file_bytes {
        let left = file_bytes.saturating_sub(offset);
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
        let buffer = chunk.get_mut(..take)?;
        if let Err(error) = file.read_exact_at(buffer, offset) {
            let at = Place::root("file");
            report.reject(C0, &at, "the file cannot be read", error, format!("{take} bytes at {offset}"));
            return None;
        }
        whole.update(&*buffer);
        look(offset, buffer);
        let end = offset.saturating_add(u64::try_from(take).ok()?);
        while observers.get(begun).is_some_and(|observer| observer.start < end) {
            active.push(begun);
            begun = begun.saturating_add(1);
        }
        active.retain(|&number| {
            let Some(observer) = observers.get_mut(number) else { return false };
            let from = usize::try_from(observer.start.saturating_sub(offset)).unwrap_or(usize::MAX);
            let to = usize::try_from(observer.end.saturating_sub(offset)).unwrap_or(usize::MAX).min(take);
            if let Some(bytes) = buffer.get(from.min(to)..to) {
                observer.feed(bytes);
            }
            observer.end > end
        });
        offset = end;
    }
    Some(whole.finalize().into())
}

fn all_finite(bytes: &[u8], float: Float) -> bool {
    // Folding without early exit lets the compiler use wide registers.
    match float {
        Float::F32 => {
            let (items, _) = bytes.as_chunks();
            items
                .iter()
                .fold(true, |good, &item| good & (u32::from_le_bytes(item) & 0x7f80_0000 != 0x7f80_0000))
        }
        Float::F16 | Float::Bf16 => {
            let mask = if float == Float::F16 { 0x7c00 } else { 0x7f80 };
            let (items, _) = bytes.as_chunks();
            items.iter().fold(true, |good, &item| good & (u16::from_le_bytes(item) & mask != mask))
        }
    }
}

fn all_positive(bytes: &[u8], float: Float) -> bool {
    let positive = match float {
        Float::F32 => {
            let (items, _) = bytes.as_chunks();
            items.iter().all(|&item| f32::from_le_bytes(item) > 0.0)
        }
        // The sign bit of a 16-bit float is its highest, and zero is all other bits zero.
        Float::F16 | Float::Bf16 => {
            let (items, _) = bytes.as_chunks();
            items.iter().all(|&item| (1..0x8000).contains(&u16::from_le_bytes(item)))
        }
    };
    positive && all_finite(bytes, float)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
