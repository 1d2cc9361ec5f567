//! `cargo xtask verify`: proves a published model, or any `.pte`, again from its bytes, and gathers the evidence that a
//! build demands.
//!
//! **Invariant:** a file runs only after its static proof, and a figure is recorded only after it was judged: a failed
//! measurement never replaces a good one, it is kept beside it. The manifest is replaced once, at the end, atomically.

use anyhow::Context as _;
use camino::Utf8PathBuf;
use clap::ValueEnum;
use model_assets::{
    check::Profile,
    claim::Claim,
    dir::ModelDir,
    manifest::{Evidence, EvidenceBinding, Manifest},
    pte,
    recipe::{EvidenceKind, Recipe},
    regular,
};

use crate::{
    console::Console,
    engine::Files,
    evidence::{Bench, Checkpoint, Measured},
    exit::{Exit, Failure, Outcome, refused, usage},
    lock,
    published::{Proof, Published, failed},
    refused::{self, Refused},
    workspace::Workspace,
};

/// How much is proved of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Level {
    /// What the bytes say, and what was recorded: nothing is run
    Static,
    /// Load and parity, and what the recipe demands of a dev build
    Dev,
    /// Everything that a release build demands
    Release,
}

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A model's name, or the path of a `.pte` file
    #[arg(default_value = "tiny")]
    model: Utf8PathBuf,
    /// Of a model: how much to prove [default: dev]
    ///
    /// Evidence that is missing or void is measured and recorded.
    #[arg(long, value_enum)]
    level: Option<Level>,
    /// Of a model: measure nothing, check the recorded evidence
    #[arg(long)]
    check: bool,
    /// Of a model: use its rehearsal
    #[arg(long)]
    rehearsed: bool,
    /// Of a model: the checkpoint that was exported
    ///
    /// Needed where the recipe names none: EQ and quality compare with it.
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<Utf8PathBuf>,
    /// Of a `.pte` file: do not read the weights
    #[arg(long)]
    structure: bool,
    /// Of a `.pte` file: print the report as JSON
    #[arg(long)]
    json: bool,
    /// Of a `.pte` file: also write the report as SARIF 2.1.0
    #[arg(long, value_name = "FILE")]
    sarif: Option<Utf8PathBuf>,
}

impl Args {
    /// Ends the process over a flag that has no meaning here: it is not ignored.
    fn demand_flags_of(&self, is_file: bool) {
        let (kind, other) = if is_file { ("file", "model") } else { ("model", "`.pte` file") };
        let of_a_model = [
            ("--level", self.level.is_some()),
            ("--check", self.check),
            ("--rehearsed", self.rehearsed),
            ("--checkpoint", self.checkpoint.is_some()),
        ];
        let of_a_file =
            [("--structure", self.structure), ("--json", self.json), ("--sarif", self.sarif.is_some())];
        let foreign = if is_file { &of_a_model[..] } else { &of_a_file[..] };
        if let Some((flag, _)) = foreign.iter().find(|(_, given)| *given) {
            usage(&format!("{flag} is about a {other}; {} is a {kind}", self.model));
        }
    }
}

impl Level {
    fn profile(self) -> Profile {
        if self == Self::Release { Profile::Release } else { Profile::Dev }
    }
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Outcome {
    let is_file = args.model.extension() == Some("pte");
    args.demand_flags_of(is_file);
    if is_file {
        return file(args);
    }
    let model = Published::open(workspace, args.model.as_str(), args.rehearsed)?;
    let (proof, level) = (model.prove()?, args.level.unwrap_or(Level::Dev));
    if args.check || level == Level::Static {
        model.reference()?;
        return show_proof(&model.claim, &proof, level);
    }
    let claim = renewed(workspace, &model, &proof, level, &Checkpoint(args.checkpoint.clone()))?;
    show_proof(&claim, &proof, level)
}

/// Measures what a release demands, unless all of it stands.
///
/// An export on another processor may write other bytes, whose evidence is not that of the committed manifest.
pub(crate) fn ensure_release(workspace: &Workspace, model: &str) -> Outcome {
    let model = Published::open(workspace, model, false)?;
    let proof = model.prove()?;
    if proof.judge(&model.claim, Profile::Release).is_ok() {
        return Ok(());
    }
    let claim = renewed(workspace, &model, &proof, Level::Release, &Checkpoint::default())?;
    show_proof(&claim, &proof, Level::Release)
}

/// Judges what stands now, and says so.
fn show_proof(claim: &Claim, proof: &Proof, level: Level) -> Outcome {
    let proved = proof.judge(claim, level.profile())?;
    proved.warnings().iter().for_each(|warning| eprintln!("warning: {warning}"));
    let stands = claim.manifest.evidence.iter().flat_map(Evidence::kinds).map(EvidenceKind::as_str);
    let stands: Vec<_> = stands.collect();
    println!(
        "{}: proved for {}: sha256 {}; evidence: {}",
        claim.manifest.file,
        level.profile().as_str(),
        proved.sha256(),
        if stands.is_empty() { "none".to_owned() } else { stands.join(", ") }
    );
    Ok(())
}

/// What the level asks to be measured.
fn kinds(recipe: &Recipe, claim: &Claim, level: Level) -> Vec<EvidenceKind> {
    let mut kinds = claim.policy.demands(recipe, level.profile());
    kinds.extend([EvidenceKind::Load, EvidenceKind::Parity]);
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

/// Measures in the engine. Load and parity always: the model is proved again, here. The other kinds take minutes; where
/// they stand they are left. What was void or missing is recorded.
fn renewed(
    workspace: &Workspace,
    model: &Published,
    proof: &Proof,
    level: Level,
    checkpoint: &Checkpoint,
) -> Result<Claim, Failure> {
    let Published { dir, claim, .. } = model;
    let bound = EvidenceBinding::current(claim.manifest.sha256, claim.bound());
    let old = claim.manifest.evidence.clone().filter(|old| old.bound == bound);
    // Nothing is run that was not proved first; evidence that failed is measured again.
    let mut bare = claim.clone();
    bare.manifest.evidence = None;
    proof.judge(&bare, Profile::Dev)?;
    let reference = model.reference()?;
    let old = old.filter(|_| proof.judge(claim, Profile::Dev).is_ok());
    let stands = |kind: &EvidenceKind| old.as_ref().is_some_and(|old| old.has(*kind));
    let quick = [EvidenceKind::Load, EvidenceKind::Parity];
    let mut wanted = kinds(&claim.recipe, claim, level);
    wanted.retain(|kind| quick.contains(kind) || !stands(kind));
    let console = Console::new(false);
    let files = Files::of(dir, claim, proof.path().to_owned());
    let bench = Bench { workspace, dir, claim, files, console: &console };
    let measured = bench.measure(&wanted, &reference, checkpoint);
    console.done();
    let Measured { evidence, transcript } = measured.map_err(|error| failed(dir, error))?;
    show(&evidence, claim);
    proof.ensure_unchanged()?;
    // What was measured now is judged first, even where the recorded evidence stays.
    let mut fresh = claim.clone();
    fresh.manifest.evidence = Some(match old.clone() {
        Some(old) => evidence.clone().or(old),
        None => evidence.clone(),
    });
    let proved = proof.proved().judge(&fresh, level.profile()).map_err(|refusal| {
        keep_refused(workspace, dir, claim, || {
            Refused::new(claim, &evidence, transcript.as_deref(), level.profile(), &refusal)
        });
        refused(refusal)
    })?;
    let complete = wanted.iter().all(stands);
    if complete {
        refused::forget(dir, &fresh)?;
        return Ok(claim.clone());
    }
    let evidence = match old {
        Some(old) => old.or(evidence),
        None => evidence,
    };
    fresh.manifest.evidence = Some(evidence);
    fresh.manifest.checks = proved.checks().to_vec();
    // Measuring takes minutes, in which another command may have published another model.
    let _lock = lock::model_when_free(workspace, dir.name())?;
    still_published(dir, &claim.manifest)?;
    crate::export::write_manifest(dir, &fresh.manifest, transcript.as_deref())?;
    refused::forget(dir, &fresh)?;
    println!("{}: evidence recorded", dir.manifest_path());
    Ok(fresh)
}

/// Keeps what was measured in minutes beside the manifest that it does not get into. That it cannot be kept is told, and does not
/// hide the refusal.
fn keep_refused(
    workspace: &Workspace,
    dir: &ModelDir,
    claim: &Claim,
    measured: impl FnOnce() -> anyhow::Result<Refused>,
) {
    let kept = || {
        let _lock = lock::model_when_free(workspace, dir.name()).map_err(Failure::into_error)?;
        still_published(dir, &claim.manifest).map_err(Failure::into_error)?;
        measured()?.keep(dir, claim)
    };
    match kept() {
        Ok(path) => eprintln!("{path}: what was measured, refused; see: cargo xtask report {}", dir.name()),
        Err(error) => eprintln!("warning: what was measured and refused could not be kept: {error:#}"),
    }
}

/// Evidence of one model is never recorded over another.
fn still_published(dir: &ModelDir, measured: &Manifest) -> Outcome {
    if dir.manifest().map_err(refused)?.as_ref() == Some(measured) {
        return Ok(());
    }
    let error = anyhow::anyhow!("{}: got another manifest than was measured", dir.manifest_path());
    let hint = format!("nothing was recorded; run: cargo xtask verify {}", dir.name());
    Err(Failure::new(Exit::Refused, error, hint))
}

/// Prints what was measured of this claim's file.
pub(crate) fn show(evidence: &Evidence, claim: &Claim) {
    for (_, measured) in evidence.measured() {
        measured.lines(&claim.asked()).iter().for_each(|line| println!("{line}"));
    }
}

/// A file without a claim: only the format itself is demanded.
fn file(args: &Args) -> Outcome {
    let pte = regular::open(&args.model).with_context(|| format!("{}: cannot be opened", args.model))?;
    let level = if args.structure { pte::Level::Structure } else { pte::Level::Hash };
    let expect = pte::Expect { kernels: Some(pte::linked_runtime().clone()), ..pte::Expect::default() };
    let report = pte::verify(&pte, level, &expect);
    if let Some(path) = &args.sarif {
        crate::sarif::write(path, &args.model, &report)?;
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        report.findings.iter().for_each(|finding| println!("{:?} {finding}", finding.severity));
    }
    if report.is_accepted() {
        return Ok(());
    }
    let error = anyhow::anyhow!(
        "{}: got {} findings that reject, expected none",
        args.model,
        report.rejects().count()
    );
    Err(Failure::new(Exit::Refused, error, "export it again: cargo xtask export"))
}

#[cfg(test)]
mod tests {
    use camino::Utf8Path;

    use super::*;

    #[test]
    fn evidence_is_not_recorded_over_what_was_published_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let dir = ModelDir::new(Utf8Path::from_path(folder.path()).unwrap(), "tiny");
        let bytes = include_bytes!("../../model-assets/models/tiny/manifest.json");
        let measured = Manifest::parse(bytes).unwrap();
        std::fs::create_dir(dir.path()).unwrap();
        std::fs::write(dir.manifest_path(), bytes).unwrap();
        still_published(&dir, &measured).unwrap();
        let other = Manifest { published: "2027-01-01T00:00:00Z".to_owned(), ..measured.clone() };
        std::fs::write(dir.manifest_path(), other.to_bytes()).unwrap();
        let failure = still_published(&dir, &measured).unwrap_err();
        assert!(failure.hint.unwrap().contains("nothing was recorded"));
        std::fs::remove_file(dir.manifest_path()).unwrap();
        assert!(still_published(&dir, &measured).is_err());
    }
}
