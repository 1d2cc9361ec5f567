//! Names and shapes of the tensors that a family's checkpoint has, by the description of its model.
//!
//! The worker's `families` say the same of each weight; a checkpoint that only one of the two takes is never exported.

use std::collections::BTreeMap;

use model_assets::recipe::Architecture;

type Shapes = BTreeMap<String, Vec<u64>>;

/// Every tensor of the checkpoint.
pub(super) fn stored(a: &Architecture) -> Shapes {
    let [dim, vocab] = [a.dim, a.vocab].map(u64::from);
    let mut found = Shapes::new();
    found.insert("model.embed_tokens.weight".into(), vec![vocab, dim]);
    found.insert("model.norm.weight".into(), vec![dim]);
    if !a.tied {
        found.insert("lm_head.weight".into(), vec![vocab, dim]);
    }
    let layer = [matrices(a), vectors(a)].concat();
    for number in 0..a.layers {
        for (name, shape) in &layer {
            found.insert(format!("model.layers.{number}.{name}"), shape.clone());
        }
    }
    found
}

fn matrices(a: &Architecture) -> Vec<(&'static str, Vec<u64>)> {
    let [dim, ffn, head] = [a.dim, a.ffn, a.head_dim].map(u64::from);
    let (query, keys) = (u64::from(a.heads) * head, u64::from(a.kv_heads) * head);
    let mut found =
        vec![("self_attn.o_proj.weight", vec![dim, query]), ("mlp.down_proj.weight", vec![dim, ffn])];
    found.extend(if a.fused {
        vec![
            ("self_attn.qkv_proj.weight", vec![query + 2 * keys, dim]),
            ("mlp.gate_up_proj.weight", vec![2 * ffn, dim]),
        ]
    } else {
        vec![
            ("self_attn.q_proj.weight", vec![query, dim]),
            ("self_attn.k_proj.weight", vec![keys, dim]),
            ("self_attn.v_proj.weight", vec![keys, dim]),
            ("mlp.gate_proj.weight", vec![ffn, dim]),
            ("mlp.up_proj.weight", vec![ffn, dim]),
        ]
    });
    found
}

fn vectors(a: &Architecture) -> Vec<(&'static str, Vec<u64>)> {
    let [dim, head] = [a.dim, a.head_dim].map(u64::from);
    let (query, keys) = (u64::from(a.heads) * head, u64::from(a.kv_heads) * head);
    let mut found =
        vec![("input_layernorm.weight", vec![dim]), ("post_attention_layernorm.weight", vec![dim])];
    if a.post_norms {
        found.push(("pre_feedforward_layernorm.weight", vec![dim]));
        found.push(("post_feedforward_layernorm.weight", vec![dim]));
    }
    if a.qk_norm {
        found.extend(["self_attn.q_norm.weight", "self_attn.k_norm.weight"].map(|name| (name, vec![head])));
    }
    if a.qkv_bias {
        found.push(("self_attn.q_proj.bias", vec![query]));
        found.extend(["self_attn.k_proj.bias", "self_attn.v_proj.bias"].map(|name| (name, vec![keys])));
    }
    found
}
