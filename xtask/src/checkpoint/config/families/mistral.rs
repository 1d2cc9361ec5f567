//! Mistral 7B and its relatives: a Llama whose layers may have a window.

use model_assets::recipe::{Architecture, Family};

use super::{
    super::{
        decoder::{Defaults, whole_heads},
        settings::Settings,
    },
    Known,
};

pub(super) const KNOWN: Known = Known {
    family: Family::Mistral,
    kind: "mistral",
    program: "MistralForCausalLM",
    implemented: &[],
    describe,
};

/// Of the first model; null is none.
const WINDOW: u32 = 4096;

fn describe(settings: &Settings<'_>) -> anyhow::Result<Architecture> {
    let mut found = whole_heads(settings.decoder(Family::Mistral, Defaults::USUAL)?)?;
    found.window = settings.window(Some(WINDOW))?;
    Ok(found)
}
