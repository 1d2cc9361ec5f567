//! `cargo xtask clean`: what it names, what goes, and what never does.
#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

mod tree;

use std::{fs, os::unix::fs::symlink};

use tree::{MANIFEST, PTE, REFERENCE, Tree, names, repository, two_models};

/// A tree in which every kind of cache has a megabyte.
fn stage() -> Tree {
    let (tree, [model, _]) = (Tree::new(), two_models());
    tree.put(&model);
    for name in ["venv", "sdk", "work", "rehearsal", "weights", "fetch", "bundle", "lint-venv", ".tmpAbCdEf"]
    {
        let folder = tree.path(".proofmark").join(name).join("inner");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("data"), vec![7; 1 << 20]).unwrap();
    }
    fs::create_dir_all(tree.path(".proofmark/locks")).unwrap();
    tree
}

#[test]
fn a_dry_run_names_everything_and_removes_nothing() {
    let tree = stage();
    let before = names(&tree.path(".proofmark")).len();
    let (code, text) = tree.run(&["clean", "--models", "--dry-run"]);
    assert_eq!(code, 0, "{text}");
    for (name, what) in [
        ("venv", "cargo xtask setup"),
        ("sdk", "C++ runtime"),
        ("weights", "checkpoints from the hub"),
        ("rehearsal", "random weights"),
        ("work", "exports that failed"),
        ("fetch", "fetches that were cut"),
        ("bundle", "cargo xtask pack"),
        ("lint-venv", "of one tool"),
        (".tmpAbCdEf", "left by a killed command"),
    ] {
        let line = text.lines().find(|line| line.contains(&format!("kB  {name} ")));
        let line = line.unwrap_or_else(|| panic!("{name} is not in:\n{text}"));
        let kilobytes: u64 = line.trim().split(' ').next().unwrap().parse().unwrap();
        assert!(line.contains(what) && (1048..2000).contains(&kilobytes), "{line}");
    }
    assert!(text.contains(PTE) && text.contains(REFERENCE) && text.contains("could be freed"), "{text}");
    assert_eq!(names(&tree.path(".proofmark")).len(), before, "a dry run changed something");
    assert!(tree.model(PTE).exists());
}

#[test]
fn caches_go_and_models_only_when_they_can_be_made_again() {
    let tree = stage();
    fs::write(tree.model("model.safetensors"), "weights").unwrap();
    let (code, text) = tree.run(&["clean", "work", "bundle"]);
    assert_eq!(code, 0, "{text}");
    let left = names(&tree.path(".proofmark"));
    assert!(!left.contains(&"work".to_owned()) && left.contains(&"venv".to_owned()), "{left:?}");
    let (code, text) = tree.run(&["clean"]);
    assert_eq!(code, 0, "{text}");
    let mut left = names(&tree.path(".proofmark"));
    left.sort();
    assert_eq!(left, ["in-use.lock", "locks"]);
    tree.whole("after clean");
    let (code, text) = tree.run(&["clean", "--models"]);
    assert_eq!(code, 0, "{text}");
    assert!(!tree.model(PTE).exists() && !tree.model(REFERENCE).exists(), "{text}");
    for name in [
        MANIFEST,
        "recipe.toml",
        "tokenizer.json",
        "chat_template.jinja",
        "model.safetensors",
        "eq-transcript.json",
    ] {
        assert!(tree.model(name).exists(), "{name} is gone");
    }
    assert_eq!(fs::read(tree.model(MANIFEST)).unwrap(), fs::read(repository(MANIFEST)).unwrap());
}

#[test]
fn a_model_whose_weights_are_not_here_stays() {
    let tree = stage();
    let (code, text) = tree.run(&["clean", "--models"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("kept: ") && text.contains("cannot be made again"), "{text}");
    tree.whole("after clean");
}

#[test]
fn what_is_in_use_stays() {
    let tree = stage();
    // As every command that works here holds it.
    let lock = fs::File::create(tree.path(".proofmark/in-use.lock")).unwrap();
    lock.lock_shared().unwrap();
    let (code, text) = tree.run(&["clean", "--models"]);
    assert!(
        code == 1 && text.contains("is at work here, nothing was removed") && text.contains("hint: "),
        "{text}"
    );
    assert!(tree.path(".proofmark/venv/inner/data").exists() && tree.model(PTE).exists());
    let (code, text) = tree.run(&["clean", "--dry-run"]);
    assert_eq!(code, 0, "looking needs no lock: {text}");
    drop(lock);
    assert_eq!(tree.run(&["clean"]).0, 0);
    assert!(!tree.path(".proofmark/venv").exists());
}

#[test]
fn a_link_goes_and_its_target_stays() {
    let tree = stage();
    let target = tree.path("elsewhere");
    fs::rename(tree.path(".proofmark/venv"), &target).unwrap();
    symlink(&target, tree.path(".proofmark/venv")).unwrap();
    let (code, text) = tree.run(&["clean", "venv"]);
    assert_eq!(code, 0, "{text}");
    assert!(tree.path(".proofmark/venv").symlink_metadata().is_err() && target.join("inner/data").exists());
}

#[test]
fn a_name_that_is_none_removes_nothing() {
    let tree = stage();
    let (code, text) = tree.run(&["clean", "work", "../model-assets"]);
    assert!(code == 1 && text.contains("../model-assets: no such cache") && text.contains("venv"), "{text}");
    assert!(tree.path(".proofmark/work/inner/data").exists());
}

#[test]
fn weights_that_an_app_runs_from_stay() {
    let tree = stage();
    let packed = tree.path(".cache/proofmark/packed/tiny");
    fs::create_dir_all(&packed).unwrap();
    for name in ["packed-a.bin", "packed-a.json", "packed-b.bin", "packed-b.json", "packed-b.stamp"] {
        fs::write(packed.join(name), "x").unwrap();
    }
    let used = fs::File::open(packed.join("packed-a.bin")).unwrap();
    used.lock_shared().unwrap();
    let (code, text) = tree.run(&["clean", "packed"]);
    assert!(code == 0 && text.contains("kept: 1 in use by an app"), "{text}");
    let mut left = names(&packed);
    left.sort();
    assert_eq!(left, ["packed-a.bin", "packed-a.json"]);
}

#[test]
fn doctor_shows_the_same_sizes() {
    let tree = stage();
    // Its exit code is about this machine, not about caches.
    let output = tree.xtask(&["doctor", "--json"]).output().unwrap();
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let caches: Vec<_> =
        rows.iter().filter(|row| row["name"].as_str().unwrap().starts_with("cache ")).collect();
    assert!(caches.iter().any(|row| row["name"] == "cache weights"), "{caches:?}");
    for row in caches {
        assert!(row["status"] == "ok" && row["bytes"].as_u64().unwrap() >= 1 << 20, "{row}");
    }
}
