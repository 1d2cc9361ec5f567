//! `engine answer`: replies to prompts that do not depend on each other, in the runtime that ships.

use std::ops::ControlFlow;

use camino::Utf8PathBuf;
use clap::Args;
use engine::chat::{Message, Role};
use engine::generate::{Finish, Limits, generate};
use engine::sample::{Sampler, Settings};
use engine::{Record, Session, runtime};
use model_assets::digest::Digest;
use model_assets::evidence::{Answer, AnswerRequest, Answers};

use crate::output::{Failed, write_json};
use crate::writer::{Writer, messages};
use crate::{ModelArgs, exit};

/// Largest request: conversations, not books.
const REQUEST_BYTES_MAX: u64 = 64 << 20;

#[derive(Args)]
pub(crate) struct AnswerArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// The tokenizer that ships with the model.
    #[arg(long, value_name = "FILE")]
    pub(crate) tokenizer: Utf8PathBuf,
    /// The chat template that ships with the model.
    #[arg(long, value_name = "FILE")]
    pub(crate) template: Utf8PathBuf,
    /// What to answer (JSON).
    #[arg(long, value_name = "FILE")]
    request: Utf8PathBuf,
    /// Where the replies go.
    #[arg(long, value_name = "FILE")]
    pub(crate) response: Utf8PathBuf,
}

impl AnswerArgs {
    pub(crate) fn request<T: serde::de::DeserializeOwned>(&self) -> Result<T, Failed> {
        let path = &self.request;
        let unusable = |e: &dyn std::fmt::Display| Failed::new(exit::USAGE, format!("{path}: {e}"));
        let len = std::fs::metadata(path).map_err(|e| unusable(&e))?.len();
        if len > REQUEST_BYTES_MAX {
            return Err(unusable(&format!("got {len} bytes, expected at most {REQUEST_BYTES_MAX}")));
        }
        let bytes = std::fs::read(path).map_err(|e| unusable(&e))?;
        serde_json::from_slice(&bytes).map_err(|e| unusable(&e))
    }

    pub(crate) fn open(&self) -> Result<(Session, Writer), Failed> {
        self.model.set_threads()?;
        let session = crate::load(&self.model.model, &self.model.options(Record::Nothing)?)?;
        let writer = Writer::open(session.model(), &self.tokenizer, &self.template)?;
        Ok((session, writer))
    }
}

pub(crate) fn run(args: &AnswerArgs) -> Result<(), Failed> {
    let request: AnswerRequest = args.request()?;
    let (mut session, writer) = args.open()?;
    let failed = Failed::run(&args.model.model);
    let mut answers = Vec::new();
    for (seed, prompt) in (request.seed..).zip(&request.prompts) {
        let settings = Settings { temperature: request.temperature, seed, ..Settings::default() };
        let mut sampler = Sampler::new(settings).map_err(&failed)?;
        let mut conversation = messages(&prompt.messages)?;
        // Every prompt starts from an empty cache: a reply must not depend on the prompt before.
        session.reset();
        let mut answer = reply(&mut session, &writer, &mut sampler, &mut conversation, request.tokens_max)
            .map_err(&failed)?;
        answer.id.clone_from(&prompt.id);
        answers.push(answer);
    }
    let pte = Digest::of(session.model().bytes());
    write_json(&args.response, &Answers { runtime: runtime::VERSION.to_owned(), pte, answers })
}

/// The model's reply to a conversation, which is appended to it; its oldest turns are forgotten first where prompt and
/// reply do not fit the window, as the app does it.
pub(crate) fn reply(
    session: &mut Session,
    writer: &Writer,
    sampler: &mut Sampler,
    conversation: &mut Vec<Message>,
    tokens_max: u32,
) -> engine::Result<Answer> {
    let window = session.model().context();
    let tokens_max = tokens_max as usize;
    let room = tokens_max.min(window / 4);
    let mut forgotten = 0;
    let prompt = loop {
        let prompt = writer.render(conversation, true)?;
        let tokens = writer.tokenizer.encode(&prompt, false)?.len();
        if tokens + room <= window {
            break prompt;
        }
        let first = conversation.iter().position(|message| message.role != Role::System).unwrap_or_default();
        if first + 1 >= conversation.len() {
            return Err(engine::Error::WindowFull { tokens, position: 0, window });
        }
        let turn = 2.min(conversation.len() - first - 1);
        conversation.drain(first..first + turn);
        forgotten += turn;
    };
    let limits = Limits { tokens_max: Some(tokens_max), stop: session.model().eos().to_vec() };
    let mut go_on = |_: engine::generate::Piece<'_>| ControlFlow::Continue(());
    let reply = generate(session, &writer.tokenizer, sampler, &prompt, &limits, &mut go_on)?;
    conversation.push(Message::new(Role::Assistant, reply.text.clone()));
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Ok(Answer {
        id: String::new(),
        finished: reply.finish == Finish::Stop,
        tokens: count(reply.tokens.len()),
        special: writer.specials(&reply.tokens),
        prompt_tokens: count(reply.statistics.prompt_tokens),
        forgotten: count(forgotten),
        text: reply.text,
    })
}
