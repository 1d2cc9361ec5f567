use camino::Utf8PathBuf;

use super::*;

/// A head whose values are written by type; `tensors` are vectors, or rows and width.
fn file(folder: &Utf8Path, metadata: &[(&str, Value)], tensors: &[(&str, &[u64])]) -> Utf8PathBuf {
    fn text(out: &mut Vec<u8>, text: &str) {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    }
    fn value(out: &mut Vec<u8>, it: &Value) {
        match it {
            Value::String(it) => text(out, it),
            Value::Number(it) if it.is_u64() => out.extend((it.as_u64().unwrap() as u32).to_le_bytes()),
            Value::Number(it) => out.extend((it.as_f64().unwrap() as f32).to_le_bytes()),
            Value::Array(list) => {
                out.extend(kind(&list[0]).to_le_bytes());
                out.extend((list.len() as u64).to_le_bytes());
                list.iter().for_each(|it| value(out, it));
            }
            other => panic!("{other}"),
        }
    }
    fn kind(it: &Value) -> u32 {
        match it {
            Value::String(_) => 8,
            Value::Array(_) => 9,
            it if it.is_u64() => 4,
            _ => 6,
        }
    }
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, it) in metadata {
        text(&mut out, key);
        out.extend(kind(it).to_le_bytes());
        value(&mut out, it);
    }
    for (name, shape) in tensors {
        text(&mut out, name);
        out.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|it| out.extend(it.to_le_bytes()));
        out.extend(0_u32.to_le_bytes());
        out.extend(0_u64.to_le_bytes());
    }
    out.resize(out.len().next_multiple_of(32), 0);
    for number in llama3_factors(64, 500_000.0, 32.0, (LOW, HIGH), ORIGINAL) {
        out.extend((number as f32).to_le_bytes());
    }
    let path = folder.join("m.gguf");
    fs::write(&path, out).unwrap();
    path
}

fn metadata(architecture: &str) -> Vec<(String, Value)> {
    let own = |key: &str| format!("{architecture}.{key}");
    vec![
        ("general.architecture".to_owned(), json!(architecture)),
        ("general.license".to_owned(), json!("mit")),
        (own("block_count"), json!(2)),
        (own("embedding_length"), json!(256)),
        (own("feed_forward_length"), json!(512)),
        (own("attention.head_count"), json!(4)),
        (own("attention.head_count_kv"), json!(2)),
        (own("attention.layer_norm_rms_epsilon"), json!(1e-5)),
        (own("rope.freq_base"), json!(500_000.0)),
        ("tokenizer.ggml.tokens".to_owned(), json!(["a", "<s>", "</s>"])),
        ("tokenizer.ggml.token_type".to_owned(), json!([1, 3, 3])),
        ("tokenizer.ggml.bos_token_id".to_owned(), json!(1)),
        ("tokenizer.ggml.eos_token_id".to_owned(), json!(2)),
        ("tokenizer.chat_template".to_owned(), json!("{{ messages }}")),
    ]
}

const TENSORS: [(&str, &[u64]); 2] = [(FACTORS, &[32]), (EMBEDDING, &[3, 256])];

fn described(
    metadata: &[(String, Value)],
    tensors: &[(&str, &[u64])],
) -> anyhow::Result<(Value, Option<String>)> {
    let kept = tempfile::tempdir().unwrap();
    let folder = Utf8Path::from_path(kept.path()).unwrap();
    let borrowed: Vec<_> = metadata.iter().map(|(key, it)| (key.as_str(), it.clone())).collect();
    let licence = describe(&file(folder, &borrowed, tensors), folder)?;
    Ok((serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap(), licence))
}

#[test]
fn a_llama_3_is_known_by_the_factors_of_its_positions() {
    let (config, licence) = described(&metadata("llama"), &TENSORS).unwrap();
    assert_eq!(licence.as_deref(), Some("mit"));
    assert_eq!(config["rope_scaling"]["factor"], 32.0);
    assert_eq!((&config["rms_norm_eps"], &config["vocab_size"]), (&json!(1e-5), &json!(3)));
    assert_eq!(config["tie_word_embeddings"], true);
    assert_eq!(config["eos_token_id"], json!([2]));
    // Of another base they are another scaling's.
    let mut other = metadata("llama");
    other[8].1 = json!(10_000.0);
    assert!(described(&other, &TENSORS).unwrap_err().to_string().starts_with(FACTORS));
}

#[test]
fn a_window_makes_a_mistral() {
    let mut windowed = metadata("llama");
    windowed.push(("llama.attention.sliding_window".to_owned(), json!(4096)));
    assert_eq!(described(&windowed, &TENSORS[1..]).unwrap().0["model_type"], "mistral");
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let refused =
        |metadata: &[(String, Value)], tensors| format!("{:#}", described(metadata, tensors).unwrap_err());
    let said = refused(&metadata("mamba"), &TENSORS[1..]);
    assert!(said.contains("\"mamba\", expected one of llama, qwen2, qwen3, gemma3, smollm3"), "{said}");
    for (key, it, tensors) in [
        ("llama.expert_count", json!(8), &TENSORS[1..]),
        ("llama.rope.scaling.type", json!("yarn"), &TENSORS[1..]),
        ("llama.rope.dimension_count", json!(32), &TENSORS[1..]),
    ] {
        let mut more = metadata("llama");
        more.push((key.to_owned(), it));
        let said = refused(&more, tensors);
        assert!(said.starts_with(key), "{said}");
    }
    for key in ["tokenizer.ggml.bos_token_id", "llama.block_count", "tokenizer.ggml.tokens"] {
        let less: Vec<_> = metadata("llama").into_iter().filter(|(known, _)| known != key).collect();
        let said = refused(&less, &TENSORS[1..]);
        assert!(said.starts_with(key), "{said}");
    }
    assert!(refused(&metadata("llama"), &TENSORS[..1]).starts_with(EMBEDDING));
}

#[test]
fn what_is_no_gguf_is_refused() {
    let kept = tempfile::tempdir().unwrap();
    let folder = Utf8Path::from_path(kept.path()).unwrap();
    let path = folder.join("m.gguf");
    let whole = {
        let metadata = metadata("llama");
        let borrowed: Vec<_> = metadata.iter().map(|(key, it)| (key.as_str(), it.clone())).collect();
        fs::read(file(folder, &borrowed, &TENSORS)).unwrap()
    };
    for end in [0, 3, 7, 20, 100, 400] {
        fs::write(&path, &whole[..end]).unwrap();
        assert!(describe(&path, folder).is_err(), "{end}");
    }
    let mut counts = whole;
    counts[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    fs::write(&path, counts).unwrap();
    assert!(format!("{:#}", describe(&path, folder).unwrap_err()).contains("number of tensors: got"));
}
