//! Where things are.

use anyhow::Context as _;
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::manifest::RUNTIME_VERSION;

/// The repository.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    root: Utf8PathBuf,
}

impl Workspace {
    /// The repository that this binary was built in.
    pub(crate) fn find() -> anyhow::Result<Self> {
        let root =
            Utf8Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has no parent folder")?;
        Ok(Self { root: root.to_owned() })
    }

    pub(crate) fn root(&self) -> &Utf8Path {
        &self.root
    }

    /// Everything that is made here and never committed.
    pub(crate) fn state(&self) -> Utf8PathBuf {
        self.root.join(".proofmark")
    }

    pub(crate) fn venv(&self) -> Utf8PathBuf {
        self.state().join("venv")
    }

    pub(crate) fn python(&self) -> Utf8PathBuf {
        self.venv().join("bin/python")
    }

    pub(crate) fn models(&self) -> Utf8PathBuf {
        self.root.join("model-assets/models")
    }

    /// The models that the app's build script looks at: `PROOFMARK_MODELS_DIR` replaces them there, and so here.
    pub(crate) fn built_models(&self) -> Utf8PathBuf {
        match std::env::var("PROOFMARK_MODELS_DIR").ok().filter(|models| !models.is_empty()) {
            Some(models) => {
                eprintln!("warning: models are taken from PROOFMARK_MODELS_DIR={models}");
                models.into()
            }
            None => self.models(),
        }
    }

    /// Models of random weights: laid out as [`Self::models`], so that the gate can be pointed at it.
    pub(crate) fn rehearsals(&self) -> Utf8PathBuf {
        self.state().join("rehearsal")
    }

    /// Checkpoints from the hub, by repository and commit.
    pub(crate) fn weights(&self) -> Utf8PathBuf {
        self.state().join("weights")
    }

    pub(crate) fn python_sources(&self) -> Utf8PathBuf {
        self.root.join("xtask/python")
    }

    pub(crate) fn sdk(&self) -> Utf8PathBuf {
        let system = if cfg!(target_os = "macos") { "apple-darwin" } else { "unknown-linux-gnu" };
        let triple = format!("{}-{system}", std::env::consts::ARCH);
        self.state().join("sdk").join(format!("executorch-{RUNTIME_VERSION}-{triple}"))
    }
}
