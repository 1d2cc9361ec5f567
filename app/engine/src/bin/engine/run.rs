//! `engine run`: raw token ids, or a person's messages as the chat template writes them, in; token ids and a digest of all
//! logits out, and with `--logits` the logits themselves: two machines' arithmetic is compared by them.
//!
//! With `--stdin-loop` the process takes one model file per input line and answers one JSON line per model,
//! which is how damaged files are studied: a file that takes the process down ends the loop at its line.

use std::io::BufRead;

use camino::{Utf8Path, Utf8PathBuf};
use clap::Args;
use engine::chat::{Message, Role};
use engine::{LoadOptions, Session, sample};
use model_assets::digest::Digest;
use serde::Serialize;

use crate::output::{Failed, print_json};
use crate::writer::{Writer, WriterArgs};
use crate::{exit, load};

#[derive(Args)]
pub(crate) struct RunArgs {
    /// The `.pte` file.
    #[arg(long, value_name = "FILE", required_unless_present = "stdin_loop")]
    model: Option<Utf8PathBuf>,
    /// Prompt as token ids.
    #[arg(long, value_delimiter = ',', required_unless_present = "prompt", value_name = "IDS")]
    tokens: Vec<u32>,
    /// A person's message; given again, the one after the reply. A reply ends where the model ends it.
    #[arg(
        long, value_name = "TEXT", conflicts_with_all = ["tokens", "stdin_loop"],
        requires = "tokenizer", requires = "template"
    )]
    prompt: Vec<String>,
    /// For `--prompt`.
    #[command(flatten)]
    writer: WriterArgs,
    /// Where all logits go: 32-bit floats, little-endian, in order.
    #[arg(long, value_name = "FILE", conflicts_with = "stdin_loop")]
    logits: Option<Utf8PathBuf>,
    /// Tokens to decode, greedily; of messages the most in all replies together.
    #[arg(short = 'n', default_value_t = 8, value_name = "N")]
    count: usize,
    /// Threads; unless given, one for a small model and else the performance cores.
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
    let Some(model) = &args.model else { return stdin_loop(args) };
    crate::set_threads(args.threads, model)?;
    let session = load(model, &LoadOptions::default())?;
    let ran = match args.writer.open(session.model())? {
        Some(writer) if !args.prompt.is_empty() => talk(session, model, &writer, args),
        _ => decode(session, model, &args.tokens, args.count),
    };
    let (ran, bytes) = ran.map_err(Failed::run(model))?;
    if let Some(path) = &args.logits {
        std::fs::write(path, bytes).map_err(|e| Failed::new(exit::OUTPUT, format!("{path}: {e}")))?;
    }
    print_json(&ran)
}

fn stdin_loop(args: &RunArgs) -> Result<(), Failed> {
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|e| Failed::new(exit::RUN, format!("standard input: {e}")))?;
        let path = Utf8Path::new(&line);
        let ran = crate::set_threads(args.threads, path)
            .and_then(|()| load(path, &LoadOptions::default()))
            .and_then(|session| decode(session, path, &args.tokens, args.count).map_err(Failed::run(path)));
        match ran {
            Ok((ran, _)) => print_json(&ran)?,
            Err(failed) => print_json(&Refused { model: path, error: failed.message })?,
        }
    }
    Ok(())
}

/// What came out, and every logit as bytes.
fn decode<'a>(
    mut session: Session,
    model: &'a Utf8Path,
    prompt: &[u32],
    count: usize,
) -> engine::Result<(Ran<'a>, Vec<u8>)> {
    let mut record = Record::default();
    let mut logits = session.prefill(prompt)?;
    record.keep(logits);
    for _ in 0..count {
        let token = record.choose(logits);
        logits = session.decode(token)?;
        record.keep(logits);
    }
    Ok(record.end(model))
}

/// The same of a conversation in which the model reads its own replies; the logits are those that chose a token.
fn talk<'a>(
    mut session: Session,
    model: &'a Utf8Path,
    writer: &Writer,
    args: &RunArgs,
) -> engine::Result<(Ran<'a>, Vec<u8>)> {
    let eos = session.model().eos().to_vec();
    let (mut record, mut conversation) = (Record::default(), Vec::new());
    for text in &args.prompt {
        conversation.push(Message::new(Role::User, text.clone()));
        let prompt = writer.encode(&conversation, true)?;
        let start = record.tokens.len();
        let mut logits = session.extend_to(&prompt)?;
        while record.tokens.len() < args.count {
            record.keep(logits);
            let token = record.choose(logits);
            if eos.contains(&token) {
                break;
            }
            logits = session.decode(token)?;
        }
        if record.tokens.len() == args.count {
            break;
        }
        let said = record.tokens.get(start..).unwrap_or_default();
        conversation.push(Message::new(Role::Assistant, writer.tokenizer.decode(said)?));
    }
    Ok(record.end(model))
}

/// The record of a run.
struct Record {
    bytes: Vec<u8>,
    tokens: Vec<u32>,
    finite: bool,
}

impl Default for Record {
    fn default() -> Self {
        Self { bytes: Vec::new(), tokens: Vec::new(), finite: true }
    }
}

impl Record {
    fn keep(&mut self, logits: &[f32]) {
        self.bytes.extend(logits.iter().flat_map(|logit| logit.to_le_bytes()));
        self.finite &= logits.iter().all(|logit| logit.is_finite());
    }

    fn choose(&mut self, logits: &[f32]) -> u32 {
        // A damaged model may have no finite logit; the digest still distinguishes it.
        let token = sample::greedy(logits).unwrap_or(0);
        self.tokens.push(token);
        token
    }

    fn end(self, model: &Utf8Path) -> (Ran<'_>, Vec<u8>) {
        let logits_sha256 = Digest::of(&self.bytes).to_string();
        (Ran { model, tokens: self.tokens, finite: self.finite, logits_sha256 }, self.bytes)
    }
}
