//! `engine score`: writes the logits after every token of the texts, for a comparison.
//!
//! Standard output begins with one line of JSON that says what ran; [`engine::measure::score`] says what follows.

use std::io::{BufWriter, Write as _};

use camino::Utf8PathBuf;
use clap::Args;
use engine::chat::Message;
use engine::measure::score::{self, Ended, Rows, Words};
use engine::{Record, runtime};
use model_assets::digest::Digest;
use model_assets::evidence::quality::Scored;

use crate::output::Failed;
use crate::writer::Writer;
use crate::{ModelArgs, exit};

#[derive(Args)]
pub(crate) struct ScoreArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The tokenizer that ships with the model.
    #[arg(long, value_name = "FILE")]
    tokenizer: Utf8PathBuf,
    /// The chat template that ships with the model.
    #[arg(long, value_name = "FILE")]
    template: Utf8PathBuf,
    /// Texts: one JSON object a line, with `text` or `messages`.
    #[arg(long, value_name = "FILE")]
    texts: Utf8PathBuf,
    /// Tokens of a window.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    window: u32,
    /// How many windows are run.
    #[arg(long, value_name = "N")]
    windows: u32,
    /// Only the logits after the last token of each window.
    #[arg(long)]
    last: bool,
}

impl Words for Writer {
    fn text(&self, text: &str) -> engine::Result<Vec<u32>> {
        self.tokenizer.encode(text, false)
    }

    fn conversation(&self, messages: &[Message], prompt: bool) -> engine::Result<Vec<u32>> {
        self.encode(messages, prompt)
    }
}

pub(crate) fn run(args: &ScoreArgs) -> Result<(), Failed> {
    args.model.set_threads()?;
    let mut session = crate::load(&args.model.model, &args.model.options(Record::Nothing)?)?;
    let writer = Writer::open(session.model(), &args.tokenizer, &args.template)?;
    let (bos, size) = (session.model().bos(), args.window as usize);
    let windows = score::windows(&args.texts, &writer, bos, size, args.windows as usize);
    let windows = windows.map_err(|message| Failed::new(exit::USAGE, message))?;
    let sha256 = Digest::of(session.model().bytes());
    let ran = Scored { runtime: runtime::VERSION.to_owned(), sha256 };
    let unwritten = |e: &dyn std::fmt::Display| Failed::new(exit::OUTPUT, format!("standard output: {e}"));
    let rows = if args.last { Rows::Last } else { Rows::EachToken };
    let mut out = BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
    let line = serde_json::to_string(&ran).map_err(|e| unwritten(&e))?;
    writeln!(out, "{line}").map_err(|e| unwritten(&e))?;
    score::stream(&mut session, &windows, rows, &mut out).map_err(|ended| match ended {
        Ended::Run(error) => Failed::run(&args.model.model)(error),
        Ended::Write(error) => unwritten(&error),
    })
}
