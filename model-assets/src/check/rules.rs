//! The rules of the gate between the contract files, and those that depend on what a build is for.

use super::Profile;
use crate::{
    claim::{Claim, prompts, token_rows},
    digest::Digest,
    ledger::{Finding, Ledger, Severity},
    manifest::{Bound, Evidence, EvidenceBinding, FileRecord, RUNTIME_VERSION, SourceRecord, WeightsKind},
    policy::Policy,
    recipe::{EvidenceKind, Recipe, Source},
    tokenizer::{self, Facts},
};

use super::judge;

/// Rules between the contract files, whatever the bytes are.
pub(super) fn of_claim(claim: &Claim, ledger: &mut Ledger) {
    let Claim { recipe, policy, manifest, .. } = claim;
    let record = Record {
        name: "manifest.json",
        model: &manifest.model,
        file: &manifest.file,
        bound: &manifest.bound,
        weights: manifest.weights,
        source: &manifest.source.source,
    };
    record.rules(recipe, policy, &recipe.file_name(), &claim.bound(), ledger);
    of_source(&recipe.source, &manifest.source, ledger);
    for key in recipe.parity.retired() {
        let expected = "bounds under [quality]: nothing measures this any more";
        ledger.push(Severity::Warn, "recipe-retired", "recipe.toml", &format!("parity.{key}"), expected);
    }
    let export = (manifest.export.quantization, manifest.export.seq_len, manifest.export.backend);
    let wanted = (recipe.export.quantization, recipe.export.seq_len, recipe.export.backend);
    ledger.rule("export-settings", "manifest.json", format!("{export:?}"), format!("{wanted:?}"));
    let tokenizer = claim.tokenizer.as_deref().map(tokenizer::judge);
    match &tokenizer {
        Some(facts) => {
            let rows = facts.as_ref().map_err(Clone::clone).and_then(|facts| token_rows(recipe, facts));
            let expected = format!("a Hugging Face tokenizer of at most {} ids", recipe.architecture.vocab);
            let got = rows.as_ref().map_or_else(Clone::clone, u32::to_string);
            ledger.judge("tokenizer-vocabulary", "tokenizer.json", rows.is_ok(), got, expected);
        }
        None if manifest.weights == WeightsKind::Random => {}
        None => ledger.fail("tokenizer", "tokenizer.json", "no file", "the model's tokenizer"),
    }
    let tokenizer = tokenizer.as_ref().and_then(|facts| facts.as_ref().ok());
    template(recipe, tokenizer, claim.chat_template.as_deref(), ledger);
    if claim.chat_template.is_none() && manifest.weights != WeightsKind::Random {
        ledger.fail("template", "chat template", "no file", "the model's chat template");
    }
    // The file format has no version of its exporter: skew between exporter and runtime shows nowhere else.
    ledger.rule("exporter-version", "manifest.json", &manifest.toolchain.executorch, RUNTIME_VERSION);
}

/// A template is a program: the app must be able to render a conversation with it.
pub(super) fn template(
    recipe: &Recipe,
    tokenizer: Option<&Facts>,
    template: Option<&str>,
    ledger: &mut Ledger,
) {
    let (Some(tokenizer), Some(template)) = (tokenizer, template) else { return };
    if let Err(error) = prompts(recipe, tokenizer, template) {
        ledger.fail("template-renders", &recipe.tokens.chat_template, error, "the reference conversation");
    }
}

/// A checkpoint from elsewhere may be exported, and whoever builds the app is told.
pub(super) fn of_source(recipe: &Source, record: &SourceRecord, ledger: &mut Ledger) {
    let mut warn = |id, got: &str, expected: &str| {
        ledger.push(Severity::Warn, id, "manifest.json", got, expected);
    };
    match (recipe, &record.gguf) {
        (Source::Gguf { sha256, .. }, Some(gguf)) if gguf.sha256 == *sha256 => {}
        (Source::Gguf { file, .. }, None) => {
            warn("weights-from-gguf", "a checkpoint of another origin", &format!("one made from {file}"));
        }
        (_, Some(gguf)) => {
            let got = format!("a checkpoint made from {}, sha256 {}", gguf.name, gguf.sha256);
            warn("weights-from-gguf", &got, "the checkpoint that the recipe names");
        }
        (_, None) => {
            let pin = |it: &FileRecord| recipe.pins()?.get(&it.name).copied();
            let other = record.files.iter().find(|it| pin(it).is_some_and(|pin| pin != it.sha256));
            if let Some(it) = other {
                let got = format!("{} of sha256 {}", it.name, it.sha256);
                warn("weights-pinned", &got, "the file that the recipe pins");
            }
        }
    }
}

/// What every record of an exported file says about the contract files that it was made from.
pub(super) struct Record<'a> {
    /// The record's own file.
    pub(super) name: &'static str,
    pub(super) model: &'a str,
    pub(super) file: &'a str,
    pub(super) bound: &'a Bound,
    pub(super) weights: WeightsKind,
    pub(super) source: &'a Source,
}

impl Record<'_> {
    pub(super) fn rules(
        &self,
        recipe: &Recipe,
        policy: &Policy,
        file: &str,
        now: &Bound,
        ledger: &mut Ledger,
    ) {
        let Self { name, bound, .. } = self;
        if let Err(error) = policy.admits(recipe) {
            ledger.fail("policy", "recipe.toml", error.to_string(), "a recipe within policy.toml");
        }
        ledger.rule("model-name", name, self.model, &recipe.name);
        ledger.rule("file-name", name, self.file, file);
        ledger.rule("recipe-digest", name, bound.recipe, now.recipe);
        ledger.rule("policy-digest", name, bound.policy, now.policy);
        ledger.rule("tokenizer-digest", name, text(bound.tokenizer), text(now.tokenizer));
        ledger.rule("template-digest", name, text(bound.chat_template), text(now.chat_template));
        let random_source = matches!(self.source, Source::Random { .. });
        ledger.rule("weights-kind", name, self.weights == WeightsKind::Random, random_source);
    }
}

/// Rules that depend on what the build is for.
pub(super) fn of_profile(claim: &Claim, sha256: Option<Digest>, profile: Profile, ledger: &mut Ledger) {
    let Claim { recipe, policy, manifest, .. } = claim;
    if profile == Profile::Release && manifest.weights == WeightsKind::Random {
        ledger.fail("weights", "manifest.json", "random weights", "a checkpoint, in a release build");
    }
    let demanded = policy.demands(recipe, profile);
    let Some(evidence) = &manifest.evidence else {
        for kind in demanded {
            ledger.fail(&format!("evidence-{}", kind.as_str()), "manifest.json", "none", kind.as_str());
        }
        return;
    };
    let current = sha256.map(|pte| EvidenceBinding::current(pte, claim.bound()));
    let fresh = current.as_ref() == Some(&evidence.bound);
    if !fresh && !demanded.is_empty() {
        let got = void_because(evidence, current);
        ledger.fail("evidence-binding", "manifest.json", got, "evidence of these files");
    }
    // Evidence that was measured and failed is never passed over, even where the profile does not demand it. Random
    // weights have no behaviour to judge.
    let judged = fresh && manifest.weights == WeightsKind::Checkpoint;
    let measured = EvidenceKind::ALL.into_iter().filter(|kind| judged && evidence.has(*kind));
    let mut kinds: Vec<_> = demanded.into_iter().chain(measured).collect();
    kinds.sort_unstable();
    kinds.dedup();
    for kind in kinds {
        judge::evidence(kind, evidence, claim, ledger);
    }
}

/// Names what the evidence was measured on that is no longer so.
fn void_because(evidence: &Evidence, current: Option<EvidenceBinding>) -> String {
    let Some(now) = current else { return "a file that was not hashed".into() };
    let then = &evidence.bound;
    let changed: Vec<_> = [
        ("the .pte", then.pte != now.pte),
        ("the recipe", then.bound.recipe != now.bound.recipe),
        ("the policy", then.bound.policy != now.bound.policy),
        ("the tokenizer", then.bound.tokenizer != now.bound.tokenizer),
        ("the chat template", then.bound.chat_template != now.bound.chat_template),
        ("the runtime", then.runtime != now.runtime),
        ("the check suite", then.suite != now.suite),
        ("the items of the EQ test", then.items != now.items),
        ("the engine's operators", then.kernels != now.kernels),
    ]
    .into_iter()
    .filter_map(|(what, changed)| changed.then_some(what))
    .collect();
    format!("evidence void: {} changed since", changed.join(", "))
}

/// The command that fixes the most basic failure.
pub(super) fn hint(claim: &Claim, profile: Profile, findings: &[Finding]) -> String {
    let name = &claim.recipe.name;
    let failed =
        |prefix: &str| findings.iter().any(|f| f.severity == Severity::Reject && f.id.starts_with(prefix));
    if failed("policy") && !failed("policy-digest") {
        format!("make {name}/recipe.toml as strict as policy.toml, then run: cargo xtask export {name}")
    } else if profile == Profile::Release && failed("weights") && !failed("weights-kind") {
        format!("random weights are for rehearsal; run: cargo xtask export {name}")
    } else if findings.iter().any(|f| f.severity == Severity::Reject && !f.id.starts_with("evidence")) {
        format!("run: cargo xtask export {name} --force")
    } else if profile == Profile::Release {
        format!("run: cargo xtask verify {name} --level release")
    } else {
        format!("run: cargo xtask verify {name}")
    }
}

pub(super) fn text(digest: Option<Digest>) -> String {
    digest.map_or_else(|| "none".to_owned(), |digest| digest.to_string())
}
