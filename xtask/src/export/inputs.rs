//! What decides the bytes of an export, as one digest: contents, never time stamps.

use std::fs;

use anyhow::{Context as _, anyhow};
use camino::Utf8Path;
use model_assets::{
    digest::Digest,
    recipe::{Recipe, Source},
};

use crate::{setup, workspace::Workspace};

/// Digest of everything that decides the bytes of an export.
pub(super) fn inputs_digest(
    checkpoint: Option<&Utf8Path>,
    recipe: &Recipe,
    source: &Source,
    heldout: &Utf8Path,
    workspace: &Workspace,
) -> anyhow::Result<Digest> {
    let mut parts = vec![recipe.digest(), setup::lock_digest(), worker_digest(workspace)?];
    // They decide the bytes of the reference.
    let texts = &mut fs::File::open(heldout).with_context(|| format!("{heldout}: cannot be opened"))?;
    parts.push(Digest::of_reader(texts)?);
    parts.push(Digest::of(&serde_json::to_vec(source)?));
    if let Some(folder) = checkpoint {
        let config = folder.join("config.json");
        parts.push(Digest::of_reader(
            &mut fs::File::open(&config).with_context(|| format!("{config}: cannot be opened"))?,
        )?);
        parts.push(tree_digest(folder, &["safetensors"])?);
    }
    let text: String = parts.iter().map(ToString::to_string).collect();
    Ok(Digest::of(text.as_bytes()))
}

/// Digest of the worker's source.
pub(super) fn worker_digest(workspace: &Workspace) -> anyhow::Result<Digest> {
    tree_digest(&workspace.python_sources().join("proofmark_worker"), &["py", "txt"])
}

/// Digest of the names and contents of a folder's files of some kinds, sorted.
fn tree_digest(folder: &Utf8Path, extensions: &[&str]) -> anyhow::Result<Digest> {
    let mut text = String::new();
    for entry in walkdir::WalkDir::new(folder).max_depth(1).sort_by_file_name() {
        let entry = entry?;
        let path =
            Utf8Path::from_path(entry.path()).ok_or_else(|| anyhow!("{folder}: a name is not UTF-8"))?;
        if entry.file_type().is_file() && path.extension().is_some_and(|it| extensions.contains(&it)) {
            let digest = Digest::of_reader(&mut fs::File::open(path)?)?;
            text += &format!("{digest} {}\n", path.file_name().unwrap_or_default());
        }
    }
    Ok(Digest::of(text.as_bytes()))
}
