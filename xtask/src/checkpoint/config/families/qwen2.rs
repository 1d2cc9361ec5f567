//! Qwen2 and Qwen2.5: biases of queries, keys and values.

use model_assets::recipe::{Architecture, Family};

use super::{
    super::{
        decoder::{Defaults, whole_heads},
        settings::Settings,
    },
    Known,
};

pub(super) const KNOWN: Known = Known {
    family: Family::Qwen2,
    kind: "qwen2",
    program: "Qwen2ForCausalLM",
    // Its own way to say what it always has.
    implemented: &["qkv_bias"],
    describe,
};

const WINDOW: u32 = 4096;
const FIRST_WITH: u32 = 28;

/// Of Qwen's later layers, if it is switched on.
pub(super) fn window(settings: &Settings<'_>, layers: u32) -> anyhow::Result<Option<u32>> {
    if !settings.flag("use_sliding_window", false)? {
        settings.all_global()?;
        return Ok(None);
    }
    let first = settings.get("max_window_layers").and_then(serde_json::Value::as_u64);
    let has = match settings.list("layer_types", layers)? {
        Some(listed) => listed.iter().any(|kind| kind == "sliding_attention"),
        None => first.unwrap_or(u64::from(FIRST_WITH)) < u64::from(layers),
    };
    if has { settings.window(Some(WINDOW)) } else { Ok(None) }
}

fn describe(settings: &Settings<'_>) -> anyhow::Result<Architecture> {
    let found = whole_heads(settings.decoder(Family::Qwen2, Defaults::USUAL)?)?;
    Ok(Architecture { qkv_bias: true, window: window(settings, found.layers)?, ..found })
}
