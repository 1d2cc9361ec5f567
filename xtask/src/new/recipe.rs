//! The text of a new recipe.
//!
//! **Invariant:** what is written was read back: it is a recipe, and the policy allows it.

use std::fmt::Write as _;

use anyhow::{Context as _, anyhow};
use model_assets::{
    claim,
    eq::ItemSet,
    policy::Policy,
    recipe::{
        Backend, BenchmarkLimits, Delivery, Demands, EqLimits, EvidenceKind, Export, Limits, ParityLimits, Quantization,
        RECIPE_SCHEMA, Recipe, Tokens,
    },
    tokenizer,
};

use crate::{export, predict};

use super::{Args, facts::{Facts, Licence}, source::Checkpoint};

/// The file beside the recipe that has the licence's own text.
pub(super) const AGREEMENT: &str = "LICENSE.txt";
/// From this size on models follow the format of the EQ test's answers.
const EQ_PARAMETERS_MIN: u64 = 500_000_000;

pub(super) fn text(
    name: &str,
    found: &Checkpoint,
    facts: &Facts,
    args: &Args,
    policy: &Policy,
) -> anyhow::Result<String> {
    let recipe = recipe(name, found, facts, args);
    let text = commented(&recipe, facts)?;
    let read = Recipe::parse(&text).with_context(|| format!("a recipe for {}", args.source))?;
    read.within(policy).with_context(|| format!("{}: the policy does not allow it", args.source))?;
    // As an export would refuse it, but before anything is written.
    let path = found.folder.join("tokenizer.json");
    let bytes = export::content(&path, model_assets::limits::TOKENIZER_BYTES_MAX)?;
    let words = tokenizer::judge(&bytes).map_err(|error| anyhow!("{path}: {error}"))?;
    claim::token_rows(&read, &words).map_err(|error| anyhow!("{path}: {error}"))?;
    claim::prompts(&read, &words, &facts.chat_template)
        .map_err(|error| anyhow!("{}: chat template: {error}", found.folder))?;
    Ok(text)
}

fn recipe(name: &str, found: &Checkpoint, facts: &Facts, args: &Args) -> Recipe {
    let architecture = facts.architecture.clone();
    let mut recipe = Recipe {
        schema: RECIPE_SCHEMA,
        name: name.to_owned(),
        description: String::new(),
        source: found.source.clone(),
        export: Export {
            quantization: args.quantization.into(),
            activations: None,
            seq_len: args.seq_len,
            backend: Backend::Xnnpack,
            partitions: Some(architecture.layers.saturating_add(1)),
            delegated_linears: Some(architecture.layers.saturating_mul(7).saturating_add(1)),
        },
        architecture,
        tokens: Tokens {
            bos: facts.bos,
            eos: facts.eos.clone(),
            tokenizer: "tokenizer.json".to_owned(),
            chat_template: "chat_template.jinja".to_owned(),
        },
        limits: Limits { file_bytes_min: 1, file_bytes_max: 1, planned_bytes_max: 1 },
        delivery: Delivery::Auto,
        evidence: Demands { dev: Vec::new(), release: Vec::new() },
        parity: ParityLimits::default(),
        eq: EqLimits { score_min: None, items: ItemSet::General },
        benchmark: BenchmarkLimits::default(),
        quality: None,
        grammar: None,
        yardstick: Vec::new(),
        licence: licence(facts),
    };
    let parameters = predict::parameters(&recipe);
    let quantization = recipe.export.quantization.as_str();
    recipe.description = format!("{name}, {quantization}, {} million parameters", parameters.div_ceil(1_000_000));
    recipe.limits = limits(&recipe);
    recipe.benchmark.peak_rss_bytes_max = resident_bytes(recipe.limits.file_bytes_max);
    recipe.evidence.release =
        vec![EvidenceKind::Load, EvidenceKind::Parity, EvidenceKind::Benchmark, EvidenceKind::Quality];
    if parameters >= EQ_PARAMETERS_MIN {
        recipe.evidence.release.push(EvidenceKind::Eq);
    }
    recipe
}

/// A tenth below and above what the shapes say, and twice the memory that the plan must hold: the caches, and a prefill's rows.
fn limits(recipe: &Recipe) -> Limits {
    let file = predict::file_bytes(recipe);
    let a = &recipe.architecture;
    let [layers, heads, size, dim, ffn, vocab, seq] =
        [a.layers, a.kv_heads, a.head_dim, a.dim, a.ffn, a.vocab, recipe.export.seq_len].map(u64::from);
    let caches = 2 * layers * heads * size * seq;
    let rows = seq * (4 * dim + 2 * ffn) + vocab;
    Limits {
        file_bytes_min: round(file - file / 10),
        // Programs, norms and scales are most of a small file.
        file_bytes_max: round(file + file / 10 + 8_000_000),
        planned_bytes_max: round(2 * 4 * (caches + rows)),
    }
}

/// A first start packs the weights into a file, which takes about twice the model once.
fn resident_bytes(file: u64) -> u64 {
    round(file * 5 / 2 + 250_000_000)
}

/// Upwards, to two digits.
fn round(bytes: u64) -> u64 {
    let unit = 10_u64.pow(bytes.max(1).ilog10().saturating_sub(1));
    bytes.div_ceil(unit) * unit
}

fn licence(facts: &Facts) -> model_assets::recipe::Licence {
    let id = match &facts.licence {
        Licence::Known(id) => (*id).to_owned(),
        Licence::Named(name) => name.clone(),
        Licence::Unknown => "unknown".to_owned(),
    };
    let llama = id.starts_with("Llama ");
    model_assets::recipe::Licence {
        id,
        attribution: llama.then(|| "Built with Llama".to_owned()),
        agreement: facts.agreement.is_some().then(|| AGREEMENT.to_owned()),
        notice: None,
    }
}

/// The recipe as TOML, with what its author has to look at said beside it.
fn commented(recipe: &Recipe, facts: &Facts) -> anyhow::Result<String> {
    let mut text = String::from("# Written by `cargo xtask new` from the checkpoint's own files.\n");
    for line in toml::to_string(recipe)?.lines() {
        if line.starts_with("eos = ") {
            let _ = writeln!(text, "# {}", facts.eos_texts.join(", "));
        }
        if line.starts_with("[limits]") {
            text += "# Derived from the shapes; tighten them to what the first export prints.\n";
        }
        if line.starts_with("[licence]") {
            text += match &facts.licence {
                Licence::Known(model_assets::licence::OWN_LICENCE) => "",
                Licence::Known(_) => "# A release needs what docs/compliance.md says beside this.\n",
                Licence::Named(_) => "# As the checkpoint calls it; a release needs its text: see docs/compliance.md.\n",
                Licence::Unknown => "# The checkpoint names none. A release needs its name and text: see docs/compliance.md.\n",
            };
        }
        text += line;
        text.push('\n');
    }
    Ok(text)
}
