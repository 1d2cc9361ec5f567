use std::fs;

use model_assets::recipe::RopeScaling;

use super::*;

fn recipe(name: &str) -> Recipe {
    let path = format!("{}/../model-assets/models/{name}/recipe.toml", env!("CARGO_MANIFEST_DIR"));
    Recipe::parse(&fs::read_to_string(path).unwrap()).unwrap()
}

fn tiny() -> Object {
    serde_json::from_slice(include_bytes!("../../../../model-assets/models/tiny/config.json")).unwrap()
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
    for key in ["quantization_config", "compression_config", "quantization"] {
        let mut quantized = tiny();
        quantized.insert(key.into(), json!({}));
        assert!(agrees(&quantized, &recipe).unwrap_err().to_string().contains("already quantized"));
        quantized.insert(key.into(), json!(null));
        agrees(&quantized, &recipe).unwrap();
    }
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
fn what_nothing_here_implements_is_refused_by_name() {
    let recipe = recipe("tiny");
    let with = |key: &str, value: Value| {
        let mut config = tiny();
        config.insert(key.to_owned(), value);
        agrees(&config, &recipe).map_err(|error| error.to_string())
    };
    for (key, neutral) in UNIMPLEMENTED {
        with(key, json!(null)).unwrap();
        let harmless = match neutral {
            Neutral::Nothing => json!(null),
            Neutral::Bool(it) => json!(it),
            Neutral::Number(it) => json!(it),
            Neutral::Text(it) => json!(it),
            Neutral::Empty => json!([]),
        };
        with(key, harmless).unwrap();
        let error = with(key, json!([7])).expect_err(key);
        assert!(error.starts_with(&format!("{key}: ")), "{error}");
    }
    assert!(UNIMPLEMENTED.is_sorted_by_key(|(key, _)| *key), "so that one finds a name");
    for (key, good, bad) in [
        ("sliding_window", json!(512), json!(511)),
        ("layer_types", json!(["full_attention"]), json!(["full_attention", "sliding_attention"])),
        ("architectures", json!(["LlamaForCausalLM"]), json!(["LlamaForSequenceClassification"])),
        ("auto_map", json!({"AutoTokenizer": "x"}), json!({"AutoModelForCausalLM": "modeling.Own"})),
        ("hidden_act", json!("swish"), json!("gelu_new")),
        ("rope_scaling", json!({}), json!("linear")),
    ] {
        with(key, good).unwrap_or_else(|error| panic!("{error}"));
        let error = with(key, bad).expect_err(key);
        assert!(error.contains(&format!("{key}: got ")), "{error}");
    }
    let mut unused = tiny();
    unused.insert("sliding_window".into(), json!(8));
    unused.insert("use_sliding_window".into(), json!(false));
    agrees(&unused, &recipe).unwrap();
}

#[test]
fn a_stop_token_is_not_lost_wherever_it_stands() {
    let recipe = recipe("tiny");
    let asked = |config: Value| {
        let path = Utf8Path::new(GENERATION);
        check_generation(path, config.to_string().as_bytes(), &recipe).map_err(|error| format!("{error:#}"))
    };
    asked(json!({})).unwrap();
    asked(json!({"eos_token_id": 1, "bos_token_id": 0, "temperature": 0.6, "suppress_tokens": null}))
        .unwrap();
    for (key, value) in [
        ("eos_token_id", json!([1, 4])),
        ("eos_token_id", json!(4)),
        ("bos_token_id", json!(1)),
        ("suppress_tokens", json!([7])),
        ("forced_eos_token_id", json!(1)),
    ] {
        let error = asked(json!({ key: value })).expect_err(key);
        assert!(
            error.starts_with("generation_config.json: ") && error.contains(&format!("{key}: got ")),
            "{error}"
        );
    }
    assert!(asked(json!([])).unwrap_err().contains("not a json object"));
}

/// As `transformers` 5.24 reads them: `LlamaConfig(**config).rope_parameters`, by hand.
#[test]
fn positions_are_read_as_transformers_reads_them() {
    let read = |config: Value, theta: f64, scaled: bool| -> anyhow::Result<()> {
        let llama3 = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position: 64,
        };
        let settings = settings::Settings { config: config.as_object().unwrap(), seq_len: 16 };
        let found = rope::read(&settings, 1e4)?;
        ensure!(found.theta == theta && found.share == 1.0, "rope_theta: got {}", found.theta);
        if let (true, Some(RopeScaling::Llama3 { original_max_position: got, .. })) = (scaled, &found.scaling)
        {
            ensure!(*got == 64, "original_max_position_embeddings: got {got}, expected 64");
        }
        ensure!(found.scaling == scaled.then_some(llama3), "rope_type: got {:?}", found.scaling);
        Ok(())
    };
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64});
    let without = |key: &str| {
        let mut scaling = llama3.clone();
        scaling.as_object_mut().unwrap().remove(key);
        scaling
    };
    for (config, theta, scaled) in [
        (json!({}), 1e4, false),
        (json!({"rope_theta": null}), 1e4, false),
        (json!({"rope_theta": 5e5, "rope_parameters": {"rope_type": "default"}}), 5e5, false),
        (json!({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}), 5e5, false),
        (json!({"rope_theta": 5e5, "rope_scaling": {}, "rope_parameters": {"rope_theta": 2e4}}), 2e4, false),
        (json!({"rope_scaling": {"type": "default"}, "rope_parameters": {"rope_theta": 2e4}}), 1e4, false),
        (json!({"rope_scaling": {"rope_type": "default", "type": "linear", "factor": 2.0}}), 1e4, false),
        (json!({"rope_scaling": {"rope_type": "default", "factor": 2.0}}), 1e4, false),
        (json!({"rope_theta": 5e5, "rope_scaling": llama3}), 5e5, true),
        (json!({"rope_theta": 5e5, "rope_parameters": llama3}), 5e5, true),
        (
            json!({"rope_scaling": without("original_max_position_embeddings"), "max_position_embeddings": 64}),
            1e4,
            true,
        ),
        (json!({"rope_scaling": {"rope_type": "default"}, "rope_parameters": llama3}), 1e4, false),
        (json!({"rope_scaling": llama3, "original_max_position_embeddings": 32}), 1e4, true),
    ] {
        read(config.clone(), theta, scaled).unwrap_or_else(|error| panic!("{config}: {error}"));
        assert!(read(config.clone(), theta + 1.0, scaled).is_err(), "{config}");
        assert!(read(config.clone(), theta, !scaled).is_err(), "{config}");
    }
    for config in [
        json!({"rope_scaling": {"rope_type": null, "type": "linear", "factor": 2.0}}),
        json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": 8}),
        json!({"rope_scaling": {"type": "proportional"}}),
        json!({"rope_parameters": {"full_attention": {"rope_type": "default"}}}),
        json!({"rope_parameters": {"partial_rotary_factor": 0.5}}),
        json!({"partial_rotary_factor": 0.5}),
        json!({"rope_parameters": [1e4]}),
    ] {
        assert!(read(config.clone(), 1e4, false).is_err(), "{config}");
    }
    for (config, key) in [
        (json!({"rope_scaling": without("factor")}), "factor"),
        (
            json!({"rope_scaling": without("original_max_position_embeddings")}),
            "original_max_position_embeddings",
        ),
    ] {
        let error = read(config, 1e4, true).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{key}: got ")), "{error}");
    }
}
