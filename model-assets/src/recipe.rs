//! `recipe.toml`: everything that decides a model's bytes, and what they must prove before they ship.
//!
//! **Invariant:** a recipe is data. It names no path outside its own directory, runs nothing, and says
//! nothing about the machine; two people with the same recipe, checkpoint and lock get the same `.pte`.
//! Deliberately absent: any switch that turns a check off.

mod architecture;
mod validate;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    digest::Digest,
    error::ContractError,
    evidence::{Bounds, GrammarLimits, QualityLimits, YardstickLimit},
    limits,
};

pub use self::architecture::{Activation, Architecture, Family, LayerKind, RopeScaling};

pub use crate::{
    evidence::{BenchmarkLimits, Demands, EqLimits, EvidenceKind, ParityLimits},
    scheme::Quantization,
};

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
    /// Where parity must be better than its own bounds.
    #[serde(default)]
    pub parity: ParityLimits,
    /// Threshold of the EQ test.
    pub eq: EqLimits,
    /// Bounds on memory, and on speeds relative to each other.
    #[serde(default)]
    pub benchmark: BenchmarkLimits,
    /// Text quality: bounds stricter than the scheme's, and a text of the model's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<QualityLimits>,
    /// For a model whose world has a grammar: what share of the replies it must accept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grammar: Option<GrammarLimits>,
    /// Yardsticks, and what may be lost on each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub yardstick: Vec<YardstickLimit>,
    /// Licence facts.
    pub licence: Licence,
}

/// What a build is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// A developer's build: static proof, and what the recipe demands for dev.
    Dev,
    /// A build that may reach users: real weights and all evidence.
    Release,
}

impl Profile {
    /// The name used in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Release => "release",
        }
    }
}

/// Where the weights come from. Safetensors only: a pickle runs code when it is opened (CVE-2025-32434).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Source {
    /// A checkpoint directory, relative to the recipe; or where a link to one is expected.
    Path {
        /// Directory with `config.json` and `*.safetensors`.
        path: String,
        /// SHA-256 of every file that is read, by name. Empty where the files are committed with the recipe.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        files: BTreeMap<String, Digest>,
    },
    /// A GGUF, of which a checkpoint is made.
    Gguf {
        /// Its name, for people: the digest decides.
        file: String,
        /// SHA-256 of the file.
        sha256: Digest,
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

impl Source {
    /// The digest of every file of the checkpoint, by name, where the recipe has them.
    pub fn pins(&self) -> Option<&BTreeMap<String, Digest>> {
        match self {
            Self::Path { files, .. } | Self::Hub { files, .. } => {
                Some(files).filter(|files| !files.is_empty())
            }
            Self::Gguf { .. } | Self::Random { .. } => None,
        }
    }
}

/// How the network is quantized and lowered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// Weight scheme.
    pub quantization: Quantization,
    /// How linears take their inputs; rotated unless it says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activations: Option<Activations>,
    /// Context window = KV-cache rows, tokens.
    pub seq_len: u32,
    /// Delegate.
    pub backend: Backend,
    /// Exact number of delegate partitions in `forward`.
    pub partitions: Option<u32>,
    /// Exact number of linear layers inside delegates.
    pub delegated_linears: Option<u32>,
}

impl Export {
    /// How linears take their inputs; `None` where nothing is quantized.
    pub fn activations(&self) -> Option<Activations> {
        (self.quantization != Quantization::Fp32).then(|| self.activations.unwrap_or_default())
    }
}

/// How a linear of quantized weights takes its input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Activations {
    /// One int8 row in another basis, where no channel is much larger than the others.
    #[default]
    Rotated,
    /// In the 8-bit linears a number on a fixed grid and what that leaves over: twice the arithmetic.
    TwoRows,
    /// One int8 row of the input as it is.
    OneRow,
}

impl Activations {
    /// The name used in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rotated => "rotated",
            Self::TwoRows => "two-rows",
            Self::OneRow => "one-row",
        }
    }
}

/// ExecuTorch delegates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema))]
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
        recipe.validate()?;
        Ok(recipe)
    }

    /// Digest of the recipe's meaning: comments, order and line ends do not count.
    pub fn digest(&self) -> Digest {
        crate::canonical_digest(self)
    }

    /// What the recipe asks of evidence.
    pub fn bounds(&self) -> Bounds<'_> {
        Bounds {
            quantization: self.export.quantization,
            layers: self.architecture.layers,
            demands: &self.evidence,
            parity: &self.parity,
            eq: &self.eq,
            benchmark: &self.benchmark,
            quality: self.quality.as_ref(),
            grammar: self.grammar.as_ref(),
            yardstick: &self.yardstick,
        }
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
}
