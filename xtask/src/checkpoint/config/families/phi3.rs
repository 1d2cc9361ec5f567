//! Phi-3 and Phi-4-mini: fused projections, heads that are rotated in part, `LongRoPE`.

use model_assets::recipe::{Architecture, Family};
use serde_json::{Value, json};

use super::{
    super::{decoder::Defaults, settings::Settings},
    Known,
};

pub(super) const KNOWN: Known = Known {
    family: Family::Phi3,
    kind: "phi3",
    program: "Phi3ForCausalLM",
    implemented: &["partial_rotary_factor"],
    describe,
};

const ORIGINAL: &str = "original_max_position_embeddings";
const ORIGINAL_MAX: u32 = 4096;

fn describe(settings: &Settings<'_>) -> anyhow::Result<Architecture> {
    let mut config = settings.config.clone();
    if settings.get("max_position_embeddings").is_none() {
        config.insert("max_position_embeddings".to_owned(), json!(ORIGINAL_MAX));
    }
    let original = settings.integer(ORIGINAL, Some(ORIGINAL_MAX))?;
    // `LongRoPE` under its one name, and its original length where others have it.
    for place in ["rope_parameters", "rope_scaling"] {
        let Some(Value::Object(rope)) = config.get_mut(place) else { continue };
        if rope.is_empty() {
            continue;
        }
        let named = rope.get("rope_type").or_else(|| rope.get("type"));
        let named = named.filter(|it| *it != "su" && *it != "yarn").cloned();
        let kind = match (named, rope.contains_key("rope_type") || rope.contains_key("type")) {
            (Some(kind), _) => kind,
            (None, true) => json!("longrope"),
            (None, false) => json!("default"),
        };
        rope.insert("rope_type".to_owned(), kind);
        rope.insert(ORIGINAL.to_owned(), json!(original));
    }
    let read = Settings { config: &config, seq_len: settings.seq_len };
    let found = read.decoder(Family::Phi3, Defaults { eps: 1e-5, ..Defaults::USUAL })?;
    Ok(Architecture { window: settings.window(None)?, fused: true, ..found })
}
