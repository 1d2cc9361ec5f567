//! Streams of every kind of decoder against the `tokenizers` crate, which decodes all tokens at once.

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::Tokenizer;

/// One token per byte (`<0xE4>`), then texts that each kind of decoder treats specially, then a special token.
const WORDS: [&str; 34] = [
    "▁", "▁▁", "▁He", "llo", "▁wor", "ld", " ", "  ", "a", "##b", "##ing", "un", "Ġ", "Ã", "©", "</w>",
    "x</w>", "</", "w>", "<", "<0x", "<0xZZ>", "é", "e", "\u{301}", "👩", "\u{200d}", "👧", ".", "n't", "'",
    "�", "你", "",
];
const SPECIAL: u32 = 256 + WORDS.len() as u32;

fn tokenizer(decoder: &Value) -> Tokenizer {
    let mut vocab = serde_json::Map::new();
    for byte in 0..256_u32 {
        vocab.insert(format!("<0x{byte:02X}>"), byte.into());
    }
    for (id, word) in (256..).zip(WORDS) {
        vocab.insert(word.to_owned(), id.into());
    }
    let json = json!({
        "version": "1.0",
        "added_tokens": [{"id": SPECIAL, "content": "<|end|>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}],
        "decoder": decoder,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "a"},
    });
    Tokenizer::from_bytes(json.to_string().as_bytes(), SPECIAL + 1).unwrap()
}

fn sequence(steps: &[Value]) -> Value {
    json!({"type": "Sequence", "decoders": steps})
}

fn replace(pattern: &str, content: &str) -> Value {
    json!({"type": "Replace", "pattern": {"String": pattern}, "content": content})
}

fn strip(start: usize, stop: usize) -> Value {
    json!({"type": "Strip", "content": " ", "start": start, "stop": stop})
}

fn metaspace(scheme: &str) -> Value {
    json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false})
}

/// What models in use have, and the other orders that are admitted.
fn decoders() -> Vec<Value> {
    let (bytes, fuse) = (json!({"type": "ByteFallback"}), json!({"type": "Fuse"}));
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let suffix = json!({"type": "BPEDecoder", "suffix": "</w>"});
    let word_piece = |cleanup: bool| json!({"type": "WordPiece", "prefix": "##", "cleanup": cleanup});
    vec![
        Value::Null,
        byte_level.clone(),
        bytes.clone(),
        fuse.clone(),
        strip(1, 0),
        replace("▁", " "),
        metaspace("always"),
        metaspace("first"),
        metaspace("never"),
        word_piece(true),
        word_piece(false),
        suffix.clone(),
        // Llama 2, Mistral, Phi 3; then Gemma.
        sequence(&[replace("▁", " "), bytes.clone(), fuse.clone(), strip(1, 0)]),
        sequence(&[replace("▁", " "), bytes.clone(), fuse.clone()]),
        sequence(&[bytes.clone(), metaspace("always")]),
        sequence(&[bytes.clone(), fuse.clone(), replace("He", "h"), replace("  ", "_"), strip(2, 0)]),
        sequence(&[fuse.clone(), replace("</w>", " "), replace("<0x", "<")]),
        sequence(&[replace("a", "xa"), byte_level, replace("aa", "a")]),
        sequence(&[suffix, fuse.clone()]),
        sequence(&[word_piece(true), fuse, strip(1, 0), replace(" .", ".")]),
    ]
}

static TOKENIZERS: LazyLock<Vec<(Value, Tokenizer)>> =
    LazyLock::new(|| decoders().into_iter().map(|decoder| (decoder.clone(), tokenizer(&decoder))).collect());

fn pieces(tokenizer: &Tokenizer, tokens: &[u32]) -> Vec<String> {
    let mut stream = tokenizer.stream();
    let mut pieces: Vec<String> = tokens.iter().map(|id| stream.push(*id).unwrap().to_owned()).collect();
    pieces.push(stream.finish().unwrap());
    pieces
}

/// The crate's own text. It panics on no tokens at all for a suffix, so that is not asked.
fn whole(tokenizer: &Tokenizer, tokens: &[u32]) -> String {
    tokenizer.inner.decode(tokens, true).unwrap()
}

/// Tokens as a model may write them: characters byte by byte, broken ones among them.
fn tokens() -> impl Strategy<Value = Vec<u32>> {
    let spelled = "\\PC{1,3}|[ -~é你😀\u{301}\u{200d}]{1,4}";
    let spelled = spelled.prop_map(|text: String| text.bytes().map(u32::from).collect::<Vec<_>>());
    let word = (256..SPECIAL + 1).prop_map(|id| vec![id]);
    let broken = (128..256_u32).prop_map(|byte| vec![byte]);
    prop::collection::vec(prop_oneof![5 => spelled, 5 => word, 1 => broken], 1..12)
        .prop_map(|parts| parts.concat())
}

/// Whether a row of byte tokens is no UTF-8: there the crate also throws away the row's good characters.
fn has_broken_row(tokens: &[u32]) -> bool {
    let shown: Vec<u32> = tokens.iter().copied().filter(|id| *id != SPECIAL).collect();
    shown.split(|id| *id > 255).any(|row| {
        let bytes: Vec<u8> = row.iter().map(|id| u8::try_from(*id).unwrap()).collect();
        std::str::from_utf8(&bytes).is_err()
    })
}

proptest! {
    #[test]
    fn pieces_join_to_the_whole_for_every_decoder(tokens in tokens()) {
        for (decoder, tokenizer) in TOKENIZERS.iter() {
            let joined = pieces(tokenizer, &tokens).concat();
            prop_assert_eq!(&joined, &tokenizer.decode(&tokens).unwrap());
            let rows = decoder.to_string().contains("ByteFallback");
            if rows && has_broken_row(&tokens) {
                continue;
            }
            // A token that is special leaves a suffix without the words after it; the crate then subtracts from none.
            if tokens.iter().any(|id| *id != SPECIAL) {
                prop_assert_eq!(joined, whole(tokenizer, &tokens), "{}", decoder);
            }
        }
    }

    #[test]
    fn little_is_held_back(tokens in prop::collection::vec(0..SPECIAL, 1..40)) {
        for (decoder, tokenizer) in TOKENIZERS.iter() {
            let all = pieces(tokenizer, &tokens);
            let last = all.last().unwrap();
            // One token, or the beginning of a pattern and an unfinished character.
            prop_assert!(last.chars().count() <= 8, "{}: {:?}", decoder, all);
        }
    }
}

/// Bytes of a text as tokens.
fn spelled(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

fn llama2() -> Tokenizer {
    tokenizer(&sequence(&[
        replace("▁", " "),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
        strip(1, 0),
    ]))
}

#[test]
fn characters_of_byte_tokens_come_out_once_and_whole() {
    for text in ["Привет", "ok 😀", "你好", "é", "e\u{301}", "👩\u{200d}👩\u{200d}👧"] {
        let got = pieces(&llama2(), &spelled(text));
        assert_eq!(got.concat(), text);
        assert!(got.iter().all(|piece| piece.chars().count() <= 1), "{got:?}");
    }
}

#[test]
fn a_broken_byte_costs_no_good_character() {
    let tokens = [spelled("你"), vec![0xff], spelled("好"), vec![0xe5, 0xa5]].concat();
    assert_eq!(pieces(&llama2(), &tokens).concat(), "你\u{fffd}好\u{fffd}\u{fffd}");
    // The crate's text of the same tokens: the good characters are gone.
    assert_eq!(whole(&llama2(), &tokens), "\u{fffd}".repeat(9));
}

#[test]
fn a_tokenizer_that_strips_more_than_there_is_does_not_panic() {
    let both = tokenizer(&sequence(&[json!({"type": "Fuse"}), strip(2, 2)]));
    for words in [vec![], vec![262], vec![263], vec![262, 264, 263]] {
        let got = pieces(&both, &words).concat();
        assert_eq!(got, if words.len() == 3 { "a" } else { "" });
    }
}

#[test]
fn truncation_and_padding_of_the_file_are_passed_over() {
    let vocab: serde_json::Map<String, Value> =
        ('a'..='d').zip(0..).map(|(c, id)| (c.to_string(), json!(id))).collect();
    let file = |truncation: Value, padding: Value| {
        let json = json!({
            "version": "1.0", "truncation": truncation, "padding": padding,
            "model": {"type": "BPE", "vocab": vocab, "merges": []},
        });
        Tokenizer::from_bytes(json.to_string().as_bytes(), 4).unwrap()
    };
    let plain = file(Value::Null, Value::Null);
    let trained = file(
        json!({"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}),
        json!({"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "a"}),
    );
    let text = "abcdabcd";
    assert_eq!(plain.encode(text, false).unwrap().len(), 8);
    assert_eq!(trained.encode(text, false).unwrap(), plain.encode(text, false).unwrap());
}

#[test]
fn a_text_too_long_for_any_window_is_refused() {
    let error = llama2().encode(&"a".repeat(3 << 20), false).unwrap_err().to_string();
    assert!(error.contains("expected at most 2097152"), "{error}");
}
