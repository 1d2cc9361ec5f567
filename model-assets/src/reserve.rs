//! The reserve: the same checkpoint as a GGUF for llama.cpp, its record, and what is claimed about it.
//!
//! `reserve.json` stands beside `manifest.json` and is to the `.gguf` what that one is to the `.pte`. It shares the recipe,
//! the policy, the tokenizer and the template, so there is nothing to configure: one recipe, two files.
//!
//! **Invariant:** written by xtask alone, as the last step of a publish, and nothing here is believed: see
//! [`crate::check::validate_reserve`].

use serde::{Deserialize, Serialize};

use crate::{
    claim,
    digest::Digest,
    error::ContractError,
    evidence::{Load, Quality},
    gguf::{self, plan},
    ledger::Check,
    limits,
    manifest::{Bound, SUITE_VERSION, SourceRecord, WeightsKind},
    policy::Policy,
    recipe::{EvidenceKind, Family, Quantization, Recipe, RopeScaling},
};

/// The format version that this crate reads and writes.
pub const RESERVE_SCHEMA: u32 = 1;
/// File name of the record.
pub const RESERVE_FILE: &str = "reserve.json";
/// What the reserve runs on: the crate that vendors llama.cpp, and its version. Evidence of another one is void.
pub const RESERVE_RUNTIME: &str = "llama-cpp-sys-2 0.1.161";

const FILE: &str = RESERVE_FILE;

/// The record of one GGUF.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ReserveManifest {
    /// Version of this file's format.
    pub schema: u32,
    /// Model name, as in the recipe.
    pub model: String,
    /// File name of the `.gguf`, beside this record.
    pub file: String,
    /// Its size, bytes.
    pub file_bytes: u64,
    /// Its SHA-256.
    pub sha256: Digest,
    /// What the weights are.
    pub weights: WeightsKind,
    /// Where they came from.
    pub source: SourceRecord,
    /// Digests of what the model was made from and is used with.
    pub bound: Bound,
    /// How the export went.
    pub export: ReserveExport,
    /// What the bytes say.
    pub structure: gguf::Summary,
    /// Verdicts of every check at publish.
    pub checks: Vec<Check>,
    /// Measured evidence.
    pub evidence: Option<ReserveEvidence>,
    /// When it was published, RFC 3339 in UTC.
    pub published: String,
}

/// How an export to GGUF went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ReserveExport {
    /// Git revision of the repository, with `-dirty` when it had local changes; absent outside git.
    pub xtask_revision: Option<String>,
    /// Wall time of the conversion, seconds.
    pub seconds: f64,
    /// Peak resident memory of xtask up to the end of the conversion, bytes; absent where the system does not tell.
    pub peak_rss_bytes: Option<u64>,
}

/// What `reserve check` answers: written to the response file that xtask named.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReserveCheck {
    /// What ran the model, as [`RESERVE_RUNTIME`].
    pub runtime: String,
    /// SHA-256 of the file that was run.
    pub gguf: Digest,
    /// Load evidence.
    pub load: Load,
}

/// What was measured, bound to what it was measured on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ReserveEvidence {
    /// What it was measured on.
    pub bound: ReserveBinding,
    /// Load and run.
    pub load: Load,
    /// Text quality against the unquantized model; absent for random weights.
    pub quality: Option<Quality>,
}

/// What evidence was measured on. Change any of it and the evidence is void.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ReserveBinding {
    /// SHA-256 of the `.gguf`.
    pub gguf: Digest,
    /// The files it is used with.
    pub bound: Bound,
    /// What ran it, as [`RESERVE_RUNTIME`].
    pub runtime: String,
    /// Version of the check suite.
    pub suite: u32,
}

impl ReserveBinding {
    /// The binding that evidence for these files must carry today.
    pub fn current(gguf: Digest, bound: Bound) -> Self {
        Self { gguf, bound, runtime: RESERVE_RUNTIME.to_owned(), suite: SUITE_VERSION }
    }
}

impl ReserveEvidence {
    /// Whether this kind was measured. Parity is with the model before quantization, which is quality: there is no eager model
    /// that is quantized as a GGUF is. The other kinds are the engine's alone.
    pub fn has(&self, kind: EvidenceKind) -> bool {
        match kind {
            EvidenceKind::Load => true,
            EvidenceKind::Parity | EvidenceKind::Quality => self.quality.is_some(),
            _ => false,
        }
    }
}

impl ReserveManifest {
    /// Parses `reserve.json`.
    ///
    /// # Errors
    /// Too large, not JSON, unknown or missing keys, another schema version, or a file name that is none.
    pub fn parse(bytes: &[u8]) -> Result<Self, ContractError> {
        /// Only the version, so that a record of another version says so instead of naming a key.
        #[derive(Deserialize)]
        struct Version {
            schema: u32,
        }
        ContractError::check_size(FILE, bytes.len(), limits::MANIFEST_BYTES_MAX)?;
        let syntax = |error: serde_json::Error| ContractError::syntax(FILE, error.to_string());
        let version: Version = serde_json::from_slice(bytes).map_err(syntax)?;
        ContractError::check_schema(FILE, version.schema, RESERVE_SCHEMA)?;
        let record: Self = serde_json::from_slice(bytes).map_err(syntax)?;
        if record.file.is_empty() || record.file.starts_with('.') || record.file.contains(['/', '\\', '\0']) {
            return Err(ContractError::value(
                FILE,
                "file",
                format!("`{}`", record.file),
                "a plain file name",
            ));
        }
        Ok(record)
    }

    /// Whether this record claims all that `other` does. Figures that vary from run to run (seconds, memory, dates) do not
    /// count.
    pub fn covers(&self, other: &Self) -> bool {
        let key = |it: &Self| {
            let evidence = it.evidence.as_ref();
            (
                (it.model.clone(), it.file.clone(), it.file_bytes, it.sha256, it.weights),
                (it.source.clone(), it.bound.clone(), it.structure.clone()),
                evidence.map(|evidence| evidence.bound.clone()),
            )
        };
        let quality = |it: &Self| it.evidence.as_ref().is_some_and(|evidence| evidence.quality.is_some());
        key(self) == key(other) && quality(self) >= quality(other)
    }

    /// The bytes to write: pretty JSON with a final newline.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Serialising plain data into memory cannot fail: no map has a key that is no string.
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }
}

/// What is claimed about a GGUF.
#[derive(Debug, Clone)]
pub struct ReserveClaim {
    /// The recipe.
    pub recipe: Recipe,
    /// The policy.
    pub policy: Policy,
    /// The record.
    pub manifest: ReserveManifest,
    /// `tokenizer.json`; absent for random weights.
    pub tokenizer: Option<Vec<u8>>,
    /// The chat template; absent for random weights.
    pub chat_template: Option<String>,
}

impl ReserveClaim {
    /// The digests of these very files.
    pub fn bound(&self) -> Bound {
        claim::bound(&self.recipe, &self.policy, self.tokenizer.as_deref(), self.chat_template.as_deref())
    }

    /// What the `.gguf` must be to keep the claim's promises.
    ///
    /// # Errors
    /// A message: the recipe or the tokenizer is one that no GGUF is written for.
    pub fn expect(&self) -> Result<gguf::Expect, String> {
        let expect = expect(&self.recipe, self.tokenizer.as_deref(), self.chat_template.as_deref())?;
        Ok(gguf::Expect { sha256: Some(self.manifest.sha256.to_bytes()), ..expect })
    }
}

/// `<model>-q8_0-seq<N>.gguf`.
pub fn file_name(recipe: &Recipe) -> String {
    format!("{}-q8_0-seq{}.gguf", recipe.name, recipe.export.seq_len)
}

/// What a model's `.gguf` must be, whatever its weights.
///
/// # Errors
/// A message: the recipe or the tokenizer is one that no GGUF is written for.
pub fn expect(
    recipe: &Recipe,
    tokenizer: Option<&[u8]>,
    chat_template: Option<&str>,
) -> Result<gguf::Expect, String> {
    let a = &recipe.architecture;
    if recipe.export.quantization != Quantization::Int8 {
        let got = recipe.export.quantization.as_str();
        return Err(format!("export.quantization: got {got}, expected int8: the reserve is written as Q8_0"));
    }
    if a.family != Family::Llama {
        let got = a.family.as_str();
        return Err(format!("architecture.family: got {got}, expected llama: the reserve knows no other"));
    }
    if !matches!(a.rope_scaling, None | Some(RopeScaling::Llama3 { .. })) {
        let expected = "expected llama3 or none: the reserve knows no other";
        return Err(format!("architecture.rope_scaling: got another kind, {expected}"));
    }
    let inner = a.heads.saturating_mul(a.head_dim);
    for (key, width) in [("dim", a.dim), ("ffn", a.ffn), ("heads x head_dim", inner)] {
        if !u64::from(width).is_multiple_of(gguf::BLOCK_WEIGHTS) {
            return Err(format!(
                "architecture.{key}: got {width}, expected a multiple of {}",
                gguf::BLOCK_WEIGHTS
            ));
        }
    }
    let vocabulary = tokenizer.map(|json| gguf::Vocabulary::parse(json, a.vocab)).transpose();
    let vocabulary = vocabulary.map_err(|error| format!("tokenizer.json: {error}"))?;
    Ok(gguf::Expect {
        file_bytes: Some((recipe.limits.file_bytes_min, recipe.limits.file_bytes_max)),
        metadata: Some(plan::metadata(recipe, vocabulary.as_ref(), chat_template)),
        tensors: Some(plan::tensors(a).into_iter().map(|(tensor, _)| tensor).collect()),
        sha256: None,
    })
}
