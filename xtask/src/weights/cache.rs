//! Checkpoints that were fetched: `.proofmark/weights/<owner>/<name>/<revision>`.
//!
//! **Invariant:** the receipt is written last, after every file that it names was synced under its name; a folder
//! without one is unfinished. A receipt is believed only as far as the files still hash to it.

use std::{fs, io::Write as _};

use anyhow::{Context as _, bail, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{
    digest::Digest,
    manifest::FileRecord,
    name::is_plain,
    recipe::{Recipe, Source},
};
use serde::{Deserialize, Serialize};

const RECEIPT: &str = ".proofmark-receipt.json";
const RECEIPT_SCHEMA: u32 = 1;
const RECEIPT_BYTES_MAX: u64 = 1 << 20;

/// What a finished folder holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Receipt {
    schema: u32,
    repo: String,
    revision: String,
    pub(super) files: Vec<FileRecord>,
}

impl Receipt {
    pub(super) fn new(repo: &str, revision: &str, files: Vec<FileRecord>) -> Self {
        Self { schema: RECEIPT_SCHEMA, repo: repo.to_owned(), revision: revision.to_owned(), files }
    }

    /// The receipt of a folder whose files are what it says, and what the recipe says; `None` without a receipt.
    ///
    /// # Errors
    /// A receipt that the folder or the recipe contradicts: the reason.
    pub(super) fn proved(folder: &Utf8Path, recipe: &Recipe) -> anyhow::Result<Option<Self>> {
        let path = folder.join(RECEIPT);
        let Ok(data) = path.metadata() else { return Ok(None) };
        ensure!(data.len() <= RECEIPT_BYTES_MAX, "{path}: got {} bytes", data.len());
        let receipt: Self = serde_json::from_slice(&fs::read(&path)?).with_context(|| format!("{path}"))?;
        ensure!(
            receipt.schema == RECEIPT_SCHEMA,
            "{path}: got schema {}, expected {RECEIPT_SCHEMA}",
            receipt.schema
        );
        receipt.fits(recipe).with_context(|| format!("{path}"))?;
        for record in &receipt.files {
            let path = folder.join(&record.name);
            let mut file = fs::File::open(&path).with_context(|| format!("{path}: cannot be opened"))?;
            let got = Digest::of_reader(&mut file)?;
            ensure!(got == record.sha256, "{path}: got sha256 {got}, expected {}", record.sha256);
        }
        no_strangers(folder, &receipt.files)?;
        Ok(Some(receipt))
    }

    /// Whether the recipe would have fetched this.
    fn fits(&self, recipe: &Recipe) -> anyhow::Result<()> {
        let Source::Hub { repo, revision, files } = &recipe.source else {
            bail!("the recipe has no hub source")
        };
        ensure!(
            self.repo == *repo && self.revision == *revision,
            "got {}@{}, expected {repo}@{revision}",
            self.repo,
            self.revision
        );
        let has = |name: &str| self.files.iter().any(|file| file.name == name);
        for name in ["config.json", recipe.tokens.tokenizer.as_str()] {
            ensure!(has(name), "no {name}");
        }
        ensure!(self.files.iter().any(|file| file.name.ends_with(".safetensors")), "no weights");
        for FileRecord { name, sha256, .. } in &self.files {
            ensure!(is_plain(name), "got the name {name:?}");
            let pin = files.get(name);
            ensure!(files.is_empty() || pin == Some(sha256), "{name}: sha256 {sha256} is not the recipe's");
        }
        if let Some(name) = files.keys().find(|name| !has(name)) {
            bail!("no {name}, which the recipe pins");
        }
        Ok(())
    }

    /// Declares a folder finished.
    pub(super) fn write(&self, folder: &Utf8Path) -> anyhow::Result<()> {
        let (path, temporary) = (folder.join(RECEIPT), folder.join(".proofmark-receipt.new"));
        let mut file =
            fs::File::create(&temporary).with_context(|| format!("{temporary}: cannot be written"))?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        fs::File::open(folder)?.sync_all().with_context(|| format!("{folder}: cannot be synced"))
    }

    /// Lines for the recipe that pin these bytes.
    pub(super) fn pins(&self) -> String {
        let lines = self.files.iter().map(|file| format!("\"{}\" = \"{}\"\n", file.name, file.sha256));
        format!("[source.files]\n{}", lines.collect::<String>())
    }
}

/// The export reads every `*.safetensors` of the folder: one that was not fetched must not be among them.
pub(super) fn no_strangers(folder: &Utf8Path, files: &[FileRecord]) -> anyhow::Result<()> {
    for entry in folder.read_dir_utf8()? {
        let entry = entry?;
        let name = entry.file_name();
        let read = name.ends_with(".safetensors") || (name.ends_with(".json") && !name.starts_with('.'));
        ensure!(!read || files.iter().any(|file| file.name == name), "{}: was not fetched", entry.path());
    }
    Ok(())
}

/// Where a checkpoint is kept.
pub(super) fn folder(weights: &Utf8Path, repo: &str, revision: &str) -> Utf8PathBuf {
    // Both halves of the name are plain: the recipe was checked.
    weights.join(repo).join(revision)
}
