//! `reserve check`: the evidence that a GGUF loads and runs.

use std::time::Instant;

use camino::Utf8PathBuf;
use clap::Args;
use engine::{
    measure::first::{self, FirstRun},
    runtime,
};
use model_assets::{
    evidence::Load,
    reserve::{RESERVE_RUNTIME, ReserveCheck},
};
use reserve::{Runtime, Session};

use crate::{ModelArgs, Outcome, text};

#[derive(Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Where the evidence goes
    #[arg(long, value_name = "FILE")]
    response: Utf8PathBuf,
}

pub(crate) fn run(args: &CheckArgs) -> Outcome {
    let (file, gguf) = args.model.open()?;
    let opened = Instant::now();
    let runtime = Runtime::start().map_err(text)?;
    let model = args.model.load(&runtime, file)?;
    let mut session = Session::new(&runtime, &model, args.model.threads()?).map_err(text)?;
    let load_ms = opened.elapsed().as_secs_f64() * 1e3;
    let load = ran(&mut session, load_ms)?;
    let check = ReserveCheck { runtime: RESERVE_RUNTIME.to_owned(), gguf, load };
    let json = serde_json::to_vec_pretty(&check).map_err(|error| error.to_string())?;
    std::fs::write(&args.response, json).map_err(|error| format!("{}: {error}", args.response))
}

/// A run without a reference, and what it took.
fn ran(session: &mut Session<'_>, load_ms: f64) -> Outcome<Load> {
    let FirstRun { prompt, decode, finite, first_prefill_ms } = first::run(session).map_err(text)?;
    let peak_rss_bytes = runtime::peak_rss_bytes().ok_or("peak memory: the system does not tell it")?;
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Ok(Load {
        load_ms,
        first_prefill_ms,
        prefill_tokens: count(prompt),
        decode_tokens: count(decode),
        finite,
        peak_rss_bytes,
    })
}
