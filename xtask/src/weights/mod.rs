//! `cargo xtask weights`: the checkpoint of a recipe, from the Hugging Face hub.
//!
//! **Invariant:** a checkpoint is named by repository and commit, each file by the digest that the hub's list gives (and
//! the recipe's, once it has one). So what is there already is proved without the network, and `--offline` is the same
//! code without the last resort.

mod cache;
mod from_gguf;
mod hub;
mod listing;
mod tree;

use std::{fs, time::Duration};

use anyhow::{Context as _, anyhow};
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{
    dir::ModelDir,
    manifest::FileRecord,
    recipe::{Recipe, Source},
};
use serde_json::json;

use crate::{
    checkpoint,
    console::Console,
    exit::{Exit, Failure, Outcome, refused},
    http::{
        client::Client,
        download::{self, DISK_SPARE_BYTES},
        endpoint::Endpoint,
        fault::{DISK_HINT, Fault, Patience},
        progress::Progress,
        wanted::Wanted,
    },
    predict, supervise,
    token::{Token, environment},
    workspace::Workspace,
};

use self::{
    cache::Receipt,
    hub::Hub,
    tree::{INDEX, Tree},
};

pub(crate) use self::{
    from_gguf::{Origin, found as made_from_gguf, made as make_from_gguf, of_gguf},
    listing::{Listing, listing},
};

/// How patient a fetch is that nobody told otherwise.
const STALL: Duration = Duration::from_secs(30);
const TRIES: u32 = 6;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model: a directory of `model-assets/models` whose recipe has a hub source
    #[arg(default_value = "llama3.2-1b")]
    model: String,
    /// Make the checkpoint from this GGUF instead of fetching it
    ///
    /// Its weights are quantized already, so they differ a little from the published ones. The manifest names the file.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["offline", "cache", "stall_timeout", "attempts"])]
    from_gguf: Option<Utf8PathBuf>,
    /// Fetch nothing; use what is there (also `HF_HUB_OFFLINE=1`)
    #[arg(long)]
    offline: bool,
    /// Print the plan and do nothing; does not ask the hub
    #[arg(long)]
    dry_run: bool,
    /// Print events as JSON lines on standard output
    #[arg(long)]
    json: bool,
    /// Give up a connection after this time without a byte, or below 1 KiB/s
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    stall_timeout: u64,
    /// Failed attempts in a row at one file before giving up
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=100))]
    attempts: u32,
    /// Look for the model in this directory
    #[arg(long, value_name = "DIR")]
    models: Option<Utf8PathBuf>,
    /// Keep checkpoints in this directory
    #[arg(long, value_name = "DIR")]
    cache: Option<Utf8PathBuf>,
}

/// What decides a fetch: pure data, printed by `--dry-run`.
pub(crate) struct FetchPlan {
    recipe: Recipe,
    hub: Hub,
    folder: Utf8PathBuf,
    offline: bool,
    patience: Patience,
    again: String,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Outcome {
    let models = args.models.clone().unwrap_or_else(|| workspace.models());
    let recipe = ModelDir::new(models, &args.model).recipe().map_err(refused)?;
    let has_none = || match &recipe.source {
        Source::Gguf { file, .. } => {
            let error = anyhow!("`{}`: its recipe names a GGUF, {file}, expected --from-gguf", args.model);
            Failure::new(
                Exit::Fetch,
                error,
                format!("run: cargo xtask weights {} --from-gguf FILE", args.model),
            )
        }
        _ => {
            let error = anyhow!("`{}`: its recipe has no hub source, no checkpoint is wanted", args.model);
            Failure::new(Exit::Fetch, error, format!("run: cargo xtask export {}", args.model))
        }
    };
    if let Some(file) = &args.from_gguf {
        // An export looks for it in the place of one from the hub.
        let wanted = matches!(recipe.source, Source::Hub { .. } | Source::Gguf { .. });
        wanted.then_some(()).ok_or_else(has_none)?;
        return from_gguf::run(workspace, &recipe, file, args);
    }
    let cache = args.cache.clone().unwrap_or_else(|| workspace.weights());
    let again = format!("cargo xtask weights {}", args.model);
    let mut plan = FetchPlan::new(&recipe, &cache, args.offline, again).ok_or_else(has_none)?;
    plan.patience = Patience::new(Duration::from_secs(args.stall_timeout), args.attempts);
    if args.dry_run {
        println!("{}", serde_json::to_string_pretty(&plan.describe()?)?);
        return Ok(());
    }
    let receipt = plan.fetch(&Console::new(args.json))?;
    if !args.json {
        println!("{}: {} files, every digest right", plan.folder, receipt.files.len());
        if recipe.source.pins().is_none() {
            println!("to pin these very bytes, put this below `revision` in {}/recipe.toml:\n", args.model);
            print!("{}", receipt.pins());
        }
    }
    Ok(())
}

impl FetchPlan {
    /// The plan of an export; `None` for a recipe without a hub source.
    pub(crate) fn new(recipe: &Recipe, weights: &Utf8Path, offline: bool, again: String) -> Option<Self> {
        let Source::Hub { repo, revision, .. } = &recipe.source else { return None };
        Some(Self {
            recipe: recipe.clone(),
            hub: Hub { repo: repo.clone(), revision: revision.clone() },
            folder: cache::folder(weights, repo, revision),
            offline: offline || is_offline(),
            patience: Patience::new(STALL, TRIES),
            again,
        })
    }

    /// The plan as data: what would be asked of whom, and put where. The token is named by its origin only.
    pub(crate) fn describe(&self) -> anyhow::Result<serde_json::Value> {
        let endpoint = Endpoint::find(environment)?;
        let token = Token::find(environment)?;
        let Self { hub, folder, .. } = self;
        let Hub { repo, revision } = hub;
        Ok(json!({
            "fetch": format!("{repo}@{revision}"), "into": folder, "offline": self.offline,
            "have": Receipt::proved(folder, &self.recipe).is_ok_and(|receipt| receipt.is_some()),
            "list": hub.tree_url(&endpoint)?.to_string(),
            "files": hub.file_url(&endpoint, "")?.to_string(),
            "wanted": [tree::CONFIG, self.recipe.tokens.tokenizer, format!("{} or {INDEX} and its shards", tree::SINGLE)],
            "weights_bytes_max": tree::weights_bytes_max(&self.recipe),
            "pinned": self.recipe.source.pins().is_some(),
            "token": token.as_ref().map_or("none", Token::origin),
        }))
    }

    /// Makes the folder whole and proves it.
    fn fetch(&self, console: &Console) -> Result<Receipt, Failure> {
        self.fetch_or_fault(console).map_err(|fault| fault.into_failure(&self.again))
    }

    fn fetch_or_fault(&self, console: &Console) -> Result<Receipt, Fault> {
        supervise::watch_interrupts()?;
        let found = Receipt::proved(&self.folder, &self.recipe);
        if let Ok(Some(receipt)) = found {
            return Ok(receipt);
        }
        if self.offline {
            let why = found.err().unwrap_or_else(|| anyhow!("{}: nothing whole is there", self.folder));
            let hint = format!("without --offline and HF_HUB_OFFLINE, run: {}", self.again);
            return Err(Fault::Fatal { error: why.context("offline"), hint: Some(hint) });
        }
        fs::create_dir_all(&self.folder).with_context(|| format!("{}: cannot be made", self.folder))?;
        let _lock = self.lock()?;
        let (endpoint, token) = (Endpoint::find(environment)?, Token::find(environment)?);
        let client = Client::new(endpoint, token, self.patience, self.hub.clone())?;
        let tree = Tree::fetch(&client, &self.hub)?;
        let mut progress = Progress::new(console);
        let wanted = tree.needed(&self.recipe)?;
        self.room(&wanted)?;
        // Gigabytes are not fetched for a checkpoint that no export would take.
        let heavy = |wanted: &&Wanted| wanted.name.ends_with(".safetensors");
        let (large, small): (Vec<_>, Vec<_>) = wanted.iter().partition(heavy);
        let mut records = self.files(&client, &small, &mut progress)?;
        checkpoint::configured(&self.folder, &self.recipe)?;
        records.extend(self.files(&client, &large, &mut progress)?);
        if wanted.iter().any(|wanted| wanted.name == INDEX) {
            let index = fs::read(self.folder.join(INDEX))?;
            let shards = tree.shards(&index, &self.recipe)?;
            self.room(&shards)?;
            records.extend(self.files(&client, &shards.iter().collect::<Vec<_>>(), &mut progress)?);
        }
        progress.finish();
        cache::no_strangers(&self.folder, &records)?;
        self.all_pinned(&records)?;
        let receipt = Receipt::new(&self.hub.repo, &self.hub.revision, records);
        receipt.write(&self.folder)?;
        Ok(receipt)
    }

    fn files(
        &self,
        client: &Client,
        wanted: &[&Wanted],
        progress: &mut Progress<'_>,
    ) -> Result<Vec<FileRecord>, Fault> {
        let one = |wanted: &&Wanted| {
            let url = self.hub.file_url(&client.endpoint, &wanted.name)?;
            download::file(client, &url, &self.folder, wanted, &mut |bytes, total, failed| {
                progress.seen(&wanted.name, bytes, total, failed);
            })
        };
        wanted.iter().map(one).collect()
    }

    /// Refuses what cannot fit: the shapes bound the sum of the weights, and the disk bounds what is still to come.
    fn room(&self, wanted: &[Wanted]) -> Result<(), Fault> {
        let (total, most) = (sum(wanted.iter().map(|w| w.size.max())), tree::weights_bytes_max(&self.recipe));
        // Configuration and tokenizer have bounds of their own.
        let most = most.saturating_add(128 << 20);
        if total > most {
            return Err(anyhow!(
                "the hub declares {total} bytes, expected at most {most} for the recipe's shapes"
            )
            .into());
        }
        let missing = sum(wanted.iter().map(|wanted| download::missing_bytes(&self.folder, wanted)));
        match predict::free_disk_bytes(&self.folder) {
            Some(free) if free < missing.saturating_add(DISK_SPARE_BYTES) => {
                let needed = missing.saturating_add(DISK_SPARE_BYTES);
                let error =
                    anyhow!("{}: got {free} bytes of free disk, expected at least {needed}", self.folder);
                Err(Fault::Fatal { error, hint: Some(DISK_HINT.to_owned()) })
            }
            _ => Ok(()),
        }
    }

    /// A recipe that pins files pins exactly what was fetched.
    fn all_pinned(&self, records: &[FileRecord]) -> Result<(), Fault> {
        let Some(pins) = self.recipe.source.pins() else { return Ok(()) };
        match pins.keys().find(|name| !records.iter().any(|record| record.name == **name)) {
            None => Ok(()),
            Some(name) => Err(anyhow!("{name}: pinned by the recipe, but not part of the checkpoint").into()),
        }
    }

    /// One fetch of a checkpoint at a time; the second waits.
    fn lock(&self) -> Result<fs::File, Fault> {
        let path = self.folder.join(".lock");
        let file = fs::File::create(&path).with_context(|| format!("{path}: cannot be made"))?;
        let mut announced = false;
        while file.try_lock().is_err() {
            if supervise::interrupted() {
                return Err(Fault::Interrupted);
            }
            if !announced {
                eprintln!("waiting for another fetch of {} to finish", self.hub.repo);
                announced = true;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(file)
    }
}

/// The checkpoint that an export reads: the hub's, or the one made from a GGUF while the hub's is not here; fetched if there is
/// neither. `None` for a recipe without a hub source.
pub(crate) fn checkpoint(
    workspace: &Workspace,
    recipe: &Recipe,
    offline: bool,
    console: &Console,
) -> Result<Option<Utf8PathBuf>, Failure> {
    let again = format!("cargo xtask export {}", recipe.name);
    let Some(plan) = FetchPlan::new(recipe, &workspace.weights(), offline, again) else { return Ok(None) };
    if let Some((folder, origin)) = made_from_gguf(workspace, &recipe.name)?
        && !matches!(Receipt::proved(&plan.folder, recipe), Ok(Some(_)))
    {
        console.warning(&format!(
            "{folder}: this checkpoint was made from {}; the hub's own comes first once it is fetched: cargo xtask weights {}",
            origin.gguf.name, recipe.name
        ));
        return Ok(Some(folder));
    }
    plan.fetch(console)?;
    Ok(Some(plan.folder))
}

/// Whether the environment forbids to ask the hub.
fn is_offline() -> bool {
    let said = environment("HF_HUB_OFFLINE").unwrap_or_default().to_ascii_lowercase();
    ["1", "true", "yes", "on"].contains(&said.as_str())
}

fn sum(parts: impl Iterator<Item = u64>) -> u64 {
    parts.fold(0, u64::saturating_add)
}
