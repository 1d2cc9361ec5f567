//! Brings the core's events to the screens.

use engine::{chat::Role, generate::Finish};
use slint::{Global as _, Model as _, ModelRc, SharedString, VecModel};

use super::{
    front::Front,
    look::{MEGABYTE, bubble, entry, figures, memory_text, show_card},
    ui::{Core, Entry, Refusal, Screen},
};
use crate::{
    Conversation, Settings, Summary, document,
    message::{Cause, Event, Reply},
    settings::Appearance,
};

impl Front {
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
            Event::Exported { name, document } => self.write_document(&name, document),
            Event::Settings { settings } => self.show_settings(settings),
            Event::Memory { memory } => {
                let text = memory.as_ref().map(memory_text).unwrap_or_default();
                self.core(|core| core.set_figures(text.into()));
            }
        }
    }

    pub(super) fn core(&self, act: impl FnOnce(&Core<'_>)) {
        if let Some(ui) = self.ui.upgrade() {
            act(&Core::get(&ui));
        }
    }

    pub(super) fn notice(&self, text: &str) {
        self.core(|core| core.set_notice(text.into()));
    }

    pub(super) fn replying(&self, replying: bool) {
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

    fn write_document(&self, name: &str, text: String) {
        self.notice(&match document::write(&self.documents, name, &text) {
            Ok(path) => format!("Written to {path}"),
            Err(error) => format!("{}: {error}", self.documents),
        });
        self.exported.replace(text);
        self.core(|core| core.set_exported(true));
    }
}
