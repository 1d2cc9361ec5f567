//! The small models of the study: the real worker exports them, in shapes that the seed decides.

use std::{fs, time::Duration};

use anyhow::{Context as _, bail};
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{
    digest::Digest,
    random::SplitMix64,
    recipe::{Activation, Activations, Backend, Family, Quantization, RopeScaling},
};
use serde_json::Value;

use crate::{
    console::Console,
    protocol::{self, Architecture},
    supervise::{self, Bounds},
    workspace::Workspace,
};

/// A file of the study.
pub(crate) struct Subject {
    pub(crate) name: String,
    pub(crate) path: Utf8PathBuf,
    /// What it is, in a line.
    pub(crate) description: String,
    /// The operator that the program is about; none of a language model.
    pub(crate) operator: Option<String>,
}

impl Subject {
    /// A file from the command line.
    pub(crate) fn given(path: &Utf8Path) -> Self {
        let name = path.file_stem().unwrap_or("model").to_owned();
        let description = format!("`{}`", path.file_name().unwrap_or_default());
        Self { name, path: path.to_owned(), description, operator: None }
    }

    /// A program of one operator.
    pub(crate) fn program(operator: &str, path: Utf8PathBuf) -> Self {
        let operator = Some(operator.to_owned());
        Self { operator, ..Self::given(&path) }
    }
}

/// One of the small models.
struct Kind {
    name: &'static str,
    family: Family,
    quantization: Quantization,
    activations: Activations,
    backend: Backend,
    tied: bool,
}

impl Kind {
    const fn new(
        name: &'static str,
        quantization: Quantization,
        activations: Activations,
        tied: bool,
    ) -> Self {
        let (family, backend) = (Family::Llama, Backend::Xnnpack);
        Self { name, family, quantization, activations, backend, tied }
    }

    const fn of(self, family: Family) -> Self {
        Self { family, ..self }
    }

    const fn portable(self) -> Self {
        Self { backend: Backend::Portable, ..self }
    }
}

const KINDS: [Kind; 8] = [
    Kind::new("int8-tied", Quantization::Int8, Activations::Rotated, true),
    Kind::new("int8-untied", Quantization::Int8, Activations::Rotated, false),
    Kind::new("int4-tied", Quantization::Int4, Activations::Rotated, true),
    Kind::new("int4-untied", Quantization::Int4, Activations::Rotated, false),
    Kind::new("fp32", Quantization::Fp32, Activations::OneRow, false),
    Kind::new("portable", Quantization::Fp32, Activations::OneRow, true).portable(),
    Kind::new("int8-two-rows", Quantization::Int8, Activations::TwoRows, true),
    Kind::new("int4-two-rows", Quantization::Int4, Activations::TwoRows, false),
];

/// What other families than Llama have of their own: biases and norms of queries and keys; norms before the residual, and
/// another activation.
const FEATURES: [Kind; 10] = [
    Kind::new("qwen-int8", Quantization::Int8, Activations::Rotated, true).of(Family::Qwen3),
    Kind::new("qwen-int8-two-rows", Quantization::Int8, Activations::TwoRows, false).of(Family::Qwen3),
    Kind::new("qwen-int4", Quantization::Int4, Activations::Rotated, false).of(Family::Qwen3),
    Kind::new("qwen-int4-two-rows", Quantization::Int4, Activations::TwoRows, true).of(Family::Qwen3),
    Kind::new("qwen-fp32", Quantization::Fp32, Activations::OneRow, true).of(Family::Qwen3),
    Kind::new("qwen-portable", Quantization::Fp32, Activations::OneRow, false).of(Family::Qwen3).portable(),
    Kind::new("gemma-int8", Quantization::Int8, Activations::TwoRows, true).of(Family::Gemma3),
    Kind::new("gemma-int4", Quantization::Int4, Activations::TwoRows, true).of(Family::Gemma3),
    Kind::new("gemma-fp32", Quantization::Fp32, Activations::OneRow, true).of(Family::Gemma3),
    Kind::new("gemma-portable", Quantization::Fp32, Activations::OneRow, true).of(Family::Gemma3).portable(),
];

const WORKER_MEMORY_BYTES_MAX: u64 = 8_000_000_000;
const WORKER_STALL: Duration = Duration::from_secs(300);

/// Digest of the Python sources in a folder.
pub(crate) fn digest_of(folder: &Utf8Path) -> anyhow::Result<Digest> {
    let mut text = String::new();
    for entry in walkdir::WalkDir::new(folder).sort_by_file_name() {
        let entry = entry?;
        if entry.file_type().is_file() && entry.path().extension().is_some_and(|extension| extension == "py")
        {
            let digest = Digest::of(&fs::read(entry.path())?);
            text += &format!("{digest} {}\n", entry.path().display());
        }
    }
    Ok(Digest::of(text.as_bytes()))
}

/// Exports one model of each kind, or takes what the very same request and sources made before.
pub(crate) fn export(workspace: &Workspace, seed: u64, again: bool) -> anyhow::Result<Vec<Subject>> {
    let made = exported(workspace, seed, again, &KINDS)?;
    Ok(made.into_iter().map(|(_, subject)| subject).collect())
}

/// The same, and those of every feature that a family has; each with the families whose calls it shows.
pub(crate) fn export_families(
    workspace: &Workspace,
    seed: u64,
    again: bool,
) -> anyhow::Result<Vec<(Vec<Family>, Subject)>> {
    let families_shown = |family| match family {
        Family::Qwen3 => vec![Family::Qwen2, Family::Qwen3],
        Family::Gemma3 => vec![Family::Gemma3],
        _ => Family::ALL.to_vec(),
    };
    let mut made = exported(workspace, seed, again, &KINDS)?;
    made.extend(exported(workspace, seed, again, &FEATURES)?);
    Ok(made.into_iter().map(|(family, subject)| (families_shown(family), subject)).collect())
}

fn exported(
    workspace: &Workspace,
    seed: u64,
    again: bool,
    kinds: &[Kind],
) -> anyhow::Result<Vec<(Family, Subject)>> {
    let mut random = SplitMix64::new(seed);
    let folder = workspace.state().join(format!("mutation/seed-{seed}"));
    let sources = digest_of(&workspace.python_sources().join("proofmark_worker"))?.to_string();
    let mut subjects = Vec::new();
    for kind in kinds {
        let architecture = shape(kind, &mut random)?;
        let seq_len = u32::try_from(16 + 8 * random.below(6))?;
        let description = describe(&architecture, seq_len);
        let folder = folder.join(kind.name);
        let request = request(kind, seed, architecture, seq_len, &folder);
        let pte = request.pte.clone();
        let request = serde_json::to_value(request)?;
        let receipt = folder.join("made-of");
        let fresh = fs::read_to_string(&receipt).is_ok_and(|made| made == sources);
        if again || !fresh || !is_answered(&folder, &request) {
            make(workspace, &folder, &request)?;
            fs::write(&receipt, &sources)?;
        }
        let name = format!("{}-{seed}", kind.name);
        subjects.push((kind.family, Subject { name, path: pte, description, operator: None }));
    }
    Ok(subjects)
}

fn request(
    kind: &Kind,
    seed: u64,
    architecture: Architecture,
    seq_len: u32,
    folder: &Utf8Path,
) -> protocol::Export {
    protocol::Export {
        protocol: protocol::PROTOCOL,
        model: kind.name.to_owned(),
        source: protocol::Source::Random { seed },
        architecture,
        quantization: kind.quantization,
        activations: kind.activations,
        seq_len,
        backend: kind.backend,
        bos_id: 1,
        eos_ids: vec![2],
        expected_partitions: None,
        expected_delegated_linears: None,
        file_bytes_min: 1,
        file_bytes_max: 50_000_000,
        threads: 1,
        work_dir: folder.to_owned(),
        pte: folder.join("model.pte"),
        reference: folder.join("reference.safetensors"),
        response: folder.join("response.json"),
        reference_prompt: vec![1, 5, 9, 2],
        reference_decode: vec![3, 4],
        words: None,
    }
}

/// A decoder small enough that each of its bytes can be tried.
fn shape(kind: &Kind, random: &mut SplitMix64) -> anyhow::Result<Architecture> {
    let kv_heads = u32::try_from(1 + random.below(2))?;
    let mut below = |count: usize| u32::try_from(random.below(count));
    let (dim, layers) = (32 * (1 + below(2)?), 1 + below(2)?);
    let (head_dim, ffn, vocab) = (16 * (1 + below(2)?), 32 * (1 + below(3)?), 64 + 16 * below(4)?);
    let (factor, low_freq_factor, high_freq_factor) = (32.0, 1.0, 4.0);
    let llama3 =
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position: 8192 };
    let scaled = below(2)? != 0;
    let (qwen, gemma) = (kind.family == Family::Qwen3, kind.family == Family::Gemma3);
    Ok(Architecture {
        family: kind.family,
        dim,
        layers,
        heads: kv_heads * 2,
        kv_heads,
        head_dim,
        ffn,
        vocab,
        tied: kind.tied,
        norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: scaled.then_some(llama3),
        rotary_dim: head_dim,
        layer_kinds: Vec::new(),
        local_rope_theta: None,
        window: None,
        qkv_bias: qwen,
        qk_norm: qwen || gemma,
        post_norms: gemma,
        activation: if gemma { Activation::GeluTanh } else { Activation::Silu },
        embedding_scale: if gemma { 8.0 } else { 1.0 },
        attention_scale: gemma.then_some(0.125),
        gain_offset: if gemma { 1.0 } else { 0.0 },
        fused: false,
    })
}

fn describe(it: &Architecture, seq_len: u32) -> String {
    let Architecture { layers, dim, heads, head_dim, kv_heads, ffn, vocab, .. } = it;
    format!(
        "{layers} layers, width {dim}, {heads} heads of {head_dim} over {kv_heads} key/value heads, ffn {ffn}, vocabulary {vocab}, sequence {seq_len}"
    )
}

fn is_answered(folder: &Utf8Path, request: &Value) -> bool {
    let read =
        |name: &str| -> Option<Value> { serde_json::from_slice(&fs::read(folder.join(name)).ok()?).ok() };
    read("request.json").as_ref() == Some(request)
        && read("response.json").is_some_and(|response| response["ok"] == true)
        && folder.join("model.pte").exists()
}

fn make(workspace: &Workspace, folder: &Utf8Path, request: &Value) -> anyhow::Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder)?;
    let path = folder.join("request.json");
    fs::write(&path, serde_json::to_vec_pretty(request)?)?;
    eprintln!("export {folder}");
    let script = workspace.python_sources().join("proofmark_worker/run.py");
    let bounds = Bounds { memory_bytes_max: WORKER_MEMORY_BYTES_MAX, stall: WORKER_STALL };
    let log = folder.join("export.log");
    let run = supervise::run(&workspace.python(), &script, &path, &log, &bounds, &Console::Plain)?;
    if !run.ok || !is_answered(folder, request) {
        let why = run.killed.unwrap_or_else(|| run.tail.join("\n"));
        bail!("stage `{}`: the worker failed, see {log}: {why}", run.stage);
    }
    fs::metadata(folder.join("model.pte")).context("the worker wrote no model")?;
    Ok(())
}
