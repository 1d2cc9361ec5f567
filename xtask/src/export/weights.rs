//! Where the rows of a GGUF come from: a checkpoint's safetensors, or the seeded weights of a rehearsal.
//!
//! **Invariant:** no offset is used before it is checked against the file, and no more than the rows asked for are in
//! memory.

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    os::unix::fs::FileExt as _,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, anyhow, bail, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{digest::Digest, gguf::Precision, manifest::FileRecord, recipe::Architecture};
use safetensors::{Dtype, tensor::Metadata};
use serde_json::json;

use crate::workspace::Workspace;

/// Largest safetensors header: a thousand times that of any model in use.
const HEADER_BYTES_MAX: u64 = 100 << 20;

/// Where rows are read from.
pub(super) enum Weights {
    /// A checkpoint.
    Checkpoint(Checkpoint),
    /// The worker's generator, asked in the order of the file: it answers with every tensor in turn.
    Random(Generator),
}

impl Weights {
    /// Rows `first..` of a tensor, as many as `out` holds at this width.
    pub(super) fn rows(
        &mut self,
        name: &str,
        shape: &[u64],
        first: u64,
        out: &mut [f32],
    ) -> anyhow::Result<()> {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.rows(name, shape, first, out),
            Self::Random(generator) => generator.next(name, out),
        }
    }
}

/// Safetensors files that together hold the tensors of a model.
pub(super) struct Checkpoint {
    entries: BTreeMap<String, Entry>,
    /// The files, for the record.
    pub(super) files: Vec<FileRecord>,
    bytes: Vec<u8>,
}

struct Entry {
    path: Utf8PathBuf,
    file: std::rc::Rc<fs::File>,
    offset: u64,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl Checkpoint {
    /// Opens every `*.safetensors` of a folder and hashes it.
    pub(super) fn open(folder: &Utf8Path) -> anyhow::Result<Self> {
        let mut paths: Vec<Utf8PathBuf> = Vec::new();
        for entry in folder.read_dir_utf8().with_context(|| format!("{folder}: cannot be read"))? {
            let path = entry?.into_path();
            if path.extension() == Some("safetensors") {
                paths.push(path);
            }
        }
        paths.sort();
        ensure!(!paths.is_empty(), "{folder}: got no *.safetensors, expected a checkpoint");
        let mut it = Self { entries: BTreeMap::new(), files: Vec::new(), bytes: Vec::new() };
        for path in paths {
            it.add(&path)?;
        }
        Ok(it)
    }

    fn add(&mut self, path: &Utf8Path) -> anyhow::Result<()> {
        let mut file = fs::File::open(path).with_context(|| format!("{path}: cannot be opened"))?;
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
        let file = std::rc::Rc::new(file);
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
                shape: info.shape.clone(),
            };
            ensure!(self.entries.insert(name.clone(), entry).is_none(), "{path}: {name}: a second one");
        }
        let name = path.file_name().unwrap_or_default().to_owned();
        self.files.push(FileRecord { name, bytes: size, sha256 });
        Ok(())
    }

    pub(super) fn rows(
        &mut self,
        name: &str,
        shape: &[u64],
        first: u64,
        out: &mut [f32],
    ) -> anyhow::Result<()> {
        let entry = self.entries.get(name).with_context(|| format!("{name}: not in the checkpoint"))?;
        let got: Vec<u64> = entry.shape.iter().map(|size| *size as u64).collect();
        ensure!(got == shape, "{}: {name}: got shape {got:?}, expected {shape:?}", entry.path);
        let precision = match entry.dtype {
            Dtype::BF16 => Precision::Bf16,
            Dtype::F16 => Precision::F16,
            Dtype::F32 => Precision::F32,
            other => bail!("{}: {name}: got {other:?}, expected BF16, F16 or F32", entry.path),
        };
        let width: u64 = shape.get(1..).unwrap_or_default().iter().product();
        self.bytes.resize(out.len() * precision.bytes(), 0);
        let offset = entry.offset + first * width * precision.bytes() as u64;
        let read = entry.file.read_exact_at(&mut self.bytes, offset);
        read.with_context(|| format!("{}: {name}: cannot be read", entry.path))?;
        finite(name, precision.read(&self.bytes, out))
    }
}

/// A number that is none spoils its whole block, and what is finite after it was quantized was not before.
fn finite(name: &str, place: Option<usize>) -> anyhow::Result<()> {
    match place {
        Some(place) => bail!("{name}: got a weight that is not finite, {place} after the first of its chunk"),
        None => Ok(()),
    }
}

/// The process that generates the weights of a rehearsal: the very ones of the `.pte`'s.
pub(super) struct Generator {
    child: Child,
    bytes: Vec<u8>,
}

impl Generator {
    /// Starts it; `names` are the tensors in the order in which they will be asked for.
    pub(super) fn start(
        workspace: &Workspace,
        seed: u64,
        architecture: &Architecture,
        names: &[String],
    ) -> anyhow::Result<Self> {
        let request = json!({"seed": seed, "architecture": architecture, "names": names}).to_string();
        let script = workspace.python_sources().join("random_weights.py");
        let child = Command::new(workspace.python())
            .args([script.as_str(), &request])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{}: cannot be started", workspace.python()))?;
        Ok(Self { child, bytes: Vec::new() })
    }

    fn next(&mut self, name: &str, out: &mut [f32]) -> anyhow::Result<()> {
        self.bytes.resize(out.len() * 4, 0);
        let stdout = self.child.stdout.as_mut().context("the generator has no output")?;
        stdout
            .read_exact(&mut self.bytes)
            .with_context(|| format!("{name}: the generator ended before it had written all"))?;
        finite(name, Precision::F32.read(&self.bytes, out))
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        // It has ended by itself, unless the export failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
