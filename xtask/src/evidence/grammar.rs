//! Grammar, for a model whose world has one: sampled replies to held-out conversations, judged by the grammar.

use std::fs;

use anyhow::{Context as _, ensure};
use camino::Utf8PathBuf;
use model_assets::{
    evidence::{Acceptance, Answer, AnswerRequest, Grammar, Prompt},
    recipe::Quantization,
};
use serde::Deserialize;
use serde_json::json;

use super::{
    Bench, Measured, Measurer, Round,
    eager::{EagerRun, Replies},
};
use crate::{
    child::{self, cmd},
    engine::{Engine, Profile},
};

/// Temperature of the sampling: greedy replies would hide what quantization does to the rest of the distribution.
const TEMPERATURE: f32 = 0.7;
const SEED: u64 = 1;
const TOKENS_MAX: u32 = 96;
const FP32: &str = "grammar-fp32";
const QUANTIZED: &str = "grammar-quantized";

pub(super) const MEASURER: Measurer = Measurer { ask, measure };

fn ask(bench: &Bench<'_>) -> anyhow::Result<Vec<EagerRun>> {
    let prompts = prompts_file(bench)?;
    grammar(bench, &["prompts", bench.dir.path().as_str(), prompts.as_str()])?;
    Ok(Prompts::read(bench)?.eager_runs())
}

fn measure(round: &Round<'_>, measured: &mut Measured) -> anyhow::Result<()> {
    let (bench, engine) = (round.bench, round.bench.engine(Profile::Dev)?);
    measured.evidence.grammar = Some(Prompts::read(bench)?.measure(bench, &engine, &round.eager)?);
    Ok(())
}

/// Where the grammar's program leaves the prompts.
fn prompts_file(bench: &Bench<'_>) -> anyhow::Result<Utf8PathBuf> {
    Ok(bench.folder("grammar")?.join("prompts.json"))
}

/// What is asked.
struct Prompts {
    request: AnswerRequest,
    quantization: Quantization,
}

impl Prompts {
    fn read(bench: &Bench<'_>) -> anyhow::Result<Self> {
        let out = prompts_file(bench)?;
        let prompts: Vec<Prompt> =
            serde_json::from_slice(&fs::read(&out)?).with_context(|| format!("{out}"))?;
        ensure!(!prompts.is_empty(), "{out}: got no prompts");
        let request = AnswerRequest { prompts, temperature: TEMPERATURE, seed: SEED, tokens_max: TOKENS_MAX };
        Ok(Self { request, quantization: bench.claim.recipe.export.quantization })
    }

    fn eager_runs(&self) -> Vec<EagerRun> {
        [(FP32, Quantization::Fp32), (QUANTIZED, self.quantization)]
            .map(|(name, quantization)| EagerRun { name, quantization, request: self.request.clone() })
            .into()
    }

    fn measure(&self, bench: &Bench<'_>, engine: &Engine, eager: &Replies) -> anyhow::Result<Grammar> {
        let own = engine.answers(bench.claim, &bench.files, &self.request, bench.console)?;
        let side = |name: &str| eager.get(name).context("the eager model answered nothing");
        Ok(Grammar {
            fp32: self.judge(bench, "fp32", side(FP32)?)?,
            quantized: self.judge(bench, "quantized", side(QUANTIZED)?)?,
            pte: self.judge(bench, "pte", &own)?,
        })
    }

    fn judge(&self, bench: &Bench<'_>, name: &str, answers: &[Answer]) -> anyhow::Result<Acceptance> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Judged {
            replies: u32,
            accepted: u32,
        }
        let folder = bench.folder("grammar")?;
        let (asked, out): (Utf8PathBuf, Utf8PathBuf) =
            (folder.join(format!("{name}.replies.json")), folder.join(format!("{name}.verdict.json")));
        let pairs = self.request.prompts.iter().zip(answers);
        let pairs: Vec<_> = pairs
            .map(|(prompt, answer)| {
                json!({"messages": prompt.messages, "reply": answer.text, "finished": answer.finished})
            })
            .collect();
        fs::write(&asked, serde_json::to_vec(&pairs)?)?;
        grammar(bench, &["judge", asked.as_str(), out.as_str()])?;
        let Judged { replies, accepted } =
            serde_json::from_slice(&fs::read(&out)?).with_context(|| format!("{out}"))?;
        ensure!(
            replies as usize == answers.len(),
            "{out}: got {replies} replies, expected {}",
            answers.len()
        );
        Ok(Acceptance { replies, accepted })
    }
}

/// Runs the grammar's own program.
fn grammar(bench: &Bench<'_>, arguments: &[&str]) -> anyhow::Result<()> {
    let script = bench.workspace.python_sources().join("train_tiny/accept.py");
    let shell = child::shell(bench.workspace.root())?;
    let python = bench.workspace.python();
    cmd!(shell, "{python} -B {script} {arguments...}").quiet().run().context("the grammar")
}
