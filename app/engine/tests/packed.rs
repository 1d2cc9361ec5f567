//! The packed-weights cache on the exported default model: made once, proved, never believed when it is wrong, and
//! never in the way.
//!
//! A process of its own, that starts no other: a child that another test starts while the runtime packs inherits the
//! runtime's lock, and the weights may go to the heap instead.
#![expect(clippy::unwrap_used, reason = "a test ends at what it does not foresee")]

#[path = "tiny/files.rs"]
mod files;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use engine::{LoadOptions, Model, ModelBytes, PackedCache, Packing, Session};
use files::{folder, only, tiny_pte};
use model_assets::digest::Digest;
use model_assets::evidence::PackedWeights;

const MADE: Option<PackedWeights> = Some(PackedWeights::Made { replaced: None });

fn cache(dir: &Utf8Path) -> PackedCache {
    let model = Digest::of(&fs::read(tiny_pte()).unwrap());
    PackedCache { dir: dir.to_owned(), model, exclusive: false }
}

/// Loads through the cache; the logits of a few tokens, and what became of the cache.
fn run(packing: Packing) -> (Vec<u32>, Option<PackedWeights>) {
    let options = LoadOptions { packing, ..LoadOptions::default() };
    let mut session = Session::new(Model::load(ModelBytes::open(&tiny_pte()).unwrap(), &options).unwrap());
    session.model().release_pages();
    let logits = session.prefill(&[1, 2, 3]).unwrap().iter().map(|logit| logit.to_bits()).collect();
    (logits, session.model().packed_weights().cloned())
}

#[test]
fn it_is_made_once_and_mapped_read_only_afterwards() {
    let (_folder, dir) = folder();
    let expected = run(Packing::Heap);
    assert_eq!(expected.1, None);
    assert_eq!(run(Packing::Kept(cache(&dir))), (expected.0.clone(), MADE));
    let packed = only(&dir, "bin");
    let look = || {
        let data = packed.metadata().unwrap();
        (
            data.ino(),
            data.len(),
            data.mtime_nsec(),
            data.permissions().mode() & 0o777,
            fs::read(&packed).unwrap(),
        )
    };
    let made = look();
    assert!(made.1 > 1_000_000, "the packed weights are in the file: {} bytes", made.1);
    assert_eq!(made.3, 0o444);
    std::thread::sleep(Duration::from_millis(50));
    run(Packing::Kept(cache(&dir)));
    for _ in 0..3 {
        assert_eq!(run(Packing::Kept(cache(&dir))), (expected.0.clone(), Some(PackedWeights::Warm)));
    }
    assert!(look() == made, "loading does not touch it");
    let temporary = dir.read_dir_utf8().unwrap().any(|entry| entry.unwrap().file_name().contains(".new"));
    assert!(!temporary);
}

#[test]
fn a_damaged_file_is_never_run() {
    let (_folder, dir) = folder();
    let (expected, _) = run(Packing::Kept(cache(&dir)));
    // Remembered as proved: the damage must show in spite of that.
    std::thread::sleep(Duration::from_millis(50));
    run(Packing::Kept(cache(&dir)));
    let (packed, sidecar) = (only(&dir, "bin"), only(&dir, "json"));
    let writable = |path: &Utf8Path| fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    let damage = |change: &dyn Fn(&mut Vec<u8>), path: &Utf8Path, said: &str| {
        let mut bytes = fs::read(path).unwrap();
        change(&mut bytes);
        writable(path);
        fs::write(path, bytes).unwrap();
        let (logits, outcome) = run(Packing::Kept(cache(&dir)));
        assert_eq!(logits, expected, "{said}");
        let Some(PackedWeights::Made { replaced: Some(reason) }) = &outcome else {
            panic!("{said}: {outcome:?}")
        };
        assert!(reason.contains(said), "{reason}");
        assert!(outcome.as_ref().and_then(PackedWeights::warning).is_some_and(|text| text.contains(said)));
        assert_eq!(run(Packing::Kept(cache(&dir))).0, expected);
    };
    let end = fs::read(&packed).unwrap().len();
    for place in [0, 100_000, end / 2, end - 30, end - 1] {
        damage(&|bytes| bytes[place] ^= 1, &packed, "got sha256");
    }
    damage(&|bytes| bytes.truncate(end - 1), &packed, "got size");
    damage(&|bytes| bytes.clear(), &packed, "got size 0");
    damage(&|bytes| bytes.truncate(20), &sidecar, ".json");
    damage(&|bytes| bytes.insert(bytes.len() - 2, b'x'), &sidecar, ".json");
    let other = Digest::of(b"another model").to_string();
    let replace = |bytes: &mut Vec<u8>| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        *bytes = text.replace(&cache(&dir).model.to_string(), &other).into_bytes();
    };
    damage(&replace, &sidecar, &other);
    // A packed file that nobody vouches for does not count; a sidecar without one neither.
    for missing in [&sidecar, &packed] {
        fs::remove_file(missing).unwrap();
        assert_eq!(run(Packing::Kept(cache(&dir))), (expected.clone(), MADE));
    }
}

#[test]
fn a_directory_that_cannot_be_written_costs_the_cache_and_nothing_else() {
    let (_folder, dir) = folder();
    let file = dir.join("file");
    fs::write(&file, "no directory").unwrap();
    let (expected, _) = run(Packing::Heap);
    for dir in [file, Utf8PathBuf::from("/proc/nowhere")] {
        let (logits, outcome) = run(Packing::Kept(cache(&dir)));
        assert_eq!(logits, expected);
        assert!(
            matches!(&outcome, Some(PackedWeights::Heap { reason }) if reason.contains(dir.as_str())),
            "{outcome:?}"
        );
        assert!(outcome.as_ref().and_then(PackedWeights::warning).is_some());
    }
}

#[test]
fn another_model_has_another_file_and_an_exclusive_directory_holds_one() {
    let (_folder, dir) = folder();
    let other = |exclusive| PackedCache { model: Digest::of(b"another"), exclusive, ..cache(&dir) };
    run(Packing::Kept(cache(&dir)));
    let first = only(&dir, "bin");
    fs::write(dir.join("packed-0123456789abcdef.bin.77-1.new"), "left by a killed process").unwrap();
    fs::write(dir.join("unrelated"), "stays").unwrap();
    assert_eq!(run(Packing::Kept(other(false))).1, MADE);
    assert!(first.exists());
    fs::remove_file(dir.join(first.file_name().unwrap())).unwrap();
    assert_eq!(run(Packing::Kept(PackedCache { exclusive: true, ..cache(&dir) })).1, MADE);
    assert_eq!(only(&dir, "bin"), first);
    assert!(dir.join("unrelated").exists());
    let left = dir.read_dir_utf8().unwrap().any(|entry| entry.unwrap().file_name().contains(".new"));
    assert!(!left);
}

#[test]
fn what_a_killed_maker_left_goes_before_the_next_one_packs() {
    let (_folder, dir) = folder();
    run(Packing::Kept(cache(&dir)));
    let packed = only(&dir, "bin");
    let left = [format!("{packed}.77-1.new"), format!("{}.77-1.new", only(&dir, "json"))];
    let of_others = dir.join("packed-0123456789abcdef.bin.77-1.new");
    for path in left.iter().map(String::as_str).chain([of_others.as_str()]) {
        fs::write(path, "left by a killed process").unwrap();
    }
    fs::remove_file(&packed).unwrap();
    assert_eq!(run(Packing::Kept(cache(&dir))).1, MADE);
    assert_eq!(left.map(|path| Utf8Path::new(&path).exists()), [false, false]);
    // Its maker may be at work: the lock in hand is not the one of that key.
    assert!(of_others.exists());
}

#[test]
fn a_file_for_this_once_leaves_nothing_and_changes_no_bit() {
    let (_folder, dir) = folder();
    let expected = run(Packing::Heap);
    assert_eq!(run(Packing::Scratch(dir.clone())), expected);
    assert_eq!(dir.read_dir_utf8().unwrap().count(), 0);
    // Where no file can be made the weights are on the heap, and that is told.
    let (logits, outcome) = run(Packing::Scratch(dir.join("missing")));
    let Some(PackedWeights::Heap { reason }) = outcome else { panic!("{outcome:?}") };
    assert!(logits == expected.0 && reason.contains("missing/packed."), "{reason}");
}
