//! Between the core and the screens: turns events into what is shown, and clicks into commands.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::mpsc::Receiver,
};

use camino::Utf8PathBuf;
use slint::{ComponentHandle as _, Global as _, ModelRc, SharedString, VecModel};

use super::look::is_text;
use super::ui::{AppWindow, Bubble, Core, Screen};
use crate::{
    Config, Format, Host, Settings,
    host::Stopper,
    message::{Command, Event},
    settings::Appearance,
};

thread_local! {
    /// The front of this thread, for closures that are sent to it.
    static FRONT: RefCell<Option<Rc<Front>>> = const { RefCell::new(None) };
}

/// Keeps a front for [`with`].
pub(super) fn remember(front: Rc<Front>) {
    FRONT.with(|kept| *kept.borrow_mut() = Some(front));
}

/// Does something with the front of this thread, if there is one.
pub(super) fn with(act: impl FnOnce(&Front)) {
    let front = FRONT.with(|kept| kept.borrow().clone());
    if let Some(front) = front {
        act(&front);
    }
}

/// Ends the core of this thread's front.
pub(super) fn close() {
    if let Some(front) = FRONT.with(|kept| kept.borrow_mut().take()) {
        front.close();
    }
}

/// A window and the core behind it.
pub struct Front {
    pub(super) ui: slint::Weak<AppWindow>,
    pub(super) host: RefCell<Option<Host>>,
    pub(super) bubbles: Rc<VecModel<Bubble>>,
    /// The reply being written: its row, once it has one.
    pub(super) growing: Cell<Option<usize>>,
    /// The message that has no reply yet, and its row once it is stored.
    pub(super) said: RefCell<Option<(Option<usize>, String)>>,
    pub(super) settings: RefCell<Settings>,
    pub(super) is_ready: Cell<bool>,
    pub(super) documents: Utf8PathBuf,
    /// The document that was written last.
    pub(super) exported: RefCell<String>,
}

impl std::fmt::Debug for Front {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Front").finish_non_exhaustive()
    }
}

impl Front {
    /// Starts the core and ties it to the window; `documents` is the folder for what is exported. The caller brings the
    /// events back through [`Self::apply`].
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(
        ui: &AppWindow,
        config: Config,
        documents: Utf8PathBuf,
    ) -> std::io::Result<(Rc<Self>, Receiver<Event>)> {
        let (host, events) = Host::start(config)?;
        let bubbles = Rc::new(VecModel::default());
        Core::get(ui).set_bubbles(ModelRc::from(bubbles.clone()));
        let front = Rc::new(Self {
            ui: ui.as_weak(),
            host: Some(host).into(),
            bubbles,
            growing: None.into(),
            said: None.into(),
            settings: RefCell::default(),
            is_ready: false.into(),
            documents,
            exported: RefCell::default(),
        });
        front.tie(&Core::get(ui));
        Ok((front, events))
    }

    /// Ends the core; everything is on disk afterwards.
    pub fn close(&self) {
        self.keep_settings();
        let Some(host) = self.host.take() else { return };
        // Android stops an app whose main thread waits, and the first loading of a large model packs its weights for long.
        // The process stays there; elsewhere it ends next, which must not happen under a thread that computes.
        if cfg!(target_os = "android") && !self.is_ready.get() {
            host.abandon();
        } else {
            host.close();
        }
    }

    /// The core sends nothing any more. Unless it was closed or said why, that is a fault.
    pub fn ended(&self) {
        let open = self.host.borrow().is_some();
        self.core(|core| {
            if open && core.get_refusal_reason().is_empty() {
                core.set_replying(false);
                core.set_refusal_reason("the core ended without being asked to".into());
                core.set_refusal_hint("start the app again: what was said is kept".into());
                core.set_screen(Screen::Refused);
            }
        });
    }

    /// Whether the core was closed.
    pub(super) fn stopper(&self) -> Stopper {
        self.host.borrow().as_ref().map(Host::stopper).unwrap_or_default()
    }

    /// Frees memory and stops a reply when the app goes to the background. Changed settings are stored.
    pub fn pause(&self) {
        self.keep_settings();
        self.send(Command::Pause);
    }

    /// Gives back memory: the system is short of it.
    pub fn release(&self) {
        self.send(Command::Release);
    }

    fn tie(self: &Rc<Self>, core: &Core<'_>) {
        /// A callback that holds the front weakly: the window must not keep the core alive.
        macro_rules! tie {
            ($on:ident, |$front:ident $(, $argument:ident)*| $act:expr) => {{
                let weak = Rc::downgrade(self);
                core.$on(move |$($argument),*| if let Some($front) = weak.upgrade() { $act });
            }};
        }
        tie!(on_say, |front, text| front.say(&text));
        tie!(on_stop, |front| front.stop());
        tie!(on_regenerate, |front| front.regenerate());
        tie!(on_begin, |front| front.begin());
        tie!(on_list, |front| front.list());
        tie!(on_open, |front, id| front.open(id));
        tie!(on_delete, |front, id| {
            front.send(Command::Delete { id: id.into() });
        });
        tie!(on_export, |front, id| {
            front.send(Command::Export { id: Some(id.into()), format: Format::Markdown });
        });
        tie!(on_copy_exported, |front| {
            if let Some(ui) = front.ui.upgrade() {
                ui.invoke_copy(front.exported.borrow().as_str().into());
            }
        });
        tie!(on_keep_settings, |front| front.keep_settings());
        core.on_is_text(|text| is_text(&text));
        core.on_leave(|| {
            // Without a loop, as in a test, there is nothing to leave.
            let _ = slint::quit_event_loop();
        });
    }

    /// Whether the core took it; the user sees a message when it did not.
    fn send(&self, command: Command) -> bool {
        let sent = self.host.borrow().as_ref().map(|host| host.send(command));
        if let Some(Err(unsent)) = sent {
            self.notice(&unsent.to_string());
        }
        matches!(sent, Some(Ok(())))
    }

    fn say(&self, text: &str) {
        let text = text.trim();
        // A message that was not accepted stays in the input field.
        if !text.is_empty() && self.send(Command::Say { text: text.to_owned() }) {
            self.said.replace(Some((None, text.to_owned())));
            self.replying(true);
            self.core(|core| core.set_draft(SharedString::default()));
        }
    }

    /// Shown at once; the core follows within a token.
    fn stop(&self) {
        if let Some(host) = self.host.borrow().as_ref() {
            host.stop();
        }
        self.notice("Stopped");
    }

    fn regenerate(&self) {
        if self.send(Command::Regenerate) {
            self.replying(true);
        }
    }

    fn begin(&self) {
        self.send(Command::New);
        self.core(|core| core.set_screen(Screen::Chat));
    }

    fn open(&self, id: i32) {
        self.send(Command::Open { id: id.into() });
        self.core(|core| core.set_screen(Screen::Chat));
    }

    fn list(&self) {
        self.send(Command::List);
        self.notice("");
        self.core(|core| {
            core.set_exported(false);
            core.set_screen(Screen::Conversations);
        });
    }

    fn keep_settings(&self) {
        let mut settings = self.settings.borrow().clone();
        self.core(|core| {
            settings.system = core.get_system().into();
            // A slider computes in floats: 0.7 must not become 0.70000005.
            let temperature = (core.get_temperature() * 100.0).round() / 100.0;
            // A value that nobody changed must not be rounded: a flag may have set 0.333.
            if (temperature - settings.temperature).abs() > 0.005 {
                settings.temperature = temperature;
            }
            settings.tokens_max = core.get_tokens_max().unsigned_abs();
            settings.appearance = match core.get_scheme() {
                1 => Appearance::Light,
                2 => Appearance::Dark,
                _ => Appearance::System,
            };
        });
        // Until the core has sent its settings there is nothing to keep.
        if self.is_ready.get() && settings != *self.settings.borrow() {
            self.send(Command::Set { settings });
        }
    }
}
