//! The chat app: the model that the build proved, and a terminal front over the chat core.

mod chat;
mod install;
mod model;
mod provenance;
mod terminal;

use std::process::ExitCode;

use anyhow::Context as _;
use camino::Utf8PathBuf;
use clap::Parser;
use engine::{ModelBytes, sample::Settings};

use crate::{
    chat::{Chat, Options},
    model::MODEL,
};

/// Chat with the model that this build proved.
#[derive(Parser)]
#[command(name = "app", version, about)]
struct Cli {
    /// Print what model is inside and what proved it, then leave
    #[arg(long)]
    provenance: bool,
    /// Say this, print the reply, then leave
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Print JSON events, one a line
    #[arg(long)]
    json: bool,
    /// System message
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// 0 is greedy
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Keep the fewest tokens whose probabilities reach this sum
    #[arg(long, default_value_t = 1.0)]
    top_p: f32,
    /// Start of the random sequence
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Most tokens of a reply
    #[arg(long, default_value_t = 128)]
    max_tokens: usize,
    /// Threads; by default one for each performance core
    #[arg(long)]
    threads: Option<u32>,
    /// File of a linked model; by default the one beside the binary
    #[arg(long, value_name = "FILE")]
    model: Option<Utf8PathBuf>,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    if cli.provenance {
        let text = serde_json::to_string_pretty(&provenance::provenance(&MODEL)?)?;
        return Ok(std::io::Write::write_all(&mut std::io::stdout(), format!("{text}\n").as_bytes())?);
    }
    let tokenizer =
        MODEL.tokenizer().context("the model has random weights and no tokenizer: nothing to chat with")?;
    let template = MODEL.chat_template().context("the model has no chat template")?;
    engine::runtime::set_threads(cli.threads.map_or_else(engine::runtime::threads_default, Ok)?)?;
    let sampling = Settings { temperature: cli.temperature, top_p: cli.top_p, top_k: None, seed: cli.seed };
    let options = Options {
        sampling,
        tokens_max: cli.max_tokens.max(1),
        system: cli.system.clone(),
        packed: install::packed_cache(&MODEL),
    };
    let bytes = match MODEL.embedded() {
        Some(bytes) => ModelBytes::Static(bytes),
        None => install::open(&MODEL, cli.model.as_deref())?,
    };
    let mut chat = Chat::open(bytes, tokenizer, template, &options)?;
    terminal::catch_interrupts()?;
    match &cli.prompt {
        Some(prompt) => terminal::once(&mut chat, prompt, cli.json),
        None => terminal::interactive(&mut chat, cli.json),
    }
}
