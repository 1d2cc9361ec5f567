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
//! **Invariant:** what is said of the cache is what happened: that the file is mapped is looked up, because the runtime packs
//! on the heap without an error where it cannot map it.
//!
//! **Invariant:** no failure of the cache is a failure to load: the weights are packed on the heap then, and
//! [`PackedWeights::warning`] says why. No byte that differs from what was packed ever runs.

mod ahead;
mod cpu;
mod file;
mod lock;
mod mapped;

use std::ffi::CString;
use std::fs::File;

use camino::{Utf8Path, Utf8PathBuf};
use model_assets::digest::Digest;
use model_assets::evidence::PackedWeights;

use ahead::ReadAhead;

use crate::bytes::Mapped;
use crate::error::Result;
use crate::ffi::{BackendOption, OptionValue};
use file::Place;

/// How often packing is begun again when another thread's child process got in its way.
const ATTEMPTS_MAX: u32 = 3;

/// Where packed weights go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Packing {
    /// On the heap, at every start.
    #[default]
    Heap,
    /// Into a file that later starts map.
    Kept(PackedCache),
    /// Into a file of this directory, without a name, that ends with the model. The system can take its pages back, so that
    /// a model may be larger than the memory; nothing is proved or kept.
    Scratch(Utf8PathBuf),
}

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

/// What loading through the cache needs of the runtime: load with these options besides the caller's, and say what the
/// runtime complained about while it succeeded.
pub(crate) type Load<'a, T> = dyn FnMut(&[BackendOption]) -> Result<(T, String)> + 'a;

/// The packed file that a loaded model reads. It must outlive the model: its lock keeps everybody from writing to it.
#[derive(Debug)]
pub(crate) struct Held {
    _file: File,
    _ahead: Option<ReadAhead>,
}

/// Loads the model of these bytes through the cache.
pub(crate) fn load<T>(
    cache: &PackedCache,
    bytes: &Mapped,
    load: &mut Load<'_, T>,
) -> Result<(T, Option<Held>, PackedWeights)> {
    let place = Place::new(cache);
    let (held, outcome) = match place.find() {
        Ok(Some((held, true))) => (Some(held), PackedWeights::Warm),
        Ok(Some((held, false))) => (Some(held), PackedWeights::Proved),
        Ok(None) => make(&place, cache, bytes, None, load)?,
        Err(wrong) => make(&place, cache, bytes, Some(wrong), load)?,
    };
    let options = held.as_ref().map(options).unwrap_or_default();
    if held.is_some() {
        bytes.expect_few_reads();
    }
    let (loaded, _) = load(&options)?;
    let (held, outcome) = match held {
        Some(file) if !mapped::is_mapped(&file, &place.packed()) => {
            let reason = format!("{}: the runtime did not map it", place.packed());
            (None, PackedWeights::Heap { reason })
        }
        held => (held, outcome),
    };
    // After loading, whose own few reads would wait behind these. In the other cases all of the file was just read.
    let warm = outcome == PackedWeights::Warm;
    let held =
        held.map(|file| Held { _ahead: warm.then(|| ReadAhead::start(&file).ok()).flatten(), _file: file });
    Ok((loaded, held, outcome))
}

/// Makes the file, unless another process just did.
fn make<T>(
    place: &Place,
    cache: &PackedCache,
    bytes: &Mapped,
    replaced: Option<String>,
    load: &mut Load<'_, T>,
) -> Result<(Option<File>, PackedWeights)> {
    let heap = |reason: String| Ok((None, PackedWeights::Heap { reason }));
    let _lock = match place.lock() {
        Ok(lock) => lock,
        Err(reason) => return heap(reason),
    };
    place.remove_leftovers();
    // Another process may have done the work while it held the lock.
    if let Ok(Some((held, _))) = place.find() {
        return Ok((Some(held), PackedWeights::Proved));
    }
    // Packed weights take about as much as the file that they come from. Not to be told by a disk that is full after all
    // the work, again at every start.
    if let Err(reason) = place.has_room(bytes.as_slice().len()) {
        return heap(reason);
    }
    let mut scratch = match pack(place, load)? {
        Ok(scratch) => scratch,
        Err(reason) => return heap(reason),
    };
    match place.keep(&mut scratch).and_then(|()| place.find()) {
        Ok(Some((held, _))) => {
            if cache.exclusive {
                place.remove_others();
            }
            Ok((Some(held), PackedWeights::Made { replaced }))
        }
        Ok(None) => heap(format!("{}: vanished after it was made", place.packed())),
        Err(reason) => heap(reason),
    }
}

/// Loads the model of these bytes with its weights packed into a file for this once. Where that does not work they are
/// packed on the heap, and the outcome says why.
pub(crate) fn load_once<T>(
    dir: &Utf8Path,
    bytes: &Mapped,
    load: &mut Load<'_, T>,
) -> Result<(T, Option<Held>, Option<PackedWeights>)> {
    let path = file::temporary(&dir.join("packed"));
    // A full disk under a mapping would kill the process. Packed weights take about as much as the file they come from.
    let room = file::has_room(dir, bytes.as_slice().len() as u64);
    let reason = match room.and_then(|()| file::unnamed(&path)) {
        Ok(file) => {
            let (loaded, complaints) = load(&options(&file))?;
            if complaints.is_empty() && mapped::is_mapped(&file, &path) {
                return Ok((loaded, Some(Held { _ahead: None, _file: file }), None));
            }
            format!("{path}: the runtime packed on the heap: {complaints}")
        }
        Err(reason) => reason,
    };
    Ok((load(&[])?.0, None, Some(PackedWeights::Heap { reason })))
}

/// Lets the runtime pack into memory. The outer error is the model's, the inner one the cache's.
fn pack<T>(place: &Place, load: &mut Load<'_, T>) -> Result<std::result::Result<File, String>> {
    let mut complaint = String::new();
    for _ in 0..ATTEMPTS_MAX {
        // The runtime reopens and locks the file for every delegate, and its descriptors survive `fork`: a child
        // process that another thread starts meanwhile holds the lock, and the rest is packed on the heap. The runtime
        // says so. The child may hold it as long as it lives, so every attempt has a file of its own.
        let scratch = match place.scratch() {
            Ok(scratch) => scratch,
            Err(reason) => return Ok(Err(reason)),
        };
        let (loaded, complaints) = load(&options(&scratch))?;
        drop(loaded);
        if complaints.is_empty() {
            return Ok(Ok(scratch));
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
    let path = CString::new(file::by_descriptor(file)).unwrap_or_default();
    vec![
        option("weight_cache_enabled", OptionValue::Bool(true)),
        option("packed_cache_path", OptionValue::Text(path)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Opens the file by the name in the options, as the runtime does, and locks it; returns what the runtime would report.
    fn runtime(options: &[BackendOption]) -> (File, String) {
        let path = options.iter().find_map(|option| match &option.value {
            OptionValue::Text(path) => path.to_str().ok(),
            _ => None,
        });
        let file = File::options().read(true).write(true).open(path.unwrap()).unwrap();
        let complaint = lock::try_shared(&file).err().map(|error| error.to_string());
        (file, complaint.unwrap_or_default())
    }

    fn place(dir: &tempfile::TempDir) -> Place {
        let dir = Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap();
        Place::new(&PackedCache { dir, model: Digest::of(b"model"), exclusive: false })
    }

    #[test]
    fn a_child_that_keeps_the_lock_does_not_spoil_the_next_attempt() {
        let dir = tempfile::tempdir().unwrap();
        // What a child process inherits while the first attempt is under way, and keeps for as long as it lives.
        let mut inherited = None;
        let mut attempts = 0;
        let packed = pack(&place(&dir), &mut |options| {
            attempts += 1;
            let (file, complaint) = runtime(options);
            if inherited.is_some() {
                return Ok(((), complaint));
            }
            lock::exclusive(&file).unwrap();
            inherited = Some(file);
            Ok(((), runtime(options).1))
        });
        assert!(packed.unwrap().is_ok());
        assert_eq!(attempts, 2);
    }

    #[test]
    fn one_that_is_disturbed_again_and_again_gives_up_and_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let packed = pack(&place(&dir), &mut |_| Ok(((), "no lock".to_owned())));
        assert_eq!(packed.unwrap().unwrap_err(), "packing was disturbed 3 times: no lock");
    }

    #[test]
    fn a_file_that_the_runtime_does_not_map_is_not_called_mapped() {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap();
        let model = path.join("model.pte");
        std::fs::write(&model, [0; 64]).unwrap();
        let bytes = crate::ModelBytes::open(&model).unwrap().map().unwrap();
        let cache = PackedCache { dir: path, model: Digest::of(b"model"), exclusive: false };
        // Takes the file and packs on the heap all the same, as the runtime does when the kernels are other ones.
        let ((), held, outcome) = load(&cache, &bytes, &mut |_| Ok(((), String::new()))).unwrap();
        let Some(reason) = outcome.warning() else { panic!("{outcome:?}") };
        assert!(held.is_none() && reason.ends_with("the runtime did not map it"), "{reason}");
    }

    #[test]
    fn a_disk_without_room_is_seen_before_the_work() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(&dir);
        assert_eq!(place.has_room(1), Ok(()));
        let reason = place.has_room(usize::MAX).unwrap_err();
        assert!(reason.contains(" bytes free, expected "), "{reason}");
    }
}
