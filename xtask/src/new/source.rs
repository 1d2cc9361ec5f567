//! Where a new model comes from, and a folder with its small files.

use std::collections::BTreeMap;

use anyhow::{Context as _, anyhow};
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{digest::Digest, recipe::Source};

use crate::{
    console::Console,
    exit::{Exit, Failure},
    weights::{self, Listing},
    workspace::Workspace,
};

use super::LINK;

/// A checkpoint as far as a recipe needs it.
pub(super) struct Checkpoint {
    /// Has `config.json`, tokenizer and what else is small; of a hub, without the weights.
    pub(super) folder: Utf8PathBuf,
    pub(super) source: Source,
    /// The folder that the recipe's link leads to, where the checkpoint lies on this machine.
    pub(super) link: Option<Utf8PathBuf>,
    /// The licence by the hub's name, where it tells one.
    pub(super) licence: Option<String>,
    /// Keeps the folder until it has been read.
    _fetched: Option<tempfile::TempDir>,
}

impl Checkpoint {
    pub(super) fn find(workspace: &Workspace, given: &str, name: &str) -> Result<Self, Failure> {
        let path = Utf8Path::new(given);
        if path.is_dir() {
            return Ok(Self::local(path)?);
        }
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) {
            let folder = weights::from_gguf_alone(workspace, name, path, &Console::new(false))?;
            return Ok(Self::local(&folder)?);
        }
        let (repo, revision) = given.split_once('@').unwrap_or((given, "main"));
        if repo.split('/').count() != 2 || !repo.split('/').chain([revision]).all(model_assets::name::is_plain) {
            let error = anyhow!("`{given}`: got neither a folder nor a GGUF nor the name of a repository");
            let hint = "expected a folder with config.json, a file that ends in .gguf, or owner/name[@revision]";
            return Err(Failure::new(Exit::Fetch, error, hint.to_owned()));
        }
        let Listing { kept, folder, commit, files, licence } = weights::listing(repo, revision, given)?;
        Ok(Self {
            folder,
            source: Source::Hub { repo: repo.to_owned(), revision: commit, files: pins(files) },
            link: None,
            licence,
            _fetched: Some(kept),
        })
    }

    fn local(path: &Utf8Path) -> anyhow::Result<Self> {
        let folder = path.canonicalize_utf8().with_context(|| format!("{path}: cannot be opened"))?;
        let source = Source::Path { path: LINK.to_owned() };
        Ok(Self { link: Some(folder.clone()), folder, source, licence: None, _fetched: None })
    }
}

/// A hub that tells no digest of some weights leaves them to the first fetch, and all others with them.
fn pins(files: BTreeMap<String, Option<Digest>>) -> BTreeMap<String, Digest> {
    files.into_iter().map(|(name, digest)| Some((name, digest?))).collect::<Option<_>>().unwrap_or_default()
}

/// The name of the source itself, fit for a model: lower case, what is no part of a name becomes a hyphen.
pub(super) fn name(given: &str) -> String {
    let path = given.trim_end_matches('/');
    let last = path.rsplit('/').next().unwrap_or(path);
    let last = last.split('@').next().unwrap_or(last);
    let last = last.strip_suffix(".gguf").or(last.strip_suffix(".GGUF")).unwrap_or(last);
    let fit = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    last.chars().map(fit).collect::<String>().trim_start_matches(['.', '-']).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_called_as_its_source() {
        for (given, wanted) in [
            ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m-instruct"),
            ("Qwen/Qwen3-0.6B@abc", "qwen3-0.6b"),
            ("/data/My Model/", "my-model"),
            ("x/SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m-instruct.q4_1"),
            ("..", ""),
        ] {
            assert_eq!(name(given), wanted);
        }
    }

    #[test]
    fn all_files_are_pinned_or_none() {
        let digest = Digest::of(b"x");
        let files = |weights| BTreeMap::from([("a".to_owned(), Some(digest)), ("b".to_owned(), weights)]);
        assert_eq!(pins(files(Some(digest))).len(), 2);
        assert_eq!(pins(files(None)).len(), 0);
    }
}
