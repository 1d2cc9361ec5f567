//! `cargo xtask verify`: proves a published model, or any `.pte`, again from its bytes.

use std::fs::File;

use anyhow::Context as _;
use camino::Utf8PathBuf;
use model_assets::{
    check::{self, Profile, Validated},
    claim::Claim,
    digest::Digest,
    dir::{GateError, ModelDir},
    evidence::Parity,
    manifest::Evidence,
    pte,
};

use crate::{EXIT_REFUSED, Failure, Outcome, engine, workspace::Workspace};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A model's name, or the path of a `.pte` file
    #[arg(default_value = "tiny")]
    model: Utf8PathBuf,
    /// Demand what a release build demands
    #[arg(long)]
    release: bool,
    /// Only look at the bytes: do not load and run the model in the engine
    #[arg(long = "static")]
    only_static: bool,
    /// Look at the rehearsal of the model instead
    #[arg(long)]
    rehearsed: bool,
    /// Print the report as JSON (for a `.pte` file)
    #[arg(long)]
    json: bool,
    /// Also write the report as SARIF 2.1.0, for code scanning (for a `.pte` file)
    #[arg(long, value_name = "FILE")]
    sarif: Option<Utf8PathBuf>,
    /// Only look at the structure: leave weights unread (for a `.pte` file)
    #[arg(long)]
    structure: bool,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Outcome {
    if args.model.extension() == Some("pte") {
        return file(args);
    }
    let models = if args.rehearsed { workspace.rehearsals() } else { workspace.models() };
    let dir = ModelDir::new(models, args.model.as_str());
    let profile = if args.release { Profile::Release } else { Profile::Dev };
    let (claim, _) = dir.claim().map_err(refused)?;
    let claim = if args.only_static { claim } else { renewed(workspace, &dir, claim)? };
    let proved = judge(&dir, &claim, profile)?;
    proved.warnings().iter().for_each(|warning| eprintln!("warning: {warning}"));
    println!("{}: proved for {}: sha256 {}", claim.manifest.file, profile.as_str(), proved.sha256());
    Ok(())
}

/// Runs every static check over the published file.
fn judge(dir: &ModelDir, claim: &Claim, profile: Profile) -> Result<Validated<File>, Failure> {
    let (_, pte) = dir.open_pte(&claim.manifest).map_err(refused)?;
    check::validate(pte, claim, profile).map_err(|refusal| refused(refusal.into()))
}

/// Loads and runs the model in the engine; evidence that was void or missing is replaced, evidence that stands stays.
fn renewed(workspace: &Workspace, dir: &ModelDir, claim: Claim) -> Result<Claim, Failure> {
    // Nothing is run that was not proved first.
    judge(dir, &claim, Profile::Dev)?;
    let reference = reference(dir, &claim)?;
    let (path, _) = dir.open_pte(&claim.manifest).map_err(refused)?;
    let evidence = engine::measure(workspace, &claim, &path, &reference).map_err(|error| {
        Failure::new(EXIT_REFUSED, error, format!("run: cargo xtask export {} --force", dir.name()))
    })?;
    show(&evidence);
    let stands = claim.manifest.evidence.as_ref().is_some_and(|old| old.bound == evidence.bound);
    let mut measured = claim.clone();
    measured.manifest.evidence = Some(evidence);
    // Judged before it is written: a failed measurement must not replace a good one.
    judge(dir, &measured, Profile::Dev)?;
    if stands {
        return Ok(claim);
    }
    crate::export::write_manifest(dir, &measured.manifest)?;
    println!("{}: evidence renewed", dir.manifest_path());
    Ok(measured)
}

/// The eager model's logits that the manifest names, digest checked.
pub(crate) fn reference(dir: &ModelDir, claim: &Claim) -> Result<Utf8PathBuf, Failure> {
    let record = &claim.manifest.reference;
    let path = dir.resolve(&record.name, record.sha256);
    let hint = format!("run: cargo xtask export {} --force", dir.name());
    let mut file = File::open(&path)
        .with_context(|| format!("{path}: cannot be opened, expected the reference logits"))
        .map_err(|error| Failure::new(EXIT_REFUSED, error, hint.clone()))?;
    let got = Digest::of_reader(&mut file)?;
    if got == record.sha256 {
        return Ok(path);
    }
    let error = anyhow::anyhow!("{path}: got sha256 {got}, expected {}", record.sha256);
    Err(Failure::new(EXIT_REFUSED, error, hint))
}

fn show(evidence: &Evidence) {
    if let Some(load) = &evidence.load {
        let (load_ms, first) = (load.load_ms, load.first_prefill_ms);
        println!(
            "load {load_ms:.0} ms, first prefill {first:.0} ms, peak {} MB",
            load.peak_rss_bytes / 1_000_000
        );
    }
    for (name, run) in evidence.parity.iter().flat_map(Parity::runs) {
        println!(
            "parity, {name}: {} rows, max |d| {:.3e}, KL {:.3e}, top-1 {:.4}",
            run.rows, run.max_abs_diff, run.mean_kl, run.top1_agreement
        );
    }
}

pub(crate) fn refused(error: GateError) -> Failure {
    let hint = error.hint().to_owned();
    Failure::new(EXIT_REFUSED, error, hint)
}

/// A file without a claim: only the format itself is demanded.
fn file(args: &Args) -> Outcome {
    let pte = File::open(&args.model).with_context(|| format!("{}: cannot be opened", args.model))?;
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
    Err(Failure::new(EXIT_REFUSED, error, "export it again: cargo xtask export"))
}
