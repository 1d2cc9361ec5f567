//! `reserve score`: the logits after every token of texts, to whoever compares them.
//!
//! Standard output begins with one line of JSON that says what ran; [`engine::measure::score`] says what follows.

use std::io::{BufWriter, Write as _};

use camino::Utf8PathBuf;
use clap::Args;
use engine::{
    chat::Message,
    measure::score::{self, Ended, Rows},
};
use model_assets::{evidence::quality::Scored, reserve::RESERVE_RUNTIME};
use reserve::{Runtime, Session};

use crate::{ModelArgs, Outcome, Words, text};

#[derive(Args)]
pub(crate) struct ScoreArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Texts: one JSON object a line, with `text` or `messages`
    #[arg(long, value_name = "FILE")]
    texts: Utf8PathBuf,
    /// Tokens of a window
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    window: u32,
    /// How many windows are run
    #[arg(long, value_name = "N")]
    windows: u32,
    /// Only the logits after the last token of each window
    #[arg(long)]
    last: bool,
}

impl score::Words for Words {
    fn text(&self, text: &str) -> engine::Result<Vec<u32>> {
        self.tokenizer.encode(text, false)
    }

    fn conversation(&self, messages: &[Message], prompt: bool) -> engine::Result<Vec<u32>> {
        self.encode(messages, prompt)
    }
}

pub(crate) fn run(args: &ScoreArgs) -> Outcome {
    let (file, sha256) = args.model.open()?;
    let runtime = Runtime::start().map_err(text)?;
    let model = args.model.load(&runtime, file)?;
    let words = args.model.words(&model)?.ok_or("got no tokenizer, expected --tokenizer and --template")?;
    let (size, count) = (args.window as usize, args.windows as usize);
    let windows = score::windows(&args.texts, &words, model.bos(), size, count)?;
    let mut session = Session::new(&runtime, &model, args.model.threads()?).map_err(text)?;
    let unwritten = |e: &dyn std::fmt::Display| format!("standard output: {e}");
    let rows = if args.last { Rows::Last } else { Rows::EachToken };
    let mut out = BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
    let line = serde_json::to_string(&Scored { runtime: RESERVE_RUNTIME.to_owned(), sha256 });
    let line = line.map_err(|e| unwritten(&e))?;
    writeln!(out, "{line}").map_err(|e| unwritten(&e))?;
    score::stream(&mut session, &windows, rows, &mut out).map_err(|ended| match ended {
        Ended::Run(error) => text(error),
        Ended::Write(error) => unwritten(&error),
    })
}
