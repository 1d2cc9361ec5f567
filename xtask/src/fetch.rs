//! `cargo xtask fetch`: a bundle or a run's artifact comes home and becomes a published model.
//!
//! **Invariant:** wherever it comes from, it is published through the same door as an export.
//!
//! **Invariant:** everything on the way lies in one folder under a lock; what a killed fetch left there is removed by the
//! next one, but for a download that can be gone on with.

mod unpack;
mod url;

use std::{fs, time::Duration};

use anyhow::{Context as _, anyhow};
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::digest::Digest;

use crate::{
    atomic_file::remove,
    ci,
    console::Console,
    exit::{Exit, Failure, Outcome},
    http::fault::Patience,
    lock, predict, supervise,
    workspace::Workspace,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to fetch: a bundle's file or https address, or the number of a run on GitHub
    #[arg(value_name = "RUN|URL|FILE")]
    source: String,
    /// The bundle must have this SHA-256
    #[arg(long, value_name = "HEX", value_parser = digest)]
    sha256: Option<Digest>,
    /// The model of a run on GitHub
    #[arg(long, default_value = "llama3.2-1b")]
    model: String,
    /// Give up a connection after this time without a byte, or below 1 KiB/s
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    stall_timeout: u64,
    /// Failed attempts in a row before giving up
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=100))]
    attempts: u32,
    /// Print events as JSON lines on standard output
    #[arg(long)]
    json: bool,
}

fn digest(text: &str) -> Result<Digest, String> {
    Digest::parse(text).ok_or_else(|| "expected 64 lower-case hex digits".to_owned())
}

/// Where a bundle is.
enum Source {
    Run(u64),
    Url,
    File,
}

/// A number is a run: a file of that name is `./NUMBER`.
fn source(text: &str) -> Source {
    match text.parse() {
        Ok(id) if text.bytes().all(|byte| byte.is_ascii_digit()) => Source::Run(id),
        _ if text.contains("://") => Source::Url,
        _ => Source::File,
    }
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Outcome {
    let console = Console::new(args.json);
    match source(&args.source) {
        Source::Run(id) => {
            if args.sha256.is_some() {
                let error =
                    anyhow!("run {id}: --sha256 is the digest of a bundle, which a run does not have");
                let hint = format!("demand its attestation: cargo xtask ci fetch {id} --attested");
                return Err(Failure::new(Exit::Failure, error, hint));
            }
            ci::fetch(workspace, id, &args.model, args.json)
        }
        Source::Url => {
            let patience = Patience::new(Duration::from_secs(args.stall_timeout), args.attempts);
            supervise::watch_interrupts()?;
            let work = Work::open(workspace)?;
            let bundle = url::download(&args.source, args.sha256, patience, &work, &console)?;
            let outcome = from_file(workspace, &bundle, None, &work, &console);
            // Published, or worth nothing; after Ctrl-C or on a full disk it need not be fetched again.
            if outcome.as_ref().map_or_else(|failure| failure.code == Exit::Refused, |()| true) {
                remove(&work.folder.join("download"))?;
            }
            outcome
        }
        Source::File => {
            supervise::watch_interrupts()?;
            let work = Work::open(workspace)?;
            from_file(workspace, Utf8Path::new(&args.source), args.sha256, &work, &console)
        }
    }
}

fn from_file(
    workspace: &Workspace,
    path: &Utf8Path,
    sha256: Option<Digest>,
    work: &Work,
    console: &Console,
) -> Outcome {
    let published = unpack::publish(workspace, path, sha256, work, console);
    console.clear();
    let manifest = published.map_err(|failure| with_hint(failure, path))?;
    console.published(&manifest);
    Ok(())
}

/// Adds the exit code and the command that helps.
fn with_hint(failure: Failure, path: &Utf8Path) -> Failure {
    if supervise::interrupted() {
        let hint = "nothing was published; run the same command again";
        return Failure::new(Exit::Interrupted, failure.into_error(), hint);
    }
    if failure.hint.is_some() {
        return failure;
    }
    let error = failure.into_error();
    if predict::is_disk_full(&error) {
        let hint = "nothing was published; free space on this disk (what can go: cargo xtask clean --dry-run), then run the \
                    same command again";
        return Failure::new(Exit::Failure, error, hint);
    }
    let hint = format!("get the bundle again, or make it again: cargo xtask pack; it is {path}");
    Failure::new(Exit::Refused, error, hint)
}

/// The folder of a fetch, on the file system of the models, so that a publish only renames.
struct Work {
    folder: Utf8PathBuf,
    _lock: fs::File,
}

impl Work {
    /// Takes the folder and removes what a killed fetch left in it.
    fn open(workspace: &Workspace) -> Result<Self, Failure> {
        let (folder, locks) = (workspace.state().join("fetch"), workspace.locks());
        for path in [&folder, &locks] {
            fs::create_dir_all(path).with_context(|| format!("{path}: cannot be made"))?;
        }
        // No model's name begins with a dot.
        let path = locks.join(".fetch");
        let lock = lock::try_file(&path)?.ok_or_else(|| {
            Failure::new(Exit::Failure, anyhow!("{path}: another fetch is running"), "wait for it")
        })?;
        let work = Self { folder, _lock: lock };
        work.clean()?;
        Ok(work)
    }

    /// Where a bundle is unpacked.
    fn artifact(&self) -> Utf8PathBuf {
        self.folder.join("artifact")
    }

    /// Where a publish takes its files from.
    fn staged(&self) -> Utf8PathBuf {
        self.folder.join("staged")
    }

    /// Where the bundle of an address is; only its own partial file is kept.
    fn download(&self, url: &str) -> anyhow::Result<Utf8PathBuf> {
        let all = self.folder.join("download");
        let own = all.join(Digest::of(url.as_bytes()).to_string());
        fs::create_dir_all(&own).with_context(|| format!("{own}: cannot be made"))?;
        for entry in all.read_dir_utf8()? {
            let path = entry?.into_path();
            if path != own {
                remove(&path)?;
            }
        }
        Ok(own)
    }

    fn clean(&self) -> anyhow::Result<()> {
        [self.artifact(), self.staged()].iter().try_for_each(|path| remove(path))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // Best effort: the next fetch does it otherwise.
        let _ = self.clean();
        let _ = fs::remove_dir(self.folder.join("download"));
    }
}
