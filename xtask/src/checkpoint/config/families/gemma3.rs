//! Gemma 3, text alone: four norms a layer, two bases of positions, a scaled embedding; gains are stored as what they exceed
//! 1 by.

use anyhow::{bail, ensure};
use model_assets::recipe::{Activation, Architecture, Family, LayerKind};
use serde_json::Value;

use super::{
    super::{
        Object,
        decoder::Defaults,
        rope,
        settings::{Settings, kinds},
    },
    Known,
};

pub(super) const KNOWN: Known = Known {
    family: Family::Gemma3,
    kind: "gemma3_text",
    program: "Gemma3ForCausalLM",
    implemented: &["hidden_activation", "query_pre_attn_scalar"],
    describe,
};

const THETA: f64 = 1_000_000.0;
const LOCAL_THETA: f64 = 10_000.0;
const HEAD_DIM: u32 = 256;
const WINDOW: u32 = 4096;
const PATTERN: u32 = 6;
const SCALAR: f64 = 256.0;

fn describe(settings: &Settings<'_>) -> anyhow::Result<Architecture> {
    // Not read by all families' code: positions, which are two, and another name of the activation.
    let mut plain = settings.config.clone();
    plain.retain(|key, _| !key.contains("rope") && key != "hidden_act");
    let plain = Settings { config: &plain, seq_len: settings.seq_len };
    let found = plain.decoder(Family::Gemma3, Defaults { tied: true, ..Defaults::USUAL })?;
    let head_dim = settings.integer("head_dim", Some(HEAD_DIM))?;
    let layer_kinds = layers(settings, found.layers)?;
    let windowed = layer_kinds.contains(&LayerKind::Local);
    let (full, local) = positions(settings)?;
    let scalar = settings.number("query_pre_attn_scalar", SCALAR)?;
    let tanh = [("gelu_pytorch_tanh", Activation::GeluTanh)];
    Ok(Architecture {
        head_dim,
        rotary_dim: None,
        rope_theta: full.theta,
        rope_scaling: full.scaling,
        layer_kinds: kinds(layer_kinds),
        local_rope_theta: windowed.then_some(local),
        window: if windowed { settings.window(Some(WINDOW))? } else { None },
        qk_norm: true,
        post_norms: true,
        activation: settings.activation("hidden_activation", &tanh)?,
        embedding_scale: Some(f64::from(found.dim).sqrt()),
        attention_scale: (scalar != f64::from(head_dim)).then(|| 1.0 / scalar.sqrt()),
        gain_offset: 1.0,
        ..found
    })
}

/// Positions of the global layers, and the base of those with a window.
fn positions(settings: &Settings<'_>) -> anyhow::Result<(rope::Rope, f64)> {
    let part = |key: &str| -> Object {
        let both = settings.get("rope_parameters").and_then(|both| both.get(key));
        both.and_then(Value::as_object).cloned().unwrap_or_default()
    };
    let mut full = part("full_attention");
    full.extend(settings.get("rope_scaling").and_then(Value::as_object).cloned().unwrap_or_default());
    let full = rope::of(full, settings, ["rope_theta", ""], THETA)?;
    let local = rope::of(part("sliding_attention"), settings, ["rope_local_base_freq", ""], LOCAL_THETA)?;
    ensure!(
        local.scaling.is_none(),
        "rope_parameters.sliding_attention: got {:?}, expected positions that are not scaled",
        local.scaling
    );
    Ok((full, local.theta))
}

fn layers(settings: &Settings<'_>, layers: u32) -> anyhow::Result<Vec<LayerKind>> {
    let Some(listed) = settings.list("layer_types", layers)? else {
        let pattern = settings.integer("sliding_window_pattern", Some(PATTERN))?;
        let kind = |layer: u32| {
            if layer.is_multiple_of(pattern) { LayerKind::Global } else { LayerKind::Local }
        };
        return Ok((1..=layers).map(kind).collect());
    };
    let kind = |it: &Value| match it.as_str() {
        Some("full_attention") => Ok(LayerKind::Global),
        Some("sliding_attention") => Ok(LayerKind::Local),
        _ => bail!("layer_types: got {it}, expected full_attention or sliding_attention"),
    };
    listed.iter().map(kind).collect()
}
