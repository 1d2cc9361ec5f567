//! The terminal front: an interactive chat, one-shot prompts, and JSON events for scripts.

use std::{
    io::{BufRead as _, IsTerminal as _, Write as _},
    ops::ControlFlow,
    sync::atomic::{AtomicBool, Ordering},
};

use engine::generate::Statistics;
use serde_json::{Value, json};

use crate::chat::{Chat, Turn};

/// Set while a reply is being written: Ctrl-C then ends the reply, not the app.
static REPLYING: AtomicBool = AtomicBool::new(false);
/// Set by Ctrl-C during a reply.
static STOP: AtomicBool = AtomicBool::new(false);

/// Exit code of a Ctrl-C at the prompt.
const EXIT_INTERRUPTED: i32 = 130;

const HELP: &str = "/reset forgets the conversation, /system TEXT sets the system message, /stats shows figures, \
                    /quit leaves; Ctrl-C stops a reply";

/// Makes Ctrl-C stop the reply, or leave when there is none.
pub(crate) fn catch_interrupts() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        if REPLYING.load(Ordering::Relaxed) {
            STOP.store(true, Ordering::Relaxed);
        } else {
            std::process::exit(EXIT_INTERRUPTED);
        }
    })?;
    Ok(())
}

/// Says one thing, prints the reply, and returns.
pub(crate) fn once(chat: &mut Chat, prompt: &str, as_json: bool) -> anyhow::Result<()> {
    say(chat, prompt, as_json).map(|_| ())
}

/// Reads lines until the end of the input or `/quit`.
pub(crate) fn interactive(chat: &mut Chat, as_json: bool) -> anyhow::Result<()> {
    let shown = std::io::stdin().is_terminal() && !as_json;
    if shown {
        println!("{HELP}");
    }
    let mut last = None;
    let mut lines = std::io::stdin().lock().lines();
    loop {
        if shown {
            print!("> ");
            std::io::stdout().flush()?;
        }
        let Some(line) = lines.next().transpose()? else { return Ok(()) };
        let line = line.trim();
        match line.split_once(' ').unwrap_or((line, "")) {
            ("", _) => {}
            ("/quit", _) => return Ok(()),
            ("/help", _) => println!("{HELP}"),
            ("/reset", _) => chat.reset(),
            ("/system", text) => chat.set_system(text.trim()),
            ("/stats", _) => print_statistics(chat, last.as_ref()),
            _ => match say(chat, line, as_json) {
                Ok(turn) => last = Some(turn.reply.statistics),
                // One message that does not fit is no reason to lose the conversation.
                Err(error) => eprintln!("error: {error:#}"),
            },
        }
    }
}

fn say(chat: &mut Chat, text: &str, as_json: bool) -> anyhow::Result<Turn> {
    let mut out = std::io::stdout().lock();
    let mut written = Ok(());
    let titled = std::io::stdout().is_terminal() && !as_json;
    STOP.store(false, Ordering::Relaxed);
    REPLYING.store(true, Ordering::Relaxed);
    let turn = chat.say(text, &mut |piece| {
        written = if as_json {
            writeln!(out, "{}", json!({"event": "piece", "text": piece.text, "token": piece.token}))
        } else {
            let title = if titled { live_title(piece.statistics) } else { String::new() };
            write!(out, "{title}{}", piece.text).and_then(|()| out.flush())
        };
        // A reader that went away ends the reply as well.
        if STOP.load(Ordering::Relaxed) || written.is_err() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    REPLYING.store(false, Ordering::Relaxed);
    let turn = turn?;
    written?;
    if as_json {
        writeln!(out, "{}", reply_event(&turn))?;
    } else {
        writeln!(out)?;
        if std::io::stderr().is_terminal() {
            eprintln!("  [{}]", one_line(&turn.reply.statistics));
        }
        if turn.forgotten > 0 {
            eprintln!("  [the window was full: {} old messages forgotten]", turn.forgotten);
        }
    }
    Ok(turn)
}

/// Sets the terminal's title to the rate so far: the one place that shows it live without touching the text.
fn live_title(statistics: &Statistics) -> String {
    format!("\x1b]2;{:.1} tok/s\x07", statistics.decode_rate())
}

fn reply_event(turn: &Turn) -> Value {
    let statistics = &turn.reply.statistics;
    json!({
        "event": "reply", "text": turn.reply.text, "finish": turn.reply.finish, "forgotten": turn.forgotten,
        "prompt_tokens": statistics.prompt_tokens, "reused_tokens": statistics.reused_tokens,
        "reply_tokens": statistics.reply_tokens,
        "ttft_ms": statistics.first_token.as_secs_f64() * 1e3,
        "prefill_tokens_per_second": statistics.prefill_rate(),
        "decode_tokens_per_second": statistics.decode_rate(),
    })
}

fn one_line(statistics: &Statistics) -> String {
    format!(
        "{} tokens, {:.1} tok/s, first after {:.0} ms",
        statistics.reply_tokens,
        statistics.decode_rate(),
        statistics.first_token.as_secs_f64() * 1e3
    )
}

fn print_statistics(chat: &Chat, last: Option<&Statistics>) {
    let (held, window) = chat.window();
    println!("window: {held} of {window} tokens");
    if let Some(last) = last {
        println!(
            "last reply: {}; prompt {} tokens, {} of them from the cache, prefill {:.1} tok/s",
            one_line(last),
            last.prompt_tokens,
            last.reused_tokens,
            last.prefill_rate()
        );
    }
}
