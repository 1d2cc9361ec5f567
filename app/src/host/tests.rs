//! The core with the real model.

mod ends;

use engine::generate::Finish;

use super::*;
use crate::{Format, Settings, message::Reply, model::MODEL};

struct Core {
    host: Host,
    events: Receiver<Event>,
}

impl Core {
    fn start(config: Config) -> Self {
        let (host, events) = Host::start(config).unwrap();
        Self { host, events }
    }

    /// A core with the embedded model, ready.
    fn ready() -> Self {
        let core = Self::start(Config::default());
        assert!(matches!(core.next(), Event::Card { .. }));
        assert!(matches!(core.next(), Event::Ready { .. }));
        core
    }

    fn next(&self) -> Event {
        self.events.recv().unwrap()
    }

    fn send(&self, command: Command) {
        self.host.send(command).unwrap();
    }

    fn say(&self, text: &str) {
        self.send(Command::Say { text: text.to_owned() });
    }

    /// The reply, and the pieces before it.
    fn reply(&self) -> (Reply, String) {
        let mut pieces = String::new();
        loop {
            match self.next() {
                Event::Reply(reply) => return (*reply, pieces),
                Event::Piece { text, .. } => pieces += &text,
                Event::Said { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

fn long() -> Settings {
    // Sampled hot, tiny goes on for long.
    Settings { temperature: 2.0, tokens_max: 400, ..Settings::default() }
}

#[test]
fn a_reply_comes_in_pieces_and_with_figures() {
    let core = Core::ready();
    core.say("hello");
    let (reply, pieces) = core.reply();
    assert_eq!(reply.text, pieces);
    assert_eq!(reply.finish, Finish::Stop);
    let of = reply.statistics;
    assert!(of.prompt_tokens > 0 && of.reply_tokens > 0 && of.ttft_ms > 0.0 && of.held_tokens > 0, "{of:?}");
    assert!(of.memory.is_some() || !cfg!(target_os = "linux"));
    core.host.close();
}

/// A core that begins when it is told to: whatever is sent until then, it finds all of it there.
fn held() -> (Core, std::sync::mpsc::Sender<()>) {
    let (begin, gate) = std::sync::mpsc::channel();
    let (host, events) = Host::spawn(move |outlet, commands, stopper| {
        gate.recv().unwrap();
        worker::run(Config::default(), outlet, commands, stopper, Instant::now());
    })
    .unwrap();
    (Core { host, events }, begin)
}

#[test]
fn a_stop_ends_the_reply_before_it_and_no_later_one() {
    let (core, begin) = held();
    core.say("hello");
    core.host.stop();
    core.say("hello");
    begin.send(()).unwrap();
    assert!(matches!((core.next(), core.next()), (Event::Card { .. }, Event::Ready { .. })));
    assert_eq!(core.reply().0.finish, Finish::Interrupted);
    assert_eq!(core.reply().0.finish, Finish::Stop);
    core.host.close();
}

#[test]
fn opening_another_conversation_stops_the_reply_and_keeps_what_came() {
    let (core, begin) = held();
    core.say("hello");
    core.send(Command::New);
    core.send(Command::List);
    begin.send(()).unwrap();
    assert!(matches!((core.next(), core.next()), (Event::Card { .. }, Event::Ready { .. })));
    let mut seen = Vec::new();
    loop {
        match core.next() {
            Event::Opened { conversation: None } => break,
            Event::Reply(reply) => seen.push(reply.finish),
            _ => {}
        }
    }
    assert_eq!(seen, [Finish::Interrupted]);
    core.host.close();
}

#[test]
fn lists_are_answered_while_a_reply_is_written() {
    let core = Core::ready();
    core.send(Command::Set { settings: long() });
    assert!((0..20).any(|_| {
        core.say("hello");
        core.send(Command::List);
        // This thread may have been held up until the reply was there: then once more.
        ends_after(&core, |event| matches!(event, Event::Listed { .. }))
    }));
    core.host.close();
}

/// Whether an event of a kind comes before the end of the reply being written. Takes both.
fn ends_after(core: &Core, kind: impl Fn(&Event) -> bool) -> bool {
    let (mut came, mut ended) = (false, None);
    while !came || ended.is_none() {
        match core.next() {
            Event::Reply(reply) => ended = Some((came, reply.finish)),
            event => came |= kind(&event),
        }
    }
    ended.is_some_and(|(after, finish)| after && finish != Finish::Interrupted)
}

#[test]
fn deleting_another_conversation_leaves_the_reply_alone() {
    let core = Core::ready();
    // Others, to be deleted one by one while a reply is written in the last.
    for _ in 1..20 {
        core.say("hello");
        core.reply();
        core.send(Command::New);
        assert!(matches!(core.next(), Event::Opened { conversation: None }));
    }
    core.send(Command::Set { settings: long() });
    let deleted = |id| {
        move |event: &Event| match event {
            Event::Listed { conversations } => conversations.iter().all(|kept| kept.id != id),
            _ => false,
        }
    };
    assert!((1..20).any(|id| {
        core.say("tell me of the sea");
        core.send(Command::Delete { id });
        ends_after(&core, deleted(id))
    }));
    core.host.close();
}

#[test]
fn a_reply_that_cannot_be_regenerated_is_shown_again() {
    let core = Core::ready();
    core.say(&"very ".repeat(300));
    let (reply, _) = core.reply();
    core.send(Command::Set { settings: Settings { system: "be kind ".repeat(80), ..Settings::default() } });
    assert!(matches!(core.next(), Event::Settings { .. }));
    core.send(Command::Regenerate);
    assert!(matches!(core.next(), Event::Said { text: None, .. }));
    let Event::Opened { conversation: Some(kept) } = core.next() else { panic!("not shown") };
    assert_eq!(kept.messages.last().unwrap().content, reply.text);
    assert!(matches!(core.next(), Event::Error { message, .. } if message.contains("expected at most")));
    core.host.close();
}

#[test]
fn a_system_message_that_fills_the_window_is_refused_when_it_is_set() {
    let core = Core::ready();
    let settings = Settings { system: "be kind ".repeat(500), ..Settings::default() };
    core.send(Command::Set { settings });
    assert!(matches!(core.next(), Event::Error { message, .. } if message.contains("half of the window")));
    core.host.close();
}

#[test]
fn conversations_are_kept_opened_exported_and_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let data = Utf8PathBuf::try_from(folder.path().to_owned()).unwrap();
    let config = || Config { data: Some(data.clone()), ..Config::default() };
    let core = Core::start(config());
    core.say("hello");
    for _ in 0..2 {
        core.next();
    }
    let (first, _) = core.reply();
    core.host.close();

    let core = Core::start(config());
    for _ in 0..2 {
        core.next();
    }
    core.send(Command::Regenerate);
    assert!(
        matches!(core.next(), Event::Error { message, .. } if message.contains("no conversation is open"))
    );
    core.send(Command::List);
    let Event::Listed { conversations } = core.next() else { panic!("no list") };
    let id = conversations.first().unwrap().id;
    core.send(Command::Open { id });
    let Event::Opened { conversation: Some(opened) } = core.next() else { panic!("not opened") };
    assert_eq!((opened.messages.len(), opened.model.as_str()), (2, MODEL.sha256));
    assert_eq!(opened.messages.last().unwrap().content, first.text);

    core.send(Command::Regenerate);
    let (again, _) = core.reply();
    core.send(Command::Export { id: None, format: Format::Json });
    let Event::Exported { document, .. } = core.next() else { panic!("not exported") };
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    assert_eq!(document["messages"][1]["content"], again.text.as_str());
    assert_eq!(document["messages"].as_array().unwrap().len(), 2);

    core.send(Command::Delete { id });
    assert!(matches!(core.next(), Event::Opened { conversation: None }));
    assert!(matches!(core.next(), Event::Listed { conversations } if conversations.is_empty()));
    core.send(Command::Open { id });
    assert!(matches!(core.next(), Event::Error { .. }));
    core.host.close();
}

#[test]
fn a_message_that_does_not_fit_leaves_no_trace() {
    let core = Core::ready();
    core.say(&"very ".repeat(2000));
    assert!(matches!(core.next(), Event::Said { .. }));
    assert!(matches!(core.next(), Event::Error { message, .. } if message.contains("expected at most")));
    core.send(Command::List);
    assert!(matches!(core.next(), Event::Listed { conversations } if conversations.is_empty()));
    core.host.close();
}

#[test]
fn a_front_that_stands_still_costs_no_token() {
    let core = Core::ready();
    core.send(Command::Set { settings: long() });
    for _ in 0..4 {
        core.say("tell me of the sea");
    }
    // Long enough for the queue to fill up, were it not for joined pieces; the last reply waits for room.
    std::thread::sleep(Duration::from_millis(300));
    assert!(matches!(core.next(), Event::Settings { .. }));
    for _ in 0..4 {
        let (reply, pieces) = core.reply();
        assert_eq!(reply.text, pieces);
    }
    core.host.close();
}
