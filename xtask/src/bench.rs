//! `cargo xtask bench`: speed, memory and energy of a model in the runtime that ships, as JSON, Markdown and a plot.
//!
//! A linked model is measured with its packed weights in a file, as the app runs it; a `.pte` given by its path is taken for
//! one, because only a linked model is a file of its own.
//!
//! What it shows is not recorded: `verify --level release` measures on its own and records that.

mod against;
mod export_llm;
mod llamacpp;
mod page;
mod plot;
mod python;

use std::fs;

use anyhow::Context as _;
use camino::{Utf8Path, Utf8PathBuf};
use clap::ValueEnum as _;
use model_assets::{digest::Digest, dir::ModelDir};

use crate::{
    console::Console,
    engine::{Engine, Files, Measured, Profile},
    evidence::benchmark::REPEATS,
    exit::{Exit, Failure, Outcome, usage},
    published::{Published, failed},
    setup,
    workspace::Workspace,
};

use self::{
    against::{Against, Comparison},
    page::page,
};

pub(crate) use self::plot::svg;

const MB: f64 = 1e6;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A model's name, or the path of a `.pte` file
    ///
    /// A file is run as a linked model is: with packed weights in a file.
    #[arg(default_value = "tiny")]
    model: Utf8PathBuf,
    /// Timed repeats of each case, after one that is not timed [default: 5]
    ///
    /// With `--against`: rounds of one repeat of either side. A ratio is the median of the rounds, because a machine's speed
    /// changes from minute to minute.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeats: Option<u32>,
    /// Threads [default: one for a small model, else the performance cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: Option<u32>,
    /// Also show where a decoded token's time goes
    ///
    /// Operator by operator, and the share outside XNNPACK.
    #[arg(long, conflicts_with = "against")]
    profile: bool,
    /// Use the rehearsal of the model
    #[arg(long)]
    rehearsed: bool,
    /// Compare with another tool, both sides in one run
    #[arg(long, value_enum, value_name = "TOOL")]
    against: Option<Against>,
    /// Where to write the figures [default: .proofmark/bench/MODEL]
    #[arg(long, value_name = "DIR", conflicts_with = "against")]
    out: Option<Utf8PathBuf>,
    /// Print the figures as one JSON document
    #[arg(long)]
    json: bool,
}

impl Args {
    fn is_file(&self) -> bool {
        self.model.extension() == Some("pte")
    }

    /// Refuses flags that mean nothing for the other tool.
    fn check(&self) {
        let Some(against) = self.against else { return };
        let tool = against.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned());
        if self.is_file() && against != Against::Python {
            usage(&format!("`--against {tool}` needs a model's name, and not a file: {}", self.model));
        }
        let given = [
            ("--repeats", self.repeats.is_some()),
            ("--threads", self.threads.is_some()),
            ("--rehearsed", self.rehearsed),
        ];
        if let (Against::ExportLlm, Some((flag, _))) = (against, given.iter().find(|(_, given)| *given)) {
            usage(&format!("{flag} means nothing with `--against {tool}`: either side exports once"));
        }
    }
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Outcome {
    args.check();
    let console = Console::beside_answer(args.json);
    if args.against == Some(Against::ExportLlm) {
        let compared = export_llm::compare(workspace, args.model.as_str(), &console);
        console.done();
        return show(&compared?, args.json);
    }
    let models = if args.rehearsed { workspace.rehearsals() } else { workspace.models() };
    // A model's name may have a dot in it, which ends no stem.
    let name = if args.is_file() { args.model.file_stem() } else { args.model.file_name() };
    let name = name.context("the model has no name")?;
    let dir = ModelDir::new(models, args.model.as_str());
    let files = if args.is_file() { file(&args.model)? } else { published(&dir)? };
    let repeats = args.repeats.unwrap_or(REPEATS);
    if args.against == Some(Against::Python) {
        setup::ensure(workspace)?;
        let compared = python::compare(workspace, &files, (repeats, args.threads), &console);
        console.done();
        return show(&compared.map_err(|error| failed(&dir, error))?, args.json);
    }
    if args.against == Some(Against::Llamacpp) {
        let compared = llamacpp::compare(workspace, &dir, &files, (repeats, args.threads), &console);
        console.done();
        return show(&compared?, args.json);
    }
    console.step("engine: build");
    let measured = measure(workspace, &files, (repeats, args.threads), args.profile, &console);
    console.done();
    let measured = measured.map_err(|error| failed(&dir, error))?;
    let out = args.out.clone().unwrap_or_else(|| workspace.state().join("bench").join(name));
    write(&out, &measured)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&measured)?);
    } else {
        print!("{}", page(&measured));
        println!("{out}: bench.json, bench.md, bench.svg");
    }
    Ok(())
}

fn measure(
    workspace: &Workspace,
    files: &Files,
    (repeats, threads): (u32, Option<u32>),
    profile: bool,
    console: &Console,
) -> anyhow::Result<Measured> {
    let engine = Engine::open(workspace, Profile::Release, console)?;
    let mut measured = engine.bench(files, repeats, threads, console)?;
    if profile {
        measured.profile = Some(engine.profile(files, threads, console)?);
    }
    Ok(measured)
}

fn show(comparison: &Comparison, json: bool) -> Outcome {
    if json {
        println!("{}", serde_json::to_string_pretty(comparison)?);
    } else {
        print!("{}", against::markdown(comparison));
    }
    Ok(())
}

/// A file without a claim must at least be sound before it is run.
fn file(path: &Utf8Path) -> Result<Files, Failure> {
    use model_assets::{pte, regular};
    let pte = regular::open(path).with_context(|| format!("{path}: cannot be opened"))?;
    let expect = pte::Expect { kernels: Some(pte::linked_runtime().clone()), ..pte::Expect::default() };
    let report = pte::verify(&pte, pte::Level::Hash, &expect);
    if report.is_accepted()
        && let Some(sha256) = report.sha256
    {
        let sha256 = Digest::from_bytes(sha256);
        return Ok(Files { pte: path.to_owned(), sha256, words: None, linked: true });
    }
    let error =
        anyhow::anyhow!("{path}: got {} findings that reject, expected none", report.rejects().count());
    Err(Failure::new(Exit::Refused, error, format!("run: cargo xtask verify {path}")))
}

fn published(dir: &ModelDir) -> Result<Files, Failure> {
    // Speed is measured on what the bytes prove; evidence that failed is another command's matter.
    let model = Published::read(dir.clone())?.without_evidence();
    let proof = model.prove()?;
    proof.judge(&model.claim, model_assets::check::Profile::Dev)?;
    Ok(Files::of(dir, &model.claim, proof.path().to_owned()))
}

fn write(out: &Utf8Path, measured: &Measured) -> anyhow::Result<()> {
    fs::create_dir_all(out).with_context(|| format!("{out}: cannot be made"))?;
    let mut json = serde_json::to_string_pretty(measured)?;
    json.push('\n');
    for (name, text) in
        [("bench.json", json), ("bench.md", page(measured)), ("bench.svg", svg(&measured.benchmark)?)]
    {
        let place = out.join(name);
        fs::write(&place, text).with_context(|| format!("{place}: cannot be written"))?;
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use model_assets::evidence::{
        Benchmark, Energy, Machine, MemorySteps, Resident, Roofline, Speed, SweepStep,
    };

    use super::*;

    /// Figures of no machine in particular.
    pub(crate) fn sample() -> Benchmark {
        let speed = |name: &str, tokens, mean: f64| Speed {
            name: name.to_owned(),
            tokens,
            repeats: 5,
            mean,
            sd: mean / 50.0,
            min: mean * 0.9,
            max: mean * 1.1,
        };
        let resident = Resident { anonymous_bytes: 9_000_000, file_bytes: 7_000_000 };
        Benchmark {
            runtime: "1.5.1".into(),
            pte_sha256: "00".repeat(32),
            file_bytes: 2_222_464,
            machine: Machine {
                processor: "A <fast> processor & co".into(),
                architecture: "x86_64".into(),
                processors: 2,
                memory_bytes: Some(24_000_000_000),
                system: "linux 6".into(),
            },
            threads: 2,
            chunk_tokens: 128,
            load_cold_ms: None,
            load_warm_ms: 4.0,
            load_warm_sd_ms: 0.1,
            first_prefill_ms: 9.0,
            ttft_ms: Some(3.0),
            ttft_sd_ms: Some(0.2),
            ttft_prompt_tokens: Some(30),
            speeds: vec![speed("pp64", 64, 20_000.0), speed("tg32", 32, 3_000.0)],
            sweep: vec![SweepStep {
                threads: 1,
                prefill: speed("pp64", 64, 11_000.0),
                decode: speed("tg32", 32, 2_500.0),
            }],
            memory: Some(MemorySteps {
                start: resident,
                loaded: resident,
                first_prefill: resident,
                steady: resident,
                peak_bytes: 20_000_000,
            }),
            energy: Some(Energy { counter: "package-0".into(), joules_per_token: 0.002 }),
            roofline: Roofline {
                read_bytes_per_second: 3e10,
                used_bytes_per_second: 6e9,
                share: 0.2,
                bytes_per_token: None,
            },
        }
    }

    #[test]
    fn the_plot_shows_every_case_and_escapes_its_words() {
        let plot = svg(&sample()).unwrap();
        for part in ["<svg", "pp64", "tg32", "&lt;fast&gt;", "&amp; co", "threads"] {
            assert!(plot.contains(part), "{part} in\n{plot}");
        }
        assert!(!plot.contains("<fast>"));
    }
}
