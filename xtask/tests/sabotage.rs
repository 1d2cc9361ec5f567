//! Sabotage of the model itself: real bytes of the exported `tiny` are changed, every digest is put right again, and the
//! engine measures the result against the honest reference. Each must be refused, and the message must name the evidence
//! that failed.
//!
//! Needs `cargo xtask export` first, as `cargo xtask test` does; a missing model fails these tests.
#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use camino::Utf8Path;
use model_assets::{
    check::{Profile, validate},
    claim::Claim,
    digest::Digest,
    dir::ModelDir,
    evidence::EngineCheck,
    manifest::{Evidence, EvidenceBinding},
    pte::{self, Item},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn engine() -> &'static str {
    static BUILT: OnceLock<String> = OnceLock::new();
    BUILT.get_or_init(|| {
        let output = Command::new(env!("CARGO"))
            .args([
                "build",
                "--package",
                "engine",
                "--bin",
                "engine",
                "--message-format=json-render-diagnostics",
            ])
            .current_dir(root())
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        let messages = String::from_utf8(output.stdout).unwrap();
        let messages =
            messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let mut engines = messages.filter(|message| message["target"]["name"] == "engine");
        engines.find_map(|message| message["executable"].as_str().map(str::to_owned)).unwrap()
    })
}

/// The honest model, and a copy of its bytes to be spoiled.
struct Model {
    dir: ModelDir,
    claim: Claim,
    bytes: Vec<u8>,
    items: Vec<Item>,
}

impl Model {
    fn honest() -> Self {
        let models = Utf8Path::from_path(&root()).unwrap().join("model-assets/models");
        let dir = ModelDir::new(models, "tiny");
        let (claim, _) = dir.claim().expect("run: cargo xtask export");
        let (path, _) = dir.open_pte(&claim.manifest).expect("run: cargo xtask export");
        let bytes = fs::read(path).unwrap();
        let items = pte::outline(&bytes).unwrap();
        Self { dir, claim, bytes, items }
    }

    /// The constants of a delegate by their place in it.
    fn constants(&self, delegate: usize) -> BTreeMap<String, (usize, usize)> {
        let prefix = format!("plan forward / delegate {delegate} / ");
        let within = |item: &Item| {
            let place = item.place.strip_prefix(&prefix)?;
            let (at, length) = item.data?;
            Some((place.to_owned(), (usize::try_from(at).unwrap(), usize::try_from(length).unwrap())))
        };
        self.items.iter().filter_map(within).collect()
    }

    /// The rotary tables, cosine first: rows of one position each.
    fn rope(&self) -> [(usize, usize); 2] {
        let table = |item: &&Item| item.text.starts_with("tensor f32 [1, 512, 1, 32]") && item.data.is_some();
        let mut tables: Vec<(usize, usize)> = self
            .items
            .iter()
            .filter(table)
            .map(|item| item.data.map(|(at, length)| (at as usize, length as usize)).unwrap())
            .collect();
        tables.dedup();
        // The cosine of position 0 is 1.
        tables.sort_by_key(|(at, _)| self.bytes[*at..*at + 4] != 1.0_f32.to_le_bytes());
        tables.try_into().unwrap()
    }

    fn floats(&mut self, (at, length): (usize, usize), change: impl Fn(usize, f32) -> f32) {
        for (index, bytes) in self.bytes[at..at + length].as_chunks_mut::<4>().0.iter_mut().enumerate() {
            *bytes = change(index, f32::from_le_bytes(*bytes)).to_le_bytes();
        }
    }

    /// Puts every digest right, measures load and parity, and returns why the result is refused.
    fn verdict(mut self) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        fs::write(place("model.pte"), &self.bytes).unwrap();
        fs::write(place("tokenizer.json"), self.claim.tokenizer.as_ref().unwrap()).unwrap();
        fs::write(place("template"), self.claim.chat_template.as_ref().unwrap()).unwrap();
        let record = &self.claim.manifest.reference;
        let reference = self.dir.resolve(&record.name, record.sha256);
        let output = Command::new(engine())
            .arg("check")
            .args(["--model".as_ref(), place("model.pte").as_os_str()])
            .args(["--reference".as_ref(), reference.as_os_str()])
            .args(["--tokenizer".as_ref(), place("tokenizer.json").as_os_str()])
            .args(["--template".as_ref(), place("template").as_os_str()])
            .args(["--response".as_ref(), place("check.json").as_os_str()])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let check: EngineCheck = serde_json::from_slice(&fs::read(place("check.json")).unwrap()).unwrap();
        let sha256 = Digest::of(&self.bytes);
        assert_eq!(check.pte_sha256, sha256.to_string());
        self.claim.manifest.sha256 = sha256;
        self.claim.manifest.bound = self.claim.bound();
        let bound = EvidenceBinding::current(sha256, self.claim.bound());
        let evidence = Evidence { load: Some(check.load), parity: check.parity, ..Evidence::none(bound) };
        self.claim.manifest.evidence = Some(evidence);
        let refusal = validate(self.bytes, &self.claim, Profile::Dev).err()?;
        Some(refusal.to_string())
    }

    fn refused(self, reasons: &[&str]) {
        let text = self.verdict().expect("the sabotaged model was accepted");
        for reason in reasons {
            assert!(text.contains(reason), "expected `{reason}` in:\n{text}");
        }
    }
}

const DIVERGES: &str = "evidence-parity: held-out texts: eager quantized: got";

#[test]
fn the_honest_model_passes_the_same_way() {
    assert_eq!(Model::honest().verdict(), None);
}

#[test]
fn swapped_layers() {
    let mut model = Model::honest();
    // A delegate between two attentions: the rest of one layer and the beginning of the next.
    let (first, second) = (model.constants(1), model.constants(2));
    let mut swapped = 0;
    for (place, (a, length)) in first {
        let (b, other) = second[&place];
        assert_eq!(length, other, "{place}");
        // What all layers share (the rotation, the row of the mean) has one place.
        if a != b {
            (0..length).for_each(|index| model.bytes.swap(a + index, b + index));
            swapped += 1;
        }
    }
    assert!(swapped >= 14, "swapped {swapped} constants, expected seven matrices with their scales");
    model.refused(&[DIVERGES, "evidence-parity: held-out texts: perplexity"]);
}

#[test]
fn another_rope_theta() {
    let mut model = Model::honest();
    let [cos, sin] = model.rope();
    let angle = |index: usize| {
        let (position, column) = (index / 32, index % 16);
        position as f64 / 500_000_f64.powf(2.0 * column as f64 / 32.0)
    };
    // With the honest theta this writes what is there: the change is the theta alone.
    let honest = (100.0 / 10_000_f64.powf(2.0 / 32.0)).cos();
    let there = f32::from_le_bytes(model.bytes[cos.0 + 4 * 3201..][..4].try_into().unwrap());
    assert!((f64::from(there) - honest).abs() < 1e-6, "{there} {honest}");
    model.floats(cos, |index, _| angle(index).cos() as f32);
    model.floats(sin, |index, _| angle(index).sin() as f32);
    model.refused(&[DIVERGES]);
}

#[test]
fn positions_off_by_one() {
    let mut model = Model::honest();
    // Position 0 twice, then 1, 2, …: as when positions are counted before the first token.
    for (at, length) in model.rope() {
        let row = length / 512;
        model.bytes.copy_within(at..at + length - row, at + row);
    }
    model.refused(&[DIVERGES]);
}

#[test]
fn another_tokenizer() {
    let mut model = Model::honest();
    let mut tokenizer: serde_json::Value =
        serde_json::from_slice(model.claim.tokenizer.as_ref().unwrap()).unwrap();
    let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    // As many tokens, the same texts, two of them with each other's number.
    let (a, b) = (vocabulary["e"].clone(), vocabulary["o"].clone());
    vocabulary.insert("e".into(), b);
    vocabulary.insert("o".into(), a);
    model.claim.tokenizer = Some(serde_json::to_vec(&tokenizer).unwrap());
    model.refused(&["evidence-parity: held-out texts: tokenizer and template: got"]);
}

#[test]
fn scales_doubled_on_one_layer() {
    let mut model = Model::honest();
    let constants = model.constants(2);
    let scales = constants.iter().find(|(place, _)| place.ends_with("filter scales")).unwrap();
    let range = *scales.1;
    model.floats(range, |_, scale| 2.0 * scale);
    model.refused(&[DIVERGES]);
}

/// Zeroes the matrices of one delegate, all but some bytes at the start of each.
fn zeroed(but: usize) -> Model {
    let mut model = Model::honest();
    let constants = model.constants(2);
    // Those with scales are the weights; the rotation and the mean have none.
    let matrices = constants.iter().filter(|(place, _)| constants.contains_key(&format!("{place} scales")));
    let matrices: Vec<_> = matrices.map(|(_, range)| *range).collect();
    assert_eq!(matrices.len(), 7);
    for (at, length) in matrices {
        model.bytes[at + but..at + length].fill(0);
    }
    model
}

#[test]
fn weights_zeroed_in_one_layer() {
    // The bytes alone say so, and what was measured says it again.
    zeroed(0).refused(&["Q17: plan forward / delegate 2", "evidence-parity: prefill then decode: got"]);
    // With a few weights left only the measurement knows.
    zeroed(8).refused(&[DIVERGES, "evidence-parity: held-out texts: perplexity"]);
}
