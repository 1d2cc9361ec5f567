//! The blob of one delegate, inside a file that is good otherwise: the fuzzer need not get through the container.
#![no_main]

#[path = "../../hostile/builder.rs"]
#[expect(dead_code, reason = "shared by several targets")]
mod builder;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use model_assets::pte::{self, Expect, Level};

fuzz_target!(|blob: &[u8]| {
    static GOOD: OnceLock<builder::Pte> = OnceLock::new();
    let mut pte = GOOD.get_or_init(builder::Pte::default).clone();
    pte.segments[1] = blob.to_vec();
    let expect = Expect { kernels: Some(pte::linked_runtime().clone()), ..Expect::default() };
    let report = pte::verify(&pte.build(), Level::Structure, &expect);
    assert_eq!(report.is_accepted(), report.rejects().next().is_none());
});
