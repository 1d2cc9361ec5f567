//! One export: the worker's request and answer, the proof of what it wrote, and its manifest.

use std::fs;

use anyhow::{Context as _, bail, ensure};
use camino::Utf8Path;
use model_assets::{
    check::{Expectation, Profile},
    claim::{self, Claim},
    digest::Digest,
    dir::ModelDir,
    manifest::{
        ExportRecord, FileRecord, LOG_FILE, MANIFEST_SCHEMA, Manifest, SourceRecord, Stage, Structure,
        Toolchain, WeightsKind,
    },
    pte,
    recipe::Source,
};
use serde::Deserialize;

use crate::{
    checkpoint::weights,
    child::{self, cmd},
    console::Console,
    engine,
    evidence::Bench,
    exit::Failure,
    failed,
    published::{Proof, now},
    refused,
    setup::{self, Receipt},
    supervise::{self, WorkerRun},
    weights::Origin,
    workspace::Workspace,
};

use super::{
    inputs::{Inputs, Words, worker_digest},
    plan::{ExportPlan, WorkerPlan},
    publish::{WORK_PTE, WORK_REFERENCE, publish},
};

/// What the worker answers; keys that this side does not use are ignored.
#[derive(Deserialize)]
struct Response {
    #[serde(default)]
    stages: Vec<Stage>,
    source_files: Option<Vec<FileRecord>>,
    weights: Option<Weights>,
    linears: Option<Linears>,
    versions: Option<Versions>,
}

#[derive(Deserialize)]
struct Weights {
    parameters: u64,
}

#[derive(Deserialize)]
struct Linears {
    quantized: u32,
}

#[derive(Deserialize)]
struct Versions {
    python: String,
    torch: String,
    torchao: String,
    executorch: String,
    safetensors: String,
}

/// A planned export that is run.
pub(super) struct Job<'a> {
    pub(super) workspace: &'a Workspace,
    pub(super) console: &'a Console,
    pub(super) plan: &'a ExportPlan,
    pub(super) worker: &'a WorkerPlan,
}

/// How the folder begins that a worker makes for itself (`_answer` in `worker.py`).
const WORKER_PREFIX: &str = "worker_";

/// Removes what a killed worker left: up to twice the model. One that ends by itself leaves nothing.
fn sweep(work: &Utf8Path) -> anyhow::Result<()> {
    for entry in work.read_dir_utf8().with_context(|| work.to_string())? {
        let path = entry?.into_path();
        if path.file_name().is_some_and(|name| name.starts_with(WORKER_PREFIX)) {
            fs::remove_dir_all(&path).with_context(|| path.to_string())?;
        }
    }
    Ok(())
}

impl Job<'_> {
    /// Runs the worker once, proves what it wrote and publishes it.
    pub(super) fn attempt(&self, attempt: u32, receipt: &Receipt) -> anyhow::Result<Manifest> {
        fs::create_dir_all(&self.plan.work)?;
        // Of an export that was killed together with its worker.
        sweep(&self.plan.work)?;
        if matches!(self.plan.source, Source::Random { .. }) {
            stage_rehearsal(self.workspace, &self.plan.dir)?;
        }
        if let Some(Inputs { words, .. }) = &self.plan.read {
            words.write(&self.plan.work)?;
        }
        let request = self.plan.work.join("request.json");
        let response = self.plan.work.join("response.json");
        if response.exists() {
            fs::remove_file(&response)?;
        }
        fs::write(&request, serde_json::to_vec_pretty(&self.worker.request)?)?;
        let script = self.workspace.python_sources().join("proofmark_worker/run.py");
        let log = self.plan.work.join(LOG_FILE);
        let run = supervise::run(
            &self.workspace.python(),
            &script,
            &request,
            &log,
            &self.worker.bounds,
            self.console,
        );
        sweep(&self.plan.work)?;
        let run = run?;
        let response = failed::answer(&response, &run)?;
        self.publish(&run, response, attempt, receipt)
    }

    /// Proves the worker's file in Rust and publishes it.
    fn publish(
        &self,
        run: &WorkerRun,
        response: Response,
        attempt: u32,
        receipt: &Receipt,
    ) -> anyhow::Result<Manifest> {
        let path = self.plan.work.join(WORK_PTE);
        let pte = fs::File::open(&path).with_context(|| format!("{path}: the worker wrote no model"))?;
        let proof = Proof::of(path, pte, &Expectation::made_by(&self.plan.recipe))?;
        let (path, report) = (proof.path(), proof.proved().report());
        if let Some(finding) = report.rejects().next() {
            bail!("{path}: {} findings reject the file, the first: {finding}", report.rejects().count());
        }
        let (Some(summary), Some(sha256)) = (&report.summary, proof.proved().sha256()) else {
            bail!("{path}: cannot be read to its end");
        };
        let mut claim = self.claim(run, response, attempt, receipt, summary, sha256)?;
        let validated = proof.proved().judge(&claim, Profile::Dev);
        let validated = validated.map_err(|refusal| refused::of_export(&self.plan.work, &claim, refusal))?;
        // It was run in between.
        proof.ensure_unchanged().map_err(Failure::into_error)?;
        claim.manifest.checks = validated.checks().to_vec();
        let manifest = kept(self.plan.dir.manifest().ok().flatten(), claim.manifest);
        publish(&self.plan.dir, &validated, &manifest, &self.plan.work)?;
        Ok(manifest)
    }

    /// The whole list, if the weights that the worker read are those in it.
    fn files(&self, worked: &[FileRecord]) -> anyhow::Result<Vec<FileRecord>> {
        let Some(Inputs { files, .. }) = &self.plan.read else { return Ok(Vec::new()) };
        let expected: Vec<_> = weights(files).collect();
        ensure!(
            expected.iter().copied().eq(worked),
            "the checkpoint changed while it was exported: got {worked:?}, expected {expected:?}"
        );
        Ok(files.clone())
    }

    fn claim(
        &self,
        run: &WorkerRun,
        response: Response,
        attempt: u32,
        receipt: &Receipt,
        summary: &pte::Summary,
        sha256: Digest,
    ) -> anyhow::Result<Claim> {
        let versions = response.versions.context("the worker named no versions")?;
        let random = self.plan.read.is_none();
        let words = self.plan.read.as_ref().map(|read| read.words.clone());
        let (tokenizer, chat_template) = words.map(|words| (words.tokenizer, words.chat_template)).unzip();
        let reference = self.plan.work.join(WORK_REFERENCE);
        let mut manifest = Manifest {
            schema: MANIFEST_SCHEMA,
            model: self.plan.recipe.name.clone(),
            file: self.plan.recipe.file_name(),
            file_bytes: summary.file_bytes,
            sha256,
            weights: if random { WeightsKind::Random } else { WeightsKind::Checkpoint },
            source: source_record(
                &self.plan.source,
                self.plan.checkpoint.as_deref(),
                self.files(&response.source_files.context("the worker named no source files")?)?,
            )?,
            bound: claim::bound(
                &self.plan.recipe,
                &self.plan.policy,
                tokenizer.as_deref(),
                chat_template.as_deref(),
            ),
            toolchain: Toolchain {
                python: versions.python,
                torch: versions.torch,
                torchao: versions.torchao,
                executorch: versions.executorch,
                safetensors: versions.safetensors,
                lock: setup::lock_digest(),
                worker: worker_digest(self.workspace)?,
                torch_index: receipt.torch_index.clone(),
                xtask_revision: revision(self.workspace),
            },
            export: ExportRecord {
                inputs: self.worker.inputs,
                quantization: self.plan.recipe.export.quantization,
                seq_len: self.plan.recipe.export.seq_len,
                backend: self.plan.recipe.export.backend,
                parameters: response.weights.context("the worker counted no weights")?.parameters,
                linears: response.linears.context("the worker counted no linears")?.quantized,
                attempt,
                stages: response.stages,
                peak_rss_bytes: run.peaks.rss_bytes,
                peak_anon_bytes: Some(run.peaks.anon_bytes),
            },
            structure: Structure::of(summary),
            reference: FileRecord {
                name: self.plan.recipe.file_name().replace(".pte", ".reference"),
                bytes: fs::metadata(&reference)?.len(),
                sha256: Digest::of_reader(&mut fs::File::open(&reference)?)?,
            },
            checks: Vec::new(),
            evidence: None,
            prd_compliant: false,
            prd_reasons: Vec::new(),
            published: now(),
        };
        manifest.record_prd(&self.plan.policy);
        let mut claim = Claim {
            recipe: self.plan.recipe.clone(),
            policy: self.plan.policy.clone(),
            manifest,
            tokenizer,
            chat_template,
        };
        let mut files = engine::Files::of(&self.plan.dir, &claim, self.plan.work.join(WORK_PTE));
        files.words = self.plan.read.as_ref().map(|_| Words::places(&self.plan.work));
        let bench = Bench {
            workspace: self.workspace,
            dir: &self.plan.dir,
            claim: &claim,
            files,
            console: self.console,
        };
        let (evidence, stage) = bench.load_and_parity(&reference)?;
        claim.manifest.evidence = Some(evidence);
        claim.manifest.export.stages.push(stage);
        Ok(claim)
    }
}

/// Where the weights came from, with the GGUF that their folder was made from.
pub(super) fn source_record(
    source: &Source,
    checkpoint: Option<&Utf8Path>,
    files: Vec<FileRecord>,
) -> anyhow::Result<SourceRecord> {
    let origin = checkpoint.map(Origin::of).transpose()?.flatten();
    if let Some(origin) = &origin {
        origin.covers(&files)?;
    }
    Ok(SourceRecord { source: source.clone(), files, gguf: origin.map(|origin| origin.gguf) })
}

/// A reproduced model keeps its reviewed manifest: figures that vary from run to run are no reason to change it. A rehearsal is
/// run for its figures, and is not reviewed.
fn kept(old: Option<Manifest>, new: Manifest) -> Manifest {
    match old {
        Some(old) if new.weights == WeightsKind::Checkpoint && old.covers(&new) => old,
        _ => new,
    }
}

/// A rehearsal has a models directory of its own: it can never replace a model of real weights, nor be committed.
pub(super) fn stage_rehearsal(workspace: &Workspace, dir: &ModelDir) -> anyhow::Result<()> {
    let real = ModelDir::new(workspace.models(), dir.name());
    fs::create_dir_all(dir.path())?;
    fs::copy(real.recipe_path(), dir.recipe_path())?;
    fs::copy(real.policy_path(), dir.policy_path())?;
    Ok(())
}

pub(super) fn revision(workspace: &Workspace) -> Option<String> {
    let shell = child::shell(workspace.root()).ok()?;
    // A tree without a history of its own may lie in another repository, whose commits say nothing about it.
    let top = cmd!(shell, "git rev-parse --show-toplevel").quiet().ignore_stderr().read().ok()?;
    let own = Utf8Path::new(&top).canonicalize_utf8().ok() == workspace.root().canonicalize_utf8().ok();
    let head = cmd!(shell, "git rev-parse HEAD").quiet().ignore_stderr().read().ok().filter(|_| own)?;
    let changes = cmd!(shell, "git status --porcelain").quiet().ignore_stderr().read().ok()?;
    Some(if changes.is_empty() { head } else { format!("{head}-dirty") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rehearsals_figures_are_of_its_last_run_and_a_models_of_its_review() {
        let old = Manifest::parse(include_bytes!("../../../model-assets/models/tiny/manifest.json")).unwrap();
        let mut new = old.clone();
        new.export.peak_rss_bytes += 1;
        assert_eq!(kept(Some(old.clone()), new.clone()), old);
        assert_eq!(kept(None, new.clone()), new);
        let random = |manifest: &Manifest| Manifest { weights: WeightsKind::Random, ..manifest.clone() };
        assert!(random(&old).covers(&random(&new)));
        assert_eq!(kept(Some(random(&old)), random(&new)), random(&new));
    }
}
