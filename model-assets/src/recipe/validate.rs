//! Which values a recipe may have. Nothing here looks beyond the recipe; for the policy see [`crate::policy::Policy::admits`].

use std::collections::BTreeMap;

use super::{Activations, FILE, Limits, Recipe, Source};
use crate::{
    digest::Digest,
    error::ContractError,
    evidence, limits,
    name::{is_commit, is_plain},
};

impl Recipe {
    pub(super) fn validate(&self) -> Result<(), ContractError> {
        self.check_names()?;
        self.check_shape()?;
        self.check_bounds()
    }

    fn check_names(&self) -> Result<(), ContractError> {
        let expected = "at most 96 letters, digits, `.`, `-`, `_`, not starting with `.`, in a file's name";
        // The longest name that is made of the model's.
        let reference = self.file_name().replace(".pte", ".reference");
        for (key, name) in [
            ("name", &self.name),
            ("name", &reference),
            ("tokens.tokenizer", &self.tokens.tokenizer),
            ("tokens.chat_template", &self.tokens.chat_template),
        ] {
            if !is_plain(name) {
                return Err(ContractError::value(FILE, key, format!("`{name}`"), expected));
            }
        }
        if let Some(name) = self.licence.files().find(|name| !is_plain(name)) {
            return Err(ContractError::value(FILE, "licence", format!("`{name}`"), expected));
        }
        if let Some(files) = self.source.pins() {
            check_pins(files, &self.tokens.tokenizer)?;
        }
        match &self.source {
            Source::Gguf { file, .. } if !is_plain(file) => {
                Err(ContractError::value(FILE, "source.file", format!("`{file}`"), expected))
            }
            Source::Path { path, .. } if path != "." && !path.split('/').all(is_plain) => {
                Err(ContractError::value(
                    FILE,
                    "source.path",
                    format!("`{path}`"),
                    "`.` or a relative path below the recipe",
                ))
            }
            Source::Hub { repo, .. } if repo.split('/').count() != 2 || !repo.split('/').all(is_plain) => {
                Err(ContractError::value(FILE, "source.repo", format!("`{repo}`"), "`owner/name`"))
            }
            Source::Hub { revision, .. } if !is_commit(revision) => Err(ContractError::value(
                FILE,
                "source.revision",
                format!("`{revision}`"),
                "40 lower-case hex digits: a commit, never a branch",
            )),
            _ => Ok(()),
        }
    }

    fn check_shape(&self) -> Result<(), ContractError> {
        let a = &self.architecture;
        a.check(self.export.seq_len)?;
        if a.post_norms && self.export.activations() == Some(Activations::Rotated) {
            let (key, got) = ("export.activations", Activations::Rotated.as_str());
            let expected =
                "`two-rows` or `one-row`: a norm before the residual does not commute with a rotation";
            return Err(ContractError::value(FILE, key, got, expected));
        }
        if self.tokens.eos.is_empty() {
            return Err(ContractError::value(FILE, "tokens.eos", "[]", "at least one id"));
        }
        for (key, id) in std::iter::once(("tokens.bos", self.tokens.bos))
            .chain(self.tokens.eos.iter().map(|id| ("tokens.eos", *id)))
        {
            if id >= a.vocab {
                return Err(ContractError::value(
                    FILE,
                    key,
                    id,
                    format!("below the vocabulary, {}", a.vocab),
                ));
            }
        }
        Ok(())
    }

    fn check_bounds(&self) -> Result<(), ContractError> {
        let Limits { file_bytes_min, file_bytes_max, .. } = self.limits;
        if file_bytes_min == 0 || file_bytes_min > file_bytes_max {
            let expected = format!("1 to `limits.file_bytes_max` = {file_bytes_max}");
            return Err(ContractError::value(FILE, "limits.file_bytes_min", file_bytes_min, expected));
        }
        if file_bytes_max > limits::MODEL_BYTES_MAX {
            let expected = format!("at most {}", limits::MODEL_BYTES_MAX);
            return Err(ContractError::value(FILE, "limits.file_bytes_max", file_bytes_max, expected));
        }
        evidence::check_bounds(&self.bounds())
    }
}

/// Pinned files are all that an export reads, or none: one that is left out would be taken on the hub's word alone.
fn check_pins(files: &BTreeMap<String, Digest>, tokenizer: &str) -> Result<(), ContractError> {
    let wrong =
        |got: String, expected: String| Err(ContractError::value(FILE, "source.files", got, expected));
    if files.len() > limits::CHECKPOINT_FILES_MAX {
        return wrong(format!("{} files", files.len()), format!("at most {}", limits::CHECKPOINT_FILES_MAX));
    }
    if let Some(name) = files.keys().find(|name| !is_plain(name)) {
        return wrong(format!("`{name}`"), "a file name: letters, digits, `.`, `-`, `_`".to_owned());
    }
    if let Some(name) = ["config.json", tokenizer].into_iter().find(|name| !files.contains_key(*name)) {
        return wrong(format!("no `{name}`"), "every file that an export reads".to_owned());
    }
    if !files.keys().any(|name| name.ends_with(".safetensors")) {
        return wrong("no `*.safetensors`".to_owned(), "every file that an export reads".to_owned());
    }
    Ok(())
}
