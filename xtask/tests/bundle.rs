//! `pack` and `fetch FILE`: the same bytes twice, home again, and nothing that is not proved.
#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

mod tree;

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::Stdio,
};

use model_assets::{digest::Digest, manifest::Manifest};
use tree::{Files, MANIFEST, PTE, REFERENCE, SIGNATURE, Tree, bundled, sha256, two_models, unbundled};

fn pack(tree: &Tree, to: &Path) -> Vec<u8> {
    let (code, text) = tree.run(&["pack", "tiny", "--out", to.to_str().unwrap()]);
    assert_eq!(code, 0, "{text}");
    fs::read(to).unwrap()
}

/// A tree with the exported model, and that model as a bundle.
fn stage() -> (Tree, Files) {
    let (tree, [model, _]) = (Tree::new(), two_models());
    tree.put(&model);
    let bundle = pack(&tree, &tree.path("good.tar.gz"));
    (tree, unbundled(&bundle))
}

/// Fetching fails with this reason, and what is published stays as it is.
fn refused(tree: &Tree, name: &str, bundle: &[u8], code: i32, reason: &str) {
    fs::write(tree.path("bad.tar.gz"), bundle).unwrap();
    let before = tree.whole(name);
    let (got, text) = tree.run(&["fetch", tree.path("bad.tar.gz").to_str().unwrap()]);
    assert_eq!(got, code, "{name}: {text}");
    assert!(text.contains(reason) && text.contains("hint: "), "{name}: `{reason}` is not in:\n{text}");
    assert_eq!(tree.whole(name), before, "{name}");
    tree.tidy(name);
}

#[test]
fn a_bundle_is_the_same_twice_and_comes_home() {
    let (tree, [first, second]) = (Tree::new(), two_models());
    tree.put(&first);
    let good = pack(&tree, &tree.path("a.tar.gz"));
    assert_eq!(good, pack(&tree, &tree.path("b.tar.gz")), "two packs of the same model");
    tree.put(&second);
    let (code, text) = tree.run(&[
        "fetch",
        tree.path("a.tar.gz").to_str().unwrap(),
        "--sha256",
        &Digest::of(&good).to_string(),
    ]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(tree.whole("home"), sha256(&first));
    assert_eq!(fs::read(tree.model(MANIFEST)).unwrap(), first[MANIFEST], "the manifest as it was");
    tree.tidy("home");
    let (code, text) = tree.run(&["verify", "tiny", "--level", "static"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(good, pack(&tree, &tree.path("a.tar.gz")), "packed again where it came home");
}

#[test]
fn a_signed_bundle_comes_home_with_its_signature_and_another_models_is_refused() {
    let tree = Tree::new();
    let [first, second] = tree.signed(two_models());
    tree.put(&first);
    let good = pack(&tree, &tree.path("a.tar.gz"));
    assert_eq!(unbundled(&good)[SIGNATURE], first[SIGNATURE]);
    tree.put(&second);
    let mut mixed = unbundled(&good);
    mixed.insert(SIGNATURE.to_owned(), second[SIGNATURE].clone());
    refused(
        &tree,
        "another model's signature",
        &bundled(mixed.clone()),
        25,
        "signature-digest: manifest.json",
    );
    mixed.insert(SIGNATURE.to_owned(), b"{}".to_vec());
    refused(&tree, "no signature at all", &bundled(mixed), 25, "signature-malformed: model.sig");
    assert_eq!(fs::read(tree.model(SIGNATURE)).unwrap(), second[SIGNATURE]);

    let file = tree.path("a.tar.gz").to_str().unwrap().to_owned();
    let (code, text) = tree.run(&["fetch", &file]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(tree.whole("home"), sha256(&first), "with its own signature, which `whole` demands");
    assert_eq!(fs::read(tree.model(SIGNATURE)).unwrap(), first[SIGNATURE]);
    tree.tidy("home");
    let (code, text) = tree.run(&["sign", "tiny", "--check"]);
    assert_eq!(code, 0, "{text}");
    // A key that this tree's releases do not know: fetched with a warning, refused by the release.
    tree.put(&second);
    fs::write(tree.path("model-assets/models/signers.toml"), "schema = 1\n").unwrap();
    let (code, text) = tree.run(&["fetch", &file]);
    assert!(code == 0 && text.contains("warning: signature-key: model.sig: got key "), "{text}");
    assert_eq!(fs::read(tree.model(SIGNATURE)).unwrap(), first[SIGNATURE]);
    let (code, text) = tree.run(&["pack", "tiny", "--release"]);
    assert!(code == 25 && text.contains("signature-key"), "{text}");
}

#[test]
fn contents_that_are_not_what_the_manifest_says() {
    let (tree, good) = stage();
    let changed = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut files = good.clone();
        change(files.get_mut(name).unwrap());
        bundled(files)
    };
    let flipped = |bytes: &mut Vec<u8>| *bytes.last_mut().unwrap() ^= 1;
    refused(&tree, "flipped model", &changed(PTE, &flipped), 5, "sha256");
    refused(&tree, "flipped reference", &changed(REFERENCE, &flipped), 5, "sha256");
    refused(&tree, "manifest cut short", &changed(MANIFEST, &|bytes| bytes.truncate(100)), 5, MANIFEST);
    let by_manifest = |change: fn(&mut Manifest)| {
        changed(MANIFEST, &|bytes| {
            let mut manifest = Manifest::parse(bytes).unwrap();
            change(&mut manifest);
            *bytes = manifest.to_bytes();
        })
    };
    let name = by_manifest(|manifest| manifest.model = "../tiny".into());
    refused(&tree, "model named by a path", &name, 5, "expected a plain name");
    let unknown = by_manifest(|manifest| manifest.model = "unknown".into());
    refused(&tree, "model without a recipe here", &unknown, 5, "unknown/recipe.toml: no such file");
    let digest = by_manifest(|manifest| manifest.sha256 = Digest::of(b"other"));
    refused(&tree, "another digest in the manifest", &digest, 5, "sha256");
    for missing in [PTE, REFERENCE, "export_pte_log.txt"] {
        let mut files = good.clone();
        files.remove(missing);
        refused(&tree, missing, &bundled(files), 5, "is not in the artifact");
    }
    let only = Files::from([(MANIFEST.to_owned(), good[MANIFEST].clone())]);
    refused(&tree, "nothing but a manifest", &bundled(only), 5, "got nothing but manifest.json");
    let whole = bundled(good.clone());
    refused(&tree, "half of it", &whole[..whole.len() / 2], 5, "bad.tar.gz");
    refused(&tree, "bytes behind it", &[&whole[..], b"x"].concat(), 5, "expected the end of the file");
    refused(&tree, "a zip archive", b"PK", 5, "bad.tar.gz");
    let (code, text) =
        tree.run(&["fetch", tree.path("good.tar.gz").to_str().unwrap(), "--sha256", &"0".repeat(64)]);
    assert!(code == 5 && text.contains("expected --sha256 0000"), "{text}");
}

/// An archive that stops right behind an entry's header: what is refused was refused before a byte of the entry came.
fn until_header(files: &Files, name: &str) -> Vec<u8> {
    let whole = bundled(files.clone());
    let mut archive = Vec::new();
    flate2::read::GzDecoder::new(&whole[..]).read_to_end(&mut archive).unwrap();
    let header = archive
        .chunks(512)
        .position(|block| block.starts_with(name.as_bytes()) && block[257..].starts_with(b"ustar"));
    let end = (header.unwrap() + 1) * 512;
    let mut gzip =
        flate2::GzBuilder::new().operating_system(0xff).write(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &archive[..end]).unwrap();
    gzip.finish().unwrap()
}

#[test]
fn what_the_manifest_does_not_admit_is_refused_at_its_header() {
    let (tree, good) = stage();
    let mut renamed = good.clone();
    let bytes = renamed.remove(PTE).unwrap();
    renamed.insert("other.pte".to_owned(), bytes);
    let none = "got a file that no bundle of `tiny` has";
    refused(&tree, "a model of another name", &until_header(&renamed, "other.pte"), 5, none);
    let mut more = good.clone();
    more.insert("zz.sh".to_owned(), b"echo".to_vec());
    refused(&tree, "a script", &until_header(&more, "zz.sh"), 5, none);
    for (name, change) in [(PTE, -1), (PTE, 1), (REFERENCE, -1), (REFERENCE, 1)] {
        let mut files = good.clone();
        let bytes = files.get_mut(name).unwrap();
        bytes.resize(bytes.len().checked_add_signed(change).unwrap(), 0);
        refused(&tree, "another size", &until_header(&files, name), 5, "expected the manifest's");
    }
    // What is admitted goes on to its bytes, which are not there.
    let (code, text) = {
        fs::write(tree.path("bad.tar.gz"), until_header(&good, PTE)).unwrap();
        tree.run(&["fetch", tree.path("bad.tar.gz").to_str().unwrap()])
    };
    assert!(code == 5 && !text.contains("expected the manifest's") && !text.contains(none), "{text}");
}

/// Ctrl-C while a file is read or written: the pipe holds the command inside a file for as long as the test wants.
#[test]
fn ctrl_c_inside_a_file_is_seen() {
    let (tree, [first, second]) = (Tree::new(), two_models());
    tree.put(&second);
    let bundle = bundled(first);
    let pipe = tree.path("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .unwrap();
    let child = tree
        .xtask(&["fetch", pipe.to_str().unwrap(), "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut writer = fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    // Inside the model: it is most of the first half.
    std::io::Write::write_all(&mut writer, &bundle[..bundle.len() / 4]).unwrap();
    let part = tree.path(".proofmark/fetch/artifact").join(PTE);
    while !part.metadata().is_ok_and(|data| data.len() > 0) {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let pid = rustix::process::Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    // More bytes, so that it comes to the next block; it may well be gone.
    let _ = std::io::Write::write_all(&mut writer, &bundle[bundle.len() / 4..]);
    drop(writer);
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(text.contains("interrupted") && text.contains("nothing was published"), "{text}");
    let proved = BufReader::new(&output.stdout[..]).lines().any(|line| line.unwrap().contains("prove"));
    assert!(!proved, "it went on to the end of the archive");
    assert_eq!(tree.whole("after Ctrl-C"), sha256(&second));
    tree.tidy("after Ctrl-C");
}

/// Every abuse in the documentation names a test that exists, and there are more than forty.
#[test]
fn every_documented_abuse_has_its_test() {
    let sources = [
        include_str!("bundle.rs"),
        include_str!("ci.rs"),
        include_str!("../../model-assets/tests/bundle.rs"),
        include_str!("fetch_url.rs"),
    ];
    let text = include_str!("../../docs/bundle.md");
    let archives = text.split("## Archives").nth(1).unwrap().split("## Addresses").next().unwrap();
    let rows: Vec<_> = archives.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    for row in &rows {
        let test = row.split('|').nth(3).unwrap().split('`').nth(1);
        let test = test.unwrap_or_else(|| panic!("no test in: {row}"));
        assert!(
            sources.iter().any(|source| source.contains(&format!("fn {test}("))),
            "{test} does not exist: {row}"
        );
    }
    let behaviours = include_str!("../../docs/supply-chain-fetch.md");
    let count = |text: &str| text.lines().filter(|line| line.contains("| exit ")).count();
    println!("{} archives, {} servers refused", rows.len(), count(text) + count(behaviours));
    assert!(rows.len() > 40 && count(text) + count(behaviours) > 40);
}
