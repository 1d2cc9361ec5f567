//! The text of a new recipe.
//!
//! **Invariant:** what is written was read back and is the same recipe.

use std::fmt::Write as _;

use anyhow::{Context as _, ensure};
use model_assets::{
    eq::ItemSet,
    licence::OWN_LICENCE,
    policy::Policy,
    recipe::{
        self, Activations, Backend, BenchmarkLimits, Delivery, Demands, EqLimits, EvidenceKind, Export,
        Limits, ParityLimits, Quantization, RECIPE_SCHEMA, Recipe, Tokens,
    },
};

use crate::predict;

use super::{
    Args,
    facts::{Facts, Licence},
    names::{AGREEMENT, NOTICE, TEMPLATE, TOKENIZER},
    source::Checkpoint,
};

/// From this size on models follow the format of the EQ test's answers.
const EQ_PARAMETERS_MIN: u64 = 500_000_000;

pub(super) fn of(name: &str, found: &Checkpoint, facts: &Facts, args: &Args, policy: &Policy) -> Recipe {
    let architecture = facts.architecture.clone();
    let quantization = Quantization::from(args.quantization);
    // A norm before the residual does not commute with a rotation of it.
    let plain = architecture.post_norms && quantization != Quantization::Fp32;
    let mut recipe = Recipe {
        schema: RECIPE_SCHEMA,
        name: name.to_owned(),
        description: String::new(),
        source: found.source.clone(),
        export: Export {
            quantization,
            activations: plain.then_some(Activations::TwoRows),
            seq_len: args.seq_len,
            backend: Backend::Xnnpack,
            partitions: Some(architecture.layers.saturating_add(1)),
            // Of an fp32 file the verifier counts the small products as well.
            delegated_linears: (quantization != Quantization::Fp32)
                .then(|| architecture.layers.saturating_mul(7).saturating_add(1)),
        },
        architecture,
        tokens: Tokens {
            bos: facts.bos,
            eos: facts.eos.clone(),
            tokenizer: TOKENIZER.to_owned(),
            chat_template: TEMPLATE.to_owned(),
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
    let scheme = quantization.as_str().to_uppercase();
    recipe.description = format!("{name}, {scheme}, {} million parameters", parameters.div_ceil(1_000_000));
    recipe.limits = limits(&recipe, policy);
    recipe.benchmark.peak_rss_bytes_max = resident_bytes(recipe.limits.file_bytes_max);
    recipe.evidence.release = evidence(parameters);
    recipe
}

/// Below a certain size a model does not follow the format of the EQ test's answers, and minutes of the eager model would only
/// say so.
fn evidence(parameters: u64) -> Vec<EvidenceKind> {
    let mut kinds =
        vec![EvidenceKind::Load, EvidenceKind::Parity, EvidenceKind::Benchmark, EvidenceKind::Quality];
    if parameters >= EQ_PARAMETERS_MIN {
        kinds.push(EvidenceKind::Eq);
    }
    kinds
}

/// A tenth below and above what the shapes say, and twice the memory that they plan. Where the policy ends between prediction
/// and bound, its limit is the bound.
fn limits(recipe: &Recipe, policy: &Policy) -> Limits {
    let (file, planned) = (predict::file_bytes(recipe), predict::planned_bytes(recipe));
    let within = |bound: u64, predicted: u64, max: u64| if predicted <= max { bound.min(max) } else { bound };
    Limits {
        file_bytes_min: rounded(file - file / 10, false),
        // Programs, norms and scales are most of a small file.
        file_bytes_max: within(
            rounded(file + file / 10 + 8_000_000, true),
            file,
            policy.limits.file_bytes_max,
        ),
        planned_bytes_max: within(rounded(2 * planned, true), planned, policy.limits.planned_bytes_max),
    }
}

/// A first start packs the weights into a file, which takes about twice the model once.
fn resident_bytes(file: u64) -> u64 {
    rounded(file * 5 / 2 + 250_000_000, true)
}

/// To two digits.
fn rounded(bytes: u64, up: bool) -> u64 {
    let unit = 10_u64.pow(bytes.max(1).ilog10().saturating_sub(1));
    let count = if up { bytes.div_ceil(unit) } else { bytes / unit };
    (count * unit).max(1)
}

fn licence(facts: &Facts) -> recipe::Licence {
    let notice = facts.notice().is_some();
    recipe::Licence {
        id: facts.licence.id().to_owned(),
        attribution: notice.then(|| "Built with Llama".to_owned()),
        agreement: facts.agreement.is_some().then(|| AGREEMENT.to_owned()),
        notice: notice.then(|| NOTICE.to_owned()),
    }
}

/// The recipe as TOML, with what its author has to look at said beside it.
pub(super) fn text(recipe: &Recipe, facts: &Facts) -> anyhow::Result<String> {
    let mut text = String::from("# Written by `cargo xtask new` from the checkpoint's own files.\n");
    for line in toml::to_string(recipe)?.lines() {
        match line {
            // Nothing stricter than what always holds.
            "[parity]" => continue,
            "" if text.ends_with("\n\n") => continue,
            "[limits]" => {
                text += "# Derived from the shapes; tighten them to what the first export prints.\n"
            }
            "[licence]" => text += remark(&facts.licence),
            _ if line.starts_with("partitions = ") => text += "# One per layer and one for the head.\n",
            _ if line.starts_with("bos = ") => {
                let _ = writeln!(text, "# {}", facts.texts(&[facts.bos]));
            }
            _ if line.starts_with("eos = ") => {
                let _ = writeln!(text, "# {}", facts.texts(&facts.eos));
            }
            _ => {}
        }
        text += &grouped(line);
        text.push('\n');
    }
    let read = Recipe::parse(&text).with_context(|| format!("a recipe for `{}`", recipe.name))?;
    ensure!(read == *recipe, "a recipe for `{}`: got another one back, {read:?}", recipe.name);
    Ok(text)
}

/// A number of bytes with its digits in threes.
fn grouped(line: &str) -> String {
    let bytes = line.split_once(" = ").filter(|(key, _)| key.contains("_bytes_"));
    let Some((key, digits)) = bytes else { return line.to_owned() };
    let mut shown = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            shown.push('_');
        }
        shown.push(digit);
    }
    format!("{key} = {shown}")
}

fn remark(licence: &Licence) -> &'static str {
    match licence {
        Licence::Known(OWN_LICENCE) => "",
        Licence::Known(_) => "# A release needs the licence's own text beside this: see docs/signing.md.\n",
        Licence::Named(_) => {
            "# As the checkpoint calls it; a release needs its name and text: see docs/signing.md.\n"
        }
        Licence::Unknown => {
            "# The checkpoint names none; a release needs its name and text: see docs/signing.md.\n"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_rounded_to_two_digits_and_grouped() {
        let cases = [
            (121_063_508, false, 120_000_000),
            (121_063_508, true, 130_000_000),
            (7, true, 7),
            (0, false, 1),
        ];
        for (bytes, up, wanted) in cases {
            assert_eq!(rounded(bytes, up), wanted);
        }
        assert_eq!(grouped("file_bytes_max = 1500000000"), "file_bytes_max = 1_500_000_000");
        assert_eq!(grouped("planned_bytes_max = 640"), "planned_bytes_max = 640");
        assert_eq!(grouped("seq_len = 1024"), "seq_len = 1024");
    }
}
