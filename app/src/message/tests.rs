//! The messages as JSON.

use engine::chat::Role;

use super::*;
use crate::{Kept, LicenceText, Proof};

#[test]
fn commands_are_json_and_nothing_unknown_passes() {
    let parse = |text: &str| serde_json::from_str::<Command>(text);
    assert_eq!(parse(r#"{"command":"say","text":"hi"}"#).unwrap(), Command::Say { text: "hi".into() });
    assert_eq!(
        parse(r#"{"command":"export","format":"markdown"}"#).unwrap(),
        Command::Export { id: None, format: Format::Markdown }
    );
    assert_eq!(parse(r#"{"command":"new"}"#).unwrap(), Command::New);
    for bad in [r#"{"command":"say"}"#, r#"{"command":"fly"}"#, r#"{"command":"open","id":"x"}"#, "[]"] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}

/// Every command.
fn commands() -> Vec<Command> {
    vec![
        Command::Say { text: "hello".into() },
        Command::Regenerate,
        Command::New,
        Command::Open { id: 7 },
        Command::Delete { id: 7 },
        Command::List,
        Command::Export { id: Some(7), format: Format::Markdown },
        Command::Export { id: None, format: Format::Json },
        Command::Set { settings: settings() },
        Command::Memory,
        Command::Pause,
        Command::Release,
    ]
}

fn settings() -> Settings {
    Settings { system: "be kind".into(), seed: Some(7), ..Settings::default() }
}

fn card() -> Card {
    Card {
        model: "tiny".into(),
        description: "a model".into(),
        place: "embedded",
        file_bytes: 1,
        sha256: "ab".into(),
        parameters: 2,
        quantization: "int8".into(),
        window_tokens: 3,
        licence: "Apache-2.0".into(),
        attribution: None,
        licence_texts: vec![LicenceText { name: "NOTICE", text: "a notice" }],
        published: "2026-01-01T00:00:00Z".into(),
        made_by: "an exporter".into(),
        proved_for: "dev",
        signature: "unsigned",
        proofs: vec![Proof { name: "Load", result: "1 ms".into() }],
    }
}

/// Every event, and every value of what is named in words.
fn events() -> Vec<Event> {
    let memory = Memory { anonymous_bytes: 1, file_bytes: 2, peak_bytes: 3 };
    let reply = |finish, memory| {
        let statistics = Statistics {
            prompt_tokens: 1,
            reused_tokens: 2,
            reply_tokens: 3,
            ttft_ms: 4.5,
            prefill_tokens_per_second: 5.5,
            decode_tokens_per_second: 6.5,
            held_tokens: 7,
            window_tokens: 8,
            memory,
        };
        Event::Reply(Box::new(Reply { text: "hi".into(), finish, forgotten: 9, statistics }))
    };
    let kept = |role, finish: Option<&str>| Kept {
        role,
        content: "hello".into(),
        finish: finish.map(str::to_owned),
        created: 1,
    };
    let conversation = Conversation {
        id: 7,
        title: "hello".into(),
        model: "ab".into(),
        created: 1,
        messages: vec![kept(Role::User, None), kept(Role::Assistant, Some("stop"))],
    };
    let summary = Summary { id: 7, title: "hello".into(), created: 1, messages: 2 };
    let refused = |cause| Event::Refused { cause, reason: "why".into(), hint: "what to do".into() };
    vec![
        Event::Card { card: Box::new(card()) },
        Event::Installing { done_bytes: 1, total_bytes: 2 },
        refused(Cause::Model),
        refused(Cause::Conversations),
        refused(Cause::App),
        Event::Ready { start_ms: 1.5, warning: None, settings: settings() },
        Event::Said { id: 7, text: Some("hello".into()) },
        Event::Piece { text: "h".into(), reply_tokens: 1, decode_tokens_per_second: 2.5 },
        reply(Finish::Stop, Some(memory)),
        reply(Finish::Length, None),
        reply(Finish::Window, None),
        reply(Finish::Interrupted, None),
        Event::Error { command: "say", message: "why".into() },
        Event::Opened { conversation: Some(conversation) },
        Event::Opened { conversation: None },
        Event::Listed { conversations: vec![summary] },
        Event::Exported { name: "conversation-7.md".into(), document: "# hello".into() },
        Event::Settings { settings: settings() },
        Event::Memory { memory: Some(memory) },
        Event::Memory { memory: None },
    ]
}

/// What hosts in other languages read and write: whatever changes here changes `PROOFMARK_ABI_VERSION`,
/// unless it was only added.
#[test]
fn commands_and_events_are_the_json_that_hosts_know() {
    let mut lines = String::new();
    for command in commands() {
        let text = serde_json::to_string(&command).unwrap();
        assert!(text.starts_with(&format!("{{\"command\":\"{}\"", command.name())), "{text}");
        assert_eq!(serde_json::from_str::<Command>(&text).unwrap(), command);
        lines += &format!("{text}\n");
    }
    for event in events() {
        lines += &format!("{}\n", serde_json::to_string(&event).unwrap());
    }
    insta::assert_snapshot!(lines);
}
