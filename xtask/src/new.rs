//! `cargo xtask new`: the folder of a model that has no recipe yet, from its checkpoint.
//!
//! **Invariant:** nothing that exists is changed. The folder is written beside its place, from a recipe that was read back, that
//! the policy allows and that an export of the same checkpoint would take; then it is renamed.
//!
//! **Invariant:** nothing is asked and nothing is guessed: what an export needs and the checkpoint does not say is refused by
//! name; what a release needs besides is a comment in the recipe.

mod end;
mod facts;
mod folder;
mod gguf;
mod names;
mod recipe;
mod source;

use anyhow::{anyhow, ensure};
use camino::Utf8Path;
use model_assets::{
    dir::ModelDir,
    limits::NAME_BYTES_MAX,
    name::is_plain,
    recipe::{Quantization, Recipe},
};

use crate::{
    atomic_file,
    console::Console,
    exit::{Exit, Failure, Outcome, refused},
    lock, weights,
    workspace::Workspace,
};

use self::{facts::Facts, folder::Folder, source::Checkpoint};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// `owner/name` or `owner/name@revision` of the hub, a checkpoint's folder, or a GGUF
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
    /// Print the files and write nothing
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
    let again = format!("cargo xtask new {}", args.source);
    let judged = |error: anyhow::Error| {
        Failure::new(Exit::Refused, error, format!("nothing was written; mend that and run: {again}"))
    };
    let name = args.name.clone().unwrap_or_else(|| source::name(&args.source));
    let dir = ModelDir::new(workspace.models(), name.as_str());
    free(&dir).map_err(|error| Failure::new(Exit::Failure, error, format!("run: {again} --name NAME")))?;
    let policy = dir.policy().map_err(refused)?;
    let found = Checkpoint::find(&args.source, &again)?;
    // A folder of a moment says nothing to anybody.
    let judged = |error: anyhow::Error| {
        judged(match found.link {
            Some(_) => error,
            None => anyhow!("{}", format!("{error:#}").replace(found.folder.as_str(), &args.source)),
        })
    };
    let facts = Facts::read(&found, args.seq_len).map_err(judged)?;
    let recipe = recipe::of(&name, &found, &facts, args, &policy);
    let text = recipe::text(&recipe, &facts).map_err(judged)?;
    policy.admits(&recipe).map_err(|error| {
        let hint = "nothing was written; try --quantization int4 or a smaller --seq-len, or raise the limit in policy.toml";
        Failure::new(Exit::Refused, error, hint)
    })?;
    facts.fits(&recipe, &found.folder, &facts.vocabulary).map_err(judged)?;
    let mut new = Folder::new(&text, &facts, found.link.as_deref());
    if args.dry_run {
        new.tokenizer = facts.tokenizer;
        new.print(&dir.path());
        return Ok(());
    }
    let made = found.gguf.as_deref().map(|file| converted(workspace, &recipe, &facts, file, &again));
    new.tokenizer = match made.transpose()? {
        Some(tokenizer) => Some(tokenizer),
        None => facts.tokenizer,
    };
    let _lock = lock::model(workspace, &name)?;
    new.write(&dir.path())
        .map_err(|error| Failure::new(Exit::Failure, error, format!("nothing was written; run: {again}")))?;
    let millions = recipe.architecture.parameters().div_ceil(1_000_000);
    println!("{}: {} of {millions} million parameters", dir.path(), recipe.architecture.family.as_str());
    println!("run: cargo xtask export {name}");
    Ok(())
}

/// Whether the name can be a model's and is nobody's.
fn free(dir: &ModelDir) -> anyhow::Result<()> {
    let (name, place) = (dir.name(), dir.path());
    ensure!(
        is_plain(name),
        "`{name}`: expected at most {NAME_BYTES_MAX} letters, digits, `.`, `-`, `_` as the name of a model"
    );
    ensure!(place.symlink_metadata().is_err(), "{place}: got a model of this name, expected none");
    Ok(())
}

/// Makes the checkpoint, holds it against the recipe as an export does, and answers with its tokenizer.
fn converted(
    workspace: &Workspace,
    recipe: &Recipe,
    facts: &Facts,
    file: &Utf8Path,
    again: &str,
) -> Result<Vec<u8>, Failure> {
    let (place, _) = weights::make_from_gguf(workspace, recipe, file, &Console::new(false), again)?;
    let fits = || {
        let tokenizer = facts::tokenizer(&place)?;
        facts.fits(recipe, &place, &facts::vocabulary(&place, &tokenizer)?)?;
        Ok(tokenizer)
    };
    fits().map_err(|error| {
        // No recipe will want it.
        let error = atomic_file::remove(&place).err().unwrap_or(error);
        Failure::new(Exit::Refused, error, format!("nothing was written; mend that and run: {again}"))
    })
}

#[cfg(test)]
mod tests;
