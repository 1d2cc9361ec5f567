//! `inspect` on what a loader reads otherwise than a careless reader does, and on what is demanded of a release.

use super::*;

/// A universal binary of these executables.
fn universal(slices: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut offset = PAGE;
    let mut words = vec![0xcafe_babe, u32::try_from(slices.len()).unwrap()];
    for (processor, bytes) in slices {
        let [at, size] = [offset, bytes.len()].map(|number| u32::try_from(number).unwrap());
        words.extend([*processor, 0, at, size, 14]);
        offset = (offset + bytes.len()).next_multiple_of(PAGE);
    }
    out.extend(words.iter().flat_map(|word| word.to_be_bytes()));
    for (_, bytes) in slices {
        out.resize(out.len().next_multiple_of(PAGE), 0);
        out.extend(bytes);
    }
    out
}

fn slice(processor: u32, contents: &[u8]) -> (u32, Vec<u8>) {
    (processor, macho_for(processor, contents))
}

fn app(executable: &[u8]) -> Vec<u8> {
    zip(&[
        File::deflated("Payload/Chat.app/Chat", executable),
        File::stored(&format!("Payload/Chat.app/{PTE}"), &pte()),
    ])
}

#[test]
fn a_block_behind_a_segment_that_ends_past_the_file_is_no_proof() {
    // Linux maps such a segment all the same; the app in front of the block carries a model that nobody proved.
    let app = b"an app with another model";
    let mut bytes = elf_with(X86_64, app, app.len() + (1 << 30), PAGE as u64);
    bytes.extend(block(&pte()));
    refused("app", &bytes, "cannot be read as its loader does");
    let mut bytes = macho(app);
    let filesize = 32 + 48;
    bytes[filesize..filesize + 8].copy_from_slice(&(1_u64 << 30).to_le_bytes());
    bytes.extend(block(&pte()));
    refused("app", &bytes, "cannot be read as its loader does");
    // The same bytes inside what is loaded are a proof.
    assert_eq!(inspect("app", &elf(X86_64, &block(&pte()))).0, 0);
    assert_eq!(inspect("app", &macho(&block(&pte()))).0, 0);
}

#[test]
fn a_windows_binary_is_judged_and_what_was_not_checked_is_said() {
    let (code, json, stderr) = inspect("app.exe", &[b"MZ", &[0; 62][..], &block(&pte())].concat());
    assert_eq!(code, 0, "{stderr}");
    assert!(json["warnings"][0].as_str().unwrap().contains("was not checked"), "{json:#}");
    let (_, json, _) = inspect("app", &elf(X86_64, &block(&pte())));
    assert_eq!(json["warnings"].as_array().unwrap().len(), 0);
}

#[test]
fn a_proof_in_one_slice_is_no_proof_of_another() {
    let proof = block(&pte());
    for other in [APPLE_X86_64, APPLE_ARM64] {
        let both = universal(&[slice(APPLE_ARM64, &proof), slice(other, &proof)]);
        let (code, json, stderr) = inspect("Chat", &both);
        assert_eq!((code, json["models"].as_array().unwrap().len()), (0, 2), "{stderr}");
        let one = universal(&[slice(APPLE_ARM64, &proof), slice(other, b"code")]);
        refused("Chat", &one, "got no proof block in this slice, expected one in each");
        // Linked, in a package.
        let proof = block(b"");
        let both = universal(&[slice(APPLE_ARM64, &proof), slice(other, &proof)]);
        let (code, json, stderr) = inspect("app.ipa", &app(&both));
        assert_eq!(code, 0, "{stderr}\n{json:#}");
        let one = universal(&[slice(APPLE_ARM64, &proof), slice(other, b"code")]);
        refused("app.ipa", &app(&one), "got no proof block in this slice, expected one in each");
    }
    let one = universal(&[slice(APPLE_ARM64, &block(b"")), slice(APPLE_X86_64, b"code")]);
    refused("app.ipa", &app(&one), "x86_64-apple: got no proof block, expected a library");
}

/// Proved for dev only.
fn unmeasured(pte: &[u8]) -> Vec<u8> {
    block_with(pte, &|manifest| manifest.evidence.as_mut().unwrap().benchmark = None)
}

#[test]
fn a_release_wants_what_a_release_needs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app");
    let judged = |bytes: &[u8], release: &str| {
        fs::write(&path, bytes).unwrap();
        let (ordinary, ..) = inspect_path(&path);
        let (code, json, stderr) = inspect_for(&path, &["--release"]);
        let said = format!("{stderr}\n{json:#}");
        assert!(ordinary == 0 && said.contains(release), "{ordinary}, expected {release}: {said}");
        code
    };
    let library = |contents: &[u8]| zip(&[File::stored(LIB, &elf(ARM64, contents))]);
    assert_eq!(judged(&elf(X86_64, &block(&pte())), "proved for release"), 0);
    assert_eq!(judged(&library(&block(&pte())), "proved for release"), 0);
    assert_eq!(judged(&zip(&linked()), "proved for release"), 0);
    assert_eq!(judged(&elf(X86_64, &unmeasured(&pte())), "evidence-benchmark"), 5);
    assert_eq!(judged(&library(&unmeasured(&pte())), "not for release: "), 5);
    let mut files = linked();
    files[1].bytes = elf(ARM64, &unmeasured(b""));
    assert_eq!(judged(&zip(&files), "not for release: "), 5);
    let contents = block(&pte());
    let small = elf_with(ARM64, &contents, contents.len(), 1 << 12);
    assert_eq!(judged(&zip(&[File::stored(LIB, &small)]), "phones with pages of 16384"), 5);
    let (code, _, stderr) = inspect_for(&tiny().join(PTE), &["--release"]);
    assert!(code == 2 && stderr.contains("cargo xtask verify MODEL --level release"), "{code}: {stderr}");
}
