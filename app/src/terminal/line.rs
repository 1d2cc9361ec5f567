//! Parses a line typed at the prompt.

use crate::{Format, Settings, message::Command};

pub(super) const HELP: &str = "\
/stop or Ctrl-C stops a reply, /regenerate replies again, /reset begins a new conversation
/list, /open N, /delete N, /export [N] [json|md] [FILE]: the conversations that are kept
/settings [NAME VALUE], /system TEXT, /stats, /memory, /card, /help, /quit";

/// Before a line that is to be said whatever it looks like.
pub(super) const VERBATIM: char = '\0';

/// What a line asks for.
#[derive(Debug, PartialEq)]
pub(super) enum Line {
    Nothing,
    Quit,
    Help,
    Card,
    Settings,
    Stats,
    Export { command: Command, to: Option<String> },
    Command(Command),
}

/// Reads a line.
pub(super) fn parse(line: &str, settings: &Settings) -> Result<Line, String> {
    if let Some(text) = line.strip_prefix(VERBATIM) {
        return Ok(Line::Command(Command::Say { text: text.to_owned() }));
    }
    let line = line.trim();
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let number = || rest.parse().map_err(|_| format!("{word}: got `{rest}`, expected a number from /list"));
    Ok(match word {
        // Nothing is being said that could be stopped.
        "" | "/stop" => Line::Nothing,
        "/quit" => Line::Quit,
        "/help" => Line::Help,
        "/card" => Line::Card,
        "/stats" => Line::Stats,
        "/settings" if rest.is_empty() => Line::Settings,
        "/settings" => Line::Command(Command::Set { settings: set(settings, rest)? }),
        "/system" => {
            Line::Command(Command::Set { settings: Settings { system: rest.to_owned(), ..settings.clone() } })
        }
        "/reset" => Line::Command(Command::New),
        "/regenerate" => Line::Command(Command::Regenerate),
        "/list" => Line::Command(Command::List),
        "/memory" => Line::Command(Command::Memory),
        "/open" => Line::Command(Command::Open { id: number()? }),
        "/delete" => Line::Command(Command::Delete { id: number()? }),
        "/export" => export(rest),
        word if word.starts_with('/') => return Err(format!("got `{word}`, expected one of those in /help")),
        _ => Line::Command(Command::Say { text: line.to_owned() }),
    })
}

/// One setting by its name.
fn set(settings: &Settings, rest: &str) -> Result<Settings, String> {
    let (name, value) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let value = value.trim();
    let mut changed = settings.clone();
    let wrong = |what: &str| format!("{name}: got `{value}`, expected {what}");
    match name {
        "system" => changed.system = value.to_owned(),
        "temperature" => changed.temperature = value.parse().map_err(|_| wrong("a number"))?,
        "top-p" => changed.top_p = value.parse().map_err(|_| wrong("a number"))?,
        "seed" if value == "any" => changed.seed = None,
        "seed" => changed.seed = Some(value.parse().map_err(|_| wrong("a whole number, or any"))?),
        "max-tokens" => changed.tokens_max = value.parse().map_err(|_| wrong("a whole number"))?,
        _ => return Err(format!("got `{name}`, expected system, temperature, top-p, seed or max-tokens")),
    }
    changed.check()?;
    Ok(changed)
}

fn export(rest: &str) -> Line {
    let (mut id, mut format, mut to) = (None, None, None);
    for word in rest.split_whitespace() {
        match (word, word.parse()) {
            ("json", _) => format = Some(Format::Json),
            ("md" | "markdown", _) => format = Some(Format::Markdown),
            (_, Ok(number)) if id.is_none() => id = Some(number),
            (file, _) => to = Some(file.to_owned()),
        }
    }
    // Without a flag, the file's ending decides the format.
    let by_name = || {
        if to.as_deref().is_some_and(|to: &str| to.ends_with(".json")) {
            Format::Json
        } else {
            Format::Markdown
        }
    };
    let format = format.unwrap_or_else(by_name);
    Line::Export { command: Command::Export { id, format }, to }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_mean_what_the_help_says() {
        let settings = Settings::default();
        let parse = |line: &str| parse(line, &settings);
        assert_eq!(parse("  hello "), Ok(Line::Command(Command::Say { text: "hello".into() })));
        assert_eq!(parse("\0/quit"), Ok(Line::Command(Command::Say { text: "/quit".into() })));
        assert_eq!(parse("/open 7"), Ok(Line::Command(Command::Open { id: 7 })));
        assert!(parse("/open seven").unwrap_err().contains("expected a number from /list"));
        assert!(parse("/nonsense").unwrap_err().contains("/help"));
        let export = |id, format, to: Option<&str>| {
            Ok(Line::Export { command: Command::Export { id, format }, to: to.map(str::to_owned) })
        };
        assert_eq!(parse("/export"), export(None, Format::Markdown, None));
        assert_eq!(parse("/export 3 json"), export(Some(3), Format::Json, None));
        assert_eq!(parse("/export out.json"), export(None, Format::Json, Some("out.json")));
    }

    #[test]
    fn one_setting_changes_and_the_others_stay() {
        let settings = Settings { seed: Some(9), ..Settings::default() };
        let changed = parse("/settings temperature 0.5", &settings).unwrap();
        let expected = Settings { temperature: 0.5, ..settings.clone() };
        assert_eq!(changed, Line::Command(Command::Set { settings: expected }));
        for bad in ["/settings temperature hot", "/settings temperature -1", "/settings colour red"] {
            assert!(parse(bad, &settings).unwrap_err().contains("expected"), "{bad}");
        }
    }

    #[test]
    fn the_help_names_every_command() {
        for word in [
            "/stop",
            "/regenerate",
            "/reset",
            "/list",
            "/open",
            "/delete",
            "/export",
            "/settings",
            "/system",
            "/stats",
            "/memory",
            "/card",
            "/help",
            "/quit",
        ] {
            assert!(HELP.contains(word), "{word}");
        }
    }
}
