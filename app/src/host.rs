//! The core on a thread of its own: a front sends [`Command`]s and receives [`Event`]s, and never waits.
//!
//! **Invariant:** nothing here blocks a front. Commands go into a short queue; a full one is an error, not a wait.
//! Events come out of a bounded queue: while it is full the pieces of a reply are joined, so a front that stands still
//! costs neither memory nor tokens.
//!
//! **Invariant:** a stop ends the reply that was asked for before it and no later one.

mod worker;

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use camino::Utf8PathBuf;

use crate::{
    Asset,
    message::{Cause, Command, Event},
    settings::Overrides,
};

const COMMANDS_MAX: usize = 32;
const EVENTS_MAX: usize = 256;

/// How to start the core.
#[derive(Debug, Default)]
pub struct Config {
    /// Folder of conversations; without one they are forgotten at the end.
    pub data: Option<Utf8PathBuf>,
    /// Folder of what can be made again: packed weights, and the stamp of an installed model.
    pub cache: Utf8PathBuf,
    /// Where the model's bytes are.
    pub asset: Asset,
    /// Threads; by default one for a small model, else one for each performance core.
    pub threads: Option<u32>,
    /// Settings for this run alone.
    pub overrides: Overrides,
}

/// The running core.
#[derive(Debug)]
pub struct Host {
    commands: SyncSender<(u64, Command)>,
    stopper: Stopper,
    thread: JoinHandle<()>,
}

/// Stops replies, from any thread.
#[derive(Debug, Clone, Default)]
pub struct Stopper(Arc<Signals>);

#[derive(Debug, Default)]
struct Signals {
    /// Commands sent so far.
    sent: AtomicU64,
    /// Replies to commands up to this one are of no more use.
    stopped: AtomicU64,
    /// Nothing is needed any more.
    closed: AtomicBool,
}

impl Stopper {
    /// Ends every reply that was asked for until now.
    pub fn stop(&self) {
        self.0.stopped.fetch_max(self.0.sent.load(Ordering::Acquire), Ordering::AcqRel);
    }

    /// Whether the reply to a command should end.
    pub(crate) fn is_stopped(&self, command: u64) -> bool {
        self.is_closed() || self.0.stopped.load(Ordering::Acquire) >= command
    }

    /// Whether the core should end.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Acquire)
    }
}

/// Why a command was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsent {
    /// Too many commands wait.
    Busy,
    /// The core has ended.
    Gone,
}

impl std::fmt::Display for Unsent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Busy => "too many commands wait for the model",
            Self::Gone => "the model is not running",
        })
    }
}

impl std::error::Error for Unsent {}

impl Host {
    /// Starts the core. Events come through the receiver; it ends after [`Event::Refused`].
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(config: Config) -> io::Result<(Self, Receiver<Event>)> {
        let started = Instant::now();
        Self::spawn(move |outlet, commands, seen| worker::run(config, outlet, commands, seen, started))
    }

    /// Starts a thread that runs the core. If it ends early, also by a panic, the front gets a refusal.
    fn spawn(
        run: impl FnOnce(&mut Outlet, Receiver<(u64, Command)>, &Stopper) + Send + 'static,
    ) -> io::Result<(Self, Receiver<Event>)> {
        let (commands, incoming) = sync_channel(COMMANDS_MAX);
        let (outgoing, events) = sync_channel(EVENTS_MAX);
        let stopper = Stopper::default();
        let mut outlet = Outlet { events: outgoing, pending: None, stopper: stopper.clone() };
        let seen = stopper.clone();
        // The outlet is dropped after the commands: once the events have ended, commands are refused.
        let body = move || {
            let ran = catch_unwind(AssertUnwindSafe(|| run(&mut outlet, incoming, &seen)));
            if let Err(panic) = ran {
                // The front may be gone: then nothing can be sent.
                let _ = outlet.send(panicked(panic.as_ref()));
            }
        };
        let thread = std::thread::Builder::new().name("model".to_owned()).spawn(body)?;
        Ok((Self { commands, stopper, thread }, events))
    }

    /// Asks for something. Whatever makes the reply being written useless also stops it.
    ///
    /// # Errors
    /// It was not taken.
    pub fn send(&self, command: Command) -> Result<(), Unsent> {
        if command.interrupts() {
            self.stop();
        }
        let number = self.stopper.0.sent.fetch_add(1, Ordering::AcqRel) + 1;
        self.commands.try_send((number, command)).map_err(|error| match error {
            TrySendError::Full(_) => Unsent::Busy,
            TrySendError::Disconnected(_) => Unsent::Gone,
        })
    }

    /// Ends the reply being written, and any that wait.
    pub fn stop(&self) {
        self.stopper.stop();
    }

    /// A handle that can stop replies from anywhere, such as a signal handler.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Ends the core and waits until everything is on disk. Events that were not received are lost.
    pub fn close(self) {
        self.stopper.0.closed.store(true, Ordering::Release);
        drop(self.commands);
        // A panic of the model's thread was sent as an event.
        let _ = self.thread.join();
    }

    /// Ends the core without waiting for it: while the model is being loaded that takes long, and nothing is unsaved. The
    /// process must go on afterwards: its thread still runs.
    pub fn abandon(self) {
        self.stopper.0.closed.store(true, Ordering::Release);
    }
}

/// What a front gets when the core failed unexpectedly.
fn panicked(panic: &(dyn std::any::Any + Send)) -> Event {
    let text =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Event::Refused {
        cause: Cause::App,
        reason: format!("the app has a fault: {}", text.unwrap_or("it panicked")),
        hint: "start the app again: what was said is kept".to_owned(),
    }
}

/// Where events go out.
pub(crate) struct Outlet {
    events: SyncSender<Event>,
    /// A piece that found no room.
    pending: Option<Event>,
    stopper: Stopper,
}

/// How long a full queue is left alone.
const FULL_PAUSE: Duration = Duration::from_millis(5);

/// The front is gone.
#[derive(Debug)]
pub(crate) struct Gone;

impl Outlet {
    /// Sends an event, waiting for room.
    pub(crate) fn send(&mut self, event: Event) -> Result<(), Gone> {
        if let Some(pending) = self.pending.take() {
            self.wait_for_room(pending)?;
        }
        self.wait_for_room(event)
    }

    /// Waits without the channel: a front that closes the core does not receive the remaining events.
    fn wait_for_room(&self, mut event: Event) -> Result<(), Gone> {
        loop {
            event = match self.events.try_send(event) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(event)) if !self.stopper.is_closed() => event,
                Err(_) => return Err(Gone),
            };
            std::thread::sleep(FULL_PAUSE);
        }
    }

    /// Sends an event of a kind whose next one makes up for it, or keeps it for then.
    pub(crate) fn send_or_join(&mut self, mut event: Event) -> Result<(), Gone> {
        if let (Event::Piece { text, .. }, Some(Event::Piece { text: before, .. })) =
            (&mut event, &self.pending)
        {
            text.insert_str(0, before);
        }
        self.pending = None;
        match self.events.try_send(event) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(event)) => {
                self.pending = Some(event);
                Ok(())
            }
            Err(TrySendError::Disconnected(_)) => Err(Gone),
        }
    }
}

#[cfg(test)]
mod tests;
