//! A token costs no allocation on the Rust side: not feeding it, not choosing the next one, not turning it into text with a
//! byte-level tokenizer, as the models here have. What a reply allocates does not depend on its length, as long as its text
//! has at most eight bytes a token. Not counted: the C++ runtime's own allocator; other threads; what a caller does with a
//! piece (the app's worker copies each into a message). Other kinds of tokenizers rewrite each token, which
//! allocates.
#![expect(clippy::unwrap_used, reason = "a test ends at what it does not foresee")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use camino::Utf8Path;
use engine::generate::{Limits, generate};
use engine::text::Tokenizer;
use engine::{LoadOptions, Model, ModelBytes, Session, sample};
use std::ops::ControlFlow;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

#[expect(unsafe_code, reason = "an allocator is unsafe by nature")]
// SAFETY: every call goes to the system's allocator unchanged; counting neither allocates nor panics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are the system allocator's demands.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

fn session() -> Session {
    let path = Utf8Path::new(TINY).join("tiny-int8-seq512.pte");
    let bytes = ModelBytes::open(&path).expect("run: cargo xtask export");
    Session::new(Model::load(bytes, &LoadOptions::default()).unwrap())
}

fn sampler() -> sample::Sampler {
    sample::Sampler::new(sample::Settings { temperature: 0.8, top_p: 0.9, top_k: None, seed: 1 }).unwrap()
}

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../model-assets/models/tiny");

#[test]
fn a_token_allocates_nothing() {
    let mut session = session();
    session.prefill(&[1, 2, 3]).unwrap();
    let mut sampler = sampler();
    // The sampler's candidates grow once, to the vocabulary's size.
    let mut token = sampler.sample(session.decode(4).unwrap()).unwrap();
    let counted = allocations(|| {
        for _ in 0..200 {
            token = sampler.sample(session.decode(token).unwrap()).unwrap();
        }
        session.truncate(3);
        for _ in 0..200 {
            token = sample::greedy(session.decode(token).unwrap()).unwrap();
        }
    });
    assert_eq!(counted, 0);
    // Were the counter broken, it would count nothing either.
    assert_eq!(allocations(|| drop(std::hint::black_box(vec![1_u8]))), 1);
}

#[test]
fn a_longer_reply_allocates_no_more() {
    let mut session = session();
    let tokenizer =
        Tokenizer::from_file(&Utf8Path::new(TINY).join("tokenizer.json"), session.model().vocab()).unwrap();
    let mut sampler = sampler();
    let mut reply = |tokens: usize| {
        session.reset();
        let limits = Limits { tokens_max: Some(tokens), ..Limits::default() };
        let mut bytes = 0;
        let count = allocations(|| {
            let mut on_piece = |piece: engine::generate::Piece<'_>| {
                bytes += piece.text.len();
                ControlFlow::Continue(())
            };
            let reply =
                generate(&mut session, &tokenizer, &mut sampler, "Hello", &limits, &mut on_piece).unwrap();
            assert_eq!(reply.tokens.len(), tokens);
        });
        assert!(bytes > tokens, "{tokens} tokens, {bytes} bytes");
        count
    };
    reply(1);
    assert_eq!(reply(300), reply(10));
}
