//! `cargo xtask dev families`: every family against `transformers`, from `config.json` to the engine.
//!
//! `transformers` makes small random models in a venv of its own (hash-pinned; torch is the export's). Then, for each: the worker
//! and this side read its `config.json` to one description; the eager model in fp32 has the logits of `transformers` within
//! 1e-4; the exported fp32 program has those of the eager model within 1e-3, however the text is fed; and one int8 and one int4
//! export of each family is what its recipe promises and passes block by block.
//!
//! **Invariant:** files are judged by the verifier and the engine that a release is judged by.

use std::{collections::BTreeSet, fs, time::Duration};

use anyhow::{Context as _, anyhow, bail, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{
    claim,
    digest::Digest,
    evidence::{EngineCheck, Parity},
    pte,
    recipe::{Activations, Architecture, Export, Quantization, Recipe},
};

use crate::{
    checkpoint::{alike, described},
    child::{self, cmd},
    console::Console,
    engine::{Engine, Files, Profile},
    exit::{Exit, Failure, Outcome},
    failed, pinned_venv, protocol, setup,
    supervise::{self, Bounds},
    workspace::Workspace,
};

const SEQ_LEN: u32 = 48;
const PROMPT_TOKENS: usize = 32;
/// Of the fp32 program from the eager model.
const FP32_DIFF_MAX: f64 = 1e-3;
const BOUNDS: Bounds = Bounds { memory_bytes_max: 8_000_000_000, stall: Duration::from_secs(300) };

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these models; all by default
    cases: Vec<String>,
    /// Compare the eager model alone, and export nothing
    #[arg(long)]
    eager: bool,
}

impl Args {
    /// `--eager`: what is quick enough for every run of the tests.
    pub(crate) fn eager() -> Self {
        Self { cases: Vec::new(), eager: true }
    }
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Outcome {
    setup::ensure(workspace)?;
    let judged = Study { workspace, folder: workspace.state().join("families"), console: Console::Plain };
    judged.all(args).map_err(|error| {
        let hint = "one half reads a setting or a weight otherwise than transformers; run again: cargo xtask dev families CASE";
        Failure::new(Exit::Tests, error, hint)
    })
}

struct Study<'w> {
    workspace: &'w Workspace,
    folder: Utf8PathBuf,
    console: Console,
}

impl Study<'_> {
    fn all(&self, args: &Args) -> anyhow::Result<()> {
        self.make()?;
        let shell = child::shell(self.workspace.root())?;
        let (python, folder) = (self.workspace.python(), &self.folder);
        let script = self.workspace.python_sources().join("oracle/check.py");
        let only = if args.cases.is_empty() { None } else { Some("--only") };
        let cases = &args.cases;
        cmd!(shell, "{python} -B {script} {folder} {only...} {cases...}").quiet().run()?;
        if args.eager {
            return Ok(());
        }
        let engine = Engine::open(self.workspace, Profile::Dev, &self.console)?;
        let mut quantized = BTreeSet::new();
        for name in self.cases(args)? {
            self.case(&name, &engine, &mut quantized).with_context(|| name.clone())?;
        }
        Ok(())
    }

    /// The small models, once for a version of their sources.
    fn make(&self) -> anyhow::Result<()> {
        let sources = self.workspace.python_sources().join("oracle");
        let wanted = super::mutate::digest_of(&sources)?.to_string();
        let receipt = self.folder.join("made-of");
        if fs::read_to_string(&receipt).is_ok_and(|made| made == wanted) {
            return Ok(());
        }
        crate::atomic_file::remove(&self.folder)?;
        fs::create_dir_all(&self.folder)?;
        let venv = pinned_venv::transformers(self.workspace)?;
        let shell = child::shell(self.workspace.root())?;
        let worker = self.workspace.python();
        let print = "import sysconfig; print(sysconfig.get_paths()['purelib'])";
        let packages = cmd!(shell, "{worker} -I -c {print}").quiet().read()?;
        let (python, script, folder) = (venv.join("bin/python"), sources.join("make.py"), &self.folder);
        self.console.step("small models by transformers");
        cmd!(shell, "{python} -B {script} {folder} {packages}").quiet().ignore_stderr().run()?;
        Ok(fs::write(receipt, wanted)?)
    }

    fn cases(&self, args: &Args) -> anyhow::Result<Vec<String>> {
        if !args.cases.is_empty() {
            return Ok(args.cases.clone());
        }
        let mut names = Vec::new();
        for entry in self.folder.read_dir_utf8()? {
            let entry = entry?;
            if entry.path().join("described.json").exists() {
                names.push(entry.file_name().to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    fn case(
        &self,
        name: &str,
        engine: &Engine,
        quantized: &mut BTreeSet<&'static str>,
    ) -> anyhow::Result<()> {
        let folder = self.folder.join(name);
        let architecture = described(&folder.join("config.json"), SEQ_LEN)?;
        let resaved = described(&folder.join("resaved/config.json"), SEQ_LEN)?;
        ensure!(architecture == resaved, "config.json: got {resaved:?}, expected {architecture:?}");
        let ours = serde_json::to_value(protocol::Architecture::from(&architecture))?;
        let theirs: serde_json::Value = serde_json::from_slice(&fs::read(folder.join("described.json"))?)?;
        ensure!(alike(&ours, &theirs), "described.json: got {theirs} from the worker, expected {ours}");
        let mut line = format!("{name}:");
        let fp32 = self.export(&folder, &architecture, Quantization::Fp32, engine)?;
        for (way, fed) in fp32.runs() {
            let apart = fed.run.max_abs_diff;
            ensure!(apart <= FP32_DIFF_MAX, "fp32, {way}: got {apart:.1e}, expected at most {FP32_DIFF_MAX}");
            line += &format!(" {way} {apart:.1e},");
        }
        if quantized.insert(architecture.family.as_str()) {
            for quantization in [Quantization::Int8, Quantization::Int4] {
                let parity = self.export(&folder, &architecture, quantization, engine)?;
                let worst = parity.runs().map(|(_, fed)| fed.run.mean_kl).into_iter().fold(0.0, f64::max);
                line += &format!(" {} KL {worst:.1e},", quantization.as_str());
            }
        }
        println!("{}", line.trim_end_matches(','));
        Ok(())
    }

    /// One export, verified and run.
    fn export(
        &self,
        folder: &Utf8Path,
        architecture: &Architecture,
        quantization: Quantization,
        engine: &Engine,
    ) -> anyhow::Result<Parity> {
        let work = folder.join(quantization.as_str());
        crate::atomic_file::remove(&work)?;
        fs::create_dir_all(&work)?;
        let recipe = self.recipe(architecture, quantization)?;
        let text = tokens(&folder.join("resaved/logits.safetensors"))?;
        let (prompt, decode) = text.split_at_checked(PROMPT_TOKENS).context("got a short text")?;
        let source = protocol::Source::Safetensors { dir: folder.to_owned() };
        let request = protocol::Export {
            reference_prompt: prompt.to_vec(),
            reference_decode: decode.to_vec(),
            ..protocol::Export::of(&recipe, source, &work)
        };
        let path = work.join("request.json");
        fs::write(&path, serde_json::to_vec_pretty(&request)?)?;
        let script = self.workspace.python_sources().join("proofmark_worker/run.py");
        let log = work.join("export.log");
        let python = self.workspace.python();
        let ran = supervise::run(&python, &script, &path, &log, &BOUNDS, &self.console)?;
        let _: serde_json::Value = failed::answer(&request.response, &ran)?;
        let file = fs::File::open(&request.pte)?;
        let report = pte::verify(&file, pte::Level::Hash, &claim::expect(&recipe));
        if let Some(finding) = report.rejects().next() {
            bail!("{}: {} findings, the first: {finding}", request.pte, report.rejects().count());
        }
        let sha256 = Digest::from_bytes(report.sha256.context("got no digest")?);
        let files = Files { pte: request.pte.clone(), sha256, words: None, linked: false };
        let EngineCheck { parity, .. } = engine.measured(&files, &request.reference)?;
        let parity = parity.context("got no parity, expected figures")?;
        ensure!(parity.is_complete(architecture.layers), "parity: a boundary is missing");
        if let Some(found) = parity.divergence() {
            bail!(
                "{}, {}: got {}, expected {}",
                quantization.as_str(),
                found.place,
                found.got,
                Parity::expected()
            );
        }
        Ok(parity)
    }

    /// That of `tiny` for another network.
    fn recipe(&self, architecture: &Architecture, quantization: Quantization) -> anyhow::Result<Recipe> {
        let path = self.workspace.models().join("tiny/recipe.toml");
        let mut recipe = Recipe::parse(&fs::read_to_string(&path)?)?;
        let rotated = !architecture.post_norms;
        recipe.export = Export {
            quantization,
            activations: Some(if rotated { Activations::Rotated } else { Activations::TwoRows }),
            seq_len: SEQ_LEN,
            partitions: Some(architecture.layers + 1),
            // Of an fp32 file the verifier counts the small products as well.
            delegated_linears: (quantization != Quantization::Fp32).then_some(7 * architecture.layers + 1),
            ..recipe.export
        };
        recipe.architecture = architecture.clone();
        (recipe.tokens.bos, recipe.tokens.eos) = (1, vec![2]);
        (recipe.limits.file_bytes_min, recipe.quality) = (1000, None);
        Recipe::parse(&toml::to_string(&recipe)?)
            .with_context(|| format!("{path}: cannot be of this network"))
    }
}

fn tokens(path: &Utf8Path) -> anyhow::Result<Vec<u32>> {
    let bytes = fs::read(path)?;
    let file = safetensors::SafeTensors::deserialize(&bytes).map_err(|error| anyhow!("{path}: {error}"))?;
    let view = file.tensor("tokens").map_err(|error| anyhow!("{path}: {error}"))?;
    let (numbers, _) = view.data().as_chunks::<8>();
    numbers.iter().map(|number| Ok(u32::try_from(i64::from_le_bytes(*number))?)).collect()
}
