//! `cargo xtask export`: recipe → request → Python worker → `.pte` → static proof → publish.
//!
//! **Invariant:** a model's directory changes only through `publish` (for the reserve, `gguf::Job::publish`), and both take a
//! `Validated`. Killed at any instant, the directory holds the old proven `.pte` or the new one, with its own tokenizer.
//!
//! **Invariant:** what is published was loaded and run by the engine, and its logits agree with the eager model's.

mod checkpoint;
mod config;
mod gguf;
mod inputs;
mod job;
mod publish;
#[cfg(test)]
mod template_tests;
mod tensors;
mod weights;

use std::{fs, sync::atomic::Ordering, time::Duration};

use anyhow::{Context as _, anyhow};
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{
    check::Profile,
    dir::ModelDir,
    manifest::{EvidenceBinding, LOG_FILE},
    recipe::{Recipe, Source},
    reserve,
};

use crate::{
    console::Console,
    exit::{Exit, Failure, Outcome, refused, usage},
    failed::{self, Cause},
    lock, predict,
    published::Published,
    setup::{self, Receipt},
    supervise::{self, Bounds},
    weights as fetched,
    workspace::Workspace,
};

use self::{
    inputs::{Inputs, inputs_digest},
    job::Job,
};

pub(crate) use self::{
    config::{alike, described},
    inputs::{configured, weights},
    publish::{WORK_PTE, WORK_REFERENCE, WORK_TOKENIZER, publish, replace, settle, write_manifest},
};

const ATTEMPTS_MAX: u32 = 2;
const MEMORY_BYTES_MAX: u64 = 8_000_000_000;
const STALL_SECONDS: u64 = 300;
const LOG_TAIL_LINES: usize = 40;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model: a directory of `model-assets/models`
    #[arg(default_value = "tiny")]
    model: String,
    /// What will run the file; `llamacpp` is the reserve
    #[arg(long, value_enum, default_value_t = Runtime::Executorch)]
    runtime: Runtime,
    /// Use random weights at the real shapes
    ///
    /// Shows time, memory and size before you have the licence. Publishes below `.proofmark/rehearsal`.
    #[arg(long)]
    rehearse: bool,
    /// Read the checkpoint (config.json, *.safetensors, tokenizer.json) from this directory
    #[arg(long, value_name = "DIR", conflicts_with = "rehearse")]
    checkpoint: Option<Utf8PathBuf>,
    /// Fetch nothing; use a checkpoint that is there (also `HF_HUB_OFFLINE=1`)
    #[arg(long, conflicts_with = "checkpoint")]
    offline: bool,
    /// Export even if nothing has changed
    #[arg(long)]
    force: bool,
    /// Print the plan and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Largest resident memory of the Python worker [default: 8000000000]
    #[arg(long, value_name = "BYTES")]
    memory_max: Option<u64>,
    /// Print events as JSON lines on standard output
    #[arg(long)]
    json: bool,
    /// Stop the worker after this time without output or CPU use [default: 300]
    #[arg(long, value_name = "SECONDS")]
    stall_timeout: Option<u64>,
}

/// What runs the exported file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Runtime {
    /// A `.pte` for the app
    Executorch,
    /// A `.gguf` for llama.cpp
    Llamacpp,
}

impl Args {
    /// Bounds of the Python worker.
    fn bounds(&self) -> Bounds {
        Bounds {
            memory_bytes_max: self.memory_max.unwrap_or(MEMORY_BYTES_MAX),
            stall: Duration::from_secs(self.stall_timeout.unwrap_or(STALL_SECONDS)),
        }
    }

    /// Why a bound that was asked for cannot be kept: it is refused, not ignored.
    fn unbounded(&self, sees_memory: bool) -> Option<String> {
        let ask = self.memory_max.is_some() && !sees_memory;
        ask.then(|| {
            "--memory-max: this system does not tell how much memory the worker takes (no /proc)".to_owned()
        })
    }

    /// As if `cargo xtask export` had been typed.
    pub(crate) fn of_default_model() -> Self {
        Self::typed(&[])
    }

    /// As if `cargo xtask export --runtime llamacpp` had been typed.
    pub(crate) fn of_reserve() -> Self {
        Self::typed(&["--runtime", "llamacpp"])
    }

    /// As if `cargo xtask export MODEL --rehearse --force` had been typed.
    pub(crate) fn of_rehearsal(model: &str) -> Self {
        Self::typed(&[model, "--rehearse", "--force"])
    }

    fn typed(arguments: &[&str]) -> Self {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: Args,
        }
        <Line as clap::Parser>::parse_from(std::iter::once(&"export").chain(arguments)).args
    }
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Outcome {
    run_with(workspace, args, Console::new(args.json))
}

/// As [`run`], for a command that has a console already.
pub(crate) fn run_with(workspace: &Workspace, args: &Args, console: Console) -> Outcome {
    if args.runtime == Runtime::Llamacpp {
        // No worker runs: the conversion streams.
        for (flag, given) in [("--memory-max", args.memory_max), ("--stall-timeout", args.stall_timeout)] {
            if given.is_some() {
                usage(&format!("{flag} bounds the Python worker, which `--runtime llamacpp` does not need"));
            }
        }
    }
    if let Some(refusal) = args.unbounded(supervise::sees_memory()) {
        usage(&refusal);
    }
    let dir = ModelDir::new(workspace.models(), &args.model);
    let recipe = dir.recipe().map_err(refused)?;
    let policy = dir.policy().map_err(refused)?;
    policy.admits(&recipe)?;
    if args.runtime == Runtime::Llamacpp {
        // Before a checkpoint is fetched for a recipe that no GGUF is written for.
        reserve::expect(&recipe, None, None).map_err(|message| unusable(anyhow!("{message}"), &recipe))?;
    }
    let dir = if args.rehearse { ModelDir::new(workspace.rehearsals(), &args.model) } else { dir };
    let source = if args.rehearse { recipe.rehearsal().source } else { recipe.source.clone() };
    let work = workspace.state().join("work").join(&args.model);
    if args.dry_run
        && let (Source::Hub { .. }, None) = (&source, &args.checkpoint)
        && fetched::made_from_gguf(workspace, &recipe.name)?.is_none()
    {
        // What the worker would be asked depends on files that a dry run does not fetch.
        let plan = fetched::Plan::new(&recipe, &workspace.weights(), args.offline, String::new());
        let plan = plan.map(|plan| plan.describe()).transpose()?;
        println!("{}", serde_json::to_string_pretty(&plan)?);
        return Ok(());
    }
    let checkpoint = checkpoint(workspace, &dir, &recipe, &source, args, &console)?;
    let read = checkpoint.as_ref().map(|folder| Inputs::read(&dir, &recipe, folder, &console));
    let read = read.transpose().map_err(|error| unusable(error, &recipe))?;
    if let (Some(inputs), Source::Path { .. }, Some(pins), None) =
        (&read, &source, source.pins(), &args.checkpoint)
    {
        inputs.are(pins).map_err(|error| unusable(error, &recipe))?;
    }
    if args.runtime == Runtime::Llamacpp {
        let work = workspace.state().join("work").join(format!("{}-gguf", args.model));
        let inputs = read;
        let job = gguf::Job { workspace, dir, recipe, policy, source, checkpoint, inputs, work, console };
        let outcome = if args.dry_run { job.describe() } else { job.run(args.force) };
        job.console.done();
        return outcome;
    }
    let inputs = inputs_digest(read.as_ref(), &recipe, &source, workspace)?;
    let job = Job { workspace, dir, recipe, policy, source, checkpoint, read, inputs, work, console };
    if args.dry_run {
        println!("{}", serde_json::to_string_pretty(&job.request()?)?);
        return Ok(());
    }
    let published = job.dir.manifest().ok().flatten();
    if let Some(manifest) = &published
        && !args.force
        && manifest.export.inputs == inputs
        && is_proved(&job.dir)
    {
        job.console.unchanged(&manifest.file, manifest.sha256);
        return Ok(());
    }
    preflight(&job, args)?;
    let receipt = setup::ensure(workspace)?;
    let _lock = lock::model(workspace, &args.model)?;
    attempts(&job, args, &receipt)
}

/// Where the weights are read from; `None` for random ones.
fn checkpoint(
    workspace: &Workspace,
    dir: &ModelDir,
    recipe: &Recipe,
    source: &Source,
    args: &Args,
    console: &Console,
) -> Result<Option<Utf8PathBuf>, Failure> {
    match (source, &args.checkpoint) {
        (Source::Random { .. }, _) => Ok(None),
        (_, Some(given)) => {
            let found = given.canonicalize_utf8();
            Ok(Some(
                found
                    .with_context(|| format!("{given}: cannot be opened, expected a checkpoint directory"))?,
            ))
        }
        (Source::Path { path, .. }, None) => {
            let folder = dir.path().join(path);
            if !folder.is_dir() && source.pins().is_some() {
                return Err(not_here(&folder, recipe));
            }
            Ok(Some(folder))
        }
        (Source::Gguf { .. }, None) => fetched::of_gguf(workspace, recipe).map(Some),
        (Source::Hub { .. }, None) => fetched::checkpoint(workspace, recipe, args.offline, console),
    }
}

/// A checkpoint that its recipe knows by digests: it lay on the machine where the recipe was written.
fn not_here(folder: &Utf8Path, recipe: &Recipe) -> Failure {
    let error = anyhow!(
        "{folder}: no such folder, expected the checkpoint whose digests the recipe has, or a link to it"
    );
    let hint =
        format!("run: cargo xtask export {} --checkpoint DIR, or for good: ln -s DIR {folder}", recipe.name);
    Failure::new(Exit::Fetch, error, hint)
}

/// A checkpoint that no export can be made of: nothing was started, and nothing helps but another one.
fn unusable(error: anyhow::Error, recipe: &Recipe) -> Failure {
    let hint = format!("fix the checkpoint or the recipe and run: cargo xtask export {}", recipe.name);
    Failure::new(Exit::Export, error, hint)
}

/// Refuses to start what cannot end well.
fn preflight(job: &Job<'_>, args: &Args) -> Outcome {
    let bound = args.bounds().memory_bytes_max;
    let disk = predict::free_disk_bytes(&job.workspace.state());
    let published = predict::free_disk_bytes(&job.workspace.models());
    // The bound is the worker's; the engine that proves the file has none but the machine's.
    suffices("--memory-max", Some(bound), predict::worker_anon_bytes(&job.recipe), &job.recipe)?;
    let needed = predict::export_anon_bytes(&job.recipe);
    suffices("memory", predict::free_memory_bytes(), needed, &job.recipe)?;
    suffices("disk", disk, predict::export_disk_bytes(&job.recipe), &job.recipe)?;
    suffices("disk of the models", published, predict::file_bytes(&job.recipe), &job.recipe)?;
    Ok(supervise::watch_interrupts()?)
}

/// Refuses an export that will need more than there is.
fn suffices(what: &str, free: Option<u64>, needed: u64, recipe: &Recipe) -> Outcome {
    let Some(free) = free.filter(|free| *free < needed) else { return Ok(()) };
    let name = &recipe.name;
    let error = anyhow!("{what}: got {free} bytes, expected at least {needed} for `{name}`");
    Err(Failure::new(Exit::Export, error, format!("run: cargo xtask doctor {name}")))
}

/// The report of an export that failed for good: what a person needs to take it from here.
fn escalation(job: &Job<'_>, told: &str, story: &[String]) -> String {
    let log = fs::read_to_string(job.work.join(LOG_FILE)).unwrap_or_default();
    let lines: Vec<_> = log.lines().collect();
    let tail = lines.get(lines.len().saturating_sub(LOG_TAIL_LINES)..).unwrap_or_default().join("\n");
    let advice = advice(&job.recipe);
    format!(
        "{told}; nothing was published\n\n{}\n\nwhat to do: {advice}\n\n\
         last lines of the log:\n{tail}\n",
        story.join("\n\n"),
    )
}

fn advice(recipe: &Recipe) -> String {
    let name = &recipe.name;
    let mut advice = format!(
        "fix the cause named above and run `cargo xtask export {name}`; if memory was short, run it on a larger machine"
    );
    // A recipe that no GGUF is written for, such as an int4, has no reserve.
    if reserve::expect(recipe, None, None).is_ok() {
        advice += &format!(
            "; if ExecuTorch itself is in the way, the reserve is a GGUF of the same checkpoint for llama.cpp: \
             `cargo xtask export {name} --runtime llamacpp`"
        );
    }
    advice
}

/// Tries, and tries again what the machine was to blame for: what was refused would be refused again.
fn attempts(job: &Job<'_>, args: &Args, receipt: &Receipt) -> Outcome {
    let (name, mut story) = (&job.recipe.name, Vec::new());
    for attempt in 1..=ATTEMPTS_MAX {
        job.console.attempt(name, attempt, ATTEMPTS_MAX);
        let error = match job.attempt(args, attempt, receipt) {
            Ok(manifest) => {
                fs::remove_dir_all(&job.work).with_context(|| format!("{}: cannot be removed", job.work))?;
                job.console.published(&manifest);
                return Ok(());
            }
            Err(error) => error,
        };
        if supervise::INTERRUPTED.load(Ordering::Relaxed) {
            let hint = format!("nothing was published; run again: cargo xtask export {name}");
            return Err(Failure::new(Exit::Interrupted, error, hint));
        }
        job.console.attempt_failed(attempt, &format!("{error:#}"));
        story.push(format!("attempt {attempt}: {error:#}"));
        if failed::cause(&error) == Cause::Inputs {
            let told = format!("export of `{name}` was refused: the same inputs would be refused again");
            return Err(given_up(job, &told, &story));
        }
    }
    Err(given_up(job, &format!("export of `{name}` failed {ATTEMPTS_MAX} times"), &story))
}

/// Leaves the report, and says where.
fn given_up(job: &Job<'_>, told: &str, story: &[String]) -> Failure {
    let report = job.work.join("escalation.txt");
    let hint = format!("read {report} and {}", job.work.join(LOG_FILE));
    let error = anyhow!("{told}; nothing was published");
    match fs::write(&report, escalation(job, told, story)) {
        Ok(()) => Failure::new(Exit::Export, error, hint),
        Err(io) => Failure::new(Exit::Export, error.context(format!("{report}: {io}")), hint),
    }
}

/// Whether what is published is what its manifest says.
fn is_proved(dir: &ModelDir) -> bool {
    let Ok(model) = Published::read(dir.clone()) else { return false };
    let claim = &model.claim;
    let current = EvidenceBinding::current(claim.manifest.sha256, claim.bound());
    let fresh = claim.manifest.evidence.as_ref().is_some_and(|evidence| evidence.bound == current);
    let whole = || model.prove().is_ok_and(|proof| proof.judge(claim, Profile::Dev).is_ok());
    fresh && model.reference().is_ok() && whole()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_bound_that_cannot_be_kept_is_refused() {
        let bounded = Args::typed(&["tiny", "--memory-max", "1000"]);
        assert!(bounded.unbounded(false).unwrap().starts_with("--memory-max: "));
        assert_eq!((bounded.unbounded(true), Args::typed(&["tiny"]).unbounded(false)), (None, None));
    }

    #[test]
    fn the_reserve_is_advised_where_there_is_one() {
        let advised = |name: &str| {
            let path = format!("{}/../model-assets/models/{name}/recipe.toml", env!("CARGO_MANIFEST_DIR"));
            advice(&Recipe::parse(&fs::read_to_string(path).unwrap()).unwrap())
        };
        assert!(advised("tiny").ends_with("`cargo xtask export tiny --runtime llamacpp`"));
        let int4 = advised("llama3.2-1b-int4");
        assert!(
            int4.contains("cargo xtask export llama3.2-1b-int4`") && !int4.contains("llamacpp"),
            "{int4}"
        );
    }
}
