//! The rotary positions of a `config.json`, which has them in four places.
//!
//! **Invariant:** each setting is taken from the place from which `transformers` takes it; the others do not count.
//!
//! **Invariant:** what depends on the length of the text is decided by the export's own length, or refused.

use anyhow::{Context as _, bail, ensure};
use model_assets::recipe::RopeScaling;
use serde_json::{Value, json};

use super::{
    Object,
    settings::{Settings, positive},
};

const ORIGINAL: &str = "original_max_position_embeddings";
const MAX_POSITION: u32 = 2048;

/// What a configuration says of positions.
pub(super) struct Rope {
    pub(super) theta: f64,
    pub(super) scaling: Option<RopeScaling>,
    /// Of the channels of a head, rotated.
    pub(super) share: f64,
}

/// The settings of the positions, wherever they stand: an older `rope_scaling` goes before `rope_parameters`, an empty one
/// counts as none, and what it leaves out stands beside it.
fn positions(config: &Object) -> anyhow::Result<Object> {
    let mut found = Object::new();
    for key in ["rope_parameters", "rope_scaling"] {
        match config.get(key) {
            None | Some(Value::Null) => {}
            Some(Value::Object(own)) if own.is_empty() => {}
            Some(Value::Object(own)) => found.clone_from(own),
            Some(other) => bail!("{key}: got {other}, expected an object"),
        }
    }
    if let Some((key, _)) = found.iter().find(|(_, value)| value.is_object()) {
        bail!("rope_parameters: {key}: got an object of its own, expected one for all layers");
    }
    Ok(found)
}

/// Positions that are the same for all layers.
pub(super) fn read(settings: &Settings<'_>, theta: f64) -> anyhow::Result<Rope> {
    of(positions(settings.config)?, settings, ["rope_theta", "partial_rotary_factor"], theta)
}

/// Positions of some layers: `beside` are the keys of base and share outside.
pub(super) fn of(
    mut rope: Object,
    settings: &Settings<'_>,
    beside: [&str; 2],
    theta: f64,
) -> anyhow::Result<Rope> {
    rope.retain(|_, value| !value.is_null());
    for (key, outside) in ["rope_theta", "partial_rotary_factor"].into_iter().zip(beside) {
        if let Some(found) = settings.get(outside).filter(|_| !rope.contains_key(key)) {
            rope.insert(key.to_owned(), found.clone());
        }
    }
    let theta = number(&rope, "rope_theta", Some(theta))?;
    let share = number(&rope, "partial_rotary_factor", Some(1.0))?;
    Ok(Rope { theta, scaling: scaling(&rope, settings)?, share })
}

fn scaling(rope: &Object, settings: &Settings<'_>) -> anyhow::Result<Option<RopeScaling>> {
    let longest = settings.integer("max_position_embeddings", Some(MAX_POSITION))?;
    let default = json!("default");
    let kind = rope.get("rope_type").or_else(|| rope.get("type")).unwrap_or(&default);
    Ok(Some(match kind.as_str() {
        Some("default") => return Ok(None),
        Some("dynamic") => {
            number(rope, "factor", None)?;
            let seq_len = settings.seq_len;
            ensure!(seq_len <= longest, "rope_type: got {kind}, expected another kind for {seq_len} tokens");
            return Ok(None);
        }
        Some("linear") => RopeScaling::Linear { factor: number(rope, "factor", None)? },
        Some("llama3") => RopeScaling::Llama3 {
            factor: number(rope, "factor", None)?,
            low_freq_factor: number(rope, "low_freq_factor", None)?,
            high_freq_factor: number(rope, "high_freq_factor", None)?,
            original_max_position: original(rope, longest)?,
        },
        Some("yarn") => yarn(rope, longest)?,
        Some("longrope") => longrope(rope, longest, settings.seq_len)?,
        _ => bail!(
            "rope_type: got {kind}, expected one of default, dynamic, linear, llama3, longrope, yarn: the export does not \
             implement it"
        ),
    }))
}

fn number(rope: &Object, key: &str, default: Option<f64>) -> anyhow::Result<f64> {
    let got = rope.get(key).cloned().or_else(|| default.map(|it| json!(it))).unwrap_or_default();
    positive(key, &got)
}

/// Where it is left out, the model was trained on all its positions.
fn original(rope: &Object, longest: u32) -> anyhow::Result<u32> {
    let got = rope.get(ORIGINAL).cloned().unwrap_or_else(|| json!(longest));
    let number = got.as_u64().and_then(|it| u32::try_from(it).ok()).filter(|it| *it > 0);
    number.with_context(|| format!("{ORIGINAL}: got {got}, expected a whole number above 0"))
}

fn yarn(rope: &Object, longest: u32) -> anyhow::Result<RopeScaling> {
    let original_max_position = original(rope, longest)?;
    let stretched = f64::from(longest) / f64::from(original_max_position);
    let factor = number(rope, "factor", Some(stretched))?;
    let size = |share: f64| if factor <= 1.0 { 1.0 } else { 0.1 * share * factor.ln() + 1.0 };
    let share = |key| rope.get(key).and_then(Value::as_f64).filter(|share| *share != 0.0);
    let default = match (share("mscale"), share("mscale_all_dim")) {
        (Some(one), Some(other)) => size(one) / size(other),
        _ => size(1.0),
    };
    Ok(RopeScaling::Yarn {
        factor,
        beta_fast: number(rope, "beta_fast", Some(32.0))?,
        beta_slow: number(rope, "beta_slow", Some(1.0))?,
        attention_factor: number(rope, "attention_factor", Some(default))?,
        original_max_position,
        truncate: rope.get("truncate").and_then(Value::as_bool).unwrap_or(true),
    })
}

fn longrope(rope: &Object, longest: u32, seq_len: u32) -> anyhow::Result<RopeScaling> {
    let original = original(rope, longest)?;
    ensure!(
        seq_len <= original,
        "rope_type: got \"longrope\", expected another kind for {seq_len} tokens: its short factors end at {original}"
    );
    let got = rope.get("short_factor").cloned().unwrap_or_default();
    let short = got.as_array().and_then(|list| list.iter().map(Value::as_f64).collect::<Option<Vec<_>>>());
    let short_factor =
        short.with_context(|| format!("short_factor: got {got}, expected a list of numbers"))?;
    let factor = number(rope, "factor", Some(f64::from(longest) / f64::from(original)))?;
    let default = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / f64::from(original).ln()).sqrt() };
    let attention_factor = number(rope, "attention_factor", Some(default))?;
    Ok(RopeScaling::LongRope { short_factor, attention_factor })
}
