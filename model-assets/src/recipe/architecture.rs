//! A decoder described by its features, the same description for every family.
//!
//! **Invariant:** a feature that a recipe leaves out is one that Llama does not have, and it is not in the recipe's digest either.

use serde::{Deserialize, Serialize};

use super::FILE;
use crate::{error::ContractError, limits};

/// A decoder's shape and features, in the terms of Hugging Face's `config.json` where it has one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// Model family.
    pub family: Family,
    /// `hidden_size`.
    pub dim: u32,
    /// `num_hidden_layers`.
    pub layers: u32,
    /// `num_attention_heads`.
    pub heads: u32,
    /// `num_key_value_heads`.
    pub kv_heads: u32,
    /// `head_dim`.
    pub head_dim: u32,
    /// `intermediate_size`.
    pub ffn: u32,
    /// `vocab_size`.
    pub vocab: u32,
    /// `tie_word_embeddings`: the output head is the embedding matrix.
    pub tied: bool,
    /// `rms_norm_eps`.
    pub norm_eps: f64,
    /// `rope_theta`.
    pub rope_theta: f64,
    /// `rope_scaling`.
    pub rope_scaling: Option<RopeScaling>,
    /// Channels of a head that are rotated; all of them unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotary_dim: Option<u32>,
    /// What kind each layer is of; all global unless given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layer_kinds: Vec<LayerKind>,
    /// `rope_theta` of the local layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_rope_theta: Option<f64>,
    /// `sliding_window`: tokens that a layer with a window sees. It has no effect on texts that fit into it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u32>,
    /// Queries, keys and values have biases.
    #[serde(default, skip_serializing_if = "is_false")]
    pub qkv_bias: bool,
    /// Queries and keys are normed, head by head.
    #[serde(default, skip_serializing_if = "is_false")]
    pub qk_norm: bool,
    /// What a half of a layer gives is normed before it is added to the residual.
    #[serde(default, skip_serializing_if = "is_false")]
    pub post_norms: bool,
    /// `hidden_act`.
    #[serde(default, skip_serializing_if = "Activation::is_silu")]
    pub activation: Activation,
    /// What embeddings are multiplied by; 1 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding_scale: Option<f64>,
    /// What products of queries and keys are multiplied by; the head's size decides unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention_scale: Option<f64>,
    /// Added to every gain that the checkpoint has.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gain_offset: f64,
    /// The checkpoint has queries, keys and values in one tensor, gate and up in another.
    #[serde(default, skip_serializing_if = "is_false")]
    pub fused: bool,
}

// Serde hands over references.
#[expect(clippy::trivially_copy_pass_by_ref)]
fn is_false(flag: &bool) -> bool {
    !flag
}

#[expect(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &f64) -> bool {
    *number == 0.0
}

/// Supported model families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// RMSNorm, rotary positions, grouped-query attention, SwiGLU: Llama 2 and 3, SmolLM2.
    Llama,
    /// The same, with layers without positions.
    Smollm3,
    /// The same, with windows.
    Mistral,
    /// The same, with biases of queries, keys and values: Qwen2, Qwen2.5.
    Qwen2,
    /// The same, with norms of queries and keys.
    Qwen3,
    /// Four norms a layer, two bases of positions, a scaled embedding: Gemma 3.
    Gemma3,
    /// Fused projections, heads rotated in part: Phi-3, Phi-4-mini.
    Phi3,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Llama, Self::Smollm3, Self::Mistral, Self::Qwen2, Self::Qwen3, Self::Gemma3, Self::Phi3];

    /// The name used in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Smollm3 => "smollm3",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gemma3 => "gemma3",
            Self::Phi3 => "phi3",
        }
    }
}

/// What a layer's queries and keys are rotated by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum LayerKind {
    /// The model's positions.
    Global,
    /// Positions of a base of their own, unscaled; the layer has a window.
    Local,
    /// None: the layer knows no positions.
    Unrotated,
}

/// What bends the gate of the feed-forward.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// `x * sigmoid(x)`.
    #[default]
    Silu,
    /// GELU by its approximation with a tanh.
    GeluTanh,
}

impl Activation {
    #[expect(clippy::trivially_copy_pass_by_ref)]
    fn is_silu(&self) -> bool {
        *self == Self::Silu
    }
}

/// Rotary position scaling.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "schema"), derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum RopeScaling {
    /// Llama 3.1's frequency-dependent scaling.
    Llama3 {
        /// Context extension factor.
        #[cfg_attr(any(test, feature = "schema"), schemars(extend("exclusiveMinimum" = 0.0)))]
        factor: f64,
        /// `low_freq_factor`.
        #[cfg_attr(any(test, feature = "schema"), schemars(extend("exclusiveMinimum" = 0.0)))]
        low_freq_factor: f64,
        /// `high_freq_factor`.
        #[cfg_attr(any(test, feature = "schema"), schemars(extend("exclusiveMinimum" = 0.0)))]
        high_freq_factor: f64,
        /// `original_max_position_embeddings`, tokens.
        #[cfg_attr(any(test, feature = "schema"), schemars(range(min = 1, max = limits::POSITIONS_MAX)))]
        original_max_position: u32,
    },
    /// Every frequency divided by one factor.
    Linear {
        /// Context extension factor.
        #[cfg_attr(any(test, feature = "schema"), schemars(extend("exclusiveMinimum" = 0.0)))]
        factor: f64,
    },
    /// `YaRN`: frequencies with few turns within the original length are divided, others are kept.
    Yarn {
        /// Context extension factor.
        #[cfg_attr(any(test, feature = "schema"), schemars(extend("exclusiveMinimum" = 0.0)))]
        factor: f64,
        /// Turns from which on a frequency is kept.
        #[cfg_attr(any(test, feature = "schema"), schemars(extend("exclusiveMinimum" = 0.0)))]
        beta_fast: f64,
        /// Turns up to which a frequency is divided.
        #[cfg_attr(any(test, feature = "schema"), schemars(extend("exclusiveMinimum" = 0.0)))]
        beta_slow: f64,
        /// What rotated channels are multiplied by.
        #[cfg_attr(any(test, feature = "schema"), schemars(extend("exclusiveMinimum" = 0.0)))]
        attention_factor: f64,
        /// `original_max_position_embeddings`, tokens.
        #[cfg_attr(any(test, feature = "schema"), schemars(range(min = 1, max = limits::POSITIONS_MAX)))]
        original_max_position: u32,
        /// Whether the borders of the ramp between the two are whole pairs of channels.
        truncate: bool,
    },
    /// `LongRoPE`, for texts up to the original length.
    LongRope {
        /// What each frequency is divided by.
        #[cfg_attr(any(test, feature = "schema"), schemars(length(max = limits::HEAD_DIM_MAX / 2)))]
        short_factor: Vec<f64>,
        /// What rotated channels are multiplied by.
        #[cfg_attr(any(test, feature = "schema"), schemars(extend("exclusiveMinimum" = 0.0)))]
        attention_factor: f64,
    },
}

impl RopeScaling {
    /// Its numbers, none of which may be zero or endless.
    fn numbers(&self) -> Vec<f64> {
        match self {
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, .. } => {
                vec![*factor, *low_freq_factor, *high_freq_factor, high_freq_factor - low_freq_factor]
            }
            Self::Linear { factor } => vec![*factor],
            Self::Yarn { factor, beta_fast, beta_slow, attention_factor, .. } => {
                vec![*factor, *beta_fast, *beta_slow, *attention_factor]
            }
            Self::LongRope { short_factor, attention_factor } => {
                short_factor.iter().copied().chain([*attention_factor]).collect()
            }
        }
    }
}

impl Architecture {
    /// Channels of a head that are rotated.
    pub fn rotary_dim(&self) -> u32 {
        self.rotary_dim.unwrap_or(self.head_dim)
    }

    /// Layers that rotate queries and keys.
    pub fn rotated_layers(&self) -> u32 {
        let unrotated = self.layer_kinds.iter().filter(|kind| **kind == LayerKind::Unrotated).count();
        self.layers.saturating_sub(u32::try_from(unrotated).unwrap_or(u32::MAX))
    }

    /// Weights of the network; a tied matrix counts once.
    pub fn parameters(&self) -> u64 {
        let [dim, layers, heads, kv_heads, head_dim, ffn, vocab] =
            [self.dim, self.layers, self.heads, self.kv_heads, self.head_dim, self.ffn, self.vocab]
                .map(u64::from);
        // Saturating: limits bound each factor, not their product.
        let product = |factors: &[u64]| factors.iter().fold(1_u64, |all, factor| all.saturating_mul(*factor));
        let if_any = |flag: bool, count: u64| if flag { count } else { 0 };
        let attention = product(&[2, dim, head_dim, heads + kv_heads]);
        let vectors = (2 * dim)
            .saturating_add(if_any(self.post_norms, 2 * dim))
            .saturating_add(if_any(self.qk_norm, 2 * head_dim))
            .saturating_add(if_any(self.qkv_bias, product(&[head_dim, heads + 2 * kv_heads])));
        let block = attention.saturating_add(product(&[3, dim, ffn])).saturating_add(vectors);
        let matrices = if self.tied { 1 } else { 2 };
        layers.saturating_mul(block).saturating_add(product(&[matrices, vocab, dim])).saturating_add(dim)
    }

    /// Whether a model can be so; `seq_len` is the longest text of the export.
    pub(super) fn check(&self, seq_len: u32) -> Result<(), ContractError> {
        self.check_sizes(seq_len)?;
        self.check_numbers()?;
        let refused =
            |key, got: String, expected: String| Err(ContractError::value(FILE, key, got, expected));
        if !self.heads.is_multiple_of(self.kv_heads) {
            let expected = format!("a divisor of `architecture.heads` = {}", self.heads);
            return refused("architecture.kv_heads", self.kv_heads.to_string(), expected);
        }
        for (key, got) in
            [("architecture.head_dim", self.head_dim), ("architecture.rotary_dim", self.rotary_dim())]
        {
            if !got.is_multiple_of(2) {
                return refused(key, got.to_string(), "an even number".into());
            }
        }
        if self.rotary_dim() > self.head_dim {
            let expected = format!("at most `architecture.head_dim` = {}", self.head_dim);
            return refused("architecture.rotary_dim", self.rotary_dim().to_string(), expected);
        }
        let kinds = u32::try_from(self.layer_kinds.len()).unwrap_or(u32::MAX);
        if kinds != 0 && kinds != self.layers {
            let expected = format!("none, or one for each of {} layers", self.layers);
            return refused("architecture.layer_kinds", format!("{kinds} kinds"), expected);
        }
        if self.layer_kinds.contains(&LayerKind::Local) != self.local_rope_theta.is_some() {
            let expected = "a number if layers are local, else none".into();
            return refused(
                "architecture.local_rope_theta",
                format!("{:?}", self.local_rope_theta),
                expected,
            );
        }
        if let Some(RopeScaling::LongRope { short_factor, .. }) = &self.rope_scaling
            && short_factor.len() != self.rotary_dim() as usize / 2
        {
            let expected = format!("{}, one for each rotated pair", self.rotary_dim() / 2);
            return refused("architecture.rope_scaling", format!("{} factors", short_factor.len()), expected);
        }
        Ok(())
    }

    fn check_sizes(&self, seq_len: u32) -> Result<(), ContractError> {
        let window = self.window.unwrap_or(limits::SEQ_LEN_TOKENS_MAX).min(limits::SEQ_LEN_TOKENS_MAX);
        for (key, got, min, max) in [
            ("architecture.dim", self.dim, 1, limits::WIDTH_MAX),
            ("architecture.layers", self.layers, 1, limits::LAYERS_MAX),
            ("architecture.heads", self.heads, 1, limits::HEADS_MAX),
            ("architecture.kv_heads", self.kv_heads, 1, limits::HEADS_MAX),
            ("architecture.head_dim", self.head_dim, limits::HEAD_DIM_MIN, limits::HEAD_DIM_MAX),
            ("architecture.rotary_dim", self.rotary_dim(), limits::HEAD_DIM_MIN, limits::HEAD_DIM_MAX),
            ("architecture.ffn", self.ffn, 1, limits::WIDTH_MAX),
            ("architecture.vocab", self.vocab, limits::VOCAB_ROWS_MIN, limits::VOCAB_ROWS_MAX),
            ("architecture.window", self.window.unwrap_or(1), 1, limits::POSITIONS_MAX),
            ("export.seq_len", seq_len, limits::SEQ_LEN_TOKENS_MIN, window),
        ] {
            if !(min..=max).contains(&got) {
                return Err(ContractError::value(FILE, key, got, format!("{min} to {max}")));
            }
        }
        Ok(())
    }

    fn check_numbers(&self) -> Result<(), ContractError> {
        let scaling = self.rope_scaling.iter().flat_map(RopeScaling::numbers);
        let positive = [
            ("architecture.norm_eps", Some(self.norm_eps)),
            ("architecture.rope_theta", Some(self.rope_theta)),
            ("architecture.local_rope_theta", self.local_rope_theta),
            ("architecture.embedding_scale", self.embedding_scale),
            ("architecture.attention_scale", self.attention_scale),
        ];
        for (key, got) in
            positive.into_iter().chain(scaling.map(|number| ("architecture.rope_scaling", Some(number))))
        {
            if let Some(got) = got.filter(|got| !(*got > 0.0 && *got < limits::NUMBER_MAX)) {
                return Err(ContractError::value(FILE, key, got, "a finite number above 0"));
            }
        }
        if !(0.0..=1.0).contains(&self.gain_offset) {
            return Err(ContractError::value(FILE, "architecture.gain_offset", self.gain_offset, "0 to 1"));
        }
        Ok(())
    }
}
