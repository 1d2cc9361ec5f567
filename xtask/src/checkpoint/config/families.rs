//! How each family's `config.json` comes to the one description of a decoder; the worker's `families` do the same.
//!
//! **Invariant:** a setting that changes the arithmetic is in the description or refused by name.

mod gemma3;
mod llama;
mod mistral;
mod phi3;
mod qwen2;
mod qwen3;
mod smollm3;

use anyhow::{Context as _, bail, ensure};
use model_assets::recipe::{Architecture, Family};
use serde_json::Value;

use super::{Object, UNIMPLEMENTED, neutral, settings::Settings};

/// A family's own.
struct Known {
    family: Family,
    /// `model_type`.
    kind: &'static str,
    /// Among `architectures`.
    program: &'static str,
    /// Settings that most families do not have.
    implemented: &'static [&'static str],
    describe: fn(&Settings<'_>) -> anyhow::Result<Architecture>,
}

const ALL: [Known; 7] =
    [llama::KNOWN, smollm3::KNOWN, mistral::KNOWN, qwen2::KNOWN, qwen3::KNOWN, gemma3::KNOWN, phi3::KNOWN];

/// `model_type` of a family's configurations.
pub(super) fn model_type(family: Family) -> &'static str {
    ALL.iter().find(|known| known.family == family).map_or("", |known| known.kind)
}

/// The description of a network; `seq_len` is the longest text of the export.
pub(super) fn describe(config: &Object, seq_len: u32) -> anyhow::Result<Architecture> {
    let kinds: Vec<_> = ALL.iter().map(|known| known.kind).collect();
    let got = config.get("model_type").unwrap_or(&Value::Null);
    let known = ALL.iter().find(|known| got == known.kind);
    let known =
        known.with_context(|| format!("model_type: got {got}, expected one of {}", kinds.join(", ")))?;
    let found = (known.describe)(&Settings { config, seq_len })?;
    let settings: Vec<_> =
        UNIMPLEMENTED.iter().filter(|(key, _)| !known.implemented.contains(key)).copied().collect();
    neutral(config, &settings)?;
    code(config, known.program)?;
    Ok(found)
}

/// Which program the weights are for.
fn code(config: &Object, wanted: &str) -> anyhow::Result<()> {
    if let Some(named) = config.get("architectures").filter(|named| !named.is_null()) {
        let listed = named.as_array().is_some_and(|named| named.iter().any(|name| name == wanted));
        ensure!(listed, "architectures: got {named}, expected {wanted:?}");
    }
    let own = config.get("auto_map").and_then(|map| map.get("AutoModelForCausalLM"));
    match own.filter(|own| !own.is_null()) {
        // Code that was there before `transformers` had the family.
        Some(Value::String(own)) if own.ends_with(&format!(".{wanted}")) => Ok(()),
        Some(own) => {
            bail!("auto_map: got a network in code of the checkpoint's own, {own}, expected {wanted:?}")
        }
        None => Ok(()),
    }
}
