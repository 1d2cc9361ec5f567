//! The work tree, and the paths of everything in it.

use std::fs;

use anyhow::Context as _;
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::manifest::RUNTIME_VERSION;

/// Where a work tree has its models.
const MODELS: &str = "model-assets/models";

/// The work tree of the package that cargo runs, or else the nearest one that the current folder lies in, or else this program.
fn called_in(package: Option<&Utf8Path>, folder: &Utf8Path, program: &Utf8Path) -> Option<Utf8PathBuf> {
    let is_root = |root: &&Utf8Path| root.join("xtask/Cargo.toml").is_file() && root.join(MODELS).is_dir();
    let of_cargo = package.and_then(Utf8Path::parent).filter(is_root);
    let above = || [folder, program].into_iter().find_map(|place| place.ancestors().find(is_root));
    of_cargo.or_else(above).map(Utf8Path::to_owned)
}

/// The repository.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    root: Utf8PathBuf,
}

impl Workspace {
    /// The work tree that this program was called in, unless another is named: several may share one target folder, and with it
    /// this binary, and a work tree may have been moved since it was built.
    pub(crate) fn find(root: Option<&Utf8Path>) -> anyhow::Result<Self> {
        if let Some(root) = root {
            // Children run in other folders.
            let root =
                root.canonicalize_utf8().with_context(|| format!("--root {root}: cannot be opened"))?;
            return Ok(Self { root });
        }
        let current = std::env::current_dir().context("the current folder cannot be found")?;
        let current = Utf8PathBuf::try_from(current).context("the current folder is not UTF-8")?;
        let called = std::env::var("CARGO_MANIFEST_DIR").ok().map(Utf8PathBuf::from);
        let program = std::env::current_exe().ok().and_then(|path| Utf8PathBuf::try_from(path).ok());
        let root = called_in(called.as_deref(), &current, &program.unwrap_or_default()).with_context(|| {
            format!("{current}: got no work tree here or above, expected one with xtask/ and {MODELS}/; name it: --root DIR")
        })?;
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

    /// Where the lock files are.
    pub(crate) fn locks(&self) -> Utf8PathBuf {
        self.state().join("locks")
    }

    pub(crate) fn venv(&self) -> Utf8PathBuf {
        self.state().join("venv")
    }

    pub(crate) fn python(&self) -> Utf8PathBuf {
        self.venv().join("bin/python")
    }

    pub(crate) fn models(&self) -> Utf8PathBuf {
        self.root.join(MODELS)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_work_tree_is_the_one_that_one_stands_in() {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(folder.path()).unwrap();
        let (one, other) = (root.join("one"), root.join("one/nested/other"));
        for tree in [&one, &other] {
            fs::create_dir_all(tree.join(MODELS)).unwrap();
            fs::create_dir_all(tree.join("xtask/src")).unwrap();
            fs::write(tree.join("xtask/Cargo.toml"), "").unwrap();
        }
        let program = other.join("target/debug/xtask");
        let called = |package: Option<&Utf8Path>, folder: &Utf8Path| called_in(package, folder, &program);
        assert_eq!(called(None, &one.join("xtask/src")), Some(one.clone()));
        assert_eq!(called(None, &other.join(MODELS)), Some(other.clone()));
        assert_eq!(called(None, &one.join("nested")), Some(one.clone()));
        // Cargo runs the package of the tree that it was called in, wherever that is.
        assert_eq!(called(Some(&other.join("xtask")), root), Some(other.clone()));
        // Another program's package says nothing.
        assert_eq!(called(Some(&root.join("elsewhere/tool")), &one), Some(one));
        assert_eq!(called(None, root), Some(other), "where this program lies");
        assert_eq!(called_in(None, root, &root.join("bin/xtask")), None);
    }
}
