//! `engine`: loads, runs, checks and benchmarks any model file in the runtime that ships with the app.
//!
//! xtask runs this binary to obtain its evidence, so that a proof never comes from another runtime than the
//! one that users get.
//!
//! **Invariant:** results go to stdout or the named response file, messages to stderr; every way to end has
//! the documented exit code of [`exit`].
#![forbid(unsafe_code)]

mod answer;
mod bench;
mod call;
mod check;
mod output;
mod profile;
mod run;
mod score;
mod talk;
mod writer;

use std::process::ExitCode;

use camino::{Utf8Path, Utf8PathBuf};
use clap::{Args, Parser, Subcommand};
use engine::{LoadOptions, Model, ModelBytes, PackedCache, Packing, Record, Session, runtime};
use model_assets::digest::Digest;
use model_assets::evidence::PackedWeights;

use crate::output::Failed;

/// Exit codes.
pub(crate) mod exit {
    /// Done.
    pub(crate) const OK: u8 = 0;
    /// The command line is wrong.
    pub(crate) const USAGE: u8 = 2;
    /// The model could not be opened, loaded, or is no model of the contract.
    pub(crate) const MODEL: u8 = 10;
    /// The reference file is unreadable, malformed or does not fit the model.
    pub(crate) const REFERENCE: u8 = 11;
    /// The model was loaded but running it failed.
    pub(crate) const RUN: u8 = 12;
    /// The result could not be written.
    pub(crate) const OUTPUT: u8 = 13;
}

const EXIT_CODES: &str = "Exit codes: 0 done; 2 wrong command line; 10 model cannot be loaded; \
                          11 reference unusable; 12 running failed; 13 result cannot be written";

#[derive(Parser)]
#[command(name = "engine", version, about, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List what the linked runtime can execute.
    Kernels {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Load and run a model, compare it with reference logits, and write the evidence.
    Check(check::CheckArgs),
    /// Measure load time, speed and memory.
    Bench(bench::BenchArgs),
    /// Answer prompts that do not depend on each other.
    Answer(answer::AnswerArgs),
    /// Hold a conversation in which the model reads its own replies.
    Talk(answer::AnswerArgs),
    /// Run programs of any signature on made-up inputs: one file per input line, one JSON line per file.
    Call,
    /// Write the logits after every token of texts, for a comparison with another model's.
    Score(score::ScoreArgs),
    /// Run token ids through a model and print what comes out.
    Run(run::RunArgs),
}

/// The model and how it is run.
#[derive(Args)]
struct ModelArgs {
    /// The `.pte` file.
    #[arg(long, value_name = "FILE")]
    model: Utf8PathBuf,
    /// Threads; unless given, one for a small model and else the performance cores.
    #[arg(long, value_name = "N", value_parser = threads_range())]
    threads: Option<u32>,
    /// Directory of the packed-weights cache; without it the weights are packed in memory.
    #[arg(long, value_name = "DIR")]
    packed_cache: Option<Utf8PathBuf>,
    /// Directory for a file of packed weights that ends with this process, so that they take no memory of their own.
    #[arg(long, value_name = "DIR", conflicts_with = "packed_cache")]
    packed_scratch: Option<Utf8PathBuf>,
}

fn threads_range() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(runtime::THREADS_MAX))
}

impl ModelArgs {
    /// How to load the model. Hashes it for the cache: an app has its digest from the build.
    fn options(&self, record: Record) -> Result<LoadOptions, Failed> {
        let packing = match (&self.packed_cache, &self.packed_scratch) {
            (Some(dir), _) => {
                let digest =
                    std::fs::File::open(&self.model).and_then(|mut file| Digest::of_reader(&mut file));
                let model =
                    digest.map_err(|error| Failed::new(exit::MODEL, format!("{}: {error}", self.model)))?;
                Packing::Kept(PackedCache { dir: dir.clone(), model, exclusive: false })
            }
            (None, Some(dir)) => Packing::Scratch(dir.clone()),
            (None, None) => Packing::Heap,
        };
        Ok(LoadOptions { record, packing, ..LoadOptions::default() })
    }

    fn set_threads(&self) -> Result<(), Failed> {
        set_threads(self.threads, &self.model)
    }
}

/// Sets the number of threads: as many as were asked for, else what suits the model.
fn set_threads(asked: Option<u32>, model: &Utf8Path) -> Result<(), Failed> {
    // A file that cannot be examined is reported when it is opened.
    let bytes = std::fs::metadata(model).map_or(0, |file| file.len());
    let threads = asked.map_or_else(|| runtime::threads_for(bytes), Ok);
    threads.and_then(runtime::set_threads).map_err(Failed::model(model))
}

fn load(path: &Utf8Path, options: &LoadOptions) -> Result<Session, Failed> {
    let model = ModelBytes::open(path).and_then(|bytes| Model::load(bytes, options));
    let model = model.map_err(Failed::model(path))?;
    if let Some(warning) = model.packed_weights().and_then(PackedWeights::warning) {
        eprintln!("warning: {warning}");
    }
    Ok(Session::new(model))
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too. If the stream is closed, there is no one to report it to.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { exit::USAGE } else { exit::OK });
        }
    };
    let result = match cli.command {
        Command::Kernels { json } => kernels(json),
        Command::Check(args) => check::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Answer(args) => answer::run(&args),
        Command::Talk(args) => talk::run(&args),
        Command::Call => call::run(),
        Command::Score(args) => score::run(&args),
        Command::Run(args) => run::run(&args),
    };
    match result {
        Ok(()) => ExitCode::from(exit::OK),
        Err(failed) => {
            eprintln!("error: {}", failed.message);
            if let Some(hint) = failed.hint {
                eprintln!("hint: {hint}");
            }
            ExitCode::from(failed.code)
        }
    }
}

fn kernels(json: bool) -> Result<(), Failed> {
    let table = runtime::table().map_err(|e| Failed::from_engine(exit::RUN, "", e))?;
    if json {
        return output::print_json(&table);
    }
    let mut text = format!("ExecuTorch {}\n", table.runtime);
    for backend in &table.backends {
        text.push_str(&format!("backend {backend}\n"));
    }
    for kernel in &table.kernels {
        text.push_str(&format!("kernel {kernel}\n"));
    }
    output::print(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound_and_lists_every_exit_code() {
        Cli::command().debug_assert();
        for code in [exit::OK, exit::USAGE, exit::MODEL, exit::REFERENCE, exit::RUN, exit::OUTPUT] {
            let listed = EXIT_CODES
                .split([':', ';'])
                .any(|part| part.split_whitespace().next() == Some(&code.to_string()));
            assert!(listed, "{code}");
        }
    }
}
