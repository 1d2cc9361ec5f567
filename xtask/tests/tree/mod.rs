//! A work tree of its own with the exported `tiny` in it, and a second model that differs in a bit that only a digest
//! guards: commands run on it by `--root`, and the model of the repository is left alone.
//!
//! Needs `cargo xtask export` first, as `cargo xtask test` does; a missing model fails these tests.
#![allow(dead_code, clippy::unwrap_used, clippy::allow_attributes, reason = "helpers of several tests")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use model_assets::{
    bundle,
    check::{Profile, signed_by, validate},
    digest::Digest,
    dir::ModelDir,
    manifest::Manifest,
    signature::PrivateKey,
    signers,
};

pub(crate) const MANIFEST: &str = "manifest.json";
pub(crate) const PTE: &str = "tiny-int8-seq512.pte";
pub(crate) const REFERENCE: &str = "tiny-int8-seq512.reference";
const LOG: &str = "export_pte_log.txt";
const TRANSCRIPT: &str = "eq-transcript.json";
pub(crate) const SIGNATURE: &str = "model.sig";
/// What a model's directory has before anything is published.
const OWN: [&str; 3] = ["recipe.toml", "tokenizer.json", "chat_template.jinja"];
/// What a publish puts there.
const PUBLISHED: [&str; 5] = [MANIFEST, PTE, REFERENCE, LOG, TRANSCRIPT];

/// Files of a model by name.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// The repository's own model.
pub(crate) fn repository(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("model-assets/models/tiny").join(name)
}

/// The exported model, and a variant of it without evidence.
pub(crate) fn two_models() -> [Files; 2] {
    let read = |name: &&str| {
        let path = repository(name);
        let bytes = fs::read(&path);
        (
            (*name).to_owned(),
            bytes.unwrap_or_else(|error| panic!("{path:?}: {error}; run: cargo xtask export")),
        )
    };
    let first: Files = PUBLISHED.iter().map(read).collect();
    let models = repository("").parent().unwrap().to_str().unwrap().to_owned();
    let (mut claim, _) = ModelDir::new(models, "tiny").open().unwrap();
    claim.manifest.evidence = None;
    let mut second = first.clone();
    second.get_mut(REFERENCE).unwrap()[100] ^= 1;
    claim.manifest.reference.sha256 = Digest::of(&second[REFERENCE]);
    second.remove(TRANSCRIPT);
    // The constants come first behind the program: embedding rows, norms, rotary tables.
    let program = usize::try_from(claim.manifest.structure.program_bytes).unwrap();
    let bytes = &first[PTE];
    let only_the_digest_guards = |at: &usize| {
        let mut other = bytes.clone();
        other[*at] ^= 1;
        claim.manifest.sha256 = Digest::of(&other);
        let proved = validate(other.clone(), &claim, Profile::Dev).is_ok();
        second.insert(PTE.to_owned(), other);
        proved
    };
    (program..bytes.len()).step_by(4096).find(only_the_digest_guards).unwrap();
    second.insert(MANIFEST.to_owned(), claim.manifest.to_bytes());
    [first, second]
}

/// The digest that a model's manifest names.
pub(crate) fn sha256(model: &Files) -> Digest {
    Manifest::parse(&model[MANIFEST]).unwrap().sha256
}

/// The files of a bundle.
pub(crate) fn unbundled(bytes: &[u8]) -> Files {
    let folder = tempfile::tempdir().unwrap();
    let open = &mut |entry: &bundle::Entry| fs::File::create_new(folder.path().join(&entry.name));
    let content = |entry: bundle::Entry| {
        let bytes = fs::read(folder.path().join(&entry.name)).unwrap();
        (entry.name, bytes)
    };
    bundle::read(bytes, open).unwrap().into_iter().map(content).collect()
}

/// These files as a bundle, by the code that `pack` uses.
pub(crate) fn bundled(mut files: Files) -> Vec<u8> {
    let mut writer = bundle::Writer::new(Vec::new());
    let manifest = files.remove(MANIFEST).unwrap();
    writer.entry(MANIFEST, manifest.len() as u64, &mut manifest.as_slice()).unwrap();
    for (name, bytes) in files {
        writer.entry(&name, bytes.len() as u64, &mut bytes.as_slice()).unwrap();
    }
    writer.finish().unwrap()
}

pub(crate) struct Tree {
    root: PathBuf,
    folder: Option<tempfile::TempDir>,
}

impl Tree {
    /// In a folder of its own.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut tree = Self::at(folder.path());
        tree.folder = Some(folder);
        tree
    }

    /// In this folder.
    pub(crate) fn at(root: &Path) -> Self {
        let models = root.join("model-assets/models");
        fs::create_dir_all(models.join("tiny")).unwrap();
        fs::copy(repository("../policy.toml"), models.join("policy.toml")).unwrap();
        for name in OWN {
            fs::copy(repository(name), models.join("tiny").join(name)).unwrap();
        }
        Self { root: root.to_owned(), folder: None }
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.root.join(below)
    }

    pub(crate) fn model(&self, name: &str) -> PathBuf {
        self.path("model-assets/models/tiny").join(name)
    }

    /// Puts a model there, as if it had been published.
    pub(crate) fn put(&self, model: &Files) {
        for name in PUBLISHED.into_iter().chain([SIGNATURE]) {
            let _ = fs::remove_file(self.model(name));
        }
        for (name, bytes) in model {
            fs::write(self.model(name), bytes).unwrap();
        }
    }

    /// Makes a key that this tree's releases accept, and signs the model with it as `xtask sign` does.
    pub(crate) fn signed<const N: usize>(&self, models: [Files; N]) -> [Files; N] {
        let key = PrivateKey::generate().unwrap();
        let entry = signers::entry("release", &key.public(), std::time::SystemTime::now());
        fs::write(self.path("model-assets/models/signers.toml"), format!("schema = 1\n{entry}")).unwrap();
        let pem = self.path("key.pem");
        fs::write(&pem, key.to_pem().unwrap().as_bytes()).unwrap();
        fs::set_permissions(&pem, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        models.map(|mut model| {
            self.put(&model);
            let (code, text) = self.run(&["sign", "tiny", "--key", pem.to_str().unwrap()]);
            assert_eq!(code, 0, "{text}");
            model.insert(SIGNATURE.to_owned(), fs::read(self.model(SIGNATURE)).unwrap());
            model
        })
    }

    /// The real binary, at work on this tree; nothing of the person who runs the tests is used.
    pub(crate) fn xtask(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.arg("--root").arg(&self.root).args(arguments);
        for name in [
            "HF_TOKEN",
            "HUGGING_FACE_HUB_TOKEN",
            "HF_TOKEN_PATH",
            "HF_HOME",
            "XDG_CACHE_HOME",
            "HF_HUB_OFFLINE",
        ] {
            command.env_remove(name);
        }
        command.env("HOME", &self.root).env("NO_PROXY", "*");
        command
    }

    /// Gives the tree the repository's set-up, worker and texts, and a `cargo` that builds the repository's engine.
    pub(crate) fn borrow_engine(&self) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for folder in [".proofmark", "xtask"] {
            fs::create_dir_all(self.path(folder)).unwrap();
        }
        for made in [".proofmark/venv", ".proofmark/sdk", "xtask/python", "model-assets/evidence"] {
            std::os::unix::fs::symlink(root.join(made), self.path(made)).unwrap();
        }
        let cargo = self.path("cargo");
        let real = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        fs::write(&cargo, format!("#!/bin/sh\ncd '{}' && exec '{real}' \"$@\"\n", root.display())).unwrap();
        fs::set_permissions(&cargo, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }

    /// The real binary with what [`Self::borrow_engine`] gave the tree.
    pub(crate) fn with_engine(&self, arguments: &[&str]) -> Command {
        let mut command = self.xtask(arguments);
        command.env("CARGO", self.path("cargo")).env("HOME", std::env::var("HOME").unwrap_or_default());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> (i32, String) {
        said(&mut self.xtask(arguments))
    }

    /// The digest of the published model, which is proved, with its own reference and transcript beside it, and its own
    /// signature where this tree demands one.
    pub(crate) fn whole(&self, when: &str) -> Digest {
        let dir = ModelDir::new(self.path("model-assets/models").to_str().unwrap(), "tiny");
        let (claim, texts) = dir.open().unwrap_or_else(|error| panic!("{when}: {error}"));
        let (path, pte) = dir.open_pte(&claim.manifest).unwrap();
        let proved = validate(pte, &claim, Profile::Dev);
        let proved = proved.unwrap_or_else(|refusal| panic!("{when}: {path}: {refusal}"));
        if let Ok(signers) = dir.signers() {
            let (signature, now) = (dir.signature(&texts.manifest).unwrap(), std::time::SystemTime::now());
            let signed = signed_by(&proved, &claim, &texts.manifest, &signers, signature.as_deref(), now);
            signed.unwrap_or_else(|refusal| panic!("{when}: {refusal}"));
        }
        let record = &claim.manifest.reference;
        let digest = |name: &str, sha256| Digest::of(&fs::read(dir.resolve(name, sha256)).unwrap());
        assert_eq!(digest(&record.name, record.sha256), record.sha256, "{when}: another model's reference");
        if let Some(eq) = claim.manifest.evidence.as_ref().and_then(|evidence| evidence.eq.as_ref()) {
            assert_eq!(
                digest(TRANSCRIPT, eq.transcript),
                eq.transcript,
                "{when}: another model's transcript"
            );
        }
        claim.manifest.sha256
    }

    /// Nothing is there that has no business there.
    pub(crate) fn tidy(&self, when: &str) {
        let known: Vec<&str> = OWN.into_iter().chain(PUBLISHED).chain([SIGNATURE]).collect();
        for name in names(&self.model("")) {
            assert!(known.contains(&name.as_str()), "{when}: {name} was left in the model's directory");
        }
        let left: Vec<_> =
            walkdir::WalkDir::new(self.path(".proofmark/fetch")).min_depth(1).into_iter().flatten().collect();
        assert!(left.is_empty(), "{when}: {left:?} were left");
    }
}

/// What a command says, and its exit code.
pub(crate) fn said(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.code().unwrap_or(-1), text)
}

pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
}
