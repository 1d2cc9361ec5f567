//! `cargo xtask inspect` on an app binary: which model is inside, and whether its proof still holds.
//!
//! **Invariant:** what a loader maps is what is judged: a native file that cannot be read is refused, and so is a universal one
//! with a proof in some of its slices.
//!
//! **Invariant:** every verdict is computed here, from the bytes in the binary, by the same function as the gate; what
//! the binary says of itself is only what is checked.

use std::{fs::File, ops::Range};

use anyhow::anyhow;
use camino::Utf8Path;
use model_assets::{
    check::{Profile, Proved},
    claim::Claim,
    provenance::{self, Block, HEADER_BYTES},
    pte::ReadAt,
};
use serde_json::{Value, json};

use crate::{
    exit::{Exit, Failure, Outcome},
    package::native::{self, Slice},
};

/// Judges the blocks of a binary; `profile` is what they must be proved for.
pub(super) fn run(path: &Utf8Path, file: &File, profile: Profile, as_json: bool) -> Outcome {
    let refused = |error: anyhow::Error, hint: &str| Err(Failure::new(Exit::Refused, error, hint));
    let blocks = match provenance::find(file) {
        Ok(blocks) => blocks,
        Err(error) => return refused(anyhow!("{path}: {error}"), "build the app again"),
    };
    if blocks.is_empty() {
        let error =
            anyhow!("{path}: got a binary without a proof block, expected an app that the gate built");
        return Err(Failure::new(Exit::Unsupported, error, "run: cargo build -p app"));
    }
    // What cannot be read is refused: a loader may well read it, and map other bytes than the block's.
    let read = if is_windows(file) { Ok(None) } else { native::slices(file).map(Some) };
    let slices = match read {
        Ok(slices) => slices,
        Err(error) => {
            return refused(error.context(format!("{path}: cannot be read as its loader does")), SHIP_NOT);
        }
    };
    let verdicts: Vec<_> =
        blocks.iter().map(|block| AppVerdict::of(block, file, slices.as_deref())).collect();
    let warning = slices.is_none().then_some(UNCHECKED);
    if as_json {
        let all: Vec<_> =
            blocks.iter().zip(&verdicts).map(|(block, verdict)| show_json(block, verdict)).collect();
        let warnings = Vec::from_iter(warning);
        let report = json!({"file": path, "models": all, "warnings": warnings});
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        blocks.iter().zip(&verdicts).for_each(|(block, verdict)| show(path, block, verdict));
        warning.iter().for_each(|warning| println!("warning: {warning}"));
    }
    if let Some(reason) = verdicts.iter().find_map(|verdict| verdict.demanded(profile).err()) {
        return refused(anyhow!("{path}: {reason}"), SHIP_NOT);
    }
    match slices.iter().flatten().find(|slice| !blocks.iter().any(|block| slice.maps(&extent(block)))) {
        None => Ok(()),
        Some(slice) => refused(anyhow!("{path}: {}", without_proof(slice)), SHIP_NOT),
    }
}

const SHIP_NOT: &str = "do not ship this binary; build it again from a proved model";
const UNCHECKED: &str =
    "which bytes the loader of Windows maps was not checked: a block could have been appended";

/// A PE file, of which the slices are not read.
fn is_windows(file: &File) -> bool {
    let mut head = [0; 2];
    file.read_exact_at(&mut head, 0).is_ok() && head == *b"MZ"
}

/// The bytes of a block, with an embedded model's.
pub(super) fn extent(block: &Block) -> Range<u64> {
    block.offset..block.pte.map_or(block.offset + HEADER_BYTES, |(offset, len)| offset + len)
}

/// Why a universal binary is refused that has a proof for another processor only.
pub(super) fn without_proof(slice: &Slice) -> String {
    format!("{}: got no proof block in this slice, expected one in each", slice.abi)
}

/// What holds of an embedded model; a linked one cannot be judged from the binary.
pub(super) struct AppVerdict {
    pub(super) linked: bool,
    pub(super) dev: Result<(), String>,
    pub(super) release: Result<(), String>,
}

impl AppVerdict {
    /// Judges a block by the bytes of its file. `slices` are those of a native file; none of another kind.
    pub(super) fn of(block: &Block, file: &dyn ReadAt, slices: Option<&[Slice]>) -> Self {
        let linked = block.pte.is_none();
        if slices.is_some_and(|slices| !slices.iter().any(|slice| slice.maps(&extent(block)))) {
            let reason = format!(
                "block at {}: got bytes that no loader maps, expected a part of the code's file",
                block.offset
            );
            return Self { linked, ..Self::refused(reason) };
        }
        match block.prove(file) {
            None => Self { linked, dev: Ok(()), release: Ok(()) },
            Some(proved) => Self::judged(&proved, &block.claim),
        }
    }

    /// What was not even read.
    pub(super) fn refused(reason: String) -> Self {
        Self { linked: false, dev: Err(reason.clone()), release: Err(reason) }
    }

    /// What holds of bytes that were read.
    pub(super) fn judged<S>(proved: &Proved<S>, claim: &Claim) -> Self {
        let judge = |profile| proved.judge(claim, profile).map(drop).map_err(|refusal| refusal.to_string());
        let release = judge(Profile::Release);
        // What is proved for release is proved for dev.
        let dev = if release.is_ok() { Ok(()) } else { judge(Profile::Dev) };
        Self { linked: false, dev, release }
    }

    /// Whether it holds what is demanded.
    pub(super) fn demanded(&self, profile: Profile) -> Result<(), &String> {
        let holds = if profile == Profile::Release { &self.release } else { &self.dev };
        holds.as_ref().copied()
    }

    /// One line, or the reasons of a refusal.
    pub(super) fn text(&self) -> String {
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

fn show(path: &Utf8Path, block: &Block, verdict: &AppVerdict) {
    let manifest = &block.claim.manifest;
    println!("{path}: block at {}", block.offset);
    println!("  model      {} ({})", manifest.model, manifest.file);
    println!("  sha256     {}", manifest.sha256);
    println!("  size       {} bytes", manifest.file_bytes);
    println!("  weights    {:?}, {}", manifest.weights, manifest.export.quantization.as_str());
    println!("  exported   {} by executorch {}", manifest.published, manifest.toolchain.executorch);
    let unmet = manifest.prd_findings(&block.claim.policy);
    println!("  prd        {}", if unmet.is_empty() { "compliant" } else { "not compliant" });
    println!("  licence    {}", block.claim.recipe.licence.id);
    println!("  verdict    {}", verdict.text());
}

fn show_json(block: &Block, verdict: &AppVerdict) -> Value {
    json!({
        "offset": block.offset,
        "place": if verdict.linked { "linked" } else { "embedded" },
        "proved_for_dev": verdict.dev.is_ok() && !verdict.linked,
        "proved_for_release": verdict.release.is_ok() && !verdict.linked,
        "verdict": verdict.text(),
        "prd_reasons": block.claim.manifest.prd_findings(&block.claim.policy),
        "manifest": block.claim.manifest,
    })
}
