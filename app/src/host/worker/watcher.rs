//! Handles commands while a reply is being written.

use std::{
    collections::VecDeque,
    ops::ControlFlow,
    sync::mpsc::{Receiver, TryRecvError},
};

use anyhow::Context as _;
use engine::generate::Piece;

use super::{Numbered, Outlet, Stopper};
use crate::{
    chat::Watch,
    document,
    message::{Command, Event, Memory},
    store::Store,
};

/// Commands put off until the reply has ended; beyond that the queue fills up, and sending is refused.
const WAITING_MAX: usize = 32;

/// Looks, while a reply is being written, whether it still should be, and does what can be done meanwhile.
pub(super) struct Watcher<'a> {
    pub(super) number: u64,
    pub(super) commands: &'a Receiver<Numbered>,
    pub(super) outlet: &'a mut Outlet,
    pub(super) store: &'a Store,
    pub(super) open: Option<i64>,
    pub(super) waiting: &'a mut VecDeque<Numbered>,
    pub(super) stopper: &'a Stopper,
    /// The conversation of this reply is about to be deleted.
    pub(super) useless: bool,
    pub(super) gone: bool,
}

impl Watcher<'_> {
    /// Does what can be done aside; the other commands wait.
    fn look(&mut self) {
        while self.waiting.len() < WAITING_MAX {
            let (number, command) = match self.commands.try_recv() {
                Ok(numbered) => numbered,
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => return self.gone = true,
            };
            if !command.is_aside(self.open) {
                self.useless |= matches!(command, Command::Delete { .. });
                self.waiting.push_back((number, command));
                continue;
            }
            let name = command.name();
            let event = aside(self.store, self.open, command);
            let event = event.unwrap_or_else(|error| Event::error(name, &error));
            self.gone |= self.outlet.send(event).is_err();
        }
    }

    fn should_stop(&mut self) -> bool {
        self.look();
        self.gone || self.useless || self.stopper.is_stopped(self.number)
    }
}

impl Watch for Watcher<'_> {
    fn piece(&mut self, piece: Piece<'_>) -> ControlFlow<()> {
        if self.should_stop() {
            return ControlFlow::Break(());
        }
        let sent = self.outlet.send_or_join(Event::Piece {
            text: piece.text.to_owned(),
            reply_tokens: piece.statistics.reply_tokens,
            decode_tokens_per_second: piece.statistics.decode_rate(),
        });
        self.gone |= sent.is_err();
        if self.gone { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn interrupted(&mut self) -> bool {
        self.should_stop()
    }
}

/// Does what touches no open conversation.
pub(super) fn aside(store: &Store, open: Option<i64>, command: Command) -> anyhow::Result<Event> {
    match command {
        Command::Export { id, format } => {
            let id = id.or(open).context("no conversation is open")?;
            let document = document::document(&store.conversation(id)?, format)?;
            Ok(Event::Exported { name: format!("conversation-{id}.{}", format.extension()), document })
        }
        Command::Delete { id } => {
            store.delete(id)?;
            Ok(Event::Listed { conversations: store.list()? })
        }
        Command::List => Ok(Event::Listed { conversations: store.list()? }),
        _ => Ok(Event::Memory { memory: Memory::now() }),
    }
}
