//! From the hub to a published model in one command: a recipe with a hub source, its checkpoint fetched from a local server,
//! exported by the real worker, proved in the real engine.
//!
//! Needs the set-up and `cargo xtask export` first, as `cargo xtask test` does.
#![cfg(unix)]

mod environ;
mod hub;
mod tree;

use std::{fs, process::Command};

use hub::{Files, Hub, REPO, REVISION};
use model_assets::manifest::Manifest;
use tree::{MANIFEST, Tree, repository, said};

const TOKEN: &str = "hf_ThisTokenMustNeverBeSeenAnywhere";

#[test]
fn from_the_hub_to_a_published_model() {
    let tree = Tree::new();
    let recipe = fs::read_to_string(tree.model("recipe.toml")).unwrap();
    let source = format!("kind = \"hub\"\nrepo = \"{REPO}\"\nrevision = \"{REVISION}\"\n");
    fs::write(tree.model("recipe.toml"), recipe.replace("kind = \"path\"\npath = \".\"\n", &source)).unwrap();
    fs::copy(repository("heldout.jsonl"), tree.model("heldout.jsonl")).unwrap();
    // It comes with the checkpoint.
    fs::remove_file(tree.model("tokenizer.json")).unwrap();
    tree.borrow_engine();

    let read = |name: &str| fs::read(repository(name)).unwrap();
    let mut files = Files::checkpoint(1);
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        files = files.with(name, read(name));
    }
    let hub = Hub::start(files, |_, answer| answer);
    let export = || -> Command {
        let mut command = tree.with_engine(&["export", "tiny", "--json"]);
        command.env("HF_ENDPOINT", &hub.url).env("HF_TOKEN", TOKEN);
        command
    };
    let (code, text, seen) = environ::watched(&mut export());
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("\"published\""), "{text}");
    environ::none_had_a_secret(&seen, &["cargo", "python", "engine"]);
    let sha256 = tree.whole("from the hub");
    let manifest = Manifest::parse(&fs::read(tree.model(MANIFEST)).unwrap()).unwrap();
    // The same weights, worker and settings: the same bytes as the repository's own model.
    assert_eq!(sha256, Manifest::parse(&read(MANIFEST)).unwrap().sha256);
    assert!(format!("{:?}", manifest.source).contains(REVISION), "{:?}", manifest.source);
    assert!(manifest.evidence.is_some_and(|evidence| evidence.parity.is_some()));
    assert_eq!(fs::read(tree.model("tokenizer.json")).unwrap(), read("tokenizer.json"));

    // Again: nothing is asked of the hub, and nothing is exported.
    let asked = hub.asked().len();
    let (code, text) = said(&mut export());
    assert!(code == 0 && text.contains("\"unchanged\""), "{text}");
    assert_eq!(hub.asked().len(), asked);
    assert!(!text.contains(TOKEN));
    for entry in walkdir::WalkDir::new(tree.path("")).follow_links(false).into_iter().flatten() {
        if entry.file_type().is_file() {
            let bytes = fs::read(entry.path()).unwrap();
            let found = bytes.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes());
            assert!(!found, "{} holds the token", entry.path().display());
        }
    }
}
