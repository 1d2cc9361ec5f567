//! Cross-check of a checkpoint's `config.json` against its recipe, for the reserve: as the worker's `config.py` does it.
//!
//! **Invariant:** every setting that changes the arithmetic is compared; a difference names both values. Nothing is taken from the
//! file: it can only disagree.

use std::fs;

use anyhow::{Context as _, anyhow, bail, ensure};
use camino::Utf8Path;
use model_assets::recipe::{Recipe, RopeScaling, Tokens};
use serde_json::{Map, Value, json};

type Object = Map<String, Value>;

const FILE: &str = "config.json";
const ROPE_THETA: f64 = 10_000.0;

/// Compares a folder's `config.json` with the recipe.
pub(super) fn check(folder: &Utf8Path, recipe: &Recipe) -> anyhow::Result<()> {
    let path = folder.join(FILE);
    let bytes = fs::read(&path).with_context(|| format!("{path}: cannot be read"))?;
    let config: Value =
        serde_json::from_slice(&bytes).map_err(|error| anyhow!("{path}: cannot be read: {error}"))?;
    let config = config.as_object().with_context(|| format!("{path}: not a json object"))?;
    agrees(config, recipe)
        .with_context(|| format!("{path}: the recipe describes another model than the checkpoint"))
}

fn agrees(config: &Object, recipe: &Recipe) -> anyhow::Result<()> {
    ensure!(
        !config.contains_key("quantization_config"),
        "quantization_config: the checkpoint is already quantized"
    );
    let a = &recipe.architecture;
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
        ("hidden_act", json!("silu"), json!("silu")),
        ("attention_bias", json!(false), json!(false)),
        ("mlp_bias", json!(false), json!(false)),
    ] {
        compare(config, key, &expected, Some(&default))?;
    }
    rope(config, a.rope_theta, a.rope_scaling.as_ref())?;
    tokens(config, &recipe.tokens)
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

/// Newer files keep theta and scaling together, older ones apart.
fn rope(config: &Object, theta: f64, scaling: Option<&RopeScaling>) -> anyhow::Result<()> {
    let object = |key: &str| config.get(key).and_then(Value::as_object);
    let rope = object("rope_parameters").cloned().unwrap_or_else(|| {
        let mut apart = object("rope_scaling").cloned().unwrap_or_default();
        apart.insert("rope_theta".to_owned(), config.get("rope_theta").cloned().unwrap_or_default());
        apart
    });
    compare(&rope, "rope_theta", &json!(theta), Some(&json!(ROPE_THETA)))?;
    let kind = rope.get("rope_type").or_else(|| rope.get("type"));
    let default = json!("default");
    let kind = kind.filter(|kind| !kind.is_null()).unwrap_or(&default);
    let Some(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position }) =
        scaling
    else {
        ensure!(*kind == default, "rope_type: got {kind}, expected {default}");
        return Ok(());
    };
    ensure!(*kind == "llama3", "rope_type: got {kind}, expected \"llama3\"");
    for (key, expected) in [
        ("factor", json!(factor)),
        ("low_freq_factor", json!(low_freq_factor)),
        ("high_freq_factor", json!(high_freq_factor)),
        ("original_max_position_embeddings", json!(original_max_position)),
    ] {
        compare(&rope, key, &expected, None)?;
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(name: &str) -> Recipe {
        let path = format!("{}/../model-assets/models/{name}/recipe.toml", env!("CARGO_MANIFEST_DIR"));
        Recipe::parse(&fs::read_to_string(path).unwrap()).unwrap()
    }

    fn tiny() -> Object {
        serde_json::from_slice(include_bytes!("../../../model-assets/models/tiny/config.json")).unwrap()
    }

    #[test]
    fn every_setting_that_changes_the_arithmetic_is_compared() {
        let recipe = recipe("tiny");
        agrees(&tiny(), &recipe).unwrap();
        let refused = |key: &str, value: Value| {
            let mut config = tiny();
            config.insert(key.to_owned(), value);
            let error = agrees(&config, &recipe).expect_err(key).to_string();
            assert!(error.contains("got "), "{error}");
        };
        for key in ["hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"] {
            refused(key, json!(1));
        }
        for key in ["head_dim", "intermediate_size", "vocab_size", "bos_token_id", "rope_theta"] {
            refused(key, json!(2));
        }
        refused("model_type", json!("mistral"));
        refused("hidden_act", json!("gelu"));
        refused("rms_norm_eps", json!(1e-6));
        refused("tie_word_embeddings", json!(false));
        refused("tie_word_embeddings", json!(null));
        refused("attention_bias", json!(true));
        refused("mlp_bias", json!(true));
        refused("eos_token_id", json!([1, 3]));
        refused("rope_scaling", json!({"rope_type": "llama3"}));
        refused("rope_parameters", json!({"rope_theta": 5e5}));
        refused("hidden_size", json!(null));
        let mut quantized = tiny();
        quantized.insert("quantization_config".into(), json!({}));
        assert!(agrees(&quantized, &recipe).unwrap_err().to_string().contains("already quantized"));
        let mut lacking = tiny();
        lacking.remove("vocab_size");
        let error = agrees(&lacking, &recipe).unwrap_err().to_string();
        assert_eq!(error, "vocab_size: got none, expected 1024");
    }

    #[test]
    fn what_a_file_may_leave_out_has_its_default() {
        let recipe = recipe("tiny");
        let mut config = tiny();
        for key in ["head_dim", "hidden_act", "attention_bias", "mlp_bias", "rope_theta", "bos_token_id"] {
            config.remove(key);
        }
        config.insert("eos_token_id".into(), json!(null));
        agrees(&config, &recipe).unwrap();
        config.insert("hidden_size".into(), json!(192.0));
        agrees(&config, &recipe).unwrap();
    }

    #[test]
    fn scaled_positions_are_compared_wherever_they_stand() {
        let recipe = recipe("llama3.2-1b");
        let a = &recipe.architecture;
        let scaling = json!({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192});
        let apart = json!({"rope_theta": 500_000.0, "rope_scaling": scaling});
        let mut together = scaling.clone();
        together["rope_theta"] = json!(500_000.0);
        let together = json!({"rope_parameters": together});
        let asked = |config: &Value| rope(config.as_object().unwrap(), a.rope_theta, a.rope_scaling.as_ref());
        for config in [&apart, &together] {
            asked(config).unwrap();
        }
        let mut other = apart.clone();
        other["rope_scaling"]["factor"] = json!(8.0);
        assert_eq!(asked(&other).unwrap_err().to_string(), "factor: got 8.0, expected 32.0");
        assert!(asked(&json!({"rope_theta": 500_000.0})).is_err());
        let plain = apart.as_object().unwrap();
        let error = rope(plain, a.rope_theta, None).unwrap_err().to_string();
        assert_eq!(error, r#"rope_type: got "llama3", expected "default""#);
    }
}
