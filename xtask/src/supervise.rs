//! Runs the Python worker: own process group, memory watchdog, stall timeout, log, events. Also runs other commands until they
//! end, or until Ctrl-C or SIGTERM.
//!
//! **Invariant:** when this returns or panics, no process of the group that it started is left.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Seek as _, Write as _},
    os::unix::process::CommandExt as _,
    process::{Command, ExitStatus, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail};
use camino::Utf8Path;
use rustix::process::{Pid, Signal};

use crate::{child, console::Console};

/// How a run of the worker ended.
pub(crate) struct WorkerRun {
    /// Whether it exited with 0.
    pub(crate) ok: bool,
    /// Why it was killed, when it was.
    pub(crate) killed: Option<String>,
    /// The stage that it announced last.
    pub(crate) stage: String,
    /// Highest memory of the group.
    pub(crate) peaks: Peaks,
    /// The last lines of its log.
    pub(crate) tail: Vec<String>,
}

/// Highest memory of a group, as sampled.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peaks {
    /// Resident, bytes.
    pub(crate) rss_bytes: u64,
    /// Anonymous, bytes.
    pub(crate) anon_bytes: u64,
}

impl Peaks {
    fn see(&mut self, usage: &Usage) {
        self.rss_bytes = self.rss_bytes.max(usage.rss_bytes);
        self.anon_bytes = self.anon_bytes.max(usage.anon_bytes);
    }
}

/// Bounds of a run.
pub(crate) struct Bounds {
    /// Anonymous memory of the group, bytes: pages of files can be taken back, and a large model's are many. Without effect where the system does not report it ([`sees_memory`]).
    pub(crate) memory_bytes_max: u64,
    /// Time without a line of output and without use of the processor.
    pub(crate) stall: Duration,
}

/// Set by the first Ctrl-C or SIGTERM.
pub(crate) static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Turns Ctrl-C and SIGTERM into [`INTERRUPTED`]; a second call changes nothing.
pub(crate) fn watch_interrupts() -> anyhow::Result<()> {
    static WATCHED: std::sync::Once = std::sync::Once::new();
    let mut outcome = Ok(());
    WATCHED.call_once(|| {
        outcome = ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed))
            .context("cannot watch for Ctrl-C");
    });
    outcome
}

/// Whether Ctrl-C or SIGTERM has come.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

const TAIL_LINES_MAX: usize = 20;
const POLL: Duration = Duration::from_millis(200);
/// How often a command is polled.
const COMMAND_POLL: Duration = Duration::from_millis(50);
const EVENT: &str = "@proofmark ";

/// State that the reader thread shares with the watchdog.
#[derive(Default)]
struct Seen {
    stage: Mutex<String>,
    tail: Mutex<Vec<String>>,
    lines: AtomicU64,
}

/// Runs `python` on `script` with `request`, teeing its output to `log`.
pub(crate) fn run(
    python: &Utf8Path,
    script: &Utf8Path,
    request: &Utf8Path,
    log: &Utf8Path,
    bounds: &Bounds,
    console: &Console,
) -> anyhow::Result<WorkerRun> {
    // The worker reads end of file from this pipe when this process dies, however it dies.
    let (stdin, _held_open) = std::io::pipe()?;
    let reader = child::expression(python, &["-I", "-B", script.as_str(), request.as_str()])
        .env("PROOFMARK_PARENT_PIPE", "1")
        .stdin_file(stdin)
        .stderr_to_stdout()
        .unchecked()
        .before_spawn(|command| {
            command.process_group(0);
            Ok(())
        })
        .reader()
        .with_context(|| format!("{python}: cannot be started"))?;
    let reader = Arc::new(reader);
    let leader = reader.pids().first().copied().context("the worker has no process id")?;
    let group = Group(Pid::from_raw(i32::try_from(leader)?).context("the worker has process id 0")?);
    let seen = Arc::new(Seen::default());
    let output = {
        let console = console.clone();
        let file = File::create(log).with_context(|| format!("{log}: cannot be made"))?;
        let (reader, seen, log) = (Arc::clone(&reader), Arc::clone(&seen), file);
        std::thread::spawn(move || read_output(&reader, &seen, log, &console))
    };
    let (killed, peaks) = watch(&group, &reader, &seen, bounds, console)?;
    drop(group);
    let logged = output.join().map_err(|_| anyhow!("the log reader panicked"))?;
    logged.with_context(|| format!("{log}: cannot be written"))?;
    let ok = killed.is_none() && reader.try_wait()?.is_some_and(|output| output.status.success());
    let stage = seen.stage.lock().map(|s| s.clone()).unwrap_or_default();
    let tail = seen.tail.lock().map(|t| t.clone()).unwrap_or_default();
    Ok(WorkerRun { ok, killed, stage, peaks, tail })
}

/// Runs a command to its end and returns its output. An interrupt ends the command and everything that it started.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<Output> {
    let stderr = tempfile::tempfile()?;
    let (status, stdout) = stdout(command.stderr(stderr.try_clone()?))?;
    Ok(Output { status, stdout, stderr: content(stderr)? })
}

/// As [`output`], with its peak memory. Sampling costs some CPU: do not use it for a command that measures time.
pub(crate) fn metered(command: &mut Command) -> anyhow::Result<(Output, Peaks)> {
    let (stderr, mut peaks) = (tempfile::tempfile()?, Peaks::default());
    command.stderr(stderr.try_clone()?);
    let (status, stdout) = waited(command, &mut |group| peaks.see(&usage(group)))?;
    Ok((Output { status, stdout, stderr: content(stderr)? }, peaks))
}

/// As [`output`], with its standard error where the command has it.
pub(crate) fn stdout(command: &mut Command) -> anyhow::Result<(ExitStatus, Vec<u8>)> {
    waited(command, &mut |_| {})
}

/// Runs a command to its end and calls `look` now and then.
fn waited(command: &mut Command, look: &mut dyn FnMut(Pid)) -> anyhow::Result<(ExitStatus, Vec<u8>)> {
    watch_interrupts()?;
    let name = command.get_program().to_string_lossy().into_owned();
    // A file and not a pipe: nothing blocks while this side only waits.
    let stdout = tempfile::tempfile()?;
    command.stdin(Stdio::null()).stdout(stdout.try_clone()?).process_group(0);
    let mut child = command.spawn().with_context(|| format!("{name}: cannot be started"))?;
    let group = Group(Pid::from_child(&child));
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if interrupted() {
            drop(group);
            child.wait()?;
            bail!("{name}: interrupted");
        }
        look(group.0);
        std::thread::sleep(COMMAND_POLL);
    };
    Ok((status, content(stdout)?))
}

fn content(mut file: File) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A process group that does not outlive this value.
struct Group(Pid);

impl Drop for Group {
    fn drop(&mut self) {
        // Fails when the group has ended already, which is fine.
        let _ = rustix::process::kill_process_group(self.0, Signal::KILL);
    }
}

/// Reads all output of the worker, also when the log cannot be written: a full pipe would stop the worker, and a full disk would
/// look like a stall.
fn read_output(
    reader: &duct::ReaderHandle,
    seen: &Seen,
    mut log: File,
    console: &Console,
) -> std::io::Result<()> {
    let mut logged = Ok(());
    for line in BufReader::new(reader).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).trim_end().to_owned();
        seen.lines.fetch_add(1, Ordering::Relaxed);
        if logged.is_ok() {
            logged = writeln!(log, "{line}");
        }
        if let Some(event) = line.strip_prefix(EVENT) {
            if let Ok(event) = serde_json::from_str::<serde_json::Value>(event)
                && event["event"] == "stage"
            {
                let name = event["stage"].as_str().unwrap_or("?").to_owned();
                console.stage(&name, event["index"].as_u64().unwrap_or(0), event["of"].as_u64().unwrap_or(0));
                if let Ok(mut stage) = seen.stage.lock() {
                    *stage = name;
                }
            }
        } else if let Ok(mut tail) = seen.tail.lock() {
            tail.push(line);
            let excess = tail.len().saturating_sub(TAIL_LINES_MAX);
            tail.drain(..excess);
        }
    }
    logged
}

/// Samples the group until it ends or breaks a bound; returns why it was killed and its highest memory.
fn watch(
    group: &Group,
    reader: &duct::ReaderHandle,
    seen: &Seen,
    bounds: &Bounds,
    console: &Console,
) -> anyhow::Result<(Option<String>, Peaks)> {
    let mut peaks = Peaks::default();
    let mut last = (0, 0);
    let mut alive_at = Instant::now();
    loop {
        match reader.try_wait() {
            Ok(None) => {}
            _ => return Ok((None, peaks)),
        }
        let usage = usage(group.0);
        peaks.see(&usage);
        let now = (seen.lines.load(Ordering::Relaxed), usage.cpu_ticks);
        if now != last {
            (last, alive_at) = (now, Instant::now());
        }
        console.memory(usage.rss_bytes, peaks.rss_bytes);
        let reason = if INTERRUPTED.load(Ordering::Relaxed) {
            Some("was interrupted".to_owned())
        } else if usage.anon_bytes > bounds.memory_bytes_max {
            Some(format!(
                "used {} bytes of anonymous memory, expected at most {}",
                usage.anon_bytes, bounds.memory_bytes_max
            ))
        } else if alive_at.elapsed() > bounds.stall {
            Some(format!("stalled: no output and no work for {} s", bounds.stall.as_secs()))
        } else {
            None
        };
        if reason.is_some() {
            rustix::process::kill_process_group(group.0, Signal::KILL)?;
            reader.kill()?;
            return Ok((reason, peaks));
        }
        std::thread::sleep(POLL);
    }
}

#[derive(Default)]
struct Usage {
    rss_bytes: u64,
    anon_bytes: u64,
    cpu_ticks: u64,
}

/// Whether this system reports the memory of a process group, so that [`Bounds::memory_bytes_max`] has an effect.
pub(crate) fn sees_memory() -> bool {
    std::path::Path::new("/proc/self/stat").exists()
}

/// Sums over the processes of a group, from `/proc` (see proc(5)); zeros where there is no `/proc`.
fn usage(group: Pid) -> Usage {
    let mut sum = Usage::default();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(stat) = std::fs::read_to_string(path.join("stat")) else { continue };
        // The name field may hold spaces; the fields after its closing parenthesis do not.
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let number =
            |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        if number(2) != u64::from(group.as_raw_nonzero().get().unsigned_abs()) {
            continue;
        }
        sum.cpu_ticks += number(11) + number(12);
        let status = std::fs::read_to_string(path.join("status")).unwrap_or_default();
        let kib = |key: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(key));
            value.and_then(|v| v.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
        };
        sum.rss_bytes += kib("VmRSS:");
        // What lies in a file system in memory cannot be taken back either.
        sum.anon_bytes += kib("RssAnon:") + kib("RssShmem:");
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_under_the_log_is_told_and_is_no_stall() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        let (script, done) = (folder.join("script.py"), folder.join("done"));
        // More than a pipe holds, many times over; then a sign that it came to its end.
        std::fs::write(
            &script,
            "import sys\nfor _ in range(20000): print('x' * 70)\nopen(sys.argv[1], 'w')\n",
        )
        .unwrap();
        let bounds = Bounds { memory_bytes_max: u64::MAX, stall: Duration::from_secs(20) };
        let full = Utf8Path::new("/dev/full");
        let run = run("python3".into(), &script, &done, full, &bounds, &Console::Plain);
        let error = run.err().unwrap();
        assert!(error.to_string().starts_with("/dev/full: cannot be written"), "{error:#}");
        assert!(crate::predict::is_disk_full(&error), "{error:#}");
        assert!(done.exists(), "the worker was held up");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_of_its_own_ends_a_worker_and_pages_of_files_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        let [script, file, log] = ["script.py", "file", "log"].map(|name| folder.join(name));
        File::create(&file).unwrap().set_len(256_000_000).unwrap();
        let bounds = Bounds { memory_bytes_max: 128_000_000, stall: Duration::from_secs(1000) };
        let supervised = |text: &str| {
            std::fs::write(&script, format!("import mmap, sys, time\n{text}\n")).unwrap();
            run("python3".into(), &script, &file, &log, &bounds, &Console::Plain).unwrap()
        };
        // It stays until it has been looked at.
        let mapped = supervised(
            "with open(sys.argv[1], 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as m:\n    \
             sum(m[::4096])\n    time.sleep(3)",
        );
        assert!(mapped.ok && mapped.peaks.rss_bytes > 256_000_000, "{:?}, {:?}", mapped.killed, mapped.peaks);
        let owned = supervised("b = bytearray(b'x') * 256_000_000\ntime.sleep(1000)");
        let reason = owned.killed.unwrap();
        assert!(reason.contains(" bytes of anonymous memory, expected at most 128000000"), "{reason}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_metered_commands_memory_is_its_groups() {
        let mut shell = Command::new("sh");
        // A child of the shell holds it, and until this side says so: when it is looked at is nobody's promise.
        let folder = tempfile::tempdir().unwrap();
        let go = folder.path().join("go");
        let hold = "bytes = bytearray(b'x') * 64_000_000\nimport os, sys, time\nwhile not os.path.exists(sys.argv[1]): time.sleep(0.01)";
        shell.args(["-c", "python3 -c \"$0\" \"$1\"; exit 3", hold, go.to_str().unwrap()]);
        let mut peaks = Peaks::default();
        let look = &mut |group| {
            peaks.see(&usage(group));
            if peaks.anon_bytes >= 64_000_000 {
                std::fs::write(&go, "").unwrap();
            }
        };
        let (status, _) = waited(&mut shell, look).unwrap();
        assert_eq!(status.code(), Some(3));
        assert!(peaks.rss_bytes >= peaks.anon_bytes, "{peaks:?}");
        let (output, peaks) =
            metered(Command::new("sh").args(["-c", "sleep 0.3; echo said; exit 4"])).unwrap();
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(4), &b"said\n"[..]));
        assert!(peaks.rss_bytes > 0 && peaks.anon_bytes > 0, "{peaks:?}");
    }

    #[test]
    fn a_command_is_run_to_its_end_and_what_it_says_is_kept_apart() {
        let mut shell = Command::new("sh");
        // More than a pipe holds, and a process that would outlive its shell.
        shell.args(["-c", "sleep 1000 & echo $!; head -c 200000 /dev/zero >&2; exit 3"]);
        let Output { status, stdout, stderr } = output(&mut shell).unwrap();
        assert_eq!((status.code(), stderr.len()), (Some(3), 200_000));
        let left = String::from_utf8(stdout).unwrap();
        // The system ends it in its own time; an orphan that is not reaped stays as a zombie.
        let running = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", left.trim())).unwrap_or_default();
            stat.rsplit(')')
                .next()
                .is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
        };
        while running() {
            std::thread::sleep(COMMAND_POLL);
        }
        let error = output(&mut Command::new("/nowhere/to/be/found")).unwrap_err().to_string();
        assert_eq!(error, "/nowhere/to/be/found: cannot be started");
    }
}
