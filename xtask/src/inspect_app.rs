//! `cargo xtask inspect` on an app binary: which model is inside, and whether its proof still holds.
//!
//! **Invariant:** the verdict is computed here, from the bytes in the binary, by the same function as the gate; what
//! the binary says of itself is only what is checked.

use std::fs::File;

use anyhow::anyhow;
use camino::Utf8Path;
use model_assets::{
    check::Profile,
    provenance::{self, Block, HEADER_BYTES},
    pte::ReadAt,
};
use serde_json::{Value, json};

use crate::{
    EXIT_REFUSED, EXIT_UNSUPPORTED, Failure, Outcome,
    package::native::{self, Slice},
};

pub(crate) fn run(path: &Utf8Path, file: &File, as_json: bool) -> Outcome {
    let blocks = provenance::find(file)
        .map_err(|error| Failure::new(EXIT_REFUSED, anyhow!("{path}: {error}"), "build the app again"))?;
    if blocks.is_empty() {
        let error =
            anyhow!("{path}: got a binary without a proof block, expected an app that the gate built");
        return Err(Failure::new(EXIT_UNSUPPORTED, error, "run: cargo build -p app"));
    }
    let slices = native::slices(file).unwrap_or_default();
    let verdicts: Vec<_> = blocks.iter().map(|block| Verdict::of(block, file, &slices)).collect();
    if as_json {
        let all: Vec<_> =
            blocks.iter().zip(&verdicts).map(|(block, verdict)| show_json(block, verdict)).collect();
        println!("{}", serde_json::to_string_pretty(&json!({"file": path, "models": all}))?);
    } else {
        blocks.iter().zip(&verdicts).for_each(|(block, verdict)| show(path, block, verdict));
    }
    match verdicts.iter().find_map(|verdict| verdict.dev.as_ref().err()) {
        None => Ok(()),
        Some(reason) => {
            let hint = "do not ship this binary; build it again from a proved model";
            Err(Failure::new(EXIT_REFUSED, anyhow!("{path}: {reason}"), hint))
        }
    }
}

/// What holds of an embedded model; a linked one cannot be judged from the binary.
pub(crate) struct Verdict {
    pub(crate) linked: bool,
    pub(crate) dev: Result<(), String>,
    pub(crate) release: Result<(), String>,
}

impl Verdict {
    /// Judges a block by the bytes of its file. `slices` are those of a native file; empty when it is another kind.
    pub(crate) fn of(block: &Block, file: &dyn ReadAt, slices: &[Slice]) -> Self {
        let linked = block.pte.is_none();
        let end = block.pte.map_or(block.offset + HEADER_BYTES, |(offset, len)| offset + len);
        if !slices.is_empty() && !slices.iter().any(|slice| slice.maps(&(block.offset..end))) {
            let reason = format!(
                "block at {}: got bytes that no loader maps, expected a part of the code's file",
                block.offset
            );
            return Self { linked, dev: Err(reason.clone()), release: Err(reason) };
        }
        Self::judged(linked, |profile| match block.validate(file, profile) {
            None | Some(Ok(_)) => Ok(()),
            Some(Err(refusal)) => Err(refusal.to_string()),
        })
    }

    /// What is proved for release is proved for dev: large models are hashed once.
    pub(crate) fn judged(linked: bool, judge: impl Fn(Profile) -> Result<(), String>) -> Self {
        let release = judge(Profile::Release);
        let dev = if release.is_ok() { Ok(()) } else { judge(Profile::Dev) };
        Self { linked, dev, release }
    }

    /// One line, or the reasons of a refusal.
    pub(crate) fn text(&self) -> String {
        match (self.linked, &self.dev, &self.release) {
            (true, Ok(()), _) => {
                "linked: the binary holds the digest; the app proves the file when it loads it".to_owned()
            }
            (_, Err(reason), _) => format!("REFUSED: {reason}"),
            (false, Ok(()), Err(reason)) => format!("proved for dev; not for release: {reason}"),
            (false, Ok(()), Ok(())) => "proved for release".to_owned(),
        }
    }
}

fn show(path: &Utf8Path, block: &Block, verdict: &Verdict) {
    let manifest = &block.claim.manifest;
    println!("{path}: block at {}", block.offset);
    println!("  model      {} ({})", manifest.model, manifest.file);
    println!("  sha256     {}", manifest.sha256);
    println!("  size       {} bytes", manifest.file_bytes);
    println!("  weights    {:?}, {}", manifest.weights, manifest.export.quantization.as_str());
    println!("  exported   {} by executorch {}", manifest.published, manifest.toolchain.executorch);
    println!("  prd        {}", if manifest.prd_compliant { "compliant" } else { "not compliant" });
    println!("  licence    {}", block.claim.recipe.licence.id);
    println!("  verdict    {}", verdict.text());
}

fn show_json(block: &Block, verdict: &Verdict) -> Value {
    json!({
        "offset": block.offset,
        "place": if verdict.linked { "linked" } else { "embedded" },
        "proved_for_dev": verdict.dev.is_ok() && !verdict.linked,
        "proved_for_release": verdict.release.is_ok() && !verdict.linked,
        "verdict": verdict.text(),
        "manifest": block.claim.manifest,
    })
}
