//! `cargo xtask setup`: the Python venv from the hash-pinned lock, and the C++ SDK of the executorch wheel.
//!
//! **Invariant:** the receipt is removed before anything is changed and written last, so a killed set-up is
//! done again and a finished one is not.

use std::fs;

use anyhow::{Context as _, anyhow, bail, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::digest::Digest;
use serde::{Deserialize, Serialize};

use crate::{
    child::{self, cmd},
    exit::{Exit, Failure, Outcome},
    packages::Packages,
    torch_index,
    workspace::Workspace,
};

const LOCK: &[u8] = include_bytes!("../python/requirements.lock");
const BOOTSTRAP: &[u8] = include_bytes!("../python/bootstrap.lock");

/// What was set up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Receipt {
    /// Digest of the locks.
    pub(crate) lock: Digest,
    /// Which index PyTorch came from.
    pub(crate) torch_index: String,
}

/// The packages that the venv is made of, with their digests.
pub(crate) fn requirements() -> &'static str {
    // Part of this binary, written by uv: it is text.
    std::str::from_utf8(LOCK).unwrap_or_default()
}

/// Digest of both locks.
pub(crate) fn lock_digest() -> Digest {
    Digest::of(&[LOCK, BOOTSTRAP].concat())
}

pub(crate) fn run(workspace: &Workspace) -> Outcome {
    ensure(workspace).map(|_| ())
}

/// The Python that the venv is made with.
pub(crate) fn system_python() -> String {
    std::env::var("PROOFMARK_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

/// The set-up that is there, if it is whole and made from today's lock.
pub(crate) fn current(workspace: &Workspace) -> Option<Receipt> {
    inspect(workspace).ok()
}

/// The set-up that is there.
///
/// # Errors
/// Why it is not the one that is wanted.
pub(crate) fn inspect(workspace: &Workspace) -> anyhow::Result<Receipt> {
    let path = receipt_path(workspace);
    let receipt = read(&path).with_context(|| format!("{path}: no finished set-up"))?;
    ensure!(receipt.lock == lock_digest(), "made from lock {}", receipt.lock.short());
    let sdk = workspace.sdk().join("include");
    ensure!(sdk.exists(), "{sdk}: is gone");
    same_python(workspace)?;
    Ok(receipt)
}

/// A venv is its Python's: another minor version finds no package in it.
fn same_python(workspace: &Workspace) -> anyhow::Result<()> {
    let (python, record) = (workspace.python(), workspace.venv().join("pyvenv.cfg"));
    let shell = child::shell(workspace.root())?;
    let code = "import sys; print('%d.%d' % sys.version_info[:2])";
    let Ok(now) = cmd!(shell, "{python} -I -c {code}").quiet().ignore_stderr().read() else {
        bail!("{python}: does not run");
    };
    let text = fs::read_to_string(&record).with_context(|| format!("{record}: cannot be read"))?;
    let made = text.lines().find_map(|line| line.strip_prefix("version")?.trim_start().strip_prefix('='));
    let made: Vec<&str> = made.unwrap_or_default().trim().split('.').take(2).collect();
    let made = made.join(".");
    ensure!(made == now.trim(), "made with Python {made}, which is {} now", now.trim());
    Ok(())
}

fn receipt_path(workspace: &Workspace) -> Utf8PathBuf {
    workspace.venv().join("proofmark.json")
}

/// Sets up what is not set up yet.
pub(crate) fn ensure(workspace: &Workspace) -> Result<Receipt, Failure> {
    if let Some(receipt) = current(workspace) {
        return Ok(receipt);
    }
    let _lock = lock(workspace)?;
    // Another set-up may have finished while this one waited.
    if let Some(receipt) = current(workspace) {
        return Ok(receipt);
    }
    make(workspace, &receipt_path(workspace)).map_err(|error| {
        let hint = "needs Python 3.11 or newer with venv (Debian: apt-get install python3-venv), 8 GB of disk and \
                    the package index; then run: cargo xtask setup";
        Failure::new(Exit::Setup, error, hint)
    })
}

/// One set-up at a time; the second waits.
fn lock(workspace: &Workspace) -> anyhow::Result<fs::File> {
    let path = workspace.state().join("setup.lock");
    fs::create_dir_all(workspace.state())?;
    let file = fs::File::create(&path).with_context(|| format!("{path}: cannot be made"))?;
    if file.try_lock().is_err() {
        eprintln!("waiting for another set-up to finish");
        file.lock()?;
    }
    Ok(file)
}

fn read(path: &Utf8Path) -> Option<Receipt> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn make(workspace: &Workspace, path: &Utf8Path) -> anyhow::Result<Receipt> {
    if path.exists() {
        fs::remove_file(path)?;
    }
    let shell = child::shell(workspace.root())?;
    let (venv, python) = (workspace.venv(), workspace.python());
    let system = system_python();
    // A venv whose making was killed has a Python but no pip: it is made again.
    let pip = cmd!(shell, "{python} -I -m pip --version").quiet().ignore_stdout().ignore_stderr().run();
    if pip.is_err() || same_python(workspace).is_err() {
        let check = "import sys; sys.exit(sys.version_info < (3, 11))";
        cmd!(shell, "{system} -I -c {check}")
            .quiet()
            .run()
            .context("python3 is missing or older than 3.11")?;
        cmd!(shell, "{system} -I -m venv --clear {venv}").run()?;
    }
    let locks = workspace.python_sources();
    let (bootstrap, lock) = (locks.join("bootstrap.lock"), locks.join("requirements.lock"));
    let packages = Packages::of(workspace, &python)?;
    packages.pip(&shell, &["--require-hashes", "-r", bootstrap.as_str()]).run()?;
    let torch_index = install_cpu_torch(workspace, &shell, &packages)?;
    if torch_index == "default" {
        packages.uv(&shell, &["--require-hashes", "-r", lock.as_str()]).run()?;
    }
    stage_sdk(workspace, &shell)?;
    let receipt = Receipt { lock: lock_digest(), torch_index: torch_index.to_owned() };
    fs::write(path, serde_json::to_vec_pretty(&receipt)?)?;
    Ok(receipt)
}

/// Installs everything with PyTorch's CPU build if its index can be had; says which index is to be used.
fn install_cpu_torch(
    workspace: &Workspace,
    shell: &xshell::Shell,
    packages: &Packages,
) -> anyhow::Result<&'static str> {
    let Some(index) = torch_index::reachable_cpu_index() else {
        eprintln!("PyTorch's CPU index does not answer or is not needed: the default index is used");
        return Ok("default");
    };
    let lock = std::str::from_utf8(LOCK)?;
    if let Err(error) = torch_index::install(shell, packages, &index, lock) {
        eprintln!("PyTorch's CPU index failed ({error}): the default index is used");
        return Ok("default");
    }
    let rest = workspace.state().join("requirements-without-torch.lock");
    fs::write(&rest, torch_index::without_torch(lock))?;
    packages.uv(shell, &["--no-deps", "--require-hashes", "-r", rest.as_str()]).run()?;
    Ok("cpu")
}

/// Copies the wheel's headers and libraries to where the engine's build script looks.
fn stage_sdk(workspace: &Workspace, shell: &xshell::Shell) -> anyhow::Result<()> {
    let python = workspace.python();
    let code = "import importlib.util as u; print(u.find_spec('executorch').submodule_search_locations[0])";
    let wheel = cmd!(shell, "{python} -I -c {code}").quiet().read()?;
    let (sdk, wheel) = (workspace.sdk(), Utf8Path::new(wheel.trim()).to_owned());
    let staged = sdk.with_extension("new");
    if staged.exists() {
        fs::remove_dir_all(&staged)?;
    }
    for part in ["include", "lib"] {
        copy_tree(&wheel.join(part), &staged.join(part))?;
    }
    if sdk.exists() {
        fs::remove_dir_all(&sdk)?;
    }
    fs::rename(&staged, &sdk).with_context(|| format!("{sdk}: cannot be put in place"))
}

fn copy_tree(from: &Utf8Path, to: &Utf8Path) -> anyhow::Result<()> {
    for entry in walkdir::WalkDir::new(from).sort_by_file_name() {
        let entry = entry?;
        let source = Utf8Path::from_path(entry.path()).ok_or_else(|| anyhow!("a path that is not UTF-8"))?;
        let target = to.join(source.strip_prefix(from)?);
        if entry.file_type().is_dir() {
            fs::create_dir_all(&target)?;
        } else {
            fs::copy(source, &target).with_context(|| format!("{source}: cannot be copied"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_venv_of_another_python_is_not_the_one_that_is_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::find(Utf8Path::from_path(folder.path())).unwrap();
        let venv = workspace.venv();
        fs::create_dir_all(venv.join("bin")).unwrap();
        // What a distribution's upgrade leaves: the venv's link leads to the new Python, its record names the old one.
        let real = Workspace::find(None).unwrap().python().canonicalize_utf8().unwrap();
        std::os::unix::fs::symlink(real, venv.join("bin/python")).unwrap();
        fs::write(venv.join("pyvenv.cfg"), "home = /usr/bin\nversion = 3.2.1\n").unwrap();
        let error = same_python(&workspace).unwrap_err().to_string();
        assert!(error.starts_with("made with Python 3.2, which is 3."), "{error}");
        let now = error.rsplit_once("which is ").unwrap().1.strip_suffix(" now").unwrap().to_owned();
        fs::write(venv.join("pyvenv.cfg"), format!("version = {now}.99\n")).unwrap();
        same_python(&workspace).unwrap();
        fs::remove_file(venv.join("bin/python")).unwrap();
        assert!(same_python(&workspace).unwrap_err().to_string().ends_with("does not run"));
    }
}
