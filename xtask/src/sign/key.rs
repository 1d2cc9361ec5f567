//! Private keys: made once, read when something is signed.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    time::SystemTime,
};

use anyhow::{Context as _, anyhow, ensure};
use camino::Utf8Path;
use model_assets::{
    signature::PrivateKey,
    signers::{self, SIGNERS_FILE},
};

use crate::{
    exit::{Exit, Failure, Outcome},
    workspace::Workspace,
};

/// Holds the PEM text, for machines that have secrets but no files.
const VARIABLE: &str = "PROOFMARK_SIGNING_KEY";
const KEY_BYTES_MAX: u64 = 64 << 10;

/// The key in a file, or else in the environment.
pub(super) fn read(path: Option<&Utf8Path>, model: &str) -> Result<PrivateKey, Failure> {
    let failed = |error: anyhow::Error| {
        let hint = format!(
            "run: cargo xtask sign {model} --key KEY.pem; a new key: cargo xtask sign --new-key KEY.pem"
        );
        Failure::new(Exit::Failure, error, hint)
    };
    if let Some(path) = path {
        return from_file(path).map_err(failed);
    }
    match std::env::var(VARIABLE) {
        Ok(text) if !text.trim().is_empty() => {
            PrivateKey::parse(&text).with_context(|| VARIABLE.to_owned()).map_err(failed)
        }
        _ => Err(failed(anyhow!("got neither --key nor {VARIABLE}, expected a private key"))),
    }
}

fn from_file(path: &Utf8Path) -> anyhow::Result<PrivateKey> {
    let file = fs::File::open(path).with_context(|| format!("{path}: cannot be opened"))?;
    let mode = file.metadata()?.permissions().mode() & 0o777;
    ensure!(
        mode & 0o077 == 0,
        "{path}: got mode {mode:o}, which lets others read it, expected 600 (chmod 600 {path})"
    );
    let mut text = String::new();
    file.take(KEY_BYTES_MAX).read_to_string(&mut text).with_context(|| format!("{path}: cannot be read"))?;
    PrivateKey::parse(&text).with_context(|| path.to_string())
}

/// Makes a key pair. The private key goes into its file and nowhere else.
pub(super) fn make(workspace: &Workspace, path: &Utf8Path) -> Outcome {
    let made = write(workspace, path);
    let entry = made.map_err(|error| {
        Failure::new(
            Exit::Failure,
            error,
            "name a new file outside of the repository: cargo xtask sign --new-key ~/KEY.pem",
        )
    })?;
    println!("{path}: the private key, mode 600: keep it out of git, and a copy of it safe");
    println!("{}: the public key", public_path(path));
    println!("its entry for {SIGNERS_FILE}, whose name and dates are yours to set:\n\n{entry}");
    Ok(())
}

fn public_path(path: &Utf8Path) -> camino::Utf8PathBuf {
    path.with_extension("pub")
}

fn write(workspace: &Workspace, path: &Utf8Path) -> anyhow::Result<String> {
    let folder = path.parent().filter(|folder| !folder.as_str().is_empty()).unwrap_or(Utf8Path::new("."));
    let folder = folder.canonicalize_utf8().with_context(|| format!("{folder}: no such folder"))?;
    let root = workspace.root().canonicalize_utf8()?;
    // One `git add` away from the world.
    ensure!(!folder.starts_with(&root), "{path}: got a file in the repository, expected one outside of it");
    let public = public_path(path);
    ensure!(!public.exists() && public != path, "{public}: is there already");
    let key = PrivateKey::generate()?;
    let mut file = fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("{path}: cannot be made"))?;
    file.write_all(key.to_pem()?.as_bytes())?;
    file.sync_all()?;
    fs::write(&public, key.public().to_pem()).with_context(|| format!("{public}: cannot be written"))?;
    let name = path.file_stem().unwrap_or("release");
    Ok(signers::entry(name, &key.public(), SystemTime::now()))
}
