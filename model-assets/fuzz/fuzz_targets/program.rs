//! Container, program and all that hangs off it.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use model_assets::pte::{self, Expect, Level};

static EXPECT: LazyLock<Expect> =
    LazyLock::new(|| Expect { kernels: Some(pte::linked_runtime().clone()), ..Expect::default() });

fuzz_target!(|bytes: &[u8]| {
    let report = pte::verify(&bytes, Level::Hash, &EXPECT);
    assert_eq!(report.is_accepted(), report.rejects().next().is_none());
});
