//! What `verify` measures and refuses is kept beside the manifest, shown, and forgotten once it passes.
//!
//! Needs the set-up and `cargo xtask export` first, as `cargo xtask test` does.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

mod tree;

use std::fs;

use model_assets::{digest::Digest, manifest::Manifest};
use tree::{Files, MANIFEST, REFERENCE, Tree, said, two_models};

const KEPT: &str = "refused-evidence.json";

/// The model with another reference: what the engine computes does not agree with it.
fn with_another_reference(model: &Files) -> Files {
    let mut model = model.clone();
    let reference = model.get_mut(REFERENCE).unwrap();
    let header = usize::try_from(u64::from_le_bytes(reference[..8].try_into().unwrap())).unwrap();
    let tensors: serde_json::Value = serde_json::from_slice(&reference[8..8 + header]).unwrap();
    let places = tensors.as_object().unwrap().values().filter(|it| it["dtype"] == "F32");
    let place = |it: &serde_json::Value| {
        [0, 1].map(|end| usize::try_from(it["data_offsets"][end].as_u64().unwrap()).unwrap())
    };
    for [begin, end] in places.map(place) {
        let values = &mut reference[8 + header + begin..8 + header + end];
        // The second bit of the exponent: four times as large, or a quarter.
        values.chunks_exact_mut(4).step_by(3).for_each(|value| value[3] ^= 1);
    }
    let mut manifest = Manifest::parse(&model[MANIFEST]).unwrap();
    manifest.reference.sha256 = Digest::of(&model[REFERENCE]);
    model.insert(MANIFEST.to_owned(), manifest.to_bytes());
    model
}

#[test]
fn what_was_refused_is_kept_and_shown_until_it_passes() {
    let [model, _] = two_models();
    let tree = Tree::new();
    tree.borrow_engine();
    let bad = with_another_reference(&model);
    tree.put(&bad);
    let verify = || said(&mut tree.with_engine(&["verify", "tiny"]));
    let (code, text) = verify();
    assert_eq!(code, 5, "{text}");
    assert!(text.contains("evidence-parity") && text.contains(KEPT), "{text}");
    assert_eq!(fs::read(tree.model(MANIFEST)).unwrap(), bad[MANIFEST], "it got into the manifest");
    let kept: serde_json::Value = serde_json::from_slice(&fs::read(tree.model(KEPT)).unwrap()).unwrap();
    assert!(kept["evidence"]["load"].is_object() && kept["evidence"]["parity"].is_object(), "{kept}");
    assert_eq!(kept["reasons"][0]["check"], "evidence-parity");

    let page = tree.path("page.html");
    let (code, text) = tree.run(&["report", "tiny", "--out", page.to_str().unwrap()]);
    assert_eq!(code, 0, "{text}");
    assert!(fs::read_to_string(page).unwrap().contains("Measured, refused on"));
    // A bundle has what is proved alone.
    let bundle = tree.path("b.tar.gz");
    let (code, text) = tree.run(&["pack", "tiny", "--out", bundle.to_str().unwrap()]);
    assert_eq!(code, 0, "{text}");
    assert!(!tree::unbundled(&fs::read(bundle).unwrap()).contains_key(KEPT));

    tree.put(&model);
    let (code, text) = verify();
    assert_eq!(code, 0, "{text}");
    assert!(!tree.model(KEPT).exists(), "it passed");
}
