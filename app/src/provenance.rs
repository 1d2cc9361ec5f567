//! `app --provenance`: which model is inside, and what proved it.

use model_assets::{digest::Digest, manifest::Manifest};
use serde_json::{Value, json};

use crate::model::Model;

/// The provenance of a model; the digest of embedded bytes is computed anew from the bytes in this process.
///
/// # Errors
/// The baked manifest cannot be read: the binary was altered.
pub(crate) fn provenance(model: &Model) -> anyhow::Result<Value> {
    let manifest = Manifest::parse(model.manifest)?;
    let evidence = manifest.evidence.as_ref();
    Ok(json!({
        "model": manifest.model,
        "file": manifest.file,
        "file_bytes": model.file_bytes,
        "place": if model.embedded().is_some() { "embedded" } else { "linked" },
        "sha256": model.sha256,
        "embedded_sha256": model.embedded().map(Digest::of),
        "proved_for": model.proved_for,
        "signature": model.signature,
        "weights": manifest.weights,
        "quantization": manifest.export.quantization,
        "seq_len": manifest.export.seq_len,
        "toolchain": manifest.toolchain,
        "published": manifest.published,
        "prd_compliant": manifest.prd_compliant,
        "prd_reasons": manifest.prd_reasons,
        "checks_passed": manifest.checks.iter().filter(|check| check.passed).count(),
        "checks": manifest.checks.len(),
        "load": evidence.and_then(|evidence| evidence.load.as_ref()),
        "parity": evidence.and_then(|evidence| evidence.parity.as_ref()),
        "benchmark": evidence.and_then(|evidence| evidence.benchmark.as_ref()),
        "eq": evidence.and_then(|evidence| evidence.eq.as_ref()),
        "quality": evidence.and_then(|evidence| evidence.quality.as_ref()).map(|it| it.figures()),
        "yardstick": evidence.and_then(|evidence| evidence.yardstick.as_ref()),
        "grammar": evidence.and_then(|evidence| evidence.grammar.as_ref()),
    }))
}
