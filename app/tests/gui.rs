//! The graphical front with the real model: clicks, keys and accessible actions go in, what a screen reader would say
//! comes out. The software renderer draws every step, without a display.
#![expect(clippy::unwrap_used, reason = "a test ends at what it does not foresee")]

#[path = "gui/window.rs"]
mod window;

use app::{Asset, Cause, Config, Overrides, gui::Screen, message::Event};
use camino::Utf8PathBuf;
use i_slint_backend_testing::{AccessibleRole, ElementHandle};
use slint::{ComponentHandle as _, Model as _, platform::WindowEvent};

use window::Window;

#[test]
fn a_message_is_typed_sent_and_answered_in_a_bubble() {
    let window = Window::ready();
    // At once, wherever the keys are; what writes nothing is left to others.
    window.keys("he\t\u{f700}");
    assert_eq!(window.core().get_draft(), "he");
    window.click("Message");
    window.keys("llo");
    assert_eq!(window.core().get_draft(), "hello");
    window.keys("\n");
    assert!(window.core().get_replying());
    assert!(window.is_there("Stop") && !window.is_there("Send"));
    // It grows while it comes.
    window.until(|event| matches!(event, Event::Piece { .. }));
    assert_eq!(window.bubbles().len(), 2);
    window.reply();
    let bubbles = window.bubbles();
    assert_eq!(bubbles.first(), Some(&(true, "hello".to_owned())));
    assert!(!bubbles[1].0 && !bubbles[1].1.is_empty(), "{bubbles:?}");
    assert!(window.is_there("You: hello") && window.is_there(&format!("Model: {}", bubbles[1].1)));
    // Clicked this time.
    window.element("Message").set_accessible_value("i feel sad today");
    window.click("Send");
    window.reply();
    assert_eq!(window.bubbles().len(), 4);
    window.front.close();
}

#[test]
fn a_message_that_does_not_fit_is_given_back() {
    let window = Window::ready();
    window.say("hello");
    window.reply();
    let (before, long) = (window.bubbles(), "very ".repeat(2000).trim().to_owned());
    window.say(&long);
    assert_eq!(window.core().get_draft(), "");
    window.until(|event| matches!(event, Event::Error { .. }));
    assert_eq!(window.bubbles(), before);
    assert_eq!((window.core().get_draft().as_str(), window.core().get_title().as_str()), (&*long, "hello"));
    assert!(window.core().get_notice().contains("expected at most"));
    // Nor does a new conversation keep its title.
    window.core().set_draft(Default::default());
    window.core().invoke_begin();
    window.until(|event| matches!(event, Event::Opened { .. }));
    window.say(&long);
    window.until(|event| matches!(event, Event::Error { .. }));
    assert_eq!((window.bubbles(), window.core().get_title().as_str()), (vec![], ""));
    window.front.close();
}

#[test]
fn the_systems_way_back_leads_to_the_chat_and_keeps_what_was_set() {
    let window = Window::ready();
    let back: slint::SharedString = slint::platform::Key::Back.into();
    let press = || window.ui.window().dispatch_event(WindowEvent::KeyPressed { text: back.clone() });
    for (button, screen) in [("Model", Screen::Card), ("Chats", Screen::Conversations)] {
        window.act(button);
        assert_eq!(window.core().get_screen(), screen);
        press();
        assert_eq!(window.core().get_screen(), Screen::Chat, "{button}");
    }
    window.act("Settings");
    window.element("System prompt").set_accessible_value("be kind");
    press();
    window.until(|event| matches!(event, Event::Settings { settings } if settings.system == "be kind"));
    assert_eq!(window.core().get_screen(), Screen::Chat);
    window.front.close();
}

#[test]
fn nothing_lies_under_the_systems_bars_or_its_keyboard() {
    use slint::private_unstable_api::re_exports::WindowInner;
    // The type of the insets has no name outside of Slint.
    fn none<T: Default>(_: fn(&WindowInner, T)) -> T {
        T::default()
    }
    let window = Window::ready();
    let place = |label: &str| {
        let element = window.element(label);
        (element.absolute_position().y, element.absolute_position().y + element.size().height)
    };
    let (top, bottom) = (place("Chats").0, place("Send").1);
    // A phone held upright, with a bar above and one below.
    let mut insets = none(WindowInner::set_window_item_safe_area);
    (insets.top, insets.bottom) = (40.0, 24.0);
    WindowInner::from_pub(window.ui.window()).set_window_item_safe_area(insets);
    assert_eq!((place("Chats").0, place("Send").1), (top + 40.0, bottom - 24.0));
    window.act("Settings");
    assert!(place("Back").0 >= 40.0);
    window.front.close();
}

#[test]
fn a_reply_is_copied() {
    let window = Window::ready();
    window.say("hello");
    window.reply();
    window.act("Copy reply");
    let reply = window.bubbles().remove(1).1;
    assert_eq!(window.screen.clipboard(), reply);
    // By a finger, and by the keys.
    window.say("i feel sad today");
    window.reply();
    let second = window.bubbles().remove(3).1;
    let copy = ElementHandle::find_by_accessible_label(&window.ui, "Copy reply").last().unwrap();
    window.click_on(&copy);
    assert_eq!(window.screen.clipboard(), second);
    assert_eq!(window.core().get_notice(), "Copied");
    window.front.close();
}

#[test]
fn who_scrolls_back_is_left_to_read_while_a_reply_grows() {
    let window = Window::ready();
    for text in [&"a long story ".repeat(60), &"and a longer one ".repeat(60), "hello"] {
        window.say(text);
        window.reply();
    }
    assert!(window.core().get_following());
    window.say("tell me of the sea");
    window.until(|event| matches!(event, Event::Piece { .. }));
    window.scroll(4000.0);
    assert!(!window.core().get_following());
    let place =
        || window.element(&format!("You: {}", "a long story ".repeat(60).trim())).absolute_position().y;
    let before = place();
    window.reply();
    assert_eq!(place(), before);
    // At the end again, it follows again; so it does when something is said.
    window.scroll(-8000.0);
    assert!(window.core().get_following());
    window.scroll(4000.0);
    window.say("hello");
    window.reply();
    assert!(window.core().get_following() && window.is_there("You: tell me of the sea"));
    window.front.close();
}

#[test]
fn a_reply_is_stopped_and_another_one_takes_its_place() {
    let window = Window::ready();
    window.core().set_temperature(2.0);
    window.core().set_tokens_max(400);
    window.core().invoke_keep_settings();
    window.until(|event| matches!(event, Event::Settings { .. }));
    window.element("Message").set_accessible_value("tell me of the sea");
    let button = window.element("Send");
    button.invoke_accessible_default_action();
    assert!(window.core().get_replying());
    // The same button; shown at once, before the core can have answered.
    button.invoke_accessible_default_action();
    assert_eq!(window.core().get_notice(), "Stopped");
    window.reply();
    assert!(!window.core().get_replying());
    assert!(window.is_there("Send") && !window.is_there("Stop"));
    // How far the stopped one got is the machine's business; a whole one is wanted for what follows.
    window.act("Regenerate");
    window.reply();
    let first = window.bubbles();
    // Sampled anew each time; a small model may well say the same twice.
    let another = (0..20).any(|_| {
        window.act("Regenerate");
        window.reply();
        assert_eq!((window.bubbles().len(), &window.bubbles()[0]), (2, &first[0]));
        window.bubbles()[1] != first[1]
    });
    assert!(another);
    // Escape stops as well.
    window.act("Regenerate");
    window.click("Message");
    window.keys("\u{1b}");
    window.reply();
    assert_eq!(window.bubbles().len(), 2);
    window.front.close();
}

#[test]
fn settings_are_set_by_a_screen_reader_and_kept() {
    let window = Window::ready();
    window.act("Settings");
    window.element("System prompt").set_accessible_value("be kind");
    let slider = window.element("Temperature");
    assert_eq!(slider.accessible_role(), Some(AccessibleRole::Slider));
    slider.set_accessible_value("0.7");
    window.act("Back");
    window.until(|event| matches!(event, Event::Settings { .. }));
    assert_eq!(window.core().get_screen(), Screen::Chat);
    window.front.close();

    let data = Utf8PathBuf::try_from(window.folder.path().to_owned()).unwrap();
    let (host, events) = app::Host::start(Config { data: Some(data), ..Config::default() }).unwrap();
    let ready = events.iter().find_map(|event| match event {
        Event::Ready { settings, .. } => Some(settings),
        _ => None,
    });
    let settings = ready.unwrap();
    assert_eq!((settings.system.as_str(), settings.temperature), ("be kind", 0.7));
    host.close();
}

#[test]
fn conversations_are_listed_exported_opened_and_deleted_after_a_second_question() {
    let window = Window::ready();
    window.say("hello");
    window.reply();
    window.act("New chat");
    window.until(|event| matches!(event, Event::Opened { .. }));
    assert!(window.bubbles().is_empty());
    window.say("the weather is bad");
    window.reply();
    window.act("Chats");
    window.until(|event| matches!(event, Event::Listed { .. }));
    // Exported twice: the first document stays.
    for name in ["conversation-1.md", "conversation-1-2.md"] {
        window.act("Export hello");
        window.until(|event| matches!(event, Event::Exported { .. }));
        let written = std::fs::read_to_string(window.folder.path().join("documents").join(name)).unwrap();
        assert!(written.contains("> hello"), "{written}");
        window.act("Copy the document");
        assert_eq!((window.screen.clipboard(), window.core().get_notice().as_str()), (written, "Copied"));
    }

    window.act("Delete the weather is bad");
    assert!(window.is_there("Delete hello"), "nothing is deleted at the first click");
    window.act("Really delete the weather is bad");
    window.until(|event| matches!(event, Event::Listed { .. }));
    assert!(!window.is_there("Delete the weather is bad"));
    assert_eq!(window.core().get_screen(), Screen::Conversations);
    window.act("Open hello");
    window.until(|event| matches!(event, Event::Opened { .. }));
    assert_eq!(window.core().get_screen(), Screen::Chat);
    assert_eq!(window.bubbles().len(), 2);
    window.front.close();
}

#[test]
fn the_model_card_names_the_model_and_its_proofs() {
    let window = Window::ready();
    window.act("Model");
    let card = app::card().unwrap();
    assert!(window.is_there(&format!("SHA-256: {}", card.sha256)));
    assert!(window.is_there(&format!("Exported: {}", card.published)));
    for proof in &card.proofs {
        assert!(window.is_there(&format!("{}: {}", proof.name, proof.result)), "{}", proof.name);
    }
    window.front.close();
}

#[test]
fn a_tampered_model_shows_the_installation_and_then_why_it_is_refused() {
    let window = Window::open(|folder| {
        let place = Utf8PathBuf::try_from(folder.path().join("model.pte")).unwrap();
        std::fs::write(&place, vec![7; app::card().unwrap().file_bytes as usize]).unwrap();
        let cache = Utf8PathBuf::try_from(folder.path().join("cache")).unwrap();
        Config { asset: Asset::File(place), cache, overrides: Overrides::default(), ..Config::default() }
    });
    window.until(|event| matches!(event, Event::Installing { .. }));
    assert!(window.is_there("Proving the model"));
    // As it is with a model that passes: packing goes on after the last byte was read.
    window.front.apply(Event::Installing { done_bytes: 10, total_bytes: 10 });
    assert!(window.is_there("Preparing the model") && !window.is_there("Proving the model"));
    window.until(|event| matches!(event, Event::Refused { .. }));
    assert!(window.is_there("This model is not the one that was proved"));
    let reason = window.core().get_refusal_reason();
    assert!(reason.contains("sha256: manifest.json: got "), "{reason}");
    assert!(window.is_there(&format!("Reason: {reason}")));
    // Nothing to chat with, but a card to look at.
    window.act("Model card");
    assert!(window.is_there(&format!("SHA-256: {}", app::card().unwrap().sha256)));
    window.act("Back");
    assert!(window.is_there("Quit"));
    window.front.close();
}

#[test]
fn conversations_that_cannot_be_used_do_not_accuse_the_model() {
    let window = Window::open(|folder| {
        let data = Utf8PathBuf::try_from(folder.path().to_owned()).unwrap();
        std::fs::write(data.join("conversations.sqlite"), vec![0x5a; 8192]).unwrap();
        Config { data: Some(data), ..Config::default() }
    });
    window.until(|event| matches!(event, Event::Refused { .. }));
    assert!(window.is_there("The conversations cannot be used"));
    assert!(!window.is_there("This model is not the one that was proved"));
    assert!(!window.core().get_refusal_hint().contains("install"));
    window.front.close();
}

#[test]
fn long_text_other_directions_and_emoji_are_drawn() {
    let window = Window::ready();
    for text in ["مرحبا بالعالم", "🙂👩‍👩‍👧", &"a long word: ".repeat(60), "one\ntwo\n\nthree"]
    {
        window.say(text);
        window.reply();
    }
    let rtl: Vec<bool> = window.core().get_bubbles().iter().filter(|b| b.mine).map(|b| b.rtl).collect();
    assert_eq!(rtl, [true, false, false, false]);
    let before = window.screen.draw();
    window.core().set_scheme(2);
    let after = window.screen.draw();
    assert!(before != after, "dark is not light");
    window.front.close();
}

#[test]
fn an_asides_failure_is_not_taken_for_the_replys() {
    let window = Window::ready();
    window.say("hello");
    window.until(|event| matches!(event, Event::Said { .. }));
    // As it comes from the core when another conversation is not there any more.
    window.front.apply(Event::Error { command: "export", message: "got conversation 7".to_owned() });
    assert_eq!(window.bubbles().first(), Some(&(true, "hello".to_owned())));
    assert!(window.core().get_replying());
    assert_eq!(
        (window.core().get_draft().as_str(), window.core().get_notice().as_str()),
        ("", "got conversation 7")
    );
    window.reply();
    assert_eq!(window.bubbles().len(), 2);
    // What could not even be written down is given back, too.
    window.say("again");
    window.front.apply(Event::Error { command: "say", message: "the disk is full".to_owned() });
    assert_eq!((window.bubbles().len(), window.core().get_draft().as_str()), (2, "again"));
    assert!(!window.core().get_replying());
    window.front.close();
}

#[test]
fn a_core_that_fails_in_the_middle_says_so_and_leaves_nobody_waiting() {
    let window = Window::ready();
    window.say("hello");
    assert!(window.core().get_replying());
    let (reason, hint) = ("the app has a fault".to_owned(), "start the app again".to_owned());
    window.front.apply(Event::Refused { cause: Cause::App, reason, hint });
    assert!(window.is_there("The app cannot run") && !window.core().get_replying());
    // Said already.
    window.front.ended();
    assert_eq!(window.core().get_refusal_reason(), "the app has a fault");
    window.front.close();
}

#[test]
fn an_end_that_nobody_asked_for_is_shown_and_one_that_was_is_not() {
    let window = Window::ready();
    window.front.ended();
    assert_eq!(window.core().get_screen(), Screen::Refused);
    assert!(window.is_there("The app cannot run"));
    window.core().set_refusal_reason(Default::default());
    window.core().set_screen(Screen::Chat);
    window.front.close();
    window.front.ended();
    assert_eq!(window.core().get_screen(), Screen::Chat);
}
