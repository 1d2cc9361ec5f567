//! A scratch place with a recipe that fetches from the hub, and where the token may be.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::hub::{Asked, Files, REPO, REVISION};

pub(crate) const TOKEN: &str = "hf_ThisTokenMustNeverBeSeenAnywhere";
pub(crate) const WEIGHTS: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";
pub(crate) const WEIGHTS_BYTES: usize = 3 << 20;
pub(crate) const RECIPE: &str = include_str!("../../../model-assets/models/tiny/recipe.toml");

/// A scratch place with a recipe that fetches from the hub.
pub(crate) struct Scratch {
    pub(crate) folder: tempfile::TempDir,
}

impl Scratch {
    pub(crate) fn new(pins: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = format!("kind = \"hub\"\nrepo = \"{REPO}\"\nrevision = \"{REVISION}\"\n{pins}");
        let recipe = RECIPE.replace("kind = \"path\"\npath = \".\"\n", &source);
        assert!(recipe.contains(REVISION), "the recipe was not changed");
        std::fs::create_dir_all(folder.path().join("models/tiny")).unwrap();
        std::fs::write(folder.path().join("models/tiny/recipe.toml"), recipe).unwrap();
        Self { folder }
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.folder.path().join("cache").join(REPO).join(REVISION)
    }

    pub(crate) fn command(&self, hub: &str, token: bool, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        let folder = self.folder.path();
        command.args(["weights", "tiny", "--models"]).arg(folder.join("models"));
        if !more.contains(&"--stall-timeout") {
            command.args(["--stall-timeout", "1"]);
        }
        command.arg("--cache").arg(folder.join("cache")).args(more);
        for name in [
            "HF_TOKEN",
            "HUGGING_FACE_HUB_TOKEN",
            "HF_TOKEN_PATH",
            "HF_HUB_OFFLINE",
            "XDG_CACHE_HOME",
            "HF_HOME",
        ] {
            command.env_remove(name);
        }
        command.env("HF_ENDPOINT", hub).env("HOME", folder).env("RUST_LOG", "trace").env("NO_PROXY", "*");
        if token {
            command.env("HF_TOKEN", TOKEN);
        }
        command
    }

    /// Runs it; the token must be nowhere.
    pub(crate) fn run(&self, hub: &str, token: bool, more: &[&str]) -> (i32, String) {
        let output = self.command(hub, token, more).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(!text.contains(TOKEN), "the output shows the token:\n{text}");
        assert!(!text.contains("signed-address"), "the output shows a signed address:\n{text}");
        no_token_in(self.folder.path());
        (output.status.code().unwrap_or(-1), text)
    }

    /// Every file is there, right, and nothing of a download is left.
    pub(crate) fn is_whole(&self, files: &Files) {
        let names = |path: &Path| -> Vec<String> {
            let entries = std::fs::read_dir(path).unwrap().flatten();
            entries
                .map(|entry| entry.file_name().into_string().unwrap())
                .filter(|name| !name.starts_with('.'))
                .collect()
        };
        for name in names(&self.cache()) {
            assert!(!name.contains(".incomplete"), "{name} was left behind");
            assert_eq!(std::fs::read(self.cache().join(&name)).unwrap(), files.0[&name], "{name}");
        }
        assert!(self.cache().join("config.json").exists());
    }
}

pub(crate) fn no_token_in(folder: &Path) {
    for entry in walkdir::WalkDir::new(folder) {
        let entry = entry.unwrap();
        if entry.file_type().is_file() {
            let bytes = std::fs::read(entry.path()).unwrap();
            let found = bytes.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes());
            assert!(!found, "{} holds the token", entry.path().display());
        }
    }
}

/// The token went to the hub's own origin only.
pub(crate) fn token_stayed_home(asked: &[Asked], sent: bool) {
    for request in asked {
        let carried = request.headers.values().any(|value| value.contains(TOKEN));
        assert!(!(carried && request.storage), "the token was sent to another origin: {request:?}");
        assert!(!sent || request.storage || carried, "the hub was asked without the token: {request:?}");
    }
}
