//! `manifest.json` as it may come from anywhere.
#![no_main]

use libfuzzer_sys::fuzz_target;
use model_assets::manifest::Manifest;

fuzz_target!(|bytes: &[u8]| {
    let _ = Manifest::parse(bytes);
});
