//! Runs changed models in the engine, in a child process that may crash.
//!
//! **Invariant:** a crash counts for a mutant only if a fresh child crashes too. A differing answer is computed again with other
//! old contents of the heap: an answer that depends on them was read where nothing had been written.

use std::{
    fmt, fs,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::Duration,
};

use anyhow::{Context as _, anyhow, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;

/// Token ids that every model of the study has; its last one follows them.
const TOKENS: [u64; 6] = [1, 5, 9, 2, 33, 17];
/// Tokens decoded after them.
const DECODED: &str = "2";
/// Address space of a child, KiB: an absurd allocation must not take the machine down.
const ADDRESS_SPACE_KIB: u32 = 6_000_000;
/// What glibc fills fresh and freed memory with in the two children.
const FILLS: [&str; 2] = ["85", "170"];

/// How the run of an accepted mutant ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ProbeVerdict {
    /// The answer of the unchanged file.
    Same,
    /// Another answer.
    Different,
    /// The runtime or the engine returned an error.
    Refused,
    /// The child died.
    Crashed { how: String, alone: bool },
    /// Two runs of the same file answered differently.
    Unstable,
    /// The child did not answer in time.
    Endless,
}

impl ProbeVerdict {
    /// Whether a file that does this must not be accepted.
    pub(crate) fn is_harm(&self) -> bool {
        matches!(self, Self::Crashed { .. } | Self::Unstable | Self::Endless)
    }
}

impl fmt::Display for ProbeVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same => f.write_str("the same answer"),
            Self::Different => f.write_str("another answer"),
            Self::Refused => f.write_str("an error"),
            Self::Crashed { how, alone: true } => write!(f, "crashed ({how})"),
            Self::Crashed { how, alone: false } => write!(f, "crashed ({how}), but not in a fresh process"),
            Self::Unstable => f.write_str("the answer depends on old memory"),
            Self::Endless => f.write_str("no answer in time"),
        }
    }
}

/// One line of the engine.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
enum Line {
    Ran { tokens: Vec<u32>, logits_sha256: String },
    Called { outputs_sha256: String },
    Refused { error: String },
}

/// What a child did with a file.
enum Answer {
    Line(Line),
    Died(String),
    Endless,
}

/// How a program is run.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Task {
    /// As a language model, of so many tokens.
    Model { vocab: u64 },
    /// As it is, once, on inputs that the engine makes up.
    Call,
}

impl Task {
    fn arguments(self) -> Vec<String> {
        let Self::Model { vocab } = self else { return vec!["call".to_owned()] };
        let tokens = TOKENS.into_iter().chain([vocab.saturating_sub(1)]).map(|token| token.to_string());
        let tokens = tokens.collect::<Vec<_>>().join(",");
        ["run", "--stdin-loop", "--threads", "1", "--tokens", &tokens, "-n", DECODED]
            .map(str::to_owned)
            .into()
    }
}

/// Two children with different fills, restarted when they die, and the answer to compare with.
pub(crate) struct Probe {
    engine: Utf8PathBuf,
    path: Utf8PathBuf,
    task: Task,
    timeout: Duration,
    children: [Option<Running>; 2],
    good: Line,
}

struct Running {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails when it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Probe {
    /// Starts with the unchanged file `good`; mutants are written to `path`.
    pub(crate) fn start(
        engine: &Utf8Path,
        good: &Utf8Path,
        path: &Utf8Path,
        task: Task,
        timeout: Duration,
    ) -> anyhow::Result<Self> {
        let placeholder = Line::Refused { error: String::new() };
        let (engine, path) = (engine.to_owned(), path.to_owned());
        let mut probe = Self { engine, path, task, timeout, children: [None, None], good: placeholder };
        fs::copy(good, &probe.path)?;
        let mut answers = Vec::new();
        for child in 0..FILLS.len() {
            match probe.ask(child)? {
                Answer::Line(line @ (Line::Ran { .. } | Line::Called { .. })) => answers.push(line),
                Answer::Line(Line::Refused { error }) => {
                    return Err(anyhow!("{good}: does not run: {error}"));
                }
                Answer::Died(how) => {
                    return Err(anyhow!("{good}: the unchanged file kills the engine: {how}"));
                }
                Answer::Endless => return Err(anyhow!("{good}: the unchanged file does not end")),
            }
        }
        ensure!(
            answers[0] == answers[1],
            "{good}: the unchanged file answers differently over other old memory"
        );
        probe.good = answers.swap_remove(0);
        Ok(probe)
    }

    /// Runs a mutant.
    pub(crate) fn run(&mut self, bytes: &[u8]) -> anyhow::Result<ProbeVerdict> {
        // A new file each time: a child may still map the old one.
        let _ = fs::remove_file(&self.path);
        fs::write(&self.path, bytes).with_context(|| self.path.to_string())?;
        let first = match self.ask(0)? {
            Answer::Line(Line::Refused { .. }) => return Ok(ProbeVerdict::Refused),
            Answer::Line(line) if line == self.good => return Ok(ProbeVerdict::Same),
            Answer::Line(line) => line,
            Answer::Endless => return Ok(ProbeVerdict::Endless),
            Answer::Died(how) => {
                let alone = matches!(self.ask(0)?, Answer::Died(_));
                return Ok(ProbeVerdict::Crashed { how, alone });
            }
        };
        Ok(match self.ask(1)? {
            Answer::Line(second) if second == first => ProbeVerdict::Different,
            Answer::Line(_) => ProbeVerdict::Unstable,
            Answer::Endless => ProbeVerdict::Endless,
            Answer::Died(how) => {
                let alone = matches!(self.ask(1)?, Answer::Died(_));
                ProbeVerdict::Crashed { how, alone }
            }
        })
    }

    fn ask(&mut self, which: usize) -> anyhow::Result<Answer> {
        let mut running = match self.children[which].take() {
            Some(running) => running,
            None => spawn(&self.engine, self.task, FILLS[which])?,
        };
        // Fails when the child died after its last answer: then there is no next line either.
        let _ = writeln!(running.stdin, "{}", self.path).and_then(|()| running.stdin.flush());
        match running.lines.recv_timeout(self.timeout) {
            Ok(text) => {
                let line = serde_json::from_str(&text).with_context(|| format!("the engine said: {text}"))?;
                self.children[which] = Some(running);
                Ok(Answer::Line(line))
            }
            Err(RecvTimeoutError::Timeout) => Ok(Answer::Endless),
            Err(RecvTimeoutError::Disconnected) => {
                let status = running.child.wait()?;
                Ok(Answer::Died(status.to_string()))
            }
        }
    }
}

fn spawn(engine: &Utf8Path, task: Task, fill: &str) -> anyhow::Result<Running> {
    // The shell only sets the limit and becomes the engine; a core file per crash would fill the disk.
    let script = format!("ulimit -c 0; ulimit -v {ADDRESS_SPACE_KIB}; exec \"$0\" \"$@\"");
    let mut child = crate::child::command("sh")
        .args(["-c", &script, engine.as_str()])
        .args(task.arguments())
        .env("MALLOC_PERTURB_", fill)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("{engine}: cannot be started"))?;
    let stdin = child.stdin.take().context("no standard input")?;
    let stdout = child.stdout.take().context("no standard output")?;
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        let lines = BufReader::new(stdout).lines().map_while(Result::ok);
        // Ends when the child does, or when the receiver is gone.
        for line in lines {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    Ok(Running { child, stdin, lines })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Does what the "model" says.
    const ENGINE: &str = r#"#!/bin/sh
say() { echo "{\"model\":\"m\",\"tokens\":[1],\"finite\":true,\"logits_sha256\":\"$1\"}"; }
while read -r path; do
    case "$(cat "$path")" in
    good) say a ;;
    other) say b ;;
    unstable) say "$MALLOC_PERTURB_" ;;
    refused) echo '{"model":"m","error":"no model"}' ;;
    crash) kill -SEGV $$ ;;
    esac
done
"#;

    #[test]
    fn every_way_to_end_has_its_verdict() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = Utf8Path::from_path(folder.path()).expect("UTF-8").to_owned();
        let (engine, good) = (folder.join("engine"), folder.join("good.pte"));
        fs::write(&engine, ENGINE).expect("written");
        fs::set_permissions(&engine, fs::Permissions::from_mode(0o755)).expect("executable");
        fs::write(&good, "good").expect("written");
        let start = |model: &Utf8Path| {
            let (mutant, task) = (folder.join("mutant.pte"), Task::Model { vocab: 64 });
            Probe::start(&engine, model, &mutant, task, Duration::from_secs(3600))
        };
        let mut probe = start(&good).expect("the good file runs");
        let mut verdict = |model: &str| probe.run(model.as_bytes()).expect("a verdict");
        assert_eq!(verdict("good"), ProbeVerdict::Same);
        assert_eq!(verdict("other"), ProbeVerdict::Different);
        assert_eq!(verdict("unstable"), ProbeVerdict::Unstable);
        assert_eq!(verdict("refused"), ProbeVerdict::Refused);
        assert!(matches!(verdict("crash"), ProbeVerdict::Crashed { alone: true, .. }));
        assert_eq!(verdict("good"), ProbeVerdict::Same, "after a crash there is a new child");

        for bad in ["crash", "unstable", "refused"] {
            fs::write(&good, bad).expect("written");
            assert!(start(&good).is_err(), "a study of a file that is {bad}");
        }
    }
}
