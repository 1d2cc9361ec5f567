//! SmolLM3: a Llama some of whose layers know no positions.

use model_assets::recipe::{Architecture, Family, LayerKind};
use serde_json::Value;

use super::{
    super::{
        decoder::{Defaults, whole_heads},
        settings::{Settings, kinds},
    },
    Known,
};

pub(super) const KNOWN: Known = Known {
    family: Family::Smollm3,
    kind: "smollm3",
    program: "SmolLM3ForCausalLM",
    implemented: &["no_rope_layer_interval", "no_rope_layers"],
    describe,
};

fn describe(settings: &Settings<'_>) -> anyhow::Result<Architecture> {
    let defaults = Defaults { theta: 2_000_000.0, tied: true, ..Defaults::USUAL };
    let mut found = whole_heads(settings.decoder(Family::Smollm3, defaults)?)?;
    let kind = |rotated| if rotated { LayerKind::Global } else { LayerKind::Unrotated };
    found.layer_kinds = kinds(match settings.list("no_rope_layers", found.layers)? {
        Some(listed) => listed.iter().map(|it| kind(*it != 0 && *it != Value::Bool(false))).collect(),
        None => {
            let step = settings.integer("no_rope_layer_interval", Some(4))?;
            (1..=found.layers).map(|layer| kind(!layer.is_multiple_of(step))).collect()
        }
    });
    if settings.flag("use_sliding_window", false)? {
        found.window = settings.window(None)?;
    } else {
        settings.all_global()?;
    }
    Ok(found)
}
