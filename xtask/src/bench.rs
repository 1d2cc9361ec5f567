//! `cargo xtask bench`: speed, memory and energy of a model in the runtime that ships, as JSON, Markdown and a plot.
//!
//! What it shows is not recorded: `verify --level release` measures on its own and records that.

mod against;
mod export_llm;
mod llamacpp;
mod plot;
mod python;

use std::{fmt::Write as _, fs};

use anyhow::Context as _;
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{dir::ModelDir, evidence::Benchmark};

use crate::{
    EXIT_REFUSED, Failure, Outcome,
    console::Console,
    engine::{Engine, Files, Profile},
    evidence::REPEATS,
    setup,
    verify::{self, refused},
    workspace::Workspace,
};

use self::against::{Against, Comparison};

pub(crate) use self::plot::svg;

const MB: f64 = 1e6;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A model's name, or the path of a `.pte` file
    #[arg(default_value = "tiny")]
    model: Utf8PathBuf,
    /// Timed repeats of each case, after one that is not timed
    #[arg(long, default_value_t = REPEATS, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeats: u32,
    /// Threads; performance cores unless given
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: Option<u32>,
    /// Look at the rehearsal of the model instead
    #[arg(long)]
    rehearsed: bool,
    /// Compare with another tool instead, both sides in one run
    #[arg(long, value_enum, value_name = "TOOL")]
    against: Option<Against>,
    /// Where the figures go; `.proofmark/bench/MODEL` unless given
    #[arg(long, value_name = "DIR")]
    out: Option<Utf8PathBuf>,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Outcome {
    if args.against == Some(Against::ExportLlm) {
        let console = Console::new(args.json);
        let compared = export_llm::compare(workspace, args.model.as_str(), &console);
        console.done();
        return show(&compared?, args.json);
    }
    let models = if args.rehearsed { workspace.rehearsals() } else { workspace.models() };
    let is_file = args.model.extension() == Some("pte");
    let name = args.model.file_stem().context("the model has no name")?;
    let dir = ModelDir::new(models, args.model.as_str());
    let files = if is_file { file(&args.model)? } else { published(&dir)? };
    let console = Console::new(args.json);
    if args.against == Some(Against::Python) {
        setup::ensure(workspace)?;
        let compared = python::compare(workspace, &files, args.repeats, args.threads, &console);
        console.done();
        return show(&compared.map_err(|error| verify::failed(&dir, error))?, args.json);
    }
    if args.against == Some(Against::Llamacpp) {
        let compared = llamacpp::compare(workspace, &dir, &files, (args.repeats, args.threads), &console);
        console.done();
        return show(&compared?, args.json);
    }
    console.step("engine: build");
    let measured = Engine::open(workspace, Profile::Release)
        .and_then(|engine| engine.bench(&files, args.repeats, args.threads, &console));
    console.done();
    let benchmark = measured.map_err(|error| verify::failed(&dir, error))?;
    let out = args.out.clone().unwrap_or_else(|| workspace.state().join("bench").join(name));
    write(&out, &benchmark)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&benchmark)?);
    } else {
        print!("{}", markdown(&benchmark));
        println!("{out}: bench.json, bench.md, bench.svg");
    }
    Ok(())
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
    use model_assets::pte;
    let pte = fs::File::open(path).with_context(|| format!("{path}: cannot be opened"))?;
    let expect = pte::Expect { kernels: Some(pte::linked_runtime().clone()), ..pte::Expect::default() };
    let report = pte::verify(&pte, pte::Level::Hash, &expect);
    if report.is_accepted() {
        return Ok(Files { pte: path.to_owned(), words: None });
    }
    let error =
        anyhow::anyhow!("{path}: got {} findings that reject, expected none", report.rejects().count());
    Err(Failure::new(EXIT_REFUSED, error, format!("run: cargo xtask verify {path}")))
}

fn published(dir: &ModelDir) -> Result<Files, Failure> {
    let (mut claim, _) = dir.claim().map_err(refused)?;
    // Speed is measured on what the bytes prove; evidence that failed is another command's matter.
    claim.manifest.evidence = None;
    verify::judge(dir, &claim, model_assets::check::Profile::Dev)?;
    let (path, _) = dir.open_pte(&claim.manifest).map_err(refused)?;
    Ok(Files::of(dir, &claim, path))
}

fn write(out: &Utf8Path, benchmark: &Benchmark) -> anyhow::Result<()> {
    fs::create_dir_all(out).with_context(|| format!("{out}: cannot be made"))?;
    let mut json = serde_json::to_string_pretty(benchmark)?;
    json.push('\n');
    for (name, text) in
        [("bench.json", json), ("bench.md", markdown(benchmark)), ("bench.svg", svg(benchmark)?)]
    {
        let place = out.join(name);
        fs::write(&place, text).with_context(|| format!("{place}: cannot be written"))?;
    }
    Ok(())
}

/// The figures as a Markdown table.
pub(crate) fn markdown(b: &Benchmark) -> String {
    let machine = &b.machine;
    let memory = machine.memory_bytes.map_or(String::new(), |n| format!(", {:.1} GB", n as f64 / 1e9));
    // Writing to a String cannot fail.
    let mut text = format!(
        "{} ({}, {} processors{memory}, {}), ExecuTorch {}, {} threads, model {:.1} MB\n\n| what | mean ± sd | least to most |\n|---|---|---|\n",
        machine.processor,
        machine.architecture,
        machine.processors,
        machine.system,
        b.runtime,
        b.threads,
        b.file_bytes as f64 / MB
    );
    let cold = b
        .load_cold_ms
        .map_or("not measured: the system drops no pages".to_owned(), |ms| format!("{ms:.1} ms"));
    let _ = writeln!(text, "| load, cold | {cold} | |");
    let _ = writeln!(text, "| load, warm | {:.2} ± {:.2} ms | |", b.load_warm_ms, b.load_warm_sd_ms);
    let _ = writeln!(text, "| first prefill (packs weights) | {:.1} ms | |", b.first_prefill_ms);
    if let (Some(ms), Some(sd), Some(tokens)) = (b.ttft_ms, b.ttft_sd_ms, b.ttft_prompt_tokens) {
        let _ = writeln!(text, "| time to first token, prompt of {tokens} | {ms:.2} ± {sd:.2} ms | |");
    }
    let row = |text: &mut String, name: &str, s: &model_assets::evidence::Speed| {
        let _ =
            writeln!(text, "| {name} | {:.1} ± {:.1} tok/s | {:.1} to {:.1} |", s.mean, s.sd, s.min, s.max);
    };
    for speed in &b.speeds {
        row(&mut text, &speed.name, speed);
    }
    for step in &b.sweep {
        for speed in [&step.prefill, &step.decode] {
            row(&mut text, &format!("{}, threads: {}", speed.name, step.threads), speed);
        }
    }
    if let Some(memory) = &b.memory {
        let _ = writeln!(text, "| memory, peak | {:.1} MB | |", memory.peak_bytes as f64 / MB);
        let steps = [
            ("loaded", &memory.loaded),
            ("first prefill", &memory.first_prefill),
            ("steady", &memory.steady),
        ];
        for (name, r) in steps {
            let (anonymous, file) = (r.anonymous_bytes as f64 / MB, r.file_bytes as f64 / MB);
            let _ = writeln!(
                text,
                "| memory, {name} | {anonymous:.1} MB anonymous, {file:.1} MB file-backed | |"
            );
        }
    }
    match &b.energy {
        Some(energy) => {
            let _ = writeln!(
                text,
                "| energy | {:.5} J per token ({}) | |",
                energy.joules_per_token, energy.counter
            );
        }
        None => text.push_str("| energy | not told by this platform | |\n"),
    }
    let r = &b.roofline;
    let (used, read, share) = (r.used_bytes_per_second / 1e9, r.read_bytes_per_second / 1e9, r.share * 100.0);
    let _ =
        writeln!(text, "| memory bandwidth used by decoding | {used:.2} of {read:.1} GB/s, {share:.0} % | |");
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use model_assets::evidence::{Energy, Machine, MemorySteps, Resident, Roofline, Speed, SweepStep};

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
    fn the_table_says_what_is_absent() {
        let text = markdown(&sample());
        for part in [
            "load, cold | not measured",
            "pp64 | 20000.0 ± 400.0",
            "pp64, threads: 1",
            "0.00200 J",
            "20.0 MB",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        let dark = Benchmark { energy: None, memory: None, ..sample() };
        assert!(
            markdown(&dark).contains("not told by this platform")
                && !markdown(&dark).contains("memory, peak")
        );
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
