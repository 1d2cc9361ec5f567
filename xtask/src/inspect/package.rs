//! `cargo xtask inspect` on a packaged app: which model every ABI carries or links, whether its proof still holds, and
//! whether a phone can map it in place.
//!
//! **Invariant:** every native library and every `.pte` of the package is looked at, found by its bytes and not by its
//! name; a model that no proof block claims is refused like one that differs from its claim.

use std::{collections::BTreeMap, fs::File};

use anyhow::anyhow;
use camino::Utf8Path;
use model_assets::{
    check::{self, Expectation, Profile},
    claim::Claim,
    provenance::{self, Block, PTE_ALIGN_BYTES, Part},
};
use serde::Serialize;

use super::{
    app::{AppVerdict, extent, without_proof},
    asset::{Asset, placement},
};
use crate::{
    exit::{Exit, Failure, Outcome},
    package::{Item, Kind, Package, android_abi, native},
};

pub(super) fn run_zip(path: &Utf8Path, file: &File, profile: Profile, as_json: bool) -> Outcome {
    let hint = "build the package again with the platform's own tools";
    let package = Package::open_zip(file).map_err(|error| {
        Failure::new(Exit::Refused, error.context(format!("{path}: not a sound package")), hint)
    })?;
    match package {
        Some(package) => inspect(path, &package, profile, as_json),
        None => {
            let error =
                anyhow!("{path}: got an archive laid out like no app, expected an .apk, .aab or .ipa");
            Err(Failure::new(Exit::Unsupported, error, "unpack it and inspect the app inside"))
        }
    }
}

pub(super) fn run_folder(path: &Utf8Path, profile: Profile, as_json: bool) -> Outcome {
    let package = Package::open_folder(path)
        .map_err(|error| Failure::new(Exit::Refused, error, "inspect the app as its build left it"))?;
    inspect(path, &package, profile, as_json)
}

fn inspect(path: &Utf8Path, package: &Package, profile: Profile, as_json: bool) -> Outcome {
    let refused = |error: anyhow::Error| {
        Failure::new(
            Exit::Refused,
            error.context(path.to_string()),
            "build the app again from a proved model",
        )
    };
    let report = Report::of(path, package, profile).map_err(refused)?;
    if report.libraries.is_empty() {
        let error = anyhow!("{path}: got no native library, expected an app that the gate built");
        // A pack, delivered as an .apk beside the base, has the model and nothing that claims it.
        let hint =
            if report.models.is_empty() { "run: cargo xtask mobile android --dry-run" } else { BUNDLE };
        return Err(Failure::new(Exit::Unsupported, error, hint));
    }
    if as_json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.text());
    }
    match report.faults.first() {
        None => Ok(()),
        Some(first) => {
            let error = anyhow!("{path}: got {} faults, expected none: {first}", report.faults.len());
            Err(Failure::new(Exit::Refused, error, report.hint()))
        }
    }
}

/// Where the model of one part of an Android app may be.
const BUNDLE: &str =
    "if the model is in an asset pack, inspect the bundle, which has both: cargo xtask inspect APP.aab";

/// What is said of a package.
#[derive(Serialize)]
struct Report<'a> {
    file: &'a Utf8Path,
    kind: Kind,
    /// What the models must be proved for.
    #[serde(skip)]
    profile: Profile,
    libraries: Vec<Library>,
    models: Vec<Asset>,
    /// What a phone can live with, and a person should know.
    warnings: Vec<String>,
    /// What must not ship.
    faults: Vec<String>,
    /// How many of them are a linked model that is not in the package.
    #[serde(skip)]
    absent: usize,
}

/// A native file.
#[derive(Serialize)]
struct Library {
    name: String,
    abis: Vec<String>,
    /// The smallest alignment of what a loader maps.
    page_bytes: u64,
    blocks: Vec<Found>,
}

/// A proof block in a native file.
#[derive(Serialize)]
struct Found {
    offset: u64,
    model: String,
    sha256: String,
    linked: bool,
    proved_for_dev: bool,
    proved_for_release: bool,
    verdict: String,
    #[serde(skip)]
    refused: bool,
    /// Slice by slice, whether its loader maps the block.
    #[serde(skip)]
    mapped: Vec<bool>,
    #[serde(skip)]
    claim: Claim,
}

impl<'a> Report<'a> {
    fn of(path: &'a Utf8Path, package: &Package, profile: Profile) -> anyhow::Result<Self> {
        let mut report = Self {
            file: path,
            kind: package.kind(),
            profile,
            libraries: Vec::new(),
            models: Vec::new(),
            warnings: Vec::new(),
            faults: Vec::new(),
            absent: 0,
        };
        let mut programs = Vec::new();
        for item in package.items() {
            let head = package.head(item)?;
            if native::is_native(&head) {
                report.library(package, item)?;
            } else if head.get(4..8) == Some(b"ET12") || item.name.ends_with(".pte") {
                programs.push(item);
            }
        }
        report.judge_abis();
        report.judge_models(package, &programs)?;
        Ok(report)
    }

    fn library(&mut self, package: &Package, item: &Item) -> anyhow::Result<()> {
        let name = &item.name;
        let source = package.open(item)?;
        let slices = match native::slices(&*source) {
            Ok(slices) => slices,
            Err(error) => {
                self.faults.push(format!("{name}: cannot be read: {error}"));
                return Ok(());
            }
        };
        let placed = android_abi(name).filter(|_| matches!(package.kind(), Kind::Apk | Kind::Aab));
        if let Some(abi) = placed
            && let Some(other) = slices.iter().find(|slice| slice.abi != abi)
        {
            self.faults.push(format!("{name}: got code for {}, expected {abi}", other.abi));
        }
        let page_bytes = slices.iter().map(|slice| slice.page_bytes).min().unwrap_or_default();
        if page_bytes < PTE_ALIGN_BYTES {
            let warning = format!(
                "{name}: got segments aligned to {page_bytes}: phones with pages of {PTE_ALIGN_BYTES} bytes cannot load it"
            );
            // A store refuses it.
            let list = if self.profile == Profile::Release { &mut self.faults } else { &mut self.warnings };
            list.push(warning);
        }
        let abis = match placed {
            Some(abi) => vec![abi.to_owned()],
            None => slices.iter().map(|slice| slice.abi.to_owned()).collect(),
        };
        let mut blocks = Vec::new();
        match provenance::find(&*source) {
            Err(error) => self.faults.push(format!("{name}: {error}")),
            Ok(found) => blocks.extend(found.into_iter().map(|block| {
                let verdict = AppVerdict::of(&block, &*source, Some(&slices));
                let mapped = slices.iter().map(|slice| slice.maps(&extent(&block))).collect();
                Found::new(block, &verdict, mapped, self.profile)
            })),
        }
        for block in blocks.iter().filter(|block| block.refused) {
            self.faults.push(format!("{name}: {}", block.verdict));
        }
        for (index, slice) in slices.iter().enumerate() {
            // A library without any block may be another's; one with a block for one processor is the app's for all.
            if blocks.iter().any(Found::is_mapped) && !blocks.iter().any(|block| block.is_in(index)) {
                self.faults.push(format!("{name}: {}", without_proof(slice)));
            }
        }
        self.libraries.push(Library { name: name.clone(), abis, page_bytes, blocks });
        Ok(())
    }

    /// Every ABI must carry a proof that its loader maps, and all the same one: otherwise two phones run different models.
    fn judge_abis(&mut self) {
        let mut abis: BTreeMap<&str, Vec<&Found>> = BTreeMap::new();
        for library in &self.libraries {
            for (index, abi) in library.abis.iter().enumerate() {
                let blocks = library.blocks.iter().filter(|block| block.is_in(index));
                abis.entry(abi).or_default().extend(blocks);
            }
        }
        let mut faults = Vec::new();
        let mut first: Option<(&str, &Found)> = None;
        for (abi, blocks) in abis {
            if blocks.is_empty() {
                faults.push(format!("{abi}: got no proof block, expected a library that the gate built"));
            }
            for block in blocks {
                match first {
                    None => first = Some((abi, block)),
                    Some((other, expected)) if !same(&expected.claim, &block.claim) => faults.push(format!(
                        "{abi}: got model {} {}, expected that of {other}: {} {}",
                        block.model, block.sha256, expected.model, expected.sha256
                    )),
                    Some(_) => {}
                }
            }
        }
        self.faults.extend(faults);
    }

    /// Every packaged program must be what a linked claim says, and every linked claim must have its program.
    fn judge_models(&mut self, package: &Package, programs: &[&Item]) -> anyhow::Result<()> {
        let mut claims: Vec<&Claim> = Vec::new();
        for block in self.libraries.iter().flat_map(|library| &library.blocks).filter(|block| block.linked) {
            if !claims.iter().any(|claim| same(claim, &block.claim)) {
                claims.push(&block.claim);
            }
        }
        let mut faults = Vec::new();
        for claim in &claims {
            let file = &claim.manifest.file;
            if !programs.iter().any(|item| item.file_name() == file) {
                faults.push(format!("{file}: got no such file in the package, expected the linked model"));
                self.absent += 1;
            }
        }
        for item in programs {
            let claim = claims.iter().find(|claim| claim.manifest.file == item.file_name());
            let verdict = match claim {
                Some(claim) => prove(package, item, claim)?,
                None => AppVerdict::refused("a model that no proof block claims".to_owned()),
            };
            if verdict.demanded(self.profile).is_err() {
                let reason = verdict.dev.as_ref().err().cloned().unwrap_or_else(|| verdict.text());
                faults.push(format!("{}: {reason}", item.name));
            }
            let asset = Asset::new(package.kind(), item, &verdict);
            if asset.in_place == Some(false) {
                self.warnings.push(format!("{}: cannot be mapped in place: {}", item.name, placement(item)));
            }
            self.models.push(asset);
        }
        self.faults.extend(faults);
        Ok(())
    }

    /// What to do about the faults.
    fn hint(&self) -> &'static str {
        if self.kind == Kind::Apk && self.absent == self.faults.len() {
            return BUNDLE;
        }
        "do not ship this package; build it again from a proved model"
    }

    fn text(&self) -> String {
        let kind = match self.kind {
            Kind::Apk => "Android package",
            Kind::Aab => "Android bundle",
            Kind::Ipa => "iOS package",
            Kind::AppFolder => "app folder",
        };
        let mut lines = vec![format!("{}: {kind}", self.file)];
        for library in &self.libraries {
            let abis = library.abis.join(", ");
            lines.push(format!("{abis}: {} (aligned to {})", library.name, library.page_bytes));
            for block in &library.blocks {
                lines.push(format!("  model      {}, block at {}", block.model, block.offset));
                lines.push(format!("  sha256     {}", block.sha256));
                lines.push(format!("  verdict    {}", block.verdict));
            }
        }
        for asset in &self.models {
            lines.push(format!("{}: {} bytes", asset.name, asset.bytes));
            lines.push(format!("  in place   {}", asset.placement()));
            lines.push(format!("  verdict    {}", asset.verdict));
        }
        lines.extend(self.warnings.iter().map(|warning| format!("warning: {warning}")));
        lines.extend(self.faults.iter().map(|fault| format!("fault: {fault}")));
        lines.join("\n") + "\n"
    }
}

impl Found {
    fn new(block: Block, verdict: &AppVerdict, mapped: Vec<bool>, profile: Profile) -> Self {
        let manifest = &block.claim.manifest;
        Self {
            offset: block.offset,
            model: manifest.model.clone(),
            sha256: manifest.sha256.to_string(),
            linked: verdict.linked,
            proved_for_dev: verdict.dev.is_ok() && !verdict.linked,
            proved_for_release: verdict.release.is_ok() && !verdict.linked,
            verdict: match (verdict.linked, &verdict.dev) {
                (true, Ok(())) => format!("linked: {} is judged below", manifest.file),
                _ => verdict.text(),
            },
            refused: verdict.demanded(profile).is_err(),
            mapped,
            claim: block.claim,
        }
    }

    /// Whether the loader of this slice maps it.
    fn is_in(&self, slice: usize) -> bool {
        self.mapped.get(slice) == Some(&true)
    }

    fn is_mapped(&self) -> bool {
        self.mapped.contains(&true)
    }
}

fn prove(package: &Package, item: &Item, claim: &Claim) -> anyhow::Result<AppVerdict> {
    let source = package.open(item)?;
    let part = Part::new(&*source, 0, item.bytes);
    Ok(AppVerdict::judged(&check::prove(part, &Expectation::claimed(claim)), claim))
}

/// Whether two claims are about the same model, proved by the same evidence and used with the same words.
fn same(a: &Claim, b: &Claim) -> bool {
    a.manifest == b.manifest
        && a.recipe.digest() == b.recipe.digest()
        && a.tokenizer == b.tokenizer
        && a.chat_template == b.chat_template
}
