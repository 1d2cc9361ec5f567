//! The figures of a benchmark, case by case the same for every runtime, so that two of them can be compared.
//!
//! **Invariant:** memory is read before anything but the model runs: no tokenizer, no digest of the file, no other session.

use std::time::Instant;

use model_assets::evidence::{Benchmark, Energy, Machine, MemorySteps, Resident, Roofline};

use super::{
    bandwidth::Bandwidth,
    machine,
    speed::{decode, decode_beside, mean_sd, prefill, spread, timed},
};
use crate::{
    chat::{Message, Role},
    decoder::Decoder,
    error::Result,
    runtime, sample,
};

/// Tokens of the first prefill and of `pp64`.
pub const PREFILL_TOKENS: usize = 64;
/// Tokens decoded.
pub const DECODE_TOKENS: [usize; 2] = [32, 128];
/// Tokens of the long prefill.
const LONG_PREFILL_TOKENS: usize = 512;
/// The conversation whose first token is waited for.
const TTFT_PROMPT: &str = "I have a talk in ten minutes and my heart is racing. What can I do to calm down?";

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Name and version of what runs it.
    pub runtime: &'a str,
    /// Length of the model's file.
    pub file_bytes: u64,
    /// Threads that the runtime has.
    pub threads: u32,
    /// Timed repeats of each case, after one untimed.
    pub repeats: u32,
}

/// The tokens of the long prefill: as many as it has, or as fit.
pub fn tokens(session: &dyn Decoder) -> Vec<u32> {
    spread(LONG_PREFILL_TOKENS.min(session.window()), session.vocab())
}

/// Speed, memory and energy of a session that has run nothing yet. `before` is the memory before and after it was loaded.
/// The caller fills in the file's digest, the times of loading and of the first token, and the bytes that a token reads.
///
/// # Errors
/// When the runtime fails.
pub fn measure(
    session: &mut dyn Decoder,
    subject: Subject<'_>,
    before: Option<(Resident, Resident)>,
) -> Result<Benchmark> {
    let Subject { runtime, file_bytes, threads, repeats } = subject;
    let long = tokens(session);
    let short = long.get(..PREFILL_TOKENS).unwrap_or(&long);
    let began = Instant::now();
    session.prefill(short)?;
    let first_prefill_ms = began.elapsed().as_secs_f64() * 1e3;
    let first = resident();
    let mut speeds = vec![prefill(session, short, repeats)?];
    if long.len() > short.len() {
        speeds.push(prefill(session, &long, repeats)?);
    }
    // The last case is the one that is held against the memory's bandwidth, which has a buffer of its own: so the
    // model's memory is read when every case has run, and the last one has not been timed yet.
    let mut beside = Beside { threads, peak_bytes: 0, steady: None, bandwidth: None };
    let mut counts = DECODE_TOKENS.into_iter().filter(|tokens| *tokens < long.len()).peekable();
    while let Some(tokens) = counts.next() {
        speeds.push(if counts.peek().is_some() {
            decode(session, &long, tokens, repeats)?
        } else {
            decode_beside(session, &long, tokens, repeats, &mut || beside.look())?
        });
    }
    beside.look();
    let memory = before.zip(first.zip(beside.steady)).map(|((start, loaded), (first_prefill, steady))| {
        MemorySteps { start, loaded, first_prefill, steady, peak_bytes: beside.peak_bytes }
    });
    let read_bytes_per_second = beside.bandwidth.map_or(0.0, |bandwidth| bandwidth.read_bytes_per_second());
    let energy = energy(session, &long)?;
    let mut benchmark = Benchmark {
        runtime: runtime.to_owned(),
        pte_sha256: String::new(),
        file_bytes,
        machine: Machine::here(),
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
        energy,
        roofline: Roofline {
            read_bytes_per_second,
            used_bytes_per_second: 0.0,
            share: 0.0,
            bytes_per_token: None,
        },
    };
    benchmark.reckon_roofline(None);
    Ok(benchmark)
}

/// What is looked at between the repeats of a case.
struct Beside {
    threads: u32,
    /// Memory at the first look.
    steady: Option<Resident>,
    peak_bytes: u64,
    bandwidth: Option<Bandwidth>,
}

impl Beside {
    fn look(&mut self) {
        let bandwidth = self.bandwidth.get_or_insert_with(|| {
            self.steady = resident();
            self.peak_bytes = runtime::peak_rss_bytes().unwrap_or_default();
            Bandwidth::new(self.threads)
        });
        bandwidth.look();
    }
}

/// From text to the first token, as a person waits for it; the model is loaded and warm. `encode` makes a prompt of a
/// conversation.
///
/// # Errors
/// When the prompt cannot be made or the runtime fails.
pub fn first_token(
    session: &mut dyn Decoder,
    encode: &dyn Fn(&[Message]) -> Result<Vec<u32>>,
    repeats: u32,
    benchmark: &mut Benchmark,
) -> Result<()> {
    let conversation = [Message::new(Role::User, TTFT_PROMPT)];
    let mut tokens = 0;
    let times = timed(repeats, || {
        session.reset();
        let prompt = encode(&conversation)?;
        tokens = prompt.len();
        sample::greedy(session.prefill(&prompt)?).map(|_| ())
    })?;
    let (mean, sd) = mean_sd(&times);
    (benchmark.ttft_ms, benchmark.ttft_sd_ms) = (Some(mean * 1e3), Some(sd * 1e3));
    benchmark.ttft_prompt_tokens = Some(u32::try_from(tokens).unwrap_or(u32::MAX));
    Ok(())
}

/// Memory of this process now, where the system tells it apart.
pub fn resident() -> Option<Resident> {
    runtime::memory()
        .map(|memory| Resident { anonymous_bytes: memory.anonymous_bytes, file_bytes: memory.file_bytes })
}

fn energy(session: &mut dyn Decoder, tokens: &[u32]) -> Result<Option<Energy>> {
    let Some(counter) = machine::Counter::find() else { return Ok(None) };
    session.reset();
    let before = counter.microjoules();
    tokens.iter().try_for_each(|token| session.decode(*token).map(|_| ()))?;
    let spent = before.zip(counter.microjoules()).map(|(before, after)| counter.joules(before, after));
    Ok(spent.map(|joules| Energy { joules_per_token: joules / tokens.len() as f64, counter: counter.name }))
}
