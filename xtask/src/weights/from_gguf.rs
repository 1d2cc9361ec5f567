//! `cargo xtask weights MODEL --from-gguf FILE`: the recipe's checkpoint made from a GGUF, where its own is out of reach.
//!
//! **Invariant:** the folder appears whole or not at all. Its origin is written last; a folder without one is no checkpoint, and
//! one is believed only as far as the files still hash to it.
//!
//! **Invariant:** an export from it prints a warning, and the manifest names the GGUF.

use std::{fs, time::Duration};

use anyhow::{Context as _, anyhow, bail, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{
    digest::Digest,
    manifest::FileRecord,
    name::is_plain,
    recipe::{Recipe, Source},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    console::Console,
    exit::{Exit, Failure, Outcome},
    failed, lock, protocol, setup,
    supervise::{self, Bounds},
    workspace::Workspace,
};

const ORIGIN: &str = ".proofmark-gguf.json";
const ORIGIN_SCHEMA: u32 = 1;
const ORIGIN_BYTES_MAX: u64 = 1 << 20;
const STALL: Duration = Duration::from_secs(300);
/// Rows are converted by the chunk, and the vocabulary is read whole: more than this is a leak.
const MEMORY_BYTES_MAX: u64 = 4_000_000_000;

/// What a folder was made from, and what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Origin {
    schema: u32,
    /// The GGUF.
    pub(crate) gguf: FileRecord,
    files: Vec<FileRecord>,
}

impl Origin {
    /// Of a checkpoint's folder; `None` when it was not made from a GGUF.
    ///
    /// # Errors
    /// It has an origin that cannot be read.
    pub(crate) fn of(folder: &Utf8Path) -> anyhow::Result<Option<Self>> {
        let path = folder.join(ORIGIN);
        let Ok(data) = path.metadata() else { return Ok(None) };
        ensure!(data.len() <= ORIGIN_BYTES_MAX, "{path}: got {} bytes", data.len());
        let origin: Self = serde_json::from_slice(&fs::read(&path)?).with_context(|| path.to_string())?;
        let schema = origin.schema;
        ensure!(schema == ORIGIN_SCHEMA, "{path}: got schema {schema}, expected {ORIGIN_SCHEMA}");
        if let Some(file) = origin.files.iter().find(|file| !is_plain(&file.name)) {
            bail!("{path}: got the name {:?}", file.name);
        }
        Ok(Some(origin))
    }

    /// Of a folder whose files are those that its origin names.
    fn proved(folder: &Utf8Path) -> anyhow::Result<Option<Self>> {
        let Some(origin) = Self::of(folder)? else { return Ok(None) };
        for FileRecord { name, sha256, .. } in &origin.files {
            let got = record(folder, name)?.sha256;
            ensure!(got == *sha256, "{folder}/{name}: got sha256 {got}, expected {sha256}");
        }
        super::cache::no_strangers(folder, &origin.files)?;
        Ok(Some(origin))
    }

    /// Whether these files, as an export read them, are those of the folder.
    ///
    /// # Errors
    /// Names the first that is not.
    pub(crate) fn covers(&self, read: &[FileRecord]) -> anyhow::Result<()> {
        match read.iter().find(|file| !self.files.contains(file)) {
            None => Ok(()),
            Some(FileRecord { name, sha256, .. }) => {
                bail!("{name}: got sha256 {sha256}, expected a file that was made from {}", self.gguf.name)
            }
        }
    }
}

/// Where the checkpoint of a model is put.
fn folder(workspace: &Workspace, model: &str) -> Utf8PathBuf {
    workspace.checkpoints_from_gguf().join(model)
}

/// The checkpoint that was made for this model, if there is one.
///
/// # Errors
/// It is not what it was when it was made.
pub(crate) fn found(workspace: &Workspace, model: &str) -> Result<Option<(Utf8PathBuf, Origin)>, Failure> {
    let folder = folder(workspace, model);
    let proved = Origin::proved(&folder).map_err(|error| {
        let hint = format!("run: cargo xtask weights {model} --from-gguf FILE, or: cargo xtask clean gguf");
        Failure::new(Exit::Fetch, error, hint)
    })?;
    Ok(proved.map(|origin| (folder, origin)))
}

/// The checkpoint of a recipe that names a GGUF as its source.
pub(crate) fn of_gguf(workspace: &Workspace, recipe: &Recipe) -> Result<Utf8PathBuf, Failure> {
    let model = &recipe.name;
    let hint = || format!("run: cargo xtask weights {model} --from-gguf FILE");
    let refused = |error| Failure::new(Exit::Fetch, error, hint());
    let (folder, origin) = found(workspace, model)?.ok_or_else(|| {
        let place = folder(workspace, model);
        let Source::Gguf { file, sha256 } = &recipe.source else {
            return refused(anyhow!("{place}: not there"));
        };
        refused(anyhow!("{place}: no such folder, expected a checkpoint made from {file} of sha256 {sha256}"))
    })?;
    named(recipe, &origin.gguf).with_context(|| folder.to_string()).map_err(refused)?;
    Ok(folder)
}

/// Whether a recipe that names a GGUF names this one; any other takes what fits it.
fn named(recipe: &Recipe, gguf: &FileRecord) -> anyhow::Result<()> {
    let Source::Gguf { file, sha256 } = &recipe.source else { return Ok(()) };
    let got = gguf.sha256;
    ensure!(got == *sha256, "{}: got sha256 {got}, expected {sha256}, the recipe's {file}", gguf.name);
    Ok(())
}

/// The file itself, through links.
fn opened(file: &Utf8Path) -> anyhow::Result<Utf8PathBuf> {
    let whole = file.canonicalize_utf8().and_then(|path| model_assets::regular::open(&path).map(|_| path));
    whole.with_context(|| format!("{file}: cannot be opened, expected a GGUF"))
}

/// Makes it.
pub(super) fn run(workspace: &Workspace, recipe: &Recipe, file: &Utf8Path, args: &super::Args) -> Outcome {
    let model = &recipe.name;
    let again = format!("cargo xtask weights {model} --from-gguf FILE");
    if args.dry_run {
        let file = opened(file).map_err(|error| unmade(error, &again))?;
        let plan = json!({
            "convert": file, "into": folder(workspace, model),
            "architecture": protocol::Architecture::from(&recipe.architecture),
        });
        println!("{}", serde_json::to_string_pretty(&plan)?);
        return Ok(());
    }
    let (place, origin) = made(workspace, recipe, file, &Console::new(args.json), &again)?;
    if !args.json {
        println!("{place}: {} files, made from {file} of sha256 {}", origin.files.len(), origin.gguf.sha256);
        println!("run: cargo xtask export {model}");
    }
    Ok(())
}

fn unmade(error: anyhow::Error, again: &str) -> Failure {
    if supervise::interrupted() {
        return Failure::new(Exit::Interrupted, error, "nothing was changed; run the same command again");
    }
    Failure::new(Exit::Fetch, error, format!("nothing was changed; then run: {again}"))
}

/// Makes the checkpoint of a recipe, which need not lie in a folder yet.
pub(crate) fn made(
    workspace: &Workspace,
    recipe: &Recipe,
    file: &Utf8Path,
    console: &Console,
    again: &str,
) -> Result<(Utf8PathBuf, Origin), Failure> {
    let file = opened(file).map_err(|error| unmade(error, again))?;
    let place = folder(workspace, &recipe.name);
    supervise::watch_interrupts()?;
    setup::ensure(workspace)?;
    let _lock = lock::model(workspace, &recipe.name)?;
    let made = make(workspace, recipe, &file, &place, console);
    console.done();
    let origin = made.map_err(|error| unmade(error, again))?;
    Ok((place, origin))
}

fn make(
    workspace: &Workspace,
    recipe: &Recipe,
    file: &Utf8Path,
    place: &Utf8Path,
    console: &Console,
) -> anyhow::Result<Origin> {
    let made = place.with_file_name(format!(".new-{}", recipe.name));
    crate::atomic_file::remove(&made)?;
    fs::create_dir_all(&made).with_context(|| format!("{made}: cannot be made"))?;
    let outcome = convert(workspace, recipe, file, &made, console)
        .and_then(|gguf| named(recipe, &gguf).map(|()| gguf))
        .and_then(|gguf| finish(&made, gguf))
        .and_then(|origin| swap(&made, place).map(|()| origin));
    // The old one after a swap, or what a failed conversion left.
    crate::atomic_file::remove(&made)?;
    outcome
}

/// Runs the worker, and says what it read.
fn convert(
    workspace: &Workspace,
    recipe: &Recipe,
    file: &Utf8Path,
    made: &Utf8Path,
    console: &Console,
) -> anyhow::Result<FileRecord> {
    #[derive(Deserialize)]
    struct Response {
        gguf: FileRecord,
    }
    let work = workspace.state().join("work").join(format!("{}-from-gguf", recipe.name));
    fs::create_dir_all(&work).with_context(|| format!("{work}: cannot be made"))?;
    let (request, response) = (work.join("request.json"), work.join("response.json"));
    crate::atomic_file::remove(&response)?;
    let asked = protocol::FromGguf {
        protocol: protocol::PROTOCOL,
        task: "from-gguf".to_owned(),
        gguf: file.to_owned(),
        architecture: (&recipe.architecture).into(),
        bos_id: recipe.tokens.bos,
        eos_ids: recipe.tokens.eos.clone(),
        tokenizer: recipe.tokens.tokenizer.clone(),
        dir: made.to_owned(),
        response: response.clone(),
    };
    fs::write(&request, serde_json::to_vec_pretty(&asked)?)?;
    let bounds = Bounds { memory_bytes_max: MEMORY_BYTES_MAX, stall: STALL };
    let script = workspace.python_sources().join("proofmark_worker/run.py");
    let log = work.join("log.txt");
    let run = supervise::run(&workspace.python(), &script, &request, &log, &bounds, console)?;
    let answer: Response = failed::answer(&response, &run)?;
    crate::atomic_file::remove(&work)?;
    Ok(answer.gguf)
}

/// Writes the origin of a folder whose files are synced.
fn finish(made: &Utf8Path, gguf: FileRecord) -> anyhow::Result<Origin> {
    let mut names: Vec<_> = made
        .read_dir_utf8()?
        .map(|entry| entry.map(|entry| entry.file_name().to_owned()))
        .collect::<Result<_, _>>()?;
    names.sort();
    let files = names.iter().map(|name| record(made, name)).collect::<Result<_, _>>()?;
    let origin = Origin { schema: ORIGIN_SCHEMA, gguf, files };
    let path = made.join(ORIGIN);
    fs::write(&path, serde_json::to_vec_pretty(&origin)?)
        .with_context(|| format!("{path}: cannot be written"))?;
    fs::File::open(&path)?.sync_all()?;
    fs::File::open(made)?.sync_all().with_context(|| format!("{made}: cannot be synced"))?;
    Ok(origin)
}

fn record(folder: &Utf8Path, name: &str) -> anyhow::Result<FileRecord> {
    let path = folder.join(name);
    let mut file = model_assets::regular::open(&path).with_context(|| format!("{path}: cannot be opened"))?;
    let sha256 = Digest::of_reader(&mut file).with_context(|| format!("{path}: cannot be read"))?;
    Ok(FileRecord { name: name.to_owned(), bytes: file.metadata()?.len(), sha256 })
}

/// Puts the new folder in the old one's place, at one instant where the file system can.
fn swap(made: &Utf8Path, place: &Utf8Path) -> anyhow::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let moved = || format!("{place}: cannot be put in place");
    if !place.exists() {
        fs::rename(made, place).with_context(moved)?;
    } else if renameat_with(CWD, made.as_std_path(), CWD, place.as_std_path(), RenameFlags::EXCHANGE).is_err()
    {
        // Killed in between, there is no checkpoint, which the next export says.
        crate::atomic_file::remove(place)?;
        fs::rename(made, place).with_context(moved)?;
    }
    let parent = crate::atomic_file::folder(place);
    fs::File::open(parent)?.sync_all().with_context(|| format!("{parent}: cannot be synced"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> (tempfile::TempDir, Utf8PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::try_from(folder.path().to_owned()).unwrap();
        (folder, path)
    }

    fn made(folder: &Utf8Path, content: &str) -> Origin {
        fs::create_dir_all(folder).unwrap();
        for name in ["config.json", "model.safetensors"] {
            fs::write(folder.join(name), content).unwrap();
        }
        let gguf = FileRecord { name: "m.gguf".to_owned(), bytes: 9, sha256: Digest::of(content.as_bytes()) };
        finish(folder, gguf).unwrap()
    }

    #[test]
    fn a_folder_is_believed_as_far_as_its_files_hash() {
        let (_kept, folder) = scratch();
        assert_eq!(Origin::proved(&folder).unwrap(), None);
        let origin = made(&folder, "one");
        assert_eq!(Origin::proved(&folder).unwrap(), Some(origin.clone()));
        origin.covers(&origin.files[1..]).unwrap();
        let other = FileRecord { sha256: Digest::of(b"other"), ..origin.files[1].clone() };
        assert!(origin.covers(&[other]).unwrap_err().to_string().contains("made from m.gguf"));
        fs::write(folder.join("stray.safetensors"), "x").unwrap();
        assert!(Origin::proved(&folder).unwrap_err().to_string().contains("stray.safetensors"));
        fs::remove_file(folder.join("stray.safetensors")).unwrap();
        fs::write(folder.join("config.json"), "two").unwrap();
        assert!(Origin::proved(&folder).unwrap_err().to_string().contains("config.json: got sha256"));
        for (content, says) in
            [("{", "EOF"), (r#"{"schema":2,"gguf":{"name":"a","bytes":1,"sha256":"00"},"files":[]}"#, "")]
        {
            fs::write(folder.join(ORIGIN), content).unwrap();
            assert!(format!("{:#}", Origin::of(&folder).unwrap_err()).contains(says));
        }
    }

    #[test]
    fn a_new_folder_takes_the_old_ones_place() {
        let (_kept, root) = scratch();
        let (new, place) = (root.join(".new-m"), root.join("m"));
        for content in ["one", "two"] {
            let origin = made(&new, content);
            swap(&new, &place).unwrap();
            assert_eq!(Origin::proved(&place).unwrap(), Some(origin));
            crate::atomic_file::remove(&new).unwrap();
        }
    }
}
