//! What all families read of a `config.json` alike.

use anyhow::ensure;
use model_assets::recipe::{Activation, Architecture, Family};

use super::{rope, settings::Settings};

impl Settings<'_> {
    /// What all families have in common, with their defaults.
    pub(super) fn decoder(&self, family: Family, defaults: Defaults) -> anyhow::Result<Architecture> {
        let heads = self.integer("num_attention_heads", None)?;
        let dim = self.integer("hidden_size", None)?;
        let head_dim = self.integer("head_dim", dim.checked_div(heads))?;
        let rope = rope::read(self, defaults.theta)?;
        // As `int` rounds.
        let rotary_dim = (f64::from(head_dim) * rope.share) as u32;
        Ok(Architecture {
            family,
            dim,
            layers: self.integer("num_hidden_layers", None)?,
            heads,
            kv_heads: self.integer("num_key_value_heads", Some(heads))?,
            head_dim,
            ffn: self.integer("intermediate_size", None)?,
            vocab: self.integer("vocab_size", None)?,
            tied: self.flag("tie_word_embeddings", defaults.tied)?,
            norm_eps: self.number("rms_norm_eps", defaults.eps)?,
            rope_theta: rope.theta,
            rope_scaling: rope.scaling,
            rotary_dim: (rotary_dim != head_dim).then_some(rotary_dim),
            layer_kinds: Vec::new(),
            local_rope_theta: None,
            window: None,
            qkv_bias: false,
            qk_norm: false,
            post_norms: false,
            activation: self
                .activation("hidden_act", &[("silu", Activation::Silu), ("swish", Activation::Silu)])?,
            embedding_scale: None,
            attention_scale: None,
            gain_offset: 0.0,
            fused: false,
        })
    }
}

/// What a family takes for granted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Defaults {
    pub(super) theta: f64,
    pub(super) eps: f64,
    pub(super) tied: bool,
}

impl Defaults {
    /// Of most families.
    pub(super) const USUAL: Self = Self { theta: 10_000.0, eps: 1e-6, tied: false };
}

/// For the families that rotate all channels of a head.
pub(super) fn whole_heads(it: Architecture) -> anyhow::Result<Architecture> {
    let (rotated, all) = (it.rotary_dim(), it.head_dim);
    ensure!(rotated == all, "partial_rotary_factor: got {rotated} of {all} channels, expected all of them");
    Ok(it)
}
