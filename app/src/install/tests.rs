//! A model in a file, with the real one.

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
            if done * share >= MODEL.file_bytes { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
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
        let refusal = open(&MODEL, Asset::File(place.asset.clone()), &place.cache, &mut on()).unwrap_err();
        assert!(refusal.reason.contains("sha256: manifest.json: got "), "{refusal:?}");
        assert!(refusal.cause == Cause::Model && refusal.hint.contains(MODEL.sha256), "{refusal:?}");
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
    assert_eq!((whole.cause, missing.cause), (Cause::Model, Cause::App));
}

/// The model as a linked one, published at `path`.
fn published_at(path: &Utf8Path) -> Model {
    Model { pte: &[], published: Some(path.to_string().leak()), ..MODEL }
}

#[test]
fn in_a_development_build_a_linked_model_is_found_where_it_was_published() {
    let place = place(0, 0, |_| {});
    let model = published_at(&place.asset);
    let bytes = open(&model, Asset::Default, &place.cache, &mut on()).unwrap();
    let ModelBytes::Map { path, .. } = bytes else { panic!("expected a file") };
    assert_eq!(path, place.asset);
    // It is proved like any other file.
    let mut bytes = fs::read(&place.asset).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&place.asset, bytes).unwrap();
    let refusal = open(&model, Asset::Default, &place.cache, &mut on()).unwrap_err();
    assert_eq!(refusal.cause, Cause::Model, "{}", refusal.reason);
}

#[test]
fn a_developer_is_told_how_to_make_the_model_and_a_user_to_install_it() {
    let place = place(0, 0, |_| {});
    let missing = place.cache.join("nowhere.pte");
    let told = |model: &Model| open(model, Asset::Default, &place.cache, &mut on()).unwrap_err();
    let refusal = told(&published_at(&missing));
    assert!(refusal.reason.starts_with(missing.as_str()), "{}", refusal.reason);
    assert_eq!(refusal.hint, "run: cargo xtask export tiny, then: cargo xtask app run tiny");
    let refusal = told(&Model { pte: &[], published: None, ..MODEL });
    assert!(refusal.hint.starts_with("install the app again"), "{}", refusal.hint);
}
