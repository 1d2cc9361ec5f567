//! Where things are.

use std::fs;

use anyhow::Context as _;
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::manifest::RUNTIME_VERSION;

/// The repository.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    root: Utf8PathBuf,
}

impl Workspace {
    /// The repository that this binary was built in, unless another is named.
    pub(crate) fn find(root: Option<&Utf8Path>) -> anyhow::Result<Self> {
        let built = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).parent();
        let root = match root {
            // Children run in other folders.
            Some(root) => {
                root.canonicalize_utf8().with_context(|| format!("--root {root}: cannot be opened"))?
            }
            None => built.context("xtask has no parent folder")?.to_owned(),
        };
        Ok(Self { root })
    }

    /// Shared by every command that works in [`Self::state`] for as long as it runs: `clean` waits for none of them, and
    /// removes nothing while there is one. `None` where nothing can be made here, and so nothing removed either.
    pub(crate) fn in_use(&self) -> Option<fs::File> {
        fs::create_dir_all(self.state()).ok()?;
        let file = fs::File::create(self.in_use_path()).ok()?;
        // Waits for a `clean` that is removing things.
        file.lock_shared().ok().map(|()| file)
    }

    /// The lock of [`Self::in_use`].
    pub(crate) fn in_use_path(&self) -> Utf8PathBuf {
        self.state().join("in-use.lock")
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

    /// Models of random weights: laid out as [`Self::models`], so that the gate can be pointed at it.
    pub(crate) fn rehearsals(&self) -> Utf8PathBuf {
        self.state().join("rehearsal")
    }

    /// Checkpoints from the hub, by repository and commit.
    pub(crate) fn weights(&self) -> Utf8PathBuf {
        self.state().join("weights")
    }

    /// Checkpoints made from a GGUF, by model.
    pub(crate) fn checkpoints_from_gguf(&self) -> Utf8PathBuf {
        self.state().join("gguf")
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

/// Takes a lock file for as long as the answer lives; `None` while another process has it.
pub(crate) fn try_lock(path: &Utf8Path) -> anyhow::Result<Option<fs::File>> {
    let file = fs::File::create(path).with_context(|| format!("{path}: cannot be made"))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("{path}: cannot be locked"))
        }
    }
}
