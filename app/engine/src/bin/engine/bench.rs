//! `engine bench`: load time, speed and memory of a model, and where a decoded token's time goes.

use std::fmt::Write as _;
use std::time::Instant;

use clap::Args;
use engine::{PackedUse, Session, runtime};
use model_assets::digest::Digest;
use serde::Serialize;

use crate::check::spread;
use crate::output::{Failed, print, print_json};
use crate::{ModelArgs, bandwidth};

/// Tokens of the first prefill and of `pp64`.
const PREFILL_TOKENS: usize = 64;
/// Tokens decoded while recording operators.
const PROFILE_TOKENS: usize = 32;

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
    /// Keep the model file's pages in memory after the first prefill.
    #[arg(long)]
    keep_pages: bool,
    /// Record time per operator; the speeds then include the recording.
    #[arg(long)]
    profile: bool,
}

/// The figures.
#[derive(Serialize)]
struct Bench {
    runtime: String,
    pte_sha256: String,
    file_bytes: usize,
    threads: u32,
    chunk_tokens: usize,
    /// From open to a loaded method.
    load_ms: f64,
    packed: PackedUse,
    /// The first prefill, which packs weights.
    first_prefill_ms: f64,
    first_prefill_tokens: usize,
    speeds: Vec<Speed>,
    memory: Option<MemorySteps>,
    roofline: Roofline,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<Profile>,
}

/// Tokens per second of one case.
#[derive(Serialize)]
struct Speed {
    /// `pp` prefill or `tg` generation, and the number of tokens.
    name: String,
    tokens: usize,
    repeats: u32,
    mean: f64,
    sd: f64,
    min: f64,
    max: f64,
}

/// Resident bytes at four moments.
#[derive(Serialize)]
struct MemorySteps {
    start: Resident,
    loaded: Resident,
    first_prefill: Resident,
    steady: Resident,
    peak_bytes: u64,
}

#[derive(Serialize)]
struct Resident {
    anonymous_bytes: u64,
    file_bytes: u64,
}

/// Decoding against the machine's memory.
#[derive(Serialize)]
struct Roofline {
    /// Measured in this process, with as many threads.
    read_bytes_per_second: f64,
    /// File size times decode speed: every weight is read once per token.
    used_bytes_per_second: f64,
    share: f64,
}

/// Where the time of decoded tokens went.
#[derive(Serialize)]
struct Profile {
    tokens: usize,
    /// Wall time per token as the runtime sees it.
    token_us: f64,
    /// Share of it outside delegates.
    outside_delegates: f64,
    events: Vec<EventShare>,
}

#[derive(Serialize)]
struct EventShare {
    name: String,
    calls_per_token: f64,
    us_per_token: f64,
    share: f64,
}

pub(crate) fn run(args: &BenchArgs) -> Result<(), Failed> {
    args.model.set_threads()?;
    let options = args.model.options(args.profile)?;
    let start = resident();
    let opened = Instant::now();
    let mut session = crate::load(&args.model.model, &options)?;
    let load_ms = opened.elapsed().as_secs_f64() * 1e3;
    let loaded = resident();
    let failed = Failed::run(&args.model.model);
    let bench = measure(args, &mut session, load_ms, start.zip(loaded)).map_err(failed)?;
    if args.json { print_json(&bench) } else { print(&table(&bench)) }
}

fn measure(
    args: &BenchArgs,
    session: &mut Session,
    load_ms: f64,
    before: Option<(Resident, Resident)>,
) -> engine::Result<Bench> {
    if let Some(chunk) = args.chunk {
        session.set_chunk(chunk)?;
    }
    let (vocab, context) = (session.model().vocab(), session.model().context());
    let long = spread(context.saturating_sub(1).max(1), vocab);
    let short = long.get(..PREFILL_TOKENS.min(long.len())).unwrap_or_default();

    let began = Instant::now();
    session.prefill(short)?;
    let first_prefill_ms = began.elapsed().as_secs_f64() * 1e3;
    let first = resident();
    if !args.keep_pages {
        session.model().release_pages();
    }

    let mut speeds = vec![prefill(session, short, args.repeats)?];
    speeds.push(prefill(session, &long, args.repeats)?);
    let lengths: &[usize] = if context > 130 { &[32, 128] } else { &[32] };
    for tokens in lengths.iter().map(|tokens| (*tokens).min(context - 1)) {
        speeds.push(decode(session, &long, tokens, args.repeats)?);
    }
    let steady = resident();
    let profile = args.profile.then(|| profile(session, &long)).transpose()?;
    let threads = runtime::threads()?;
    let memory =
        before.zip(first.zip(steady)).map(|((start, loaded), (first_prefill, steady))| MemorySteps {
            start,
            loaded,
            first_prefill,
            steady,
            peak_bytes: runtime::peak_rss_bytes().unwrap_or_default(),
        });
    let file_bytes = session.model().bytes().len();
    let used_bytes_per_second = speeds.last().map_or(0.0, |speed| speed.mean) * file_bytes as f64;
    let read_bytes_per_second = bandwidth::read_bytes_per_second(threads);
    Ok(Bench {
        runtime: runtime::VERSION.to_owned(),
        pte_sha256: Digest::of(session.model().bytes()).to_string(),
        file_bytes,
        threads,
        chunk_tokens: session.chunk(),
        load_ms,
        packed: session.model().packed_use().clone(),
        first_prefill_ms,
        first_prefill_tokens: short.len(),
        speeds,
        memory,
        roofline: Roofline {
            read_bytes_per_second,
            used_bytes_per_second,
            share: used_bytes_per_second / read_bytes_per_second,
        },
        profile,
    })
}

fn resident() -> Option<Resident> {
    runtime::memory()
        .map(|memory| Resident { anonymous_bytes: memory.anonymous_bytes, file_bytes: memory.file_bytes })
}

fn prefill(session: &mut Session, tokens: &[u32], repeats: u32) -> engine::Result<Speed> {
    speed(format!("pp{}", tokens.len()), tokens.len(), repeats, || {
        session.reset();
        session.prefill(tokens).map(|_| ())
    })
}

/// Decodes given tokens from an almost empty cache, as llama-bench does.
fn decode(session: &mut Session, tokens: &[u32], count: usize, repeats: u32) -> engine::Result<Speed> {
    let (first, rest) = tokens.split_at(1.min(tokens.len()));
    let rest = rest.get(..count).unwrap_or(rest);
    session.reset();
    session.prefill(first)?;
    speed(format!("tg{}", rest.len()), rest.len(), repeats, || {
        session.truncate(1);
        rest.iter().try_for_each(|token| session.decode(*token).map(|_| ()))
    })
}

fn speed(
    name: String,
    tokens: usize,
    repeats: u32,
    mut work: impl FnMut() -> engine::Result<()>,
) -> engine::Result<Speed> {
    work()?;
    let mut rates = Vec::new();
    for _ in 0..repeats {
        let started = Instant::now();
        work()?;
        rates.push(tokens as f64 / started.elapsed().as_secs_f64());
    }
    let count = rates.len() as f64;
    let mean = rates.iter().sum::<f64>() / count;
    let variance = rates.iter().map(|rate| (rate - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
    Ok(Speed {
        name,
        tokens,
        repeats,
        mean,
        sd: variance.sqrt(),
        min: rates.iter().copied().fold(f64::INFINITY, f64::min),
        max: rates.iter().copied().fold(0.0, f64::max),
    })
}

fn profile(session: &mut Session, tokens: &[u32]) -> engine::Result<Profile> {
    // From the middle of the window: attention costs its average there.
    let middle = tokens.len() / 2;
    let (before, after) = tokens.split_at(middle);
    let after = after.get(..PROFILE_TOKENS).unwrap_or(after);
    session.reset();
    session.prefill(before)?;
    session.model_mut().profile_reset();
    after.iter().try_for_each(|token| session.decode(*token).map(|_| ()))?;
    let count = after.len().max(1) as f64;
    let events = session.model().profile();
    let total = |name: &str| {
        events.iter().find(|event| event.name == name).map_or(0.0, |event| event.nanoseconds as f64)
    };
    let whole = total("Method::execute").max(1.0);
    let mut shares: Vec<EventShare> = events
        .iter()
        .filter(|event| event.calls > 0)
        .map(|event| EventShare {
            name: event.name.clone(),
            calls_per_token: event.calls as f64 / count,
            us_per_token: event.nanoseconds as f64 / 1e3 / count,
            share: event.nanoseconds as f64 / whole,
        })
        .collect();
    shares.sort_by(|a, b| b.share.total_cmp(&a.share).then_with(|| a.name.cmp(&b.name)));
    Ok(Profile {
        tokens: after.len(),
        token_us: whole / 1e3 / count,
        outside_delegates: 1.0 - total("DELEGATE_CALL") / whole,
        events: shares,
    })
}

fn table(bench: &Bench) -> String {
    const MB: f64 = 1e6;
    let mut text = format!(
        "ExecuTorch {}, {} threads, model {:.1} MB\nload {:.1} ms, first prefill of {} tokens {:.1} ms\n",
        bench.runtime,
        bench.threads,
        bench.file_bytes as f64 / MB,
        bench.load_ms,
        bench.first_prefill_tokens,
        bench.first_prefill_ms,
    );
    for s in &bench.speeds {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:>6}: {:9.2} ± {:.2} tok/s ({:.2} to {:.2})",
            s.name, s.mean, s.sd, s.min, s.max
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
    let r = &bench.roofline;
    let _ = writeln!(
        text,
        "roofline: {:.1} of {:.1} GB/s read, {:.0} %",
        r.used_bytes_per_second / 1e9,
        r.read_bytes_per_second / 1e9,
        r.share * 100.0
    );
    if let Some(profile) = &bench.profile {
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
