//! `pack` and `unpack` of the exported `tiny`: the same bytes twice, home again, and nothing that is not proved.
//!
//! Needs `cargo xtask export` first, as `cargo xtask test` does; a missing model fails these tests.
#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use model_assets::{bundle, digest::Digest, manifest::Manifest};

fn xtask(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask")).args(arguments).output().unwrap()
}

fn published(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("model-assets/models/tiny").join(name)
}

fn pack(to: &Path) -> Vec<u8> {
    let output = xtask(&["pack", "tiny", "--out", to.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::read(to).unwrap()
}

/// The files of a bundle, to be spoiled and packed again by the same code.
fn files(bundle: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let open = &mut |entry: &bundle::Entry| fs::File::create_new(folder.path().join(&entry.name));
    let entries = bundle::read(bundle, open).unwrap();
    let content = |entry: bundle::Entry| {
        let bytes = fs::read(folder.path().join(&entry.name)).unwrap();
        (entry.name, bytes)
    };
    entries.into_iter().map(content).collect()
}

fn bundled(mut files: BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    let mut writer = bundle::Writer::new(Vec::new());
    let manifest = files.remove("manifest.json").unwrap();
    writer.entry("manifest.json", manifest.len() as u64, &mut manifest.as_slice()).unwrap();
    for (name, bytes) in files {
        writer.entry(&name, bytes.len() as u64, &mut bytes.as_slice()).unwrap();
    }
    writer.finish().unwrap()
}

/// Unpacking fails with this reason, and what is published stays as it is.
fn refused(bundle: &[u8], reason: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.tar.gz");
    fs::write(&path, bundle).unwrap();
    let before = Digest::of(&fs::read(published("tiny-int8-seq512.pte")).unwrap());
    let output = xtask(&["unpack", path.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains(reason) && said.contains("hint: "), "{said}");
    assert_eq!(Digest::of(&fs::read(published("tiny-int8-seq512.pte")).unwrap()), before);
}

/// One test: all of it reads and writes the one published model.
#[test]
fn a_bundle_is_the_same_twice_comes_home_and_is_believed_in_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let good = pack(&folder.path().join("a.tar.gz"));
    assert_eq!(good, pack(&folder.path().join("b.tar.gz")), "two packs of the same model");

    let manifest = fs::read(published("manifest.json")).unwrap();
    let output = xtask(&["unpack", folder.path().join("a.tar.gz").to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read(published("manifest.json")).unwrap(), manifest, "the manifest as it was");
    let output = xtask(&["verify", "tiny", "--level", "static"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let spoiled = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut files = files(&good);
        change(files.get_mut(name).unwrap());
        bundled(files)
    };
    let flipped = |bytes: &mut Vec<u8>| *bytes.last_mut().unwrap() ^= 1;
    refused(&spoiled("tiny-int8-seq512.pte", &flipped), "sha256");
    refused(&spoiled("tiny-int8-seq512.reference", &flipped), "sha256");
    refused(&spoiled("tiny-int8-seq512.pte", &|bytes| bytes.truncate(1000)), "expected the manifest's");
    let renamed = |change: fn(&mut Manifest)| {
        spoiled("manifest.json", &|bytes| {
            let mut manifest = Manifest::parse(bytes).unwrap();
            change(&mut manifest);
            *bytes = manifest.to_bytes();
        })
    };
    refused(&renamed(|manifest| manifest.model = "../tiny".into()), "expected a plain name");
    refused(&renamed(|manifest| manifest.model = "llama3.2-1b".into()), "is not proved");
    refused(&spoiled("manifest.json", &|bytes| bytes.truncate(100)), "manifest.json");
    let mut more = files(&good);
    more.insert("zz.sh".to_owned(), b"echo".to_vec());
    refused(&bundled(more), "a file that no bundle of `tiny` has");
    let mut fewer = files(&good);
    fewer.remove("tiny-int8-seq512.pte");
    refused(&bundled(fewer), "is not in the artifact");
    refused(&good[..good.len() / 2], "bad.tar.gz");
    refused(&[&good[..], b"x"].concat(), "expected the end of the file");
    refused(b"PK", "bad.tar.gz");
}
