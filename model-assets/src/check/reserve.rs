//! The door for the reserve: [`validate_reserve`] does for a `.gguf` what [`validate`](super::validate) does for a `.pte`.

use super::{
    Finding, Profile, Refusal, Severity, Validated,
    rules::{self, Record, text},
};
use crate::{
    claim,
    digest::Digest,
    evidence::{Asked, Measurement as _},
    gguf,
    ledger::Ledger,
    manifest::WeightsKind,
    pte::ReadAt,
    recipe::{Delivery, EvidenceKind},
    reserve::{self, RESERVE_RUNTIME, ReserveBinding, ReserveClaim},
    tokenizer,
};

/// Runs every check over `source`, byte by byte, and judges the claim for `profile`.
///
/// A release demands the same evidence as on the engine. What is measured on the reserve is load and parity, so a recipe
/// or policy that demands more refuses a release on it until that is measured too.
///
/// # Errors
/// The refusal with every reason and the command that fixes it.
pub fn validate_reserve<S: ReadAt>(
    source: S,
    claim: &ReserveClaim,
    profile: Profile,
) -> Result<Validated<S, gguf::Summary>, Refusal> {
    let mut ledger = Ledger::default();
    claim_rules(claim, &mut ledger);
    let verified = claim
        .expect()
        .map_err(|message| ("reserve-recipe", "recipe.toml".to_owned(), message, String::new()));
    let verified = verified.and_then(|expect| {
        gguf::verify(&source, &expect).map_err(|it| (it.rule.as_str(), it.location, it.got, it.expected))
    });
    let verified = match verified {
        Ok(verified) => Some(verified),
        Err((id, location, got, expected)) => {
            ledger.push(Severity::Reject, id, &location, &got, &expected);
            None
        }
    };
    ledger.passed_all("gguf", usize::from(verified.is_none()), "every rule for a GGUF");
    let file_bytes = source.len().unwrap_or_default();
    ledger.rule("file-size", "reserve.json", file_bytes, claim.manifest.file_bytes);
    let sha256 = verified.as_ref().map(|it| Digest::from_bytes(it.sha256));
    ledger.rule("sha256", "reserve.json", text(sha256), claim.manifest.sha256);
    let same = verified.as_ref().map(|it| &it.summary) == Some(&claim.manifest.structure);
    let got = if same { "the file's own" } else { "another structure than the file's" };
    ledger.judge("structure", "reserve.json", same, got, "the file's own");
    evidence_rules(claim, sha256, profile, &mut ledger);
    match (ledger.rejects(), verified, sha256) {
        (false, Some(verified), Some(sha256)) => Ok(Validated {
            source,
            sha256,
            file_bytes,
            // llama.cpp maps a file: there is nothing to embed it into.
            delivery: Delivery::Link,
            summary: verified.summary,
            warnings: ledger.findings,
            checks: ledger.checks,
        }),
        _ => Err(Refusal {
            model: claim.recipe.name.clone(),
            hint: hint(claim, profile, &ledger.findings),
            findings: ledger.findings,
            checks: ledger.checks,
        }),
    }
}

/// Rules between the contract files, whatever the bytes are.
fn claim_rules(claim: &ReserveClaim, ledger: &mut Ledger) {
    let ReserveClaim { recipe, policy, manifest, .. } = claim;
    let record = Record {
        name: "reserve.json",
        model: &manifest.model,
        file: &manifest.file,
        bound: &manifest.bound,
        weights: manifest.weights,
        source: &manifest.source.source,
    };
    record.rules(recipe, policy, &reserve::file_name(recipe), &claim.bound(), ledger);
    let random = manifest.weights == WeightsKind::Random;
    if !random && (claim.tokenizer.is_none() || claim.chat_template.is_none()) {
        ledger.fail("tokenizer", "tokenizer.json", "no tokenizer or template", "the model's");
    }
    let tokenizer = claim.tokenizer.as_deref().map(tokenizer::judge);
    let facts = tokenizer.as_ref().and_then(|facts| facts.as_ref().ok());
    rules::template(recipe, facts, claim.chat_template.as_deref(), ledger);
    if let Some(Err(error)) = tokenizer.map(|facts| claim::token_rows(recipe, &facts?)) {
        ledger.fail("tokenizer-vocabulary", "tokenizer.json", error, "the model's tokenizer");
    }
}

fn evidence_rules(claim: &ReserveClaim, sha256: Option<Digest>, profile: Profile, ledger: &mut Ledger) {
    let ReserveClaim { recipe, policy, manifest, .. } = claim;
    let random = manifest.weights == WeightsKind::Random;
    if profile == Profile::Release && random {
        ledger.fail("weights", "reserve.json", "random weights", "a checkpoint, in a release build");
    }
    let demanded = policy.demands(recipe, profile);
    let evidence = manifest.evidence.as_ref();
    for kind in &demanded {
        if !evidence.is_some_and(|evidence| evidence.has(*kind)) {
            let id = format!("evidence-{}", kind.as_str());
            ledger.fail(&id, "reserve.json", "none", format!("{} on llama.cpp", kind.as_str()));
        }
    }
    let Some(evidence) = evidence else { return };
    let current = sha256.map(|gguf| ReserveBinding::current(gguf, claim.bound()));
    let fresh = current.as_ref() == Some(&evidence.bound);
    if !fresh && !demanded.is_empty() {
        ledger.fail(
            "evidence-binding",
            "reserve.json",
            "evidence of other files or another runtime",
            "of these",
        );
    }
    let asked = Asked {
        bounds: recipe.bounds(),
        sha256: manifest.sha256,
        parameters: recipe.architecture.parameters(),
        runtime: RESERVE_RUNTIME,
    };
    // As for the engine: evidence that was measured and failed is never passed over.
    if fresh && (!random || demanded.contains(&EvidenceKind::Load)) {
        evidence.load.judge("evidence-load", &asked, ledger);
    }
    if let Some(quality) = evidence.quality.as_ref().filter(|_| fresh && !random) {
        quality.judge("evidence-quality", &asked, ledger);
    }
}

fn hint(claim: &ReserveClaim, profile: Profile, findings: &[Finding]) -> String {
    let name = &claim.recipe.name;
    let mut rejects = findings.iter().filter(|finding| finding.severity == Severity::Reject);
    if profile == Profile::Release && rejects.all(|it| it.id.starts_with("evidence")) {
        return "the reserve is measured for load and parity only; release on ExecuTorch".to_owned();
    }
    format!("run: cargo xtask export {name} --runtime llamacpp --force")
}
