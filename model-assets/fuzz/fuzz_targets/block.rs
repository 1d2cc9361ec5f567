//! The proof block inside an app binary.
#![no_main]

use libfuzzer_sys::fuzz_target;
use model_assets::provenance;

fuzz_target!(|bytes: &[u8]| {
    // Blocks begin with the magic, which a fuzzer seldom writes by itself.
    let (header, _) = provenance::header([0; 6]);
    let file = [header.get(..16).unwrap_or_default(), bytes].concat();
    let _ = provenance::find(&file);
});
