//! `cargo xtask dev mutate`: the mutation study. Every byte of small models, or of programs of one operator each, is
//! changed; what the verifier accepts is run in the real runtime, in a child process.
//!
//! **Invariant:** the same files, seed and figures give the same mutants; a crash, an endless run or an answer that
//! depends on the heap's old contents in what the structure level accepted makes the command fail.

mod corpus;
mod mutant;
mod probe;
mod programs;
mod table;

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{
    pte::{self, Expect, Level, Operators},
    regular,
};

use crate::{
    engine,
    exit::{Exit, Failure, Outcome},
    setup,
    workspace::Workspace,
};
use corpus::Subject;
use mutant::{Layout, Mutant, Region};
use probe::{Probe, ProbeVerdict, Task};
use table::Tally;

pub(crate) use corpus::{digest_of, export_families};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Models to change [default: exports one of each kind]
    #[arg(conflicts_with = "operators")]
    files: Vec<Utf8PathBuf>,
    /// Change programs of one operator each
    ///
    /// Also tries 64-bit integers at their edges.
    #[arg(long, value_name = "WHICH")]
    operators: Option<programs::Operators>,
    /// Only programs of this operator; may be given again
    #[arg(long, value_name = "NAME", requires = "operators")]
    only: Vec<String>,
    /// Also run what is accepted with a warning
    #[arg(long)]
    unknown: bool,
    /// Values tried for each byte
    #[arg(long, default_value_t = 3)]
    values: usize,
    /// Values tried for each 32-bit word outside weights
    #[arg(long, default_value_t = 3)]
    words: usize,
    /// Seed of shapes, weights and random values
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Also run one in N refused mutants
    ///
    /// Counts what the runtime did, by the rule that refused.
    #[arg(long, value_name = "N")]
    refused_every: Option<usize>,
    /// Most mutants of each file, spread evenly over it
    #[arg(long)]
    limit: Option<usize>,
    /// Leave weight bytes out: no structure is in them
    #[arg(long)]
    no_weights: bool,
    /// Run one in N accepted mutants of weight bytes
    #[arg(long, default_value_t = 64)]
    weights_every: usize,
    /// Mutants studied at once
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Seconds after which a run counts as endless
    #[arg(long, default_value_t = 60)]
    run_timeout: u64,
    /// Export the models again
    #[arg(long)]
    reexport: bool,
    /// Keep the mutants that failed in this folder
    #[arg(long)]
    keep: Option<Utf8PathBuf>,
}

impl Args {
    /// A few changes of each exported model.
    pub(crate) fn smallest() -> Self {
        Self {
            files: Vec::new(),
            operators: None,
            only: Vec::new(),
            unknown: false,
            refused_every: None,
            values: 1,
            words: 1,
            seed: 1,
            limit: Some(40),
            no_weights: true,
            weights_every: 64,
            jobs: 2,
            run_timeout: 60,
            reexport: false,
            keep: None,
        }
    }

    /// A few changes of the programs of two operators, one judged in full and one of the engine's own.
    pub(crate) fn smallest_of_operators() -> Self {
        let only = ["aten::mm.out", "llama::update_cache.out"].map(str::to_owned).into();
        Self { operators: Some(programs::Operators::Judged), only, limit: Some(200), ..Self::smallest() }
    }
}

/// What a study needs beside its mutants.
struct Study<'a> {
    args: &'a Args,
    engine: Utf8PathBuf,
    scratch: Utf8PathBuf,
}

/// A mutant that the structure level accepted and that did harm.
struct Harm {
    id: String,
    verdict: ProbeVerdict,
    /// Whether the hash level accepts it as well.
    hash_accepts: bool,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Outcome {
    let open = |path: &Utf8Path| regular::open(path).with_context(|| format!("{path}: cannot be opened"));
    let mut given = args.files.iter().map(|path| open(path)).collect::<anyhow::Result<Vec<_>>>()?.into_iter();
    if args.files.is_empty() {
        setup::ensure(workspace)?;
    }
    let subjects = match args.operators {
        Some(wanted) => programs::export(workspace, wanted, &args.only, args.reexport)?,
        None if args.files.is_empty() => corpus::export(workspace, args.seed, args.reexport)?,
        None => args.files.iter().map(|path| Subject::given(path)).collect(),
    };
    let scratch = tempfile::tempdir()?;
    let scratch =
        Utf8Path::from_path(scratch.path()).context("the folder for temporary files is not UTF-8")?;
    if let Some(keep) = &args.keep {
        fs::create_dir_all(keep)?;
    }
    // A copy: a build that goes on meanwhile must not change what is studied.
    // It finds its libraries relative to where it is, so it stays there.
    let built = engine::build(workspace, engine::Profile::Dev, None)?;
    let folder = built.parent().context("the engine is in no folder")?;
    let copy = tempfile::Builder::new().prefix("engine-study-").tempfile_in(folder)?.into_temp_path();
    fs::copy(&built, &copy)?;
    let engine = Utf8Path::from_path(&copy).context("the engine's folder is not UTF-8")?.to_owned();
    let study = Study { args, engine, scratch: scratch.to_owned() };
    let (mut total, mut harms, mut by_operator) = (Tally::default(), Vec::new(), BTreeMap::new());
    for subject in &subjects {
        let file = given.next().map_or_else(|| open(&subject.path), Ok);
        let studied =
            file.and_then(|file| study.file(subject, file)).with_context(|| subject.path.to_string());
        let (tally, found) = match (studied, &subject.operator) {
            (Ok(studied), _) => studied,
            // Upstream's exporter writes programs that its runtime refuses; of those there is nothing to study.
            (Err(error), Some(_)) => {
                eprintln!("not studied: {error:#}");
                continue;
            }
            (Err(error), None) => return Err(error.into()),
        };
        total.merge(&tally);
        harms.extend(found);
        match &subject.operator {
            Some(operator) => {
                let entry: &mut (usize, Tally) = by_operator.entry(operator.clone()).or_default();
                entry.0 += 1;
                entry.1.merge(&tally);
            }
            None => println!("{}", table::file(subject, &tally)),
        }
    }
    println!(
        "{}",
        if by_operator.is_empty() { table::total(&total) } else { table::operators(&by_operator) }
    );
    if let Some(table) = table::differential(&total) {
        println!("### What is refused, in the runtime\n\n{table}");
    }
    if harms.is_empty() {
        return all_studied(args, &by_operator);
    }
    for Harm { id, verdict, hash_accepts } in &harms {
        let hash = if *hash_accepts { "accepts" } else { "rejects" };
        println!("- `{id}`: {verdict}; the hash level {hash} it");
    }
    let error = anyhow!("got {} accepted mutants that harm the runtime, expected none", harms.len());
    Err(Failure::new(
        Exit::Refused,
        error,
        "run again with --keep FOLDER and look at them: cargo xtask verify FILE --structure",
    ))
}

/// What is judged was studied: a program that cannot be exported any more must not pass unseen.
fn all_studied(args: &Args, studied: &BTreeMap<String, (usize, Tally)>) -> Outcome {
    if !matches!(args.operators, Some(programs::Operators::Judged)) {
        return Ok(());
    }
    let wanted = |name: &&str| args.only.is_empty() || args.only.iter().any(|only| only == name);
    let left: Vec<_> =
        pte::judged_operators().filter(wanted).filter(|name| !studied.contains_key(*name)).collect();
    if left.is_empty() {
        return Ok(());
    }
    let error =
        anyhow!("got no program to study of {}, expected one of each judged operator", left.join(", "));
    Err(Failure::new(Exit::Refused, error, "give its arguments in xtask/python/operators"))
}

fn expect(sha256: Option<[u8; 32]>) -> Expect {
    Expect { kernels: Some(pte::linked_runtime().clone()), sha256, ..Expect::default() }
}

impl Study<'_> {
    fn file(&self, subject: &Subject, mut file: fs::File) -> anyhow::Result<(Tally, Vec<Harm>)> {
        let mut good = Vec::new();
        file.read_to_end(&mut good).context("cannot be read")?;
        let report = pte::verify(&good, Level::Hash, &expect(None));
        if let Some(finding) = report.rejects().next() {
            return Err(anyhow!("the unchanged file is refused: {finding}"));
        }
        let summary = report.summary.context("the unchanged file cannot be read")?;
        let layout = Layout::of(&summary);
        let mutants = mutant::all(&good, &layout, self.args);
        eprintln!("{}: {} bytes, {} mutants", subject.name, good.len(), mutants.len());
        let judged = |sha256| Expect { operators: Operators::Judged, ..expect(sha256) };
        let expect = [expect(None), judged(None), judged(report.sha256)];
        // The engine takes models whose `forward` yields logits: their last dimension is the vocabulary.
        let forward = summary.plans.iter().find(|plan| plan.name == "forward");
        let vocab = forward.and_then(|plan| plan.outputs.first()?.shape.last().copied()).unwrap_or(0);
        let task = if subject.operator.is_some() { Task::Call } else { Task::Model { vocab } };
        let (layout, good, mutants) = (&layout, good.as_slice(), mutants.as_slice());
        let shared = Shared { study: self, subject, good, layout, mutants, task, expect };
        let next = AtomicUsize::new(0);
        let results = Mutex::new((Tally::default(), Vec::new()));
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..self.args.jobs.max(1))
                .map(|job| {
                    scope.spawn({
                        let (shared, next, results) = (&shared, &next, &results);
                        move || shared.work(job, next, results)
                    })
                })
                .collect();
            workers
                .into_iter()
                .try_for_each(|worker| worker.join().map_err(|_| anyhow!("a worker panicked"))?)
        })?;
        results.into_inner().map_err(|_| anyhow!("a worker panicked"))
    }
}

/// What the workers on one file share.
struct Shared<'a> {
    study: &'a Study<'a>,
    subject: &'a Subject,
    good: &'a [u8],
    layout: &'a Layout,
    mutants: &'a [Mutant],
    task: Task,
    /// As the linked runtime's operators go; only judged calls; those with the digest.
    expect: [Expect; 3],
}

/// Mutants taken at a time.
const BATCH: usize = 256;
const PROGRESS: Duration = Duration::from_secs(20);

impl Shared<'_> {
    fn work(
        &self,
        job: usize,
        next: &AtomicUsize,
        results: &Mutex<(Tally, Vec<Harm>)>,
    ) -> anyhow::Result<()> {
        let path = self.study.scratch.join(format!("{}-{job}.pte", self.subject.name));
        let timeout = Duration::from_secs(self.study.args.run_timeout);
        let mut probe = Probe::start(&self.study.engine, &self.subject.path, &path, self.task, timeout)?;
        let mut bytes = self.good.to_vec();
        let mut shown = Instant::now();
        loop {
            let from = next.fetch_add(BATCH, Ordering::Relaxed);
            let batch = self.mutants.iter().enumerate().skip(from).take(BATCH);
            if batch.len() == 0 {
                return Ok(());
            }
            let (mut tally, mut harms) = (Tally::default(), Vec::new());
            for (number, mutant) in batch {
                mutant.apply(&mut bytes);
                let harm = self.one(number, mutant, &bytes, &mut probe, &mut tally)?;
                harms.extend(harm);
                mutant.undo(self.good, &mut bytes);
            }
            let mut results = results.lock().map_err(|_| anyhow!("a worker panicked"))?;
            results.0.merge(&tally);
            results.1.extend(harms);
            if job == 0 && shown.elapsed() > PROGRESS {
                shown = Instant::now();
                eprintln!(
                    "  {} of {}, harmful: {}",
                    results.0.mutants(),
                    self.mutants.len(),
                    results.1.len()
                );
            }
        }
    }

    /// Judges one mutant and, when it is accepted, runs it.
    fn one(
        &self,
        number: usize,
        mutant: &Mutant,
        bytes: &Vec<u8>,
        probe: &mut Probe,
        tally: &mut Tally,
    ) -> anyhow::Result<Option<Harm>> {
        let region = self.layout.region(mutant.at());
        let row = tally.row(region);
        row.mutants += 1;
        let [linked, judged, digest] = &self.expect;
        let report = pte::verify(bytes, Level::Structure, linked);
        if let Some(finding) = report.rejects().next() {
            row.structure += 1;
            if self.study.args.refused_every.is_some_and(|every| number.is_multiple_of(every.max(1))) {
                tally.refused(finding.id, &probe.run(bytes)?);
            }
            return Ok(None);
        }
        if report.has(pte::CheckId::X16) {
            row.unknown += 1;
            if self.study.args.unknown {
                row.count_unknown(&probe.run(bytes)?);
            }
            return Ok(None);
        }
        let hash_accepts = pte::verify(bytes, Level::Hash, judged).is_accepted();
        row.hash += u64::from(!hash_accepts);
        row.digest += u64::from(!pte::verify(bytes, Level::Hash, digest).is_accepted());
        let sampled = number.is_multiple_of(self.study.args.weights_every.max(1));
        if matches!(region, Region::Weights | Region::Constants) && !sampled {
            return Ok(None);
        }
        let verdict = probe.run(bytes)?;
        row.count(&verdict);
        if !verdict.is_harm() {
            return Ok(None);
        }
        let id = mutant.id(&self.subject.name);
        eprintln!("  {id}: {verdict}");
        if let Some(keep) = &self.study.args.keep {
            fs::write(keep.join(format!("{id}.pte")), bytes)?;
        }
        Ok(Some(Harm { id, verdict, hash_accepts }))
    }
}
