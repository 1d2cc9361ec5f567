//! Qwen3: norms of queries and keys, heads whose size the width does not decide.

use model_assets::recipe::{Architecture, Family};

use super::{
    super::{
        decoder::{Defaults, whole_heads},
        settings::Settings,
    },
    Known,
    qwen2::window,
};

pub(super) const KNOWN: Known =
    Known { family: Family::Qwen3, kind: "qwen3", program: "Qwen3ForCausalLM", implemented: &[], describe };

const HEAD_DIM: u32 = 128;

fn describe(settings: &Settings<'_>) -> anyhow::Result<Architecture> {
    let found = whole_heads(settings.decoder(Family::Qwen3, Defaults::USUAL)?)?;
    let head_dim = settings.integer("head_dim", Some(HEAD_DIM))?;
    Ok(Architecture { head_dim, qk_norm: true, window: window(settings, found.layers)?, ..found })
}
