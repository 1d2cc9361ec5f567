//! `cargo xtask new`: the folder of a model that has no recipe yet, from its checkpoint.
//!
//! **Invariant:** nothing that exists is changed. The folder is written beside its place, proved to be a recipe that the policy
//! allows and a template that the app can render, and then renamed.
//!
//! **Invariant:** nothing is asked and nothing is guessed: what the checkpoint does not say, and an export needs, is refused by
//! name; what a release needs besides is a comment in the recipe.

mod facts;
mod recipe;
mod source;

use std::fs;

use anyhow::{Context as _, anyhow, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{dir::ModelDir, limits::NAME_BYTES_MAX, name::is_plain, recipe::Quantization};

use crate::{
    exit::{Exit, Failure, Outcome},
    workspace::Workspace,
};

use self::{facts::Facts, source::Checkpoint};

/// Where a recipe looks for a checkpoint that lies on this machine: a link beside it.
const LINK: &str = "checkpoint";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// `owner/name` or `owner/name@revision` of the Hugging Face hub, a checkpoint's folder, or a GGUF
    #[arg(value_name = "REPO|FOLDER|FILE.gguf")]
    source: String,
    /// Name of the model [default: the source's, in lower case]
    #[arg(long)]
    name: Option<String>,
    /// Weights of the linears
    #[arg(long, value_enum, default_value_t = Weights::Int8)]
    quantization: Weights,
    /// Window of the app, tokens
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    seq_len: u32,
    /// Print the recipe and write nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Weights {
    Int8,
    Int4,
    Fp32,
}

impl From<Weights> for Quantization {
    fn from(weights: Weights) -> Self {
        match weights {
            Weights::Int8 => Self::Int8,
            Weights::Int4 => Self::Int4,
            Weights::Fp32 => Self::Fp32,
        }
    }
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Outcome {
    let again = format!("run: cargo xtask new {}", args.source);
    let refused = |error: anyhow::Error| {
        Failure::new(Exit::Export, error, format!("nothing was written; mend that and {again}"))
    };
    let name = match &args.name {
        Some(name) => name.clone(),
        None => source::name(&args.source),
    };
    let dir = ModelDir::new(workspace.models(), name.as_str());
    free(&dir).map_err(refused)?;
    let policy = dir.policy().map_err(crate::verify::refused)?;
    let found = Checkpoint::find(workspace, &args.source, &name)?;
    let facts = Facts::read(&found, args.seq_len).map_err(refused)?;
    let text = recipe::text(&name, &found, &facts, args, &policy).map_err(refused)?;
    if args.dry_run {
        print!("{text}");
        return Ok(());
    }
    write(&dir, &text, &facts, found.link.as_deref()).map_err(refused)?;
    println!("{}: a recipe of {} parameters", dir.path(), facts.architecture.parameters());
    println!("run: cargo xtask export {name}");
    Ok(())
}

/// Whether the name can be a model's and is nobody's.
fn free(dir: &ModelDir) -> anyhow::Result<()> {
    let name = dir.name();
    ensure!(
        is_plain(name),
        "`{name}`: expected at most {NAME_BYTES_MAX} letters, digits, `.`, `-`, `_` as the name of a model"
    );
    let place = dir.path();
    ensure!(
        place.symlink_metadata().is_err(),
        "{place}: there is such a model; expected another --name, or remove it first"
    );
    Ok(())
}

fn write(dir: &ModelDir, recipe: &str, facts: &Facts, link: Option<&Utf8Path>) -> anyhow::Result<()> {
    let place = dir.path();
    let models = place.parent().ok_or_else(|| anyhow!("{place}: has no folder above"))?;
    let sibling = models.join(format!(".new-{}", dir.name()));
    crate::fetch::remove(&sibling)?;
    let outcome = fill(&sibling, recipe, facts, link).and_then(|()| {
        // Fails where somebody made the folder in the meantime: a rename replaces an empty one only.
        fs::rename(&sibling, &place).with_context(|| format!("{place}: cannot be put in place"))?;
        fs::File::open(models)?.sync_all().with_context(|| format!("{models}: cannot be synced"))
    });
    if outcome.is_err() {
        crate::fetch::remove(&sibling)?;
    }
    outcome
}

fn fill(folder: &Utf8Path, recipe: &str, facts: &Facts, link: Option<&Utf8Path>) -> anyhow::Result<()> {
    fs::create_dir(folder).with_context(|| format!("{folder}: cannot be made"))?;
    let mut files = vec![("recipe.toml", recipe), ("chat_template.jinja", facts.chat_template.as_str())];
    if let Some(agreement) = &facts.agreement {
        files.push((recipe::AGREEMENT, agreement));
    }
    for (name, text) in files {
        let path: Utf8PathBuf = folder.join(name);
        let written = fs::write(&path, text).and_then(|()| fs::File::open(&path)?.sync_all());
        written.with_context(|| format!("{path}: cannot be written"))?;
    }
    if let Some(link) = link {
        let path = folder.join(LINK);
        std::os::unix::fs::symlink(link, &path).with_context(|| format!("{path}: cannot be made"))?;
    }
    fs::File::open(folder)?.sync_all().with_context(|| format!("{folder}: cannot be synced"))
}
