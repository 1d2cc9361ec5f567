//! Cross-check of a checkpoint's `config.json` and `generation_config.json` against its recipe.
//!
//! **Invariant:** every setting that changes the arithmetic or ends a reply is compared, or refused by name where nothing here
//! implements it. Nothing is taken from the files: they can only disagree. They are read as `transformers` reads them: see
//! `LlamaConfig` and `RotaryEmbeddingConfigMixin` in its sources.

mod rope;
#[cfg(test)]
mod tests;

use anyhow::{Context as _, anyhow, bail, ensure};
use camino::Utf8Path;
use model_assets::recipe::{Architecture, Recipe, Tokens};
use serde_json::{Map, Value, json};

type Object = Map<String, Value>;

/// The file that describes the network.
pub(super) const CONFIG: &str = "config.json";
/// The file that says how it is sampled; a checkpoint may lack it.
pub(super) const GENERATION: &str = "generation_config.json";

/// Compares the bytes of a `config.json` with the recipe.
pub(super) fn check(path: &Utf8Path, bytes: &[u8], recipe: &Recipe) -> anyhow::Result<()> {
    agrees(&object(path, bytes)?, recipe)
        .with_context(|| format!("{path}: the recipe describes another model than the checkpoint"))
}

/// Compares the bytes of a `generation_config.json` with the recipe.
pub(super) fn check_generation(path: &Utf8Path, bytes: &[u8], recipe: &Recipe) -> anyhow::Result<()> {
    let config = object(path, bytes)?;
    let checked = neutral(&config, &SAMPLED_TOKENS).and_then(|()| tokens(&config, &recipe.tokens));
    checked.with_context(|| format!("{path}: the recipe describes another model than the checkpoint"))
}

fn object(path: &Utf8Path, bytes: &[u8]) -> anyhow::Result<Object> {
    let value: Value =
        serde_json::from_slice(bytes).map_err(|error| anyhow!("{path}: cannot be read: {error}"))?;
    match value {
        Value::Object(object) => Ok(object),
        _ => bail!("{path}: not a json object"),
    }
}

/// What leaves a setting without effect, beside null and a key that is not there.
#[derive(Debug, Clone, Copy)]
enum Neutral {
    Nothing,
    Bool(bool),
    Number(f64),
    Text(&'static str),
    Empty,
}

impl Neutral {
    fn is(self, got: &Value) -> bool {
        match self {
            Self::Nothing => false,
            Self::Bool(wanted) => *got == wanted,
            Self::Number(wanted) => got.as_f64() == Some(wanted),
            Self::Text(wanted) => *got == wanted,
            Self::Empty => got.as_array().is_some_and(Vec::is_empty) || got.as_f64() == Some(0.0),
        }
    }

    fn expected(self) -> String {
        match self {
            Self::Nothing => "none".to_owned(),
            Self::Bool(wanted) => wanted.to_string(),
            Self::Number(wanted) => wanted.to_string(),
            Self::Text(wanted) => format!("{wanted:?}"),
            Self::Empty => "none or an empty one".to_owned(),
        }
    }
}

/// Settings of Llama and of its relatives that change what is computed and that no part of the export implements. A file that
/// sets one describes another network, whatever its `model_type` says.
const UNIMPLEMENTED: [(&str, Neutral); 42] = [
    ("add_cross_attention", Neutral::Bool(false)),
    ("alibi", Neutral::Bool(false)),
    ("attention_bias", Neutral::Bool(false)),
    ("attention_multiplier", Neutral::Nothing),
    ("attention_out_bias", Neutral::Bool(false)),
    ("attn_logit_softcapping", Neutral::Nothing),
    ("attn_temperature_tuning", Neutral::Bool(false)),
    ("bias", Neutral::Bool(false)),
    ("clip_qkv", Neutral::Nothing),
    ("compression_config", Neutral::Nothing),
    ("dim_model_base", Neutral::Nothing),
    ("embedding_multiplier", Neutral::Number(1.0)),
    ("final_logit_softcapping", Neutral::Nothing),
    ("hidden_activation", Neutral::Text("silu")),
    ("is_causal", Neutral::Bool(true)),
    ("is_encoder_decoder", Neutral::Bool(false)),
    ("lm_head_bias", Neutral::Bool(false)),
    ("logit_scale", Neutral::Number(1.0)),
    ("logits_scaling", Neutral::Number(1.0)),
    ("mlp_bias", Neutral::Bool(false)),
    ("mlp_only_layers", Neutral::Empty),
    ("no_rope_layer_interval", Neutral::Empty),
    ("no_rope_layers", Neutral::Empty),
    ("num_experts", Neutral::Empty),
    ("num_local_experts", Neutral::Empty),
    ("partial_rotary_factor", Neutral::Number(1.0)),
    ("position_embedding_type", Neutral::Text("rope")),
    ("qk_layernorm", Neutral::Bool(false)),
    ("qk_norm", Neutral::Bool(false)),
    ("qkv_bias", Neutral::Bool(false)),
    ("quantization", Neutral::Nothing),
    ("quantization_config", Neutral::Nothing),
    ("query_pre_attn_scalar", Neutral::Nothing),
    ("residual_multiplier", Neutral::Number(1.0)),
    ("rope_interleaved", Neutral::Bool(false)),
    ("rotary_pct", Neutral::Number(1.0)),
    ("scale_depth", Neutral::Nothing),
    ("scale_emb", Neutral::Number(1.0)),
    ("use_bias", Neutral::Bool(false)),
    ("use_bidirectional_attention", Neutral::Bool(false)),
    ("use_parallel_residual", Neutral::Bool(false)),
    ("use_qk_norm", Neutral::Bool(false)),
];

/// Settings that forbid or force tokens: the app's sampler has none of them.
const SAMPLED_TOKENS: [(&str, Neutral); 6] = [
    ("bad_words_ids", Neutral::Empty),
    ("begin_suppress_tokens", Neutral::Empty),
    ("forced_bos_token_id", Neutral::Nothing),
    ("forced_decoder_ids", Neutral::Empty),
    ("forced_eos_token_id", Neutral::Nothing),
    ("suppress_tokens", Neutral::Empty),
];

fn neutral(config: &Object, settings: &[(&str, Neutral)]) -> anyhow::Result<()> {
    for (key, neutral) in settings {
        let Some(got) = config.get(*key).filter(|got| !got.is_null()) else { continue };
        ensure!(
            neutral.is(got),
            "{key}: got {got}, expected {}: the export does not implement it",
            neutral.expected()
        );
    }
    Ok(())
}

fn agrees(config: &Object, recipe: &Recipe) -> anyhow::Result<()> {
    for key in ["quantization_config", "compression_config", "quantization"] {
        let quantized = config.get(key).is_some_and(|got| !got.is_null());
        ensure!(!quantized, "{key}: the checkpoint is already quantized");
    }
    shape(config, &recipe.architecture)?;
    neutral(config, &UNIMPLEMENTED)?;
    layers(config, recipe.export.seq_len)?;
    code(config)?;
    rope::agrees(config, recipe.architecture.rope_theta, recipe.architecture.rope_scaling.as_ref())?;
    tokens(config, &recipe.tokens)
}

fn shape(config: &Object, a: &Architecture) -> anyhow::Result<()> {
    let [dim, heads] = [a.dim, a.heads].map(|size| json!(size));
    for (key, expected) in [
        ("model_type", json!("llama")),
        ("hidden_size", dim),
        ("num_hidden_layers", json!(a.layers)),
        ("num_attention_heads", heads.clone()),
        ("intermediate_size", json!(a.ffn)),
        ("vocab_size", json!(a.vocab)),
    ] {
        compare(config, key, &expected, None)?;
    }
    // Both divisors were just compared with the recipe's, which are above zero.
    let head_dim = a.dim.checked_div(a.heads).unwrap_or_default();
    for (key, expected, default) in [
        ("num_key_value_heads", json!(a.kv_heads), heads),
        ("head_dim", json!(a.head_dim), json!(head_dim)),
        ("rms_norm_eps", json!(a.norm_eps), json!(1e-6)),
        ("tie_word_embeddings", json!(a.tied), json!(false)),
    ] {
        compare(config, key, &expected, Some(&default))?;
    }
    // Two names of one function.
    let swish = config.get("hidden_act").is_some_and(|got| got == "swish");
    if swish { Ok(()) } else { compare(config, "hidden_act", &json!("silu"), Some(&json!("silu"))) }
}

/// Attention that is not over everything before, where it makes a difference within the window of the export.
fn layers(config: &Object, seq_len: u32) -> anyhow::Result<()> {
    let kinds = config.get("layer_types").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if let Some(kind) = kinds.iter().find(|kind| *kind != "full_attention") {
        bail!("layer_types: got {kind}, expected \"full_attention\" in every layer");
    }
    let used = config.get("use_sliding_window").is_none_or(|used| *used != false);
    let window = config.get("sliding_window").filter(|window| used && !window.is_null());
    if let Some(window) = window {
        let wide = window.as_u64().is_some_and(|window| window >= u64::from(seq_len));
        ensure!(wide, "sliding_window: got {window}, expected none below the window of {seq_len} tokens");
    }
    Ok(())
}

/// Which program the weights are for.
fn code(config: &Object) -> anyhow::Result<()> {
    let wanted = "LlamaForCausalLM";
    if let Some(named) = config.get("architectures").filter(|named| !named.is_null()) {
        let listed = named.as_array().is_some_and(|named| named.iter().any(|name| name == wanted));
        ensure!(listed, "architectures: got {named}, expected {wanted:?}");
    }
    let own = config.get("auto_map").and_then(|map| map.get("AutoModelForCausalLM"));
    ensure!(
        own.is_none_or(Value::is_null),
        "auto_map: got a network in code of the checkpoint's own, expected {wanted:?}"
    );
    Ok(())
}

/// A setting that is absent or null has the default, where there is one.
fn compare(config: &Object, key: &str, expected: &Value, default: Option<&Value>) -> anyhow::Result<()> {
    let got = config.get(key).filter(|got| !(got.is_null() && default.is_some())).or(default);
    let got = got.with_context(|| format!("{key}: got none, expected {expected}"))?;
    ensure!(same(got, expected), "{key}: got {got}, expected {expected}");
    Ok(())
}

fn same(got: &Value, expected: &Value) -> bool {
    match (got.as_f64(), expected.as_f64()) {
        (Some(got), Some(wanted)) if expected.is_f64() => {
            (got - wanted).abs() <= 1e-9 * got.abs().max(wanted.abs())
        }
        // 64 and 64.0 are one number.
        (Some(got), Some(wanted)) => got == wanted,
        _ => got == expected,
    }
}

fn tokens(config: &Object, tokens: &Tokens) -> anyhow::Result<()> {
    let got = |key: &str| config.get(key).filter(|got| !got.is_null());
    if let Some(bos) = got("bos_token_id") {
        ensure!(same(bos, &json!(tokens.bos)), "bos_token_id: got {bos}, expected {}", tokens.bos);
    }
    let Some(eos) = got("eos_token_id") else { return Ok(()) };
    let listed = eos.as_array().map_or(std::slice::from_ref(eos), Vec::as_slice);
    // The recipe may know more stop tokens, but one that the checkpoint names must not be lost.
    let known = |token: &Value| tokens.eos.iter().any(|known| same(token, &json!(known)));
    if !listed.iter().all(known) {
        bail!("eos_token_id: got {eos}, expected {:?}", tokens.eos);
    }
    Ok(())
}
