//! `cargo xtask new`, by the real binary: from a folder to a verified model, from a hub to a fetched checkpoint, and what is
//! refused.
//!
//! Needs the set-up and `cargo xtask export` first, as `cargo xtask test` does.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

mod hub;
mod tree;

use std::{
    fs,
    path::{Path, PathBuf},
};

use hub::{Files, Hub, REPO, REVISION};
use model_assets::{
    digest::Digest,
    dir::ModelDir,
    manifest::Manifest,
    recipe::{Recipe, Source},
};
use tree::{Tree, names, repository, said};

const READ: [&str; 3] = ["config.json", "tokenizer.json", "model.safetensors"];

/// The checkpoint of `tiny` somewhere else, under a name that no model can have.
fn elsewhere(tree: &Tree) -> PathBuf {
    let folder = tree.path("some where/Tiny Chat");
    fs::create_dir_all(&folder).unwrap();
    for name in READ.into_iter().chain(["chat_template.jinja"]) {
        fs::copy(repository(name), folder.join(name)).unwrap();
    }
    fs::write(folder.join("README.md"), "---\nlicense: apache-2.0\n---\n").unwrap();
    folder
}

fn recipe(tree: &Tree, name: &str) -> Recipe {
    let models = tree.path("model-assets/models");
    ModelDir::new(models.to_str().unwrap(), name).recipe().unwrap()
}

fn digest(path: impl AsRef<Path>) -> Digest {
    Digest::of(&fs::read(path).unwrap())
}

#[test]
fn from_a_folder_to_a_verified_model() {
    let tree = Tree::new();
    tree.borrow_engine();
    let folder = elsewhere(&tree);
    let place = |name: &str| tree.path("model-assets/models/tiny-chat").join(name);
    let run = |arguments: &[&str]| said(&mut tree.with_engine(arguments));
    let given = folder.to_str().unwrap();

    let (code, text) = run(&["new", given, "--dry-run"]);
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("recipe.toml:") && text.contains("<|assistant|>") && text.contains("a link to"),
        "{text}"
    );
    assert_eq!(names(&tree.path("model-assets/models")).len(), 2, "a dry run writes nothing");

    let (code, text) = run(&["new", given]);
    assert_eq!(code, 0, "{text}");
    assert!(text.ends_with("run: cargo xtask export tiny-chat\n"), "{text}");
    let written = recipe(&tree, "tiny-chat");
    let Source::Path { path, files } = &written.source else { panic!("{:?}", written.source) };
    assert_eq!((path.as_str(), files.len()), ("checkpoint", 3));
    assert_eq!(files["model.safetensors"], digest(repository("model.safetensors")));
    assert_eq!(digest(place("tokenizer.json")), files["tokenizer.json"]);
    let own = recipe(&tree, "tiny");
    assert_eq!((&written.architecture, &written.export), (&own.architecture, &own.export));
    assert_eq!((written.tokens, written.licence), (own.tokens, own.licence));

    let (code, text) = run(&["export", "tiny-chat"]);
    assert_eq!(code, 0, "{text}");
    let (code, text) = run(&["verify", "tiny-chat", "--level", "dev"]);
    assert_eq!(code, 0, "{text}");
    let manifest = Manifest::parse(&fs::read(place("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest.structure.partitions, 6);

    // What is there stays.
    let before = digest(place("recipe.toml"));
    let (code, text) = run(&["new", given]);
    assert!(code == 1 && text.contains("got a model of this name") && text.contains("--name NAME"), "{text}");
    assert_eq!(digest(place("recipe.toml")), before);

    // Another checkpoint in its place is not the recipe's.
    let weights = folder.join("model.safetensors");
    let mut other = fs::read(&weights).unwrap();
    *other.last_mut().unwrap() ^= 1;
    fs::write(&weights, other).unwrap();
    let (code, text) = run(&["export", "tiny-chat"]);
    assert!(code == 4 && text.contains("model.safetensors: got sha256"), "{text}");
    // A clone has no link: it is told what is missing, and can say where it is.
    fs::remove_file(place("checkpoint")).unwrap();
    let (code, text) = run(&["export", "tiny-chat"]);
    assert!(code == 20 && text.contains("expected the checkpoint whose digests the recipe has"), "{text}");
    assert!(text.contains("--checkpoint DIR") && text.contains("ln -s DIR"), "{text}");
    let (code, text) =
        run(&["export", "tiny-chat", "--dry-run", "--checkpoint", repository("").to_str().unwrap()]);
    assert_eq!(code, 0, "{text}");
}

#[test]
fn from_the_hub_to_a_checkpoint() {
    let tree = Tree::new();
    let read = |name: &str| fs::read(repository(name)).unwrap();
    let mut files = Files::checkpoint(1)
        .with("generation_config.json", r#"{"eos_token_id": [1]}"#)
        .with("chat_template.jinja", read("chat_template.jinja"));
    for name in READ {
        files = files.with(name, read(name));
    }
    let hub = Hub::start(files.clone(), |_, answer| answer);
    let run = |arguments: &[&str]| {
        said(tree.xtask(arguments).env("HF_ENDPOINT", &hub.url).env("HF_TOKEN", "hf_SecretOfSomebody"))
    };
    let (code, text) = run(&["new", REPO, "--quantization", "int4"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("run: cargo xtask export tiny-llama\n"), "{text}");
    let folder = tree.path("model-assets/models/tiny-llama");
    let mut there = names(&folder);
    there.sort();
    assert_eq!(there, ["chat_template.jinja", "recipe.toml"]);
    let written = recipe(&tree, "tiny-llama");
    let Source::Hub { repo, revision, files: pins } = &written.source else { panic!("{:?}", written.source) };
    assert_eq!((repo.as_str(), revision.as_str()), (REPO, REVISION));
    assert_eq!(pins.len(), 4);
    assert!(pins.iter().all(|(name, pin)| *pin == Digest::of(&files.0[name])));
    assert_eq!(written.licence.id, "Apache-2.0");
    let heavy = |asked: &hub::Asked| asked.path.contains("model.safetensors");
    assert!(!hub.asked().iter().any(heavy), "weights were asked for");
    // What it pinned is what is fetched.
    let (code, text) = run(&["weights", "tiny-llama"]);
    assert_eq!(code, 0, "{text}");
    let (code, text) = run(&["export", "tiny-llama", "--dry-run"]);
    assert!(code == 0 && text.contains(REVISION) && !text.contains("hf_Secret"), "{text}");
}

#[test]
fn what_is_refused_leaves_nothing() {
    let tree = Tree::new();
    let folder = elsewhere(&tree);
    let given = folder.to_str().unwrap();
    let hub = Hub::start(Files::checkpoint(1).without("tokenizer.json"), |_, answer| answer);
    let gguf = tree.path("m.gguf");
    fs::write(&gguf, b"GGML").unwrap();
    let offline = said(tree.xtask(&["new", REPO]).env("HF_HUB_OFFLINE", "1"));
    assert!(offline.0 == 20 && offline.1.contains("HF_HUB_OFFLINE is set"), "{offline:?}");
    let refused = |arguments: &[&str], code: i32, says: &str| {
        let (got, text) = said(tree.xtask(&[&["new"], arguments].concat()).env("HF_ENDPOINT", &hub.url));
        assert!(
            got == code && text.contains(says) && text.contains("hint: "),
            "{arguments:?}: {got}, {text}"
        );
        assert_eq!(names(&tree.path("model-assets/models")).len(), 2, "{arguments:?}");
    };
    refused(&["nothing/like/this"], 2, "got neither a folder nor a GGUF nor the name of a repository");
    refused(&["acme/other"], 20, "no such repository");
    refused(&[REPO], 20, "tokenizer.json: not in the repository");
    refused(&[&format!("{REPO}@v1")], 20, "correct the name or the revision");
    refused(&[gguf.to_str().unwrap()], 5, "expected `GGUF`");
    refused(&[given, "--name", "a/b"], 1, "as the name of a model");
    refused(&[given, "--name", "tiny"], 1, "got a model of this name");
    refused(&[given, "--name", "m", "--seq-len", "4"], 5, "export.seq_len");
    let config = fs::read_to_string(folder.join("config.json")).unwrap();
    let other =
        |from: &str, to: &str| fs::write(folder.join("config.json"), config.replace(from, to)).unwrap();
    other("\"llama\"", "\"mamba\"");
    refused(&[given], 5, "model_type: got \"mamba\", expected one of llama");
    other("\"mlp_bias\": false", "\"mlp_bias\": true");
    refused(&[given], 5, "mlp_bias: got true, expected false: the export does not implement it");
    other("\"intermediate_size\": 448", "\"intermediate_size\": 131072");
    other("\"num_hidden_layers\": 5", "\"num_hidden_layers\": 1000");
    refused(&[given], 5, "at most the policy's");
    fs::write(folder.join("config.json"), &config).unwrap();
    fs::write(folder.join("chat_template.jinja"), "one\n{% for %}").unwrap();
    refused(&[given], 5, "line 2");
}
