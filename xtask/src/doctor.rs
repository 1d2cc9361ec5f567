//! `cargo xtask doctor`: checks that this machine has what the work needs. Changes nothing.

use std::os::unix::fs::MetadataExt as _;

use camino::Utf8Path;
use model_assets::{dir::ModelDir, policy::Policy, recipe::Recipe};
use serde::Serialize;

use crate::{
    cache::{self, Cache},
    child,
    exit::{Exit, Failure, Outcome, refused},
    predict, setup,
    token::{Token, environment},
    workspace::Workspace,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Model whose predicted memory and disk must be there
    #[arg(default_value = "tiny")]
    model: String,
    /// Check the tools for Android and iOS, too
    #[arg(long)]
    mobile: bool,
    /// Print the rows as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Warn,
    Missing,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
struct Row {
    name: String,
    status: Status,
    got: String,
    /// Of a cache, on the disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    expected: String,
    /// The command that fixes it; empty when nothing is wrong.
    fix: &'static str,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Outcome {
    let dir = ModelDir::new(workspace.models(), &args.model);
    let (recipe, policy) = (dir.recipe().map_err(refused)?, dir.policy().map_err(refused)?);
    let mut rows = vec![
        python(),
        compiler(),
        git(),
        disk(workspace, &recipe),
        memory(&recipe, &policy),
        venv(workspace),
    ];
    rows.extend(models_disk(workspace, &recipe));
    rows.extend([uv(workspace), gh(), token()]);
    if args.mobile {
        rows.extend([ndk(), xcode()]);
    }
    rows.extend(caches(workspace)?);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        rows.iter().for_each(print);
    }
    let missing: Vec<_> =
        rows.iter().filter(|row| row.status == Status::Missing).map(|row| row.name.as_str()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let error = anyhow::anyhow!("missing: {}", missing.join(", "));
    Err(Failure::new(Exit::Doctor, error, "run the command at the end of each row, then: cargo xtask doctor"))
}

fn print(row: &Row) {
    let Row { name, status, got, expected, fix, .. } = row;
    let status = format!("{status:?}").to_lowercase();
    let expected = if expected.is_empty() { String::new() } else { format!(" (expected {expected})") };
    println!("{status:<8}{name:<18}{got}{expected}");
    if *status != *"ok" && !fix.is_empty() {
        println!("{:26}fix: {fix}", "");
    }
}

/// First line of a command's output, if it runs.
fn ask(program: &str, arguments: &[&str]) -> Option<String> {
    let output = child::command(program).args(arguments).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let line = String::from_utf8_lossy(&text).lines().next().unwrap_or_default().trim().to_owned();
    output.status.success().then_some(line)
}

fn row(name: &'static str, got: Option<String>, otherwise: Status, expected: &str, fix: &'static str) -> Row {
    let status = if got.is_some() { Status::Ok } else { otherwise };
    let got = got.unwrap_or_else(|| "none".to_owned());
    let fix = if status == Status::Ok { "" } else { fix };
    Row { name: name.to_owned(), status, got, bytes: None, expected: expected.to_owned(), fix }
}

/// The caches: always `ok`, nothing to fix.
fn caches(workspace: &Workspace) -> anyhow::Result<Vec<Row>> {
    let row = |cache: Cache| Row {
        name: format!("cache {}", cache.name),
        status: Status::Ok,
        got: format!("{} MB of {}", cache.bytes / 1_000_000, cache.what),
        bytes: Some(cache.bytes),
        expected: String::new(),
        fix: "",
    };
    Ok(cache::all(workspace)?.into_iter().map(row).collect())
}

fn python() -> Row {
    let check = "import sys, venv, ensurepip; print('%d.%d.%d' % sys.version_info[:3]); sys.exit(sys.version_info < (3, 11))";
    let got = ask(&setup::system_python(), &["-c", check]);
    let fix = "apt-get install python3 python3-venv, or name another with PROOFMARK_PYTHON";
    row("python", got, Status::Missing, "3.11 or newer with venv", fix)
}

fn compiler() -> Row {
    let got = ask("c++", &["--version"]);
    row("compiler", got, Status::Missing, "a C++17 compiler", "apt-get install build-essential")
}

fn git() -> Row {
    row(
        "git",
        ask("git", &["--version"]),
        Status::Warn,
        "git, for the manifest's revision",
        "apt-get install git",
    )
}

fn uv(workspace: &Workspace) -> Row {
    let in_venv = ask(workspace.python().as_str(), &["-I", "-m", "uv", "--version"]);
    let got = in_venv.or_else(|| ask("uv", &["--version"]));
    row("uv", got, Status::Warn, "uv in the venv", "cargo xtask setup")
}

fn gh() -> Row {
    let fix = "apt-get install gh, then: gh auth login (only needed to export on GitHub Actions)";
    row("gh", ask("gh", &["--version"]), Status::Warn, "the GitHub CLI", fix)
}

/// Says whether there is a token, never what it is.
fn token() -> Row {
    let got = match Token::find(environment) {
        Ok(token) => token.map(|token| format!("one from {}", token.origin())),
        Err(error) => Some(format!("unusable: {error:#}")),
    };
    let fix = "export HF_TOKEN=... (only needed for gated checkpoints such as llama3.2-1b)";
    row("hub token", got, Status::Warn, "a Hugging Face token", fix)
}

fn venv(workspace: &Workspace) -> Row {
    let expected = "a venv and C++ SDK made from today's lock";
    match setup::inspect(workspace) {
        Ok(receipt) => {
            let got = format!("made from lock {}", receipt.lock.short());
            row("venv", Some(got), Status::Warn, expected, "")
        }
        Err(why) => {
            let missing = row("venv", None, Status::Warn, expected, "cargo xtask setup");
            Row { got: why.to_string(), ..missing }
        }
    }
}

fn disk(workspace: &Workspace, recipe: &Recipe) -> Row {
    let set_up = if setup::current(workspace).is_some() { 0 } else { predict::SETUP_DISK_BYTES };
    let needed = predict::export_disk_bytes(recipe) + set_up;
    let free = predict::free_disk_bytes(&workspace.state());
    bound("disk", free, needed, "cargo clean, or free space on this disk")
}

/// Where models are published, when that is another disk than the one that is worked on.
fn models_disk(workspace: &Workspace, recipe: &Recipe) -> Option<Row> {
    let device = |path: &Utf8Path| path.ancestors().find_map(|path| path.metadata().ok()).map(|it| it.dev());
    let models = workspace.models();
    let fix = "free space on this disk";
    (device(&models) != device(&workspace.state()))
        .then(|| bound("disk of models", predict::free_disk_bytes(&models), predict::file_bytes(recipe), fix))
}

fn memory(recipe: &Recipe, policy: &Policy) -> Row {
    let fix = "close other programs, or export on GitHub Actions";
    bound("memory", predict::free_memory_bytes(), predict::export_anon_bytes(recipe, policy), fix)
}

fn bound(name: &'static str, free: Option<u64>, needed: u64, fix: &'static str) -> Row {
    let expected = format!("at least {} MB for this model", needed / 1_000_000);
    match free {
        None => Row {
            name: name.to_owned(),
            status: Status::Warn,
            got: "unknown".into(),
            bytes: None,
            expected,
            fix: "",
        },
        Some(free) => {
            let status = if free >= needed { Status::Ok } else { Status::Missing };
            let fix = if status == Status::Ok { "" } else { fix };
            let got = format!("{} MB free", free / 1_000_000);
            Row { name: name.to_owned(), status, got, bytes: None, expected, fix }
        }
    }
}

fn ndk() -> Row {
    let home = std::env::var("ANDROID_NDK_HOME").ok().filter(|home| Utf8Path::new(home).is_dir());
    row(
        "android ndk",
        home,
        Status::Missing,
        "ANDROID_NDK_HOME, a folder",
        "sdkmanager --install 'ndk;27.2.12479018'",
    )
}

fn xcode() -> Row {
    row(
        "xcode",
        ask("xcodebuild", &["-version"]),
        Status::Missing,
        "Xcode, on macOS",
        "xcode-select --install",
    )
}
