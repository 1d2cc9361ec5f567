//! The packed-weights cache: XNNPACK's own layout of the weights, made once, proved, and mapped afterwards.
//!
//! Without it every start packs a full copy of the weights on the heap. The runtime can write what it packs to a file
//! and map that file the next time, but it checks nothing in it, keeps its descriptors open across `exec`, and
//! extends a file that it can write. So everything around it happens here:
//!
//! ```text
//! find (sidecar fits key) → prove (stamp, else whole SHA-256) → hold (shared lock) → map through the open descriptor
//!      └ absent or wrong → lock → pack into memory → copy, hash, sync, rename → prove again
//! ```
//!
//! **Invariant:** the runtime maps the very file whose bytes were proved, through a descriptor and never by name, and
//! cannot write to it: a shared lock is held until the model is gone, and the runtime writes only under an exclusive one.
//!
//! **Invariant:** no failure of the cache is a failure to load: the weights are packed on the heap then, and
//! [`PackedUse::warning`] says why. No byte that differs from what was packed ever runs.

mod cpu;
mod file;
mod lock;

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd as _;

use camino::Utf8PathBuf;
use model_assets::digest::Digest;

use crate::error::Result;
use crate::ffi::{BackendOption, OptionValue};
use file::Place;

/// How often packing is begun again when another thread's child process got in its way.
const ATTEMPTS_MAX: u32 = 3;

/// Where packed weights are kept, and whose they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedCache {
    /// A directory that only this app writes; it is made when needed.
    pub dir: Utf8PathBuf,
    /// Digest of the model's bytes, proved by the caller: packed weights of another model would run just as well.
    pub model: Digest,
    /// Whether this directory is for one model: making its file removes those of other models, runtimes and CPUs.
    pub exclusive: bool,
}

/// What became of the cache in one load.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum PackedUse {
    /// None was asked for.
    Off,
    /// Mapped: nothing about the file changed since it was last hashed.
    Warm,
    /// Mapped after its whole digest was checked.
    Proved,
    /// Made in this load.
    Made {
        /// What was wrong with the file that it replaced, if there was one.
        replaced: Option<String>,
    },
    /// Not to be had: the weights are on the heap.
    Heap {
        /// Why.
        reason: String,
    },
}

impl PackedUse {
    /// What a person should be told.
    pub fn warning(&self) -> Option<String> {
        match self {
            Self::Off | Self::Warm | Self::Proved | Self::Made { replaced: None } => None,
            Self::Made { replaced: Some(reason) } => {
                Some(format!("packed weights were made again: {reason}"))
            }
            Self::Heap { reason } => Some(format!("weights are packed in memory at every start: {reason}")),
        }
    }
}

/// What loading through the cache needs of the runtime: load with these options besides the caller's, and say what the
/// runtime complained about while it succeeded.
pub(crate) type Load<'a, T> = dyn FnMut(&[BackendOption]) -> Result<(T, String)> + 'a;

/// Loads through the cache. The file, when there is one, must outlive what was loaded.
pub(crate) fn load<T>(cache: &PackedCache, load: &mut Load<'_, T>) -> Result<(T, Option<File>, PackedUse)> {
    let place = Place::new(cache);
    let (held, outcome) = match place.find() {
        Ok(Some((held, true))) => (Some(held), PackedUse::Warm),
        Ok(Some((held, false))) => (Some(held), PackedUse::Proved),
        Ok(None) => make(&place, cache, None, load)?,
        Err(wrong) => make(&place, cache, Some(wrong), load)?,
    };
    let options = held.as_ref().map(options).unwrap_or_default();
    let (loaded, _) = load(&options)?;
    Ok((loaded, held, outcome))
}

/// Makes the file, unless another process just did.
fn make<T>(
    place: &Place,
    cache: &PackedCache,
    replaced: Option<String>,
    load: &mut Load<'_, T>,
) -> Result<(Option<File>, PackedUse)> {
    let heap = |reason: String| Ok((None, PackedUse::Heap { reason }));
    let _lock = match place.lock() {
        Ok(lock) => lock,
        Err(reason) => return heap(reason),
    };
    place.remove_leftovers();
    // Whoever held the lock before may have done the work.
    if let Ok(Some((held, _))) = place.find() {
        return Ok((Some(held), PackedUse::Proved));
    }
    let mut scratch = match place.scratch() {
        Ok(scratch) => scratch,
        Err(reason) => return heap(reason),
    };
    if let Err(reason) = pack(&scratch, load)? {
        return heap(reason);
    }
    match place.keep(&mut scratch).and_then(|()| place.find()) {
        Ok(Some((held, _))) => {
            if cache.exclusive {
                place.remove_others();
            }
            Ok((Some(held), PackedUse::Made { replaced }))
        }
        Ok(None) => heap(format!("{}: vanished after it was made", place.packed())),
        Err(reason) => heap(reason),
    }
}

/// Lets the runtime pack into `scratch`. The outer error is the model's, the inner one the cache's.
fn pack<T>(scratch: &File, load: &mut Load<'_, T>) -> Result<std::result::Result<(), String>> {
    let mut complaint = String::new();
    for _ in 0..ATTEMPTS_MAX {
        if let Err(error) = scratch.set_len(0) {
            return Ok(Err(error.to_string()));
        }
        let (loaded, complaints) = load(&options(scratch))?;
        drop(loaded);
        // The runtime reopens and locks the file for every delegate, and its descriptors survive `fork`: a child
        // process that another thread starts meanwhile holds the lock, and the rest is packed on the heap. It says so.
        if complaints.is_empty() {
            return Ok(Ok(()));
        }
        complaint = complaints;
    }
    Ok(Err(format!("packing was disturbed {ATTEMPTS_MAX} times: {complaint}")))
}

/// The options that make the runtime use an open file.
fn options(file: &File) -> Vec<BackendOption> {
    let option = |key: &str, value| BackendOption {
        backend: c"XnnpackBackend".into(),
        key: CString::new(key).unwrap_or_default(),
        value,
    };
    let path = CString::new(format!("/dev/fd/{}", file.as_raw_fd())).unwrap_or_default();
    vec![
        option("weight_cache_enabled", OptionValue::Bool(true)),
        option("packed_cache_path", OptionValue::Text(path)),
    ]
}
