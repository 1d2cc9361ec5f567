//! An exported model whose bytes can be spoiled in a way that has a name, and the verdict over the result.

use std::{
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
    evidence::{EngineCheck, Parity},
    manifest::{Evidence, EvidenceBinding},
    pte::{self, Item},
};

/// Bytes of the file.
pub(crate) type Range = (usize, usize);

/// The weights of a delegate between two attentions, in the order in which it uses them.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Matrix {
    Output = 0,
    Gate,
    Up,
    Down,
    Query,
    Key,
    Value,
}

const MATRICES: usize = 7;

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

pub(crate) fn engine() -> &'static str {
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
pub(crate) struct Model {
    dir: ModelDir,
    pub(crate) claim: Claim,
    pub(crate) bytes: Vec<u8>,
    items: Vec<Item>,
}

impl Model {
    /// A published model.
    pub(crate) fn honest(name: &str) -> Self {
        let models = Utf8Path::from_path(&root()).unwrap().join("model-assets/models");
        let dir = ModelDir::new(models, name);
        let (claim, _) = dir.open().unwrap_or_else(|error| panic!("{error}; run: cargo xtask export {name}"));
        let (path, _) = dir.open_pte(&claim.manifest).unwrap();
        let bytes = fs::read(path).unwrap();
        let items = pte::outline(&bytes).unwrap();
        Self { dir, claim, bytes, items }
    }

    pub(crate) fn layers(&self) -> usize {
        self.claim.recipe.architecture.layers as usize
    }

    /// Parts of a delegate, by their place in it, in the order of the file.
    fn parts(&self, delegate: usize) -> impl Iterator<Item = (&str, &Item)> {
        let prefix = format!("plan forward / delegate {delegate} / ");
        self.items.iter().filter_map(move |item| Some((item.place.strip_prefix(&prefix)?, item)))
    }

    /// The constants of a delegate by their place in it.
    pub(crate) fn constants(&self, delegate: usize) -> Vec<(String, Range)> {
        self.parts(delegate).filter_map(|(place, item)| Some((place.to_owned(), range(item)?))).collect()
    }

    /// The rows of a weight and their scales: all rows together each.
    pub(crate) fn matrix(&self, delegate: usize, matrix: Matrix) -> (Range, Range) {
        let constants = self.constants(delegate);
        let scales = |place: &str| {
            let wanted = format!("{place} scales");
            constants.iter().find(|(place, _)| *place == wanted).map(|(_, range)| *range)
        };
        let weights: Vec<_> =
            constants.iter().filter_map(|(place, range)| Some((*range, scales(place)?))).collect();
        assert_eq!(weights.len(), MATRICES, "delegate {delegate}: {constants:?}");
        weights[matrix as usize]
    }

    /// Rows of a weight, one after the other: bytes of each, and where its scale is.
    pub(crate) fn rows(&self, delegate: usize, matrix: Matrix) -> Vec<(Range, usize)> {
        let ((at, length), (scales, bytes)) = self.matrix(delegate, matrix);
        let rows = bytes / 4;
        (0..rows).map(|row| ((at + row * (length / rows), length / rows), scales + 4 * row)).collect()
    }

    /// The rotary tables, cosine first: rows of one position each.
    pub(crate) fn rope(&self) -> [Range; 2] {
        let shape = format!("[1, {}, 1, {}]", self.window(), self.claim.recipe.architecture.head_dim);
        let wanted = format!("tensor f32 {shape}");
        let table = |item: &&Item| item.text.starts_with(&wanted);
        let mut tables: Vec<Range> = self.items.iter().filter(table).filter_map(range).collect();
        tables.dedup();
        // The cosine of position 0 is 1.
        tables.sort_by_key(|(at, _)| self.bytes[*at..*at + 4] != 1.0_f32.to_le_bytes());
        tables.try_into().unwrap()
    }

    pub(crate) fn window(&self) -> usize {
        self.claim.recipe.export.seq_len as usize
    }

    pub(crate) fn floats(&mut self, (at, length): Range, change: impl Fn(usize, f32) -> f32) {
        for (index, bytes) in self.bytes[at..at + length].as_chunks_mut::<4>().0.iter_mut().enumerate() {
            *bytes = change(index, f32::from_le_bytes(*bytes)).to_le_bytes();
        }
    }

    /// Replaces the one place between two offsets where these numbers follow each other.
    fn replace(&mut self, (begin, end): Range, old: &[u32], new: &[u32]) {
        let bytes = |numbers: &[u32]| numbers.iter().flat_map(|it| it.to_le_bytes()).collect::<Vec<_>>();
        let (old, new) = (bytes(old), bytes(new));
        let found: Vec<_> =
            (begin..end - old.len()).filter(|at| self.bytes[*at..].starts_with(&old)).collect();
        let [at] = found.as_slice() else { panic!("{old:?}: found at {found:?}") };
        self.bytes[*at..*at + new.len()].copy_from_slice(&new);
    }

    /// The feed-forward's output is added to attention's instead of to the sum of attention's and the residual.
    pub(crate) fn drop_residual(&mut self, delegate: usize) {
        let ids = |text: &str| -> Vec<u32> {
            text.split(|c: char| !c.is_ascii_digit()).filter_map(|id| id.parse().ok()).collect()
        };
        let graph = self.parts(delegate).find(|(place, _)| *place == "graph").unwrap().1.text.clone();
        let (_, lists) = graph.split_once("inputs ").unwrap();
        let (inputs, outputs) = lists.split_once("outputs").map(|(i, o)| (ids(i), ids(o))).unwrap();
        // Not those with a constant, which has a part of its own.
        let is_sum = |place: &str| {
            let constant = format!("{place} / input");
            place.starts_with("node ")
                && place.ends_with(" add")
                && !self.parts(delegate).any(|(part, _)| part.starts_with(&constant))
        };
        let sums: Vec<[u32; 3]> = self
            .parts(delegate)
            .filter(|&(place, _)| is_sum(place))
            .map(|(_, item)| ids(item.text.split(',').take(2).collect::<Vec<_>>().join(",").as_str()))
            .filter_map(|ids| ids.get(..3).and_then(|ids| ids.try_into().ok()))
            .collect();
        let external = |id: &u32| inputs.contains(id);
        let [x, o, sum] = *sums.iter().find(|[a, b, _]| external(a) != external(b)).unwrap();
        let o = if external(&x) { o } else { x };
        let last = sums.iter().find(|[a, b, out]| (*a == sum || *b == sum) && outputs.contains(out));
        let [a, b, out] = *last.unwrap();
        let new = [if a == sum { o } else { a }, if b == sum { o } else { b }, out];
        let reversed = |[a, b, out]: [u32; 3]| [out, b, a];
        // Fields of a table lie in the order of the schema or the other way round.
        let within = self.blob(delegate);
        let forwards = self.bytes[within.0..within.1].windows(12).any(|bytes| bytes == le([a, b, out]));
        let (old, new) = if forwards { ([a, b, out], new) } else { (reversed([a, b, out]), reversed(new)) };
        self.replace(within, &old, &new);
    }

    /// Where a delegate's graph lies: they follow each other, each with a magic number.
    fn blob(&self, delegate: usize) -> Range {
        let begins = self.bytes.windows(10).enumerate().filter(|(_, it)| *it == b"\0\0\0\0XH00\x1e\0");
        let begins: Vec<_> = begins.map(|(at, _)| at).collect();
        assert_eq!(begins.len(), self.layers() + 1);
        (begins[delegate], begins.get(delegate + 1).copied().unwrap_or(self.bytes.len()))
    }

    /// A layer's values go to the beginning of the cache in every call: those after the first call stay what they were.
    pub(crate) fn stale_cache(&mut self, layer: usize) {
        let args = |item: &Item| -> Vec<u32> {
            let (_, list) = item.text.split_once('[').unwrap();
            list.trim_end_matches(']').split(", ").map(|it| it.parse().unwrap()).collect()
        };
        let updates =
            self.items.iter().filter(|item| item.text.starts_with("kernel llama::update_cache.out["));
        let updates: Vec<_> = updates.map(args).collect();
        assert_eq!(updates.len(), 2 * self.layers());
        let old = updates[2 * layer + 1].clone();
        // A constant: what instructions compute are their last arguments.
        let kernels = self.items.iter().filter(|item| item.text.starts_with("kernel "));
        let computed: Vec<_> = kernels.filter_map(|item| args(item).last().copied()).collect();
        let mut zeros = self
            .items
            .iter()
            .filter(|item| item.text == "Int(0)")
            .filter_map(|item| item.place.strip_prefix("plan forward / value ")?.parse::<u32>().ok());
        let zero = zeros.find(|zero| !computed.contains(zero)).unwrap();
        let new = [old[0], old[1], zero, old[3], old[4]];
        let program = (0, self.bytes.len().min(1 << 20));
        self.replace(program, &old, &new);
    }

    /// Puts every digest right, measures load and parity, and returns why the result is refused, if it is.
    pub(crate) fn verdict(self) -> Option<String> {
        self.judged(&[]).1
    }

    /// The same, with what the engine measured and further arguments for it.
    pub(crate) fn judged(mut self, arguments: &[&str]) -> (Parity, Option<String>) {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        fs::write(place("model.pte"), &self.bytes).unwrap();
        let record = &self.claim.manifest.reference;
        let reference = self.dir.resolve(&record.name, record.sha256);
        let output = Command::new(engine())
            .arg("check")
            .args(["--model".as_ref(), place("model.pte").as_os_str()])
            .args(["--reference".as_ref(), reference.as_os_str()])
            .args(["--response".as_ref(), place("check.json").as_os_str()])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let check: EngineCheck = serde_json::from_slice(&fs::read(place("check.json")).unwrap()).unwrap();
        let sha256 = Digest::of(&self.bytes);
        assert_eq!(check.pte_sha256, sha256.to_string());
        self.claim.manifest.sha256 = sha256;
        self.claim.manifest.bound = self.claim.bound();
        let bound = EvidenceBinding::current(sha256, self.claim.bound());
        let parity = check.parity.clone().unwrap();
        let evidence = Evidence { load: Some(check.load), parity: check.parity, ..Evidence::none(bound) };
        self.claim.manifest.evidence = Some(evidence);
        let refusal = validate(self.bytes, &self.claim, Profile::Dev).err().map(|it| it.to_string());
        (parity, refusal)
    }
}

fn range(item: &Item) -> Option<Range> {
    let (at, length) = item.data?;
    Some((usize::try_from(at).unwrap(), usize::try_from(length).unwrap()))
}

fn le(numbers: [u32; 3]) -> Vec<u8> {
    numbers.iter().flat_map(|it| it.to_le_bytes()).collect()
}
