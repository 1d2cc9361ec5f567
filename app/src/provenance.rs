//! `app --provenance`: which model is inside, and what proved it.
//!
//! **Invariant:** verdicts are derived here or by the gate; none is read from the manifest.

use model_assets::{claim::Claim, digest::Digest, evidence::EvidenceKind};
use serde_json::{Value, json};

use crate::model::Model;

/// The provenance of a model; the digest of embedded bytes is computed anew from the bytes in this process.
///
/// # Errors
/// The baked manifest cannot be read: the binary was altered.
pub(crate) fn provenance(model: &Model) -> anyhow::Result<Value> {
    let Claim { manifest, policy, .. } = Claim::parse(model.texts()?)?;
    let prd_reasons = manifest.prd_findings(&policy);
    let altered = model.check().err();
    let evidence = manifest.evidence.as_ref();
    let mut provenance = json!({
        "model": manifest.model,
        "file": manifest.file,
        "file_bytes": model.file_bytes,
        "place": if model.embedded().is_some() { "embedded" } else { "linked" },
        "sha256": model.sha256,
        "embedded_sha256": model.embedded().map(Digest::of),
        "intact": altered.is_none(),
        "altered": altered,
        "proved_for": model.proved_for,
        "signature": model.signature,
        "weights": manifest.weights,
        "quantization": manifest.export.quantization,
        "seq_len": manifest.export.seq_len,
        "toolchain": manifest.toolchain,
        "published": manifest.published,
        "prd_compliant": prd_reasons.is_empty(),
        "prd_reasons": prd_reasons,
        "checks_passed": model.checks,
    });
    for kind in EvidenceKind::ALL {
        let measured = evidence.and_then(|evidence| evidence.get(kind));
        provenance[kind.as_str()] = measured.map_or(Value::Null, |measured| measured.value());
    }
    Ok(provenance)
}
