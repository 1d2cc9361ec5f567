//! The terminal front: an interactive chat, one-shot prompts, and JSON events for scripts.
//!
//! Lines and events arrive in one queue, so that a line typed during a reply can stop it.

mod line;
mod show;

use std::{
    collections::VecDeque,
    fs,
    io::{BufRead as _, IsTerminal as _, Write as _},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use anyhow::Context as _;

use crate::{
    Config, Host, Settings,
    message::{Command, Event, Reply},
};
use line::Line;

/// Exit code of a Ctrl-C at the prompt.
const EXIT_INTERRUPTED: i32 = 130;
const INPUTS_MAX: usize = 64;

/// What the front waits for.
enum Input {
    Event(Event),
    /// A line; none at the end of the input.
    Line(Option<String>),
    /// A line that is no text, or an input that cannot be read; says why.
    NoLine(String),
    /// The core has ended.
    Ended,
}

/// Which event ends the wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    Ready,
    Reply,
    Opened,
    Listed,
    Exported,
    Settings,
    Memory,
}

impl Wait {
    /// The one event that a command always brings, when it does not fail.
    fn after(command: &Command) -> Self {
        match command {
            Command::Say { .. } | Command::Regenerate => Self::Reply,
            Command::New | Command::Open { .. } => Self::Opened,
            // Deleting the open conversation also closes it; the list comes last.
            Command::Delete { .. } | Command::List => Self::Listed,
            Command::Export { .. } => Self::Exported,
            Command::Set { .. } => Self::Settings,
            Command::Memory | Command::Pause | Command::Release => Self::Memory,
        }
    }

    fn is_over(self, event: &Event) -> bool {
        match event {
            Event::Error { .. } => true,
            Event::Ready { .. } => self == Self::Ready,
            Event::Reply(_) => self == Self::Reply,
            Event::Opened { .. } => self == Self::Opened,
            Event::Listed { .. } => self == Self::Listed,
            Event::Exported { .. } => self == Self::Exported,
            Event::Settings { .. } => self == Self::Settings,
            Event::Memory { .. } => self == Self::Memory,
            _ => false,
        }
    }
}

struct Terminal {
    host: Host,
    as_json: bool,
    /// A person reads this: show a prompt.
    shown: bool,
    wait: Option<Wait>,
    /// Lines that came while something else was being done.
    lines: VecDeque<String>,
    input_ended: bool,
    /// Whether Ctrl-C stops a reply.
    replying: Arc<AtomicBool>,
    settings: Settings,
    last: Option<Reply>,
    /// Where the next document goes.
    export_to: Option<String>,
    failed: bool,
    /// The model was refused: the core ends.
    refused: bool,
}

/// Runs the front until the input ends; with `prompt`, says that and leaves.
///
/// # Errors
/// Standard output cannot be written, or a signal handler not be set.
pub fn run(config: Config, prompt: Option<String>, as_json: bool) -> anyhow::Result<ExitCode> {
    let (host, events) = Host::start(config)?;
    let (sender, inputs) = sync_channel(INPUTS_MAX);
    forward_events(events, sender.clone())?;
    let once = prompt.is_some();
    if !once {
        forward_lines(sender)?;
    }
    let terminal = Terminal {
        host,
        as_json,
        shown: std::io::stdin().is_terminal() && !as_json && !once,
        wait: Some(Wait::Ready),
        // Sent as it is, even if it looks like a command.
        lines: prompt.map(|text| format!("{}{text}", line::VERBATIM)).into_iter().collect(),
        input_ended: once,
        replying: Arc::default(),
        settings: Settings::default(),
        last: None,
        export_to: None,
        failed: false,
        refused: false,
    };
    terminal.catch_interrupts()?;
    terminal.serve(&inputs, once)
}

fn forward_events(events: Receiver<Event>, inputs: SyncSender<Input>) -> std::io::Result<()> {
    let forward = move || {
        for event in events {
            if inputs.send(Input::Event(event)).is_err() {
                return;
            }
        }
        // The front may have left first.
        let _ = inputs.send(Input::Ended);
    };
    std::thread::Builder::new().name("events".to_owned()).spawn(forward).map(|_| ())
}

fn forward_lines(inputs: SyncSender<Input>) -> std::io::Result<()> {
    let forward = move || {
        for (number, line) in (1..).zip(std::io::stdin().lock().split(b'\n')) {
            let (input, over) = match line {
                Ok(bytes) => (read_line(number, bytes), false),
                Err(error) => (Input::NoLine(format!("the input cannot be read: {error}")), true),
            };
            if inputs.send(input).is_err() {
                return;
            }
            if over {
                break;
            }
        }
        let _ = inputs.send(Input::Line(None));
    };
    std::thread::Builder::new().name("lines".to_owned()).spawn(forward).map(|_| ())
}

/// Input that is not UTF-8 cannot be sent.
fn read_line(number: usize, mut bytes: Vec<u8>) -> Input {
    if bytes.ends_with(b"\r") {
        bytes.pop();
    }
    match String::from_utf8(bytes) {
        Ok(text) => Input::Line(Some(text)),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            Input::NoLine(format!("line {number}: got bytes that are not UTF-8 at {at}, expected text"))
        }
    }
}

impl Terminal {
    /// Makes Ctrl-C stop the reply, or leave when there is none: everything that counts is on disk by then.
    fn catch_interrupts(&self) -> anyhow::Result<()> {
        let (replying, stopper) = (self.replying.clone(), self.host.stopper());
        ctrlc::set_handler(move || {
            if replying.load(Ordering::Relaxed) {
                stopper.stop();
            } else {
                std::process::exit(EXIT_INTERRUPTED);
            }
        })?;
        Ok(())
    }

    fn serve(mut self, inputs: &Receiver<Input>, once: bool) -> anyhow::Result<ExitCode> {
        let mut code = ExitCode::SUCCESS;
        loop {
            while self.wait.is_none() {
                let Some(line) = self.lines.pop_front() else { break };
                if !self.line(&line)? {
                    return self.leave(code);
                }
            }
            if self.wait.is_none() {
                if self.input_ended {
                    if once && self.failed {
                        code = ExitCode::FAILURE;
                    }
                    return self.leave(code);
                }
                self.show_prompt()?;
            }
            match inputs.recv().unwrap_or(Input::Ended) {
                Input::Line(None) => self.input_ended = true,
                Input::Line(Some(line)) if self.wait == Some(Wait::Reply) && line.trim() == "/stop" => {
                    self.host.stop();
                }
                Input::Line(Some(line)) => self.lines.push_back(line),
                Input::NoLine(why) => {
                    self.complain(&why);
                    code = ExitCode::FAILURE;
                }
                Input::Event(Event::Refused { cause, reason, hint }) => {
                    if self.as_json {
                        let (reason, hint) = (reason.clone(), hint.clone());
                        show::json(&Event::Refused { cause, reason, hint })?;
                    }
                    eprintln!("error: {reason}\nhint: {hint}");
                    self.refused = true;
                    code = ExitCode::FAILURE;
                }
                Input::Event(event) => self.event(event)?,
                Input::Ended if !self.refused => {
                    self.complain("the core ended without being asked to");
                    return self.leave(ExitCode::FAILURE);
                }
                Input::Ended => return self.leave(code),
            }
        }
    }

    fn leave(self, code: ExitCode) -> anyhow::Result<ExitCode> {
        self.host.close();
        Ok(code)
    }

    fn show_prompt(&self) -> std::io::Result<()> {
        if self.shown {
            print!("> ");
            std::io::stdout().flush()?;
        }
        Ok(())
    }

    /// Runs the command of a line; returns whether to continue.
    fn line(&mut self, text: &str) -> anyhow::Result<bool> {
        match line::parse(text, &self.settings) {
            Ok(Line::Nothing) => {}
            Ok(Line::Quit) => return Ok(false),
            Ok(Line::Help) => println!("{}", line::HELP),
            Ok(Line::Card) => show::card(&crate::card()?),
            Ok(Line::Settings) => show::settings(&self.settings),
            Ok(Line::Stats) => match &self.last {
                Some(reply) => show::statistics(reply),
                None => println!("no reply yet"),
            },
            Ok(Line::Export { command, to }) => {
                self.export_to = to;
                self.send(command);
            }
            Ok(Line::Command(command)) => self.send(command),
            Err(message) => self.complain(&message),
        }
        Ok(true)
    }

    fn send(&mut self, command: Command) {
        let wait = Wait::after(&command);
        // Before it is sent: a Ctrl-C from now on is meant for the reply.
        self.replying.store(wait == Wait::Reply, Ordering::Relaxed);
        match self.host.send(command) {
            Ok(()) => self.wait = Some(wait),
            Err(unsent) => self.complain(&unsent.to_string()),
        }
    }

    fn complain(&mut self, message: &str) {
        self.failed = true;
        eprintln!("error: {message}");
    }

    fn event(&mut self, event: Event) -> anyhow::Result<()> {
        if self.as_json {
            show::json(&event)?;
        }
        if self.wait.is_some_and(|wait| wait.is_over(&event)) {
            self.wait = None;
            self.replying.store(false, Ordering::Relaxed);
        }
        match event {
            Event::Ready { settings, warning, .. } => {
                self.settings = settings;
                if let Some(warning) = warning {
                    eprintln!("warning: {warning}");
                }
                if self.shown {
                    println!("{}", line::HELP);
                }
            }
            Event::Settings { settings } => self.settings = settings,
            Event::Error { message, .. } => self.complain(&message),
            Event::Exported { name, document } => self.write_document(&name, &document)?,
            Event::Reply(reply) => {
                if !self.as_json {
                    show::reply_end(&reply)?;
                }
                self.last = Some(*reply);
            }
            event if !self.as_json => show::event(&event)?,
            _ => {}
        }
        Ok(())
    }

    /// Writes a document where it was asked for; a file that is there is never overwritten.
    fn write_document(&mut self, name: &str, document: &str) -> anyhow::Result<()> {
        let path = self.export_to.take().unwrap_or_else(|| name.to_owned());
        let file = fs::OpenOptions::new().write(true).create_new(true).open(&path);
        match file.and_then(|mut file| file.write_all(document.as_bytes())).context(path.clone()) {
            // Standard output is for events alone then.
            Ok(()) if self.as_json => eprintln!("wrote {path}"),
            Ok(()) => println!("wrote {path}"),
            Err(error) => self.complain(&format!("{error:#}, expected a new file")),
        }
        Ok(())
    }
}
