use serde_json::{Value, json};

use super::{DecoderStep, judge};

fn file(changes: Value) -> Vec<u8> {
    let mut it = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []},
    });
    let fields = it.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        fields.insert(name.clone(), value.clone());
    }
    serde_json::to_vec(&it).unwrap()
}

fn refused(changes: Value, why: &str) {
    let error = judge(&file(changes.clone())).unwrap_err();
    assert!(error.contains(why), "{changes}: got {error:?}, expected {why:?}");
}

fn taken(changes: Value) {
    judge(&file(changes.clone())).unwrap_or_else(|error| panic!("{changes}: {error}"));
}

fn replace(pattern: &str, content: &str) -> Value {
    json!({"type": "Replace", "pattern": {"String": pattern}, "content": content})
}

fn split(expression: &str) -> Value {
    json!({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false}})
}

fn added(tokens: &[(u32, &str)]) -> Value {
    json!({"added_tokens": tokens.iter().map(|(id, text)| json!({"id": id, "content": text})).collect::<Vec<_>>()})
}

#[test]
fn files_of_public_models_are_taken() {
    let metaspace = [json!({"type": "Prepend", "prepend": "▁"}), replace(" ", "▁")];
    taken(json!({"normalizer": {"type": "Sequence", "normalizers": metaspace}}));
    taken(json!({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, replace(" ", "▁")]}}));
    taken(json!({"normalizer": {"type": "NFC"}, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": true},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]}}));
    for expression in [
        // Llama 3.
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        // Phi 4, GPT-4o.
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        // DeepSeek.
        r"[!-/:-@\[-`{-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "[0-9]+",
        "[一-龥぀-ゟ゠-ヿ]+",
        r"\p{N}{1,3}",
    ] {
        taken(split(expression));
    }
    taken(json!({"post_processor": {"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "a", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [], "special_tokens": {"a": {"id": "a", "ids": [0], "tokens": ["a"]}}}}));
    taken(json!({"model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.5]]}}));
}

#[test]
fn growth_is_the_product_of_all_steps() {
    let chain = |count: usize| {
        let steps: Vec<Value> = (0..count).map(|_| replace("a", "aa")).collect();
        json!({"normalizer": {"type": "Sequence", "normalizers": steps}})
    };
    taken(chain(5));
    refused(chain(6), "one byte into 64, expected at most 33");
    refused(chain(31), "expected at most 33");
    refused(chain(33), "got 33 steps");
    let inner = chain(5).get("normalizer").unwrap().clone();
    refused(json!({"normalizer": {"type": "Sequence", "normalizers": [inner.clone(), inner]}}), "into 1024");
    refused(json!({"normalizer": replace("a", &"b".repeat(40))}), "into 40");
    refused(json!({"normalizer": replace("", "b")}), "got a pattern of 0 bytes");
    refused(json!({"normalizer": replace("a", &"b".repeat(300))}), "got 300 bytes of `content`");
    // What may match nothing stands between any two bytes.
    refused(
        json!({"normalizer": {"type": "Replace", "pattern": {"Regex": "x*"}, "content": "b".repeat(40)}}),
        "into 41",
    );
    refused(
        json!({"normalizer": {"type": "NFKC"}, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Metaspace", "replacement": "▁"}, {"type": "ByteLevel"}]}}),
        "into 66",
    );
}

#[test]
fn unknown_steps_are_refused() {
    refused(
        json!({"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}}),
        "normalizer: got `Precompiled`",
    );
    refused(json!({"normalizer": {"prepend": "x"}}), "normalizer: got no `type`");
    refused(json!({"pre_tokenizer": {"type": "Custom"}}), "pre_tokenizer: got `Custom`");
    refused(json!({"post_processor": {"type": "Custom"}}), "post_processor: got `Custom`");
    refused(json!({"decoder": {"type": "CTC"}}), "decoder: got `CTC`");
    refused(json!({"model": {"type": "Custom", "vocab": {"a": 0}}}), "model: got type `Custom`");
    refused(json!({"model": {"vocab": {"a": 0}}}), "missing field `type`");
    let mut deep = json!({"type": "NFC"});
    for _ in 0..6 {
        deep = json!({"type": "Sequence", "normalizers": [deep]});
    }
    refused(json!({"normalizer": deep}), "less than 4 deep");
}

#[test]
fn models_draw_nothing_by_chance_and_look_up_short_words() {
    refused(json!({"model": {"type": "BPE", "dropout": 0.1, "vocab": {"a": 0}}}), "dropout 0.1");
    taken(json!({"model": {"type": "BPE", "dropout": 0.0, "vocab": {"a": 0}}}));
    let words =
        json!({"model": {"type": "WordPiece", "max_input_chars_per_word": 100_000, "vocab": {"a": 0}}});
    refused(words, "max_input_chars_per_word 100000");
    refused(json!({"model": {"type": "BPE", "vocab": {}}}), "an empty vocabulary");
}

#[test]
fn regular_expressions_have_bounded_work() {
    for (expression, why) in [
        (r"(a+)+$(?!b)", "repeated group"),
        (r"((a|b)*c)*", "repeated group"),
        (r"(?:x{2,}y){3}", "repeated group"),
        (r"(a)\1", "back-reference"),
        (r"\k<n>", "back-reference"),
        (r"a{65}", "expected at most 64"),
        (r"a{2,x}", "expected at most 64"),
        (r"a{", "expected at most 64"),
        (r"(a", "an open group"),
        (r"a)", "a `)` too many"),
        (r"[a", "an open class"),
        ("a\\", "a lone backslash"),
    ] {
        refused(split(expression), why);
    }
    refused(split(&"(".repeat(2000)), "groups deeper than 8");
    refused(split(&format!("[{}", "[".repeat(2000))), "classes deeper than 8");
    refused(split(&"a".repeat(5000)), "got a regular expression of 5000 bytes");
    // A group without a repetition may be repeated, and a repetition may be lazy.
    taken(split(r"(?:ab|c)+?d[)*+(]{1,2}"));
}

#[test]
fn added_tokens_say_one_thing_each() {
    taken(added(&[(2, "<|a|>"), (3, "<|b|>"), (0, "a")]));
    refused(added(&[(2, "")]), "got 0 bytes for id 2");
    refused(added(&[(2, &"x".repeat(300))]), "got 300 bytes for id 2");
    refused(added(&[(2, "<|a|>"), (3, "<|a|>")]), "with ids 2 and 3");
    refused(added(&[(2, "<|a|>"), (2, "<|b|>")]), "`<|a|>` and `<|b|>` with id 2");
    refused(added(&[(2, "a")]), "`a` with ids 0 and 2");
    assert_eq!(judge(&file(added(&[(9, "<|a|>")]))).unwrap().rows, 10);
}

#[test]
fn decoders_unfold_into_steps_that_can_be_streamed() {
    let sequence = |steps: &[Value]| json!({"decoder": {"type": "Sequence", "decoders": steps}});
    let (fuse, bytes) = (json!({"type": "Fuse"}), json!({"type": "ByteFallback"}));
    let strip = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
    let llama2 = sequence(&[replace("▁", " "), bytes.clone(), fuse.clone(), strip]);
    let facts = judge(&file(llama2)).unwrap();
    assert_eq!(facts.decoder.last().unwrap(), &DecoderStep::Strip { content: ' ', start: 1, stop: 0 });
    assert_eq!(facts.decoder.len(), 4);
    refused(sequence(&[fuse, bytes]), "after a step that joins tokens");
    refused(
        json!({"decoder": {"type": "Replace", "pattern": {"Regex": "a*"}, "content": "b"}}),
        "of a plain text",
    );
    refused(json!({"decoder": replace("", "b")}), "got a pattern of 0 bytes");
    refused(
        json!({"decoder": {"type": "Strip", "content": "ab", "start": 1, "stop": 0}}),
        "expected one character",
    );
    refused(
        json!({"decoder": {"type": "Strip", "content": " ", "start": 1000, "stop": 0}}),
        "expected at most 64",
    );
}

#[test]
fn garbage_is_refused() {
    for garbage in ["", "{}", "[]", "null", r#"{"model": 3}"#, r#"{"model":{"type":"BPE","vocab":{"a":-1}}}"#]
    {
        assert!(judge(garbage.as_bytes()).is_err(), "{garbage}");
    }
    let deep = format!(r#"{{"normalizer": {}"#, "[".repeat(100_000));
    assert!(judge(deep.as_bytes()).is_err());
    let tokens: Vec<Value> =
        (0..70_000).map(|id| json!({"id": id + 2, "content": format!("<{id}>")})).collect();
    refused(json!({"added_tokens": tokens}), "expected at most 65536");
}
