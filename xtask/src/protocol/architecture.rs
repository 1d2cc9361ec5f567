//! The description of a decoder as a request has it: every feature is said, none is a default.

use model_assets::{
    limits,
    recipe::{self, Activation, Family, LayerKind, RopeScaling},
};
use schemars::JsonSchema;
use serde::Serialize;

/// See [`recipe::Architecture`].
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Architecture {
    pub(crate) family: Family,
    #[schemars(range(min = 1, max = limits::WIDTH_MAX))]
    pub(crate) dim: u32,
    #[schemars(range(min = 1, max = limits::LAYERS_MAX))]
    pub(crate) layers: u32,
    #[schemars(range(min = 1, max = limits::HEADS_MAX))]
    pub(crate) heads: u32,
    #[schemars(range(min = 1, max = limits::HEADS_MAX))]
    pub(crate) kv_heads: u32,
    #[schemars(range(min = limits::HEAD_DIM_MIN, max = limits::HEAD_DIM_MAX))]
    pub(crate) head_dim: u32,
    #[schemars(range(min = 1, max = limits::WIDTH_MAX))]
    pub(crate) ffn: u32,
    #[schemars(range(min = limits::VOCAB_ROWS_MIN, max = limits::VOCAB_ROWS_MAX))]
    pub(crate) vocab: u32,
    pub(crate) tied: bool,
    #[schemars(extend("exclusiveMinimum" = 0.0, "exclusiveMaximum" = limits::NUMBER_MAX))]
    pub(crate) norm_eps: f64,
    #[schemars(extend("exclusiveMinimum" = 0.0, "exclusiveMaximum" = limits::NUMBER_MAX))]
    pub(crate) rope_theta: f64,
    pub(crate) rope_scaling: Option<RopeScaling>,
    #[schemars(range(min = limits::HEAD_DIM_MIN, max = limits::HEAD_DIM_MAX))]
    pub(crate) rotary_dim: u32,
    #[schemars(length(max = limits::LAYERS_MAX))]
    pub(crate) layer_kinds: Vec<LayerKind>,
    #[schemars(extend("exclusiveMinimum" = 0.0, "exclusiveMaximum" = limits::NUMBER_MAX))]
    pub(crate) local_rope_theta: Option<f64>,
    #[schemars(range(min = 1, max = limits::POSITIONS_MAX))]
    pub(crate) window: Option<u32>,
    pub(crate) qkv_bias: bool,
    pub(crate) qk_norm: bool,
    pub(crate) post_norms: bool,
    pub(crate) activation: Activation,
    #[schemars(extend("exclusiveMinimum" = 0.0, "exclusiveMaximum" = limits::NUMBER_MAX))]
    pub(crate) embedding_scale: f64,
    #[schemars(extend("exclusiveMinimum" = 0.0, "exclusiveMaximum" = limits::NUMBER_MAX))]
    pub(crate) attention_scale: Option<f64>,
    #[schemars(range(min = 0.0, max = 1.0))]
    pub(crate) gain_offset: f64,
    pub(crate) fused: bool,
}

impl From<&recipe::Architecture> for Architecture {
    fn from(it: &recipe::Architecture) -> Self {
        Self {
            family: it.family,
            dim: it.dim,
            layers: it.layers,
            heads: it.heads,
            kv_heads: it.kv_heads,
            head_dim: it.head_dim,
            ffn: it.ffn,
            vocab: it.vocab,
            tied: it.tied,
            norm_eps: it.norm_eps,
            rope_theta: it.rope_theta,
            rope_scaling: it.rope_scaling.clone(),
            rotary_dim: it.rotary_dim(),
            layer_kinds: it.layer_kinds.clone(),
            local_rope_theta: it.local_rope_theta,
            window: it.window,
            qkv_bias: it.qkv_bias,
            qk_norm: it.qk_norm,
            post_norms: it.post_norms,
            activation: it.activation,
            embedding_scale: it.embedding_scale.unwrap_or(1.0),
            attention_scale: it.attention_scale,
            gain_offset: it.gain_offset,
            fused: it.fused,
        }
    }
}
