//! `reserve bench`: load time, speed and memory, case by case as `engine bench` measures them.

use std::time::Instant;

use clap::Args;
use engine::{
    Decoder,
    chat::{Message, Role},
    measure::{
        bandwidth, machine,
        speed::{TTFT_PROMPT, decode, mean_sd, prefill, spread, timed},
    },
    runtime, sample,
};
use model_assets::{
    evidence::{Benchmark, MemorySteps, Resident, Roofline},
    reserve::RESERVE_RUNTIME,
};
use reserve::{Model, Runtime, Session};

use crate::{ModelArgs, Outcome, Words, text};

const PREFILL_TOKENS: [usize; 2] = [64, 512];
const DECODE_TOKENS: [usize; 2] = [32, 128];

#[derive(Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Timed repeats of each case, after one untimed
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeats: u32,
}

pub(crate) fn run(args: &BenchArgs) -> Outcome {
    let (file, gguf) = args.model.open()?;
    let threads = args.model.threads()?;
    let again = file.try_clone().map_err(|error| format!("{}: {error}", args.model.model))?;
    let runtime = Runtime::start().map_err(text)?;
    let start = resident();
    let cold = machine::drop_pages(&args.model.model);
    let opened = Instant::now();
    let model = args.model.load(&runtime, file)?;
    let mut session = Session::new(&runtime, &model, threads).map_err(text)?;
    let load_ms = opened.elapsed().as_secs_f64() * 1e3;
    let loaded = resident();
    let mut benchmark = measure(args, &mut session, threads, start.zip(loaded)).map_err(text)?;
    benchmark.pte_sha256 = gguf.to_string();
    benchmark.load_cold_ms = cold.then_some(load_ms);
    if let Some(words) = args.model.words(&model)? {
        first_token(args, &mut session, &words, &mut benchmark).map_err(text)?;
    }
    drop(session);
    drop(model);
    let mut times = Vec::new();
    for _ in 0..args.repeats {
        let file = again.try_clone().map_err(|error| format!("{}: {error}", args.model.model))?;
        let opened = Instant::now();
        let model = args.model.load(&runtime, file)?;
        let session = Session::new(&runtime, &model, threads).map_err(text)?;
        times.push(opened.elapsed().as_secs_f64() * 1e3);
        drop(session);
    }
    (benchmark.load_warm_ms, benchmark.load_warm_sd_ms) = mean_sd(&times);
    println!("{}", serde_json::to_string(&benchmark).map_err(|error| error.to_string())?);
    Ok(())
}

fn measure(
    args: &BenchArgs,
    session: &mut Session<'_>,
    threads: u32,
    before: Option<(Resident, Resident)>,
) -> engine::Result<Benchmark> {
    let model: &Model = session.model();
    let most = PREFILL_TOKENS.into_iter().max().unwrap_or_default().min(model.window());
    let tokens = spread(most, model.vocab());
    let part = |count: usize| tokens.get(..count).unwrap_or(&tokens);
    let [short, ..] = PREFILL_TOKENS;
    let began = Instant::now();
    session.prefill(part(short))?;
    let first_prefill_ms = began.elapsed().as_secs_f64() * 1e3;
    let first = resident();
    let mut speeds = Vec::new();
    for count in PREFILL_TOKENS.into_iter().filter(|count| *count <= tokens.len()) {
        speeds.push(prefill(session, part(count), args.repeats)?);
    }
    for count in DECODE_TOKENS.into_iter().filter(|count| *count < tokens.len()) {
        speeds.push(decode(session, &tokens, count, args.repeats)?);
    }
    let memory = before.zip(first.zip(resident())).map(|((start, loaded), (first_prefill, steady))| {
        let peak_bytes = runtime::peak_rss_bytes().unwrap_or_default();
        MemorySteps { start, loaded, first_prefill, steady, peak_bytes }
    });
    let file_bytes = model.file().metadata().map_or(0, |data| data.len());
    let used_bytes_per_second = speeds.last().map_or(0.0, |speed| speed.mean) * file_bytes as f64;
    let read_bytes_per_second = bandwidth::read_bytes_per_second(threads);
    let share = used_bytes_per_second / read_bytes_per_second;
    Ok(Benchmark {
        runtime: RESERVE_RUNTIME.to_owned(),
        pte_sha256: String::new(),
        file_bytes,
        machine: machine::describe(),
        threads,
        chunk_tokens: u32::try_from(session.chunk()).unwrap_or(u32::MAX),
        load_cold_ms: None,
        load_warm_ms: 0.0,
        load_warm_sd_ms: 0.0,
        first_prefill_ms,
        ttft_ms: None,
        ttft_sd_ms: None,
        ttft_prompt_tokens: None,
        speeds,
        sweep: Vec::new(),
        memory,
        energy: None,
        roofline: Roofline { read_bytes_per_second, used_bytes_per_second, share },
    })
}

/// From text to the first token, as a person waits for it; the model is loaded and warm.
fn first_token(
    args: &BenchArgs,
    session: &mut Session<'_>,
    words: &Words,
    benchmark: &mut Benchmark,
) -> engine::Result<()> {
    let conversation = [Message::new(Role::User, TTFT_PROMPT)];
    let mut tokens = 0;
    let times = timed(args.repeats, || {
        session.reset();
        let prompt = words.encode(&conversation, true)?;
        tokens = prompt.len();
        sample::greedy(session.prefill(&prompt)?).map(|_| ())
    })?;
    let (mean, sd) = mean_sd(&times);
    (benchmark.ttft_ms, benchmark.ttft_sd_ms) = (Some(mean * 1e3), Some(sd * 1e3));
    benchmark.ttft_prompt_tokens = Some(u32::try_from(tokens).unwrap_or(u32::MAX));
    Ok(())
}

fn resident() -> Option<Resident> {
    runtime::memory()
        .map(|memory| Resident { anonymous_bytes: memory.anonymous_bytes, file_bytes: memory.file_bytes })
}
