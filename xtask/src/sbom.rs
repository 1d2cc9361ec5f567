//! `cargo xtask sbom`: a model's bill of materials as CycloneDX 1.6 (ML-BOM): what it is, what it was made of and with, and
//! how it was judged.
//!
//! **Invariant:** everything in it comes from the manifest and the recipe of a model that was proved in this very run, and
//! nothing from this machine or this moment: the same model gives the same bytes.

use std::{fs, io::Write as _};

use anyhow::Context as _;
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{
    check::Profile,
    claim::Claim,
    digest::Digest,
    dir::ModelDir,
    evidence::{Evidence, Metric},
    manifest::{FileRecord, MANIFEST_FILE, Manifest},
    recipe::{Licence, Source},
    regular,
};
use serde_json::{Value, json};

use crate::{
    atomic_file::{AtomicFile, folder},
    exit::Outcome,
    published::Published,
    workspace::Workspace,
};

/// Largest record of a training that is read.
const TRAINING_BYTES_MAX: u64 = 1 << 20;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model: a directory of `model-assets/models`
    #[arg(default_value = "tiny")]
    model: String,
    /// Where to write it [default: .proofmark/sbom/MODEL.cdx.json]
    #[arg(long, value_name = "FILE")]
    out: Option<Utf8PathBuf>,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Outcome {
    let model = Published::open(workspace, &args.model, false)?;
    let Published { dir, claim, files } = &model;
    model.prove()?.judge(claim, Profile::Dev)?;
    let name = format!("{}.cdx.json", args.model);
    let out = args.out.clone().unwrap_or_else(|| workspace.state().join("sbom").join(name));
    let mut bytes = serde_json::to_vec_pretty(&bill(dir, claim, Digest::of(&files.manifest)))?;
    bytes.push(b'\n');
    write(&out, &bytes)?;
    println!("{out}: {} bytes", bytes.len());
    Ok(())
}

fn write(out: &Utf8Path, bytes: &[u8]) -> anyhow::Result<()> {
    let folder = folder(out);
    fs::create_dir_all(folder).with_context(|| format!("{folder}: cannot be made"))?;
    let mut file = AtomicFile::create(out)?;
    file.write_all(bytes).with_context(|| format!("{out}: cannot be written"))?;
    file.put_in_place()
}

/// The whole bill. `manifest` is the digest of the manifest's bytes: it identifies the bill.
fn bill(dir: &ModelDir, claim: &Claim, manifest: Digest) -> Value {
    let it = &claim.manifest;
    let parts = parts(claim, manifest);
    let refs: Vec<_> = parts.iter().map(|part| part["bom-ref"].clone()).collect();
    json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": format!("urn:uuid:{}", uuid(manifest)),
        "version": 1,
        "metadata": {
            "timestamp": it.published,
            "tools": {"components": tools(it)},
            "component": model(dir, claim),
        },
        "components": parts,
        "dependencies": [{"ref": reference(&it.file), "dependsOn": refs}],
    })
}

/// The model itself.
fn model(dir: &ModelDir, claim: &Claim) -> Value {
    let Claim { recipe, manifest, .. } = claim;
    let mut component = json!({
        "type": "machine-learning-model",
        "bom-ref": reference(&manifest.file),
        "name": recipe.name,
        "version": manifest.sha256.short(),
        "description": recipe.description,
        "hashes": [{"alg": "SHA-256", "content": manifest.sha256}],
        "licenses": [licence(&recipe.licence)],
        "modelCard": {
            "modelParameters": {
                "approach": {"type": "self-supervised"},
                "task": "text generation",
                "architectureFamily": "transformer decoder",
                "modelArchitecture": format!("{:?}", recipe.architecture.family),
                "datasets": datasets(dir, claim),
                "inputs": manifest.structure.inputs.iter().map(format_of).collect::<Vec<_>>(),
                "outputs": manifest.structure.outputs.iter().map(format_of).collect::<Vec<_>>(),
            },
            "quantitativeAnalysis": {"performanceMetrics": metrics(claim)},
            "considerations": {
                "technicalLimitations": [
                    format!("a window of {} tokens, in which the oldest turns are forgotten first", recipe.export.seq_len),
                    "what the model says is not checked by the measurements here",
                ],
            },
        },
        "properties": properties(claim),
    });
    if let Some(words) = &recipe.licence.attribution {
        component["copyright"] = json!(words);
    }
    if let Source::Hub { repo, revision, .. } = &manifest.source.source {
        component["pedigree"] = json!({"ancestors": [{
            "type": "machine-learning-model",
            "bom-ref": format!("checkpoint:{repo}@{revision}"),
            "name": repo,
            "version": revision,
            "purl": format!("pkg:huggingface/{repo}@{revision}"),
            "licenses": [licence(&recipe.licence)],
        }]});
    }
    component
}

fn format_of(io: &model_assets::pte::summary::Io) -> Value {
    // `Io` serialises to what the manifest shows of it.
    json!({"format": serde_json::to_string(io).unwrap_or_default()})
}

/// What it was trained on: its own record where it has one; of a checkpoint from a hub nothing is known here.
fn datasets(dir: &ModelDir, claim: &Claim) -> Value {
    let training = regular::read(dir.path().join("training.json"), TRAINING_BYTES_MAX).ok();
    let training = training.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    let (Some(training), Source::Path { .. }) = (training, &claim.manifest.source.source) else {
        return json!([]);
    };
    let property = |name: &str| {
        let value = training.get(name)?;
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Some(json!({"name": format!("proofmark:training:{name}"), "value": text}))
    };
    let names = ["command", "seed", "steps", "text_sha256", "torch", "heldout_perplexity"];
    let facts: Vec<_> = names.into_iter().filter_map(property).collect();
    json!([{
        "type": "dataset",
        "name": format!("{} training text", claim.recipe.name),
        "description": "generated by the repository's own grammar; no outside text",
        "contents": {"properties": facts},
    }])
}

/// What was measured of its quality, as the manifest records it.
fn metrics(claim: &Claim) -> Vec<Value> {
    let measured = claim.manifest.evidence.iter().flat_map(Evidence::measured);
    let metrics = measured.flat_map(|(_, measured)| measured.metrics(&claim.asked()));
    let metric =
        |Metric { name, slice, value }| json!({"type": name, "slice": slice, "value": format!("{value:.6}")});
    metrics.map(metric).collect()
}

fn properties(claim: &Claim) -> Value {
    let Claim { recipe, manifest, .. } = claim;
    let Manifest { export, structure, toolchain, .. } = manifest;
    let mut rows = vec![
        ("file", manifest.file.clone()),
        ("file_bytes", manifest.file_bytes.to_string()),
        ("parameters", export.parameters.to_string()),
        ("quantization", export.quantization.as_str().to_owned()),
        ("seq_len", export.seq_len.to_string()),
        ("backend", export.backend.as_str().to_owned()),
        ("delegated_linears", structure.delegated_linears.to_string()),
        ("planned_bytes", structure.planned_bytes.to_string()),
        ("recipe", manifest.bound.recipe.to_string()),
        ("policy", manifest.bound.policy.to_string()),
        ("export_lock", toolchain.lock.to_string()),
        ("export_worker", toolchain.worker.to_string()),
        ("prd_compliant", manifest.prd_findings(&claim.policy).is_empty().to_string()),
        ("licence", recipe.licence.id.clone()),
    ];
    rows.sort_unstable();
    let property = |(name, value)| json!({"name": format!("proofmark:{name}"), "value": value});
    rows.into_iter().map(property).collect()
}

/// The files that go with the model, and those that it was made of.
fn parts(claim: &Claim, manifest: Digest) -> Vec<Value> {
    let Claim { recipe, manifest: it, tokenizer, chat_template, .. } = claim;
    let own = licence(&recipe.licence);
    let part = |kind: &str, name: &str, sha256: Digest, role: &str| {
        json!({
            "type": kind,
            "bom-ref": reference(name),
            "name": name,
            "hashes": [{"alg": "SHA-256", "content": sha256}],
            "licenses": [own],
            "properties": [{"name": "proofmark:role", "value": role}],
        })
    };
    let mut parts = vec![part("file", MANIFEST_FILE, manifest, "evidence")];
    if let Some(bytes) = tokenizer {
        parts.push(part("file", &recipe.tokens.tokenizer, Digest::of(bytes), "tokenizer"));
    }
    if let Some(text) = chat_template {
        parts.push(part("file", &recipe.tokens.chat_template, Digest::of(text.as_bytes()), "chat template"));
    }
    let FileRecord { name, sha256, .. } = &it.reference;
    parts.push(part("data", name, *sha256, "reference logits of the eager model"));
    let checkpoint = it.source.files.iter();
    parts.extend(checkpoint.map(|file| part("data", &file.name, file.sha256, "checkpoint")));
    parts.sort_by_key(|part| part["bom-ref"].as_str().map(str::to_owned));
    // A checkpoint may hold the tokenizer, too.
    parts.dedup_by_key(|part| part["bom-ref"].clone());
    parts
}

/// What had a hand in the bytes.
fn tools(manifest: &Manifest) -> Vec<Value> {
    let it = &manifest.toolchain;
    let python = [
        ("executorch", &it.executorch),
        ("safetensors", &it.safetensors),
        ("torch", &it.torch),
        ("torchao", &it.torchao),
    ];
    let package = |(name, version): (&str, &String)| json!({"type": "library", "name": name, "version": version, "purl": format!("pkg:pypi/{name}@{version}")});
    let mut tools: Vec<_> = python.into_iter().map(package).collect();
    tools.push(json!({"type": "platform", "name": "python", "version": it.python}));
    tools.push(json!({
        "type": "application",
        "name": "proofmark xtask",
        "version": it.xtask_revision.as_deref().unwrap_or("unknown"),
    }));
    tools
}

/// An SPDX id where it is one that this repository uses, else the licence's name.
fn licence(licence: &Licence) -> Value {
    if licence.id == model_assets::licence::OWN_LICENCE {
        return json!({"license": {"id": licence.id}});
    }
    json!({"license": {"name": licence.id}})
}

fn reference(name: &str) -> String {
    format!("file:{name}")
}

/// A UUID of version 8: its bits are the digest's.
fn uuid(digest: Digest) -> String {
    let mut bytes = digest.to_bytes();
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let part = |range: std::ops::Range<usize>| hex.get(range).unwrap_or_default().to_owned();
    [part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)].join("-")
}

#[cfg(test)]
mod tests;
