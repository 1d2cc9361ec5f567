//! `cargo xtask sign`: signs a published model so that the public `model_signing` tool verifies it, and checks signatures
//! of either tool.
//!
//! **Invariant:** only what was proved in this very run is signed.
//!
//! **Invariant:** a private key is read from a file or from the environment, never from the command line, and appears in no
//! output.

mod files;
mod key;
#[cfg(test)]
mod tests;

use std::time::SystemTime;

use anyhow::ensure;
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{
    check::{self, Profile},
    dir::ModelDir,
    limits::{LICENCE_BYTES_MAX, SIGNATURE_BYTES_MAX},
    recipe::Recipe,
    signature::{SIGNATURE_FILE, Signature},
    signers::Signers,
};

use crate::{
    EXIT_SIGNATURE, Outcome, export,
    release::failure,
    verify::{self, refused},
    workspace::Workspace,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model: a directory of `model-assets/models`
    #[arg(default_value = "tiny")]
    model: String,
    /// Private key, PEM; the environment variable PROOFMARK_SIGNING_KEY holds its text unless given
    #[arg(long, value_name = "FILE", conflicts_with_all = ["check", "new_key"])]
    key: Option<Utf8PathBuf>,
    /// Sign nothing: prove that a key of `signers.toml` signed the model as it is
    #[arg(long, conflicts_with = "new_key")]
    check: bool,
    /// Make a key: the private one goes to FILE, the public one beside it, and its entry for `signers.toml` is printed
    #[arg(long, value_name = "FILE")]
    new_key: Option<Utf8PathBuf>,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Outcome {
    if let Some(path) = &args.new_key {
        return key::make(workspace, path);
    }
    let dir = ModelDir::new(workspace.models(), &args.model);
    if args.check {
        return prove(&dir, SystemTime::now());
    }
    let key = key::read(args.key.as_deref(), &args.model)?;
    let _lock = export::lock(&workspace.state().join("locks"), &args.model)?;
    sign(&dir, &key)
}

/// Signs what is published.
fn sign(dir: &ModelDir, key: &model_assets::signature::PrivateKey) -> Outcome {
    let (claim, texts) = dir.claim().map_err(refused)?;
    let proved = verify::judge(dir, &claim, Profile::Dev)?;
    let statement = files::statement(dir, &claim, &texts, proved.sha256())?;
    let bytes = key.sign(&statement)?;
    // What is published is what a verifier will read.
    let read = Signature::parse(&bytes)?.verify(&key.public())?;
    ensure_same(&read, &statement)?;
    export::replace(dir, SIGNATURE_FILE, &bytes)?;
    let hint = key.public().hint();
    println!("{}: {} files signed by key {hint}", dir.signature_path(), statement.resources.len());
    let accepted = dir
        .signers()
        .is_ok_and(|signers: Signers| signers.accept(&bytes, dir.name(), SystemTime::now()).is_ok());
    if !accepted {
        eprintln!("warning: {} does not accept this key today: docs/signing.md", dir.signers_path());
    }
    Ok(())
}

fn ensure_same<T: PartialEq>(read: &T, written: &T) -> anyhow::Result<()> {
    ensure!(read == written, "{SIGNATURE_FILE}: got another statement than the one that was signed");
    Ok(())
}

/// Proves that a key which may do so signed the model, and that the directory is what was signed, file by file.
fn prove(dir: &ModelDir, now: SystemTime) -> Outcome {
    let (claim, texts) = dir.claim().map_err(refused)?;
    let (signers, signature) = (dir.signers().map_err(refused)?, dir.signature().map_err(refused)?);
    let proved = verify::judge(dir, &claim, Profile::Dev)?;
    let authentic = check::signed_by(&proved, &claim, &texts.manifest, &signers, signature.as_deref(), now)
        .map_err(|refusal| failure(EXIT_SIGNATURE, refusal))?;
    let findings = files::differences(dir, &authentic.statement)?;
    if !findings.is_empty() {
        return Err(failure(EXIT_SIGNATURE, check::signature_refusal(dir.name(), findings)));
    }
    let (count, key, hint) = (authentic.statement.resources.len(), &authentic.key, authentic.hint);
    println!("{}: {count} files signed by `{key}`, key {hint}", dir.signature_path());
    Ok(())
}

/// The files of a bundle that are there for whoever receives it: the signature and the licence's texts.
pub(crate) fn companions(dir: &ModelDir, recipe: &Recipe) -> Vec<(String, Utf8PathBuf)> {
    let names = recipe.licence.files().chain([SIGNATURE_FILE]);
    let paths = names.map(|name| (name.to_owned(), dir.path().join(name)));
    paths.filter(|(_, path)| path.is_file()).collect()
}

/// Takes along what [`companions`] packed. The signature replaces the one that is there, which signs another model; a
/// licence's text only fills a gap. Neither is believed: a release checks both.
pub(crate) fn bring(dir: &ModelDir, artifact: &Utf8Path, recipe: &Recipe) -> anyhow::Result<()> {
    let names = recipe.licence.files().map(|name| (name, LICENCE_BYTES_MAX, false));
    for (name, most, replaces) in names.chain([(SIGNATURE_FILE, SIGNATURE_BYTES_MAX, true)]) {
        let path = artifact.join(name);
        let Ok(data) = path.symlink_metadata() else { continue };
        ensure!(
            data.is_file() && data.len() <= most,
            "{path}: expected a regular file of at most {most} bytes"
        );
        if replaces || !dir.path().join(name).exists() {
            export::replace(dir, name, &std::fs::read(&path)?)?;
        }
    }
    Ok(())
}
