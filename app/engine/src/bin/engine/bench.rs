//! `engine bench`: load time, speed, memory and energy of a model, and where a decoded token's time goes.
//!
//! Memory is read on the first session alone, before a tokenizer is opened: what follows (warm loads, time to first
//! token, other thread counts) must not count as the model's.

use std::fmt::Write as _;
use std::time::Instant;

use clap::Args;
use engine::measure::benchmark::{
    DECODE_TOKENS, PREFILL_TOKENS, Subject, first_token, measure, resident, tokens,
};
use engine::measure::machine;
use engine::measure::speed::{decode, mean_sd, prefill};
use engine::{LoadOptions, Record, runtime};
use model_assets::digest::Digest;
use model_assets::evidence::{Benched, Benchmark, Profile, SweepStep};
use model_assets::pte::{self, Expect, Level};

use crate::ModelArgs;
use crate::output::{Failed, print, print_json};
use crate::profile::profile;
use crate::writer::WriterArgs;

#[derive(Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// As JSON.
    #[arg(long)]
    json: bool,
    /// Timed repeats of each case, after one untimed.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeats: u32,
    /// Tokens per prefill call.
    #[arg(long, value_name = "N")]
    chunk: Option<usize>,
    /// Record time per operator; the speeds then include the recording.
    #[arg(long)]
    profile: bool,
    /// Measure with other numbers of threads too: 1, 2, 4 and so on.
    #[arg(long)]
    sweep: bool,
    /// For the time to first token.
    #[command(flatten)]
    writer: WriterArgs,
}

pub(crate) fn run(args: &BenchArgs) -> Result<(), Failed> {
    args.model.set_threads()?;
    let options = args.model.options(if args.profile { Record::Time } else { Record::Nothing })?;
    let start = resident();
    let cold = drop_pages(&args.model);
    let opened = Instant::now();
    let mut session = crate::load(&args.model.model, &options)?;
    let load_ms = opened.elapsed().as_secs_f64() * 1e3;
    let loaded = resident();
    let failed = Failed::run(&args.model.model);
    if let Some(chunk) = args.chunk {
        session.set_chunk(chunk).map_err(&failed)?;
    }
    let subject = Subject {
        runtime: runtime::VERSION,
        file_bytes: session.model().bytes().len() as u64,
        threads: runtime::threads().map_err(&failed)?,
        repeats: args.repeats,
    };
    let mut benchmark = measure(&mut session, subject, start.zip(loaded)).map_err(&failed)?;
    benchmark.pte_sha256 = Digest::of(session.model().bytes()).to_string();
    benchmark.load_cold_ms = cold.then_some(load_ms);
    let verified = pte::verify(&session.model().bytes(), Level::Structure, &Expect::default());
    benchmark.reckon_roofline(verified.summary.map(|summary| summary.forward_read_bytes));
    if let Some(writer) = args.writer.open(session.model())? {
        let encode = |messages: &[_]| writer.encode(messages, true);
        first_token(&mut session, &encode, args.repeats, &mut benchmark).map_err(&failed)?;
    }
    let tokens = tokens(&session);
    let profile = args.profile.then(|| profile(&mut session, &tokens)).transpose().map_err(&failed)?;
    let packed = session.model().packed_weights().cloned();
    drop(session);
    warm_loads(args, &options, &mut benchmark)?;
    if args.sweep {
        benchmark.sweep = sweep(args, &options, benchmark.machine.processors)?;
    }
    if args.json {
        print_json(&Benched { benchmark, packed, profile })
    } else {
        print(&table(&benchmark, profile.as_ref()))
    }
}

/// Asks the system to drop the pages of all that a start reads: the model, and every packed file of the cache. A packed file
/// in the page cache would make a cold start of a linked model a warm one. Says whether it took the advice.
fn drop_pages(model: &ModelArgs) -> bool {
    let cached = model.packed_cache.iter().flat_map(|folder| folder.read_dir_utf8());
    // No folder yet: this load makes it.
    let files = cached.flatten().flatten().map(|entry| entry.into_path());
    let packed: Vec<_> = files.filter(|path| path.extension() == Some("bin")).collect();
    std::iter::once(&model.model).chain(&packed).all(|path| machine::drop_pages(path))
}

/// Loads with the file in the page cache. No model may live meanwhile.
fn warm_loads(args: &BenchArgs, options: &LoadOptions, benchmark: &mut Benchmark) -> Result<(), Failed> {
    let mut times = Vec::new();
    for _ in 0..args.repeats {
        let opened = Instant::now();
        let session = crate::load(&args.model.model, options)?;
        times.push(opened.elapsed().as_secs_f64() * 1e3);
        drop(session);
    }
    (benchmark.load_warm_ms, benchmark.load_warm_sd_ms) = mean_sd(&times);
    Ok(())
}

fn sweep(args: &BenchArgs, options: &LoadOptions, processors: u32) -> Result<Vec<SweepStep>, Failed> {
    let failed = Failed::run(&args.model.model);
    let mut steps = Vec::new();
    let doubled = std::iter::successors(Some(1_u32), |n| n.checked_mul(2));
    for threads in doubled.take_while(|n| *n <= processors.min(runtime::THREADS_MAX)) {
        runtime::set_threads(threads).map_err(&failed)?;
        let mut session = crate::load(&args.model.model, options)?;
        let long = tokens(&session);
        let short = long.get(..PREFILL_TOKENS).unwrap_or(&long);
        let prefill = prefill(&mut session, short, args.repeats).map_err(&failed)?;
        let count = DECODE_TOKENS.first().copied().unwrap_or(1).min(long.len() - 1);
        let decode = decode(&mut session, &long, count, args.repeats).map_err(&failed)?;
        steps.push(SweepStep { threads, prefill, decode });
    }
    Ok(steps)
}

fn table(bench: &Benchmark, profile: Option<&Profile>) -> String {
    const MB: f64 = 1e6;
    let cold = bench.load_cold_ms.map_or("not measured".to_owned(), |ms| format!("{ms:.1} ms"));
    let mut text = format!(
        "ExecuTorch {}, {} threads, model {:.1} MB\nload cold {cold}, warm {:.1} ± {:.1} ms, first prefill {:.1} ms\n",
        bench.runtime,
        bench.threads,
        bench.file_bytes as f64 / MB,
        bench.load_warm_ms,
        bench.load_warm_sd_ms,
        bench.first_prefill_ms,
    );
    if let (Some(ms), Some(sd), Some(tokens)) = (bench.ttft_ms, bench.ttft_sd_ms, bench.ttft_prompt_tokens) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "time to first token {ms:.2} ± {sd:.2} ms, prompt of {tokens} tokens");
    }
    for s in &bench.speeds {
        let _ = writeln!(
            text,
            "{:>6}: {:9.2} ± {:.2} tok/s ({:.2} to {:.2})",
            s.name, s.mean, s.sd, s.min, s.max
        );
    }
    for step in &bench.sweep {
        let (threads, prefill, decode) = (step.threads, &step.prefill, &step.decode);
        let _ = writeln!(
            text,
            "threads {threads}: {} {:.2} ± {:.2}, {} {:.2} ± {:.2} tok/s",
            prefill.name, prefill.mean, prefill.sd, decode.name, decode.mean, decode.sd
        );
    }
    if let Some(memory) = &bench.memory {
        for (when, r) in [
            ("start", &memory.start),
            ("loaded", &memory.loaded),
            ("first prefill", &memory.first_prefill),
            ("steady", &memory.steady),
        ] {
            let (anonymous, file) = (r.anonymous_bytes as f64 / MB, r.file_bytes as f64 / MB);
            let _ =
                writeln!(text, "memory {when:>13}: {anonymous:8.1} MB anonymous, {file:8.1} MB file-backed");
        }
        let _ = writeln!(text, "memory          peak: {:8.1} MB", memory.peak_bytes as f64 / MB);
    }
    if let Some(energy) = &bench.energy {
        let _ = writeln!(text, "energy: {:.4} J per token ({})", energy.joules_per_token, energy.counter);
    }
    let r = &bench.roofline;
    let (used, read, share) = (r.used_bytes_per_second / 1e9, r.read_bytes_per_second / 1e9, r.share * 100.0);
    let token = r.bytes_per_token.unwrap_or(bench.file_bytes) as f64 / MB;
    let _ =
        writeln!(text, "roofline: {used:.1} of {read:.1} GB/s read, {share:.0} %; {token:.1} MB per token");
    if let Some(profile) = profile {
        let outside = profile.outside_delegates * 100.0;
        let _ =
            writeln!(text, "profile: {:.1} us per token, {outside:.2} % outside delegates", profile.token_us);
        for e in &profile.events {
            let (share, calls) = (e.share * 100.0, e.calls_per_token);
            let _ = writeln!(text, "{share:7.3} % {:10.1} us {calls:6.1} calls  {}", e.us_per_token, e.name);
        }
    }
    text
}
