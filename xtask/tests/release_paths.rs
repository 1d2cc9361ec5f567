//! What the gate puts into an app for users, linked or embedded, names no place of the machine that built it.
//!
//! The app's build script is run by itself, as Cargo runs it in a release build, and all that it hands to compiler, assembler and
//! linker is searched. What others put into a binary is not: panics of Rust's crates name their sources unless the compiler is
//! told to map them.
//!
//! Needs `cargo xtask export` and its evidence first, as `cargo xtask test` does.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

mod tree;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use model_assets::{manifest::Manifest, recipe::Recipe};
use tree::{MANIFEST, Tree, repository, two_models};

/// The app's build script: Cargo names it when it has built the app.
fn build_script() -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--package", "app", "--message-format=json-render-diagnostics"]);
    let built = cargo.current_dir(repository("../../..")).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let messages = String::from_utf8_lossy(&built.stdout).into_owned();
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut scripts = messages.filter(|message| {
        let source = message["target"]["src_path"].as_str().unwrap_or_default();
        message["target"]["kind"][0] == "custom-build" && source.ends_with("app/build.rs")
    });
    scripts.find_map(|message| message["filenames"][0].as_str().map(PathBuf::from)).unwrap()
}

/// A tree whose model is delivered like that.
fn delivered(how: &str) -> Tree {
    let tree = Tree::new();
    let [model, _] = two_models();
    tree.put(&model);
    fs::copy(repository("../signers.toml"), tree.path("model-assets/models/signers.toml")).unwrap();
    let recipe = fs::read_to_string(tree.model("recipe.toml")).unwrap();
    let recipe = recipe.replace("delivery = \"embed\"", &format!("delivery = \"{how}\""));
    assert!(recipe.contains(&format!("delivery = \"{how}\"")), "{recipe}");
    fs::write(tree.model("recipe.toml"), &recipe).unwrap();
    let mut manifest = Manifest::parse(&model[MANIFEST]).unwrap();
    manifest.bound.recipe = Recipe::parse(&recipe).unwrap().digest();
    manifest.evidence.as_mut().expect("run: cargo xtask export").bound.bound.recipe = manifest.bound.recipe;
    fs::write(tree.model(MANIFEST), manifest.to_bytes()).unwrap();
    tree
}

/// What reaches the binary: the source that is compiled into it, the object, and what is said to the linker.
fn handed_on(script: &Path, tree: &Tree, profile: &str, out: &Path) -> Vec<(&'static str, Vec<u8>)> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut command = Command::new(script);
    command
        .current_dir(repository("../../../app"))
        .envs([
            ("PROFILE", profile),
            ("DEBUG", "false"),
            ("OPT_LEVEL", "3"),
            ("TARGET", &target),
            ("HOST", &target),
        ])
        .envs([("CARGO_CFG_TARGET_OS", "linux"), ("CARGO_CFG_TARGET_VENDOR", "unknown")])
        .envs([("CARGO_CFG_TARGET_ENV", "gnu"), ("CARGO_CFG_TARGET_ARCH", std::env::consts::ARCH)])
        .env("CARGO_MANIFEST_DIR", repository("../../../app"))
        .env("PROOFMARK_MODELS_DIR", tree.path("model-assets/models"))
        .env("OUT_DIR", out)
        .env_remove("PROOFMARK_MODEL");
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    let linked = said.lines().filter(|line| line.contains("link-arg")).collect::<Vec<_>>().join("\n");
    let made = ["model.rs", "libproofmark_model.a"].map(|name| (name, fs::read(out.join(name)).unwrap()));
    made.into_iter().chain([("link arguments", linked.into_bytes())]).collect()
}

#[test]
fn a_release_names_no_place_of_the_machine_that_built_it() {
    let script = build_script();
    for how in ["link", "embed"] {
        let (tree, out) = (delivered(how), tempfile::tempdir().unwrap());
        let root = repository("../../..").canonicalize().unwrap();
        let places = [&tree.path(""), &root, out.path()]
            .map(|it: &Path| it.to_str().unwrap().trim_end_matches('/').to_owned());
        let holds = |profile: &str| {
            let made = handed_on(&script, &tree, profile, out.path());
            let held =
                |bytes: &[u8], place: &str| bytes.windows(place.len()).any(|it| it == place.as_bytes());
            let found = made.iter().flat_map(|(what, bytes)| {
                places.iter().filter(|place| held(bytes, place)).map(move |place| format!("{what}: {place}"))
            });
            found.collect::<Vec<_>>()
        };
        assert_eq!(holds("release"), [""; 0], "{how}");
        // A development build of a linked model says where it was published: such a place is found.
        let published: &[String] = if how == "link" { &[format!("model.rs: {}", places[0])] } else { &[] };
        assert_eq!(holds("debug"), published, "{how}");
    }
}
