//! Hostile contract files: one test for each way that a recipe, policy or manifest can be wrong, and a snapshot of the
//! manifest's schema, so that a change of the format is a change that a reviewer sees.

use proptest::prelude::*;

use crate::{
    error::ContractError,
    limits,
    manifest::{MANIFEST_SCHEMA, Manifest},
    policy::Policy,
    recipe::Recipe,
    reserve::{RESERVE_SCHEMA, ReserveManifest},
};

const TINY: &str = include_str!("../models/tiny/recipe.toml");
const LLAMA: &str = include_str!("../models/llama3.2-1b/recipe.toml");
const LLAMA_INT4: &str = include_str!("../models/llama3.2-1b-int4/recipe.toml");
const SMOLLM2: &str = include_str!("../models/smollm2-135m/recipe.toml");
const POLICY: &str = include_str!("../models/policy.toml");
const MANIFEST: &str = include_str!("../models/tiny/manifest.json");

fn recipe_with(from: &str, to: &str) -> ContractError {
    assert!(TINY.contains(from), "the recipe has no `{from}`");
    Recipe::parse(&TINY.replace(from, to)).expect_err("the recipe should be refused")
}

fn refused_value(key: &str, from: &str, to: &str) {
    match recipe_with(from, to) {
        ContractError::Value { key: got, .. } => assert_eq!(got, key),
        other => panic!("expected a refused value of {key}, got {other}"),
    }
}

#[test]
fn the_committed_files_parse_and_fit_the_policy() {
    let policy = Policy::parse(POLICY).unwrap();
    for text in [TINY, LLAMA, LLAMA_INT4, SMOLLM2] {
        policy.admits(&Recipe::parse(text).unwrap()).unwrap();
    }
    let manifest = Manifest::parse(MANIFEST.as_bytes()).unwrap();
    assert_eq!(Manifest::parse(&manifest.to_bytes()).unwrap(), manifest);
}

#[test]
fn recipe_values_that_cannot_be() {
    for (key, from, to) in [
        ("name", "name = \"tiny\"", "name = \"../tiny\""),
        ("name", "name = \"tiny\"", "name = \"\""),
        ("source.path", "path = \".\"", "path = \"../elsewhere\""),
        ("source.path", "path = \".\"", "path = \"/etc\""),
        ("tokens.tokenizer", "tokenizer = \"tokenizer.json\"", "tokenizer = \"a/b.json\""),
        ("tokens.chat_template", "chat_template = \"chat_template.jinja\"", "chat_template = \".hidden\""),
        ("architecture.dim", "dim = 192", "dim = 0"),
        ("architecture.layers", "layers = 5", "layers = 5000"),
        ("architecture.kv_heads", "kv_heads = 2", "kv_heads = 4"),
        ("architecture.head_dim", "head_dim = 32", "head_dim = 33"),
        ("architecture.head_dim", "head_dim = 32", "head_dim = 258"),
        ("architecture.rotary_dim", "tied = true", "tied = true\nrotary_dim = 34"),
        ("architecture.rotary_dim", "tied = true", "tied = true\nrotary_dim = 7"),
        ("architecture.layer_kinds", "tied = true", "tied = true\nlayer_kinds = [\"global\"]"),
        ("architecture.local_rope_theta", "tied = true", "tied = true\nlocal_rope_theta = 1e4"),
        ("architecture.embedding_scale", "tied = true", "tied = true\nembedding_scale = 0.0"),
        ("architecture.gain_offset", "tied = true", "tied = true\ngain_offset = 2.0"),
        ("architecture.window", "tied = true", "tied = true\nwindow = 0"),
        ("export.seq_len", "tied = true", "tied = true\nwindow = 511"),
        ("export.activations", "tied = true", "tied = true\npost_norms = true"),
        ("architecture.norm_eps", "norm_eps = 1e-5", "norm_eps = nan"),
        ("architecture.rope_theta", "rope_theta = 10000.0", "rope_theta = inf"),
        ("architecture.vocab", "vocab = 1024", "vocab = 4294967295"),
        ("export.seq_len", "seq_len = 512", "seq_len = 0"),
        ("tokens.bos", "bos = 0", "bos = 1024"),
        ("tokens.eos", "eos = [1]", "eos = []"),
        ("tokens.eos", "eos = [1]", "eos = [1, 4000]"),
        ("limits.file_bytes_min", "file_bytes_min = 1_500_000", "file_bytes_min = 0"),
        ("limits.file_bytes_min", "file_bytes_min = 1_500_000", "file_bytes_min = 9_000_000"),
        ("limits.file_bytes_max", "file_bytes_max = 8_000_000", "file_bytes_max = 9_000_000_000"),
        ("parity.mean_kl_max", "[eq]", "[parity]\nmean_kl_max = -1.0\n[eq]"),
        ("parity.max_abs_diff_max", "[eq]", "[parity]\nmax_abs_diff_max = nan\n[eq]"),
        ("eq.score_min", "score_min = ", "score_min = 1"),
        ("quality.perplexity_max", "perplexity_max = ", "perplexity_max = -"),
        ("quality.perplexity_ratio_max", "[quality]\n", "[quality]\nperplexity_ratio_max = 1.5\n"),
        ("quality.kl_max", "[quality]\n", "[quality]\nkl_max = nan\n"),
        ("quality.top1_agreement_min", "[quality]\n", "[quality]\ntop1_agreement_min = 0.5\n"),
        ("quality.text.file", "file = \"heldout.jsonl\"", "file = \"../heldout.jsonl\""),
        ("benchmark.prefill_over_decode_min", "prefill_over_decode_min = ", "prefill_over_decode_min = -"),
        ("grammar.acceptance_min", "acceptance_min = 0.8", "acceptance_min = 8"),
        ("grammar", "[grammar]\nacceptance_min = 0.8\nacceptance_ratio_min = 0.95\n", ""),
    ] {
        refused_value(key, from, to);
    }
}

#[test]
fn a_hub_source_is_pinned_to_a_commit() {
    let branch = LLAMA.replace("9213176726f574b556790deb65791e0c5aa438b6", "main");
    assert!(matches!(Recipe::parse(&branch), Err(ContractError::Value { key: "source.revision", .. })));
    let repo = LLAMA.replace("meta-llama/Llama-3.2-1B-Instruct", "meta-llama");
    assert!(matches!(Recipe::parse(&repo), Err(ContractError::Value { key: "source.repo", .. })));
}

#[test]
fn pinned_files_are_plain_names_with_digests_and_are_all_that_an_export_reads() {
    let digest = "0".repeat(64);
    let with =
        |lines: &[String]| {
            Recipe::parse(&LLAMA.replace(
                "[architecture]\n",
                &format!("[source.files]\n{}\n[architecture]\n", lines.join("\n")),
            ))
        };
    let pin = |name: &str| format!("\"{name}\" = \"{digest}\"");
    let whole = ["config.json", "tokenizer.json", "model.safetensors"].map(pin).to_vec();
    let pinned = with(&whole).unwrap();
    assert_ne!(pinned.digest(), Recipe::parse(LLAMA).unwrap().digest());
    for (index, missing) in whole.iter().enumerate() {
        let rest: Vec<_> =
            whole.iter().enumerate().filter(|(i, _)| *i != index).map(|(_, l)| l.clone()).collect();
        assert!(
            matches!(with(&rest), Err(ContractError::Value { key: "source.files", .. })),
            "without {missing}"
        );
    }
    for name in ["../model.safetensors", "/etc/passwd", "a/b.safetensors", ".hidden", "", "c:\\\\x", "a\\nb"]
    {
        let lines = [whole.clone(), vec![pin(name)]].concat();
        assert!(matches!(with(&lines), Err(ContractError::Value { key: "source.files", .. })), "{name}");
    }
    for wrong in ["", "main", &digest[1..], &digest.replace('0', "A")] {
        let lines = [whole.clone(), vec![format!("\"x.json\" = \"{wrong}\"")]].concat();
        assert!(matches!(with(&lines), Err(ContractError::Syntax { .. })), "{wrong}");
    }
    let many: Vec<_> = (0..=limits::CHECKPOINT_FILES_MAX).map(|i| pin(&format!("{i}.safetensors"))).collect();
    assert!(matches!(with(&[whole, many].concat()), Err(ContractError::Value { key: "source.files", .. })));
    // A folder that lies elsewhere is pinned in the same way; one in the repository needs none.
    let of_path = |lines: &[String]| {
        let pins = format!("[source.files]\n{}\n[architecture]\n", lines.join("\n"));
        Recipe::parse(&TINY.replace("[architecture]\n", &pins))
    };
    let whole = ["config.json", "tokenizer.json", "model.safetensors"].map(pin);
    assert_ne!(of_path(&whole).unwrap().digest(), Recipe::parse(TINY).unwrap().digest());
    assert!(matches!(of_path(&whole[..1]), Err(ContractError::Value { key: "source.files", .. })));
}

#[test]
fn a_gguf_is_a_source_by_its_digest() {
    let path = "kind = \"path\"\npath = \".\"";
    let with = |file: &str, sha256: &str| {
        Recipe::parse(
            &TINY.replace(path, &format!("kind = \"gguf\"\nfile = \"{file}\"\nsha256 = \"{sha256}\"")),
        )
    };
    let digest = "0".repeat(64);
    assert!(matches!(with("m.gguf", &digest).unwrap().source, crate::recipe::Source::Gguf { .. }));
    assert!(matches!(with("../m.gguf", &digest), Err(ContractError::Value { key: "source.file", .. })));
    assert!(matches!(with("m.gguf", "main"), Err(ContractError::Syntax { .. })));
}

#[test]
fn unknown_keys_and_kinds_are_syntax_errors() {
    for (from, to) in [
        ("schema = 1", "schema = 1\nskip_checks = true"),
        ("kind = \"path\"", "kind = \"path\"\nallow = \"pickle\""),
        ("quantization = \"int8\"", "quantization = \"int2\""),
        ("delivery = \"embed\"", "delivery = \"copy\""),
        ("release = [\"load\", \"parity\"", "release = [\"promise\""),
    ] {
        assert!(matches!(recipe_with(from, to), ContractError::Syntax { .. }), "{to}");
    }
}

#[test]
fn another_schema_version_says_so() {
    let schema = |error: ContractError| matches!(error, ContractError::Schema { got: 9, expected: 1, .. });
    assert!(schema(recipe_with("schema = 1", "schema = 9")));
    assert!(schema(Policy::parse(&POLICY.replace("schema = 1", "schema = 9")).unwrap_err()));
    // Of another version nothing but the version is read: its other keys may be anything.
    assert!(schema(Manifest::parse(br#"{"schema": 9, "anything": []}"#).unwrap_err()));
}

#[test]
fn files_over_the_limit_are_not_parsed() {
    let long = "#".repeat(usize::try_from(limits::TOML_BYTES_MAX).unwrap() + 1);
    assert!(matches!(Recipe::parse(&long), Err(ContractError::TooLarge { .. })));
    assert!(matches!(Policy::parse(&long), Err(ContractError::TooLarge { .. })));
    let long = vec![b' '; usize::try_from(limits::MANIFEST_BYTES_MAX).unwrap() + 1];
    assert!(matches!(Manifest::parse(&long), Err(ContractError::TooLarge { .. })));
}

#[test]
fn a_recipe_looser_than_the_policy_is_refused() {
    let policy = Policy::parse(POLICY).unwrap();
    let loose = [
        (
            "limits.planned_bytes_max",
            TINY,
            "planned_bytes_max = 32_000_000",
            "planned_bytes_max = 999_000_000",
        ),
        ("limits.file_bytes_max", TINY, "file_bytes_max = 8_000_000", "file_bytes_max = 1_600_000_000"),
        // Embedding demands the smaller of the policy's two limits.
        ("limits.file_bytes_max", TINY, "file_bytes_max = 8_000_000", "file_bytes_max = 65_000_000"),
    ];
    for (key, text, from, to) in loose {
        let error = policy.admits(&Recipe::parse(&text.replace(from, to)).unwrap()).unwrap_err();
        assert!(matches!(error, ContractError::Value { key: got, .. } if got == key), "{error}");
    }
}

#[test]
fn a_manifest_names_plain_files_only() {
    for (from, to) in [
        ("\"file\": \"tiny-int8-seq512.pte\"", "\"file\": \"../tiny-int8-seq512.pte\""),
        ("\"file\": \"tiny-int8-seq512.pte\"", "\"file\": \"\""),
        ("\"name\": \"tiny-int8-seq512.reference\"", "\"name\": \"/tmp/reference\""),
    ] {
        assert!(MANIFEST.contains(from), "{from}");
        let error = Manifest::parse(MANIFEST.replace(from, to).as_bytes()).unwrap_err();
        assert!(matches!(error, ContractError::Value { .. }), "{error}");
    }
}

#[test]
fn a_digest_ignores_comments_and_order_but_no_value() {
    let digest = |text: &str| Recipe::parse(text).unwrap().digest();
    let commented = format!("# a comment\n{TINY}").replace('\n', "\r\n");
    assert_eq!(digest(TINY), digest(&commented));
    assert_ne!(digest(TINY), digest(&TINY.replace("score_min = 60.0", "score_min = 61.0")));
}

#[test]
fn the_manifest_schema_is_reviewed() {
    assert_eq!(MANIFEST_SCHEMA, 1);
    let schema = serde_json::to_string_pretty(&schemars::schema_for!(Manifest)).unwrap();
    insta::assert_snapshot!("manifest-v1", schema);
    assert_eq!(RESERVE_SCHEMA, 1);
    let schema = serde_json::to_string_pretty(&schemars::schema_for!(ReserveManifest)).unwrap();
    insta::assert_snapshot!("reserve-v1", schema);
}

#[test]
fn a_record_of_the_reserve_is_read_as_strictly_as_a_manifest() {
    let another = ReserveManifest::parse(br#"{"schema": 9, "anything": []}"#).unwrap_err();
    assert!(matches!(another, ContractError::Schema { got: 9, expected: 1, .. }));
    let syntax = ReserveManifest::parse(br#"{"schema": 1, "anything": []}"#).unwrap_err();
    assert!(matches!(syntax, ContractError::Syntax { .. }));
    let long = vec![b' '; usize::try_from(limits::MANIFEST_BYTES_MAX).unwrap() + 1];
    assert!(matches!(ReserveManifest::parse(&long), Err(ContractError::TooLarge { .. })));
    let record =
        br#"{"schema":1,"model":"m","file":"../m.gguf","file_bytes":1,"sha256":"DIGEST","weights":"random",
        "source":{"source":{"kind":"random","seed":7},"files":[]},
        "bound":{"recipe":"DIGEST","policy":"DIGEST","tokenizer":null,"chat_template":null},
        "export":{"xtask_revision":null,"seconds":1.0,"peak_rss_bytes":null},
        "structure":{"file_bytes":1,"head_bytes":1,"keys":0,"tensors":0,"elements":0,"weights":{"q8_0":34}},
        "checks":[],"evidence":null,"published":"now"}"#;
    let record = std::str::from_utf8(record).unwrap().replace("DIGEST", &"0".repeat(64));
    let outside = ReserveManifest::parse(record.as_bytes()).unwrap_err();
    assert!(matches!(outside, ContractError::Value { key: "file", .. }), "{outside}");
    let good = ReserveManifest::parse(record.replace("../", "").as_bytes()).unwrap();
    assert_eq!(ReserveManifest::parse(&good.to_bytes()).unwrap(), good);
    let mut later = good.clone();
    (later.published, later.export.seconds) = ("later".into(), 2.0);
    assert!(good.covers(&later));
    later.file_bytes += 1;
    assert!(!good.covers(&later));
}

#[test]
fn a_reproduced_export_keeps_the_reviewed_manifest() {
    let reviewed = Manifest::parse(include_bytes!("../models/tiny/manifest.json")).unwrap();
    let mut fresh = reviewed.clone();
    fresh.published = "2027-01-01T00:00:00Z".into();
    fresh.export.stages.clear();
    fresh.checks.reverse();
    (fresh.evidence.as_mut().unwrap().benchmark, fresh.evidence.as_mut().unwrap().eq) = (None, None);
    assert!(reviewed.covers(&fresh));
    assert!(!fresh.covers(&reviewed), "the fresh one has less evidence");
    let first = fresh.checks.last_mut().unwrap();
    first.passed = !first.passed;
    assert!(!reviewed.covers(&fresh));
}

proptest! {
    #[test]
    fn no_text_makes_a_parser_panic(text in ".{0,400}", cut in 0..TINY.len(), byte in any::<u8>()) {
        let _ = (Recipe::parse(&text), Policy::parse(&text), Manifest::parse(text.as_bytes()));
        let mut recipe = TINY.as_bytes().to_vec();
        recipe[cut] = byte;
        let _ = Recipe::parse(&String::from_utf8_lossy(&recipe));
        let mut manifest = MANIFEST.as_bytes().to_vec();
        let at = cut % manifest.len();
        manifest[at] = byte;
        let _ = Manifest::parse(&manifest);
    }
}
