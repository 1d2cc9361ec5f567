//! `cargo xtask export`: recipe → request → Python worker → `.pte` → static proof → publish.
//!
//! **Invariant:** the published directory changes only through [`publish`], which takes a [`Validated`]; killed at
//! any instant, it holds the old proven model or the new one.
//!
//! **Invariant:** what is published was loaded and run by the engine, and its logits agree with the eager model's.

use std::{
    fs,
    io::Write as _,
    sync::atomic::Ordering,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, anyhow, bail};
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{
    check::{self, Profile, Validated},
    claim::{self, Claim},
    digest::Digest,
    dir::{ModelDir, pending_name},
    manifest::{
        EvidenceBinding, ExportRecord, FileRecord, LOG_FILE, MANIFEST_FILE, MANIFEST_SCHEMA, Manifest,
        SourceRecord, Stage, Structure, Toolchain, WeightsKind,
    },
    policy::Policy,
    pte,
    recipe::{Recipe, RopeScaling, Source},
};
use serde::Deserialize;
use serde_json::json;

use crate::{
    EXIT_EXPORT, EXIT_INTERRUPTED, Failure, Outcome,
    console::Console,
    engine, predict,
    setup::{self, Receipt},
    supervise::{self, Bounds, Run},
    verify::{self, refused},
    workspace::Workspace,
};

const ATTEMPTS_MAX: u32 = 2;
const LOG_TAIL_LINES: usize = 40;
const REFERENCE_PROMPT_TOKENS: u32 = 24;
const REFERENCE_DECODE_TOKENS: u32 = 8;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model: a directory of `model-assets/models`
    #[arg(default_value = "tiny")]
    model: String,
    /// Use random weights at the real shapes: shows time, memory and size before one has the licence
    #[arg(long)]
    rehearse: bool,
    /// Export although nothing has changed
    #[arg(long)]
    force: bool,
    /// Print the plan and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Largest resident memory of the worker, bytes
    #[arg(long, default_value_t = 8_000_000_000)]
    memory_max: u64,
    /// Print events as JSON lines on standard output instead of progress
    #[arg(long)]
    json: bool,
    /// Seconds without output and without work after which the worker counts as stalled
    #[arg(long, default_value_t = 300)]
    stall_timeout: u64,
}

impl Args {
    /// As if `cargo xtask export` had been typed.
    pub(crate) fn of_default_model() -> Self {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: Args,
        }
        <Line as clap::Parser>::parse_from(["export"]).args
    }
}

/// What the worker answers; keys that this side does not use are ignored.
#[derive(Deserialize)]
struct Response {
    ok: bool,
    #[serde(default)]
    stages: Vec<Stage>,
    source_files: Option<Vec<FileRecord>>,
    weights: Option<Weights>,
    linears: Option<Linears>,
    versions: Option<Versions>,
    error: Option<String>,
    hint: Option<String>,
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
struct Job<'a> {
    workspace: &'a Workspace,
    dir: ModelDir,
    recipe: Recipe,
    policy: Policy,
    source: Source,
    inputs: Digest,
    work: Utf8PathBuf,
    console: Console,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Outcome {
    let dir = ModelDir::new(workspace.models(), &args.model);
    let recipe = dir.recipe().map_err(refused)?;
    let policy = dir.policy().map_err(refused)?;
    recipe.within(&policy)?;
    let dir = if args.rehearse { ModelDir::new(workspace.rehearsals(), &args.model) } else { dir };
    let source = if args.rehearse { recipe.rehearsal().source } else { recipe.source.clone() };
    let work = workspace.state().join("work").join(&args.model);
    let inputs = inputs_digest(&dir, &recipe, &source, workspace)?;
    let console = Console::new(args.json);
    let job = Job { workspace, dir, recipe, policy, source, inputs, work, console };
    let published = job.dir.manifest().ok().flatten();
    if let Some(manifest) = &published
        && !args.force
        && manifest.export.inputs == inputs
        && is_proved(&job.dir)
    {
        job.console.unchanged(manifest);
        return Ok(());
    }
    if args.dry_run {
        println!("{}", serde_json::to_string_pretty(&job.request()?)?);
        return Ok(());
    }
    preflight(&job, args)?;
    let receipt = setup::ensure(workspace)?;
    let _lock = lock(workspace, &args.model)?;
    attempts(&job, args, &receipt)
}

/// Refuses to start what cannot end well.
fn preflight(job: &Job<'_>, args: &Args) -> Outcome {
    let needed = predict::export_anon_bytes(&job.recipe);
    let limits = [("--memory-max", Some(args.memory_max)), ("memory", predict::free_memory_bytes())];
    let disk =
        ("disk", predict::free_disk_bytes(job.workspace.root()), predict::export_disk_bytes(&job.recipe));
    let bounds = limits.map(|(what, free)| (what, free, needed)).into_iter().chain([disk]);
    for (what, free, needed) in bounds {
        if let Some(free) = free.filter(|free| *free < needed) {
            let error =
                anyhow!("{what}: got {free} bytes, expected at least {needed} for `{}`", job.recipe.name);
            return Err(Failure::new(
                EXIT_EXPORT,
                error,
                format!("run: cargo xtask doctor {}", job.recipe.name),
            ));
        }
    }
    ctrlc::set_handler(|| supervise::INTERRUPTED.store(true, Ordering::Relaxed))
        .context("cannot watch for Ctrl-C")?;
    Ok(())
}

/// The report of an export that failed for good: what a person needs to take it from here.
fn escalation(job: &Job<'_>, story: &[String]) -> String {
    let log = fs::read_to_string(job.work.join(LOG_FILE)).unwrap_or_default();
    let lines: Vec<_> = log.lines().collect();
    let tail = lines.get(lines.len().saturating_sub(LOG_TAIL_LINES)..).unwrap_or_default().join("\n");
    format!(
        "export of `{}` failed {ATTEMPTS_MAX} times; nothing was published\n\n{}\n\nwhat to do: mend the cause named \
         above and run `cargo xtask export {}`; for want of memory, run it on a larger machine; if ExecuTorch itself \
         is in the way, the reserve is a GGUF of the same checkpoint for llama.cpp, which this version does not \
         export\n\nlast lines of the log:\n{tail}\n",
        job.recipe.name,
        story.join("\n\n"),
        job.recipe.name
    )
}

fn attempts(job: &Job<'_>, args: &Args, receipt: &Receipt) -> Outcome {
    let mut story = Vec::new();
    for attempt in 1..=ATTEMPTS_MAX {
        job.console.attempt(&job.recipe.name, attempt, ATTEMPTS_MAX);
        match job.attempt(args, attempt, receipt) {
            Ok(manifest) => {
                fs::remove_dir_all(&job.work).with_context(|| format!("{}: cannot be removed", job.work))?;
                job.console.published(&manifest);
                return Ok(());
            }
            Err(error) if supervise::INTERRUPTED.load(Ordering::Relaxed) => {
                let hint =
                    format!("nothing was published; run again: cargo xtask export {}", job.recipe.name);
                return Err(Failure::new(EXIT_INTERRUPTED, error, hint));
            }
            Err(error) => {
                job.console.attempt_failed(attempt, &format!("{error:#}"));
                story.push(format!("attempt {attempt}: {error:#}"));
            }
        }
    }
    let report = job.work.join("escalation.txt");
    fs::write(&report, escalation(job, &story))?;
    let error = anyhow!("export of `{}` failed {ATTEMPTS_MAX} times; nothing was published", job.recipe.name);
    Err(Failure::new(EXIT_EXPORT, error, format!("read {report} and {}", job.work.join(LOG_FILE))))
}

impl Job<'_> {
    fn attempt(&self, args: &Args, attempt: u32, receipt: &Receipt) -> anyhow::Result<Manifest> {
        fs::create_dir_all(&self.work)?;
        if matches!(self.source, Source::Random { .. }) {
            self.stage_rehearsal()?;
        }
        let request = self.work.join("request.json");
        let response = self.work.join("response.json");
        if response.exists() {
            fs::remove_file(&response)?;
        }
        fs::write(&request, serde_json::to_vec_pretty(&self.request()?)?)?;
        let bounds =
            Bounds { memory_bytes_max: args.memory_max, stall: Duration::from_secs(args.stall_timeout) };
        let script = self.workspace.python_sources().join("proofmark_worker/run.py");
        let log = self.work.join(LOG_FILE);
        let run = supervise::run(&self.workspace.python(), &script, &request, &log, &bounds, &self.console)?;
        let response = read_response(&response, &run)?;
        self.publish(&run, response, attempt, receipt)
    }

    /// A rehearsal has a models directory of its own: it can never replace a model of real weights, nor be committed.
    fn stage_rehearsal(&self) -> anyhow::Result<()> {
        let real = ModelDir::new(self.workspace.models(), &self.recipe.name);
        fs::create_dir_all(self.dir.path())?;
        fs::copy(real.recipe_path(), self.dir.recipe_path())?;
        fs::copy(real.policy_path(), self.dir.policy_path())?;
        Ok(())
    }

    fn request(&self) -> anyhow::Result<serde_json::Value> {
        let Recipe { architecture, export, tokens, limits, .. } = &self.recipe;
        let source = match &self.source {
            Source::Path { path } => json!({"kind": "safetensors", "dir": self.dir.path().join(path)}),
            Source::Random { seed } => json!({"kind": "random", "seed": seed}),
            Source::Hub { repo, revision } => bail!(
                "{repo}@{revision}: fetching from the hub is not built yet, expected --rehearse or a local checkpoint"
            ),
        };
        let mut shape = serde_json::to_value(architecture)?;
        if let Some(RopeScaling::Llama3 { .. }) = architecture.rope_scaling {
            shape["rope_scaling"]["kind"] = json!("llama3");
        }
        // Any real token will do: parity compares arithmetic, not meaning.
        let token = |index: u32| (index * 7919 + 13) % architecture.vocab;
        let prompt: Vec<_> = (0..REFERENCE_PROMPT_TOKENS).map(token).collect();
        let decode: Vec<_> =
            (0..REFERENCE_DECODE_TOKENS).map(|i| token(i + REFERENCE_PROMPT_TOKENS)).collect();
        Ok(json!({
            "protocol": 1, "model": self.recipe.name, "source": source, "architecture": shape,
            "quantization": export.quantization, "seq_len": export.seq_len, "backend": export.backend,
            "bos_id": tokens.bos, "eos_ids": tokens.eos,
            "expected_partitions": export.partitions, "expected_delegated_linears": export.delegated_linears,
            "file_bytes_min": limits.file_bytes_min, "file_bytes_max": limits.file_bytes_max,
            "threads": 2, "work_dir": self.work, "pte": self.work.join("model.pte"),
            "reference": self.work.join("reference.safetensors"), "response": self.work.join("response.json"),
            "reference_prompt": prompt, "reference_decode": decode,
        }))
    }

    /// Proves the worker's file in Rust and publishes it.
    fn publish(
        &self,
        run: &Run,
        response: Response,
        attempt: u32,
        receipt: &Receipt,
    ) -> anyhow::Result<Manifest> {
        let path = self.work.join("model.pte");
        let pte = fs::File::open(&path).with_context(|| format!("{path}: the worker wrote no model"))?;
        let report = pte::verify(&pte, pte::Level::Hash, &claim::expect(&self.recipe));
        if let Some(finding) = report.rejects().next() {
            bail!("{path}: {} findings reject the file, the first: {finding}", report.rejects().count());
        }
        let (Some(summary), Some(sha256)) = (&report.summary, report.sha256) else {
            bail!("{path}: cannot be read to its end");
        };
        let claim = self.claim(run, response, attempt, receipt, summary, Digest::from_bytes(sha256))?;
        let validated = check::validate(pte, &claim, Profile::Dev)?;
        // A reproduced model keeps its reviewed manifest: figures that vary from run to run are no reason to change it.
        let manifest = match self.dir.manifest() {
            Ok(Some(old)) if old.same_claim(&claim.manifest) => old,
            _ => claim.manifest,
        };
        publish(&self.dir, &validated, &manifest, &self.work)?;
        Ok(manifest)
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
        let random = matches!(self.source, Source::Random { .. });
        let read = |name: &str| {
            fs::read(self.dir.path().join(name)).with_context(|| format!("{name}: cannot be read"))
        };
        let tokenizer = if random { None } else { Some(read(&self.recipe.tokens.tokenizer)?) };
        let chat_template =
            if random { None } else { Some(String::from_utf8(read(&self.recipe.tokens.chat_template)?)?) };
        let reference = self.work.join("reference.safetensors");
        let manifest = Manifest {
            schema: MANIFEST_SCHEMA,
            model: self.recipe.name.clone(),
            file: self.recipe.file_name(),
            file_bytes: summary.file_bytes,
            sha256,
            weights: if random { WeightsKind::Random } else { WeightsKind::Checkpoint },
            source: SourceRecord {
                source: self.source.clone(),
                files: response.source_files.context("the worker named no source files")?,
            },
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
                peak_rss_bytes: run.peak_rss_bytes,
                peak_anon_bytes: Some(run.peak_anon_bytes),
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
        let mut claim = Claim {
            recipe: self.recipe.clone(),
            policy: self.policy.clone(),
            manifest,
            tokenizer,
            chat_template,
        };
        let path = self.work.join("model.pte");
        self.console.step("engine");
        claim.manifest.evidence = Some(engine::measure(self.workspace, &claim, &path, &reference)?);
        let pte = fs::File::open(path)?;
        claim.manifest.checks = check::validate(pte, &claim, Profile::Dev)?.checks().to_vec();
        claim.manifest.prd_reasons = claim.manifest.prd_findings(&claim.policy);
        claim.manifest.prd_compliant = claim.manifest.prd_reasons.is_empty();
        Ok(claim)
    }
}

/// Moves a proven model into its directory. See [`model_assets::dir`] for why the order is safe.
fn publish(
    dir: &ModelDir,
    validated: &Validated<fs::File>,
    manifest: &Manifest,
    work: &Utf8Path,
) -> anyhow::Result<()> {
    debug_assert_eq!(validated.sha256(), manifest.sha256);
    let place = dir.path();
    let files = [
        (work.join("model.pte"), &manifest.file, manifest.sha256),
        (work.join("reference.safetensors"), &manifest.reference.name, manifest.reference.sha256),
    ];
    for (from, name, sha256) in &files {
        fs::File::open(from)?.sync_all()?;
        fs::rename(from, place.join(pending_name(name, *sha256)))
            .with_context(|| format!("{place}/{name}"))?;
    }
    fs::rename(work.join(LOG_FILE), place.join(LOG_FILE))?;
    sync_dir(&place)?;
    write_manifest(dir, manifest)?;
    for (_, name, sha256) in &files {
        fs::rename(place.join(pending_name(name, *sha256)), place.join(name))?;
    }
    sync_dir(&place)
}

/// Replaces `manifest.json`: the commit point of a publish.
pub(crate) fn write_manifest(dir: &ModelDir, manifest: &Manifest) -> anyhow::Result<()> {
    let temporary = dir.path().join(format!(".{MANIFEST_FILE}.new"));
    let mut file = fs::File::create(&temporary)?;
    file.write_all(&manifest.to_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, dir.manifest_path())?;
    sync_dir(&dir.path())
}

fn sync_dir(path: &Utf8Path) -> anyhow::Result<()> {
    fs::File::open(path)?.sync_all().with_context(|| format!("{path}: cannot be synced"))
}

fn read_response(path: &Utf8Path, run: &Run) -> anyhow::Result<Response> {
    let (stage, peak) = (&run.stage, run.peak_rss_bytes);
    if let Some(reason) = &run.killed {
        bail!("stage `{stage}`: the worker {reason} (peak {peak} bytes)");
    }
    let Ok(bytes) = fs::read(path) else {
        bail!(
            "stage `{stage}`: the worker died without an answer (peak {peak} bytes):\n{}",
            run.tail.join("\n")
        );
    };
    let response: Response = serde_json::from_slice(&bytes).with_context(|| format!("{path}"))?;
    if response.ok && run.ok {
        return Ok(response);
    }
    let error = response.error.unwrap_or_else(|| "the worker failed".into());
    let hint = response.hint.map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
    bail!("stage `{stage}`: {error}{hint} (peak {peak} bytes)")
}

/// Whether what is published is what its manifest says.
fn is_proved(dir: &ModelDir) -> bool {
    let Ok((claim, _)) = dir.claim() else { return false };
    let current = EvidenceBinding::current(claim.manifest.sha256, claim.bound());
    let fresh = claim.manifest.evidence.as_ref().is_some_and(|evidence| evidence.bound == current);
    let whole = |(_, pte)| check::validate(pte, &claim, Profile::Dev).is_ok();
    fresh && verify::reference(dir, &claim).is_ok() && dir.open_pte(&claim.manifest).is_ok_and(whole)
}

/// Digest of everything that decides the bytes of an export.
fn inputs_digest(
    dir: &ModelDir,
    recipe: &Recipe,
    source: &Source,
    workspace: &Workspace,
) -> anyhow::Result<Digest> {
    let mut parts = vec![recipe.digest(), setup::lock_digest(), worker_digest(workspace)?];
    parts.push(Digest::of(&serde_json::to_vec(source)?));
    if let Source::Path { path } = source {
        let config = dir.path().join(path).join("config.json");
        parts.push(Digest::of_reader(
            &mut fs::File::open(&config).with_context(|| format!("{config}: cannot be opened"))?,
        )?);
        parts.push(tree_digest(&dir.path().join(path), "safetensors")?);
    }
    let text: String = parts.iter().map(ToString::to_string).collect();
    Ok(Digest::of(text.as_bytes()))
}

fn worker_digest(workspace: &Workspace) -> anyhow::Result<Digest> {
    tree_digest(&workspace.python_sources().join("proofmark_worker"), "py")
}

/// Digest of the names and contents of a folder's files of one kind, sorted.
fn tree_digest(folder: &Utf8Path, extension: &str) -> anyhow::Result<Digest> {
    let mut text = String::new();
    for entry in walkdir::WalkDir::new(folder).max_depth(1).sort_by_file_name() {
        let entry = entry?;
        let path =
            Utf8Path::from_path(entry.path()).ok_or_else(|| anyhow!("{folder}: a name is not UTF-8"))?;
        if entry.file_type().is_file() && path.extension() == Some(extension) {
            let digest = Digest::of_reader(&mut fs::File::open(path)?)?;
            text += &format!("{digest} {}\n", path.file_name().unwrap_or_default());
        }
    }
    Ok(Digest::of(text.as_bytes()))
}

/// One export of a model at a time.
fn lock(workspace: &Workspace, model: &str) -> Result<fs::File, Failure> {
    let folder = workspace.state().join("locks");
    fs::create_dir_all(&folder)?;
    let path = folder.join(model);
    let file = fs::File::create(&path).with_context(|| format!("{path}: cannot be made"))?;
    file.try_lock().map_err(|_| {
        Failure::new(EXIT_EXPORT, anyhow!("{path}: another export of `{model}` is running"), "wait for it")
    })?;
    Ok(file)
}

fn revision(workspace: &Workspace) -> Option<String> {
    let shell = xshell::Shell::new().ok()?;
    shell.change_dir(workspace.root());
    let head = xshell::cmd!(shell, "git rev-parse HEAD").quiet().ignore_stderr().read().ok()?;
    let changes = xshell::cmd!(shell, "git status --porcelain").quiet().ignore_stderr().read().ok()?;
    Some(if changes.is_empty() { head } else { format!("{head}-dirty") })
}

fn now() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map(|d| d.as_secs()).unwrap_or_default();
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}
