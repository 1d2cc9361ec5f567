//! The library on the exported default model: the same answers however the tokens are fed, and a clean error of the
//! right kind for everything that does not fit.

use std::thread;

use super::{folder, tiny_pte};
use camino::Utf8Path;
use engine::{Code, Error, LoadOptions, Model, ModelBytes, Record, Session, runtime};

/// How far logits may lie apart between two ways of feeding the same tokens: what the model's recipe allows between the
/// engine and the eager model. Attention rounds differently for one row and for many, a difference in the last bit can
/// move an 8-bit activation by one step, and such steps add up over the layers; most pieces agree to the bit, and up to
/// 0.2 was seen. Another token somewhere moves the logits by several units.
const TOLERANCE: f32 = 0.5;

fn load(bytes: ModelBytes) -> Result<Model, Error> {
    Model::load(bytes, &LoadOptions::default())
}

fn session() -> Session {
    Session::new(load(ModelBytes::open(&tiny_pte()).unwrap()).unwrap())
}

/// Tokens of a dialogue's length that use the whole vocabulary.
fn tokens(count: u32, seed: u32) -> Vec<u32> {
    (0..count)
        .map(|i| (i + 1).wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(40_503)) % 1024)
        .collect()
}

fn fresh(tokens: &[u32]) -> Vec<f32> {
    session().prefill(tokens).unwrap().to_vec()
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let diff = |(a, b): (&f32, &f32)| (a - b).abs();
    a.iter()
        .zip(b)
        .map(diff)
        .fold(0.0, |most: f32, diff| if diff.is_nan() { f32::INFINITY } else { most.max(diff) })
}

#[test]
fn the_registered_kernels_are_those_that_the_contract_knows() {
    // A program is proved against the contract's table: the two must not drift apart.
    assert_eq!(runtime::table().unwrap(), *model_assets::pte::linked_runtime());
}

#[test]
fn the_model_says_what_it_is() {
    let session = session();
    let model = session.model();
    assert_eq!((model.vocab(), model.context(), model.prefill_max()), (1024, 512, 512));
    assert_eq!((model.bos(), model.eos()), (Some(0), [1].as_slice()));
    assert_eq!(model.metadata().int("get_n_layers").unwrap(), Some(5));
    assert_eq!(model.metadata().int("no_such_method").unwrap(), None);
    assert!(matches!(model.metadata().flag("get_n_layers"), Err(Error::Contract { .. })));
    assert_eq!(model.bytes(), std::fs::read(tiny_pte()).unwrap());
}

#[test]
fn every_way_of_feeding_gives_the_same_logits() {
    for (count, seed) in [(1, 1), (2, 2), (31, 3), (33, 4), (130, 5), (512, 6)] {
        let tokens = tokens(count, seed);
        let mut session = session();
        session.set_chunk(512).unwrap();
        let whole = session.prefill(&tokens).unwrap().to_vec();
        for chunk in [1, 7, 32, 128] {
            session.reset();
            session.set_chunk(chunk).unwrap();
            let logits = session.prefill(&tokens).unwrap();
            let off = distance(&whole, logits);
            assert!(off <= TOLERANCE, "{count} tokens in chunks of {chunk}: off by {off}");
        }
        session.reset();
        let steps = tokens.iter().map(|token| session.decode(*token).unwrap().to_vec()).last().unwrap();
        let off = distance(&whole, &steps);
        assert!(off <= TOLERANCE, "{count} tokens one by one: off by {off}");
        assert!(whole.iter().all(|logit| logit.is_finite()));
        // Were it not so, the tolerance would let anything pass.
        let mut other = tokens.clone();
        other[0] ^= 1;
        *other.last_mut().unwrap() ^= 2;
        assert!(distance(&whole, &fresh(&other)) > 4.0 * TOLERANCE);
    }
}

#[test]
fn what_was_truncated_leaves_no_trace() {
    let (long, other) = (tokens(200, 1), tokens(60, 2));
    let mut used = session();
    used.prefill(&long).unwrap();
    used.truncate(40);
    let reused = used.prefill(&other).unwrap().to_vec();
    // The same pieces in a model that never saw the rest: the same bits.
    let mut clean = session();
    clean.prefill(&long[..128]).unwrap();
    clean.truncate(40);
    assert_eq!(bits(&reused), bits(clean.prefill(&other).unwrap()));
    used.reset();
    assert_eq!(bits(used.prefill(&other).unwrap()), bits(&fresh(&other)));
}

#[test]
fn a_reused_prefix_gives_the_logits_of_a_fresh_run() {
    let first = tokens(90, 1);
    let second = [&first[..70], &tokens(50, 9)].concat();
    let mut session = session();
    session.prefill(&first).unwrap();
    assert_eq!(session.shared_prefix(&second), 70);
    let logits = session.extend_to(&second).unwrap().to_vec();
    assert_eq!(session.tokens(), second);
    let off = distance(&logits, &fresh(&second));
    assert!(off <= TOLERANCE, "off by {off}");
    // The same tokens again: the last one is fed once more, because its logits are the answer.
    assert_eq!(session.shared_prefix(&second), second.len() - 1);
    let again = session.extend_to(&second).unwrap();
    assert!(distance(&logits, again) <= TOLERANCE);
    assert_eq!(session.tokens(), second);
}

#[test]
fn the_window_is_never_passed() {
    let mut session = session();
    assert!(matches!(
        session.prefill(&tokens(513, 1)),
        Err(Error::WindowFull { tokens: 513, position: 0, window: 512 })
    ));
    session.prefill(&tokens(510, 1)).unwrap();
    assert!(matches!(
        session.prefill(&[1, 2, 3]),
        Err(Error::WindowFull { tokens: 3, position: 510, window: 512 })
    ));
    // The last two positions do work, and the refusals left no trace.
    assert_eq!((session.position(), session.remaining()), (510, 2));
    session.decode(5).unwrap();
    let last = session.decode(6).unwrap().to_vec();
    assert!(matches!(session.decode(7), Err(Error::WindowFull { tokens: 1, position: 512, window: 512 })));
    let all = [tokens(510, 1), vec![5, 6]].concat();
    assert!(distance(&last, &fresh(&all)) <= TOLERANCE);
}

#[test]
fn no_token_outside_the_vocabulary_reaches_the_runtime() {
    // The runtime's embedding kernel aborts the process on one.
    let mut session = session();
    session.prefill(&[3]).unwrap();
    for bad in [1024, 1025, i32::MAX as u32, u32::MAX] {
        let refused = |result: Result<&[f32], Error>, at| match result {
            Err(Error::Token { token, index, vocab: 1024 }) => assert_eq!((token, index), (bad, at)),
            other => panic!("{other:?}"),
        };
        refused(session.decode(bad), 0);
        refused(session.prefill(&[1, 2, bad]), 2);
        refused(session.extend_to(&[3, 4, bad]), 1);
        assert_eq!(session.tokens(), [3]);
    }
    session.decode(1023).unwrap();
}

#[test]
fn nothing_to_feed_is_an_error() {
    let mut session = session();
    assert!(matches!(session.prefill(&[]), Err(Error::NoTokens)));
    assert!(matches!(session.extend_to(&[]), Err(Error::NoTokens)));
    for chunk in [0, 513, usize::MAX] {
        assert!(
            matches!(session.set_chunk(chunk), Err(Error::Setting { name: "prefill chunk", .. })),
            "{chunk}"
        );
    }
}

/// The program's bytes in memory of their own, `past` bytes after a multiple of 16.
fn leaked(bytes: &[u8], past: usize) -> &'static [u8] {
    let memory = vec![0_u8; bytes.len() + 32].leak();
    let start = memory.as_ptr().align_offset(16) + past;
    memory[start..start + bytes.len()].copy_from_slice(bytes);
    &memory[start..start + bytes.len()]
}

#[test]
fn embedded_bytes_run_like_a_file_and_survive_the_release_of_their_pages() {
    let bytes = std::fs::read(tiny_pte()).unwrap();
    let tokens = tokens(40, 1);
    let mut embedded = Session::new(load(ModelBytes::Static(leaked(&bytes, 0))).unwrap());
    let mut mapped = session();
    let expected = bits(mapped.prefill(&tokens).unwrap());
    assert_eq!(bits(embedded.prefill(&tokens).unwrap()), expected);
    for session in [&mut embedded, &mut mapped] {
        session.model().release_pages();
        session.reset();
        assert_eq!(bits(session.prefill(&tokens).unwrap()), expected);
        assert_eq!(session.model().bytes(), bytes);
    }
}

#[test]
fn a_range_of_a_larger_file_runs() {
    let (_folder, path) = folder();
    let bytes = std::fs::read(tiny_pte()).unwrap();
    let bundle = path.join("bundle");
    std::fs::write(&bundle, [vec![0xaa; 5_008], bytes.clone(), vec![0xbb; 100]].concat()).unwrap();
    let open = |offset, len| ModelBytes::Map {
        file: std::fs::File::open(&bundle).unwrap(),
        path: bundle.clone(),
        offset,
        len,
    };
    let len = bytes.len() as u64;
    let mut session = Session::new(load(open(5_008, len)).unwrap());
    assert_eq!(bits(session.prefill(&[1, 2, 3]).unwrap()), bits(&fresh(&[1, 2, 3])));
    assert!(matches!(load(open(5_000, len)), Err(Error::Misaligned { past: 8, expected: 16 })));
    for (offset, len) in [(5_008, len + 101), (u64::MAX, 2), (0, u64::MAX), (5_008, 0), (1 << 40, 16)] {
        assert!(matches!(load(open(offset, len)), Err(Error::Range { .. })), "{offset} {len}");
    }
}

#[test]
fn bytes_that_are_no_sound_program_are_refused() {
    let bytes = std::fs::read(tiny_pte()).unwrap();
    for past in [1, 2, 8, 15] {
        let error = load(ModelBytes::Static(leaked(&bytes, past))).unwrap_err();
        assert!(matches!(error, Error::Misaligned { past: got, .. } if got == past), "{error}");
    }
    assert!(matches!(ModelBytes::open(Utf8Path::new("/no/such/file")), Err(Error::Io { .. })));
    let (_folder, path) = folder();
    let written = |content: &[u8]| {
        let file = path.join("model.pte");
        std::fs::write(&file, content).unwrap();
        load(ModelBytes::open(&file).unwrap())
    };
    assert!(matches!(written(&[]), Err(Error::Range { .. })));
    let half = bytes.len() / 2;
    for kept in [1, 8, 63, 64, 4_096, 20_400, half, bytes.len() - 4_096] {
        let error = written(&bytes[..kept]).unwrap_err();
        assert!(matches!(error, Error::Runtime { doing: "load the model", .. }), "{kept} bytes: {error}");
    }
    for content in [vec![0; 100_000], vec![0xff; 100_000], b"not a program".repeat(1000)] {
        assert!(matches!(written(&content), Err(Error::Runtime { doing: "load the model", .. })));
    }
}

/// Loads the program with names in it replaced by others of the same length.
fn renamed(names: &[(&str, &str)]) -> Result<Model, Error> {
    let mut bytes = std::fs::read(tiny_pte()).unwrap();
    // As a flatbuffer has it: the length before, a zero behind.
    let stored =
        |text: &str| [&u32::try_from(text.len()).unwrap().to_le_bytes(), text.as_bytes(), &[0]].concat();
    for (from, to) in names {
        let (from, to) = (stored(from), stored(to));
        let at =
            bytes.windows(from.len()).position(|window| window == from).expect("the program has the name");
        bytes[at..at + from.len()].copy_from_slice(&to);
    }
    let (_folder, path) = folder();
    std::fs::write(path.join("model.pte"), bytes).unwrap();
    load(ModelBytes::open(&path.join("model.pte")).unwrap())
}

#[test]
fn a_program_that_breaks_the_contract_is_refused() {
    let contract = |names: &[(&str, &str)], what: &str| match renamed(names) {
        Err(Error::Contract { what: got, .. }) => assert!(got.contains(what), "{got}"),
        other => panic!("{:?}", other.map(|_| ())),
    };
    let (context, length) =
        (("get_max_context_len", "old_max_context_len"), ("get_max_seq_len", "old_max_seq_len"));
    contract(&[context, length], "get_max_context_len");
    assert_eq!(renamed(&[context]).unwrap().context(), 512, "the other name of the length serves too");
    // The number of layers read as the vocabulary, and as the switch of the cache.
    contract(&[("get_n_layers", "use_kv_cache"), ("use_kv_cache", "old_kv_cache")], "use_kv_cache");
    contract(
        &[("get_vocab_size", "old_vocab_size"), ("get_max_seq_len", "get_vocab_size\0")],
        "get_vocab_size",
    );

    let runtime = |names: &[(&str, &str)], code| match renamed(names) {
        Err(error @ Error::Runtime { .. }) => {
            assert!(error.hint().is_some_and(|hint| hint.contains("engine kernels")), "{error}");
            let Error::Runtime { failure, .. } = error else { unreachable!() };
            assert_eq!(failure.code, code, "{failure}");
            assert!(!failure.log.is_empty());
        }
        other => panic!("{:?}", other.map(|_| ())),
    };
    runtime(&[("llama::custom_sdpa", "llama::custom_sdpb")], Code::OPERATOR_MISSING);
    runtime(&[("XnnpackBackend", "XnnpackBackenb")], Code::NOT_FOUND);
    assert!(matches!(
        renamed(&[("forward", "forwarx")]),
        Err(Error::Runtime { doing: "load the model", .. })
    ));
}

#[test]
fn sessions_on_two_threads_do_not_disturb_each_other() {
    let run = |seed| {
        let mut session = session();
        let mut all = bits(session.prefill(&tokens(100, seed)).unwrap());
        for token in tokens(30, seed + 10) {
            all.extend(bits(session.decode(token).unwrap()));
        }
        all
    };
    let alone = [run(1), run(2)];
    let together = thread::scope(|scope| {
        let threads = [1, 2].map(|seed| scope.spawn(move || run(seed)));
        threads.map(|thread| thread.join().unwrap())
    });
    assert!(alone == together);
    // And a session may move from one thread to another.
    let mut session = session();
    session.prefill(&[1, 2]).unwrap();
    let moved = thread::spawn(move || bits(session.decode(3).unwrap())).join().unwrap();
    let mut stayed = self::session();
    stayed.prefill(&[1, 2]).unwrap();
    assert_eq!(moved, bits(stayed.decode(3).unwrap()));
}

#[test]
fn threads_are_fixed_while_a_model_lives() {
    let session = session();
    assert!(matches!(runtime::set_threads(1), Err(Error::Setting { name: "threads", .. })));
    for count in [0, runtime::THREADS_MAX + 1, u32::MAX] {
        assert!(matches!(runtime::set_threads(count), Err(Error::Setting { name: "threads", .. })));
    }
    let threads = runtime::threads_default().unwrap();
    assert!((1..=runtime::THREADS_MAX).contains(&threads));
    drop(session);
}

#[test]
fn the_profile_counts_every_operator() {
    let options = LoadOptions { record: Record::Time, ..LoadOptions::default() };
    let mut session = Session::new(Model::load(ModelBytes::open(&tiny_pte()).unwrap(), &options).unwrap());
    session.prefill(&[1, 2, 3]).unwrap();
    session.model_mut().profile_reset();
    assert!(session.model().profile().iter().all(|event| event.calls == 0));
    session.decode(4).unwrap();
    let events = session.model().profile();
    let calls = |name: &str| events.iter().find(|event| event.name.ends_with(name)).map(|event| event.calls);
    // Five layers: one attention and two cache updates each.
    assert_eq!(calls("llama::custom_sdpa.out"), Some(5));
    assert_eq!(calls("llama::update_cache.out"), Some(10));
    assert_eq!(calls("Method::execute"), Some(1));
    assert!(self::session().model().profile().is_empty());
}
