//! What a release demands beside the proof of the bytes: the licence's files and a signature. The same calls as in the
//! app's build script.

use std::time::SystemTime;

use model_assets::{
    check::{self, Refusal, Validated},
    claim::Claim,
    dir::{ClaimFiles, ModelDir},
    licence,
};

use crate::exit::{Exit, Failure, Outcome, refused};

/// Demands all that a release build demands of a model whose bytes were proved.
pub(crate) fn demand<S>(
    dir: &ModelDir,
    claim: &Claim,
    files: &ClaimFiles,
    validated: &Validated<S>,
) -> Outcome {
    licence::check(dir, &claim.recipe).map_err(|refusal| failure(Exit::Licence, refusal))?;
    let signers = dir.signers().map_err(refused)?;
    if !signers.demands(dir.name()) {
        return Ok(());
    }
    let signature = dir.signature(&files.manifest).map_err(refused)?;
    check::signed_by(validated, claim, &files.manifest, &signers, signature.as_deref(), SystemTime::now())
        .map(drop)
        .map_err(|refusal| failure(Exit::Signature, refusal))
}

pub(crate) fn failure(code: Exit, refusal: Refusal) -> Failure {
    let hint = refusal.hint.clone();
    Failure::new(code, refusal, hint)
}
