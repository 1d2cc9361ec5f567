//! `reserve`: what `engine` and `app` are for ExecuTorch, for llama.cpp: evidence, figures, a chat in the terminal.
//!
//! **Invariant:** results go to standard output or the named response file, messages to standard error.
#![forbid(unsafe_code)]

mod bench;
mod chat;
mod check;
mod score;

use std::{fs::File, process::ExitCode};

use camino::{Utf8Path, Utf8PathBuf};
use clap::{Args, Parser, Subcommand};
use engine::{
    chat::{ChatTemplate, Message},
    runtime,
    text::Tokenizer,
};
use model_assets::{digest::Digest, limits::TEMPLATE_BYTES_MAX};
use reserve::{Model, Runtime};

/// What ends a command: a message.
type Outcome<T = ()> = Result<T, String>;

/// The reserve runtime, llama.cpp
#[derive(Parser)]
#[command(name = "reserve", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Load and run a GGUF, and write the evidence
    Check(check::CheckArgs),
    /// Measure load time, speed and memory, as JSON
    Bench(bench::BenchArgs),
    /// Write the logits after every token of texts, for a comparison with another model's
    Score(score::ScoreArgs),
    /// Chat with a proved GGUF
    Chat(chat::ChatArgs),
}

/// The model and how it is run.
#[derive(Args)]
struct ModelArgs {
    /// The `.gguf` file
    #[arg(long, value_name = "FILE")]
    model: Utf8PathBuf,
    /// Threads; performance cores unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(runtime::THREADS_MAX)))]
    threads: Option<u32>,
    /// The tokenizer that ships with the model
    #[arg(long, value_name = "FILE", requires = "template")]
    tokenizer: Option<Utf8PathBuf>,
    /// The chat template that ships with the model
    #[arg(long, value_name = "FILE", requires = "tokenizer")]
    template: Option<Utf8PathBuf>,
}

impl ModelArgs {
    fn threads(&self) -> Outcome<u32> {
        self.threads.map_or_else(runtime::threads_default, Ok).map_err(text)
    }

    /// Opens and hashes the file.
    fn open(&self) -> Outcome<(File, Digest)> {
        let failed = |error: std::io::Error| format!("{}: {error}", self.model);
        let mut file = File::open(&self.model).map_err(failed)?;
        let sha256 = Digest::of_reader(&mut file).map_err(failed)?;
        Ok((file, sha256))
    }

    fn load(&self, runtime: &Runtime, file: File) -> Outcome<Model> {
        Model::load(runtime, file, &self.model).map_err(text)
    }

    /// Tokenizer and template, where they were given.
    fn words(&self, model: &Model) -> Outcome<Option<Words>> {
        let (Some(tokenizer), Some(template)) = (&self.tokenizer, &self.template) else { return Ok(None) };
        let json = read(tokenizer)?;
        let template = String::from_utf8(read(template)?).map_err(|error| format!("{template}: {error}"))?;
        Words::new(model, &json, &template).map(Some)
    }
}

fn read(path: &Utf8Path) -> Outcome<Vec<u8>> {
    let most = model_assets::limits::TOKENIZER_BYTES_MAX.max(TEMPLATE_BYTES_MAX);
    let failed = |error: std::io::Error| format!("{path}: {error}");
    let len = std::fs::metadata(path).map_err(failed)?.len();
    if len > most {
        return Err(format!("{path}: got {len} bytes, expected at most {most}"));
    }
    std::fs::read(path).map_err(failed)
}

/// The tokenizer and template that ship with a model.
struct Words {
    tokenizer: Tokenizer,
    template: ChatTemplate,
}

impl Words {
    fn new(model: &Model, tokenizer: &[u8], template: &str) -> Outcome<Self> {
        let tokenizer = Tokenizer::from_bytes(tokenizer, model.vocab()).map_err(text)?;
        let name = |id: Option<u32>| id.and_then(|id| tokenizer.token(id)).unwrap_or_default();
        let template = ChatTemplate::new(template, &name(model.bos()), &name(model.eos())).map_err(text)?;
        Ok(Self { tokenizer, template })
    }

    fn encode(&self, messages: &[Message], add_generation_prompt: bool) -> engine::Result<Vec<u32>> {
        self.tokenizer.encode(&self.template.render(messages, add_generation_prompt)?, false)
    }
}

fn text(error: engine::Error) -> String {
    match error.hint() {
        Some(hint) => format!("{error}\nhint: {hint}"),
        None => error.to_string(),
    }
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Check(args) => check::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Score(args) => score::run(&args),
        Command::Chat(args) => chat::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}
