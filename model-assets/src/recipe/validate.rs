//! Which values a recipe may have. Nothing here looks beyond the recipe; for the policy see [`crate::policy::Policy::admits`].

use std::collections::BTreeMap;

use super::{Activations, EvidenceKind, FILE, Limits, Recipe, Source};
use crate::{
    digest::Digest,
    error::ContractError,
    evidence::QualityBounds,
    limits,
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
        let grammar = self.grammar.as_ref();
        let mut demanded = self.evidence.dev.iter().chain(&self.evidence.release);
        if grammar.is_none() && demanded.any(|kind| *kind == EvidenceKind::Grammar) {
            return Err(ContractError::value(
                FILE,
                "grammar",
                "no table",
                "bounds, as `evidence` demands it",
            ));
        }
        let mut demanded = self.evidence.dev.iter().chain(&self.evidence.release);
        if self.yardstick.is_empty() && demanded.any(|kind| *kind == EvidenceKind::Yardstick) {
            let expected = "a task and its loss, as `evidence` demands it";
            return Err(ContractError::value(FILE, "yardstick", "no table", expected));
        }
        for (index, limit) in self.yardstick.iter().enumerate() {
            let twice = self.yardstick.iter().take(index).any(|earlier| earlier.task == limit.task);
            if twice || !(0.0..=1.0).contains(&limit.loss_max) {
                let got = format!("{} with {}", limit.task.as_str(), limit.loss_max);
                return Err(ContractError::value(FILE, "yardstick", got, "each task once, a loss of 0 to 1"));
            }
        }
        self.check_quality()?;
        for (key, got, max) in [
            ("parity.max_abs_diff_max", self.parity.max_abs_diff_max.unwrap_or(0.0), f64::MAX),
            ("parity.mean_kl_max", self.parity.mean_kl_max.unwrap_or(0.0), f64::MAX),
            ("eq.score_min", self.eq.score_min.unwrap_or_default(), 100.0),
            ("benchmark.prefill_over_decode_min", self.benchmark.prefill_over_decode_min, f64::MAX),
            ("grammar.acceptance_min", grammar.map_or(0.0, |it| it.acceptance_min), 1.0),
            ("grammar.acceptance_ratio_min", grammar.map_or(0.0, |it| it.acceptance_ratio_min), 1.0),
        ] {
            if !(0.0..=max).contains(&got) {
                let expected = if max == f64::MAX { "0 or more".into() } else { format!("0 to {max}") };
                return Err(ContractError::value(FILE, key, got, expected));
            }
        }
        Ok(())
    }
}

impl Recipe {
    /// A recipe can only be stricter than its scheme.
    fn check_quality(&self) -> Result<(), ContractError> {
        let Some(limits) = &self.quality else { return Ok(()) };
        let bounds = QualityBounds::of(self.export.quantization);
        let scheme = self.export.quantization.as_str();
        let wrong = |key, got: f64, expected| Err(ContractError::value(FILE, key, got, expected));
        for (key, got, least, most) in [
            ("quality.perplexity_ratio_max", limits.perplexity_ratio_max, 1.0, bounds.perplexity_ratio_max),
            ("quality.kl_max", limits.kl_max, 0.0, bounds.kl_max),
            ("quality.top1_agreement_min", limits.top1_agreement_min, bounds.top1_agreement_min, 1.0),
            ("quality.perplexity_max", limits.perplexity_max, 1.0, f64::MAX),
        ] {
            if let Some(got) = got.filter(|got| !(least..=most).contains(got)) {
                let most = if most == f64::MAX { "more".to_owned() } else { most.to_string() };
                return wrong(key, got, format!("{least} to {most}, stricter than what {scheme} may cost"));
            }
        }
        match &limits.text {
            Some(own) if !is_plain(&own.file) => {
                let got = format!("`{}`", own.file);
                Err(ContractError::value(FILE, "quality.text.file", got, "a file name beside the recipe"))
            }
            _ => Ok(()),
        }
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
