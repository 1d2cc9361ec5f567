//! The terminal front, as the real binary with lines and signals.
#![expect(clippy::unwrap_used, reason = "a test ends at what it does not foresee")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio},
    time::Duration,
};

use serde_json::Value;

/// A running app that keeps its conversations in a folder of the test's own.
struct App {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl App {
    fn start(folder: &Path, arguments: &[&str]) -> Self {
        let mut child = command(folder, arguments)
            .arg("--json")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut app = Self { child, input, output };
        app.until("ready");
        app
    }

    fn line(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    /// The next event of a kind.
    fn until(&mut self, kind: &str) -> Value {
        loop {
            let event = self.next().unwrap_or_else(|| panic!("the app ended before `{kind}`"));
            if event["event"] == kind {
                return event;
            }
        }
    }

    fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        // A killed app may leave half a line.
        serde_json::from_str(&line).ok()
    }

    fn quit(mut self) {
        self.line("/quit");
        assert!(self.child.wait().unwrap().success());
    }
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_app"));
    command.args(["--threads", "1", "--data"]).arg(folder).args(arguments);
    command.env("XDG_CACHE_HOME", folder);
    command
}

/// Starts the app with its input and output in this test's hands.
fn piped(folder: &Path, arguments: &[&str]) -> Child {
    let mut command = command(folder, arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Runs the app on some lines.
fn said(folder: &Path, arguments: &[&str], lines: &str) -> Output {
    let mut child = piped(folder, arguments);
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_conversation_is_held_listed_exported_and_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let document = folder.path().join("talk.json");
    let export = format!("/export {}", document.display());
    let first = said(folder.path(), &[], &format!("hello\ni feel sad today\n/stats\n{export}\n{export}\n"));
    assert!(first.status.success(), "{first:?}");
    assert!(text(&first.stdout).contains("last reply: "), "{first:?}");
    assert!(text(&first.stderr).contains("expected a new file"), "a file is never overwritten: {first:?}");
    let document: Value = serde_json::from_slice(&fs::read(document).unwrap()).unwrap();
    assert_eq!(document["messages"].as_array().unwrap().len(), 4);

    let second =
        said(folder.path(), &[], "/list\n/open 1\n/delete 1\n/list\n/open 1\n/card\n/settings\n/help\n");
    let (out, err) = (text(&second.stdout), text(&second.stderr));
    assert!(out.contains("hello (4 messages)") && out.contains("> i feel sad today"), "{out}");
    assert!(out.contains("no conversations") && err.contains("got conversation 1"), "{out}{err}");
    assert!(out.contains("Checks") && out.contains("temperature  0"), "{out}");
}

#[test]
fn a_line_that_is_no_text_is_an_error_and_the_rest_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = piped(folder.path(), &[]);
    child.stdin.take().unwrap().write_all(b"caf\xe9\nhello\n/list\n").unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let error = text(&ended.stderr);
    assert!(error.contains("error: line 1: got bytes that are not UTF-8 at 3, expected text"), "{error}");
    assert!(text(&ended.stdout).contains("hello (2 messages)"), "{ended:?}");
}

#[test]
fn a_reader_that_has_had_enough_ends_the_app_quietly() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = piped(folder.path(), &[]);
    drop(child.stdout.take());
    child.stdin.take().unwrap().write_all(b"/help\n/help\n").unwrap();
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success() && !text(&ended.stderr).contains("panicked"), "{ended:?}");
}

#[test]
fn settings_are_kept_and_flags_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let flags = ["--seed", "5", "--system", "be brief", "--temperature", "0.3"];
    let out = text(&said(folder.path(), &flags, "/settings max-tokens 7\n/settings\n").stdout);
    for line in ["seed         5", "system       be brief", "max-tokens   7"] {
        assert!(out.contains(line), "{out}");
    }
    let out = text(&said(folder.path(), &[], "/settings\n").stdout);
    for line in ["max-tokens   7", "seed         any", "system       \n", "temperature  0\n"] {
        assert!(out.contains(line), "{out}");
    }
    let refused = said(folder.path(), &["--temperature=-1"], "");
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("temperature"), "{refused:?}");
}

#[test]
fn what_was_said_moves_no_cursor() {
    let folder = tempfile::tempdir().unwrap();
    said(folder.path(), &[], "hello \u{1b}[2J\u{7} there\n");
    let out = said(folder.path(), &[], "/list\n/open 1\n").stdout;
    assert!(text(&out).matches("hello \u{fffd}[2J").count() == 2, "{}", text(&out));
    assert!(!out.contains(&0x1b) && !out.contains(&7));
}

#[test]
fn one_prompt_gives_one_reply_and_keeps_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let output = said(folder.path(), &["--prompt", "hello"], "");
    assert!(output.status.success() && !output.stdout.is_empty(), "{output:?}");
    assert!(!folder.path().join("conversations.sqlite").exists());
}

/// A small model replies within milliseconds: whether a stop comes in time is decided by the machine, so it is tried until
/// one did.
const TRIES: u32 = 40;

#[test]
fn an_interrupt_or_a_typed_stop_ends_the_reply_and_not_the_app() {
    let folder = tempfile::tempdir().unwrap();
    for by_signal in [true, false] {
        let stopped = (0..TRIES).any(|_| stopped_in_time(folder.path(), by_signal));
        assert!(stopped, "by a signal: {by_signal}");
    }
}

/// Stops a reply at its first piece; whether the app says that it was interrupted.
fn stopped_in_time(folder: &Path, by_signal: bool) -> bool {
    let mut app = App::start(folder, &["--temperature", "2", "--max-tokens", "450"]);
    app.line("tell me of the sea");
    app.until("piece");
    if by_signal {
        let pid = rustix::process::Pid::from_child(&app.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    } else {
        app.line("/stop");
    }
    while let Some(event) = app.next() {
        if event["event"] != "reply" {
            continue;
        }
        if event["finish"] == "interrupted" {
            // It goes on.
            app.line("/regenerate");
            app.until("reply");
            app.quit();
            return true;
        }
        break;
    }
    // It came too late; between replies a signal ends the app, which may have happened already.
    let _ = writeln!(app.input, "/quit");
    assert!(matches!(app.child.wait().unwrap().code(), Some(0 | 130)));
    false
}

#[test]
fn a_kill_at_any_moment_costs_at_most_the_reply_being_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    // What the app said was on disk, oldest first.
    let mut kept: Vec<(String, String)> = Vec::new();
    for round in 0..12 {
        let mut app = App::start(folder.path(), &["--temperature", "1.5", "--max-tokens", "60"]);
        if round > 0 {
            app.line("/open 1");
            check(&app.until("opened")["conversation"]["messages"], &mut kept);
        }
        // After what was said is told, some whole turns, and somewhere inside the next one.
        let events = 1 + random.below(120);
        app.line(&format!("hello, this is round {round}"));
        for _ in 0..events {
            let Some(event) = app.next() else { panic!("the app ended by itself") };
            match event["event"].as_str().unwrap() {
                "said" => kept.push(("user".to_owned(), event["text"].as_str().unwrap().to_owned())),
                "reply" => {
                    replied(&mut kept, &event);
                    app.line(&format!("and more in round {round}"));
                }
                _ => {}
            }
        }
        std::thread::sleep(Duration::from_micros(random.below(3000)));
        // SIGKILL.
        app.child.kill().unwrap();
        app.child.wait().unwrap();
        // What the pipe still holds was told before the kill, and so was on disk.
        while let Some(event) = app.next() {
            match event["event"].as_str().unwrap() {
                "said" => kept.push(("user".to_owned(), event["text"].as_str().unwrap().to_owned())),
                "reply" => replied(&mut kept, &event),
                _ => {}
            }
        }
    }
    assert!(kept.len() > 12, "{kept:?}");
}

/// An empty reply is not kept.
fn replied(kept: &mut Vec<(String, String)>, event: &Value) {
    let text = event["text"].as_str().unwrap().to_owned();
    kept.extend((!text.is_empty()).then(|| ("assistant".to_owned(), text)));
}

/// Everything that was told to be on disk is there, in order. What was put there in the instant before the kill and not
/// told any more is taken over.
fn check(messages: &Value, kept: &mut Vec<(String, String)>) {
    let messages = messages.as_array().unwrap().iter();
    let found: Vec<_> = messages
        .map(|message| {
            (message["role"].as_str().unwrap().to_owned(), message["content"].as_str().unwrap().to_owned())
        })
        .collect();
    assert_eq!(found.get(..kept.len()), Some(kept.as_slice()), "lost more than the reply being written");
    assert!(found.len() <= kept.len() + 2, "{found:?}");
    *kept = found;
}

/// The same sequence in every run; how far the app gets in it is the machine's business.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

#[test]
fn a_tampered_model_file_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("model.pte");
    fs::write(&place, b"not a model").unwrap();
    let output = said(folder.path(), &["--model", place.to_str().unwrap()], "hello\n");
    assert_eq!(output.status.code(), Some(1));
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(err.contains("got 11 bytes, expected") && err.contains("hint: install the app again"), "{err}");
    assert!(out.is_empty(), "{out}");
}
