//! The graphical front, the same on a desktop and a phone.
//!
//! **Invariant:** the thread of the interface never waits for the model: it sends commands into a queue and gets
//! events in batches, at most one per frame.

#[cfg(target_os = "android")]
mod android;
mod front;
mod headless;
#[cfg(target_os = "ios")]
mod ios;
mod look;
mod screenshots;
mod shown;

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use camino::Utf8PathBuf;
use slint::ComponentHandle as _;

use crate::{Config, host::Stopper, message::Event};

pub use front::Front;
pub use headless::{Screen as HeadlessScreen, install as install_headless};
pub use screenshots::write as write_screenshots;

#[expect(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::todo,
    clippy::unwrap_used,
    reason = "written by the compiler of the interface"
)]
mod ui {
    slint::include_modules!();
}

pub use ui::{AppWindow, Core, Screen};

/// Time between two batches of events while a reply is written: a frame.
const FRAME: Duration = Duration::from_millis(16);
/// Most events of a batch.
const BATCH_MAX: usize = 256;

/// Shows the window until it is closed; `documents` is the folder for what is exported.
///
/// # Errors
/// There is no display, or no thread left.
pub fn run(config: Config, documents: Utf8PathBuf) -> anyhow::Result<()> {
    let ui = AppWindow::new()?;
    ui.show()?;
    // After the window is on its way: loading the model must not keep the first frame waiting.
    let (front, events) = Front::start(&ui, config, documents)?;
    let stopper = front.stopper();
    front::remember(front);
    // A signal closes the window as a person does. Phones have ways of their own.
    #[cfg(not(any(target_os = "android", target_os = "ios")))]
    ctrlc::set_handler(|| _ = slint::quit_event_loop())?;
    std::thread::Builder::new().name("events".to_owned()).spawn(move || forward(&events, &stopper))?;
    slint::run_event_loop()?;
    front::close();
    Ok(())
}

/// Takes events to the thread of the interface; sleeps while there are none. Events of a closed core are dropped: on Android
/// another one may already run behind another window.
fn forward(events: &Receiver<Event>, stopper: &Stopper) {
    let show = |act: Box<dyn FnOnce(&Front) + Send>| {
        let stopper = stopper.clone();
        slint::invoke_from_event_loop(move || {
            if !stopper.is_closed() {
                front::with(|front| act(front));
            }
        })
    };
    while let Ok(first) = events.recv() {
        let mut batch = vec![first];
        let until = Instant::now() + FRAME;
        while batch.len() < BATCH_MAX {
            match events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(event) => batch.push(event),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        // The loop may have ended; so does this thread then.
        if show(Box::new(move |front| front.apply_all(batch))).is_err() {
            return;
        }
    }
    let _ = show(Box::new(Front::ended));
}

/// How long it took, in a process that does nothing else.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct StartUp {
    /// Until the first frame was drawn, milliseconds.
    pub first_frame_ms: f64,
    /// Until the model waited for a message, milliseconds.
    pub ready_ms: f64,
}

/// Draws the first frame without a display and waits until the model is ready.
///
/// # Errors
/// The model is refused.
pub fn start_up(config: Config, since: Instant) -> anyhow::Result<StartUp> {
    let screen = headless::install(headless::PHONE)?;
    let ui = AppWindow::new()?;
    ui.show()?;
    screen.draw();
    let first_frame_ms = since.elapsed().as_secs_f64() * 1e3;
    let (front, events) = Front::start(&ui, config, Utf8PathBuf::new())?;
    for event in &events {
        if let Event::Refused { reason, .. } = &event {
            anyhow::bail!("{reason}");
        }
        let ready = matches!(event, Event::Ready { .. });
        front.apply(event);
        if ready {
            break;
        }
    }
    screen.draw();
    let ready_ms = since.elapsed().as_secs_f64() * 1e3;
    front.close();
    Ok(StartUp { first_frame_ms, ready_ms })
}
