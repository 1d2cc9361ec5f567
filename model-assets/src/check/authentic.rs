//! Whose model it is: what a release build demands beside the proof of the bytes.
//!
//! **Invariant:** digests are compared of what was read and proved: the `.pte` of the [`Validated`], the texts of the claim.
//! Nothing here opens a path.
//!
//! Not a part of [`super::validate`], for two reasons. Evidence is measured before a model can be signed; and an app that
//! proves its linked file again must not stop working on the day that a key expires.

use std::time::SystemTime;

use super::{Finding, Refusal, Severity, Validated};
use crate::{
    claim::Claim,
    digest::Digest,
    ledger::Ledger,
    manifest::MANIFEST_FILE,
    signature::{SIGNATURE_FILE, Statement},
    signers::{Rejected, Signers},
};

/// The key that signed a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authentic {
    /// Its name in `signers.toml`.
    pub key: String,
    /// SHA-256 of its PEM text.
    pub hint: Digest,
    /// All that it signed.
    pub statement: Statement,
}

/// Who signed the model: a key that `signers` accepts on the day `now`. `manifest` are the bytes that the claim was parsed
/// from. A release asks where [`Signers::demands`] says so; a signature that is there all the same is not looked at.
///
/// # Errors
/// The refusal with every reason and the command that fixes it.
pub fn signed_by<S>(
    validated: &Validated<S>,
    claim: &Claim,
    manifest: &[u8],
    signers: &Signers,
    signature: Option<&[u8]>,
    now: SystemTime,
) -> Result<Authentic, Refusal> {
    let model = &claim.recipe.name;
    let rejected = |Rejected { id, got, expected }| {
        let (id, location) = (id.to_owned(), SIGNATURE_FILE.to_owned());
        refusal(model, vec![Finding { id, severity: Severity::Reject, location, got, expected }])
    };
    let Some(signature) = signature else {
        let (got, expected) = ("no such file".to_owned(), signers.expected(model));
        return Err(rejected(Rejected { id: "signature-missing", got, expected }));
    };
    let (key, statement) = signers.accept(signature, model, now).map_err(rejected)?;
    let mut ledger = Ledger::default();
    for (name, sha256) in files(validated, claim, manifest) {
        match statement.sha256(&name) {
            Some(signed) => ledger.rule("signature-digest", &name, sha256, signed),
            None => ledger.fail("signature-coverage", &name, "a file that was not signed", "a signed one"),
        }
    }
    if ledger.rejects() {
        return Err(refusal(model, ledger.findings));
    }
    Ok(Authentic { key: key.name().to_owned(), hint: key.hint(), statement })
}

/// What a signature and a model's directory disagree on.
pub fn refusal(model: &str, findings: Vec<Finding>) -> Refusal {
    let id = findings.first().map(|finding| finding.id.clone()).unwrap_or_default();
    Refusal { model: model.to_owned(), hint: hint(model, &id), findings, checks: Vec::new() }
}

/// Name and digest of the files that decide what an app carries. What else belongs to the proof (recipe, policy, reference, transcript) is
/// named in the manifest by its digest.
fn files<S>(validated: &Validated<S>, claim: &Claim, manifest: &[u8]) -> Vec<(String, Digest)> {
    let file = |name: &str, sha256| (name.to_owned(), sha256);
    let tokens = &claim.recipe.tokens;
    let tokenizer = claim.tokenizer.as_ref().map(|bytes| file(&tokens.tokenizer, Digest::of(bytes)));
    let template =
        claim.chat_template.as_ref().map(|text| file(&tokens.chat_template, Digest::of(text.as_bytes())));
    let always = [file(MANIFEST_FILE, Digest::of(manifest)), file(&claim.manifest.file, validated.sha256())];
    always.into_iter().chain(tokenizer).chain(template).collect()
}

/// The command that fixes the first failure.
fn hint(model: &str, id: &str) -> String {
    match id {
        "signature-key" | "signature-revoked" | "signature-date" => {
            format!(
                "sign with a key that signers.toml accepts: cargo xtask sign {model} --key KEY.pem; or add the key: docs/signing.md"
            )
        }
        "signature-digest" | "signature-coverage" | "signature-extra" => format!(
            "if the change is yours, sign again: cargo xtask sign {model} --key KEY.pem; if not, the model is a forgery"
        ),
        _ => format!("run: cargo xtask sign {model} --key KEY.pem; keys: docs/signing.md"),
    }
}
