//! The chat app: a command line over the chat core.

use std::process::ExitCode;

use anyhow::Context as _;
use app::{Asset, Config, Overrides, dirs, terminal};
use camino::Utf8PathBuf;
use clap::Parser;

/// Chat with the model that this build proved.
#[derive(Parser)]
#[command(name = "app", version, about)]
struct Cli {
    /// Print what model is inside and what proved it, then leave
    #[arg(long)]
    provenance: bool,
    /// Say this, print the reply, then leave; nothing is kept
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Print JSON events, one a line
    #[arg(long)]
    json: bool,
    /// System message
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// 0 is greedy
    #[arg(long)]
    temperature: Option<f32>,
    /// Keep the fewest tokens whose probabilities reach this sum
    #[arg(long)]
    top_p: Option<f32>,
    /// Start of the random sequence; another one for each reply unless given
    #[arg(long)]
    seed: Option<u64>,
    /// Most tokens of a reply
    #[arg(long)]
    max_tokens: Option<u32>,
    /// Threads; by default one for a small model, else one for each performance core
    #[arg(long)]
    threads: Option<u32>,
    /// File of the model, proved before it is used; by default the model inside, or the file beside the binary
    #[arg(long, value_name = "FILE")]
    model: Option<Utf8PathBuf>,
    /// Folder of the conversations; by default the system's for data
    #[arg(long, value_name = "DIR")]
    data: Option<Utf8PathBuf>,
    /// Show a window
    #[cfg(feature = "gui")]
    #[arg(long, conflicts_with_all = ["prompt", "json"])]
    gui: bool,
    /// Draw every screen, write the pictures into this folder, then leave
    #[cfg(feature = "gui")]
    #[arg(long, value_name = "DIR")]
    screenshots: Option<Utf8PathBuf>,
    /// Print as JSON how long the first frame and the model took, then leave
    #[cfg(feature = "gui")]
    #[arg(long)]
    start_up: bool,
}

fn main() -> ExitCode {
    #[cfg(feature = "gui")]
    let since = std::time::Instant::now();
    let whole = || {
        let outcome = run(
            Cli::parse(),
            #[cfg(feature = "gui")]
            since,
        );
        outcome.unwrap_or_else(|error| {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        })
    };
    // The reader of the output closed it.
    model_assets::closed_pipe::quietly(whole).unwrap_or(ExitCode::SUCCESS)
}

fn run(cli: Cli, #[cfg(feature = "gui")] since: std::time::Instant) -> anyhow::Result<ExitCode> {
    if cli.provenance {
        let provenance = app::provenance()?;
        let text = serde_json::to_string_pretty(&provenance)?;
        std::io::Write::write_all(&mut std::io::stdout(), format!("{text}\n").as_bytes())?;
        if let Some(altered) = provenance["altered"].as_str() {
            anyhow::bail!("the app itself was altered: {altered}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    #[cfg(feature = "gui")]
    if let Some(folder) = &cli.screenshots {
        app::gui::write_screenshots(folder)?;
        return Ok(ExitCode::SUCCESS);
    }
    let home = || "no folder of this person is known, expected HOME or --data";
    let config = Config {
        // One question and its answer are not worth keeping.
        data: match (&cli.prompt, cli.data) {
            (Some(_), _) => None,
            (None, Some(data)) => Some(data),
            (None, None) => Some(dirs::data().with_context(home)?),
        },
        cache: dirs::cache().with_context(home)?,
        asset: cli.model.map_or(Asset::Default, Asset::File),
        threads: cli.threads,
        overrides: Overrides {
            system: cli.system,
            temperature: cli.temperature,
            top_p: cli.top_p,
            seed: cli.seed,
            tokens_max: cli.max_tokens,
        },
    };
    #[cfg(feature = "gui")]
    if cli.start_up {
        println!("{}", serde_json::to_string(&app::gui::start_up(config, since)?)?);
        return Ok(ExitCode::SUCCESS);
    } else if cli.gui {
        // Where a person looks; without such a folder, beside the conversations.
        let beside = || config.data.as_ref().map(|data| data.join("exported"));
        let documents = dirs::documents().or_else(beside).unwrap_or_default();
        app::gui::run(config, documents)?;
        return Ok(ExitCode::SUCCESS);
    }
    terminal::run(config, cli.prompt, cli.json)
}
