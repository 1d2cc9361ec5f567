//! `recipe.toml`: everything that decides a model's bytes, and what they must prove before they ship.
//!
//! **Invariant:** a recipe is data. It names no path outside its own directory, runs nothing, and says
//! nothing about the machine; two people with the same recipe, checkpoint and lock get the same `.pte`.
//! Deliberately absent: any switch that turns a check off.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{digest::Digest, eq::ItemSet, error::ContractError, limits, name::is_plain, policy::Policy};

/// The format version this crate reads.
pub const RECIPE_SCHEMA: u32 = 1;

const FILE: &str = "recipe.toml";

/// A model's recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Version of this file's format.
    pub schema: u32,
    /// Model name: also its directory and the first part of its file name.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// Where the weights come from.
    pub source: Source,
    /// The network's shape.
    pub architecture: Architecture,
    /// How it is quantized and lowered.
    pub export: Export,
    /// Tokenizer, template and special tokens.
    pub tokens: Tokens,
    /// Bounds on the result.
    pub limits: Limits,
    /// How the app carries it.
    pub delivery: Delivery,
    /// What must have been measured, per build profile.
    pub evidence: Demands,
    /// How far the `.pte` may be from the eager quantized model.
    pub parity: ParityLimits,
    /// Threshold of the EQ test.
    pub eq: EqLimits,
    /// Bounds on memory, and on speeds relative to each other.
    #[serde(default)]
    pub benchmark: BenchmarkLimits,
    /// For a model whose world has a grammar: what share of the replies it must accept.
    #[serde(default)]
    pub quality: Option<QualityLimits>,
    /// Licence facts.
    pub licence: Licence,
}

/// Where the weights come from. Safetensors only: a pickle runs code when it is opened (CVE-2025-32434).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Source {
    /// A checkpoint directory, relative to the recipe.
    Path {
        /// Directory with `config.json` and `*.safetensors`.
        path: String,
    },
    /// A repository of the Hugging Face hub at an immutable revision.
    Hub {
        /// `owner/name`.
        repo: String,
        /// Commit: 40 lower-case hex digits, never a branch.
        revision: String,
        /// SHA-256 of every file that is fetched, by name. Empty until it is known: the hub's own digests decide then.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        files: BTreeMap<String, Digest>,
    },
    /// Random weights, for rehearsal only: no release build accepts them.
    Random {
        /// Seed of the generator.
        seed: u64,
    },
}

/// The shape of a Llama-family decoder, in the terms of Hugging Face's `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// Model family.
    pub family: Family,
    /// `hidden_size`.
    pub dim: u32,
    /// `num_hidden_layers`.
    pub layers: u32,
    /// `num_attention_heads`.
    pub heads: u32,
    /// `num_key_value_heads`.
    pub kv_heads: u32,
    /// `head_dim`.
    pub head_dim: u32,
    /// `intermediate_size`.
    pub ffn: u32,
    /// `vocab_size`.
    pub vocab: u32,
    /// `tie_word_embeddings`: the output head is the embedding matrix.
    pub tied: bool,
    /// `rms_norm_eps`.
    pub norm_eps: f64,
    /// `rope_theta`.
    pub rope_theta: f64,
    /// `rope_scaling`.
    pub rope_scaling: Option<RopeScaling>,
}

/// Supported model families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// RMSNorm, rotary positions, grouped-query attention, SwiGLU.
    Llama,
}

/// Rotary position scaling.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum RopeScaling {
    /// Llama 3.1's frequency-dependent scaling.
    Llama3 {
        /// Context extension factor.
        factor: f64,
        /// `low_freq_factor`.
        low_freq_factor: f64,
        /// `high_freq_factor`.
        high_freq_factor: f64,
        /// `original_max_position_embeddings`, tokens.
        original_max_position: u32,
    },
}

/// How the network is quantized and lowered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// Weight scheme.
    pub quantization: Quantization,
    /// Context window = KV-cache rows, tokens.
    pub seq_len: u32,
    /// Delegate.
    pub backend: Backend,
    /// Exact number of delegate partitions in `forward`.
    pub partitions: Option<u32>,
    /// Exact number of linear layers inside delegates.
    pub delegated_linears: Option<u32>,
}

/// Weight quantization schemes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Quantization {
    /// Linears 8da8w (int8 per channel, dynamic int8 activations), embedding 8-bit per row.
    Int8,
    /// Linears 8da4w in groups of 32, embedding 8-bit per row.
    Int4,
    /// No quantization.
    Fp32,
}

impl Quantization {
    /// The name used in file names and files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::Int4 => "int4",
            Self::Fp32 => "fp32",
        }
    }
}

/// ExecuTorch delegates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// XNNPACK on the CPU.
    Xnnpack,
    /// No delegate: portable operators only.
    Portable,
}

impl Backend {
    /// The name used in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Xnnpack => "xnnpack",
            Self::Portable => "portable",
        }
    }
}

/// Tokenizer, template and special tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Tokens {
    /// Begin-of-sequence id.
    pub bos: u32,
    /// Ids that end a reply.
    pub eos: Vec<u32>,
    /// `tokenizer.json`, a file name beside the recipe or in the checkpoint.
    pub tokenizer: String,
    /// Jinja chat template, a file name beside the recipe.
    pub chat_template: String,
}

/// Bounds on the exported file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Smallest plausible file, bytes: a smaller one lost its weights.
    pub file_bytes_min: u64,
    /// Largest file, bytes.
    pub file_bytes_max: u64,
    /// Largest planned memory, bytes.
    pub planned_bytes_max: u64,
}

/// How the app carries the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Delivery {
    /// In the binary's read-only data.
    Embed,
    /// Beside the binary, as an asset; the binary carries the digest.
    Link,
    /// Embedded when the policy's `embed_bytes_max` allows it.
    Auto,
}

/// Evidence demanded per profile, on top of the static proof that every build demands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Demands {
    /// For dev builds.
    pub dev: Vec<EvidenceKind>,
    /// For release builds.
    pub release: Vec<EvidenceKind>,
}

/// Kinds of measured evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum EvidenceKind {
    /// Loads and runs with finite logits.
    Load,
    /// Logits agree with the eager quantized model.
    Parity,
    /// Speed and memory were measured.
    Benchmark,
    /// The EQ test was passed.
    Eq,
    /// The grammar of the model's world accepts its replies.
    Quality,
}

impl EvidenceKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Load, Self::Parity, Self::Benchmark, Self::Eq, Self::Quality];

    /// The name used in files and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Parity => "parity",
            Self::Benchmark => "benchmark",
            Self::Eq => "eq",
            Self::Quality => "quality",
        }
    }
}

/// Parity thresholds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ParityLimits {
    /// Largest absolute logit difference.
    pub max_abs_diff_max: f64,
    /// Largest mean KL divergence, nats.
    pub mean_kl_max: f64,
    /// Smallest share of positions with the same arg-max, 0 to 1.
    pub top1_agreement_min: f64,
    /// What held-out texts must show beside that.
    #[serde(default)]
    pub heldout: HeldoutLimits,
}

/// Thresholds on held-out texts; what differs from the eager quantized model is bounded by [`ParityLimits`] itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct HeldoutLimits {
    /// Largest perplexity: a model that does not know its language is not helped by agreeing with itself.
    pub perplexity_max: f64,
    /// Largest perplexity relative to the eager model before quantization.
    pub perplexity_ratio_max: f64,
    /// Largest mean KL divergence from the eager model before quantization, nats.
    pub fp32_mean_kl_max: f64,
    /// Smallest share of positions with that model's arg-max, 0 to 1.
    pub fp32_top1_agreement_min: f64,
    /// Largest logit difference between a text in one prefill and the same text step by step.
    pub prefill_step_diff_max: f64,
}

impl Default for HeldoutLimits {
    /// Loose enough for int8 of any size; a recipe that knows its model is stricter.
    fn default() -> Self {
        Self {
            perplexity_max: 100.0,
            perplexity_ratio_max: 1.05,
            fp32_mean_kl_max: 0.05,
            fp32_top1_agreement_min: 0.85,
            prefill_step_diff_max: 0.5,
        }
    }
}

/// EQ test thresholds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct EqLimits {
    /// Smallest score, 0 to 100.
    pub score_min: f64,
    /// Which items are asked.
    #[serde(default)]
    pub items: ItemSet,
}

/// Benchmark bounds. Never a time: another machine must come to the same verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct BenchmarkLimits {
    /// Largest resident memory of a process that loads and runs the model, bytes.
    pub peak_rss_bytes_max: u64,
    /// Smallest ratio of the fastest prefill to the slowest decode: below 1 a prompt goes through token by token.
    pub prefill_over_decode_min: f64,
}

impl Default for BenchmarkLimits {
    /// What a phone with 8 GB leaves to one app.
    fn default() -> Self {
        Self { peak_rss_bytes_max: 4_000_000_000, prefill_over_decode_min: 1.5 }
    }
}

/// Quality bounds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct QualityLimits {
    /// Smallest share of accepted replies, 0 to 1.
    pub acceptance_min: f64,
    /// Smallest ratio of that share to the eager models', 0 to 1.
    pub acceptance_ratio_min: f64,
}

/// Licence facts that a release needs: see [`crate::licence`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Licence {
    /// SPDX id or the licence's name.
    pub id: String,
    /// Words that the app must show, such as `Built with Llama`.
    pub attribution: Option<String>,
    /// The licence's own text: a file beside the recipe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreement: Option<String>,
    /// The notice that copies must keep: a file beside the recipe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<String>,
}

impl Licence {
    /// The files beside the recipe that go where the model goes.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        [&self.agreement, &self.notice].into_iter().flatten().map(String::as_str)
    }
}

impl Recipe {
    /// Parses and validates `recipe.toml`.
    ///
    /// # Errors
    /// Too large, not TOML, unknown keys, an unknown schema version, or a value that cannot be.
    pub fn parse(text: &str) -> Result<Self, ContractError> {
        ContractError::check_size(FILE, text.len(), limits::TOML_BYTES_MAX)?;
        let recipe: Self =
            toml::from_str(text).map_err(|error| ContractError::syntax(FILE, error.to_string()))?;
        ContractError::check_schema(FILE, recipe.schema, RECIPE_SCHEMA)?;
        recipe.check_names()?;
        recipe.check_shape()?;
        recipe.check_bounds()?;
        Ok(recipe)
    }

    /// Digest of the recipe's meaning: comments, order and line ends do not count.
    pub fn digest(&self) -> Digest {
        crate::canonical_digest(self)
    }

    /// `<model>-<quant>-seq<N>.pte`.
    pub fn file_name(&self) -> String {
        format!("{}-{}-seq{}.pte", self.name, self.export.quantization.as_str(), self.export.seq_len)
    }

    /// The same recipe on random weights: for measuring an export before one has the licence.
    #[must_use]
    pub fn rehearsal(&self) -> Self {
        Self { source: Source::Random { seed: 7 }, ..self.clone() }
    }

    /// Checks that the recipe is at least as strict as the policy.
    ///
    /// # Errors
    /// Names the first limit that exceeds the policy's.
    pub fn within(&self, policy: &Policy) -> Result<(), ContractError> {
        let bound = |key, got: u64, max: u64| {
            if got <= max {
                Ok(())
            } else {
                Err(ContractError::value(FILE, key, got, format!("at most the policy's {max}")))
            }
        };
        bound("limits.file_bytes_max", self.limits.file_bytes_max, policy.limits.file_bytes_max)?;
        bound("limits.planned_bytes_max", self.limits.planned_bytes_max, policy.limits.planned_bytes_max)?;
        if self.delivery == Delivery::Embed {
            bound("limits.file_bytes_max", self.limits.file_bytes_max, policy.limits.embed_bytes_max)?;
        }
        Ok(())
    }

    /// The evidence that a profile demands, the policy's included; sorted, unique.
    pub fn demands(&self, profile: crate::check::Profile, policy: &Policy) -> Vec<EvidenceKind> {
        let mut kinds = match profile {
            crate::check::Profile::Dev => self.evidence.dev.clone(),
            crate::check::Profile::Release => {
                [self.evidence.release.as_slice(), policy.release.evidence.as_slice()].concat()
            }
        };
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }

    /// Number of linear layers: seven per block and the head.
    pub fn linears(&self) -> u32 {
        self.architecture.layers.saturating_mul(7).saturating_add(1)
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
        if let Source::Hub { files, .. } = &self.source {
            check_pins(files, &self.tokens.tokenizer)?;
        }
        match &self.source {
            Source::Path { path } if path != "." && !path.split('/').all(is_plain) => {
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
            Source::Hub { revision, .. }
                if revision.len() != 40
                    || !revision.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) =>
            {
                Err(ContractError::value(
                    FILE,
                    "source.revision",
                    format!("`{revision}`"),
                    "40 lower-case hex digits: a commit, never a branch",
                ))
            }
            _ => Ok(()),
        }
    }

    fn check_shape(&self) -> Result<(), ContractError> {
        let a = &self.architecture;
        for (key, got, max) in [
            ("architecture.dim", a.dim, limits::WIDTH_MAX),
            ("architecture.layers", a.layers, limits::LAYERS_MAX),
            ("architecture.heads", a.heads, limits::WIDTH_MAX),
            ("architecture.kv_heads", a.kv_heads, limits::WIDTH_MAX),
            ("architecture.head_dim", a.head_dim, limits::WIDTH_MAX),
            ("architecture.ffn", a.ffn, limits::WIDTH_MAX),
            ("architecture.vocab", a.vocab, limits::VOCAB_ROWS_MAX),
            ("export.seq_len", self.export.seq_len, limits::SEQ_LEN_TOKENS_MAX),
        ] {
            if got == 0 || got > max {
                return Err(ContractError::value(FILE, key, got, format!("1 to {max}")));
            }
        }
        if !a.heads.is_multiple_of(a.kv_heads) {
            let expected = format!("a divisor of `architecture.heads` = {}", a.heads);
            return Err(ContractError::value(FILE, "architecture.kv_heads", a.kv_heads, expected));
        }
        if !a.head_dim.is_multiple_of(2) {
            return Err(ContractError::value(FILE, "architecture.head_dim", a.head_dim, "an even number"));
        }
        for (key, got) in [("architecture.norm_eps", a.norm_eps), ("architecture.rope_theta", a.rope_theta)] {
            if !(got.is_finite() && got > 0.0) {
                return Err(ContractError::value(FILE, key, got, "a finite number above 0"));
            }
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
        let quality = self.quality.as_ref();
        let demanded = self.evidence.dev.iter().chain(&self.evidence.release);
        if quality.is_none() && demanded.into_iter().any(|kind| *kind == EvidenceKind::Quality) {
            return Err(ContractError::value(
                FILE,
                "quality",
                "no table",
                "bounds, as `evidence` demands it",
            ));
        }
        for (key, got, max) in [
            ("parity.max_abs_diff_max", self.parity.max_abs_diff_max, f64::MAX),
            ("parity.mean_kl_max", self.parity.mean_kl_max, f64::MAX),
            ("parity.top1_agreement_min", self.parity.top1_agreement_min, 1.0),
            ("eq.score_min", self.eq.score_min, 100.0),
            ("parity.heldout.perplexity_max", self.parity.heldout.perplexity_max, f64::MAX),
            ("parity.heldout.perplexity_ratio_max", self.parity.heldout.perplexity_ratio_max, f64::MAX),
            ("parity.heldout.fp32_mean_kl_max", self.parity.heldout.fp32_mean_kl_max, f64::MAX),
            ("parity.heldout.fp32_top1_agreement_min", self.parity.heldout.fp32_top1_agreement_min, 1.0),
            ("parity.heldout.prefill_step_diff_max", self.parity.heldout.prefill_step_diff_max, f64::MAX),
            ("benchmark.prefill_over_decode_min", self.benchmark.prefill_over_decode_min, f64::MAX),
            ("quality.acceptance_min", quality.map_or(0.0, |q| q.acceptance_min), 1.0),
            ("quality.acceptance_ratio_min", quality.map_or(0.0, |q| q.acceptance_ratio_min), 1.0),
        ] {
            if !(0.0..=max).contains(&got) {
                let expected = if max == f64::MAX { "0 or more".into() } else { format!("0 to {max}") };
                return Err(ContractError::value(FILE, key, got, expected));
            }
        }
        Ok(())
    }
}

/// Pinned files are all that an export reads, or none: one that is left out would be taken on the hub's word alone.
fn check_pins(files: &BTreeMap<String, Digest>, tokenizer: &str) -> Result<(), ContractError> {
    let wrong =
        |got: String, expected: String| Err(ContractError::value(FILE, "source.files", got, expected));
    if files.is_empty() {
        return Ok(());
    }
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
