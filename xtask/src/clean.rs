//! `cargo xtask clean`: gives disk back.
//!
//! **Invariant:** nothing goes that another command uses, and nothing that cannot be made or fetched again: no manifest, no
//! recipe, no weights of the repository.
//!
//! **Invariant:** what is removed first loses its name: killed at any instant, no half of it is taken for the whole.

use std::fs;

use anyhow::{Context as _, anyhow};
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{
    dir::{ModelDir, pending_name},
    manifest::{Manifest, WeightsKind},
    recipe::{Recipe, Source},
};

use crate::{
    atomic_file::remove,
    cache::{self, Cache, REMOVED},
    exit::{Exit, Failure, Outcome},
    lock,
    refused::REFUSED_FILE,
    workspace::Workspace,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these caches, by the names that `--dry-run` prints
    caches: Vec<String>,
    /// Also the files of published models that can be made again
    ///
    /// `.pte` and reference, never a manifest.
    #[arg(long)]
    models: bool,
    /// Print what would be removed, and how large it is
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Outcome {
    let all = cache::all(workspace)?;
    if let Some(name) = args.caches.iter().find(|name| !all.iter().any(|cache| cache.name == **name)) {
        let names: Vec<_> = all.iter().map(|cache| cache.name.as_str()).collect();
        let error = anyhow!("{name}: no such cache is here, expected one of: {}", names.join(", "));
        return Err(Failure::new(Exit::Failure, error, "run: cargo xtask clean --dry-run"));
    }
    let wanted = |cache: &Cache| args.caches.is_empty() || args.caches.contains(&cache.name);
    let mut caches: Vec<_> = all.into_iter().filter(wanted).collect();
    if args.models {
        caches.extend(models(workspace)?);
    }
    let _alone = if args.dry_run || !workspace.state().exists() { None } else { Some(alone(workspace)?) };
    let mut freed = 0_u64;
    for cache in &caches {
        let Cache { name, what, path, bytes } = cache;
        let kept = if args.dry_run { None } else { take(cache)? };
        let verdict = kept.map(|why| format!("; kept: {why}")).unwrap_or_default();
        if verdict.is_empty() {
            freed = freed.saturating_add(*bytes);
        }
        println!("{:>10} kB  {name:<12}{what}{verdict} ({path})", bytes / 1000);
    }
    println!("{:>10} kB  {}", freed / 1000, if args.dry_run { "could be freed" } else { "freed" });
    Ok(())
}

/// The only command that works here.
fn alone(workspace: &Workspace) -> Result<fs::File, Failure> {
    let path = workspace.in_use_path();
    lock::try_file(&path)?.ok_or_else(|| {
        let error = anyhow!("{path}: another `cargo xtask` is at work here, nothing was removed");
        Failure::new(Exit::Failure, error, "wait for it to end, then run the same command again")
    })
}

/// Removes it, or says why not.
fn take(cache: &Cache) -> anyhow::Result<Option<String>> {
    if cache.name == "packed" {
        return packed(&cache.path);
    }
    let name = cache.path.file_name().with_context(|| format!("{}: names nothing", cache.path))?;
    let away = match name.strip_prefix(REMOVED) {
        Some(_) => cache.path.clone(),
        None => cache.path.with_file_name(format!("{REMOVED}{name}")),
    };
    if away != cache.path {
        remove(&away)?;
        fs::rename(&cache.path, &away).with_context(|| format!("{}: cannot be moved", cache.path))?;
    }
    remove(&away)?;
    Ok(None)
}

/// Every model has a folder. The app holds a lock on the files of a model that it runs: those stay.
fn packed(folder: &Utf8Path) -> anyhow::Result<Option<String>> {
    let mut used = 0;
    for entry in walkdir::WalkDir::new(folder) {
        let entry = entry.with_context(|| format!("{folder}: cannot be read"))?;
        let path = Utf8PathBuf::try_from(entry.into_path())?;
        if path.extension() != Some("bin") {
            continue;
        }
        let file = model_assets::regular::open(&path).with_context(|| format!("{path}: cannot be opened"))?;
        if file.try_lock().is_err() {
            used += 1;
            continue;
        }
        // The sidecar first: without it the packed file does not count.
        for suffix in ["json", "stamp", "bin"] {
            remove(&path.with_extension(suffix))?;
        }
    }
    Ok((used > 0).then(|| format!("{used} in use by an app")))
}

/// The files of published models that git does not have, where they can be made again.
fn models(workspace: &Workspace) -> Result<Vec<Cache>, Failure> {
    let models = workspace.models();
    let mut files = Vec::new();
    for entry in models.read_dir_utf8().with_context(|| format!("{models}: cannot be read"))? {
        let entry = entry?;
        let dir = ModelDir::new(&models, entry.file_name());
        // A folder that is no model, or whose proof cannot be read, is none of this command's business.
        let (Ok(recipe), Ok(Some(manifest))) = (dir.recipe(), dir.manifest()) else { continue };
        let what = again(&dir, &recipe, &manifest);
        let paths = published(&dir, &manifest).into_iter().filter(|path| path.is_file());
        match what {
            Some(what) => files.extend(paths.map(|path| Cache {
                name: dir.name().to_owned(),
                what,
                bytes: cache::bytes(&path),
                path,
            })),
            None => paths.for_each(|path| {
                println!("kept: {path}: its weights are not here, so it cannot be made again")
            }),
        }
    }
    Ok(files)
}

/// Where the files that a manifest names are, or wait for their names.
fn published(dir: &ModelDir, manifest: &Manifest) -> Vec<Utf8PathBuf> {
    let names = [(&manifest.file, manifest.sha256), (&manifest.reference.name, manifest.reference.sha256)];
    let both = |(name, sha256): (&String, _)| [name.clone(), pending_name(name, sha256)];
    let names = names.into_iter().flat_map(both).chain([REFUSED_FILE.to_owned()]);
    names.map(|name| dir.path().join(name)).collect()
}

/// How a published model is made again, if it can be.
fn again(dir: &ModelDir, recipe: &Recipe, manifest: &Manifest) -> Option<&'static str> {
    match (&recipe.source, manifest.weights) {
        (_, WeightsKind::Random) => Some("random weights; again: cargo xtask export MODEL --rehearse"),
        (Source::Hub { .. }, _) => Some("published model; again: cargo xtask export MODEL, or fetch"),
        (Source::Gguf { .. }, _) => {
            Some("published model; again: cargo xtask weights MODEL --from-gguf FILE, export MODEL")
        }
        (Source::Path { path, .. }, _) => {
            let weights = |entry: camino::Utf8DirEntry| entry.path().extension() == Some("safetensors");
            let mut entries = dir.path().join(path).read_dir_utf8().ok()?.flatten();
            entries.any(weights).then_some("published model; again: cargo xtask export MODEL")
        }
        (Source::Random { .. }, _) => None,
    }
}
