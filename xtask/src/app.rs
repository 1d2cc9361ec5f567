//! `cargo xtask app`: runs the app; and what the default tests leave out, because Slint compiles for minutes: the tests of the
//! window and of the C surface, pictures of the screens, and the figures in the documentation.

mod display;
mod run;
mod talk;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use camino::{Utf8Path, Utf8PathBuf};
use serde_json::Value;

use self::display::Display;
use crate::{
    child::{self, cmd, network_cmd},
    exit::{Exit, Failure, Outcome},
    export, setup,
    workspace::Workspace,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Build the app with a model, and start it
    ///
    /// As `PROOFMARK_MODEL=MODEL cargo run -p app` does.
    Run {
        /// The model: a directory of `model-assets/models`, exported before
        #[arg(default_value = "tiny")]
        model: String,
        /// Arguments for the app
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Test the window, the C surface and the JVM surface
    ///
    /// On Linux it also opens the window on Xvfb and types into it.
    Test,
    /// Draw every screen with the software renderer
    ///
    /// On Linux it also photographs the window on Xvfb.
    Screenshots {
        /// Where the pictures go
        #[arg(value_name = "DIR", default_value = "docs/screenshots")]
        folder: Utf8PathBuf,
    },
    /// Measure size, start-up and idle CPU of the release build
    ///
    /// With the window on Xvfb.
    Bench {
        /// Repeats; the median counts
        #[arg(long, value_name = "N", default_value_t = 9)]
        repeats: u32,
        /// How long to watch the idle app
        #[arg(long, value_name = "SECONDS", default_value_t = 10)]
        idle_seconds: u64,
    },
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Outcome {
    setup::ensure(workspace)?;
    if let What::Run { model, arguments } = &args.what {
        return run::with(workspace, model, arguments);
    }
    // The gate lets no app be built without a proved model.
    export::run(workspace, &export::Args::of_default_model())?;
    match &args.what {
        // Handled above: it builds with the model that it names.
        What::Run { .. } => Ok(()),
        What::Test => test(workspace),
        What::Screenshots { folder } => screenshots(workspace, folder),
        What::Bench { repeats, idle_seconds } => {
            bench(workspace, (*repeats).max(1) as usize, Duration::from_secs(*idle_seconds))
        }
    }
}

fn test(workspace: &Workspace) -> Outcome {
    let shell = child::shell(workspace.root())?;
    let failed = |error| Failure::new(Exit::Tests, error, "fix it, then run: cargo xtask app test");
    network_cmd!(shell, "cargo test -p app --features gui-test,capi,jvm --no-fail-fast")
        .run()
        .map_err(|_| failed(anyhow!("the tests of the app failed")))?;
    if !cfg!(target_os = "linux") {
        println!("window: not opened, Xvfb is for Linux");
        return Ok(());
    }
    network_cmd!(shell, "cargo build -p app --features gui-test,capi,jvm").quiet().run()?;
    let app = child::target_folder(workspace)?.join("debug/app");
    let mut display = Display::start()?;
    let elapsed = display.first_frame(&app).map_err(failed)?;
    println!("window: first frame on Xvfb after {elapsed:.0} ms (not optimized), ended in order");
    let talk = talk::hold(&mut display, &app, None).map_err(failed)?;
    println!("window: typed on Xvfb and answered: {talk}");
    Ok(())
}

fn screenshots(workspace: &Workspace, folder: &Utf8Path) -> Outcome {
    let shell = child::shell(workspace.root())?;
    network_cmd!(shell, "cargo run --release -p app --features gui -- --screenshots {folder}").run()?;
    if cfg!(target_os = "linux") {
        let app = child::target_folder(workspace)?.join("release/app");
        talk::hold(&mut Display::start()?, &app, Some(&folder.join("window-xvfb.png")))?;
    }
    Ok(())
}

fn bench(workspace: &Workspace, repeats: usize, idle: Duration) -> Outcome {
    let shell = child::shell(workspace.root())?;
    let built = child::target_folder(workspace)?.join("release/app");
    let model = embedded_bytes(workspace)?;
    let mut display = Display::start()?;
    let mut columns = Vec::new();
    for (features, window) in [("", false), ("gui", true)] {
        network_cmd!(shell, "cargo build --release -p app --features {features}").quiet().run()?;
        let own = fs::metadata(&built).with_context(|| built.clone())?.len();
        let stripped = tempfile::NamedTempFile::new()?;
        let to = stripped.path();
        cmd!(shell, "strip -o {to} {built}").quiet().run()?;
        let bare = fs::metadata(to)?.len().saturating_sub(model);
        columns.push(Column {
            bytes: own.saturating_sub(model),
            bare,
            ready: match window {
                true => Ready::Window(StartUp::median(
                    (0..repeats).map(|_| StartUp::of(&built)).collect::<Result<_, _>>()?,
                )),
                false => {
                    Ready::Terminal(median((0..repeats).map(|_| ready(&built)).collect::<Result<_, _>>()?))
                }
            },
            shown_ms: match window {
                true => {
                    Some(median((0..repeats).map(|_| display.first_frame(&built)).collect::<Result<_, _>>()?))
                }
                false => None,
            },
            idle: idle_share(display.command(&built), if window { "--gui" } else { "--json" }, idle)?,
        });
    }
    println!("| | terminal | with the window |\n|---|---|---|");
    let row = |name: &str, cell: &dyn Fn(&Column) -> String| {
        println!("| {name} | {} |", columns.iter().map(cell).collect::<Vec<_>>().join(" | "));
    };
    row("binary without the model, bytes", &|column| column.bytes.to_string());
    row("the same, stripped", &|column| column.bare.to_string());
    let milliseconds = |value: Option<f64>| value.map_or("none".to_owned(), |ms| format!("{ms:.1}"));
    let window = |column: &Column, pick: fn(&StartUp) -> f64| match &column.ready {
        Ready::Window(start_up) => Some(pick(start_up)),
        Ready::Terminal(_) => None,
    };
    let terminal = |column: &Column| match column.ready {
        Ready::Terminal(ms) => Some(ms),
        Ready::Window(_) => None,
    };
    row("first frame on an X display, from the spawn, ms", &|column| milliseconds(column.shown_ms));
    row("first frame in memory, from `main`, ms", &|it| milliseconds(window(it, |up| up.first_frame_ms)));
    row("ready for a message, the window drawn in memory, from `main`, ms", &|it| {
        milliseconds(window(it, |up| up.ready_ms))
    });
    row("ready for a message, from the spawn, ms", &|column| milliseconds(terminal(column)));
    row("CPU while idle, % of a core", &|column| format!("{:.2}", column.idle * 100.0));
    Ok(())
}

/// What was measured of one build.
struct Column {
    bytes: u64,
    bare: u64,
    ready: Ready,
    shown_ms: Option<f64>,
    idle: f64,
}

/// How long a front takes until it can be used.
enum Ready {
    /// The terminal's, from the spawn of the process to its event.
    Terminal(f64),
    /// The window's own figures.
    Window(StartUp),
}

/// What `app --start-up` says of the window drawn in memory: milliseconds since `main`.
#[derive(Debug, Clone, Copy, PartialEq, serde::Deserialize)]
struct StartUp {
    first_frame_ms: f64,
    ready_ms: f64,
}

impl StartUp {
    fn of(app: &Utf8Path) -> anyhow::Result<Self> {
        let data = tempfile::tempdir()?;
        let output = child::command(app).args(["--start-up", "--data"]).arg(data.path()).output()?;
        Self::parse(&output.stdout)
    }

    fn parse(output: &[u8]) -> anyhow::Result<Self> {
        serde_json::from_slice(output).context("--start-up: cannot be read")
    }

    fn median(all: Vec<Self>) -> Self {
        let of = |pick: fn(&Self) -> f64| median(all.iter().map(pick).collect());
        Self { first_frame_ms: of(|it| it.first_frame_ms), ready_ms: of(|it| it.ready_ms) }
    }
}

/// Bytes of the model inside the default build.
fn embedded_bytes(workspace: &Workspace) -> anyhow::Result<u64> {
    let path = workspace.models().join("tiny/manifest.json");
    let bytes = fs::read(&path).with_context(|| path.clone())?;
    Ok(model_assets::manifest::Manifest::parse(&bytes)?.file_bytes)
}

/// From the spawn of the terminal front to its event `ready`, milliseconds.
fn ready(app: &Utf8Path) -> anyhow::Result<f64> {
    let data = tempfile::tempdir()?;
    let since = Instant::now();
    let child = start(child::command(app), "--json", data.path())?;
    let elapsed = since.elapsed().as_secs_f64() * 1e3;
    end(child)?;
    Ok(elapsed)
}

/// Starts the app and waits until it is ready; with a window, which says nothing, for two seconds.
fn start(mut app: Command, front: &str, data: &std::path::Path) -> anyhow::Result<Child> {
    let mut child =
        app.arg(front).arg("--data").arg(data).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    if front != "--json" {
        std::thread::sleep(Duration::from_secs(2));
        return Ok(child);
    }
    let output = child.stdout.take().context("no standard output")?;
    for line in BufReader::new(output).lines() {
        let event: Value = serde_json::from_str(&line?)?;
        if event["event"] == "ready" {
            return Ok(child);
        }
    }
    Err(anyhow!("the app ended before it was ready"))
}

fn end(mut child: Child) -> anyhow::Result<()> {
    child.kill()?;
    child.wait()?;
    Ok(())
}

/// Share of one core that an idle app takes.
fn idle_share(app: Command, front: &str, idle: Duration) -> anyhow::Result<f64> {
    let data = tempfile::tempdir()?;
    let child = start(app, front, data.path())?;
    let before = cpu_ticks(child.id())?;
    std::thread::sleep(idle);
    let ticks = cpu_ticks(child.id())?.saturating_sub(before);
    end(child)?;
    let per_second = rustix::param::clock_ticks_per_second();
    Ok(ticks as f64 / per_second as f64 / idle.as_secs_f64())
}

/// Processor time of a process, user and system.
fn cpu_ticks(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| path.clone())?;
    // The name, in brackets, may hold spaces.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let field = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok());
    field(11).zip(field(12)).map(|(user, system)| user + system).with_context(|| path)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_windows_figures_are_its_own() {
        let parse = |ready: f64| {
            let output = format!("{{\"first_frame_ms\":{},\"ready_ms\":{ready}}}\n", ready / 2.0);
            super::StartUp::parse(output.as_bytes()).unwrap()
        };
        let median = super::StartUp::median([30.0, 10.0, 20.0].map(parse).to_vec());
        assert_eq!(median, super::StartUp { first_frame_ms: 10.0, ready_ms: 20.0 });
        assert!(super::StartUp::parse(br#"{"first_frame_ms":1.0}"#).is_err());
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(super::median(vec![3.0, 1.0, 100.0]), 3.0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_used_a_processor() {
        let mut sum = 0_u64;
        while super::cpu_ticks(std::process::id()).unwrap() == 0 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
    }
}
