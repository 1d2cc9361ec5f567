//! Between the core and the screens: events become what is shown, clicks become commands.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::mpsc::Receiver,
};

use camino::Utf8PathBuf;
use engine::{chat::Role, generate::Finish};
use slint::{ComponentHandle as _, Global as _, Model as _, ModelRc, SharedString, VecModel};

use super::{
    look::{MEGABYTE, bubble, entry, figures, memory_text, show_card},
    ui::{AppWindow, Bubble, Core, Entry, Refusal, Screen},
};
use crate::{
    Config, Conversation, Format, Host, Settings, Summary, document,
    message::{Cause, Command, Event, Reply},
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
    ui: slint::Weak<AppWindow>,
    host: RefCell<Option<Host>>,
    bubbles: Rc<VecModel<Bubble>>,
    /// The reply being written: its row, once it has one.
    growing: Cell<Option<usize>>,
    /// What was said and is not replied to yet, and the row it is in once it is on disk.
    said: RefCell<Option<(Option<usize>, String)>>,
    settings: RefCell<Settings>,
    is_ready: Cell<bool>,
    documents: Utf8PathBuf,
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

    /// Gives back memory and stops a reply: the app is no longer looked at. What was changed in the settings is kept.
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
        tie!(on_keep_settings, |front| front.keep_settings());
        core.on_leave(|| {
            // Without a loop, as in a test, there is nothing to leave.
            let _ = slint::quit_event_loop();
        });
    }

    /// Whether it was taken; a person is told when it was not.
    fn send(&self, command: Command) -> bool {
        let sent = self.host.borrow().as_ref().map(|host| host.send(command));
        if let Some(Err(unsent)) = sent {
            self.notice(&unsent.to_string());
        }
        matches!(sent, Some(Ok(())))
    }

    fn say(&self, text: &str) {
        let text = text.trim();
        // What was not taken stays where it was typed.
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
        self.core(|core| core.set_screen(Screen::Conversations));
    }

    fn keep_settings(&self) {
        let mut settings = self.settings.borrow().clone();
        self.core(|core| {
            settings.system = core.get_system().into();
            // A slider computes in floats: 0.7 must not become 0.70000005.
            let temperature = (core.get_temperature() * 100.0).round() / 100.0;
            // Nor must what was never touched: a flag may have set 0.333.
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
        // Before the core has told what is set there is nothing to keep.
        if self.is_ready.get() && settings != *self.settings.borrow() {
            self.send(Command::Set { settings });
        }
    }

    /// Shows what happened, in order.
    pub fn apply_all(&self, events: impl IntoIterator<Item = Event>) {
        events.into_iter().for_each(|event| self.apply(event));
    }

    /// Shows what happened.
    pub fn apply(&self, event: Event) {
        match event {
            Event::Card { card } => self.core(|core| show_card(core, &card)),
            Event::Installing { done_bytes, total_bytes } => self.installing(done_bytes, total_bytes),
            Event::Refused { cause, reason, hint } => self.core(|core| {
                core.set_replying(false);
                core.set_refusal(match cause {
                    Cause::Model => Refusal::Model,
                    Cause::Conversations => Refusal::Conversations,
                    Cause::App => Refusal::App,
                });
                core.set_refusal_reason(reason.into());
                core.set_refusal_hint(hint.into());
                core.set_screen(Screen::Refused);
            }),
            Event::Ready { warning, settings, .. } => {
                self.show_settings(settings);
                self.is_ready.set(true);
                self.notice(&warning.unwrap_or_default());
                self.core(|core| core.set_screen(Screen::Chat));
            }
            Event::Said { text, .. } => self.show_said(text),
            Event::Piece { text, reply_tokens, decode_tokens_per_second } => {
                self.grow(&text);
                self.core(|core| {
                    let figures = format!("{reply_tokens} tokens, {decode_tokens_per_second:.1} tok/s");
                    core.set_figures(figures.into());
                });
            }
            Event::Reply(reply) => self.show_reply(&reply),
            Event::Error { command, message } => self.show_error(command, &message),
            Event::Opened { conversation } => self.show_conversation(conversation.as_ref()),
            Event::Listed { conversations } => self.show_list(&conversations),
            Event::Exported { name, document } => self.write_document(&name, &document),
            Event::Settings { settings } => self.show_settings(settings),
            Event::Memory { memory } => {
                let text = memory.as_ref().map(memory_text).unwrap_or_default();
                self.core(|core| core.set_figures(text.into()));
            }
        }
    }

    fn core(&self, act: impl FnOnce(&Core<'_>)) {
        if let Some(ui) = self.ui.upgrade() {
            act(&Core::get(&ui));
        }
    }

    fn notice(&self, text: &str) {
        self.core(|core| core.set_notice(text.into()));
    }

    fn replying(&self, replying: bool) {
        self.core(|core| {
            core.set_replying(replying);
            if replying {
                core.set_notice(SharedString::default());
            }
        });
    }

    /// Keeps the end in view from now on, until a person scrolls away from it.
    fn follow(&self) {
        self.core(|core| core.set_following(true));
    }

    /// The last bubble moved or grew.
    fn scroll(&self) {
        self.core(|core| {
            core.set_growth(core.get_growth().wrapping_add(1));
            core.set_can_regenerate(self.bubbles.row_count() > 0);
        });
    }

    fn installing(&self, done: u64, total: u64) {
        let megabytes = |bytes: u64| bytes as f64 / MEGABYTE;
        self.core(|core| {
            core.set_installed(done as f32 / total.max(1) as f32);
            core.set_install_detail(format!("{:.1} of {:.1} MB", megabytes(done), megabytes(total)).into());
            core.set_screen(Screen::Installing);
        });
    }

    fn show_said(&self, text: Option<String>) {
        self.growing.set(None);
        self.follow();
        match &text {
            Some(text) => self.bubbles.push(bubble(true, text)),
            // Another reply takes the place of the last one.
            None => {
                if let Some(row) = self.bubbles.row_count().checked_sub(1)
                    && self.bubbles.row_data(row).is_some_and(|bubble| !bubble.mine)
                {
                    self.bubbles.remove(row);
                }
            }
        }
        if let Some(title) = text.as_deref().filter(|_| self.bubbles.row_count() == 1) {
            self.core(|core| core.set_title(title.into()));
        }
        self.said.replace(text.map(|text| (self.bubbles.row_count().checked_sub(1), text)));
        self.scroll();
    }

    fn grow(&self, text: &str) {
        let row = self.growing.get().unwrap_or_else(|| {
            self.bubbles.push(bubble(false, ""));
            self.bubbles.row_count() - 1
        });
        self.growing.set(Some(row));
        if let Some(before) = self.bubbles.row_data(row) {
            self.bubbles.set_row_data(row, bubble(false, &format!("{}{text}", before.text)));
        }
        self.scroll();
    }

    fn show_reply(&self, reply: &Reply) {
        if !reply.text.is_empty() {
            // The core's word, whatever pieces came.
            self.grow("");
            if let Some(row) = self.growing.get() {
                self.bubbles.set_row_data(row, bubble(false, &reply.text));
            }
        }
        self.growing.set(None);
        self.said.replace(None);
        self.replying(false);
        let forgotten = match reply.forgotten {
            0 => String::new(),
            count => format!("The window is full: the model no longer sees the first {count} messages"),
        };
        self.notice(match reply.finish {
            Finish::Interrupted => "Stopped",
            Finish::Length => "The reply has reached the most tokens that are set",
            Finish::Window => "The window is full",
            Finish::Stop => &forgotten,
        });
        self.core(|core| core.set_figures(figures(reply).into()));
        self.scroll();
    }

    fn show_error(&self, command: &str, message: &str) {
        // Others fail while a reply is being written: that goes on.
        if matches!(command, "say" | "regenerate") {
            self.give_back();
            self.growing.set(None);
            self.replying(false);
            self.scroll();
        }
        self.notice(message);
    }

    /// What was said was taken back, with whatever had come of a reply: the person has it again, to change it.
    fn give_back(&self) {
        let Some((row, text)) = self.said.replace(None) else { return };
        if let Some(row) = row {
            self.bubbles.set_vec(self.bubbles.iter().take(row).collect::<Vec<_>>());
        }
        self.core(|core| {
            if core.get_draft().is_empty() {
                core.set_draft(text.into());
            }
            if row == Some(0) {
                core.set_title(SharedString::default());
            }
        });
    }

    fn show_conversation(&self, conversation: Option<&Conversation>) {
        let messages = conversation.map(|conversation| conversation.messages.as_slice()).unwrap_or_default();
        let bubbles = messages.iter().map(|kept| bubble(kept.role == Role::User, &kept.content));
        self.bubbles.set_vec(bubbles.collect::<Vec<_>>());
        self.growing.set(None);
        self.follow();
        self.said.replace(None);
        self.replying(false);
        self.core(|core| {
            core.set_title(conversation.map(|one| one.title.as_str()).unwrap_or_default().into());
            core.set_notice(SharedString::default());
        });
        self.scroll();
    }

    fn show_list(&self, conversations: &[Summary]) {
        let entries: Vec<Entry> = conversations.iter().filter_map(entry).collect();
        self.core(|core| core.set_conversations(ModelRc::new(VecModel::from(entries))));
    }

    fn show_settings(&self, settings: Settings) {
        self.core(|core| {
            core.set_system(settings.system.as_str().into());
            core.set_temperature(settings.temperature);
            core.set_tokens_max(i32::try_from(settings.tokens_max).unwrap_or(i32::MAX));
            core.set_scheme(match settings.appearance {
                Appearance::System => 0,
                Appearance::Light => 1,
                Appearance::Dark => 2,
            });
        });
        self.settings.replace(settings);
    }

    fn write_document(&self, name: &str, text: &str) {
        self.notice(&match document::write(&self.documents, name, text) {
            Ok(path) => format!("Written to {path}"),
            Err(error) => format!("{}: {error}", self.documents),
        });
    }
}
