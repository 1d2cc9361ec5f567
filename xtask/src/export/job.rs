//! One export: the worker's request and answer, the proof of what it wrote, and its manifest.

use std::fs;

use anyhow::{Context as _, anyhow, bail, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{
    check::{Expectation, Profile},
    claim::{self, Claim},
    digest::Digest,
    dir::ModelDir,
    manifest::{
        ExportRecord, FileRecord, LOG_FILE, MANIFEST_SCHEMA, Manifest, SourceRecord, Stage, Structure,
        Toolchain, WeightsKind,
    },
    policy::Policy,
    pte,
    recipe::{Recipe, Source},
    tokenizer,
};
use serde::Deserialize;

use crate::{
    child::{self, cmd},
    console::Console,
    engine,
    evidence::Bench,
    exit::Failure,
    failed, protocol,
    published::{Proof, now},
    refused,
    setup::{self, Receipt},
    supervise::{self, Run},
    weights::Origin,
    workspace::Workspace,
};

use super::{
    Args,
    inputs::{Inputs, Words, weights, worker_digest},
    publish::{WORK_PTE, WORK_REFERENCE, publish},
};

const REFERENCE_PROMPT_TOKENS: u32 = 32;
const REFERENCE_DECODE_TOKENS: u32 = 8;

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

/// Everything that an export needs to know before it starts.
pub(super) struct Job<'a> {
    pub(super) workspace: &'a Workspace,
    pub(super) dir: ModelDir,
    pub(super) recipe: Recipe,
    pub(super) policy: Policy,
    pub(super) source: Source,
    /// Where the weights are read from; `None` for random ones.
    pub(super) checkpoint: Option<Utf8PathBuf>,
    /// What was read of it; `None` for random weights.
    pub(super) read: Option<Inputs>,
    pub(super) inputs: Digest,
    pub(super) work: Utf8PathBuf,
    pub(super) console: Console,
}

impl Job<'_> {
    /// Runs the worker once, proves what it wrote and publishes it.
    pub(super) fn attempt(&self, args: &Args, attempt: u32, receipt: &Receipt) -> anyhow::Result<Manifest> {
        fs::create_dir_all(&self.work)?;
        if matches!(self.source, Source::Random { .. }) {
            stage_rehearsal(self.workspace, &self.dir)?;
        }
        if let Some(Inputs { words, .. }) = &self.read {
            words.write(&self.work)?;
        }
        let request = self.work.join("request.json");
        let response = self.work.join("response.json");
        if response.exists() {
            fs::remove_file(&response)?;
        }
        fs::write(&request, serde_json::to_vec_pretty(&self.request()?)?)?;
        let bounds = args.bounds();
        let script = self.workspace.python_sources().join("proofmark_worker/run.py");
        let log = self.work.join(LOG_FILE);
        let run = supervise::run(&self.workspace.python(), &script, &request, &log, &bounds, &self.console)?;
        let response = failed::answer(&response, &run)?;
        self.publish(&run, response, attempt, receipt)
    }

    pub(super) fn request(&self) -> anyhow::Result<protocol::Export> {
        let Recipe { architecture, tokens, .. } = &self.recipe;
        let source = match (&self.checkpoint, &self.source) {
            (Some(folder), _) => protocol::Source::Safetensors { dir: folder.clone() },
            (None, Source::Random { seed }) => protocol::Source::Random { seed: *seed },
            (None, other) => bail!("{other:?}: got no checkpoint directory"),
        };
        // Any real token will do: parity compares arithmetic, not meaning. The first is what texts begin with, where trained
        // models have their largest values.
        let token = |index: u32| match index {
            0 => tokens.bos,
            _ => (index * 7919 + 13) % architecture.vocab,
        };
        let all = REFERENCE_PROMPT_TOKENS + REFERENCE_DECODE_TOKENS;
        Ok(protocol::Export {
            pte: self.work.join(WORK_PTE),
            reference: self.work.join(WORK_REFERENCE),
            reference_prompt: (0..REFERENCE_PROMPT_TOKENS).map(token).collect(),
            reference_decode: (REFERENCE_PROMPT_TOKENS..all).map(token).collect(),
            words: self.words()?,
            ..protocol::Export::of(&self.recipe, source, &self.work)
        })
    }

    /// What turns conversations into tokens, and the prompts that the app makes of some; random weights have none.
    fn words(&self) -> anyhow::Result<Option<protocol::Words>> {
        let Some(Inputs { words, .. }) = &self.read else { return Ok(None) };
        let (tokenizer, template) = Words::places(&self.work);
        // The worker renders with another Jinja, and must come to the same.
        let prompts = tokenizer::judge(&words.tokenizer)
            .and_then(|facts| claim::prompts(&self.recipe, &facts, &words.chat_template));
        let prompts = prompts.map_err(|message| anyhow!("{template}: {message}"))?;
        let reference = prompts.renderings.iter().map(|it| {
            let message = |(role, content): (&str, &str)| protocol::Message {
                role: role.to_owned(),
                content: content.to_owned(),
            };
            protocol::Prompt {
                messages: it.messages().map(message).collect(),
                add_generation_prompt: it.add_generation_prompt,
                prompt: it.prompt.clone(),
            }
        });
        let reference = reference.collect();
        let (bos_token, eos_token) = (prompts.bos_token, prompts.eos_token);
        Ok(Some(protocol::Words { tokenizer, chat_template: template, bos_token, eos_token, reference }))
    }

    /// Proves the worker's file in Rust and publishes it.
    fn publish(
        &self,
        run: &Run,
        response: Response,
        attempt: u32,
        receipt: &Receipt,
    ) -> anyhow::Result<Manifest> {
        let path = self.work.join(WORK_PTE);
        let pte = fs::File::open(&path).with_context(|| format!("{path}: the worker wrote no model"))?;
        let proof = Proof::of(path, pte, &Expectation::made_by(&self.recipe))?;
        let (path, report) = (proof.path(), proof.proved().report());
        if let Some(finding) = report.rejects().next() {
            bail!("{path}: {} findings reject the file, the first: {finding}", report.rejects().count());
        }
        let (Some(summary), Some(sha256)) = (&report.summary, proof.proved().sha256()) else {
            bail!("{path}: cannot be read to its end");
        };
        let mut claim = self.claim(run, response, attempt, receipt, summary, sha256)?;
        let validated = proof.proved().judge(&claim, Profile::Dev);
        let validated = validated.map_err(|refusal| refused::of_export(&self.work, &claim, refusal))?;
        // It was run in between.
        proof.ensure_unchanged().map_err(Failure::into_error)?;
        claim.manifest.checks = validated.checks().to_vec();
        let manifest = kept(self.dir.manifest().ok().flatten(), claim.manifest);
        publish(&self.dir, &validated, &manifest, &self.work)?;
        Ok(manifest)
    }

    /// The whole list, if the weights that the worker read are those in it.
    fn files(&self, worked: &[FileRecord]) -> anyhow::Result<Vec<FileRecord>> {
        let Some(Inputs { files, .. }) = &self.read else { return Ok(Vec::new()) };
        let expected: Vec<_> = weights(files).collect();
        ensure!(
            expected.iter().copied().eq(worked),
            "the checkpoint changed while it was exported: got {worked:?}, expected {expected:?}"
        );
        Ok(files.clone())
    }

    fn claim(
        &self,
        run: &Run,
        response: Response,
        attempt: u32,
        receipt: &Receipt,
        summary: &pte::Summary,
        sha256: Digest,
    ) -> anyhow::Result<Claim> {
        let versions = response.versions.context("the worker named no versions")?;
        let random = self.read.is_none();
        let words = self.read.as_ref().map(|read| read.words.clone());
        let (tokenizer, chat_template) = words.map(|words| (words.tokenizer, words.chat_template)).unzip();
        let reference = self.work.join(WORK_REFERENCE);
        let mut manifest = Manifest {
            schema: MANIFEST_SCHEMA,
            model: self.recipe.name.clone(),
            file: self.recipe.file_name(),
            file_bytes: summary.file_bytes,
            sha256,
            weights: if random { WeightsKind::Random } else { WeightsKind::Checkpoint },
            source: source_record(
                &self.source,
                self.checkpoint.as_deref(),
                self.files(&response.source_files.context("the worker named no source files")?)?,
            )?,
            bound: claim::bound(&self.recipe, &self.policy, tokenizer.as_deref(), chat_template.as_deref()),
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
                inputs: self.inputs,
                quantization: self.recipe.export.quantization,
                seq_len: self.recipe.export.seq_len,
                backend: self.recipe.export.backend,
                parameters: response.weights.context("the worker counted no weights")?.parameters,
                linears: response.linears.context("the worker counted no linears")?.quantized,
                attempt,
                stages: response.stages,
                peak_rss_bytes: run.peaks.rss_bytes,
                peak_anon_bytes: Some(run.peaks.anon_bytes),
            },
            structure: Structure::of(summary),
            reference: FileRecord {
                name: self.recipe.file_name().replace(".pte", ".reference"),
                bytes: fs::metadata(&reference)?.len(),
                sha256: Digest::of_reader(&mut fs::File::open(&reference)?)?,
            },
            checks: Vec::new(),
            evidence: None,
            prd_compliant: false,
            prd_reasons: Vec::new(),
            published: now(),
        };
        manifest.record_prd(&self.policy);
        let mut claim = Claim {
            recipe: self.recipe.clone(),
            policy: self.policy.clone(),
            manifest,
            tokenizer,
            chat_template,
        };
        let mut files = engine::Files::of(&self.dir, &claim, self.work.join(WORK_PTE));
        files.words = self.read.as_ref().map(|_| Words::places(&self.work));
        let bench =
            Bench { workspace: self.workspace, dir: &self.dir, claim: &claim, files, console: &self.console };
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
