//! A checkpoint: every file of it that an export reads, held to the recipe before anything is computed.
//!
//! **Invariant:** what is read is in the list, by content: whatever a name leads to, through links too, is what is hashed.
//!
//! **Invariant:** no offset is used before it is checked against the file. Each file is opened once: digest and weights come from
//! one descriptor, and a file that changes in between is an error.

mod config;
mod tensors;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    rc::Rc,
};

use anyhow::{Context as _, anyhow, bail, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{
    claim::token_rows,
    digest::Digest,
    gguf::Precision,
    limits::{TEMPLATE_BYTES_MAX, TOKENIZER_BYTES_MAX},
    manifest::FileRecord,
    name::is_plain,
    recipe::{Architecture, Recipe},
    regular,
    tokenizer::{self, Facts},
};
use safetensors::{Dtype, tensor::Metadata};
use serde::Deserialize;

pub(crate) use self::config::{alike, described};

/// Largest safetensors header: a thousand times that of any model in use.
const HEADER_BYTES_MAX: u64 = 100 << 20;
const COMPARED_BYTES: u64 = 4 << 20;
const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";
const INDEX: &str = ".safetensors.index.json";
const WEIGHTS: &str = ".safetensors";
/// Largest `config.json` or `generation_config.json`.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// Largest `*.safetensors.index.json`.
const INDEX_BYTES_MAX: u64 = 16 << 20;
/// Where a checkpoint may have its chat template; a tokenizer's settings may hold it as a text of their own.
const TEMPLATE: &str = "chat_template.jinja";
const SETTINGS: &str = "tokenizer_config.json";

/// Safetensors files that together hold exactly the tensors of a model, and what belongs to them.
pub(crate) struct Checkpoint {
    entries: BTreeMap<String, Entry>,
    opened: Vec<Opened>,
    /// Every file that was read, sorted by name.
    files: Vec<FileRecord>,
    /// Its tokenizer, if it has one.
    pub(crate) tokenizer: Option<Vec<u8>>,
    /// Its chat template, if it has one.
    pub(crate) chat_template: Option<String>,
    bytes: Vec<u8>,
}

struct Opened {
    path: Utf8PathBuf,
    file: Rc<fs::File>,
    stamp: [i128; 6],
}

struct Entry {
    path: Utf8PathBuf,
    file: Rc<fs::File>,
    offset: u64,
    dtype: Dtype,
    shape: Vec<u64>,
}

impl Entry {
    /// How its numbers are stored.
    fn precision(&self, name: &str) -> anyhow::Result<Precision> {
        Ok(match self.dtype {
            Dtype::BF16 => Precision::Bf16,
            Dtype::F16 => Precision::F16,
            Dtype::F32 => Precision::F32,
            other => bail!("{}: {name}: got {other:?}, expected BF16, F16 or F32", self.path),
        })
    }
}

impl Checkpoint {
    /// Opens a folder's checkpoint, hashes it, and demands that it is the recipe's: its `config.json`, and every tensor that
    /// the architecture has and no other. The small files come first: what they refuse costs no reading of weights.
    pub(crate) fn open(folder: &Utf8Path, recipe: &Recipe) -> anyhow::Result<Self> {
        let mut it = Self::configuration(folder, recipe)?;
        let name = recipe.tokens.tokenizer.as_str();
        it.tokenizer = it.optional(&folder.join(name), TOKENIZER_BYTES_MAX)?;
        it.chat_template = template(folder)?;
        it.read_weights(folder)?;
        it.check_names(&recipe.architecture)?;
        it.check_tied(&recipe.architecture)?;
        it.files.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(it)
    }

    /// Opens every `*.safetensors` of a folder and hashes it.
    #[cfg(test)]
    pub(crate) fn read(folder: &Utf8Path) -> anyhow::Result<Self> {
        let mut it = Self::empty();
        it.read_weights(folder)?;
        Ok(it)
    }

    fn empty() -> Self {
        Self {
            entries: BTreeMap::new(),
            opened: Vec::new(),
            files: Vec::new(),
            tokenizer: None,
            chat_template: None,
            bytes: Vec::new(),
        }
    }

    /// Every file that was read, sorted by name.
    pub(crate) fn files(&self) -> &[FileRecord] {
        &self.files
    }

    /// What a folder says of its network, if it is the recipe's; without weights.
    pub(crate) fn configuration(folder: &Utf8Path, recipe: &Recipe) -> anyhow::Result<Self> {
        let (mut it, path) = (Self::empty(), folder.join(config::CONFIG));
        let bytes = it.required(&path, CONFIG_BYTES_MAX)?;
        config::check(&path, &bytes, recipe)?;
        let path = folder.join(config::GENERATION);
        if let Some(bytes) = it.optional(&path, CONFIG_BYTES_MAX)? {
            config::check_generation(&path, &bytes, recipe)?;
        }
        Ok(it)
    }

    fn read_weights(&mut self, folder: &Utf8Path) -> anyhow::Result<()> {
        let paths = listed(folder, WEIGHTS)?;
        ensure!(!paths.is_empty(), "{folder}: got no *.safetensors, expected a checkpoint");
        for path in paths {
            self.add(&path)?;
        }
        self.check_index(folder)
    }

    /// A file that must be there, in memory and in the list.
    fn required(&mut self, path: &Utf8Path, bytes_max: u64) -> anyhow::Result<Vec<u8>> {
        let bytes = content(path, bytes_max)?;
        self.record(path, bytes.len() as u64, Digest::of(&bytes))?;
        Ok(bytes)
    }

    /// A file that may be missing.
    fn optional(&mut self, path: &Utf8Path, bytes_max: u64) -> anyhow::Result<Option<Vec<u8>>> {
        if exists(path) { self.required(path, bytes_max).map(Some) } else { Ok(None) }
    }

    fn record(&mut self, path: &Utf8Path, bytes: u64, sha256: Digest) -> anyhow::Result<()> {
        let name = path.file_name().unwrap_or_default().to_owned();
        ensure!(is_plain(&name), "{path}: got the name {name:?}, expected letters, digits, `.`, `-`, `_`");
        self.files.push(FileRecord { name, bytes, sha256 });
        Ok(())
    }

    fn add(&mut self, path: &Utf8Path) -> anyhow::Result<()> {
        let mut file = open(path)?;
        let stamp = stamp(&file)?;
        let sha256 = Digest::of_reader(&mut file)?;
        let size = file.metadata()?.len();
        let mut length = [0; 8];
        file.read_exact_at(&mut length, 0).with_context(|| format!("{path}: no safetensors header"))?;
        let length = u64::from_le_bytes(length);
        ensure!(
            length <= HEADER_BYTES_MAX && length <= size.saturating_sub(8),
            "{path}: got a header of {length} bytes, expected one within {size}"
        );
        let mut header = vec![0; usize::try_from(length + 8)?];
        file.read_exact_at(&mut header, 0)?;
        let header = header.get(8..).unwrap_or_default();
        let metadata: Metadata =
            serde_json::from_slice(header).map_err(|error| anyhow!("{path}: header: {error}"))?;
        let file = Rc::new(file);
        let base = length + 8;
        let end = base + metadata.data_len() as u64;
        ensure!(
            end == size,
            "{path}: got {size} bytes, expected {end}: truncated, or bytes that no tensor covers"
        );
        for (name, info) in metadata.tensors() {
            let entry = Entry {
                path: path.to_owned(),
                file: file.clone(),
                offset: base + info.data_offsets.0 as u64,
                dtype: info.dtype,
                shape: info.shape.iter().map(|size| *size as u64).collect(),
            };
            ensure!(self.entries.insert(name.clone(), entry).is_none(), "{path}: {name}: a second one");
        }
        self.record(path, size, sha256)?;
        self.opened.push(Opened { path: path.to_owned(), file, stamp });
        Ok(())
    }

    /// Refuses an index beside the files that does not list what they hold: it belongs to another checkpoint.
    fn check_index(&mut self, folder: &Utf8Path) -> anyhow::Result<()> {
        #[derive(Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        for path in listed(folder, INDEX)? {
            let bytes = self.required(&path, INDEX_BYTES_MAX)?;
            let index: Index = serde_json::from_slice(&bytes)
                .map_err(|error| anyhow!("{path}: not a safetensors index: {error}"))?;
            let names: BTreeSet<_> = self.entries.keys().chain(index.weight_map.keys()).collect();
            for name in names {
                let listed = index.weight_map.get(name).map(String::as_str);
                let found = self.entries.get(name).and_then(|entry| entry.path.file_name());
                ensure!(listed == found, "{path}: {name}: listed in {listed:?}, found in {found:?}");
            }
        }
        Ok(())
    }

    fn check_names(&self, architecture: &Architecture) -> anyhow::Result<()> {
        let mut wanted = tensors::stored(architecture);
        if architecture.tied && self.entries.contains_key(HEAD) {
            // Some exporters store the tied matrix twice; `check_tied` compares the bytes.
            wanted.insert(HEAD.to_owned(), wanted.get(EMBEDDING).cloned().unwrap_or_default());
        }
        for (name, shape) in &wanted {
            let entry = self.entries.get(name).with_context(|| format!("{name}: not in the checkpoint"))?;
            let (path, got) = (&entry.path, &entry.shape);
            ensure!(got == shape, "{path}: {name}: got shape {got:?}, expected {shape:?}");
            entry.precision(name)?;
        }
        let extra = self.entries.iter().find(|(name, _)| !wanted.contains_key(*name) && !is_table(name));
        if let Some((name, entry)) = extra {
            let path = &entry.path;
            bail!(
                "{path}: {name}: unexpected: the checkpoint is of another architecture, or `tied` is set wrongly"
            );
        }
        Ok(())
    }

    /// A second copy of the tied matrix may only be a copy.
    fn check_tied(&self, architecture: &Architecture) -> anyhow::Result<()> {
        let pair = self.entries.get(HEAD).zip(self.entries.get(EMBEDDING));
        let Some((head, embedding)) = pair.filter(|_| architecture.tied) else { return Ok(()) };
        let size = embedding.precision(EMBEDDING)?.bytes() as u64;
        let total = embedding.shape.iter().product::<u64>() * size;
        let (mut at, mut same) = (0, head.dtype == embedding.dtype);
        let mut chunks = [Vec::new(), Vec::new()];
        while same && at < total {
            let count = COMPARED_BYTES.min(total - at);
            for (entry, chunk) in [head, embedding].into_iter().zip(&mut chunks) {
                chunk.resize(usize::try_from(count)?, 0);
                let read = entry.file.read_exact_at(chunk, entry.offset + at);
                read.with_context(|| format!("{}: cannot be read", entry.path))?;
            }
            let [one, other] = &chunks;
            same = one == other;
            at += count;
        }
        ensure!(same, "{}: {HEAD} differs from {EMBEDDING} although the architecture ties them", head.path);
        Ok(())
    }

    /// Rows `first..` of a tensor, as many as `out` holds at this width.
    pub(crate) fn rows(
        &mut self,
        name: &str,
        shape: &[u64],
        first: u64,
        out: &mut [f32],
    ) -> anyhow::Result<()> {
        let entry = self.entries.get(name).with_context(|| format!("{name}: not in the checkpoint"))?;
        let got = &entry.shape;
        ensure!(got == shape, "{}: {name}: got shape {got:?}, expected {shape:?}", entry.path);
        let precision = entry.precision(name)?;
        let width: u64 = shape.get(1..).unwrap_or_default().iter().product();
        self.bytes.resize(out.len() * precision.bytes(), 0);
        let offset = entry.offset + first * width * precision.bytes() as u64;
        let read = entry.file.read_exact_at(&mut self.bytes, offset);
        read.with_context(|| format!("{}: {name}: cannot be read", entry.path))?;
        finite(name, precision.read(&self.bytes, out))
    }

    /// The files, if none of them changed since it was opened.
    pub(crate) fn finish(self) -> anyhow::Result<Vec<FileRecord>> {
        for Opened { path, file, stamp: before } in &self.opened {
            ensure!(stamp(file)? == *before, "{path}: changed while it was read");
        }
        Ok(self.files)
    }
}

/// Opens what a name leads to, if it is a regular file.
fn open(path: &Utf8Path) -> anyhow::Result<fs::File> {
    regular::open(path).with_context(|| format!("{path}: cannot be read"))
}

/// The bytes of a small file.
pub(crate) fn content(path: &Utf8Path, bytes_max: u64) -> anyhow::Result<Vec<u8>> {
    regular::read(path, bytes_max).with_context(|| format!("{path}: cannot be read"))
}

/// Whether a name is there. A link that leads nowhere, or in a circle, is: reading it is an error that names it.
pub(crate) fn exists(path: &Utf8Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// A checkpoint's own chat template: a file of its own goes before the text in the tokenizer's settings.
fn template(folder: &Utf8Path) -> anyhow::Result<Option<String>> {
    let path = folder.join(TEMPLATE);
    if exists(&path) {
        let text = String::from_utf8(content(&path, TEMPLATE_BYTES_MAX)?);
        return text.map(Some).with_context(|| format!("{path}: is not UTF-8"));
    }
    let path = folder.join(SETTINGS);
    if !exists(&path) {
        return Ok(None);
    }
    let settings: serde_json::Value = serde_json::from_slice(&content(&path, TOKENIZER_BYTES_MAX)?)
        .map_err(|error| anyhow!("{path}: cannot be read: {error}"))?;
    Ok(settings.get("chat_template").and_then(serde_json::Value::as_str).map(str::to_owned))
}

/// What changes when a file does.
fn stamp(file: &fs::File) -> std::io::Result<[i128; 6]> {
    let it = file.metadata()?;
    let times = [it.mtime(), it.mtime_nsec(), it.ctime(), it.ctime_nsec()].map(i128::from);
    let [mtime, mtime_nsec, ctime, ctime_nsec] = times;
    Ok([it.ino().into(), it.size().into(), mtime, mtime_nsec, ctime, ctime_nsec])
}

/// The files of a folder whose name ends so, sorted.
fn listed(folder: &Utf8Path, end: &str) -> anyhow::Result<Vec<Utf8PathBuf>> {
    let mut paths = Vec::new();
    for entry in folder.read_dir_utf8().with_context(|| format!("{folder}: cannot be read"))? {
        let path = entry?.into_path();
        if path.file_name().is_some_and(|name| name.ends_with(end)) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Tables that old exporters saved beside the weights; they follow from the configuration.
fn is_table(name: &str) -> bool {
    let layer = name.strip_prefix("model.layers.");
    let layer = layer.and_then(|rest| rest.strip_suffix(".self_attn.rotary_emb.inv_freq"));
    layer.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A number that is none spoils its whole block, and what is finite after it was quantized was not before.
pub(crate) fn finite(name: &str, place: Option<usize>) -> anyhow::Result<()> {
    match place {
        Some(place) => bail!("{name}: got a weight that is not finite, {place} after the first of its chunk"),
        None => Ok(()),
    }
}

/// Refuses a folder whose configuration and tokenizer are not the recipe's; its weights need not be there yet.
///
/// # Errors
/// As [`Checkpoint::configuration`], and when the tokenizer is not the recipe's.
pub(crate) fn configured(folder: &Utf8Path, recipe: &Recipe) -> anyhow::Result<()> {
    let path = folder.join(&recipe.tokens.tokenizer);
    Checkpoint::configuration(folder, recipe)?;
    fits(recipe, &content(&path, TOKENIZER_BYTES_MAX)?, &path).map(drop)
}

pub(crate) fn fits(recipe: &Recipe, json: &[u8], path: &Utf8Path) -> anyhow::Result<Facts> {
    let facts = tokenizer::judge(json).and_then(|facts| token_rows(recipe, &facts).map(|_| facts));
    facts.map_err(|message| anyhow!("{path}: {message}"))
}

/// Those of a list that hold weights.
pub(crate) fn weights(files: &[FileRecord]) -> impl Iterator<Item = &FileRecord> {
    files.iter().filter(|file| file.name.ends_with(".safetensors"))
}
