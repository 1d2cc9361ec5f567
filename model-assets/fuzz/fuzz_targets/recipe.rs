//! `recipe.toml` as it may come from anywhere.
#![no_main]

use libfuzzer_sys::fuzz_target;
use model_assets::recipe::Recipe;

fuzz_target!(|text: &str| {
    let _ = Recipe::parse(text);
});
