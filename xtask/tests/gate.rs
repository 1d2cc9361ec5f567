//! Sabotage of the gate: the app is really built against each bad model, and must fail naming the command to run, or
//! provably still hold the proven bytes.
//!
//! Needs `cargo xtask export` first, as `cargo xtask test` does; a missing model fails these tests.
#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Mutex,
    time::{Duration, SystemTime},
};

use model_assets::{digest::Digest, manifest::Manifest};
use object::{Object as _, ObjectSection as _};

/// Builds share `target/`: one at a time.
static BUILDING: Mutex<()> = Mutex::new(());

const PTE: &str = "tiny-int8-seq512.pte";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A copy of the proven models directory, to be spoiled.
struct Models(tempfile::TempDir);

impl Models {
    fn proven() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let from = root().join("model-assets/models");
        fs::create_dir(folder.path().join("tiny")).unwrap();
        for name in ["policy.toml", "signers.toml"] {
            fs::copy(from.join(name), folder.path().join(name)).unwrap();
        }
        for name in ["recipe.toml", "manifest.json", "tokenizer.json", "chat_template.jinja", PTE] {
            let source = from.join("tiny").join(name);
            fs::copy(&source, folder.path().join("tiny").join(name))
                .unwrap_or_else(|error| panic!("{}: {error}; run: cargo xtask export", source.display()));
        }
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn edit(&self, name: &str, edit: impl FnOnce(Vec<u8>) -> Vec<u8>) {
        let path = self.path(name);
        fs::write(&path, edit(fs::read(&path).unwrap())).unwrap();
    }

    fn manifest(&self) -> Manifest {
        Manifest::parse(&fs::read(self.path("tiny/manifest.json")).unwrap()).unwrap()
    }

    fn edit_manifest(&self, edit: impl FnOnce(&mut Manifest)) {
        let mut manifest = self.manifest();
        edit(&mut manifest);
        fs::write(self.path("tiny/manifest.json"), manifest.to_bytes()).unwrap();
    }

    fn replace(&self, name: &str, from: &str, to: &str) {
        self.edit(name, |bytes| {
            let text = String::from_utf8(bytes).unwrap();
            assert!(text.contains(from), "{name} has no `{from}`");
            text.replace(from, to).into_bytes()
        });
    }

    fn build(&self, arguments: &[&str]) -> Output {
        self.build_with(arguments, &[])
    }

    fn build_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        Command::new(env!("CARGO"))
            .args(["build", "--package", "app"])
            .args(arguments)
            .current_dir(root())
            .env("PROOFMARK_MODELS_DIR", self.0.path())
            // What the gate demands depends on the profile's name, not on how well its code is optimized.
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
            .env_remove("PROOFMARK_MODEL")
            .envs(variables.iter().copied())
            .output()
            .unwrap()
    }

    /// Builds the app and returns its path.
    fn built_app(&self) -> String {
        let built = self.build(&["--message-format=json-render-diagnostics"]);
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let messages = String::from_utf8_lossy(&built.stdout).into_owned();
        let messages =
            messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let mut apps = messages.filter(|message| message["target"]["name"] == "app");
        let app = apps.find_map(|message| message["executable"].as_str().map(str::to_owned));
        app.expect("cargo names the app's executable")
    }

    /// The engine's build script, for running it alone: in a build it would compile for minutes afterwards.
    fn engine_build_script(&self) -> PathBuf {
        let built = self.build(&["--message-format=json-render-diagnostics"]);
        let messages = String::from_utf8_lossy(&built.stdout).into_owned();
        let messages =
            messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let mut scripts = messages.filter(|message| {
            let source = message["target"]["src_path"].as_str().unwrap_or_default();
            message["target"]["kind"][0] == "custom-build" && source.ends_with("app/engine/build.rs")
        });
        let script = scripts.find_map(|message| message["filenames"][0].as_str().map(PathBuf::from));
        script.expect("cargo names the engine's build script")
    }

    /// The build fails, and says why and what to run.
    fn refused(&self, arguments: &[&str], reason: &str, hint: &str) {
        self.refused_with(arguments, &[], reason, hint);
    }

    fn refused_with(&self, arguments: &[&str], variables: &[(&str, &str)], reason: &str, hint: &str) {
        let _one = BUILDING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let output = self.build_with(arguments, variables);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "the build passed; expected `{reason}`");
        for part in [reason, hint] {
            assert!(text.contains(part), "expected `{part}` in:\n{text}");
        }
    }
}

fn flip(mut bytes: Vec<u8>, index: usize) -> Vec<u8> {
    bytes[index] ^= 1;
    bytes
}

#[test]
fn no_model() {
    let models = Models::proven();
    fs::remove_file(models.path("tiny").join(PTE)).unwrap();
    models.refused(&[], "no such file, expected the exported model", "run: cargo xtask export tiny");
}

#[test]
fn no_manifest() {
    let models = Models::proven();
    fs::remove_file(models.path("tiny/manifest.json")).unwrap();
    models.refused(&[], "no such file, expected the proof of a model", "run: cargo xtask export tiny");
}

#[test]
fn a_flipped_byte_of_a_weight() {
    let models = Models::proven();
    models.edit(&format!("tiny/{PTE}"), |bytes| {
        let index = bytes.len() - 1000;
        flip(bytes, index)
    });
    models.refused(&[], "sha256: manifest.json: got ", "run: cargo xtask export tiny --force");
}

#[test]
fn a_truncated_file() {
    let models = Models::proven();
    models.edit(&format!("tiny/{PTE}"), |bytes| bytes[..bytes.len() - 4096].to_vec());
    models.refused(&[], "file-size: manifest.json: got ", "run: cargo xtask export tiny --force");
}

#[test]
fn a_forged_digest_over_flipped_structure() {
    let models = Models::proven();
    // Inside the program: an attacker who also rewrites the manifest's digest still meets the structure checks.
    models.edit(&format!("tiny/{PTE}"), |bytes| flip(bytes, 4));
    let sha256 = Digest::of(&fs::read(models.path("tiny").join(PTE)).unwrap());
    models.edit_manifest(|manifest| manifest.sha256 = sha256);
    models.refused(&[], "C2: ", "run: cargo xtask export tiny --force");
}

#[test]
fn a_stale_manifest() {
    let models = Models::proven();
    models.replace("tiny/recipe.toml", "prefill_over_decode_min = ", "prefill_over_decode_min = 1");
    models.refused(&[], "recipe-digest: manifest.json: got ", "run: cargo xtask export tiny --force");
}

#[test]
fn a_foreign_manifest() {
    let models = Models::proven();
    models.edit_manifest(|manifest| {
        manifest.model = "other".to_owned();
        manifest.file = "other-int8-seq512.pte".to_owned();
    });
    fs::copy(models.path("tiny").join(PTE), models.path("tiny/other-int8-seq512.pte")).unwrap();
    models.refused(
        &[],
        "model-name: manifest.json: got other, expected tiny",
        "run: cargo xtask export tiny",
    );
}

#[test]
fn a_manifest_of_another_version() {
    let models = Models::proven();
    models.replace("tiny/manifest.json", "\"schema\": 1", "\"schema\": 2");
    models.refused(&[], "got schema version 2, expected 1", "run: cargo xtask export tiny --force");
}

#[test]
fn a_lowered_policy_limit() {
    let models = Models::proven();
    models.replace(
        "policy.toml",
        "[limits]\nfile_bytes_max = 1_500_000_000",
        "[limits]\nfile_bytes_max = 2_000_000",
    );
    models.refused(
        &[],
        "`limits.file_bytes_max` got 8000000, expected at most the policy's 2000000",
        "policy.toml",
    );
}

#[test]
fn another_tokenizer() {
    let models = Models::proven();
    models.edit("tiny/tokenizer.json", |mut bytes| {
        bytes.push(b'\n');
        bytes
    });
    models.refused(&[], "tokenizer-digest: manifest.json: got ", "run: cargo xtask export tiny --force");
}

/// Verdicts are derived: a recorded one that says otherwise was forged.
#[test]
fn a_forged_verdict() {
    let models = Models::proven();
    models.replace("policy.toml", "seq_len = 512", "seq_len = 1024");
    let policy = fs::read_to_string(models.path("policy.toml")).unwrap();
    let policy = model_assets::policy::Policy::parse(&policy).unwrap().digest();
    models.edit_manifest(|manifest| {
        manifest.bound.policy = policy;
        manifest.evidence.as_mut().unwrap().bound.bound.policy = policy;
        assert!(manifest.prd_compliant, "recorded when the policy asked for less");
    });
    models.refused(
        &[],
        "prd-compliant: manifest.json: got compliant, expected not compliant: sequence length: got 512, expected 1024",
        "run: cargo xtask export tiny --force",
    );
    let models = Models::proven();
    models.edit_manifest(|manifest| manifest.checks[0].passed = false);
    models.refused(&[], "recorded-checks: manifest.json: got ", "run: cargo xtask export tiny --force");
}

/// Printed as they are, they would end the line of a directive and begin another one.
#[test]
fn control_characters_in_a_variable() {
    let models = Models::proven();
    let name = [("PROOFMARK_MODEL", "tiny\ncargo::rustc-env=FORGED=1")];
    let escaped = r#"got "tiny\ncargo::rustc-env=FORGED=1", expected no control characters"#;
    models.refused_with(&[], &name, "environment variable PROOFMARK_MODEL: ", escaped);
    let folder = [("PROOFMARK_MODELS_DIR", "/nowhere\r\ncargo::warning=forged")];
    models.refused_with(&[], &folder, "environment variable PROOFMARK_MODELS_DIR: ", "no control characters");
}

#[test]
#[cfg(target_os = "linux")]
fn the_engines_build_script_takes_neither_control_characters_nor_a_pipe() {
    let _one = BUILDING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let script = Models::proven().engine_build_script();
    let sdk = tempfile::tempdir().unwrap();
    let package = sdk.path().join("lib/cmake/executorch");
    fs::create_dir_all(&package).unwrap();
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    let pipe = package.join("executorch-config-version.cmake");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let folder = sdk.path().to_str().unwrap();
    for (sdk, expected) in [
        ("/sdk\ncargo::rustc-env=FORGED=1", "expected no control characters"),
        (folder, "got no regular file, expected a staged ExecuTorch SDK"),
    ] {
        let mut command = Command::new(&script);
        let output = command.env("EXECUTORCH_SDK_DIR", sdk).env("OUT_DIR", folder).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!output.status.success() && text.contains(expected), "{text}");
        assert!(!text.lines().any(|line| line.starts_with("cargo::rustc-env")), "{text}");
    }
}

#[test]
fn a_name_that_leads_out_of_the_models() {
    let models = Models::proven();
    let name = [("PROOFMARK_MODEL", "../models/tiny")];
    let reason = r#"model name: got "../models/tiny", expected letters, digits, `.`, `-` and `_`"#;
    models.refused_with(&[], &name, reason, "hint: name a directory of model-assets/models");
}

/// Opening a named pipe would wait for a writer, and reading a device would not end.
#[test]
#[cfg(target_os = "linux")]
fn what_is_no_regular_file_in_place_of_any_input() {
    let files = [
        "policy.toml",
        "tiny/recipe.toml",
        "tiny/manifest.json",
        "tiny/tokenizer.json",
        "tiny/chat_template.jinja",
        &format!("tiny/{PTE}"),
    ];
    for name in files {
        let models = Models::proven();
        fs::remove_file(models.path(name)).unwrap();
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        let pipe = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, models.path(name), pipe, mode, 0).unwrap();
        models.refused(&[], &format!("{name}: got a named pipe, expected a regular file"), "hint: ");
    }
    let models = Models::proven();
    let path = models.path("tiny").join(PTE);
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
    models.refused(&[], &format!("{PTE}: got a device, expected a regular file"), "hint: ");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    models.refused(&[], &format!("{PTE}: got a directory, expected a regular file"), "hint: ");
}

/// Its length alone refuses it: nobody waits for the hash of a terabyte of nothing.
#[test]
fn a_sparse_file_of_a_terabyte() {
    let models = Models::proven();
    models.replace("tiny/recipe.toml", "delivery = \"embed\"", "delivery = \"link\"");
    let file = fs::File::options().write(true).open(models.path("tiny").join(PTE)).unwrap();
    file.set_len(1 << 40).unwrap();
    models.refused(
        &[],
        "file-size: manifest.json: got 1099511627776",
        "run: cargo xtask export tiny --force",
    );
}

#[test]
fn random_weights_in_release() {
    let models = Models::proven();
    models.edit_manifest(|manifest| {
        manifest.weights = model_assets::manifest::WeightsKind::Random;
        manifest.source.source = model_assets::recipe::Source::Random { seed: 7 };
        (manifest.bound.tokenizer, manifest.bound.chat_template) = (None, None);
        let bound = manifest.bound.clone();
        manifest.evidence.as_mut().unwrap().bound.bound = bound;
    });
    let hint = "random weights are for rehearsal; run: cargo xtask export tiny";
    models.refused(&["--release"], "got random weights, expected a checkpoint, in a release build", hint);
}

#[test]
fn missing_evidence_in_release() {
    let models = Models::proven();
    models.edit_manifest(|manifest| manifest.evidence.as_mut().unwrap().parity = None);
    models.refused(
        &["--release"],
        "evidence-parity: manifest.json: got none",
        "run: cargo xtask verify tiny",
    );
}

#[test]
fn void_evidence_in_release() {
    let models = Models::proven();
    models.edit_manifest(|manifest| {
        let bound = &mut manifest.evidence.as_mut().unwrap().bound;
        (bound.runtime, bound.kernels) = ("1.4.0".to_owned(), None);
    });
    models.refused(
        &["--release"],
        "evidence void: the runtime, the engine's operators changed since",
        "run: cargo xtask verify tiny",
    );
}

#[test]
fn evidence_that_failed_is_refused_even_in_dev() {
    let models = Models::proven();
    models.edit_manifest(|manifest| {
        let parity = manifest.evidence.as_mut().unwrap().parity.as_mut().unwrap();
        parity.step_by_step.run.max_abs_diff = 1e9;
    });
    models.refused(&[], "evidence-parity: step by step: got ", "run: cargo xtask verify tiny");
}

/// A swap that no time stamp shows: cargo does not run the gate again, and the binary must hold the proven bytes.
#[test]
fn an_older_mtime_swap_after_a_clean_build() {
    let _one = BUILDING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let models = Models::proven();
    let proven = models.manifest().sha256.to_string();
    let built = models.build(&[]);
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));

    models.edit(&format!("tiny/{PTE}"), |bytes| {
        let index = bytes.len() - 1000;
        flip(bytes, index)
    });
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let file = fs::File::options().write(true).open(models.path("tiny").join(PTE)).unwrap();
    file.set_modified(long_ago).unwrap();
    let main = root().join("app/src/model.rs");
    fs::File::options().append(true).open(main).unwrap().set_modified(SystemTime::now()).unwrap();

    let app = models.built_app();
    let output = Command::new(&app).arg("--provenance").output().unwrap();
    let provenance: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(provenance["embedded_sha256"], proven.as_str());
    assert_eq!(provenance["intact"], true);
    inspected(&app, &proven);
    altered(&app);

    // Put in its place by a rename, as most tools do, it brings an old time stamp along; the folder has a new one.
    let (path, other) = (models.path("tiny").join(PTE), models.path("other"));
    fs::rename(&path, &other).unwrap();
    fs::rename(&other, &path).unwrap();
    let output = models.build(&[]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("sha256: manifest.json: got "), "{text}");
}

/// A binary whose block is another one than its code was built with: as when the one of two files in the build's cache is
/// changed. It says so and runs nothing.
fn altered(app: &str) {
    let bytes = fs::read(app).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    let section = file.section_by_name("proofmark").or_else(|| file.section_by_name("__proofmark"));
    let block = usize::try_from(section.unwrap().file_range().unwrap().0).unwrap();
    // Beside the app, where its libraries are found.
    let beside = PathBuf::from(format!("{app}-altered"));
    for (index, part) in [(block + 200, "texts"), (block + 1_500_000, "model")] {
        fs::copy(app, &beside).unwrap();
        fs::write(&beside, flip(bytes.clone(), index)).unwrap();
        let expected = format!("the app itself was altered: {part}: got sha256 ");
        for arguments in [&["--prompt", "hello"][..], &["--provenance"]] {
            let output = Command::new(&beside).args(arguments).output().unwrap();
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
            assert!(text.contains(&expected), "{arguments:?}: {text}");
        }
    }
    fs::remove_file(beside).unwrap();
}

#[test]
fn a_build_with_nothing_changed_does_not_hash_again() {
    let _one = BUILDING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let models = Models::proven();
    assert!(models.build(&[]).status.success());
    let again = models.build(&["--verbose"]);
    let text = String::from_utf8_lossy(&again.stderr);
    assert!(text.lines().any(|line| line.trim_start().starts_with("Fresh app v")), "{text}");
}

/// Anyone can ask of the binary what is inside; a changed byte is found.
fn inspected(app: &str, proven: &str) {
    let inspect = |path: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.args(["inspect", "--json"]).arg(path).output().unwrap()
    };
    let output = inspect(Path::new(app));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["models"].as_array().unwrap().len(), 1);
    assert_eq!(report["models"][0]["manifest"]["sha256"], proven);
    assert_eq!(report["models"][0]["proved_for_release"], true);

    let bytes = fs::read(app).unwrap();
    let block = usize::try_from(report["models"][0]["offset"].as_u64().unwrap()).unwrap();
    // A section of that name is where any other tool finds it.
    let file = object::File::parse(&*bytes).unwrap();
    let section = file.section_by_name("proofmark").or_else(|| file.section_by_name("__proofmark"));
    assert_eq!(section.unwrap().file_range().unwrap().0, block as u64);

    let folder = tempfile::tempdir().unwrap();
    let tampered = folder.path().join("app");
    // Past the texts and the program: a weight.
    fs::write(&tampered, flip(bytes, block + 1_500_000)).unwrap();
    let output = inspect(&tampered);
    assert_eq!(output.status.code(), Some(5));
    assert!(String::from_utf8_lossy(&output.stderr).contains("sha256: manifest.json: got "));
}

/// A linked model is no part of the binary: the app proves the file again before it loads it.
#[test]
fn a_linked_model_is_proved_again_when_it_is_loaded() {
    let _one = BUILDING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let models = Models::proven();
    models.replace("tiny/recipe.toml", "delivery = \"embed\"", "delivery = \"link\"");
    let recipe = fs::read_to_string(models.path("tiny/recipe.toml")).unwrap();
    let digest = model_assets::recipe::Recipe::parse(&recipe).unwrap().digest();
    models.edit_manifest(|manifest| {
        manifest.bound.recipe = digest;
        manifest.evidence.as_mut().unwrap().bound.bound.recipe = digest;
    });
    let app = models.built_app();
    let provenance = Command::new(&app).arg("--provenance").output().unwrap();
    let provenance: serde_json::Value = serde_json::from_slice(&provenance.stdout).unwrap();
    assert_eq!(provenance["place"], "linked");

    let cache = tempfile::tempdir().unwrap();
    // A development build finds it where it was published.
    let say_hello = || {
        let mut command = Command::new(&app);
        command.args(["--prompt", "hello"]).env("XDG_CACHE_HOME", cache.path());
        command.output().unwrap()
    };
    for run in ["hashed at install", "known by its stamp"] {
        let output = say_hello();
        assert!(output.status.success(), "{run}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(!output.stdout.is_empty(), "{run}");
    }
    // The packed weights were kept; changed ones are made again, with a warning, and the answer is the same.
    let good = say_hello().stdout;
    let mut kept =
        fs::read_dir(cache.path().join("proofmark/packed/tiny")).unwrap().flatten().map(|entry| entry.path());
    let packed: PathBuf = kept.find(|path| path.extension().is_some_and(|end| end == "bin")).unwrap();
    let spoiled = flip(fs::read(&packed).unwrap(), 1000);
    fs::remove_file(&packed).unwrap();
    fs::write(&packed, spoiled).unwrap();
    let again = say_hello();
    assert!(String::from_utf8_lossy(&again.stderr).contains("packed weights were made again"), "{again:?}");
    assert_eq!(again.stdout, good);
    models.edit(&format!("tiny/{PTE}"), |bytes| {
        let index = bytes.len() - 1000;
        flip(bytes, index)
    });
    let refused = say_hello();
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("is not proved") && text.contains("sha256: manifest.json: got "), "{text}");
    fs::remove_file(models.path("tiny").join(PTE)).unwrap();
    let text = String::from_utf8_lossy(&say_hello().stderr).into_owned();
    assert!(text.contains("hint: run: cargo xtask export tiny"), "{text}");
}
