//! A token costs no allocation on the Rust side: not feeding it, not choosing the next one.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use camino::Utf8Path;
use engine::{LoadOptions, Model, ModelBytes, Session, sample};

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

#[test]
fn a_token_allocates_nothing() {
    let path =
        Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../../model-assets/models/tiny/tiny-int8-seq512.pte");
    let bytes = ModelBytes::open(&path).expect("run: cargo xtask export");
    let mut session = Session::new(Model::load(bytes, &LoadOptions::default()).unwrap());
    session.prefill(&[1, 2, 3]).unwrap();
    let settings = sample::Settings { temperature: 0.8, top_p: 0.9, top_k: None, seed: 1 };
    let mut sampler = sample::Sampler::new(settings).unwrap();
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
