//! One conversation with a model, free of any front end, store or thread.
//!
//! **Invariant:** what a person types is text, never a special token: see [`Plain`].
//!
//! **Invariant:** a turn never feeds again what the cache still holds; when the window is full the oldest turns are
//! left out first, the system message never: see [`fit`].

mod fit;
mod plain;

use std::ops::ControlFlow;

use anyhow::bail;
use engine::{
    LoadOptions, Model, ModelBytes, Packing, Session,
    chat::{ChatTemplate, Clock, Message, Role},
    generate::{Finish, Limits, Piece, Reply, Statistics, generate_until},
    sample::{self, Sampler},
    text::Tokenizer,
};
use model_assets::evidence::PackedWeights;

use plain::Plain;

/// A conversation and the model it is held with.
pub(crate) struct Chat {
    session: Session,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    system: Option<Message>,
    turns: Vec<Message>,
    stop: Vec<u32>,
    plain: Plain,
    /// Messages at the start that the model no longer sees.
    left_out: usize,
    /// Text that was tokenized to find what fits.
    #[cfg(test)]
    encoded_bytes: std::cell::Cell<usize>,
}

/// What a reply may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish {
    /// How tokens are chosen.
    pub(crate) sampling: sample::Settings,
    /// Most tokens of a reply.
    pub(crate) tokens_max: usize,
}

/// A reply, and what had to be left out for it.
pub(crate) struct Turn {
    /// The reply.
    pub(crate) reply: Reply,
    /// Messages at the start of the conversation that the model no longer sees.
    pub(crate) forgotten: usize,
}

/// Sees a reply grow, and can end it: `piece` after each token, `interrupted` between chunks of the prompt.
pub(crate) trait Watch {
    /// A token was chosen.
    fn piece(&mut self, piece: Piece<'_>) -> ControlFlow<()>;
    /// Whether to go on is asked before each chunk of the prompt.
    fn interrupted(&mut self) -> bool;
}

impl Chat {
    /// Loads the model, proved before; also returns a message for the user about its packed weights.
    pub(crate) fn load(
        bytes: ModelBytes,
        tokenizer: &[u8],
        template: &str,
        packing: Packing,
    ) -> anyhow::Result<(Self, Option<String>)> {
        let model = Model::load(bytes, &LoadOptions { packing, ..LoadOptions::default() })?;
        let warning = model.packed_weights().and_then(PackedWeights::warning);
        let plain = Plain::of(tokenizer)?;
        let tokenizer = Tokenizer::from_bytes(tokenizer, model.vocab())?;
        let name = |id: Option<u32>| id.and_then(|id| tokenizer.token(id)).unwrap_or_default();
        let stop = model.eos().to_vec();
        let template =
            ChatTemplate::new(template, &name(model.bos()), &name(stop.first().copied()))?.at(now());
        let chat = Self {
            session: Session::new(model),
            tokenizer,
            template,
            system: None,
            turns: Vec::new(),
            stop,
            plain,
            left_out: 0,
            #[cfg(test)]
            encoded_bytes: 0.into(),
        };
        Ok((chat, warning))
    }

    /// Sets the system message; an empty one removes it.
    pub(crate) fn set_system(&mut self, text: &str) {
        self.system = (!text.is_empty()).then(|| Message::new(Role::System, self.plain.text(text)));
    }

    /// Refuses a system message that leaves too little room to talk.
    ///
    /// # Errors
    /// It takes more than half of the window.
    pub(crate) fn check_system(&self, text: &str) -> anyhow::Result<()> {
        let tokens = self.tokenizer.encode(&self.plain.text(text), false)?.len();
        let most = self.session.model().context() / 2;
        anyhow::ensure!(
            tokens <= most,
            "system message: got {tokens} tokens, expected at most {most}, half of the window"
        );
        Ok(())
    }

    /// Continues another conversation.
    pub(crate) fn set_turns<'a>(&mut self, turns: impl Iterator<Item = (Role, &'a str)>) {
        self.turns = turns.map(|(role, text)| Message::new(role, self.plain.text(text))).collect();
        self.left_out = 0;
    }

    /// How many messages the conversation has.
    pub(crate) fn turns(&self) -> usize {
        self.turns.len()
    }

    /// Takes back what came after the first messages: it could not be kept.
    pub(crate) fn truncate(&mut self, turns: usize) {
        self.turns.truncate(turns);
    }

    /// The person says something; the model replies, piece by piece.
    ///
    /// # Errors
    /// When the text alone does not fit the window, or the engine fails; the conversation is then as before.
    pub(crate) fn say(&mut self, text: &str, wish: Wish, watch: &mut dyn Watch) -> anyhow::Result<Turn> {
        self.turns.push(Message::new(Role::User, self.plain.text(text)));
        let turn = self.reply(wish, watch);
        if turn.is_err() {
            self.turns.pop();
        }
        turn
    }

    /// The model replies once more to what the person said last; its last reply gives way to a new one that
    /// is not empty.
    ///
    /// # Errors
    /// As [`Self::say`], or when there is no message to answer.
    pub(crate) fn regenerate(&mut self, wish: Wish, watch: &mut dyn Watch) -> anyhow::Result<Turn> {
        let last = self.turns.pop_if(|message| message.role == Role::Assistant);
        if self.turns.last().is_none_or(|message| message.role != Role::User) {
            self.turns.extend(last);
            bail!("got no message to reply to, expected one");
        }
        let turn = self.reply(wish, watch);
        if turn.as_ref().map_or(true, |turn| turn.reply.text.is_empty()) {
            self.turns.extend(last);
        }
        turn
    }

    /// Tokens in the window and how many it can hold.
    pub(crate) fn window(&self) -> (usize, usize) {
        (self.session.position(), self.session.model().context())
    }

    /// Gives file pages back to the system: they come in again when they are needed.
    pub(crate) fn release_pages(&self) {
        let _ = self.session.model().release_pages();
    }

    fn reply(&mut self, wish: Wish, watch: &mut dyn Watch) -> anyhow::Result<Turn> {
        let Some(prompt) = self.fit(wish.tokens_max, &mut || watch.interrupted())? else {
            let (text, tokens, statistics) = (String::new(), Vec::new(), Statistics::default());
            let reply = Reply { text, tokens, finish: Finish::Interrupted, statistics };
            return Ok(Turn { reply, forgotten: self.left_out });
        };
        self.left_out = prompt.left_out;
        let limits = Limits { tokens_max: Some(wish.tokens_max), stop: self.stop.clone() };
        let mut sampler = Sampler::new(wish.sampling)?;
        let Self { session, tokenizer, .. } = self;
        // Two closures share one watcher: neither runs inside the other.
        let watch = std::cell::RefCell::new(watch);
        let reply = generate_until(
            session,
            tokenizer,
            &mut sampler,
            &prompt.text,
            &limits,
            &mut |piece| watch.borrow_mut().piece(piece),
            &mut || watch.borrow_mut().interrupted(),
        )?;
        if !reply.text.is_empty() {
            self.turns.push(Message::new(Role::Assistant, self.plain.text(&reply.text)));
        }
        Ok(Turn { reply, forgotten: self.left_out })
    }
}

/// The time that a template may ask for; a person's own time zone is not known here.
fn now() -> Clock {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(Clock::FIXED, |since| Clock::utc(since.as_secs()))
}

#[cfg(test)]
mod tests;
