//! A window with the real model behind it, and hands to use it with.

use std::{rc::Rc, sync::mpsc::Receiver};

use app::{
    Config,
    gui::{AppWindow, Core, Front, HeadlessScreen, install_headless},
    message::Event,
};
use camino::Utf8PathBuf;
use i_slint_backend_testing::{AccessibleRole, ElementHandle};
use slint::{ComponentHandle as _, Global as _, LogicalPosition, Model as _, platform::WindowEvent};

pub(crate) struct Window {
    pub(crate) ui: AppWindow,
    pub(crate) front: Rc<Front>,
    pub(crate) events: Receiver<Event>,
    pub(crate) screen: HeadlessScreen,
    pub(crate) folder: tempfile::TempDir,
}

impl Window {
    pub(crate) fn open(config: impl FnOnce(&tempfile::TempDir) -> Config) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let screen = install_headless((840, 1520)).unwrap();
        let ui = AppWindow::new().unwrap();
        ui.show().unwrap();
        let documents = Utf8PathBuf::try_from(folder.path().join("documents")).unwrap();
        let (front, events) = Front::start(&ui, config(&folder), documents).unwrap();
        Self { ui, front, events, screen, folder }
    }

    pub(crate) fn ready() -> Self {
        let window = Self::open(|folder| {
            let data = Utf8PathBuf::try_from(folder.path().to_owned()).unwrap();
            Config { data: Some(data), ..Config::default() }
        });
        window.until(|event| matches!(event, Event::Ready { .. }));
        window
    }

    pub(crate) fn core(&self) -> Core<'_> {
        Core::get(&self.ui)
    }

    /// Shows events until one of a kind, and draws.
    pub(crate) fn until(&self, last: impl Fn(&Event) -> bool) {
        loop {
            let event = self.events.recv().unwrap();
            let done = last(&event);
            self.front.apply(event);
            if done {
                self.screen.draw();
                return;
            }
        }
    }

    pub(crate) fn reply(&self) {
        self.until(|event| matches!(event, Event::Reply(_)));
    }

    /// The element that a screen reader calls so.
    pub(crate) fn element(&self, label: &str) -> ElementHandle {
        self.screen.draw();
        let found = ElementHandle::find_by_accessible_label(&self.ui, label).filter(|e| e.is_valid());
        let mut found: Vec<_> = found.collect();
        // A caption is hidden from screen readers; what it stands over has the same name.
        found.sort_by_key(|e| matches!(e.accessible_role(), None | Some(AccessibleRole::None)));
        found.into_iter().next().unwrap_or_else(|| panic!("no element is called `{label}`"))
    }

    pub(crate) fn is_there(&self, label: &str) -> bool {
        self.screen.draw();
        ElementHandle::find_by_accessible_label(&self.ui, label).next().is_some()
    }

    /// As a screen reader or a switch does it.
    pub(crate) fn act(&self, label: &str) {
        self.element(label).invoke_accessible_default_action();
        self.screen.draw();
    }

    /// As a finger or a mouse does it.
    pub(crate) fn click(&self, label: &str) {
        self.click_on(&self.element(label));
    }

    pub(crate) fn click_on(&self, element: &ElementHandle) {
        let (at, size) = (element.absolute_position(), element.size());
        let position = LogicalPosition::new(at.x + size.width / 2.0, at.y + size.height / 2.0);
        let button = slint::platform::PointerEventButton::Left;
        let window = self.ui.window();
        window.dispatch_event(WindowEvent::PointerMoved { position });
        window.dispatch_event(WindowEvent::PointerPressed { position, button });
        window.dispatch_event(WindowEvent::PointerReleased { position, button });
        self.screen.draw();
    }

    /// Turns the wheel over the conversation; downwards is less than 0.
    pub(crate) fn scroll(&self, delta_y: f32) {
        let position = LogicalPosition::new(210.0, 300.0);
        self.ui.window().dispatch_event(WindowEvent::PointerScrolled { position, delta_x: 0.0, delta_y });
        self.screen.draw();
    }

    pub(crate) fn keys(&self, text: &str) {
        for c in text.chars() {
            let text: slint::SharedString = c.into();
            self.ui.window().dispatch_event(WindowEvent::KeyPressed { text: text.clone() });
            self.ui.window().dispatch_event(WindowEvent::KeyReleased { text });
        }
    }

    /// What is in the bubbles: whether mine, and the text.
    pub(crate) fn bubbles(&self) -> Vec<(bool, String)> {
        self.core().get_bubbles().iter().map(|bubble| (bubble.mine, bubble.text.into())).collect()
    }

    pub(crate) fn say(&self, text: &str) {
        self.element("Message").set_accessible_value(text);
        self.act("Send");
    }
}
