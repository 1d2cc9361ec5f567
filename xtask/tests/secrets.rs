//! No secret is in the environment of a child that has no use for it. The export from the hub, which has the most children, is
//! watched in `hub_export.rs`.
//!
//! Needs the set-up and `cargo xtask export` first, as `cargo xtask test` does.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

mod environ;
mod tree;

use std::{fs, os::unix::fs::symlink, path::Path};

use environ::{none_had_a_secret, watched};
use tree::{Tree, repository, two_models};

/// A work tree with the published model and the repository's set-up.
fn tree() -> Tree {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let tree = Tree::new();
    let [model, _] = two_models();
    tree.put(&model);
    for name in ["config.json", "model.safetensors", "heldout.jsonl"] {
        fs::copy(repository(name), tree.model(name)).unwrap();
    }
    fs::create_dir_all(tree.path(".proofmark")).unwrap();
    fs::create_dir_all(tree.path("xtask")).unwrap();
    for made in [".proofmark/venv", ".proofmark/sdk", "xtask/python"] {
        symlink(root.join(made), tree.path(made)).unwrap();
    }
    tree
}

#[test]
fn children_that_only_look_have_no_secret() {
    let tree = tree();
    let (code, text, seen) = watched(&mut tree.xtask(&["doctor"]));
    assert_eq!(code, 0, "{text}");
    none_had_a_secret(&seen, &["python"]);
    let (code, text, seen) = watched(&mut tree.xtask(&["setup"]));
    assert_eq!(code, 0, "{text}");
    none_had_a_secret(&seen, &["python"]);
}

/// The engine is built by cargo, rustc and the linker, and parses a file that somebody may have sent.
#[test]
fn the_engine_and_its_compiler_have_no_secret() {
    let tree = tree();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let cargo = tree.path("cargo");
    let real = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    fs::write(&cargo, format!("#!/bin/sh\ncd '{}' && exec '{real}' \"$@\"\n", root.display())).unwrap();
    fs::set_permissions(&cargo, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = tree.xtask(&["verify", "tiny"]);
    command.env("CARGO", &cargo).env("HOME", std::env::var("HOME").unwrap_or_default());
    let (_, text, seen) = watched(&mut command);
    assert!(!text.contains("secret-of-"), "{text}");
    none_had_a_secret(&seen, &["cargo", "engine"]);
}
