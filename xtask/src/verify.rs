//! `cargo xtask verify`: proves a published model, or any `.pte`, again from its bytes.

use anyhow::Context as _;
use camino::Utf8PathBuf;
use model_assets::{
    check::{self, Profile},
    dir::{GateError, ModelDir},
    pte,
};

use crate::{EXIT_REFUSED, Failure, Outcome, workspace::Workspace};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A model's name, or the path of a `.pte` file
    #[arg(default_value = "tiny")]
    model: Utf8PathBuf,
    /// Demand what a release build demands
    #[arg(long)]
    release: bool,
    /// Print the report as JSON (for a `.pte` file)
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Outcome {
    if args.model.extension() == Some("pte") {
        return file(args);
    }
    let dir = ModelDir::new(workspace.models(), args.model.as_str());
    let profile = if args.release { Profile::Release } else { Profile::Dev };
    let (claim, _) = dir.claim().map_err(refused)?;
    let (path, pte) = dir.open_pte(&claim.manifest).map_err(refused)?;
    let validated = check::validate(pte, &claim, profile).map_err(|refusal| refused(refusal.into()))?;
    for warning in validated.warnings() {
        eprintln!("warning: {warning}");
    }
    println!("{path}: proved for {}: sha256 {}", profile.as_str(), validated.sha256());
    Ok(())
}

pub(crate) fn refused(error: GateError) -> Failure {
    let hint = error.hint().to_owned();
    Failure::new(EXIT_REFUSED, error, hint)
}

/// A file without a claim: only the format itself is demanded.
fn file(args: &Args) -> Outcome {
    let pte =
        std::fs::File::open(&args.model).with_context(|| format!("{}: cannot be opened", args.model))?;
    let report = pte::verify(&pte, pte::Level::Hash, &pte::Expect::default());
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
