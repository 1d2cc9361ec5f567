//! Venvs for tools that only judge: linters, and the public programs that ours are held against.
//!
//! **Invariant:** each is made of a hash-pinned lock, as wheels only, and is none of the export's: the export's lock, whose
//! digest is in every manifest, does not change with them.

use std::fs;

use anyhow::Context as _;
use camino::Utf8PathBuf;
use model_assets::digest::Digest;

use crate::{
    child::{self, cmd},
    packages::Packages,
    setup::system_python,
    workspace::Workspace,
};

/// The venv `.proofmark/NAME`, made when it is not there or of another lock.
pub(crate) fn ensure(workspace: &Workspace, name: &str, lock: &[u8]) -> anyhow::Result<Utf8PathBuf> {
    let venv = workspace.state().join(name);
    let (receipt, wanted) = (venv.join("proofmark-lock"), Digest::of(lock).to_string());
    fs::create_dir_all(workspace.state())?;
    let one = fs::File::create(workspace.state().join(format!("{name}.lock")))?;
    one.lock()?;
    if fs::read_to_string(&receipt).is_ok_and(|made| made == wanted) {
        return Ok(venv);
    }
    if venv.exists() {
        fs::remove_dir_all(&venv).with_context(|| format!("{venv}: cannot be removed"))?;
    }
    let shell = child::shell(workspace.root())?;
    let (base, python) = (system_python(), venv.join("bin/python"));
    cmd!(shell, "{base} -I -m venv {venv}").quiet().run()?;
    let list = venv.join("packages.lock");
    fs::write(&list, lock)?;
    let arguments = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "-r", list.as_str()];
    Packages::of(workspace, &python)?.pip(&shell, &arguments).quiet().run()?;
    fs::write(&receipt, wanted)?;
    Ok(venv)
}

/// The public programs that ours are held against: `model_signing` and the validator of CycloneDX.
#[cfg(test)]
pub(crate) fn interop() -> Utf8PathBuf {
    let workspace = Workspace::find(None).expect("a workspace");
    let lock = include_bytes!("../python/interop.lock");
    ensure(&workspace, "interop-venv", lock).expect("needs Python with venv and the package index")
}

/// `transformers`, whose templates and networks both halves are held against. It has no torch: who computes adds the export's.
///
/// # Errors
/// There is no Python with venv, or no package index.
pub(crate) fn transformers(workspace: &Workspace) -> anyhow::Result<Utf8PathBuf> {
    ensure(workspace, "templates-venv", include_bytes!("../python/templates.lock"))
}
