//! `reserve bench`: load time, speed and memory, case by case as `engine bench` measures them.

use std::time::Instant;

use clap::Args;
use engine::measure::{
    benchmark::{Subject, first_token, measure, resident},
    machine,
    speed::mean_sd,
};
use model_assets::reserve::RESERVE_RUNTIME;
use reserve::{Runtime, Session};

use crate::{ModelArgs, Outcome, text};

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
    let file_bytes = model.file().metadata().map_or(0, |data| data.len());
    let subject = Subject { runtime: RESERVE_RUNTIME, file_bytes, threads, repeats: args.repeats };
    let mut benchmark = measure(&mut session, subject, start.zip(loaded)).map_err(text)?;
    benchmark.pte_sha256 = gguf.to_string();
    benchmark.load_cold_ms = cold.then_some(load_ms);
    if let Some(words) = args.model.words(&model)? {
        let encode = |messages: &[_]| words.encode(messages, true);
        first_token(&mut session, &encode, args.repeats, &mut benchmark).map_err(text)?;
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
