//! `cargo xtask inspect` on an app binary: which model is inside, and whether its proof still holds.
//!
//! **Invariant:** the verdict is computed here, from the bytes in the binary, by the same function as the gate; what
//! the binary says of itself is only what is checked.

use std::fs::File;

use anyhow::anyhow;
use camino::Utf8Path;
use model_assets::{
    check::Profile,
    provenance::{self, Block},
};
use serde_json::{Value, json};

use crate::{EXIT_REFUSED, EXIT_UNSUPPORTED, Failure, Outcome};

pub(crate) fn run(path: &Utf8Path, file: &File, as_json: bool) -> Outcome {
    let blocks = provenance::find(file)
        .map_err(|error| Failure::new(EXIT_REFUSED, anyhow!("{path}: {error}"), "build the app again"))?;
    if blocks.is_empty() {
        let error =
            anyhow!("{path}: got a binary without a proof block, expected an app that the gate built");
        return Err(Failure::new(EXIT_UNSUPPORTED, error, "run: cargo build -p app"));
    }
    let verdicts: Vec<_> = blocks.iter().map(|block| Verdict::of(block, file)).collect();
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
struct Verdict {
    linked: bool,
    dev: Result<(), String>,
    release: Result<(), String>,
}

impl Verdict {
    fn of(block: &Block, file: &File) -> Self {
        let judge = |profile| match block.validate(file, profile) {
            None => Ok(()),
            Some(Ok(_)) => Ok(()),
            Some(Err(refusal)) => Err(refusal.to_string()),
        };
        Self { linked: block.pte.is_none(), dev: judge(Profile::Dev), release: judge(Profile::Release) }
    }

    fn text(&self) -> String {
        match (self.linked, &self.dev, &self.release) {
            (true, ..) => {
                "linked: the binary holds the digest; the app proves the file when it loads it".to_owned()
            }
            (false, Err(reason), _) => format!("REFUSED: {reason}"),
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
