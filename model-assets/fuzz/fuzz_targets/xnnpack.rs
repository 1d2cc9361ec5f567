//! The blob of one delegate, inside a file that is good otherwise: the fuzzer need not get through the container.
#![no_main]

#[path = "../../hostile/builder.rs"]
#[expect(dead_code, reason = "shared by several targets")]
mod builder;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use model_assets::pte::{self, Expect, Level};

static GOOD: LazyLock<builder::Pte> = LazyLock::new(builder::Pte::default);
static EXPECT: LazyLock<Expect> =
    LazyLock::new(|| Expect { kernels: Some(pte::linked_runtime().clone()), ..Expect::default() });

fuzz_target!(|blob: &[u8]| {
    let mut pte = GOOD.clone();
    pte.segments[1] = blob.to_vec();
    let report = pte::verify(&pte.build(), Level::Structure, &EXPECT);
    assert_eq!(report.is_accepted(), report.rejects().next().is_none());
});
