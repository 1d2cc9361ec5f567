//! A GGUF as it may come from anywhere; what is accepted is written again to the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use model_assets::gguf::{self, Expect};

fuzz_target!(|bytes: &[u8]| {
    let Ok(proved) = gguf::verify(&bytes, &Expect::default()) else { return };
    let (head, _) = gguf::structure(&bytes, &Expect::default()).expect("verified");
    let written = gguf::head_bytes(&head.metadata, &head.tensors);
    assert_eq!(written, bytes[..written.len()]);
    assert_eq!(proved.summary.file_bytes, bytes.len() as u64);
});
