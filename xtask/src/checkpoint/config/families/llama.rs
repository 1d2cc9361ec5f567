//! Llama 2 and 3, SmolLM2.

use model_assets::recipe::{Architecture, Family};

use super::{
    super::{
        decoder::{Defaults, whole_heads},
        settings::Settings,
    },
    Known,
};

pub(super) const KNOWN: Known =
    Known { family: Family::Llama, kind: "llama", program: "LlamaForCausalLM", implemented: &[], describe };

fn describe(settings: &Settings<'_>) -> anyhow::Result<Architecture> {
    let found = whole_heads(settings.decoder(Family::Llama, Defaults::USUAL)?)?;
    settings.all_global()?;
    // Not a setting of Llama's: what carries it is held to it all the same.
    if settings.flag("use_sliding_window", true)? {
        settings.window(None)?;
    }
    Ok(found)
}
