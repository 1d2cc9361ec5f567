//! `inspect` on packages, as the real binary does it: what is inside is found and proved, and what is ambiguous,
//! swapped, missing or hostile is refused.
#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

mod binaries;
mod zip;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use model_assets::{manifest::Manifest, provenance};
use serde_json::Value;
use zip::{End, File, Lie, zip, zip_with};

const PTE: &str = "tiny-int8-seq512.pte";
const LIB: &str = "lib/arm64-v8a/libapp.so";

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model-assets/models/tiny")
}

/// The proven model.
fn pte() -> Vec<u8> {
    let path = tiny().join(PTE);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; run: cargo xtask export", path.display()))
}

/// The model with a weight changed.
fn swapped() -> Vec<u8> {
    let mut bytes = pte();
    let index = bytes.len() - 1000;
    bytes[index] ^= 1;
    bytes
}

/// A block as the gate writes it: of an embedded model, or of a linked one when `pte` is empty.
fn block(pte: &[u8]) -> Vec<u8> {
    block_with(pte, &|_| {})
}

/// The same with another manifest.
fn block_with(pte: &[u8], change: &dyn Fn(&mut Manifest)) -> Vec<u8> {
    let read = |path: PathBuf| fs::read(path).unwrap();
    let mut texts = [
        read(tiny().join("recipe.toml")),
        read(tiny().join("../policy.toml")),
        read(tiny().join("manifest.json")),
        read(tiny().join("tokenizer.json")),
        read(tiny().join("chat_template.jinja")),
    ];
    if pte.is_empty() {
        link(&mut texts);
    }
    let mut manifest = Manifest::parse(&texts[2]).unwrap();
    change(&mut manifest);
    texts[2] = serde_json::to_vec(&manifest).unwrap();
    let [recipe, policy, manifest, tokenizer, template] = texts.each_ref().map(|text| text.len() as u64);
    let (header, offset) =
        provenance::header([recipe, policy, manifest, tokenizer, template, pte.len() as u64]);
    let mut block = [header, texts.concat()].concat();
    block.resize(usize::try_from(offset).unwrap(), 0);
    block.extend(pte);
    block
}

/// The same claim with the model linked: the recipe says so, and the manifest is about that recipe.
fn link(texts: &mut [Vec<u8>; 5]) {
    let recipe = String::from_utf8(texts[0].clone()).unwrap();
    let recipe = recipe.replace("delivery = \"embed\"", "delivery = \"link\"");
    let digest = model_assets::recipe::Recipe::parse(&recipe).unwrap().digest();
    let mut manifest = Manifest::parse(&texts[2]).unwrap();
    manifest.bound.recipe = digest;
    manifest.evidence.as_mut().unwrap().bound.bound.recipe = digest;
    texts[0] = recipe.into_bytes();
    texts[2] = serde_json::to_vec(&manifest).unwrap();
}

const ARM64: u16 = 183;
const X86_64: u16 = 62;
const APPLE_ARM64: u32 = 0x0100_000c;
const APPLE_X86_64: u32 = 0x0100_0007;
const PAGE: usize = 1 << 14;

/// A library of one loaded segment, with room for its headers before the contents.
fn elf(machine: u16, contents: &[u8]) -> Vec<u8> {
    elf_with(machine, contents, contents.len(), PAGE as u64)
}

fn elf_with(machine: u16, contents: &[u8], loaded: usize, align: u64) -> Vec<u8> {
    let mut out = b"\x7fELF\x02\x01\x01".to_vec();
    out.resize(16, 0);
    out.extend(3_u16.to_le_bytes());
    out.extend(machine.to_le_bytes());
    out.extend(1_u32.to_le_bytes());
    for number in [0_u64, 64, 0] {
        out.extend(number.to_le_bytes());
    }
    out.extend(0_u32.to_le_bytes());
    for number in [64_u16, 56, 1, 64, 0, 0] {
        out.extend(number.to_le_bytes());
    }
    out.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    let size = (PAGE + loaded) as u64;
    for number in [0, 0, 0, size, size, align] {
        out.extend(number.to_le_bytes());
    }
    out.resize(PAGE, 0);
    out.extend(contents);
    out
}

/// An arm64 executable of one segment.
fn macho(contents: &[u8]) -> Vec<u8> {
    macho_for(APPLE_ARM64, contents)
}

fn macho_for(processor: u32, contents: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for number in [0xfeed_facf_u32, processor, 0, 2, 1, 72, 0, 0, 0x19, 72] {
        out.extend(number.to_le_bytes());
    }
    out.extend(b"__DATA_CONST\0\0\0\0");
    let size = (PAGE + contents.len()) as u64;
    for number in [0, size, 0, size] {
        out.extend(number.to_le_bytes());
    }
    out.extend([0; 16]);
    out.resize(PAGE, 0);
    out.extend(contents);
    out
}

/// Inspects a package of these bytes.
fn inspect(name: &str, bytes: &[u8]) -> (i32, Value, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    inspect_path(&path)
}

fn inspect_path(path: &Path) -> (i32, Value, String) {
    inspect_for(path, &[])
}

fn inspect_for(path: &Path, more: &[&str]) -> (i32, Value, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    let output = command.args(["inspect", "--json"]).args(more).arg(path).output().unwrap();
    let json = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code().unwrap(), json, String::from_utf8(output.stderr).unwrap())
}

fn accepted(files: &[File]) -> Value {
    let (code, json, stderr) = inspect("app.apk", &zip(files));
    assert_eq!(code, 0, "{stderr}\n{json:#}");
    json
}

/// Exit code 5, with this in the reason.
fn refused(name: &str, bytes: &[u8], reason: &str) {
    let (code, json, stderr) = inspect(name, bytes);
    assert_eq!(code, 5, "expected: {reason}\n{stderr}\n{json:#}");
    let faults = json["faults"].to_string();
    assert!(stderr.contains(reason) || faults.contains(reason), "expected: {reason}\n{stderr}\n{faults}");
}

fn asset() -> String {
    format!("assets/{PTE}")
}

/// An honest package with a linked model.
fn linked() -> Vec<File> {
    let library = File::stored(LIB, &elf(ARM64, &block(b"")));
    vec![
        File::deflated("AndroidManifest.xml", b"manifest"),
        library.aligned(PAGE),
        File::stored(&asset(), &pte()).aligned(PAGE),
    ]
}

#[test]
fn the_linked_model_of_an_apk_is_found_and_proved_in_place() {
    let json = accepted(&linked());
    assert_eq!(json["kind"], "apk");
    assert_eq!(json["libraries"][0]["abis"][0], "arm64-v8a");
    let model = &json["models"][0];
    assert_eq!((&model["proved_for_release"], &model["in_place"]), (&true.into(), &true.into()), "{model:#}");
    assert_eq!(model["aligned_bytes"], PAGE);
    assert_eq!(json["warnings"].as_array().unwrap().len(), 0, "{json:#}");
}

#[test]
fn a_compressed_or_unaligned_model_is_proved_and_cannot_be_mapped() {
    let mut files = linked();
    files[2] = File::deflated(&asset(), &pte());
    let json = accepted(&files);
    assert_eq!(json["models"][0]["in_place"], false);
    assert!(json["warnings"][0].as_str().unwrap().contains("noCompress"), "{json:#}");

    // As packagers align what is stored: to 4 bytes, which is enough by luck only.
    files[2] = File::stored(&asset(), &pte()).aligned(4);
    let unlucky = [1, 5, 9, 13].into_iter().find_map(|bytes| {
        let mut shifted = files.clone();
        shifted.insert(2, File::stored("assets/odd", &vec![0; bytes]));
        Some(accepted(&shifted)).filter(|json| json["models"][0]["in_place"] == false)
    });
    let json = unlucky.unwrap();
    assert!(json["warnings"][0].as_str().unwrap().contains("zipalign"), "{json:#}");
}

#[test]
fn embedded_models_are_proved_in_every_abi_even_compressed() {
    let files = [
        File::stored(LIB, &elf(ARM64, &block(&pte()))).aligned(PAGE),
        File::deflated("lib/x86_64/libapp.so", &elf(X86_64, &block(&pte()))),
    ];
    let json = accepted(&files);
    let verdicts: Vec<_> = json["libraries"].as_array().unwrap().iter().map(|l| &l["blocks"][0]).collect();
    assert!(verdicts.iter().all(|block| block["proved_for_release"] == true), "{json:#}");
}

#[test]
fn a_swapped_model_is_refused() {
    let mut files = linked();
    files[2].bytes = swapped();
    refused("app.apk", &zip(&files), "sha256: manifest.json: got ");
    let files = [File::stored(LIB, &elf(ARM64, &block(&swapped())))];
    refused("app.apk", &zip(&files), "sha256: manifest.json: got ");
}

#[test]
fn a_missing_model_is_refused() {
    let mut files = linked();
    let asset = files.pop().unwrap();
    refused("app.apk", &zip(&files), "got no such file in the package, expected the linked model");

    // Of a model in an asset pack neither the base nor the pack alone can be judged.
    let (_, _, stderr) = inspect("app.apk", &zip(&files));
    assert!(stderr.contains("inspect the bundle"), "{stderr}");
    files.retain(|file| file.name != LIB);
    files.push(asset);
    let (code, _, stderr) = inspect("pack.apk", &zip(&files));
    assert!(code == 8 && stderr.contains("inspect the bundle"), "{code}: {stderr}");
    // Where more is wrong, it must not ship.
    files.push(File::stored(LIB, &elf(X86_64, &block(b""))));
    files.retain(|file| !file.name.ends_with(".pte"));
    let (_, _, stderr) = inspect("app.apk", &zip(&files));
    assert!(stderr.contains("do not ship"), "{stderr}");
}

#[test]
fn a_model_that_nobody_proved_is_refused() {
    let mut files = linked();
    files.push(File::stored("res/raw/helper.bin", &pte()));
    refused("app.apk", &zip(&files), "res/raw/helper.bin: a model that no proof block claims");
}

#[test]
fn an_abi_without_a_proof_is_refused() {
    let mut files = linked();
    files.push(File::stored("lib/x86_64/libapp.so", &elf(X86_64, b"code")));
    refused("app.apk", &zip(&files), "x86_64: got no proof block");
}

#[test]
fn abis_that_disagree_are_refused() {
    let mut files = linked();
    files.push(File::stored("lib/x86_64/libapp.so", &elf(X86_64, &block(&pte()))));
    refused("app.apk", &zip(&files), "expected that of arm64-v8a");
}

#[test]
fn code_for_another_processor_is_refused() {
    let files = [File::stored(LIB, &elf(X86_64, &block(&pte())))];
    refused("app.apk", &zip(&files), "got code for x86_64, expected arm64-v8a");
}

#[test]
fn a_block_that_no_loader_maps_is_no_proof() {
    let appended = elf_with(ARM64, &block(b""), 0, PAGE as u64);
    let mut files = linked();
    files[1].bytes = appended;
    refused("app.apk", &zip(&files), "got bytes that no loader maps");
}

#[test]
fn pages_of_4_kib_are_warned_of() {
    let library = elf_with(ARM64, &block(&pte()), block(&pte()).len(), 1 << 12);
    let json = accepted(&[File::stored(LIB, &library)]);
    assert!(json["warnings"][0].as_str().unwrap().contains("phones with pages of 16384"), "{json:#}");
}

#[test]
fn a_bundle_finds_its_model_in_an_asset_pack() {
    let files = [
        File::deflated("BundleConfig.pb", b"config"),
        File::deflated("base/manifest/AndroidManifest.xml", b"manifest"),
        File::deflated("base/lib/arm64-v8a/libapp.so", &elf(ARM64, &block(b""))),
        File::deflated(&format!("modelpack/assets/{PTE}"), &pte()),
    ];
    let json = accepted(&files);
    assert_eq!((&json["kind"], &json["models"][0]["in_place"]), (&"aab".into(), &Value::Null));
}

#[test]
fn an_ipa_and_its_app_folder_are_proved() {
    let executable = macho(&block(b""));
    let files = [
        File::deflated("Payload/Chat.app/Chat", &executable),
        File::stored(&format!("Payload/Chat.app/{PTE}"), &pte()),
    ];
    let json = accepted(&files);
    assert_eq!((&json["kind"], &json["libraries"][0]["abis"][0]), (&"ipa".into(), &"arm64".into()));

    let folder = tempfile::tempdir().unwrap();
    let app = folder.path().join("Chat.app");
    fs::create_dir(&app).unwrap();
    fs::write(app.join("Chat"), &executable).unwrap();
    fs::write(app.join(PTE), pte()).unwrap();
    let (code, json, stderr) = inspect_path(&app);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(json["models"][0]["proved_for_release"], true);

    fs::write(app.join(PTE), swapped()).unwrap();
    assert_eq!(inspect_path(&app).0, 5);
    fs::remove_file(app.join(PTE)).unwrap();
    std::os::unix::fs::symlink(tiny().join(PTE), app.join(PTE)).unwrap();
    let (code, _, stderr) = inspect_path(&app);
    assert!(code == 5 && stderr.contains("link or special file"), "{stderr}");
}

#[test]
fn an_archive_that_is_no_app_is_not_judged() {
    assert_eq!(inspect("a.zip", &zip(&[File::stored("a.txt", b"a")])).0, 8);
    assert_eq!(inspect("a.zip", &zip(&[])).0, 8);
    assert_eq!(inspect("a.apk", &zip(&[File::stored("AndroidManifest.xml", b"a")])).0, 8);
}

/// An honest package and one file, or one field of it, that lies.
fn hostile(lie: Lie, reason: &str) {
    let mut files = linked();
    files.push(File::deflated("classes.dex", &[7; 4000]).lying(lie));
    refused("app.apk", &zip(&files), reason);
}

#[test]
fn what_is_said_twice_must_be_the_same() {
    hostile(Lie { local_name: Some("classes2.dex".into()), ..Lie::default() }, "local header: got name");
    hostile(Lie { local_method: Some(0), ..Lie::default() }, "local header: got compression");
    hostile(Lie { local_bytes: Some(0), ..Lie::default() }, "local header: got sizes and checksum");
}

#[test]
fn a_name_stands_once_and_leads_nowhere() {
    let mut files = linked();
    files.push(File::stored(&asset(), &swapped()));
    refused("app.apk", &zip(&files), "got the name twice");
    for name in ["../evil", "/evil", "a//b", "a\\b", "a/./b", "a\nb", ""] {
        let mut files = linked();
        files.push(File::stored(name, b"x"));
        refused("app.apk", &zip(&files), "got a name that leads elsewhere");
    }
    let mut files = linked();
    files.push(File::stored(&"a".repeat(2000), b"x"));
    refused("app.apk", &zip(&files), "got a name of 2000 bytes");
}

#[test]
fn files_do_not_overlap() {
    hostile(Lie { offset_of: Some(0), ..Lie::default() }, "local header: got name");
    let mut files = linked();
    files.push(File::stored("a", b"x"));
    let lie = Lie { offset_of: Some(3), local_name: Some("b".into()), ..Lie::default() };
    files[3].lie.local_name = None;
    files.push(File::stored("a", b"x").lying(lie));
    refused("app.apk", &zip(&files), "got the name twice");
    // A stored file that claims the next one's header as its own data.
    let lie = Lie { central_bytes: Some(100), local_bytes: Some(100), ..Lie::default() };
    let mut files = linked();
    files.push(File::stored("a", b"x").lying(lie));
    files.push(File::stored("b", &[0; 200]));
    refused("app.apk", &zip(&files), "app.apk");
}

#[test]
fn what_phones_do_not_read_is_refused() {
    hostile(Lie { flags: 1, ..Lie::default() }, "got an encrypted file");
    hostile(
        Lie { central_extra: vec![1, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0], ..Lie::default() },
        "64-bit sizes",
    );
    hostile(Lie { central_extra: vec![0x75, 0x70, 1, 0, 1], ..Lie::default() }, "second name");
    hostile(Lie { mode: 0o120_777, ..Lie::default() }, "got a link");
    for end in [
        End { entries: Some(0xffff), ..End::default() },
        End { directory_bytes: Some(u32::MAX), ..End::default() },
        End { before: [b"PK\x06\x07".as_slice(), &[0; 16]].concat(), ..End::default() },
    ] {
        refused("app.apk", &zip_with(&linked(), &end), "app.apk");
    }
    refused("app.apk", &zip_with(&linked(), &End { disk: 1, ..End::default() }), "expected one disk");
}

#[test]
fn the_directory_is_counted() {
    for entries in [0, 2, 4, 60_000] {
        let bytes = zip_with(&linked(), &End { entries: Some(entries), ..End::default() });
        refused("app.apk", &bytes, "central directory");
    }
    let bytes = zip_with(&linked(), &End { before: vec![0; 10], ..End::default() });
    refused("app.apk", &bytes, "expected it to end at");
}

#[test]
fn there_is_one_end() {
    let inner = zip(&linked());
    let bytes = zip_with(&linked(), &End { comment: inner[inner.len() - 22..].to_vec(), ..End::default() });
    refused("app.apk", &bytes, "app.apk");
    let comment = zip(&[File::stored("AndroidManifest.xml", b"x")]);
    let bytes = zip_with(&linked(), &End { comment, ..End::default() });
    refused("app.apk", &bytes, "app.apk");
    let mut long = zip(&linked());
    long.push(0);
    refused("app.apk", &long, "app.apk");
}

#[test]
fn a_bomb_does_not_go_off() {
    let mut files = linked();
    files.push(File::deflated("assets/big", &vec![0; 64 << 20]));
    refused("app.apk", &zip(&files), "expected at most 200 times as many");
    // More than the header says, in a file that is unpacked.
    let library = elf(ARM64, &block(&pte()));
    let short = u32::try_from(library.len() - 1).unwrap();
    let lie = Lie { local_bytes: Some(short), central_bytes: Some(short), ..Lie::default() };
    refused("app.apk", &zip(&[File::deflated(LIB, &library).lying(lie)]), "cannot be unpacked");
    let lie = Lie { crc: Some(1), ..Lie::default() };
    refused("app.apk", &zip(&[File::deflated(LIB, &library).lying(lie)]), "cannot be unpacked");
    let huge = Lie { central_bytes: Some(0xffff_fffe), local_bytes: Some(0xffff_fffe), ..Lie::default() };
    refused("app.apk", &zip(&[File::deflated(LIB, &library).lying(huge)]), LIB);
}

#[test]
fn a_truncated_package_is_refused_wherever_it_ends() {
    let files = [File::deflated("AndroidManifest.xml", b"m"), File::stored("lib/a", b"contents")];
    let whole = zip(&files);
    for len in 4..whole.len() {
        let (code, _, stderr) = inspect("app.apk", &whole[..len]);
        assert!(code == 5, "{len}: {code} {stderr}");
    }
}

#[test]
fn no_changed_byte_of_the_structure_makes_it_panic() {
    let library = elf(ARM64, b"code");
    let files = [File::deflated("AndroidManifest.xml", b"m"), File::deflated(LIB, &library)];
    let whole = zip(&files);
    for index in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[index] ^= 0xff;
        let (code, _, stderr) = inspect("app.apk", &bytes);
        assert!(matches!(code, 5 | 8), "{index}: {code} {stderr}");
        assert!(!stderr.contains("panicked"), "{index}: {stderr}");
    }
}
