//! The rotary positions of a `config.json`, which has them in four places.
//!
//! **Invariant:** each setting is taken from the place from which `transformers` takes it; the others do not count.

use anyhow::{bail, ensure};
use model_assets::recipe::RopeScaling;
use serde_json::{Value, json};

use super::{Neutral, Object, compare, neutral};

const ROPE_THETA: f64 = 10_000.0;
const MAX_POSITION: u32 = 2048;

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
    found.retain(|_, value| !value.is_null());
    for key in ["rope_theta", "partial_rotary_factor"] {
        if let Some(beside) = config.get(key).filter(|_| !found.contains_key(key)) {
            found.insert(key.to_owned(), beside.clone());
        }
    }
    Ok(found)
}

/// Compares the positions that a configuration describes with the recipe's.
pub(super) fn agrees(config: &Object, theta: f64, scaling: Option<&RopeScaling>) -> anyhow::Result<()> {
    let mut rope = positions(config)?;
    compare(&rope, "rope_theta", &json!(theta), Some(&json!(ROPE_THETA)))?;
    neutral(&rope, &[("partial_rotary_factor", Neutral::Number(1.0))])?;
    let default = json!("default");
    let kind = rope.get("rope_type").or_else(|| rope.get("type")).unwrap_or(&default);
    let Some(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position }) =
        scaling
    else {
        ensure!(*kind == default, "rope_type: got {kind}, expected {default}");
        return Ok(());
    };
    ensure!(*kind == "llama3", "rope_type: got {kind}, expected \"llama3\"");
    // Where it is left out, the model was trained on all its positions.
    let original = "original_max_position_embeddings";
    let longest = config.get("max_position_embeddings").filter(|got| !got.is_null()).cloned();
    rope.entry(original).or_insert(longest.unwrap_or_else(|| json!(MAX_POSITION)));
    for (key, expected) in [
        ("factor", json!(factor)),
        ("low_freq_factor", json!(low_freq_factor)),
        ("high_freq_factor", json!(high_freq_factor)),
        (original, json!(original_max_position)),
    ] {
        compare(&rope, key, &expected, None)?;
    }
    Ok(())
}
