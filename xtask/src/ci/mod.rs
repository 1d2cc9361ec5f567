//! `cargo xtask ci`: exports on GitHub Actions, from the laptop and back.
//!
//! **Invariant:** what is about to be done is a plan first (`--dry-run` prints it and stops); what is there already is
//! left alone, so every command can be run again.

mod gh;
mod plan;
mod watch;

use std::{
    fs,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, anyhow};
use camino::Utf8PathBuf;
use model_assets::{dir::ModelDir, recipe::Source};

use crate::{
    child::{self, network_cmd},
    console::Console,
    exit::{Exit, Failure, Outcome, refused},
    import::import,
    lock, predict, supervise,
    token::{Token, environment},
    workspace::Workspace,
};

use self::{
    gh::{Gh, VERSION_ATTESTATION},
    plan::{SECRET, Seen, Step, WORKFLOW},
};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
    /// Repository on GitHub [default: GH_REPO, or the remote `origin`]
    #[arg(long, value_name = "OWNER/NAME", global = true)]
    repo: Option<String>,
    /// Print the plan and do nothing
    #[arg(long, global = true)]
    dry_run: bool,
    /// Print events as JSON lines on standard output
    #[arg(long, global = true)]
    json: bool,
    /// Time between two looks at a run
    #[arg(long, value_name = "SECONDS", default_value_t = 10, global = true)]
    interval: u64,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Make what is missing: repository, remote, secret, workflow
    Setup,
    /// Start an export on a runner, and bring the model home
    ///
    /// Watches the run until it ends, then proves the model and publishes it.
    Run {
        /// The model
        #[arg(default_value = "llama3.2-1b")]
        model: String,
        /// Start it and do not wait
        #[arg(long)]
        no_watch: bool,
    },
    /// Watch a run until it ends
    Watch {
        /// The run's number
        id: u64,
    },
    /// Bring a finished run's model home, prove it and publish it
    Fetch {
        /// The run's number
        id: u64,
        /// The model
        #[arg(default_value = "llama3.2-1b")]
        model: String,
        /// Demand the attestation of the workflow (needs gh 2.49 or newer)
        #[arg(long)]
        attested: bool,
    },
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Outcome {
    let ci = Ci::open(workspace, args.repo.clone(), Duration::from_secs(args.interval), args.json)?;
    match &args.action {
        Action::Setup => ci.setup(args),
        Action::Run { model, no_watch } => ci.start(args, model, *no_watch),
        Action::Watch { id } => watch::watch(&ci.gh, &ci.repo, *id, ci.interval, &ci.console),
        Action::Fetch { id, model, attested } => ci.fetch(args.dry_run, *id, model, *attested),
    }
}

/// Brings a finished run's model home, proves it and publishes it.
pub(crate) fn fetch(workspace: &Workspace, id: u64, model: &str, json: bool) -> Outcome {
    Ci::open(workspace, None, Duration::ZERO, json)?.fetch(false, id, model, false)
}

/// The repository that `origin` names.
fn origin(shell: &xshell::Shell) -> Result<String, Failure> {
    let hint = "name it: --repo OWNER/NAME";
    let url = git(shell, &["remote", "get-url", "origin"])
        .ok_or_else(|| Failure::new(Exit::Gh, anyhow!("this work tree has no remote `origin`"), hint))?;
    gh::repository(&url).map_err(|error| Failure::new(Exit::Gh, error, hint))
}

/// What `git` says, if it succeeds.
fn git(shell: &xshell::Shell, arguments: &[&str]) -> Option<String> {
    network_cmd!(shell, "git {arguments...}").quiet().ignore_stderr().read().ok()
}

struct Ci {
    shell: xshell::Shell,
    gh: Gh,
    token: Option<Token>,
    repo: String,
    workspace: Workspace,
    interval: Duration,
    console: Console,
}

impl Ci {
    fn open(
        workspace: &Workspace,
        repo: Option<String>,
        interval: Duration,
        json: bool,
    ) -> Result<Self, Failure> {
        let shell = child::shell(workspace.root())?;
        let token = Token::find(environment)?;
        let gh = Gh::find(&shell, token.clone())?;
        supervise::watch_interrupts()?;
        let repo = match repo.or_else(|| environment("GH_REPO")) {
            Some(name) => gh::check_repository(&name)?,
            None => origin(&shell)?,
        };
        let (workspace, console) = (workspace.clone(), Console::new(json));
        Ok(Self { shell, gh, token, repo, workspace, interval, console })
    }

    /// Looks at everything that `setup` may change; changes nothing.
    fn seen(&self) -> Result<Seen, Failure> {
        // A folder inside another repository is not one itself.
        let git_here = self.workspace.root().join(".git").exists();
        let head = git_here.then(|| git(&self.shell, &["rev-parse", "--verify", "HEAD"])).flatten();
        let branch = git_here.then(|| git(&self.shell, &["symbolic-ref", "--short", "HEAD"])).flatten();
        let branch = branch.unwrap_or_else(|| "main".to_owned());
        let hosted = match self.gh.read(&["api", &format!("repos/{}", self.repo)]) {
            Ok(_) => true,
            Err(failure) if failure.error.to_string().contains("HTTP 404") => false,
            Err(failure) => return Err(failure),
        };
        let behind = hosted && {
            let path = format!("repos/{}/commits/{branch}", self.repo);
            let there = self.gh.read(&["api", &path, "--jq", ".sha"]).ok();
            there.map(|sha| sha.trim().to_owned()) != head
        };
        Ok(Seen {
            committed: head.is_some(),
            git: git_here,
            remote: git_here && git(&self.shell, &["remote", "get-url", "origin"]).is_some(),
            hosted,
            behind,
            branch,
            token: self.token.is_some(),
        })
    }

    fn setup(&self, args: &Args) -> Outcome {
        let steps = plan::setup(&self.seen()?, &self.repo);
        if self.token.is_none() {
            eprintln!(
                "no hub token here: the secret {SECRET} is left as it is (export HF_TOKEN=... to set it)"
            );
        }
        if args.dry_run {
            return print(&steps);
        }
        for step in &steps {
            self.act(step)?;
        }
        println!("{}: set up; run: cargo xtask ci run", self.repo);
        Ok(())
    }

    /// Takes a step of a plan.
    fn act(&self, step: &Step) -> Outcome {
        self.console.step(&format!("{} ({})", step.argv.join(" "), step.why));
        let Some((program, arguments)) = step.argv.split_first() else { return Ok(()) };
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        if program == "gh" {
            let secret = self.token.as_ref().filter(|_| step.secret_on_stdin).map(Token::expose);
            return self.gh.call(&arguments, secret).map(drop);
        }
        let shell = &self.shell;
        let command = network_cmd!(shell, "{program} {arguments...}").quiet().ignore_status();
        let command = command.env("GIT_TERMINAL_PROMPT", "0");
        let output = command.output().with_context(|| format!("{program}: cannot be started"))?;
        if output.status.success() {
            return Ok(());
        }
        let said = Token::redact(self.token.as_ref(), &String::from_utf8_lossy(&output.stderr));
        let error = anyhow!("{}: {}", step.argv.join(" "), said.trim());
        let hint = "fix what git says (for its login run: gh auth setup-git), then run: cargo xtask ci setup";
        Err(Failure::new(
            if step.argv.iter().any(|word| word == "push") { Exit::GhAccess } else { Exit::Failure },
            error,
            hint,
        ))
    }

    fn start(&self, args: &Args, model: &str, no_watch: bool) -> Outcome {
        let dir = self.models().dir(model);
        let recipe = dir.recipe().map_err(refused)?;
        let local = match &recipe.source {
            Source::Gguf { .. } => true,
            Source::Path { .. } => recipe.source.pins().is_some(),
            Source::Hub { .. } | Source::Random { .. } => false,
        };
        if local {
            let error = anyhow!("`{model}`: its checkpoint lies on this machine, expected one of the hub");
            return Err(Failure::new(Exit::Failure, error, format!("run: cargo xtask export {model}")));
        }
        if matches!(recipe.source, Source::Hub { .. }) {
            let path = format!("repos/{}/actions/secrets/{SECRET}", self.repo);
            self.gh.read(&["api", &path]).map_err(|failure| Failure {
                hint: Some(format!("the runner needs {SECRET}: run: cargo xtask ci setup")),
                ..failure
            })?;
        }
        let branch =
            git(&self.shell, &["symbolic-ref", "--short", "HEAD"]).unwrap_or_else(|| "main".to_owned());
        let request = request();
        let step = plan::run(&self.repo, &branch, model, &request);
        if args.dry_run {
            return print(&[step]);
        }
        self.act(&step)?;
        let run = watch::find(&self.gh, &self.repo, &request, self.interval)?;
        println!("run {}", run.id);
        if no_watch {
            return Ok(());
        }
        watch::watch(&self.gh, &self.repo, run.id, self.interval, &self.console)?;
        self.fetch(args.dry_run, run.id, model, false)
    }

    fn fetch(&self, dry_run: bool, id: u64, model: &str, attested: bool) -> Outcome {
        let dir = self.models().dir(model);
        let recipe = dir.recipe().map_err(refused)?;
        let state = self.workspace.state();
        let (work, name) = (state.join("work").join(format!("{model}-import")), format!("export-{model}"));
        let artifact = work.join("artifact");
        let download = [
            "run",
            "download",
            &id.to_string(),
            "--repo",
            &self.repo,
            "--name",
            &name,
            "--dir",
            artifact.as_str(),
        ];
        if dry_run {
            let argv = ["gh"].iter().chain(&download).map(|&word| word.to_owned()).collect();
            let why = "the artifact; it is proved and published afterwards".to_owned();
            return print(&[Step { why, argv, secret_on_stdin: false }]);
        }
        watch::finished(&self.gh, &self.repo, &watch::look(&self.gh, &self.repo, id)?)?;
        if attested && self.gh.version < VERSION_ATTESTATION {
            let (major, minor) = self.gh.version;
            let error =
                anyhow!("gh: got version {major}.{minor}, which cannot check attestations, expected 2.49");
            return Err(Failure::new(Exit::Gh, error, "install a newer gh, or leave out --attested"));
        }
        // Once zipped by GitHub and once unpacked.
        let needed = recipe.limits.file_bytes_max.saturating_mul(2);
        fs::create_dir_all(&state)?;
        if let Some(free) = predict::free_disk_bytes(&state).filter(|free| *free < needed) {
            return Err(anyhow!("{state}: got {free} bytes of free disk, expected at least {needed}").into());
        }
        let _lock = lock::model(&self.workspace, model)?;
        if work.exists() {
            // What a killed fetch left behind.
            fs::remove_dir_all(&work).with_context(|| format!("{work}: cannot be removed"))?;
        }
        fs::create_dir_all(&work)?;
        self.console.step("download");
        self.gh.read(&download)?;
        if attested {
            self.attestation(&artifact.join(recipe.file_name()))?;
        }
        self.console.step("prove");
        let manifest = import(&dir, &artifact, &work)?;
        fs::remove_dir_all(&work).with_context(|| format!("{work}: cannot be removed"))?;
        self.console.published(&manifest);
        Ok(())
    }

    /// Demands that this very workflow of this very repository made the file.
    fn attestation(&self, file: &camino::Utf8Path) -> Outcome {
        let workflow = format!("{}/.github/workflows/{WORKFLOW}", self.repo);
        let arguments =
            ["attestation", "verify", file.as_str(), "--repo", &self.repo, "--signer-workflow", &workflow];
        self.gh.read(&arguments).map(drop).map_err(|failure| {
            let hint = "the file is not what the workflow attested, or nothing was attested: see docs/gha-export-guide.md";
            Failure::new(Exit::Refused, failure.error, hint)
        })
    }

    fn models(&self) -> Models {
        Models(self.workspace.models())
    }
}

struct Models(Utf8PathBuf);

impl Models {
    fn dir(&self, model: &str) -> ModelDir {
        ModelDir::new(&self.0, model)
    }
}

fn print(steps: &[Step]) -> Outcome {
    println!("{}", serde_json::to_string_pretty(steps)?);
    Ok(())
}

/// A word that no other run carries in its title.
fn request() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("request-{}-{}", now.as_nanos(), std::process::id())
}
