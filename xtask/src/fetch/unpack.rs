//! A bundle's file becomes a published model.
//!
//! **Invariant:** nothing of a bundle is believed: its archive has one form ([`model_assets::bundle`]); its first entry, the
//! manifest, decides which other files there may be and how large they are before a byte of them is written; recipe,
//! policy and template are this work tree's own; the bytes go through `check::validate` before anything is published.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, BufReader, Read as _, Seek as _},
};

use anyhow::{Context as _, anyhow, ensure};
use camino::Utf8Path;
use model_assets::{
    bundle::{self, Entry},
    digest::Digest,
    dir::ModelDir,
    eq::TRANSCRIPT_FILE,
    limits::MANIFEST_BYTES_MAX,
    manifest::{LOG_FILE, MANIFEST_FILE, Manifest},
    name::is_plain,
    signature::SIGNATURE_FILE,
};

use crate::{
    console::Console,
    exit::{Failure, refused},
    import::import,
    lock,
    meter::Meter,
    predict,
    workspace::Workspace,
};

use super::Work;

/// Proves and publishes the model of a bundle.
pub(super) fn publish(
    workspace: &Workspace,
    path: &Utf8Path,
    sha256: Option<Digest>,
    work: &Work,
    console: &Console,
) -> Result<Manifest, Failure> {
    // A bundle is read once from its start, so that a pipe is as good as a file; whoever names one can interrupt.
    let mut file = fs::File::open(path).with_context(|| format!("{path}: cannot be opened"))?;
    if let Some(expected) = sha256 {
        console.step("digest");
        let mut metered = Meter::new(&mut file, "digest", path.metadata()?.len(), console);
        let got = Digest::of_reader(&mut metered)?;
        if got != expected {
            return Err(anyhow!("{path}: got sha256 {got}, expected --sha256 {expected}").into());
        }
        file.rewind()?;
    }
    console.step("unpack");
    let artifact = work.artifact();
    fs::create_dir(&artifact).with_context(|| format!("{artifact}: cannot be made"))?;
    let dir = extract(workspace, file, &artifact, console)
        .map_err(|failure| Failure { error: failure.error.context(path.to_string()), ..failure })?;
    let _lock = lock::model(workspace, dir.name())?;
    console.step("prove");
    import(&dir, &artifact, &work.staged())
}

/// Unpacks what the manifest admits.
fn extract(
    workspace: &Workspace,
    file: fs::File,
    artifact: &Utf8Path,
    console: &Console,
) -> Result<ModelDir, Failure> {
    let (mut admitted, mut refusal) = (None, None);
    let mut open = |entry: &Entry| {
        if entry.name != MANIFEST_FILE {
            // The archive's order has put the manifest first, so it lies there whole.
            let decided = match admitted.take() {
                Some(admitted) => Ok(admitted),
                None => Admitted::by_manifest(workspace, artifact),
            };
            let verdict = decided.and_then(|decided| {
                decided.admits(entry)?;
                Ok(decided)
            });
            match verdict {
                Ok(decided) => admitted = Some(decided),
                Err(failure) => {
                    refusal = Some(failure);
                    return Err(io::Error::other("refused"));
                }
            }
        }
        let file = fs::File::create_new(artifact.join(&entry.name))?;
        Ok(Meter::new(file, &entry.name, entry.bytes, console))
    };
    let read = bundle::read(BufReader::new(file), &mut open);
    if let Some(failure) = refusal {
        return Err(failure);
    }
    read?;
    match admitted {
        Some(admitted) => Ok(admitted.dir),
        None => Err(anyhow!("got nothing but {MANIFEST_FILE}").into()),
    }
}

/// What a manifest lets its bundle hold.
struct Admitted {
    dir: ModelDir,
    /// The files, and their size where the manifest names it.
    files: BTreeMap<String, Option<u64>>,
}

impl Admitted {
    fn by_manifest(workspace: &Workspace, artifact: &Utf8Path) -> Result<Self, Failure> {
        let mut bytes = Vec::new();
        fs::File::open(artifact.join(MANIFEST_FILE))?.take(MANIFEST_BYTES_MAX).read_to_end(&mut bytes)?;
        let manifest = Manifest::parse(&bytes)?;
        let Manifest { model, file, file_bytes, reference, .. } = &manifest;
        // It becomes a folder's name.
        if !is_plain(model) {
            return Err(anyhow!("{MANIFEST_FILE}: model: got `{model}`, expected a plain name").into());
        }
        let dir = ModelDir::new(workspace.models(), model);
        let recipe = dir.recipe().map_err(refused)?;
        let needed = file_bytes.saturating_add(reference.bytes);
        if let Some(free) = predict::free_disk_bytes(artifact).filter(|free| *free < needed) {
            let message = format!("{artifact}: got {free} bytes of free disk, expected at least {needed}");
            return Err(io::Error::new(io::ErrorKind::StorageFull, message).into());
        }
        let small = [
            recipe.tokens.tokenizer.as_str(),
            &recipe.tokens.chat_template,
            LOG_FILE,
            TRANSCRIPT_FILE,
            "recipe.toml",
            "policy.toml",
            SIGNATURE_FILE,
        ];
        let small = small.into_iter().chain(recipe.licence.files());
        let mut files: BTreeMap<_, _> = small.map(|name| (name.to_owned(), None)).collect();
        files.insert(file.clone(), Some(*file_bytes));
        files.insert(reference.name.clone(), Some(reference.bytes));
        Ok(Self { dir, files })
    }

    /// A bundle holds what `pack` puts in, and nothing else.
    fn admits(&self, entry: &Entry) -> anyhow::Result<()> {
        let Entry { name, bytes } = entry;
        let known = self.files.get(name);
        let known = known
            .with_context(|| format!("{name}: got a file that no bundle of `{}` has", self.dir.name()))?;
        if let Some(expected) = known {
            ensure!(bytes == expected, "{name}: got {bytes} bytes, expected the manifest's {expected}");
        }
        Ok(())
    }
}
