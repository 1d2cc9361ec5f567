//! Cross-check of a checkpoint's `config.json` and `generation_config.json` against its recipe.
//!
//! **Invariant:** every setting that changes the arithmetic or ends a reply is compared, or refused by name where nothing here
//! implements it. Nothing is taken from the files: they can only disagree. They are read as `transformers` reads them: see
//! `LlamaConfig` and `RotaryEmbeddingConfigMixin` in its sources.

mod decoder;
mod families;
mod rope;
mod settings;
#[cfg(test)]
mod tests;

use anyhow::{Context as _, anyhow, bail, ensure};
use camino::Utf8Path;
use model_assets::recipe::{Architecture, Recipe, Tokens};
use serde_json::{Map, Value, json};

use crate::protocol;

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

/// The network that a `config.json` describes; `seq_len` is the longest text of an export.
pub(crate) fn described(path: &Utf8Path, seq_len: u32) -> anyhow::Result<Architecture> {
    let bytes = std::fs::read(path).with_context(|| format!("{path}: cannot be read"))?;
    families::describe(&object(path, &bytes)?, seq_len).with_context(|| path.to_string())
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
    named(config, &recipe.architecture)?;
    let found = families::describe(config, recipe.export.seq_len)?;
    same_description(&found, &recipe.architecture)?;
    tokens(config, &recipe.tokens)
}

/// What every configuration has to say.
fn named(config: &Object, a: &Architecture) -> anyhow::Result<()> {
    for (key, expected) in [
        ("model_type", json!(families::model_type(a.family))),
        ("hidden_size", json!(a.dim)),
        ("num_hidden_layers", json!(a.layers)),
        ("num_attention_heads", json!(a.heads)),
        ("intermediate_size", json!(a.ffn)),
        ("vocab_size", json!(a.vocab)),
    ] {
        compare(config, key, &expected)?;
    }
    Ok(())
}

/// Names of the settings that a description's fields come from, where they have one.
const NAMES: [(&str, &str); 10] = [
    ("kv_heads", "num_key_value_heads"),
    ("tied", "tie_word_embeddings"),
    ("norm_eps", "rms_norm_eps"),
    ("rope_scaling", "rope_scaling (rope_type)"),
    ("rotary_dim", "partial_rotary_factor (rotary_dim)"),
    ("layer_kinds", "layer_types (layer_kinds)"),
    ("local_rope_theta", "rope_local_base_freq"),
    ("window", "sliding_window"),
    ("activation", "hidden_act"),
    ("attention_scale", "query_pre_attn_scalar (attention_scale)"),
];

/// Field by field, numbers but for their last digits.
fn same_description(found: &Architecture, wanted: &Architecture) -> anyhow::Result<()> {
    let fields = |it: &Architecture| serde_json::to_value(protocol::Architecture::from(it));
    let (found, wanted) = (fields(found)?, fields(wanted)?);
    for (key, wanted) in wanted.as_object().into_iter().flatten() {
        let got = &found[key];
        let name = NAMES.iter().find(|(field, _)| field == key).map_or(key.as_str(), |(_, name)| name);
        ensure!(alike(got, wanted), "{name}: got {got}, expected {wanted}");
    }
    Ok(())
}

/// The same but for the last digits of numbers.
pub(crate) fn alike(got: &Value, wanted: &Value) -> bool {
    match (got, wanted) {
        (Value::Array(got), Value::Array(wanted)) => {
            got.len() == wanted.len() && got.iter().zip(wanted).all(|(got, wanted)| alike(got, wanted))
        }
        (Value::Object(got), Value::Object(wanted)) => {
            got.len() == wanted.len()
                && wanted.iter().all(|(key, wanted)| got.get(key).is_some_and(|got| alike(got, wanted)))
        }
        _ => same(got, wanted),
    }
}

fn compare(config: &Object, key: &str, expected: &Value) -> anyhow::Result<()> {
    let got = config.get(key).with_context(|| format!("{key}: got none, expected {expected}"))?;
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
