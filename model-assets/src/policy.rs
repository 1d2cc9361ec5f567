//! `policy.toml`: what the whole repository demands of every model, whoever wrote its recipe.
//!
//! **Invariant:** a recipe can only be stricter than the policy ([`Policy::admits`]); the
//! policy's digest is bound into the evidence, so loosening it voids what was proved under the old one.

use serde::{Deserialize, Serialize};

use crate::{
    digest::Digest,
    error::ContractError,
    limits,
    recipe::{Backend, Delivery, EvidenceKind, Profile, Quantization, Recipe},
};

/// The repository-wide rules.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Version of this file's format.
    pub schema: u32,
    /// Upper bounds that no recipe may exceed.
    pub limits: PolicyLimits,
    /// Evidence that every release build demands, whatever the recipe says.
    pub release: ReleasePolicy,
    /// What the product requires; decides `prd_compliant`.
    pub prd: Prd,
}

/// Upper bounds that no recipe may exceed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PolicyLimits {
    /// Largest model file, bytes.
    pub file_bytes_max: u64,
    /// Largest planned (activation and KV-cache) memory, bytes.
    pub planned_bytes_max: u64,
    /// Largest model that may be embedded in the binary rather than linked, bytes.
    pub embed_bytes_max: u64,
}

/// What a release build demands of every model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ReleasePolicy {
    /// Evidence that a recipe may add to but not leave out.
    pub evidence: Vec<EvidenceKind>,
}

/// The product requirements that decide `prd_compliant`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Prd {
    /// Required quantization.
    pub quantization: Quantization,
    /// Required context window, tokens.
    pub seq_len: u32,
    /// Required backend.
    pub backend: Backend,
    /// Largest file, bytes.
    pub file_bytes_max: u64,
}

/// The format version this crate reads and writes.
pub const POLICY_SCHEMA: u32 = 1;

impl Policy {
    /// How a file of this size reaches an app: `auto` resolved.
    pub fn delivery(&self, recipe: &Recipe, file_bytes: u64) -> Delivery {
        match recipe.delivery {
            Delivery::Auto if file_bytes <= self.limits.embed_bytes_max => Delivery::Embed,
            Delivery::Auto => Delivery::Link,
            fixed => fixed,
        }
    }

    /// Parses `policy.toml`.
    ///
    /// # Errors
    /// Too large, not TOML, unknown keys, or an unknown schema version.
    pub fn parse(text: &str) -> Result<Self, ContractError> {
        ContractError::check_size("policy.toml", text.len(), limits::TOML_BYTES_MAX)?;
        let policy: Self =
            toml::from_str(text).map_err(|error| ContractError::syntax("policy.toml", error.to_string()))?;
        ContractError::check_schema("policy.toml", policy.schema, POLICY_SCHEMA)?;
        if policy.limits.file_bytes_max > limits::MODEL_BYTES_MAX {
            return Err(ContractError::value(
                "policy.toml",
                "limits.file_bytes_max",
                policy.limits.file_bytes_max,
                format!("at most {}", limits::MODEL_BYTES_MAX),
            ));
        }
        Ok(policy)
    }

    /// Digest of the policy's meaning: comments, order and line ends do not count.
    pub fn digest(&self) -> Digest {
        crate::canonical_digest(self)
    }

    /// Checks that a recipe is at least as strict.
    ///
    /// # Errors
    /// Names the first limit that exceeds the policy's.
    pub fn admits(&self, recipe: &Recipe) -> Result<(), ContractError> {
        let (own, limits) = (&self.limits, &recipe.limits);
        let bound = |key, got: u64, max: u64| {
            if got <= max {
                return Ok(());
            }
            Err(ContractError::value("recipe.toml", key, got, format!("at most the policy's {max}")))
        };
        bound("limits.file_bytes_max", limits.file_bytes_max, own.file_bytes_max)?;
        bound("limits.planned_bytes_max", limits.planned_bytes_max, own.planned_bytes_max)?;
        if recipe.delivery == Delivery::Embed {
            bound("limits.file_bytes_max", limits.file_bytes_max, own.embed_bytes_max)?;
        }
        Ok(())
    }

    /// The evidence that a profile demands of a recipe's model, the recipe's own included; sorted, unique.
    pub fn demands(&self, recipe: &Recipe, profile: Profile) -> Vec<EvidenceKind> {
        let mut kinds = match profile {
            Profile::Dev => recipe.evidence.dev.clone(),
            Profile::Release => [recipe.evidence.release.as_slice(), &self.release.evidence].concat(),
        };
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }
}
