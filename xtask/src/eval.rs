//! `cargo xtask eval`: measures the quality of a model's answers and shows it; `verify` records it.

use std::fs;

use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{check::Profile, dir::ModelDir, evidence::Task, recipe::EvidenceKind};

use crate::{
    console::Console,
    engine::{self, Engine, Files},
    evidence::{
        Bench, Checkpoint, Measured, quality,
        yardstick::{self, Amount},
    },
    exit::Outcome,
    published::{Published, failed},
    verify,
    workspace::Workspace,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    test: Test,
}

#[derive(clap::Subcommand)]
enum Test {
    /// Let the model rate emotions in dialogues, and talk for ten turns
    Eq(Asked),
    /// Compare with the unquantized model on real text
    ///
    /// Perplexity ratio, KL divergence, and share of tokens with the same best next token.
    Quality {
        #[command(flatten)]
        asked: Asked,
        /// Another text, whose figures are not judged
        ///
        /// JSON lines with `id`, and `text` or `messages`.
        #[arg(long, value_name = "FILE")]
        text: Option<Utf8PathBuf>,
    },
    /// Count the replies that the grammar of the model's world accepts
    Grammar(Asked),
    /// Perplexity on a public data set, beside the unquantized model
    Perplexity {
        #[command(flatten)]
        asked: Asked,
        /// The data set
        #[arg(long, value_enum, default_value_t = TextSet::Wikitext2)]
        dataset: TextSet,
        /// Tokens of a window
        #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(2..))]
        window: u32,
        /// Words of the text [default: what takes some minutes]
        #[arg(long, value_name = "N")]
        words: Option<usize>,
    },
    /// Ask a sample of MMLU, multiple choice without examples
    MmluTiny(Counted),
    /// Ask a sample of ARC-Challenge, multiple choice without examples
    ArcChallenge(Counted),
    /// Give instructions of IFEval that a program can check
    IfevalLite(Counted),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum TextSet {
    /// WikiText-2, raw, test split
    #[value(name = "wikitext-2-raw-v1")]
    Wikitext2,
}

#[derive(clap::Args)]
struct Asked {
    /// The model: a directory of `model-assets/models`
    #[arg(default_value = "tiny")]
    model: String,
    /// The checkpoint that was exported, where the recipe names none
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<Utf8PathBuf>,
}

#[derive(clap::Args)]
struct Counted {
    #[command(flatten)]
    asked: Asked,
    /// Items, spread evenly over the set [default: what takes some minutes]
    #[arg(long, value_name = "N")]
    items: Option<usize>,
}

/// What is measured.
enum What<'a> {
    Kind(EvidenceKind),
    Text(&'a Utf8Path),
    Task(Task, Amount),
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Outcome {
    let counted = |task, counted: &Counted| What::Task(task, Amount { items: counted.items, window: None });
    let (asked, what) = match &args.test {
        Test::Eq(asked) => (asked, What::Kind(EvidenceKind::Eq)),
        Test::Quality { asked, text: None } => (asked, What::Kind(EvidenceKind::Quality)),
        Test::Quality { asked, text: Some(text) } => (asked, What::Text(text)),
        Test::Grammar(asked) => (asked, What::Kind(EvidenceKind::Grammar)),
        Test::Perplexity { asked, dataset: TextSet::Wikitext2, window, words } => {
            (asked, What::Task(Task::Wikitext2, Amount { items: *words, window: Some(*window) }))
        }
        Test::MmluTiny(it) => (&it.asked, counted(Task::MmluTiny, it)),
        Test::ArcChallenge(it) => (&it.asked, counted(Task::ArcChallenge, it)),
        Test::IfevalLite(it) => (&it.asked, counted(Task::IfevalLite, it)),
    };
    let model = Published::open(workspace, &asked.model, false)?.without_evidence();
    let Published { dir, claim, .. } = &model;
    // Nothing is run that was not proved first.
    let proof = model.prove()?;
    proof.judge(claim, Profile::Dev)?;
    let console = Console::new(false);
    let files = Files::of(dir, claim, proof.path().to_owned());
    let bench = Bench { workspace, dir, claim, files, console: &console };
    let checkpoint = Checkpoint(asked.checkpoint.clone());
    match what {
        What::Kind(kind) => {
            let mut claim = claim.clone();
            claim.manifest.evidence = Some(of_kind(&bench, kind, &model.reference()?, &checkpoint)?);
            proof.judge(&claim, Profile::Dev).map(|_| ())
        }
        What::Text(text) => finish(&bench, of_text(&bench, text, &checkpoint)),
        What::Task(task, amount) => finish(&bench, of_task(&bench, task, amount, &checkpoint)),
    }
}

fn of_kind(
    bench: &Bench<'_>,
    kind: EvidenceKind,
    reference: &Utf8Path,
    checkpoint: &Checkpoint,
) -> Result<model_assets::manifest::Evidence, crate::exit::Failure> {
    let Bench { workspace, dir, claim, console, .. } = bench;
    let measured = bench.measure(&[kind], reference, checkpoint);
    console.done();
    let Measured { evidence, transcript } = measured.map_err(|error| failed(dir, error))?;
    verify::show(&evidence, claim);
    if let Some(text) = transcript {
        keep(workspace, dir, model_assets::eq::TRANSCRIPT_FILE, &text)?;
    }
    if evidence.quality.is_some() {
        println!("{}", quality::tokens_file(&bench.subject())?);
    }
    Ok(evidence)
}

fn of_text(bench: &Bench<'_>, text: &Utf8Path, checkpoint: &Checkpoint) -> anyhow::Result<()> {
    let engine = Engine::open(bench.workspace, engine::Profile::Dev, bench.console)?;
    let (runtime, subject) = (quality::runtime(bench, &engine), bench.subject());
    let sha256 = quality::digest(text)?;
    let (text, parameters) = (text.canonicalize_utf8()?, bench.claim.manifest.export.parameters);
    let measured = quality::of_text(&subject, &runtime, parameters, checkpoint, &text, sha256)?;
    bench.console.done();
    println!("quality: {}", measured.figures());
    println!("{}", quality::tokens_file(&subject)?);
    Ok(())
}

fn of_task(bench: &Bench<'_>, task: Task, amount: Amount, checkpoint: &Checkpoint) -> anyhow::Result<()> {
    let engine = Engine::open(bench.workspace, engine::Profile::Dev, bench.console)?;
    let measured = yardstick::measure(bench, &engine, task, checkpoint, amount)?;
    bench.console.done();
    measured.lines().iter().for_each(|line| println!("{line}"));
    let text = serde_json::to_vec_pretty(&measured)?;
    keep(bench.workspace, bench.dir, &format!("{}.json", task.as_str()), &text)
}

fn finish(bench: &Bench<'_>, outcome: anyhow::Result<()>) -> Outcome {
    bench.console.done();
    outcome.map_err(|error| failed(bench.dir, error))
}

/// Leaves what was measured below `.proofmark`, and says where.
fn keep(workspace: &Workspace, dir: &ModelDir, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
    let folder = workspace.state().join("eval").join(dir.name());
    fs::create_dir_all(&folder)?;
    let place = folder.join(name);
    fs::write(&place, bytes)?;
    println!("{place}");
    Ok(())
}
