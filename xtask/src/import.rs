//! An artifact becomes a published model: through the same door as an export's own file.
//!
//! **Invariant:** nothing of an artifact is believed. Only the files that its manifest names by plain names are read, and
//! only regular ones; recipe, policy and template are this work tree's own; the bytes go through `check::validate`.

use std::fs;

use anyhow::{Context as _, ensure};
use camino::Utf8Path;
use model_assets::{
    check::{self, Profile},
    claim::Claim,
    digest::Digest,
    dir::ModelDir,
    eq::{TRANSCRIPT_BYTES_MAX, TRANSCRIPT_FILE},
    limits::{MANIFEST_BYTES_MAX, REFERENCE_BYTES_MAX, TEMPLATE_BYTES_MAX, TOKENIZER_BYTES_MAX},
    manifest::{LOG_FILE, MANIFEST_FILE, Manifest, WeightsKind},
    recipe::Recipe,
    signature::SIGNATURE_FILE,
};

use crate::{
    exit::{Failure, refused},
    export::{WORK_PTE, WORK_REFERENCE, WORK_TOKENIZER, publish},
    sign, supervise,
};

/// Largest log that is taken along.
const LOG_BYTES_MAX: u64 = 64 << 20;

/// Proves what lies in `artifact` and publishes it in `dir`; `work` is on the file system of `dir`.
pub(crate) fn import(dir: &ModelDir, artifact: &Utf8Path, work: &Utf8Path) -> Result<Manifest, Failure> {
    let recipe = dir.recipe().map_err(refused)?;
    let policy = dir.policy().map_err(refused)?;
    let manifest = Manifest::parse(&bytes(artifact, MANIFEST_FILE, MANIFEST_BYTES_MAX)?)
        .with_context(|| format!("{artifact}"))?;
    let real = manifest.weights == WeightsKind::Checkpoint;
    let tokenizer = if real { Some(tokenizer(dir, artifact, &recipe, &manifest)?) } else { None };
    let template = dir.path().join(&recipe.tokens.chat_template);
    let chat_template =
        if real { Some(String::from_utf8(read(&template, TEMPLATE_BYTES_MAX)?)?) } else { None };
    let claim = Claim { recipe, policy, manifest, tokenizer, chat_template };
    stage(&claim, artifact, work)?;
    let pte = fs::File::open(work.join(WORK_PTE))?;
    let validated = check::validate(pte, &claim, Profile::Dev).map_err(refused)?;
    // The proof of a large file takes a second; nothing is published after Ctrl-C.
    ensure_wanted()?;
    if let Some(signature) = sign::brought(dir, artifact, &claim, &validated)? {
        let path = work.join(SIGNATURE_FILE);
        fs::write(&path, signature).with_context(|| format!("{path}: cannot be written"))?;
    }
    if let Some(bytes) = &claim.tokenizer {
        let path = work.join(WORK_TOKENIZER);
        fs::write(&path, bytes).with_context(|| format!("{path}: cannot be written"))?;
    }
    sign::bring_licence(dir, artifact, &claim.recipe)?;
    publish(dir, &validated, &claim.manifest, work)?;
    Ok(claim.manifest)
}

fn ensure_wanted() -> anyhow::Result<()> {
    ensure!(!supervise::interrupted(), "interrupted");
    Ok(())
}

/// This work tree's tokenizer if the artifact's manifest is bound to it or the artifact brings none, or else the artifact's.
fn tokenizer(
    dir: &ModelDir,
    artifact: &Utf8Path,
    recipe: &Recipe,
    manifest: &Manifest,
) -> anyhow::Result<Vec<u8>> {
    let name = &recipe.tokens.tokenizer;
    let own = dir.path().join(name);
    if own.exists() {
        let own = read(&own, TOKENIZER_BYTES_MAX)?;
        let bound = manifest.bound.tokenizer == Some(Digest::of(&own));
        if bound || artifact.join(name).symlink_metadata().is_err() {
            return Ok(own);
        }
    }
    bytes(artifact, name, TOKENIZER_BYTES_MAX)
}

/// Moves the artifact's files to where a publish takes them from.
fn stage(claim: &Claim, artifact: &Utf8Path, work: &Utf8Path) -> anyhow::Result<()> {
    let Manifest { file, file_bytes, reference, .. } = &claim.manifest;
    let from =
        [(file.as_str(), WORK_PTE, *file_bytes), (reference.name.as_str(), WORK_REFERENCE, reference.bytes)];
    ensure!(reference.bytes <= REFERENCE_BYTES_MAX, "{}: declares {} bytes", reference.name, reference.bytes);
    fs::create_dir_all(work)?;
    for (name, as_name, expected) in from {
        let path = artifact.join(name);
        let got = regular(&path)?;
        ensure!(got == expected, "{path}: got {got} bytes, expected the manifest's {expected}");
        fs::rename(&path, work.join(as_name))
            .with_context(|| format!("{path}: cannot be moved to {work}"))?;
    }
    let got = Digest::of_reader(&mut fs::File::open(work.join(WORK_REFERENCE))?)?;
    ensure!(got == reference.sha256, "{}: got sha256 {got}, expected {}", reference.name, reference.sha256);
    let log = artifact.join(LOG_FILE);
    ensure!(regular(&log)? <= LOG_BYTES_MAX, "{log}: expected at most {LOG_BYTES_MAX} bytes");
    fs::rename(&log, work.join(LOG_FILE))?;
    // The transcript that the evidence names comes along; another file of that name does not.
    let named = claim.manifest.evidence.as_ref().and_then(|evidence| evidence.eq.as_ref());
    let transcript = artifact.join(TRANSCRIPT_FILE);
    if let Some(eq) = named
        && regular(&transcript).is_ok_and(|bytes| bytes <= TRANSCRIPT_BYTES_MAX)
        && Digest::of_reader(&mut fs::File::open(&transcript)?)? == eq.transcript
    {
        fs::rename(&transcript, work.join(TRANSCRIPT_FILE))?;
    }
    Ok(())
}

/// Size of a file that is one: no link, no pipe, no folder.
fn regular(path: &Utf8Path) -> anyhow::Result<u64> {
    let data = path.symlink_metadata().with_context(|| format!("{path}: is not in the artifact"))?;
    ensure!(data.is_file(), "{path}: got a link or folder, expected a regular file");
    Ok(data.len())
}

fn bytes(artifact: &Utf8Path, name: &str, bytes_max: u64) -> anyhow::Result<Vec<u8>> {
    let path = artifact.join(name);
    regular(&path)?;
    read(&path, bytes_max)
}

fn read(path: &Utf8Path, bytes_max: u64) -> anyhow::Result<Vec<u8>> {
    let size = path.metadata().with_context(|| format!("{path}: cannot be opened"))?.len();
    ensure!(size <= bytes_max, "{path}: got {size} bytes, expected at most {bytes_max}");
    fs::read(path).with_context(|| format!("{path}: cannot be read"))
}
