//! Models to be spoiled, and the builds of the app against them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Mutex,
};

use model_assets::manifest::Manifest;

/// Builds share `target/`: one at a time.
pub(crate) static BUILDING: Mutex<()> = Mutex::new(());

pub(crate) const PTE: &str = "tiny-int8-seq512.pte";

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A copy of the proven models directory, to be spoiled.
pub(crate) struct Models(pub(crate) tempfile::TempDir);

impl Models {
    pub(crate) fn proven() -> Self {
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

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn edit(&self, name: &str, edit: impl FnOnce(Vec<u8>) -> Vec<u8>) {
        let path = self.path(name);
        fs::write(&path, edit(fs::read(&path).unwrap())).unwrap();
    }

    pub(crate) fn manifest(&self) -> Manifest {
        Manifest::parse(&fs::read(self.path("tiny/manifest.json")).unwrap()).unwrap()
    }

    pub(crate) fn edit_manifest(&self, edit: impl FnOnce(&mut Manifest)) {
        let mut manifest = self.manifest();
        edit(&mut manifest);
        fs::write(self.path("tiny/manifest.json"), manifest.to_bytes()).unwrap();
    }

    pub(crate) fn replace(&self, name: &str, from: &str, to: &str) {
        self.edit(name, |bytes| {
            let text = String::from_utf8(bytes).unwrap();
            assert!(text.contains(from), "{name} has no `{from}`");
            text.replace(from, to).into_bytes()
        });
    }

    pub(crate) fn build(&self, arguments: &[&str]) -> Output {
        self.build_with(arguments, &[])
    }

    pub(crate) fn build_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
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
    pub(crate) fn built_app(&self) -> String {
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
    pub(crate) fn engine_build_script(&self) -> PathBuf {
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
    pub(crate) fn refused(&self, arguments: &[&str], reason: &str, hint: &str) {
        self.refused_with(arguments, &[], reason, hint);
    }

    pub(crate) fn refused_with(
        &self,
        arguments: &[&str],
        variables: &[(&str, &str)],
        reason: &str,
        hint: &str,
    ) {
        let _one = BUILDING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let output = self.build_with(arguments, variables);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "the build passed; expected `{reason}`");
        for part in [reason, hint] {
            assert!(text.contains(part), "expected `{part}` in:\n{text}");
        }
    }
}

pub(crate) fn flip(mut bytes: Vec<u8>, index: usize) -> Vec<u8> {
    bytes[index] ^= 1;
    bytes
}
