//! `manifest.json`, version 1: what a `.pte` is, how it was made, and what was proved about it.
//!
//! **Invariant:** written by xtask alone, as the last step of a publish. Nothing here is believed: the gate
//! re-hashes the file, re-derives [`Manifest::structure`] from its bytes, re-judges the figures in
//! [`Manifest::evidence`] against the recipe, and refuses a record of verdicts ([`Manifest::checks`],
//! [`Manifest::prd_compliant`]) that says otherwise than what it finds. Nothing shows a recorded verdict.
//!
//! **Invariant:** [`Evidence::bound`] equals what a fresh binding of the same files gives, or the evidence
//! is void.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    digest::Digest,
    error::ContractError,
    ledger::Check,
    limits,
    name::is_plain,
    policy::Policy,
    pte,
    recipe::{Backend, Quantization, Source},
};

pub use crate::evidence::{Bound, Evidence, EvidenceBinding, KERNELS_SHA256, RUNTIME_VERSION, SUITE_VERSION};

/// The format version this crate reads and writes.
pub const MANIFEST_SCHEMA: u32 = 1;
/// File name of the manifest.
pub const MANIFEST_FILE: &str = "manifest.json";
/// File name of the export log.
pub const LOG_FILE: &str = "export_pte_log.txt";

const FILE: &str = MANIFEST_FILE;

/// The manifest of one exported model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this file's format.
    pub schema: u32,
    /// Model name, as in the recipe.
    pub model: String,
    /// File name of the `.pte`, beside the manifest.
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
    /// Versions of everything that had a hand in the bytes.
    pub toolchain: Toolchain,
    /// How the export went.
    pub export: ExportRecord,
    /// What the bytes say, as read by the verifier.
    pub structure: Structure,
    /// Logits of the eager quantized model, kept for later parity runs.
    pub reference: FileRecord,
    /// Verdicts of every check at publish.
    pub checks: Vec<Check>,
    /// Measured evidence.
    pub evidence: Option<Evidence>,
    /// Whether the model meets the product requirements in `policy.toml`.
    pub prd_compliant: bool,
    /// Why not, when it does not.
    pub prd_reasons: Vec<String>,
    /// When it was published, RFC 3339 in UTC.
    pub published: String,
}

/// What the weights are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum WeightsKind {
    /// Read from a checkpoint.
    Checkpoint,
    /// Random numbers, from a rehearsal.
    Random,
}

/// Where the weights came from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SourceRecord {
    /// The source that was used: the recipe's, or random for a rehearsal.
    pub source: Source,
    /// The checkpoint's files; empty for random weights.
    pub files: Vec<FileRecord>,
    /// The GGUF that the checkpoint was made from, where it was: it is then not the one that the source names, but what is left
    /// of it after another quantization.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gguf: Option<FileRecord>,
}

/// A file by name, size and digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// File name.
    pub name: String,
    /// Size, bytes.
    pub bytes: u64,
    /// SHA-256.
    pub sha256: Digest,
}

/// Versions of everything that had a hand in the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Toolchain {
    /// Python.
    pub python: String,
    /// `torch`.
    pub torch: String,
    /// `torchao`.
    pub torchao: String,
    /// `executorch`.
    pub executorch: String,
    /// `safetensors`.
    pub safetensors: String,
    /// Digest of the dependency lock.
    pub lock: Digest,
    /// Digest of the export worker's source.
    pub worker: Digest,
    /// Which index PyTorch was installed from.
    pub torch_index: String,
    /// Git revision of the repository, with `-dirty` when it had local changes; absent outside git.
    pub xtask_revision: Option<String>,
}

/// How the export went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ExportRecord {
    /// Digest of everything that decides the bytes; an equal one means that a re-export would be wasted.
    pub inputs: Digest,
    /// Weight scheme.
    pub quantization: Quantization,
    /// Context window, tokens.
    pub seq_len: u32,
    /// Delegate.
    pub backend: Backend,
    /// Parameters of the network.
    pub parameters: u64,
    /// Linear layers in the network.
    pub linears: u32,
    /// Which attempt succeeded, from 1.
    pub attempt: u32,
    /// Stages in order.
    pub stages: Vec<Stage>,
    /// Highest resident memory of the worker's process group as seen by the supervisor, bytes.
    pub peak_rss_bytes: u64,
    /// Highest anonymous memory likewise, bytes; absent where the platform does not tell.
    pub peak_anon_bytes: Option<u64>,
}

/// One stage of an export.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Name.
    pub name: String,
    /// Wall time, seconds.
    pub seconds: f64,
    /// Peak resident memory, bytes.
    pub peak_rss_bytes: u64,
    /// Peak anonymous memory, bytes.
    pub peak_anon_bytes: u64,
}

/// What the bytes of a `.pte` say: the parts of [`pte::Summary`] that a reviewer of the manifest wants. The
/// verifier re-derives all of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Structure {
    /// Length of the program flatbuffer, bytes.
    pub program_bytes: u64,
    /// Data segments.
    pub segments: u32,
    /// Inputs of `forward`.
    pub inputs: Vec<pte::summary::Io>,
    /// Outputs of `forward`.
    pub outputs: Vec<pte::summary::Io>,
    /// Backends used.
    pub backends: Vec<String>,
    /// Delegate partitions in `forward`.
    pub partitions: u32,
    /// Linear layers inside delegates.
    pub delegated_linears: u32,
    /// Linear layers outside delegates, by name or place.
    pub undelegated_linears: Vec<String>,
    /// Share of weight bytes inside delegates, 0 to 1.
    pub delegated_weight_share: f64,
    /// Share of multiply-accumulates inside delegates, 0 to 1.
    pub delegated_mac_share: f64,
    /// Quantization census: weights by place, role and dtype.
    pub weights: Vec<pte::summary::WeightRow>,
    /// Operators outside delegates.
    pub operators: Vec<String>,
    /// Planned memory over all methods, bytes.
    pub planned_bytes: u64,
    /// Metadata methods and what they return.
    pub metadata: BTreeMap<String, pte::MetaValue>,
}

impl Structure {
    /// The reviewer's part of a summary.
    pub fn of(summary: &pte::Summary) -> Self {
        let forward = summary.plans.iter().find(|plan| plan.name == "forward");
        // Four decimals: a share is for reading, and a float that must compare equal after a trip through
        // JSON is better short.
        let share = |share: f64| (share * 1e4).round() / 1e4;
        Self {
            program_bytes: summary.program_bytes,
            segments: u32::try_from(summary.segments.len()).unwrap_or(u32::MAX),
            inputs: forward.map(|plan| plan.inputs.clone()).unwrap_or_default(),
            outputs: forward.map(|plan| plan.outputs.clone()).unwrap_or_default(),
            backends: summary.backends.clone(),
            partitions: summary.partitions,
            delegated_linears: summary.delegated_linears,
            undelegated_linears: summary.undelegated_linears.clone(),
            delegated_weight_share: share(summary.delegated_weight_share()),
            delegated_mac_share: share(summary.delegated_mac_share()),
            weights: summary.weights.clone(),
            operators: summary.operators.clone(),
            planned_bytes: summary.planned_bytes,
            metadata: summary.metadata.clone(),
        }
    }
}

impl Manifest {
    /// Parses `manifest.json`.
    ///
    /// # Errors
    /// Too large, not JSON, unknown or missing keys, or another schema version.
    pub fn parse(bytes: &[u8]) -> Result<Self, ContractError> {
        /// Only the version, so that a manifest of another version says so instead of naming a key.
        #[derive(Deserialize)]
        struct Version {
            schema: u32,
        }
        ContractError::check_size(FILE, bytes.len(), limits::MANIFEST_BYTES_MAX)?;
        let syntax = |error: serde_json::Error| ContractError::syntax(FILE, error.to_string());
        let version: Version = serde_json::from_slice(bytes).map_err(syntax)?;
        ContractError::check_schema(FILE, version.schema, MANIFEST_SCHEMA)?;
        let manifest: Self = serde_json::from_slice(bytes).map_err(syntax)?;
        for (key, name) in [("file", &manifest.file), ("reference.name", &manifest.reference.name)] {
            if !is_plain(name) {
                return Err(ContractError::value(FILE, key, format!("`{name}`"), "a plain file name"));
            }
        }
        Ok(manifest)
    }

    /// The bytes to write: pretty JSON with a final newline.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Serialising plain data into memory cannot fail: no map has a non-string key.
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// Whether this manifest claims all that `other` does: same bytes, made from and bound to the same inputs, with at
    /// least the kinds of evidence that `other` has. Figures that vary from run to run (seconds, memory, dates) do not
    /// count.
    pub fn covers(&self, other: &Self) -> bool {
        let key = |m: &Self| {
            let bound = m.evidence.as_ref().map(|e| e.bound.clone());
            let checks = m.checks.iter().filter(|check| !check.id.starts_with("evidence-"));
            // In which order they ran is no claim.
            let mut passed: Vec<_> = checks.map(|c| (c.id.clone(), c.passed)).collect();
            passed.sort();
            (
                (m.model.clone(), m.file.clone(), m.file_bytes, m.sha256, m.weights),
                (m.source.clone(), m.bound.clone(), m.export.inputs, m.reference.clone()),
                (bound, passed, m.prd_compliant, m.prd_reasons.clone(), m.structure.clone()),
            )
        };
        let kinds = |m: &Self| m.evidence.iter().flat_map(Evidence::kinds).collect::<Vec<_>>();
        let own = kinds(self);
        key(self) == key(other) && kinds(other).iter().all(|kind| own.contains(kind))
    }

    /// Records whether the model meets the product requirements.
    pub fn record_prd(&mut self, policy: &Policy) {
        self.prd_reasons = self.prd_findings(policy);
        self.prd_compliant = self.prd_reasons.is_empty();
    }

    /// Why the model does not meet the product requirements; empty when it does. Of a validated model the figures that this
    /// looks at are the file's own.
    pub fn prd_findings(&self, policy: &Policy) -> Vec<String> {
        let prd = &policy.prd;
        let mut reasons = Vec::new();
        let mut demand = |what: &str, holds: bool, got: String, expected: String| {
            if !holds {
                reasons.push(format!("{what}: got {got}, expected {expected}"));
            }
        };
        demand("weights", self.weights == WeightsKind::Checkpoint, "random".into(), "a checkpoint".into());
        demand(
            "quantization",
            self.export.quantization == prd.quantization,
            self.export.quantization.as_str().into(),
            prd.quantization.as_str().into(),
        );
        demand(
            "sequence length",
            self.export.seq_len == prd.seq_len,
            self.export.seq_len.to_string(),
            prd.seq_len.to_string(),
        );
        demand(
            "backend",
            self.export.backend == prd.backend,
            self.export.backend.as_str().into(),
            prd.backend.as_str().into(),
        );
        demand(
            "file size",
            self.file_bytes <= prd.file_bytes_max,
            format!("{} bytes", self.file_bytes),
            format!("at most {} bytes", prd.file_bytes_max),
        );
        reasons
    }
}
