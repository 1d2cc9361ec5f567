//! The loop on the model's thread: takes commands, runs the model, sends events.

mod watcher;

use std::{collections::VecDeque, ops::ControlFlow, sync::mpsc::Receiver, time::Instant};

use anyhow::Context as _;
use engine::generate::{Finish, Reply as Generated};

use super::{Config, Gone, Outlet, Stopper};
use crate::{
    Card,
    chat::{Chat, Turn, Wish},
    install::{self, Refusal},
    message::{Cause, Command, Event, Memory, Reply, Statistics},
    model::MODEL,
    settings::Settings,
    store::{self, Store},
};
use watcher::{Watcher, aside};

/// A command and its number.
type Numbered = (u64, Command);

/// Events of an installation: enough for a bar that moves.
const PROGRESS_STEPS: u64 = 50;

/// The core, from start to end.
pub(crate) fn run(
    config: Config,
    outlet: &mut Outlet,
    commands: Receiver<Numbered>,
    stopper: &Stopper,
    started: Instant,
) {
    // A front that goes away ends the core; no event can be sent any more.
    let _: Result<(), Gone> = match Worker::start(config, outlet, stopper) {
        Ok((worker, warning)) => worker.serve(&commands, outlet, started, warning),
        Err(Refusal { cause, reason, hint }) => outlet.send(Event::Refused { cause, reason, hint }),
    };
}

/// Everything that the model's thread owns.
struct Worker {
    chat: Chat,
    store: Store,
    /// The settings in effect: the stored ones, overridden by the flags of this run.
    settings: Settings,
    /// The stored settings.
    kept: Settings,
    /// The open conversation.
    open: Option<i64>,
    /// Replies that were regenerated: each needs another start of the random sequence.
    again: u64,
    /// Commands that came while a reply was being written.
    waiting: VecDeque<Numbered>,
    stopper: Stopper,
}

impl Worker {
    fn start(
        config: Config,
        outlet: &mut Outlet,
        stopper: &Stopper,
    ) -> Result<(Self, Option<String>), Refusal> {
        let refused = |error: anyhow::Error, hint: &str| {
            let (reason, hint) = (format!("{error:#}"), hint.to_owned());
            Refusal { cause: Cause::App, reason, hint }
        };
        // Not to install it again: on a phone that takes the conversations with it.
        let cannot = |error| refused(error, "start the app again");
        MODEL.check().map_err(install::altered)?;
        let card = Box::new(Card::of(&MODEL).map_err(cannot)?);
        // A front that is gone is noticed at the next event.
        let _ = outlet.send(Event::Card { card });
        let tokenizer = MODEL.tokenizer().context("the model has random weights and no tokenizer");
        let tokenizer = tokenizer.map_err(cannot)?;
        let template = MODEL.chat_template().context("the model has no chat template").map_err(cannot)?;
        let data = config.data.as_deref();
        let unusable = |error: anyhow::Error| {
            let (reason, hint) = (format!("{error:#}"), store::hint(&error, data));
            Refusal { cause: Cause::Conversations, reason, hint }
        };
        let store = Store::open(data).map_err(unusable)?;
        let kept = store.settings().map_err(unusable)?.unwrap_or_default();
        let is_flag = config.overrides.system.is_some();
        let mut settings = config.overrides.over(kept.clone());
        let wrong = |error| refused(anyhow::Error::msg(error), "start the app with another value");
        settings.check().map_err(wrong)?;

        let mut reported_bytes = 0;
        let bytes = install::open(&MODEL, config.asset, &config.cache, &mut |done_bytes, total_bytes| {
            if done_bytes >= reported_bytes + total_bytes / PROGRESS_STEPS || done_bytes == total_bytes {
                reported_bytes = done_bytes;
                let _ = outlet.send_or_join(Event::Installing { done_bytes, total_bytes });
            }
            if stopper.is_closed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        let packing = install::packing(&MODEL, &bytes, &config.cache);
        match config.threads {
            Some(threads) => {
                engine::runtime::set_threads(threads).map_err(|error| wrong(error.to_string()))?;
            }
            // Refused while another core of this process has a model: then its number holds.
            None => {
                let threads = engine::runtime::threads_for(MODEL.file_bytes);
                let _ = threads.and_then(engine::runtime::set_threads);
            }
        }
        let (mut chat, mut warning) = Chat::load(bytes, tokenizer, template, packing).map_err(cannot)?;
        if let Err(error) = chat.check_system(&settings.system) {
            if is_flag {
                return Err(wrong(format!("{error:#}")));
            }
            // Kept under a model with a larger window. It stays on disk until a person sets another one.
            settings.system.clear();
            let left_out = format!("the system message that is kept is left out: {error:#}");
            warning = Some(warning.map_or(left_out.clone(), |warning| format!("{warning}; {left_out}")));
        }
        chat.set_system(&settings.system);
        let (stopper, waiting) = (stopper.clone(), VecDeque::new());
        Ok((Self { chat, store, settings, kept, open: None, again: 0, waiting, stopper }, warning))
    }

    fn serve(
        mut self,
        commands: &Receiver<Numbered>,
        outlet: &mut Outlet,
        started: Instant,
        warning: Option<String>,
    ) -> Result<(), Gone> {
        let start_ms = started.elapsed().as_secs_f64() * 1e3;
        let ready = Event::Ready { start_ms, warning, settings: self.settings.clone() };
        let served = outlet.send(ready).and_then(|()| self.serve_until_closed(commands, outlet));
        self.put_away(commands);
        served
    }

    /// Carries out accepted commands whose effect does not need a front: closing loses nothing.
    fn put_away(&mut self, commands: &Receiver<Numbered>) {
        while let Some((_, command)) = self.waiting.pop_front().or_else(|| commands.try_recv().ok()) {
            // No front is left that could show a failure.
            let _ = match command {
                Command::Set { settings } => self.set(settings),
                Command::Delete { id } => self.store.delete(id),
                _ => Ok(()),
            };
        }
    }

    fn set(&mut self, wanted: Settings) -> anyhow::Result<()> {
        wanted.check().map_err(anyhow::Error::msg)?;
        self.chat.check_system(&wanted.system)?;
        let kept = self.kept.clone().changed(&self.settings, &wanted);
        self.store.keep_settings(&kept)?;
        self.chat.set_system(&wanted.system);
        (self.kept, self.settings) = (kept, wanted);
        Ok(())
    }

    fn serve_until_closed(&mut self, commands: &Receiver<Numbered>, outlet: &mut Outlet) -> Result<(), Gone> {
        while !self.stopper.is_closed() {
            let next = self.waiting.pop_front().map_or_else(|| commands.recv(), Ok);
            let Ok((number, command)) = next else { return Ok(()) };
            let name = command.name();
            let done = match command {
                Command::Say { text } => self.say(number, &text, commands, outlet),
                Command::Regenerate => self.regenerate(number, commands, outlet),
                other => self.act(other, outlet),
            };
            match done {
                Ok(sent) => sent?,
                Err(error) => outlet.send(Event::error(name, &error))?,
            }
        }
        Ok(())
    }

    /// Carries out commands that need no model. The outer error is sent as an event; the inner one ends the core.
    fn act(&mut self, command: Command, outlet: &mut Outlet) -> anyhow::Result<Result<(), Gone>> {
        let Self { chat, store, open, .. } = self;
        let event = match command {
            Command::Say { .. } | Command::Regenerate => return Ok(Ok(())),
            Command::New => {
                *open = None;
                chat.set_turns([].into_iter());
                Event::Opened { conversation: None }
            }
            Command::Open { id } => {
                let conversation = store.conversation(id)?;
                chat.set_turns(conversation.messages.iter().map(|kept| (kept.role, kept.content.as_str())));
                *open = Some(id);
                Event::Opened { conversation: Some(conversation) }
            }
            Command::Delete { id } if *open == Some(id) => {
                store.delete(id)?;
                *open = None;
                chat.set_turns([].into_iter());
                if let Err(gone) = outlet.send(Event::Opened { conversation: None }) {
                    return Ok(Err(gone));
                }
                Event::Listed { conversations: store.list()? }
            }
            Command::Set { settings } => {
                self.set(settings)?;
                Event::Settings { settings: self.settings.clone() }
            }
            Command::Pause | Command::Release => {
                chat.release_pages();
                Event::Memory { memory: Memory::now() }
            }
            command @ (Command::List | Command::Export { .. } | Command::Memory | Command::Delete { .. }) => {
                aside(store, *open, command)?
            }
        };
        Ok(outlet.send(event))
    }

    fn say(
        &mut self,
        number: u64,
        text: &str,
        commands: &Receiver<Numbered>,
        outlet: &mut Outlet,
    ) -> anyhow::Result<Result<(), Gone>> {
        // On disk before the model begins: a kill costs at most the reply.
        let id = self.store.keep_message(self.open, text, MODEL.sha256)?;
        let before = self.open.replace(id);
        if let Err(gone) = outlet.send(Event::Said { id, text: Some(text.to_owned()) }) {
            return Ok(Err(gone));
        }
        let Settings { tokens_max, .. } = self.settings;
        let wish = Wish { sampling: self.settings.sampling(), tokens_max: tokens_max as usize };
        let turns = self.chat.turns();
        let (chat, mut watcher) = self.watcher(number, commands, outlet);
        let turn = chat.say(text, wish, &mut watcher);
        let gone = watcher.gone;
        match turn.and_then(|turn| self.keep(id, turn, false)) {
            Ok(turn) => self.announce(id, turn, false, gone, outlet),
            Err(error) => {
                self.chat.truncate(turns);
                match self.store.take_back(id) {
                    Ok(()) => {
                        self.open = before;
                        Err(error)
                    }
                    Err(also) => {
                        let also = format!("what was said cannot be taken back: {also:#}");
                        self.as_kept(id, error.context(also), outlet)
                    }
                }
            }
        }
    }

    fn regenerate(
        &mut self,
        number: u64,
        commands: &Receiver<Numbered>,
        outlet: &mut Outlet,
    ) -> anyhow::Result<Result<(), Gone>> {
        let id = self.open.context("no conversation is open")?;
        self.again += 1;
        let (sampling, tokens_max) = (self.settings.again(self.again), self.settings.tokens_max as usize);
        if let Err(gone) = outlet.send(Event::Said { id, text: None }) {
            return Ok(Err(gone));
        }
        let (chat, mut watcher) = self.watcher(number, commands, outlet);
        let turn = chat.regenerate(Wish { sampling, tokens_max }, &mut watcher);
        let gone = watcher.gone;
        match turn.and_then(|turn| self.keep(id, turn, true)) {
            Ok(turn) => self.announce(id, turn, true, gone, outlet),
            // A front took the old reply away when it heard that another was to come.
            Err(error) => self.as_kept(id, error, outlet),
        }
    }

    /// After a failure: makes model and screen match the disk, then sends the error.
    fn as_kept(
        &mut self,
        id: i64,
        error: anyhow::Error,
        outlet: &mut Outlet,
    ) -> anyhow::Result<Result<(), Gone>> {
        let Ok(conversation) = self.store.conversation(id) else { return Err(error) };
        self.chat.set_turns(conversation.messages.iter().map(|kept| (kept.role, kept.content.as_str())));
        match outlet.send(Event::Opened { conversation: Some(conversation) }) {
            Ok(()) => Err(error),
            Err(gone) => Ok(Err(gone)),
        }
    }

    fn watcher<'a>(
        &'a mut self,
        number: u64,
        commands: &'a Receiver<Numbered>,
        outlet: &'a mut Outlet,
    ) -> (&'a mut Chat, Watcher<'a>) {
        let Self { chat, store, open, waiting, stopper, .. } = self;
        let (store, stopper, open) = (&*store, &*stopper, *open);
        let (useless, gone) = (false, false);
        (chat, Watcher { number, commands, outlet, store, open, waiting, stopper, useless, gone })
    }

    /// Keeps a reply.
    fn keep(&mut self, id: i64, turn: Turn, instead: bool) -> anyhow::Result<Turn> {
        let Generated { text, finish, .. } = &turn.reply;
        self.store.keep_reply(id, text, name(*finish), instead)?;
        Ok(turn)
    }

    /// Sends the event of a reply that was kept.
    fn announce(
        &mut self,
        id: i64,
        turn: Turn,
        instead: bool,
        gone: bool,
        outlet: &mut Outlet,
    ) -> anyhow::Result<Result<(), Gone>> {
        let Turn { reply, forgotten } = turn;
        if gone {
            return Ok(Err(Gone));
        }
        let ((held_tokens, window_tokens), of) = (self.chat.window(), reply.statistics);
        let statistics = Statistics {
            prompt_tokens: of.prompt_tokens,
            reused_tokens: of.reused_tokens,
            reply_tokens: of.reply_tokens,
            ttft_ms: of.first_token.as_secs_f64() * 1e3,
            prefill_tokens_per_second: of.prefill_rate(),
            decode_tokens_per_second: of.decode_rate(),
            held_tokens,
            window_tokens,
            memory: Memory::now(),
        };
        let kept_the_old = instead && reply.text.is_empty();
        let reply = Reply { text: reply.text, finish: reply.finish, forgotten, statistics };
        if let Err(gone) = outlet.send(Event::Reply(Box::new(reply))) {
            return Ok(Err(gone));
        }
        if kept_the_old {
            let conversation = Some(self.store.conversation(id)?);
            return Ok(outlet.send(Event::Opened { conversation }));
        }
        Ok(Ok(()))
    }
}

/// As serde names it.
fn name(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
        Finish::Window => "window",
        Finish::Interrupted => "interrupted",
    }
}
