//! The one door: [`validate`], and [`validate_reserve`] for a GGUF, are the only ways to make a [`Validated`], and only a [`Validated`] is published,
//! embedded, linked or loaded.
//!
//! **Invariant:** the bytes that were checked are the bytes that come out: a [`Validated`] owns the buffer or
//! the open file that was read, and nothing here opens a path.
//!
//! **Invariant:** no check is skipped because a record says that it passed. Figures in the evidence are judged
//! here again, against the recipe.
//!
//! Deliberately absent: a constructor, a `Default`, an environment variable, or a feature that yields a
//! [`Validated`] by any other way.

#[cfg(feature = "signature")]
mod authentic;
mod judge;
mod recorded;
mod reserve;

use std::fmt;

use crate::{
    claim::{Claim, prompts, token_rows},
    digest::Digest,
    manifest::{
        Bound, Check, Evidence, EvidenceBinding, RUNTIME_VERSION, SourceRecord, Structure, WeightsKind,
    },
    policy::Policy,
    pte::{self, ReadAt},
    recipe::{Delivery, EvidenceKind, Recipe, Source},
    tokenizer::{self, Facts},
};

pub use self::reserve::validate_reserve;
pub use crate::pte::Severity;
#[cfg(feature = "signature")]
pub use authentic::{Authentic, refusal as signature_refusal, signed_by};

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

/// One thing that is wrong (or odd) with a model or with what is claimed about it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// The check: an id of the `.pte` specification such as `C7`, or the name of a gate rule.
    pub id: String,
    /// Whether it rejects.
    pub severity: Severity,
    /// Where: `plan forward / value 12`, or the contract file.
    pub location: String,
    /// What was found.
    pub got: String,
    /// What was expected.
    pub expected: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: got {}, expected {}", self.id, self.location, self.got, self.expected)
    }
}

/// A model that was refused, with every reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Model name.
    pub model: String,
    /// Every finding, warnings included; at least one rejects.
    pub findings: Vec<Finding>,
    /// Every check that was made, passed or not; none where a single demand was not met.
    pub checks: Vec<Check>,
    /// The command that fixes it.
    pub hint: String,
}

impl Refusal {
    /// The findings that reject.
    pub fn reasons(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.severity == Severity::Reject)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "model `{}` is not proved", self.model)?;
        // A file of garbage fails in a hundred places; the first few tell the story.
        const SHOWN_MAX: usize = 8;
        self.reasons().take(SHOWN_MAX).try_for_each(|finding| write!(f, "\n  {finding}"))?;
        match self.reasons().count().saturating_sub(SHOWN_MAX) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}

impl std::error::Error for Refusal {}

/// A model whose bytes were checked against its claim. See the module's invariants.
#[derive(Debug)]
pub struct Validated<S, T = pte::Summary> {
    source: S,
    sha256: Digest,
    file_bytes: u64,
    delivery: Delivery,
    summary: T,
    warnings: Vec<Finding>,
    checks: Vec<Check>,
}

impl<S, T> Validated<S, T> {
    /// The very bytes or open file that were checked.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// Gives up the proof and returns the bytes.
    pub fn into_source(self) -> S {
        self.source
    }

    /// SHA-256 of the bytes.
    pub fn sha256(&self) -> Digest {
        self.sha256
    }

    /// Length of the bytes.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// [`Delivery::Embed`] or [`Delivery::Link`], `auto` resolved.
    pub fn delivery(&self) -> Delivery {
        self.delivery
    }

    /// What the bytes say.
    pub fn summary(&self) -> &T {
        &self.summary
    }

    /// Findings that do not reject.
    pub fn warnings(&self) -> &[Finding] {
        &self.warnings
    }

    /// Every check that was made, for the manifest.
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }
}

/// Runs every static check over `source` and judges the claim for `profile`.
///
/// Reads `source` once, from start to end, plus the program and the delegates' graphs again; what differs between the two
/// reads is refused.
///
/// # Errors
/// The refusal with every reason and the command that fixes it.
pub fn validate<S: ReadAt>(source: S, claim: &Claim, profile: Profile) -> Result<Validated<S>, Refusal> {
    let mut ledger = Ledger::default();
    claim_rules(claim, &mut ledger);
    recorded::rules(claim, &mut ledger);
    let file_bytes = source.len().unwrap_or_default();
    // A file of another length has another digest. It may be endless (a sparse file is), so it is not read for that.
    let same_length = file_bytes == claim.manifest.file_bytes;
    let level = if same_length { pte::Level::Hash } else { pte::Level::Structure };
    let report = pte::verify(&source, level, &claim.expect());
    for finding in &report.findings {
        let location = format!("{}: {}", finding.location, finding.message);
        ledger.push(finding.severity, finding.id.as_str(), &location, &finding.got, &finding.expected);
    }
    let rejected = report.rejects().count();
    ledger.passed_all("pte", rejected, "every check of the .pte specification");
    ledger.rule("file-size", "manifest.json", file_bytes, claim.manifest.file_bytes);
    let sha256 = report.sha256.map(Digest::from_bytes);
    if same_length {
        ledger.rule("sha256", "manifest.json", text(sha256), claim.manifest.sha256);
    }
    let structure = report.summary.as_ref().map(Structure::of);
    let same = structure.as_ref() == Some(&claim.manifest.structure);
    let got = if same { "the file's own" } else { "another structure than the file's" };
    ledger.judge("structure", "manifest.json", same, got, "the file's own");
    profile_rules(claim, sha256, profile, &mut ledger);

    match (ledger.rejects(), report.summary, sha256) {
        (false, Some(summary), Some(sha256)) => Ok(Validated {
            source,
            sha256,
            file_bytes,
            delivery: claim.delivery(file_bytes),
            summary,
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
fn claim_rules(claim: &Claim, ledger: &mut Ledger) {
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
    source_rules(&recipe.source, &manifest.source, ledger);
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
    template_rule(recipe, tokenizer, claim.chat_template.as_deref(), ledger);
    if claim.chat_template.is_none() && manifest.weights != WeightsKind::Random {
        ledger.fail("template", "chat template", "no file", "the model's chat template");
    }
    // The file format has no version of its exporter: skew between exporter and runtime shows nowhere else.
    ledger.rule("exporter-version", "manifest.json", &manifest.toolchain.executorch, RUNTIME_VERSION);
}

/// A template is a program: the app must be able to render a conversation with it.
fn template_rule(recipe: &Recipe, tokenizer: Option<&Facts>, template: Option<&str>, ledger: &mut Ledger) {
    let (Some(tokenizer), Some(template)) = (tokenizer, template) else { return };
    if let Err(error) = prompts(recipe, tokenizer, template) {
        ledger.fail("template-renders", &recipe.tokens.chat_template, error, "the reference conversation");
    }
}

/// A checkpoint from elsewhere may be exported, and whoever builds the app is told.
fn source_rules(recipe: &Source, record: &SourceRecord, ledger: &mut Ledger) {
    let mut warn = |id, got: &str, expected: &str| {
        ledger.push(Severity::Warn, id, "manifest.json", got, expected);
    };
    if let Some(gguf) = &record.gguf {
        let got = format!("a checkpoint made from {}, sha256 {}", gguf.name, gguf.sha256);
        warn("weights-from-gguf", &got, "the checkpoint that the recipe names");
    } else if let Source::Hub { files: pins, .. } = recipe {
        let other = record.files.iter().find(|it| pins.get(&it.name).is_some_and(|pin| *pin != it.sha256));
        if let Some(it) = other {
            let got = format!("{} of sha256 {}", it.name, it.sha256);
            warn("weights-pinned", &got, "the file that the recipe pins");
        }
    }
}

/// What every record of an exported file says about the contract files that it was made from.
struct Record<'a> {
    /// The record's own file.
    name: &'static str,
    model: &'a str,
    file: &'a str,
    bound: &'a Bound,
    weights: WeightsKind,
    source: &'a Source,
}

impl Record<'_> {
    fn rules(&self, recipe: &Recipe, policy: &Policy, file: &str, now: &Bound, ledger: &mut Ledger) {
        let Self { name, bound, .. } = self;
        if let Err(error) = recipe.within(policy) {
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
fn profile_rules(claim: &Claim, sha256: Option<Digest>, profile: Profile, ledger: &mut Ledger) {
    let Claim { recipe, policy, manifest, .. } = claim;
    if profile == Profile::Release && manifest.weights == WeightsKind::Random {
        ledger.fail("weights", "manifest.json", "random weights", "a checkpoint, in a release build");
    }
    let demanded = recipe.demands(profile, policy);
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
fn hint(claim: &Claim, profile: Profile, findings: &[Finding]) -> String {
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

fn text(digest: Option<Digest>) -> String {
    digest.map_or_else(|| "none".to_owned(), |digest| digest.to_string())
}

/// Collects findings and verdicts.
#[derive(Default)]
pub(crate) struct Ledger {
    findings: Vec<Finding>,
    checks: Vec<Check>,
}

impl Ledger {
    fn push(&mut self, severity: Severity, id: &str, location: &str, got: &str, expected: &str) {
        let [id, location, got, expected] = [id, location, got, expected].map(str::to_owned);
        self.findings.push(Finding { id, severity, location, got, expected });
    }

    pub(crate) fn judge(
        &mut self,
        id: &str,
        location: &str,
        holds: bool,
        got: impl ToString,
        expected: impl ToString,
    ) {
        let (got, expected) = (got.to_string(), expected.to_string());
        if !holds {
            self.push(Severity::Reject, id, location, &got, &expected);
        }
        self.checks.push(Check { id: id.to_owned(), passed: holds, got, expected });
    }

    fn rule(&mut self, id: &str, location: &str, got: impl ToString, expected: impl ToString) {
        let (got, expected) = (got.to_string(), expected.to_string());
        self.judge(id, location, got == expected, got, expected);
    }

    fn fail(&mut self, id: &str, location: &str, got: impl ToString, expected: impl ToString) {
        self.judge(id, location, false, got, expected);
    }

    /// Records one verdict over many findings that were pushed already.
    fn passed_all(&mut self, id: &str, rejected: usize, expected: &str) {
        let got = if rejected == 0 { "all passed".to_owned() } else { format!("{rejected} findings") };
        self.checks.push(Check {
            id: id.to_owned(),
            passed: rejected == 0,
            got,
            expected: expected.to_owned(),
        });
    }

    /// Where something was rejected.
    #[cfg(test)]
    pub(crate) fn refused(self) -> Vec<String> {
        self.findings.into_iter().map(|finding| finding.location).collect()
    }

    fn rejects(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Reject)
    }
}

#[cfg(test)]
mod tests;
