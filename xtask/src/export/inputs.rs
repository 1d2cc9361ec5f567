//! The inputs that decide the bytes of an export: contents, never time stamps.
//!
//! **Invariant:** there is one list of input files. The digest that decides whether an export is up to date, the record in the
//! manifest, and the published tokenizer are made from the same bytes, read once.
//!
//! **Invariant:** everything that can be refused by these files alone is refused here, before a worker or a compiler starts.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, anyhow, bail, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{
    claim::prompts,
    digest::Digest,
    dir::ModelDir,
    limits::{TEMPLATE_BYTES_MAX, TOKENIZER_BYTES_MAX},
    manifest::FileRecord,
    recipe::{Recipe, Source},
};

use crate::{
    checkpoint::{Checkpoint, content, exists, fits, weights},
    console::Console,
    setup,
    workspace::Workspace,
};

use super::publish::WORK_TOKENIZER;

/// A checkpoint's files, and the words of its model.
pub(super) struct Inputs {
    /// Every file of the checkpoint that an export reads, sorted by name.
    pub(super) files: Vec<FileRecord>,
    pub(super) words: Words,
}

/// What turns texts into tokens and back.
#[derive(Debug, Clone)]
pub(super) struct Words {
    pub(super) tokenizer: Vec<u8>,
    pub(super) chat_template: String,
}

impl Words {
    /// Where tokenizer and template of an export lie while it is proved.
    pub(super) fn places(work: &Utf8Path) -> (Utf8PathBuf, Utf8PathBuf) {
        (work.join(WORK_TOKENIZER), work.join("chat_template.jinja"))
    }

    /// Puts them there: what the worker and the engine read are the bytes that are published.
    pub(super) fn write(&self, work: &Utf8Path) -> anyhow::Result<()> {
        let (tokenizer, template) = Self::places(work);
        for (path, bytes) in
            [(tokenizer, self.tokenizer.as_slice()), (template, self.chat_template.as_bytes())]
        {
            fs::write(&path, bytes).with_context(|| format!("{path}: cannot be written"))?;
        }
        Ok(())
    }
}

impl Inputs {
    /// Reads a checkpoint and refuses one that is not the recipe's.
    pub(super) fn read(
        dir: &ModelDir,
        recipe: &Recipe,
        folder: &Utf8Path,
        console: &Console,
    ) -> anyhow::Result<Self> {
        // Before the weights are: they may be gigabytes.
        let place = dir.path().join(&recipe.tokens.chat_template);
        let chat_template = String::from_utf8(content(&place, TEMPLATE_BYTES_MAX)?)
            .with_context(|| format!("{place}: is not UTF-8"))?;
        ensure_tokenizer(dir, recipe, folder)?;
        let mut checkpoint = Checkpoint::open(folder, recipe)?;
        let tokenizer = match checkpoint.tokenizer.take() {
            Some(bytes) => bytes,
            None => beside(dir, recipe, folder, checkpoint.files())?,
        };
        let facts = fits(recipe, &tokenizer, &folder.join(&recipe.tokens.tokenizer))?;
        prompts(recipe, &facts, &chat_template).map_err(|message| anyhow!("{place}: {message}"))?;
        if checkpoint.chat_template.as_ref().is_some_and(|own| own.trim_end() != chat_template.trim_end()) {
            console.warning(&format!(
                "{place}: differs from the chat template of the checkpoint, {folder}; the recipe's own is shipped"
            ));
        }
        let files = checkpoint.finish()?;
        Ok(Self { files, words: Words { tokenizer, chat_template } })
    }

    /// Refuses files that are not those that a recipe pins.
    pub(super) fn are(&self, pins: &BTreeMap<String, Digest>) -> anyhow::Result<()> {
        for FileRecord { name, sha256, .. } in &self.files {
            let pin = pins.get(name);
            let pin = pin.with_context(|| {
                format!("{name}: got a file that `source.files` of the recipe does not have")
            })?;
            ensure!(pin == sha256, "{name}: got sha256 {sha256}, expected the recipe's {pin}");
        }
        Ok(())
    }
}

/// One of the two must be there; fails before anything large is read.
fn ensure_tokenizer(dir: &ModelDir, recipe: &Recipe, folder: &Utf8Path) -> anyhow::Result<()> {
    let name = &recipe.tokens.tokenizer;
    let (own, beside) = (folder.join(name), dir.path().join(name));
    ensure!(
        exists(&own) || exists(&beside),
        "{own}: no such file, nor is there {beside}; expected the tokenizer of the model"
    );
    Ok(())
}

/// The tokenizer beside the recipe, for a checkpoint that brings none: it must not have come with other weights.
fn beside(
    dir: &ModelDir,
    recipe: &Recipe,
    folder: &Utf8Path,
    files: &[FileRecord],
) -> anyhow::Result<Vec<u8>> {
    let name = &recipe.tokens.tokenizer;
    let place = dir.path().join(name);
    let published = dir.manifest().ok().flatten().map(|manifest| manifest.source.files);
    if let Some(published) = published
        && published.iter().any(|file| file.name == *name)
        && weights(&published).ne(weights(files))
    {
        bail!(
            "{}: no such file, and {place} came with other weights; expected the tokenizer of this checkpoint",
            folder.join(name)
        );
    }
    content(&place, TOKENIZER_BYTES_MAX)
}

/// Digest of everything that decides the bytes of an export; without `inputs` for random weights.
pub(super) fn inputs_digest(
    inputs: Option<&Inputs>,
    recipe: &Recipe,
    source: &Source,
    workspace: &Workspace,
) -> anyhow::Result<Digest> {
    let mut parts = vec![recipe.digest(), setup::lock_digest(), worker_digest(workspace)?];
    parts.push(Digest::of(&serde_json::to_vec(source)?));
    if let Some(Inputs { files, words }) = inputs {
        parts.push(Digest::of(&serde_json::to_vec(files)?));
        parts.push(Digest::of(&words.tokenizer));
        parts.push(Digest::of(words.chat_template.as_bytes()));
    }
    let text: String = parts.iter().map(ToString::to_string).collect();
    Ok(Digest::of(text.as_bytes()))
}

/// Digest of the worker's source: names and contents, sorted.
pub(super) fn worker_digest(workspace: &Workspace) -> anyhow::Result<Digest> {
    let folder = workspace.python_sources().join("proofmark_worker");
    let mut text = String::new();
    for entry in walkdir::WalkDir::new(&folder).follow_links(true).sort_by_file_name() {
        let entry = entry?;
        let path =
            Utf8Path::from_path(entry.path()).ok_or_else(|| anyhow!("{folder}: a name is not UTF-8"))?;
        if entry.file_type().is_file() && matches!(path.extension(), Some("py" | "txt")) {
            let digest = Digest::of_reader(&mut fs::File::open(path)?)?;
            text += &format!("{digest} {}\n", path.strip_prefix(&folder)?);
        }
    }
    Ok(Digest::of(text.as_bytes()))
}

#[cfg(test)]
mod tests;
