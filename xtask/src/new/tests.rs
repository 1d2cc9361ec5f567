use std::fs;

use model_assets::{
    policy::Policy,
    recipe::{Activations, EvidenceKind, Family},
};
use serde_json::{Value, json};

use super::*;

const TEMPLATE: &str = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}";

/// A folder of a family, as far as a recipe needs it.
fn checkpoint(folder: &Utf8Path, kind: &str, more: &Value) {
    let mut config = json!({
        "model_type": kind, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 128, "vocab_size": 32,
        "bos_token_id": 1, "eos_token_id": 2,
    });
    config.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
    let special = ["<pad>", "<s>", "</s>", "<|end|>"];
    let added: Vec<_> = special.iter().enumerate().map(|(id, it)| json!({"id": id, "content": it})).collect();
    let vocab = json!({"a": 4, "b": 5});
    let tokenizer = json!({"added_tokens": added, "model": {"type": "BPE", "vocab": vocab, "merges": []}});
    let settings = json!({"eos_token": {"content": "</s>"}, "chat_template": TEMPLATE});
    for (name, it) in
        [("config.json", &config), ("tokenizer.json", &tokenizer), ("tokenizer_config.json", &settings)]
    {
        fs::write(folder.join(name), it.to_string()).unwrap();
    }
    fs::write(folder.join("model.safetensors"), "").unwrap();
}

fn recipe_of(folder: &Utf8Path, quantization: Weights) -> anyhow::Result<(Recipe, String)> {
    let args = Args {
        source: folder.to_string(),
        name: Some("m".to_owned()),
        quantization,
        seq_len: 48,
        dry_run: true,
    };
    let policy = Policy::parse(include_str!("../../../model-assets/models/policy.toml")).unwrap();
    let found = Checkpoint::find(&args.source, "again").map_err(Failure::into_error)?;
    let facts = Facts::read(&found, args.seq_len)?;
    let recipe = recipe::of("m", &found, &facts, &args, &policy);
    let text = recipe::text(&recipe, &facts)?;
    policy.admits(&recipe)?;
    facts.fits(&recipe, folder, &facts.vocabulary)?;
    Ok((recipe, text))
}

fn scratch() -> (tempfile::TempDir, camino::Utf8PathBuf) {
    let kept = tempfile::tempdir().unwrap();
    let folder = kept.path().to_owned().try_into().unwrap();
    (kept, folder)
}

#[test]
fn every_family_has_a_recipe() {
    let longrope = json!({"rope_scaling": {
        "type": "longrope", "short_factor": vec![1.0; 8], "long_factor": vec![1.0; 8]}});
    let families = [
        ("llama", json!({"tie_word_embeddings": true})),
        ("smollm3", json!({})),
        ("mistral", json!({"sliding_window": null})),
        ("qwen2", json!({})),
        ("qwen3", json!({})),
        ("gemma3_text", json!({"sliding_window": 64})),
        ("phi3", longrope),
    ];
    assert_eq!(families.len(), Family::ALL.len());
    for (kind, more) in families {
        let (_kept, folder) = scratch();
        checkpoint(&folder, kind, &more);
        for quantization in [Weights::Int8, Weights::Int4, Weights::Fp32] {
            let (recipe, text) =
                recipe_of(&folder, quantization).unwrap_or_else(|error| panic!("{kind}: {error:#}"));
            assert_eq!(recipe.tokens.eos, [2, 3], "the files name one, the template another");
            assert!(text.contains("# </s>, <|end|>\neos = [2, 3]\n"), "{text}");
            let rotated = recipe.export.activations() == Some(Activations::Rotated);
            assert_eq!(rotated, kind != "gemma3_text" && !matches!(quantization, Weights::Fp32));
            assert!(!recipe.evidence.release.contains(&EvidenceKind::Eq) && !text.contains("[parity]"));
        }
    }
}

#[test]
fn what_cannot_be_exported_is_refused_by_name() {
    let refused = |change: &dyn Fn(&Utf8Path)| {
        let (_kept, folder) = scratch();
        checkpoint(&folder, "llama", &json!({}));
        change(&folder);
        format!("{:#}", recipe_of(&folder, Weights::Int8).unwrap_err())
    };
    let config = |kind: &str, more: Value| refused(&|folder| checkpoint(folder, kind, &more));
    let settings = |it: Value| {
        refused(&|folder| fs::write(folder.join("tokenizer_config.json"), it.to_string()).unwrap())
    };
    let said = config("mamba", json!({}));
    assert!(
        said.contains("model_type: got \"mamba\", expected one of llama, smollm3, mistral, qwen2"),
        "{said}"
    );
    let said = config("llama", json!({"attn_logit_softcapping": 30.0}));
    assert!(
        said.contains("attn_logit_softcapping: got 30.0, expected none: the export does not implement it"),
        "{said}"
    );
    let said = config("mistral", json!({"sliding_window": 16}));
    assert!(said.contains("sliding_window: got 16"), "{said}");
    let said = config("llama", json!({"eos_token_id": 99}));
    assert!(said.contains("tokens.eos"), "{said}");
    let said = settings(json!({"chat_template": "a\n{{ messages | shuffle }}"}));
    assert!(said.contains("chat template") && said.contains("line 2"), "{said}");
    let said = settings(json!({}));
    assert!(said.contains("got no chat template"), "{said}");
    let said = refused(&|folder| fs::remove_file(folder.join("tokenizer.json")).unwrap());
    assert!(said.contains("got no tokenizer.json"), "{said}");
    let said = refused(&|folder| fs::remove_file(folder.join("model.safetensors")).unwrap());
    assert!(said.contains("got no *.safetensors"), "{said}");
}

#[test]
fn a_licence_of_others_is_named_with_its_text() {
    let (_kept, folder) = scratch();
    checkpoint(&folder, "llama", &json!({}));
    fs::write(folder.join("README.md"), "---\nlicense: llama3.2\n---\nA model").unwrap();
    fs::write(folder.join("LICENSE.txt"), "Llama 3.2 Community License").unwrap();
    let (recipe, text) = recipe_of(&folder, Weights::Int8).unwrap();
    let licence = recipe.licence;
    assert_eq!(licence.id, "Llama 3.2 Community License");
    assert_eq!(
        (licence.agreement.as_deref(), licence.notice.as_deref()),
        (Some("LICENSE.txt"), Some("NOTICE"))
    );
    assert_eq!(licence.attribution.as_deref(), Some("Built with Llama"));
    fs::remove_file(folder.join("README.md")).unwrap();
    let (recipe, unnamed) = recipe_of(&folder, Weights::Int8).unwrap();
    assert_eq!(recipe.licence.id, "unknown");
    assert!(unnamed.contains("The checkpoint names none") && !text.contains("names none"));
}
