//! `cargo xtask export --runtime llamacpp`: checkpoint → `.gguf` → every check → load and text quality in llama.cpp →
//! publish. The conversion needs no Python: a GGUF is numbers in a row. (A rehearsal asks the worker's generator for its
//! numbers, and quality the worker for the unquantized model.)
//!
//! **Invariant:** memory does not grow with the model: a few rows are read, quantized and written at a time.
//!
//! **Invariant:** as for a `.pte`: what is published went through [`check::validate_reserve`], `reserve.json` is renamed
//! last, and killed at any instant the directory holds the old reserve or the new one, each with its own
//! tokenizer.

use std::{
    fs,
    io::{BufWriter, Write as _},
    time::Instant,
};

use anyhow::{Context as _, anyhow, ensure};
use camino::Utf8Path;
use model_assets::{
    check::{self, Profile},
    digest::Digest,
    dir::{ModelDir, pending_name},
    gguf::{self, ALIGNMENT_BYTES, BLOCK_WEIGHTS, Kind, Tensor, plan::Origin},
    manifest::WeightsKind,
    recipe::Source,
    reserve::{
        self, RESERVE_FILE, RESERVE_SCHEMA, ReserveBinding, ReserveClaim, ReserveEvidence, ReserveExport,
        ReserveManifest,
    },
};

use crate::{
    checkpoint::Checkpoint,
    console::Console,
    evidence::{self, Subject},
    exit::{Exit, Failure, Outcome, refused},
    lock, predict,
    published::now,
    reserve::Reserve,
    setup, supervise,
    workspace::Workspace,
};

use super::{
    inputs::{Inputs, Words},
    job::revision,
    plan::ExportPlan,
    publish::{give_names, moved, replace, staged, sync_dir},
    weights::{Generator, Weights},
};

/// Weights of a chunk: a few megabytes as `f32`.
const CHUNK_WEIGHTS: u64 = 1 << 20;
const WORK_GGUF: &str = "model.gguf";

/// A planned export to GGUF that is run.
pub(super) struct Job<'a> {
    pub(super) workspace: &'a Workspace,
    pub(super) console: &'a Console,
    pub(super) plan: &'a ExportPlan,
}

impl Job<'_> {
    pub(super) fn run(&self) -> Outcome {
        if !self.plan.force
            && let Some(claim) = self.proved()
        {
            self.console.unchanged(&claim.manifest.file, claim.manifest.sha256);
            return Ok(());
        }
        let disk = predict::free_disk_bytes(&self.workspace.state());
        super::suffices("disk", disk, predict::reserve_disk_bytes(&self.plan.recipe), &self.plan.recipe)?;
        self.other_tokenizer()?;
        supervise::watch_interrupts()?;
        let _lock = lock::model(self.workspace, self.plan.dir.name())?;
        let manifest = self.export().map_err(|error| self.failed(error))?;
        self.console.published_reserve(&manifest);
        Ok(())
    }

    /// A `.pte` that is bound to the tokenizer beside the recipe would be void with another.
    fn other_tokenizer(&self) -> Outcome {
        let published = self.plan.dir.manifest().ok().flatten().and_then(|manifest| manifest.bound.tokenizer);
        let own = self.plan.read.as_ref().map(|inputs| Digest::of(&inputs.words.tokenizer));
        match published.zip(own) {
            Some((published, own)) if published != own => {
                let name = &self.plan.recipe.tokens.tokenizer;
                let error =
                    anyhow!("{name}: got sha256 {own}, expected that of the published `.pte`, {published}");
                let hint = format!(
                    "export the `.pte` of this checkpoint first: cargo xtask export {}",
                    self.plan.recipe.name
                );
                Err(Failure::new(Exit::Export, error, hint))
            }
            _ => Ok(()),
        }
    }

    fn failed(&self, error: anyhow::Error) -> Failure {
        let name = &self.plan.recipe.name;
        if supervise::interrupted() {
            let hint =
                format!("nothing was published; run again: cargo xtask export {name} --runtime llamacpp");
            return Failure::new(Exit::Interrupted, error, hint);
        }
        match error.downcast::<check::Refusal>() {
            Ok(refusal) => refused(refusal),
            Err(error) => Failure::new(Exit::Export, error, format!("run: cargo xtask doctor {name}")),
        }
    }

    /// What is published, if it is this checkpoint's and proved.
    fn proved(&self) -> Option<ReserveClaim> {
        let claim = self.plan.dir.reserve_claim().ok()?;
        let evidence = claim.manifest.evidence.as_ref()?;
        let fresh = evidence.bound == ReserveBinding::current(claim.manifest.sha256, claim.bound());
        let same = self.plan.read.as_ref().is_none_or(|inputs| inputs.files == claim.manifest.source.files);
        let (_, file) = self.plan.dir.open_gguf(&claim.manifest).ok()?;
        let whole = fresh && same && claim.manifest.source.source == self.plan.source;
        (whole && check::validate_reserve(file, &claim, Profile::Dev).is_ok()).then_some(claim)
    }

    fn export(&self) -> anyhow::Result<ReserveManifest> {
        fs::create_dir_all(&self.plan.work)?;
        if let Some(Inputs { words, .. }) = &self.plan.read {
            words.write(&self.plan.work)?;
        } else {
            super::job::stage_rehearsal(self.workspace, &self.plan.dir)?;
            setup::ensure(self.workspace).map_err(Failure::into_error)?;
        }
        let words = self.plan.read.as_ref().map(|inputs| inputs.words.clone());
        let (tokenizer, chat_template) = words.map(|words| (words.tokenizer, words.chat_template)).unzip();
        let expect = reserve::expect(&self.plan.recipe, tokenizer.as_deref(), chat_template.as_deref());
        let expect = expect.map_err(|message| anyhow!("{message}"))?;
        let began = Instant::now();
        let path = self.plan.work.join(WORK_GGUF);
        let files = self.convert(&path, &expect)?;
        let seconds = began.elapsed().as_secs_f64();
        self.console.step("gguf: every check");
        let file = fs::File::open(&path)?;
        let proved = gguf::verify(&file, &expect).with_context(|| path.clone())?;
        let random = self.plan.checkpoint.is_none();
        let mut claim = ReserveClaim {
            manifest: ReserveManifest {
                schema: RESERVE_SCHEMA,
                model: self.plan.recipe.name.clone(),
                file: reserve::file_name(&self.plan.recipe),
                file_bytes: proved.summary.file_bytes,
                sha256: Digest::from_bytes(proved.sha256),
                weights: if random { WeightsKind::Random } else { WeightsKind::Checkpoint },
                source: super::job::source_record(&self.plan.source, self.plan.checkpoint.as_deref(), files)?,
                bound: model_assets::claim::bound(
                    &self.plan.recipe,
                    &self.plan.policy,
                    tokenizer.as_deref(),
                    chat_template.as_deref(),
                ),
                export: ReserveExport {
                    xtask_revision: revision(self.workspace),
                    seconds,
                    peak_rss_bytes: peak_rss_bytes(),
                },
                structure: proved.summary,
                checks: Vec::new(),
                evidence: None,
                published: now(),
            },
            recipe: self.plan.recipe.clone(),
            policy: self.plan.policy.clone(),
            tokenizer,
            chat_template,
        };
        claim.manifest.evidence = Some(self.measure(&claim, &path)?);
        let validated = check::validate_reserve(file, &claim, Profile::Dev)?;
        claim.manifest.checks = validated.checks().to_vec();
        // A reproduced model keeps its reviewed record: figures that vary from run to run are no reason to change it.
        if let Ok(old) = self.plan.dir.reserve_claim()
            && old.manifest.covers(&claim.manifest)
            && check::validate_reserve(validated.source().try_clone()?, &old, Profile::Dev).is_ok()
        {
            claim.manifest = old.manifest;
        }
        publish(&self.plan.dir, &validated, &claim, &path)?;
        fs::remove_dir_all(&self.plan.work)
            .with_context(|| format!("{}: cannot be removed", self.plan.work))?;
        Ok(claim.manifest)
    }

    /// Runs it in llama.cpp, against the unquantized model where there is a checkpoint.
    fn measure(&self, claim: &ReserveClaim, path: &Utf8Path) -> anyhow::Result<ReserveEvidence> {
        let reserve = Reserve::open(self.workspace, self.console)?;
        let words = claim.tokenizer.as_ref().map(|_| Words::places(&self.plan.work));
        let ReserveClaim { recipe, manifest, .. } = claim;
        let subject = Subject {
            workspace: self.workspace,
            dir: &self.plan.dir,
            recipe,
            source: &manifest.source,
            words,
            console: self.console,
        };
        let checkpoint = evidence::Checkpoint(self.plan.checkpoint.clone());
        reserve.check(
            claim,
            path,
            self.plan.checkpoint.is_some().then_some((&subject, &checkpoint)),
            self.console,
        )
    }

    /// Writes the file, a chunk at a time.
    fn convert(
        &self,
        path: &Utf8Path,
        expect: &gguf::Expect,
    ) -> anyhow::Result<Vec<model_assets::manifest::FileRecord>> {
        let plan = gguf::plan::tensors(&self.plan.recipe.architecture);
        let names = plan.iter().filter_map(|(_, origin)| match origin {
            Origin::Checkpoint(name) | Origin::Interleaved { name, .. } => Some(name.clone()),
            Origin::Constant(_) => None,
        });
        let names: Vec<String> = names.collect();
        self.console.step("gguf: weights");
        let mut weights = match (&self.plan.checkpoint, &self.plan.source) {
            (Some(folder), _) => Weights::Checkpoint(Checkpoint::open(folder, &self.plan.recipe)?),
            (None, Source::Random { seed }) => Weights::Random(Generator::start(
                self.workspace,
                *seed,
                &self.plan.recipe.architecture,
                &names,
            )?),
            (None, other) => anyhow::bail!("{other:?}: got no checkpoint directory"),
        };
        let file = fs::File::create(path).with_context(|| format!("{path}: cannot be made"))?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        let table: Vec<Tensor> = plan.iter().map(|(tensor, _)| tensor.clone()).collect();
        let metadata = expect.metadata.as_deref().unwrap_or_default();
        out.write_all(&gguf::head_bytes(metadata, &table))?;
        for (tensor, origin) in &plan {
            write_tensor(&mut out, tensor, origin, &mut weights, &supervise::interrupted)?;
        }
        let file = out.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        file.sync_all()?;
        match weights {
            Weights::Checkpoint(checkpoint) => {
                let files = checkpoint.finish()?;
                let same = self.plan.read.as_ref().is_none_or(|inputs| inputs.files == files);
                ensure!(same, "the checkpoint changed while it was exported");
                Ok(files)
            }
            Weights::Random(_) => Ok(Vec::new()),
        }
    }
}

/// Moves the proven file, and a tokenizer that is not beside the recipe yet, into their directory. As for a `.pte`, they wait
/// under other names until the record has been renamed, which is the commit point.
fn publish(
    dir: &ModelDir,
    validated: &check::Validated<fs::File, gguf::Summary>,
    claim: &ReserveClaim,
    path: &Utf8Path,
) -> anyhow::Result<()> {
    let ReserveClaim { recipe, manifest, tokenizer, .. } = claim;
    let (proven, claimed) = (validated.sha256(), manifest.sha256);
    ensure!(proven == claimed, "reserve.json: got sha256 {claimed}, expected the proven file's {proven}");
    let (place, name) = (dir.path(), recipe.tokens.tokenizer.as_str());
    // Takes its space on the disk before anything moves: what is left are renames.
    let commit = staged(dir, RESERVE_FILE, &manifest.to_bytes())?;
    // One that is there already stays untouched: it may be reviewed text.
    let is_beside = |bytes: &Vec<u8>| fs::read(place.join(name)).is_ok_and(|own| own == *bytes);
    if let Some(bytes) = tokenizer.as_ref().filter(|bytes| !is_beside(bytes)) {
        replace(dir, &pending_name(name, Digest::of(bytes)), bytes)?;
    }
    moved(path, &place.join(pending_name(&manifest.file, claimed)))?;
    sync_dir(&place)?;
    commit.put_in_place()?;
    give_names(&place, &[(&manifest.file, Some(claimed)), (name, manifest.bound.tokenizer)])?;
    sync_dir(&place)
}

/// Writes one tensor and its padding; ends before the next chunk, seconds before the end of a large tensor, when `interrupted`
/// says so.
fn write_tensor(
    out: &mut impl std::io::Write,
    tensor: &Tensor,
    origin: &Origin,
    weights: &mut Weights,
    interrupted: &dyn Fn() -> bool,
) -> anyhow::Result<()> {
    let (name, head_rows) = match origin {
        Origin::Constant(values) => {
            put(out, tensor.kind, values)?;
            return pad(out, tensor);
        }
        Origin::Checkpoint(name) => (name, None),
        Origin::Interleaved { name, head_rows } => (name, Some(*head_rows)),
    };
    let shape: Vec<u64> = tensor.rows.into_iter().chain([tensor.width]).collect();
    let (rows, width) = tensor.rows.map_or((tensor.width, 1), |rows| (rows, tensor.width));
    // Whole heads where rows change places within one.
    let unit = head_rows.unwrap_or(1);
    let step = (CHUNK_WEIGHTS / (width * unit)).max(1) * unit;
    let mut first = 0;
    while first < rows {
        ensure!(!interrupted(), "interrupted");
        let count = step.min(rows - first);
        let mut chunk = vec![0.0; usize::try_from(count * width)?];
        weights.rows(name, &shape, first, &mut chunk)?;
        if let Some(head_rows) = head_rows {
            chunk = gguf::interleave(&chunk, usize::try_from(head_rows)?, usize::try_from(width)?);
        }
        put(out, tensor.kind, &chunk)?;
        first += count;
    }
    pad(out, tensor)
}

fn put(out: &mut impl std::io::Write, kind: Kind, values: &[f32]) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    match kind {
        Kind::F32 => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        Kind::Q8_0 => {
            debug_assert!((values.len() as u64).is_multiple_of(BLOCK_WEIGHTS));
            gguf::q8_0(values, &mut bytes);
        }
    }
    out.write_all(&bytes)
}

fn pad(out: &mut impl std::io::Write, tensor: &Tensor) -> anyhow::Result<()> {
    let bytes = tensor.bytes().with_context(|| format!("{}: has no size", tensor.name))?;
    let padding = bytes.next_multiple_of(ALIGNMENT_BYTES) - bytes;
    Ok(out.write_all(&vec![0; usize::try_from(padding)?])?)
}

/// Highest resident memory of this process so far.
fn peak_rss_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests;
