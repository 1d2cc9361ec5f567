//! `cargo xtask unpack`: a bundle becomes a published model, through the same door as an export.
//!
//! **Invariant:** nothing of a bundle is believed: its archive has one form ([`model_assets::bundle`]), its files are those
//! that its manifest names, recipe, policy and template are this work tree's own, and the bytes go through
//! `check::validate` before anything is published.

use std::{collections::BTreeSet, fs, io::BufReader};

use anyhow::{Context as _, anyhow, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{
    bundle::{self, Entry},
    digest::Digest,
    dir::ModelDir,
    eq::TRANSCRIPT_FILE,
    limits::MANIFEST_BYTES_MAX,
    manifest::{LOG_FILE, MANIFEST_FILE, Manifest},
    recipe::Recipe,
    signature::SIGNATURE_FILE,
};

use crate::{
    EXIT_REFUSED, Failure, Outcome, ci::import::import, console::Console, export, predict, supervise,
    verify::refused, workspace::Workspace,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The bundle
    bundle: Utf8PathBuf,
    /// Print events as JSON lines on standard output instead of progress
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Outcome {
    let state = workspace.state();
    fs::create_dir_all(&state)?;
    let console = Console::new(args.json);
    supervise::watch_interrupts()?;
    // On the file system of the models, so that a publish only renames.
    let scratch = tempfile::Builder::new().prefix("unpack-").tempdir_in(&state)?;
    let scratch = Utf8Path::from_path(scratch.path()).context("a path is not UTF-8")?;
    let (artifact, work) = (scratch.join("artifact"), scratch.join("work"));
    fs::create_dir(&artifact)?;
    console.step("unpack");
    let hint = format!("get the bundle again, or make it again: cargo xtask pack; it is {}", args.bundle);
    let failed = |error: anyhow::Error| Failure::new(EXIT_REFUSED, error, hint.clone());
    let entries = extract(workspace, &args.bundle, &artifact).map_err(failed)?;
    let manifest = manifest(&artifact).map_err(failed)?;
    let dir = ModelDir::new(workspace.models(), &manifest.model);
    let recipe = dir.recipe().map_err(refused)?;
    expected_files(&entries, &manifest, &recipe).map_err(failed)?;
    let _lock = export::lock(&state.join("locks"), &manifest.model)?;
    console.step("prove");
    let manifest = import(&dir, &artifact, &work)
        .map_err(|failure| if failure.hint.is_some() { failure } else { failed(failure.into_error()) })?;
    transcript(&dir, &artifact, &manifest)?;
    console.published(&manifest);
    Ok(())
}

/// The transcript that the evidence names comes along; another file of that name does not.
fn transcript(dir: &ModelDir, artifact: &Utf8Path, manifest: &Manifest) -> anyhow::Result<()> {
    let Some(eq) = manifest.evidence.as_ref().and_then(|evidence| evidence.eq.as_ref()) else {
        return Ok(());
    };
    match fs::read(artifact.join(TRANSCRIPT_FILE)) {
        Ok(bytes) if Digest::of(&bytes) == eq.transcript => export::replace(dir, TRANSCRIPT_FILE, &bytes),
        _ => Ok(()),
    }
}

fn extract(workspace: &Workspace, path: &Utf8Path, to: &Utf8Path) -> anyhow::Result<Vec<Entry>> {
    let file = fs::File::open(path).with_context(|| format!("{path}: cannot be opened"))?;
    let mut open = |entry: &Entry| {
        if supervise::interrupted() {
            return Err(std::io::Error::other("interrupted"));
        }
        if let Some(free) = predict::free_disk_bytes(workspace.root()).filter(|free| *free < entry.bytes) {
            let message = format!("{}: got {free} bytes of free disk, expected {}", entry.name, entry.bytes);
            return Err(std::io::Error::other(message));
        }
        fs::File::create_new(to.join(&entry.name))
    };
    bundle::read(BufReader::new(file), &mut open).with_context(|| format!("{path}"))
}

fn manifest(artifact: &Utf8Path) -> anyhow::Result<Manifest> {
    let path = artifact.join(MANIFEST_FILE);
    ensure!(
        path.metadata()?.len() <= MANIFEST_BYTES_MAX,
        "{path}: expected at most {MANIFEST_BYTES_MAX} bytes"
    );
    let manifest = Manifest::parse(&fs::read(&path)?)?;
    // It becomes a folder's name.
    let good = bundle::is_plain(&manifest.model);
    ensure!(good, "{MANIFEST_FILE}: model: got `{}`, expected a plain name", manifest.model);
    Ok(manifest)
}

/// A bundle holds what `pack` puts in, and nothing else.
fn expected_files(entries: &[Entry], manifest: &Manifest, recipe: &Recipe) -> anyhow::Result<()> {
    let known = BTreeSet::from([
        MANIFEST_FILE,
        manifest.file.as_str(),
        manifest.reference.name.as_str(),
        recipe.tokens.tokenizer.as_str(),
        recipe.tokens.chat_template.as_str(),
        LOG_FILE,
        TRANSCRIPT_FILE,
        "recipe.toml",
        "policy.toml",
        SIGNATURE_FILE,
    ]);
    let licence: Vec<_> = recipe.licence.files().collect();
    match entries.iter().find(|entry| {
        let name = entry.name.as_str();
        !known.contains(name) && !licence.contains(&name)
    }) {
        Some(entry) => Err(anyhow!("{}: got a file that no bundle of `{}` has", entry.name, manifest.model)),
        None => Ok(()),
    }
}
