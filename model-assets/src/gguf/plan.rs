//! What a model's GGUF says, computed from its recipe, tokenizer and template: the exporter writes exactly this, and the
//! gate demands exactly this.

use super::{
    value::{ALIGNMENT_BYTES, Kind, Tensor, Value},
    vocabulary::Vocabulary,
};
use crate::recipe::{Architecture, Recipe, RopeScaling};

/// llama.cpp's `LLAMA_FTYPE_MOSTLY_Q8_0`.
const FILE_TYPE_Q8_0: u32 = 7;
/// ggml's version of its quantization formats.
const QUANTIZATION_VERSION: u32 = 2;

/// Where a tensor's numbers come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Origin {
    /// A tensor of the checkpoint, as it is.
    Checkpoint(String),
    /// A tensor of the checkpoint with the rows of each head interleaved: llama.cpp rotates neighbours, Hugging Face's
    /// checkpoints halves.
    Interleaved {
        /// Name in the checkpoint.
        name: String,
        /// Rows of a head.
        head_rows: u64,
    },
    /// Computed from the recipe.
    Constant(Vec<f32>),
}

/// The tensors of a model in the order of its file, and where each comes from.
pub fn tensors(architecture: &Architecture) -> Vec<(Tensor, Origin)> {
    let a = architecture;
    let [dim, ffn, vocab, head] = [a.dim, a.ffn, a.vocab, a.head_dim].map(u64::from);
    let (query, keys) = (u64::from(a.heads).saturating_mul(head), u64::from(a.kv_heads).saturating_mul(head));
    let mut list = Vec::new();
    let mut push = |name: String, width, rows: Option<u64>, origin| {
        let kind = if rows.is_some() { Kind::Q8_0 } else { Kind::F32 };
        list.push((Tensor { name, width, rows, kind, offset: 0 }, origin));
    };
    let from = |name: &str| Origin::Checkpoint(format!("model.{name}.weight"));
    push("token_embd.weight".into(), dim, Some(vocab), from("embed_tokens"));
    if let Some(factors) = rope_factors(a) {
        push("rope_freqs.weight".into(), factors.len() as u64, None, Origin::Constant(factors));
    }
    for layer in 0..a.layers {
        let place = |name: &str| format!("blk.{layer}.{name}.weight");
        let of = |name: &str| format!("model.layers.{layer}.{name}.weight");
        let plain = |name: &str| Origin::Checkpoint(of(name));
        let turned = |name: &str| Origin::Interleaved { name: of(name), head_rows: head };
        push(place("attn_norm"), dim, None, plain("input_layernorm"));
        push(place("attn_q"), dim, Some(query), turned("self_attn.q_proj"));
        push(place("attn_k"), dim, Some(keys), turned("self_attn.k_proj"));
        push(place("attn_v"), dim, Some(keys), plain("self_attn.v_proj"));
        push(place("attn_output"), query, Some(dim), plain("self_attn.o_proj"));
        push(place("ffn_norm"), dim, None, plain("post_attention_layernorm"));
        push(place("ffn_gate"), dim, Some(ffn), plain("mlp.gate_proj"));
        push(place("ffn_up"), dim, Some(ffn), plain("mlp.up_proj"));
        push(place("ffn_down"), ffn, Some(dim), plain("mlp.down_proj"));
    }
    push("output_norm.weight".into(), dim, None, from("norm"));
    if !a.tied {
        push("output.weight".into(), dim, Some(vocab), Origin::Checkpoint("lm_head.weight".into()));
    }
    let mut offset = 0_u64;
    for (tensor, _) in &mut list {
        tensor.offset = offset;
        // A width that is no whole number of blocks is refused by whoever uses the plan.
        let bytes = tensor.bytes().unwrap_or(0).next_multiple_of(ALIGNMENT_BYTES);
        offset = offset.saturating_add(bytes);
    }
    list
}

/// The metadata of a model's file; without a vocabulary for random weights.
pub fn metadata(
    recipe: &Recipe,
    vocabulary: Option<&Vocabulary>,
    chat_template: Option<&str>,
) -> Vec<(String, Value)> {
    let Recipe { architecture: a, tokens, .. } = recipe;
    let text = |text: &str| Value::Text(text.to_owned());
    let mut list: Vec<(&str, Value)> = vec![
        ("general.architecture", text("llama")),
        ("general.type", text("model")),
        ("general.name", text(&recipe.name)),
        ("general.file_type", Value::U32(FILE_TYPE_Q8_0)),
        ("general.quantization_version", Value::U32(QUANTIZATION_VERSION)),
        ("general.license", text(&recipe.licence.id)),
        ("llama.block_count", Value::U32(a.layers)),
        ("llama.context_length", Value::U32(recipe.export.seq_len)),
        ("llama.embedding_length", Value::U32(a.dim)),
        ("llama.feed_forward_length", Value::U32(a.ffn)),
        ("llama.attention.head_count", Value::U32(a.heads)),
        ("llama.attention.head_count_kv", Value::U32(a.kv_heads)),
        ("llama.attention.key_length", Value::U32(a.head_dim)),
        ("llama.attention.value_length", Value::U32(a.head_dim)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(a.norm_eps as f32)),
        ("llama.rope.dimension_count", Value::U32(a.head_dim)),
        ("llama.rope.freq_base", Value::F32(a.rope_theta as f32)),
        ("llama.vocab_size", Value::U32(a.vocab)),
    ];
    match vocabulary {
        None => list.push(("tokenizer.ggml.model", text("none"))),
        Some(it) => list.extend([
            ("tokenizer.ggml.model", text("gpt2")),
            ("tokenizer.ggml.pre", text(it.pre)),
            ("tokenizer.ggml.tokens", Value::Texts(it.tokens.clone())),
            ("tokenizer.ggml.token_type", Value::I32s(it.types.clone())),
            ("tokenizer.ggml.merges", Value::Texts(it.merges.clone())),
            ("tokenizer.ggml.bos_token_id", Value::U32(tokens.bos)),
            ("tokenizer.ggml.eos_token_id", Value::U32(tokens.eos.first().copied().unwrap_or_default())),
            // The chat template writes it.
            ("tokenizer.ggml.add_bos_token", Value::Bool(false)),
        ]),
    }
    list.extend(chat_template.map(|template| ("tokenizer.chat_template", text(template))));
    list.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// By what llama.cpp divides each rotary frequency; `None` without scaling.
fn rope_factors(a: &Architecture) -> Option<Vec<f32>> {
    let Some(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position }) =
        a.rope_scaling
    else {
        return None;
    };
    let low_high = (low_freq_factor, high_freq_factor);
    let factors = llama3_factors(a.head_dim, a.rope_theta, factor, low_high, original_max_position);
    Some(factors.into_iter().map(|factor| factor as f32).collect())
}

/// By what Llama 3's scaling divides each of the `head_dim / 2` rotary frequencies.
pub fn llama3_factors(
    head_dim: u32,
    theta: f64,
    factor: f64,
    (low, high): (f64, f64),
    original_max_position: u32,
) -> Vec<f64> {
    let context = f64::from(original_max_position);
    let one = |index: u32| {
        let frequency = theta.powf(-f64::from(index * 2) / f64::from(head_dim));
        let wavelength = std::f64::consts::TAU / frequency;
        if wavelength < context / high {
            1.0
        } else if wavelength > context / low {
            factor
        } else {
            let smooth = (context / wavelength - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    (0..head_dim / 2).map(one).collect()
}
