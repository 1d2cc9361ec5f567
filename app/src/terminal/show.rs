//! Formats what the terminal shows.

use std::{
    io::{IsTerminal as _, Write as _},
    time::{Duration, UNIX_EPOCH},
};

use engine::{chat::Role, generate::Finish};

use crate::{
    Card, Settings,
    message::{Event, Memory, Reply},
};

const MEGABYTE: f64 = 1e6;

/// Text of the model or a person without control characters, which could move the cursor, rename the window or type.
fn harmless(text: &str) -> String {
    let obeyed = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    text.replace(obeyed, char::REPLACEMENT_CHARACTER.encode_utf8(&mut [0; 4]))
}

/// An event on a line of its own.
pub(super) fn json(event: &Event) -> anyhow::Result<()> {
    let text = serde_json::to_string(event)?;
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

/// What happened, for a person.
pub(super) fn event(event: &Event) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match event {
        Event::Installing { done_bytes, total_bytes } if std::io::stderr().is_terminal() => {
            let percent = 100 * done_bytes / total_bytes.max(&1);
            let end = if done_bytes == total_bytes { "\npreparing the model\n" } else { "" };
            eprint!("\rproving the model: {percent} %{end}");
        }
        Event::Piece { text, decode_tokens_per_second, .. } => {
            // The title is the one place that shows the rate live without touching the text.
            if out.is_terminal() {
                write!(out, "\x1b]2;{decode_tokens_per_second:.1} tok/s\x07")?;
            }
            write!(out, "{}", harmless(text))?;
            out.flush()?;
        }
        Event::Opened { conversation: Some(conversation) } => {
            for kept in &conversation.messages {
                let mark = if kept.role == Role::User { "> " } else { "" };
                writeln!(out, "{mark}{}", harmless(&kept.content))?;
            }
        }
        Event::Listed { conversations } => {
            if conversations.is_empty() {
                writeln!(out, "no conversations")?;
            }
            for one in conversations {
                let created = UNIX_EPOCH + Duration::from_secs(one.created.unsigned_abs());
                let when = humantime::format_rfc3339_seconds(created);
                let (title, messages) = (harmless(&one.title), one.messages);
                writeln!(out, "{:>5}  {when}  {title} ({messages} messages)", one.id)?;
            }
        }
        Event::Memory { memory: Some(memory) } => writeln!(out, "{}", memory_line(memory))?,
        Event::Memory { memory: None } => writeln!(out, "memory: the system does not tell")?,
        _ => {}
    }
    Ok(())
}

/// After the last piece of a reply.
pub(super) fn reply_end(reply: &Reply) -> anyhow::Result<()> {
    writeln!(std::io::stdout())?;
    if std::io::stderr().is_terminal() {
        let stopped = if reply.finish == Finish::Interrupted { "stopped; " } else { "" };
        eprintln!("  [{stopped}{}]", one_line(reply));
    }
    if reply.forgotten > 0 {
        eprintln!("  [the window is full: the model no longer sees the first {} messages]", reply.forgotten);
    }
    Ok(())
}

/// Figures of the last reply.
pub(super) fn statistics(reply: &Reply) {
    let of = &reply.statistics;
    println!("window: {} of {} tokens", of.held_tokens, of.window_tokens);
    println!(
        "last reply: {}; prompt {} tokens, {} of them from the cache, prefill {:.1} tok/s",
        one_line(reply),
        of.prompt_tokens,
        of.reused_tokens,
        of.prefill_tokens_per_second
    );
    if let Some(memory) = &of.memory {
        println!("{}", memory_line(memory));
    }
}

/// Prints the settings.
pub(super) fn settings(settings: &Settings) {
    println!("system       {}", harmless(&settings.system));
    println!("temperature  {}", settings.temperature);
    println!("top-p        {}", settings.top_p);
    println!("seed         {}", settings.seed.map_or_else(|| "any".to_owned(), |seed| seed.to_string()));
    println!("max-tokens   {}", settings.tokens_max);
}

/// The model card.
pub(super) fn card(card: &Card) {
    println!("{}: {}", card.model, card.description);
    println!(
        "{}, {} bytes, {} parameters, {}",
        card.place, card.file_bytes, card.parameters, card.quantization
    );
    println!("sha256 {}", card.sha256);
    println!("exported {} by {}; proved for {}", card.published, card.made_by, card.proved_for);
    println!("{}", card.signature);
    for proof in &card.proofs {
        println!("  {}: {}", proof.name, proof.result);
    }
    println!("licence: {}", card.licence);
    if let Some(attribution) = &card.attribution {
        println!("{attribution}");
    }
    for licence in &card.licence_texts {
        println!("\n{}\n{}", licence.name, licence.text.trim_end());
    }
}

fn one_line(reply: &Reply) -> String {
    let of = &reply.statistics;
    let (tokens, rate, first) = (of.reply_tokens, of.decode_tokens_per_second, of.ttft_ms);
    format!("{tokens} tokens, {rate:.1} tok/s, first after {first:.0} ms")
}

fn memory_line(memory: &Memory) -> String {
    let megabytes = |bytes: u64| bytes as f64 / MEGABYTE;
    format!(
        "memory: {:.1} MB of its own, {:.1} MB of files, peak {:.1} MB",
        megabytes(memory.anonymous_bytes),
        megabytes(memory.file_bytes),
        megabytes(memory.peak_bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_obeys_no_reply() {
        let text = "red \x1b[31m title \x1b]2;x\x07 back\x08\r\u{9b}31m\x7f";
        let shown = harmless(text);
        assert_eq!(
            shown,
            "red \u{fffd}[31m title \u{fffd}]2;x\u{fffd} back\u{fffd}\u{fffd}\u{fffd}31m\u{fffd}"
        );
        let plain = "two\nlines,\ta tab, \u{202b}مرحبا 🙂";
        assert_eq!(harmless(plain), plain);
    }
}
