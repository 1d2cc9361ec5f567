//! Container, program and all that hangs off it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use model_assets::pte::{self, Expect, Level};

fuzz_target!(|bytes: &[u8]| {
    let expect = Expect { kernels: Some(pte::linked_runtime().clone()), ..Expect::default() };
    let report = pte::verify(&bytes, Level::Hash, &expect);
    assert_eq!(report.is_accepted(), report.rejects().next().is_none());
});
