//! The small models of the study: the real worker exports them, in shapes that the seed decides.

use std::{fs, time::Duration};

use anyhow::{Context as _, bail};
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{digest::Digest, random::SplitMix64};
use serde_json::{Value, json};

use crate::{
    console::Console,
    supervise::{self, Bounds},
    workspace::Workspace,
};

/// A file of the study.
pub(crate) struct Subject {
    pub(crate) name: String,
    pub(crate) path: Utf8PathBuf,
    /// What it is, in a line.
    pub(crate) about: String,
    /// The operator that the program is about; none of a language model.
    pub(crate) operator: Option<String>,
}

impl Subject {
    /// A file from the command line.
    pub(crate) fn given(path: &Utf8Path) -> Self {
        let name = path.file_stem().unwrap_or("model").to_owned();
        let about = format!("`{}`", path.file_name().unwrap_or_default());
        Self { name, path: path.to_owned(), about, operator: None }
    }

    /// A program of one operator.
    pub(crate) fn program(operator: &str, path: Utf8PathBuf) -> Self {
        let operator = Some(operator.to_owned());
        Self { operator, ..Self::given(&path) }
    }
}

/// Name, quantization, how linears take their inputs, backend, whether embedding and head are tied.
const KINDS: [(&str, &str, &str, &str, bool); 8] = [
    ("int8-tied", "int8", "rotated", "xnnpack", true),
    ("int8-untied", "int8", "rotated", "xnnpack", false),
    ("int4-tied", "int4", "rotated", "xnnpack", true),
    ("int4-untied", "int4", "rotated", "xnnpack", false),
    ("fp32", "fp32", "one-row", "xnnpack", false),
    ("portable", "fp32", "one-row", "portable", true),
    ("int8-two-rows", "int8", "two-rows", "xnnpack", true),
    ("int4-two-rows", "int4", "two-rows", "xnnpack", false),
];

const WORKER_MEMORY_BYTES_MAX: u64 = 8_000_000_000;
const WORKER_STALL: Duration = Duration::from_secs(300);

/// Digest of the Python sources in a folder.
pub(super) fn digest_of(folder: &Utf8Path) -> anyhow::Result<Digest> {
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
    let mut random = SplitMix64::new(seed);
    let folder = workspace.state().join(format!("mutation/seed-{seed}"));
    let sources = digest_of(&workspace.python_sources().join("proofmark_worker"))?.to_string();
    let mut subjects = Vec::new();
    for (name, quantization, activations, backend, tied) in KINDS {
        let architecture = shape(tied, &mut random);
        let seq_len = 16 + 8 * random.below(6);
        let about = describe(&architecture, seq_len);
        let folder = folder.join(name);
        let pte = folder.join("model.pte");
        let request = json!({
            "protocol": 1, "model": name, "source": {"kind": "random", "seed": seed},
            "architecture": architecture, "quantization": quantization, "activations": activations,
            "seq_len": seq_len, "backend": backend,
            "bos_id": 1, "eos_ids": [2], "expected_partitions": null, "expected_delegated_linears": null,
            "file_bytes_min": 1, "file_bytes_max": 50_000_000, "threads": 1,
            "work_dir": folder, "pte": pte, "reference": folder.join("reference.safetensors"),
            "response": folder.join("response.json"),
            "reference_prompt": [1, 5, 9, 2], "reference_decode": [3, 4], "words": null,
        });
        let receipt = folder.join("made-of");
        let fresh = fs::read_to_string(&receipt).is_ok_and(|made| made == sources);
        if again || !fresh || !is_answered(&folder, &request) {
            make(workspace, &folder, &request)?;
            fs::write(&receipt, &sources)?;
        }
        subjects.push(Subject { name: format!("{name}-{seed}"), path: pte, about, operator: None });
    }
    Ok(subjects)
}

/// A Llama small enough that each of its bytes can be tried.
fn shape(tied: bool, random: &mut SplitMix64) -> Value {
    let scaling = json!({"kind": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                         "original_max_position": 8192});
    let kv_heads = 1 + random.below(2);
    json!({
        "family": "llama", "dim": 32 * (1 + random.below(2)), "layers": 1 + random.below(2),
        "heads": kv_heads * 2, "kv_heads": kv_heads, "head_dim": 16 * (1 + random.below(2)),
        "ffn": 32 * (1 + random.below(3)), "vocab": 64 + 16 * random.below(4), "tied": tied,
        "norm_eps": 1e-5, "rope_theta": 10_000.0,
        "rope_scaling": if random.below(2) == 0 { Value::Null } else { scaling },
    })
}

fn describe(architecture: &Value, seq_len: usize) -> String {
    let number = |key: &str| architecture[key].as_u64().unwrap_or(0);
    format!(
        "{} layers, width {}, {} heads of {} over {} key/value heads, ffn {}, vocabulary {}, sequence {seq_len}",
        number("layers"),
        number("dim"),
        number("heads"),
        number("head_dim"),
        number("kv_heads"),
        number("ffn"),
        number("vocab"),
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
