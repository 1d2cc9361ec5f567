//! Where a new model comes from, and a folder with its small files.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, anyhow, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{digest::Digest, name::is_plain, recipe::Source};

use crate::{
    exit::{Exit, Failure},
    weights::{self, Listing},
};

use super::{
    gguf,
    names::{LINK, TOKENIZER},
};

/// A checkpoint as far as a recipe needs it.
pub(super) struct Checkpoint {
    /// Has `config.json`, tokenizer and what else is small; only of a folder on this machine the weights too.
    pub(super) folder: Utf8PathBuf,
    pub(super) source: Source,
    /// The folder that the recipe's link leads to.
    pub(super) link: Option<Utf8PathBuf>,
    /// The file that a checkpoint will be made of.
    pub(super) gguf: Option<Utf8PathBuf>,
    /// The licence by the hub's name, where it is told.
    pub(super) licence: Option<String>,
    /// Keeps the folder until it has been read.
    _kept: Option<tempfile::TempDir>,
}

impl Checkpoint {
    pub(super) fn find(given: &str, again: &str) -> Result<Self, Failure> {
        let path = Utf8Path::new(given);
        let unreadable = |error| Failure::new(Exit::Refused, error, format!("mend that and run: {again}"));
        if path.is_dir() {
            return Self::local(path).map_err(unreadable);
        }
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) {
            return Self::gguf(path).map_err(unreadable);
        }
        let (repo, revision) = given.split_once('@').unwrap_or((given, "main"));
        if repo.split('/').count() != 2 || !repo.split('/').chain([revision]).all(is_plain) {
            let error = anyhow!("`{given}`: got neither a folder nor a GGUF nor the name of a repository");
            let hint =
                "expected a folder with config.json, a file that ends in .gguf, or owner/name[@revision]";
            return Err(Failure::new(Exit::Usage, error, hint));
        }
        let Listing { kept, folder, commit, files, licence } = weights::listing(repo, revision, again)?;
        let source = Source::Hub { repo: repo.to_owned(), revision: commit, files: pins(files) };
        Ok(Self { folder, source, link: None, gguf: None, licence, _kept: Some(kept) })
    }

    /// Pinned by the digest of every file that an export reads: another machine has it elsewhere.
    fn local(path: &Utf8Path) -> anyhow::Result<Self> {
        let folder = path.canonicalize_utf8().with_context(|| format!("{path}: cannot be opened"))?;
        let mut files = BTreeMap::new();
        for entry in folder.read_dir_utf8().with_context(|| format!("{folder}: cannot be read"))? {
            let entry = entry?;
            let name = entry.file_name();
            let small = ["config.json", "generation_config.json", TOKENIZER].contains(&name);
            if small || name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json") {
                files.insert(name.to_owned(), digest(entry.path())?);
            }
        }
        for name in ["config.json", TOKENIZER] {
            ensure!(files.contains_key(name), "{folder}: got no {name}, expected a checkpoint with one");
        }
        let weights = files.keys().any(|name| name.ends_with(".safetensors"));
        ensure!(weights, "{folder}: got no *.safetensors, expected a checkpoint");
        let source = Source::Path { path: LINK.to_owned(), files };
        Ok(Self { link: Some(folder.clone()), folder, source, gguf: None, licence: None, _kept: None })
    }

    fn gguf(path: &Utf8Path) -> anyhow::Result<Self> {
        let path = path.canonicalize_utf8().with_context(|| format!("{path}: cannot be opened"))?;
        let name = path.file_name().unwrap_or_default();
        ensure!(is_plain(name), "{path}: got this name, expected letters, digits, `.`, `-`, `_`: rename it");
        let kept = tempfile::tempdir().context("a temporary folder cannot be made")?;
        let folder = Utf8PathBuf::try_from(kept.path().to_owned())?;
        let licence = gguf::describe(&path, &folder).with_context(|| path.to_string())?;
        let source = Source::Gguf { file: name.to_owned(), sha256: digest(&path)? };
        Ok(Self { folder, source, link: None, gguf: Some(path), licence, _kept: Some(kept) })
    }
}

fn digest(path: &Utf8Path) -> anyhow::Result<Digest> {
    let mut file: fs::File =
        model_assets::regular::open(path).with_context(|| format!("{path}: cannot be opened"))?;
    Digest::of_reader(&mut file).with_context(|| format!("{path}: cannot be read"))
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
