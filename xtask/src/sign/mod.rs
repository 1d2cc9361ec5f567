//! `cargo xtask sign`: signs a published model so that the public `model_signing` tool verifies it, and checks signatures
//! of either tool.
//!
//! **Invariant:** only what was proved in this very run is signed.
//!
//! **Invariant:** manifest and signature are a pair: killed at any instant, a command leaves the old one or the new one, and
//! what else it left is put right, by name, by the next `sign`, `sign --check`, `fetch` or `export`.
//!
//! **Invariant:** a private key is read from a file or from the environment, never from the command line, and appears in no
//! output.

mod files;
mod key;
#[cfg(test)]
mod tests;

use std::time::SystemTime;

use anyhow::{Context as _, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{
    check::{self, Profile, Validated},
    claim::Claim,
    dir::ModelDir,
    limits::{LICENCE_BYTES_MAX, SIGNATURE_BYTES_MAX},
    recipe::Recipe,
    signature::{SIGNATURE_FILE, Signature},
    signers::Signers,
};

use crate::{
    exit::{Exit, Failure, Outcome, refused},
    export, lock,
    published::Published,
    release::failure,
    workspace::Workspace,
};

/// The rules about whom to trust; the others are about what was signed.
const ABOUT_KEYS: [&str; 3] = ["signature-key", "signature-date", "signature-revoked"];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model: a directory of `model-assets/models`
    #[arg(default_value = "tiny")]
    model: String,
    /// Private key, PEM [default: the text in PROOFMARK_SIGNING_KEY]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["check", "new_key"])]
    key: Option<Utf8PathBuf>,
    /// Check that a key of `signers.toml` signed the model; sign nothing
    #[arg(long, conflicts_with = "new_key")]
    check: bool,
    /// Make a key pair and print its entry for `signers.toml`
    ///
    /// The private key goes into FILE, the public one beside it.
    #[arg(long, value_name = "FILE")]
    new_key: Option<Utf8PathBuf>,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Outcome {
    if let Some(path) = &args.new_key {
        return key::make(workspace, path);
    }
    let dir = ModelDir::new(workspace.models(), &args.model);
    let key = if args.check { None } else { Some(key::read(args.key.as_deref(), &args.model)?) };
    let _lock = lock::model(workspace, &args.model)?;
    repair(&dir)?;
    match key {
        Some(key) => sign(&dir, &key),
        None => prove(&dir, SystemTime::now()),
    }
}

/// Finishes what a killed command left, so that its files are neither signed nor refused.
fn repair(dir: &ModelDir) -> Outcome {
    if !dir.manifest_path().exists() {
        return Ok(());
    }
    for name in export::settle(dir)? {
        eprintln!("{}: a killed command left `{name}`: put right", dir.path());
    }
    Ok(())
}

/// Signs what is published.
fn sign(dir: &ModelDir, key: &model_assets::signature::PrivateKey) -> Outcome {
    let model = Published::read(dir.clone())?;
    let proof = model.prove()?;
    let proved = proof.judge(&model.claim, Profile::Dev)?;
    let statement = files::statement(&model, proved.sha256())?;
    let bytes = key.sign(&statement)?;
    // Reads the signature as a verifier will.
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

/// Proves that an accepted key signed the model, and compares the directory with the statement file by file.
fn prove(dir: &ModelDir, now: SystemTime) -> Outcome {
    let model = Published::read(dir.clone())?;
    let (claim, manifest) = (&model.claim, &model.files.manifest);
    let signers = dir.signers().map_err(refused)?;
    let signature = dir.signature(manifest).map_err(refused)?;
    let proof = model.prove()?;
    let proved = proof.judge(claim, Profile::Dev)?;
    let authentic = check::signed_by(&proved, claim, manifest, &signers, signature.as_deref(), now)
        .map_err(|refusal| failure(Exit::Signature, refusal))?;
    let findings = files::differences(dir, &authentic.statement)?;
    if !findings.is_empty() {
        return Err(failure(Exit::Signature, check::signature_refusal(dir.name(), findings)));
    }
    let (count, key, hint) = (authentic.statement.resources.len(), &authentic.key, authentic.hint);
    println!("{}: {count} files signed by `{key}`, key {hint}", dir.signature_path());
    Ok(())
}

/// The files of a bundle that its receiver needs: the signature and the licence's texts.
pub(crate) fn companions(dir: &ModelDir, recipe: &Recipe, manifest: &[u8]) -> Vec<(String, Utf8PathBuf)> {
    let texts = recipe.licence.files().map(|name| (name.to_owned(), dir.path().join(name)));
    let signature = (SIGNATURE_FILE.to_owned(), dir.signature_of(manifest));
    texts.chain([signature]).filter(|(_, path)| path.is_file()).collect()
}

/// The signature that came along with an artifact, to be published with its manifest. One that is of other bytes is a lie,
/// and refused. Whether its key may be trusted is for a release to say, whose list of signers is that day's: until then it
/// is a warning.
pub(crate) fn brought<S>(
    dir: &ModelDir,
    artifact: &Utf8Path,
    claim: &Claim,
    validated: &Validated<S>,
) -> Result<Option<Vec<u8>>, Failure> {
    let Some(bytes) = companion(artifact, SIGNATURE_FILE, SIGNATURE_BYTES_MAX)? else { return Ok(None) };
    let (signers, manifest) = (dir.signers().map_err(refused)?, claim.manifest.to_bytes());
    match check::signed_by(validated, claim, &manifest, &signers, Some(&bytes), SystemTime::now()) {
        Ok(_) => {}
        Err(refusal) if refusal.reasons().all(|reason| ABOUT_KEYS.contains(&reason.id.as_str())) => {
            let reasons = refusal.reasons().map(|reason| format!("warning: {reason}"));
            reasons.for_each(|reason| eprintln!("{reason}: no release accepts it today"));
        }
        Err(refusal) => {
            let name = dir.name();
            let hint = format!(
                "nothing was published; where the model was made: cargo xtask sign {name} --key KEY.pem, then cargo xtask \
                 pack {name}"
            );
            return Err(Failure::new(Exit::Signature, refusal, hint));
        }
    }
    Ok(Some(bytes))
}

/// Takes along the licence's texts that [`companions`] packed, where they fill a gap. Nobody believes them: a release checks
/// them.
pub(crate) fn bring_licence(dir: &ModelDir, artifact: &Utf8Path, recipe: &Recipe) -> anyhow::Result<()> {
    for name in recipe.licence.files().filter(|name| !dir.path().join(name).exists()) {
        if let Some(bytes) = companion(artifact, name, LICENCE_BYTES_MAX)? {
            export::replace(dir, name, &bytes)?;
        }
    }
    Ok(())
}

fn companion(artifact: &Utf8Path, name: &str, bytes_max: u64) -> anyhow::Result<Option<Vec<u8>>> {
    let path = artifact.join(name);
    let Ok(data) = path.symlink_metadata() else { return Ok(None) };
    ensure!(
        data.is_file() && data.len() <= bytes_max,
        "{path}: expected a regular file of at most {bytes_max} bytes"
    );
    Ok(Some(
        model_assets::regular::read(&path, bytes_max).with_context(|| format!("{path}: cannot be read"))?,
    ))
}
