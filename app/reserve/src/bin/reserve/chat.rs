//! `reserve chat`: a chat in the terminal with a GGUF that went through the door.
//!
//! **Invariant:** the open file that [`check::validate_reserve`] proved is the file that is loaded; a build with
//! optimizations demands what a release build of the app demands.

use std::{
    io::{BufRead as _, Write as _},
    ops::ControlFlow,
};

use camino::Utf8PathBuf;
use clap::Args;
use engine::{
    chat::{Message, Role},
    generate::{Limits, generate},
    runtime,
    sample::{Sampler, Settings},
};
use model_assets::{
    check::{self, Profile},
    dir::ModelDir,
};
use reserve::{Model, Runtime, Session};

use crate::{Outcome, Words, text};

#[derive(Args)]
pub(crate) struct ChatArgs {
    /// Directory of the models
    #[arg(long, value_name = "DIR", default_value = "model-assets/models")]
    models: Utf8PathBuf,
    /// The model's name
    #[arg(default_value = "tiny")]
    model: String,
    /// Say this, print the reply, then leave
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Threads; performance cores unless given
    #[arg(long)]
    threads: Option<u32>,
    /// Most tokens of a reply
    #[arg(long, default_value_t = 128)]
    max_tokens: usize,
    /// Demand what a release build of the app demands
    #[arg(long)]
    release: bool,
}

pub(crate) fn run(args: &ChatArgs) -> Outcome {
    let dir = ModelDir::new(&args.models, &args.model);
    let gate = |error: model_assets::dir::GateError| format!("{error}\nhint: {}", error.hint());
    let claim = dir.reserve_claim().map_err(gate)?;
    let (path, file) = dir.open_gguf(&claim.manifest).map_err(gate)?;
    let profile = if args.release { Profile::Release } else { Profile::Dev };
    let proved = check::validate_reserve(file, &claim, profile).map_err(|refusal| gate(refusal.into()))?;
    let (Some(tokenizer), Some(template)) = (&claim.tokenizer, &claim.chat_template) else {
        return Err("the model has random weights and no tokenizer: nothing to chat with".to_owned());
    };
    let llama = Runtime::start().map_err(text)?;
    let model = Model::load(&llama, proved.into_source(), &path).map_err(text)?;
    let words = Words::new(&model, tokenizer, template)?;
    let threads = args.threads.map_or_else(runtime::threads_default, Ok).map_err(text)?;
    let mut chat = Chat {
        session: Session::new(&llama, &model, threads).map_err(text)?,
        words,
        sampler: Sampler::new(Settings::default()).map_err(text)?,
        limits: Limits { tokens_max: Some(args.max_tokens.max(1)), stop: claim.recipe.tokens.eos.clone() },
        messages: Vec::new(),
    };
    if let Some(prompt) = &args.prompt {
        return chat.say(prompt);
    }
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| error.to_string())?;
        match line.trim() {
            "" => {}
            "/quit" => break,
            // One message that does not fit is no reason to lose the conversation.
            said => chat.say(said).unwrap_or_else(|message| eprintln!("error: {message}")),
        }
    }
    Ok(())
}

struct Chat<'a> {
    session: Session<'a>,
    words: Words,
    sampler: Sampler,
    limits: Limits,
    messages: Vec<Message>,
}

impl Chat<'_> {
    fn say(&mut self, said: &str) -> Outcome {
        let before = self.messages.len();
        // As in the app: what a person types is text, never a special token.
        self.messages.push(Message::new(Role::User, said.replace("<|", "< |")));
        let reply = self.reply();
        if reply.is_err() {
            self.messages.truncate(before);
        }
        reply
    }

    fn reply(&mut self) -> Outcome {
        let window = self.session.model().window();
        let room = self.limits.tokens_max.unwrap_or(window).min(window / 4);
        // The oldest turns go first; what was said last must fit.
        while self.messages.len() > 2
            && self.words.encode(&self.messages, true).map_err(text)?.len() + room > window
        {
            self.messages.drain(..2);
        }
        let prompt = self.words.template.render(&self.messages, true).map_err(text)?;
        let mut out = std::io::stdout().lock();
        let Self { session, words, sampler, limits, .. } = self;
        let reply = generate(session, &words.tokenizer, sampler, &prompt, limits, &mut |piece| match write!(
            out,
            "{}",
            piece.text
        )
        .and_then(|()| out.flush())
        {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        });
        let reply = reply.map_err(text)?;
        writeln!(out).map_err(|error| error.to_string())?;
        self.messages.push(Message::new(Role::Assistant, reply.text.replace("<|", "< |")));
        Ok(())
    }
}
