//! Sabotage of the gate: the app is really built against each bad model, and must fail naming the command to run, or
//! provably still hold the proven bytes.
//!
//! Needs `cargo xtask export` first, as `cargo xtask test` does; a missing model fails these tests.
#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

mod built;
mod models;

use std::{fs, process::Command};

use model_assets::digest::Digest;

use self::models::{BUILDING, Models, PTE, flip};

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
