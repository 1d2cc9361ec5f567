//! `engine run`: raw token ids in, token ids and a digest of all logits out.
//!
//! With `--stdin-loop` the process takes one model file per input line and answers one JSON line per model,
//! which is how damaged files are studied: a file that takes the process down ends the loop at its line.

use std::io::BufRead;

use camino::{Utf8Path, Utf8PathBuf};
use clap::Args;
use engine::{LoadOptions, Session, runtime, sample};
use model_assets::digest::Digest;
use serde::Serialize;

use crate::output::{Failed, print_json};
use crate::{exit, load};

#[derive(Args)]
pub(crate) struct RunArgs {
    /// The `.pte` file.
    #[arg(long, value_name = "FILE", required_unless_present = "stdin_loop")]
    model: Option<Utf8PathBuf>,
    /// Prompt as token ids.
    #[arg(long, value_delimiter = ',', required = true, value_name = "IDS")]
    tokens: Vec<u32>,
    /// Tokens to decode after it, greedily.
    #[arg(short = 'n', default_value_t = 8, value_name = "N")]
    count: usize,
    /// Threads; performance cores unless given.
    #[arg(long, value_name = "N", value_parser = crate::threads_range())]
    threads: Option<u32>,
    /// Read model files from standard input, one per line.
    #[arg(long, conflicts_with = "model")]
    stdin_loop: bool,
}

/// A run that went through.
#[derive(Serialize)]
struct Ran<'a> {
    model: &'a Utf8Path,
    tokens: Vec<u32>,
    finite: bool,
    /// SHA-256 of all logits, little-endian, in order.
    logits_sha256: String,
}

/// A run that did not.
#[derive(Serialize)]
struct Refused<'a> {
    model: &'a Utf8Path,
    error: String,
}

pub(crate) fn run(args: &RunArgs) -> Result<(), Failed> {
    let threads = args.threads.map_or_else(runtime::threads_default, Ok);
    threads.and_then(runtime::set_threads).map_err(|e| Failed::from_engine(exit::RUN, "", e))?;
    let Some(model) = &args.model else { return stdin_loop(args) };
    let session = load(model, &LoadOptions::default())?;
    print_json(&decode(session, model, args).map_err(Failed::run(model))?)
}

fn stdin_loop(args: &RunArgs) -> Result<(), Failed> {
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|e| Failed::new(exit::RUN, format!("standard input: {e}")))?;
        let path = Utf8Path::new(&line);
        let ran = load(path, &LoadOptions::default())
            .and_then(|session| decode(session, path, args).map_err(Failed::run(path)));
        match ran {
            Ok(ran) => print_json(&ran)?,
            Err(failed) => print_json(&Refused { model: path, error: failed.message })?,
        }
    }
    Ok(())
}

fn decode<'a>(mut session: Session, model: &'a Utf8Path, args: &RunArgs) -> engine::Result<Ran<'a>> {
    let (mut bytes, mut tokens, mut finite) = (Vec::new(), Vec::new(), true);
    let mut logits = session.prefill(&args.tokens)?;
    loop {
        bytes.extend(logits.iter().flat_map(|logit| logit.to_le_bytes()));
        finite &= logits.iter().all(|logit| logit.is_finite());
        if tokens.len() == args.count {
            break;
        }
        // Damaged models may have no finite logit; the digest still tells them apart.
        let token = sample::greedy(logits).unwrap_or(0);
        tokens.push(token);
        logits = session.decode(token)?;
    }
    Ok(Ran { model, tokens, finite, logits_sha256: Digest::of(&bytes).to_string() })
}
