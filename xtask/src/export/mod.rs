//! `cargo xtask export`: recipe → plan → Python worker → `.pte` → static proof → publish.
//!
//! **Invariant:** a model's directory changes only through `publish` (for the reserve, `gguf::Job::publish`), and both take a
//! `Validated`. Killed at any instant, the directory holds the old proven `.pte` or the new one, with its own tokenizer.
//!
//! **Invariant:** what is published was loaded and run by the engine, and its logits agree with the eager model's.

mod gguf;
mod inputs;
mod job;
mod plan;
mod publish;
#[cfg(test)]
mod template_tests;
mod weights;

use std::{fs, sync::atomic::Ordering, time::Duration};

use anyhow::{Context as _, anyhow};
use camino::Utf8PathBuf;
use model_assets::{
    check::Profile,
    dir::ModelDir,
    manifest::{EvidenceBinding, LOG_FILE},
    recipe::Recipe,
    reserve,
};

use crate::{
    console::Console,
    exit::{Exit, Failure, Outcome, usage},
    failed::{self, Cause},
    lock, predict,
    published::Published,
    setup::{self, Receipt},
    supervise::{self, Bounds},
    workspace::Workspace,
};

use self::{
    job::Job,
    plan::{ExportPlan, Target},
};

pub(crate) use self::publish::{
    WORK_PTE, WORK_REFERENCE, WORK_TOKENIZER, publish, replace, settle, write_manifest,
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
    /// Largest anonymous memory of the Python worker, bytes [default: 8000000000]
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

    /// Ends the process over a flag that has no meaning here: no worker runs where the conversion streams.
    fn demand_flags_of_the_runtime(&self) {
        if self.runtime == Runtime::Executorch {
            return;
        }
        for (flag, given) in [("--memory-max", self.memory_max), ("--stall-timeout", self.stall_timeout)] {
            if given.is_some() {
                usage(&format!("{flag} bounds the Python worker, which `--runtime llamacpp` does not need"));
            }
        }
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
    args.demand_flags_of_the_runtime();
    if let Some(refusal) = args.unbounded(supervise::sees_memory()) {
        usage(&refusal);
    }
    if args.dry_run {
        println!("{}", plan::describe(workspace, args, &console)?);
        return Ok(());
    }
    let plan = ExportPlan::new(workspace, args, &console)?;
    let outcome = match &plan.target {
        Target::Pte(worker) => by_worker(&Job { workspace, console: &console, plan: &plan, worker }),
        Target::Gguf => gguf::Job { workspace, console: &console, plan: &plan }.run(),
    };
    console.done();
    outcome
}

/// Exports a `.pte`, unless the published one is of these very inputs.
fn by_worker(job: &Job<'_>) -> Outcome {
    let Job { workspace, console, plan, worker } = job;
    let published = plan.dir.manifest().ok().flatten();
    if let Some(manifest) = &published
        && !plan.force
        && manifest.export.inputs == worker.inputs
        && is_proved(&plan.dir)
    {
        console.unchanged(&manifest.file, manifest.sha256);
        return Ok(());
    }
    preflight(job)?;
    let receipt = setup::ensure(workspace)?;
    let _lock = lock::model(workspace, plan.dir.name())?;
    attempts(job, &receipt)
}

/// A checkpoint that no export can be made of: nothing was started, and nothing helps but another one.
fn unusable(error: anyhow::Error, recipe: &Recipe) -> Failure {
    let hint = format!("fix the checkpoint or the recipe and run: cargo xtask export {}", recipe.name);
    Failure::new(Exit::Export, error, hint)
}

/// Refuses to start what cannot end well.
fn preflight(job: &Job<'_>) -> Outcome {
    let (workspace, recipe, policy) = (job.workspace, &job.plan.recipe, &job.plan.policy);
    let bound = job.worker.bounds.memory_bytes_max;
    let disk = predict::free_disk_bytes(&workspace.state());
    let published = predict::free_disk_bytes(&workspace.models());
    // The bound is the worker's; the engine that proves the file has none but the machine's.
    suffices("--memory-max", Some(bound), predict::worker_anon_bytes(recipe), recipe)?;
    suffices("memory", predict::free_memory_bytes(), predict::export_anon_bytes(recipe, policy), recipe)?;
    suffices("disk", disk, predict::export_disk_bytes(recipe), recipe)?;
    suffices("disk of the models", published, predict::file_bytes(recipe), recipe)?;
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
fn escalation(job: &Job<'_>, summary: &str, story: &[String]) -> String {
    let log = fs::read_to_string(job.plan.work.join(LOG_FILE)).unwrap_or_default();
    let lines: Vec<_> = log.lines().collect();
    let tail = lines.get(lines.len().saturating_sub(LOG_TAIL_LINES)..).unwrap_or_default().join("\n");
    let advice = advice(&job.plan.recipe);
    format!(
        "{summary}; nothing was published\n\n{}\n\nwhat to do: {advice}\n\n\
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
fn attempts(job: &Job<'_>, receipt: &Receipt) -> Outcome {
    let (name, mut story) = (&job.plan.recipe.name, Vec::new());
    for attempt in 1..=ATTEMPTS_MAX {
        job.console.attempt(name, attempt, ATTEMPTS_MAX);
        let error = match job.attempt(attempt, receipt) {
            Ok(manifest) => {
                fs::remove_dir_all(&job.plan.work)
                    .with_context(|| format!("{}: cannot be removed", job.plan.work))?;
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
            let summary = format!("export of `{name}` was refused: the same inputs would be refused again");
            return Err(given_up(job, &summary, &story));
        }
    }
    Err(given_up(job, &format!("export of `{name}` failed {ATTEMPTS_MAX} times"), &story))
}

/// Leaves the report, and says where.
fn given_up(job: &Job<'_>, summary: &str, story: &[String]) -> Failure {
    let report = job.plan.work.join("escalation.txt");
    let hint = format!("read {report} and {}", job.plan.work.join(LOG_FILE));
    let error = anyhow!("{summary}; nothing was published");
    match fs::write(&report, escalation(job, summary, story)) {
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
