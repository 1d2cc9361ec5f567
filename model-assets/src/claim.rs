//! Everything that is claimed about a model, parsed: recipe, policy, manifest, tokenizer, chat template.
//!
//! **Invariant:** a [`Claim`] is made of the same bytes that the app carries: the app bakes the claim's texts
//! in, and its loader validates a linked file against them with the same function as the gate.

use std::collections::BTreeMap;

use crate::{
    digest::Digest,
    error::ContractError,
    evidence::Asked,
    limits,
    manifest::{Bound, Manifest, RUNTIME_VERSION, WeightsKind},
    policy::Policy,
    pte,
    recipe::{Activations, Backend, Delivery, Quantization, Recipe},
    template,
    tokenizer::Facts,
};

/// What is claimed about a model.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The recipe.
    pub recipe: Recipe,
    /// The policy.
    pub policy: Policy,
    /// The manifest.
    pub manifest: Manifest,
    /// `tokenizer.json`, when there is one.
    pub tokenizer: Option<Vec<u8>>,
    /// The chat template, when there is one.
    pub chat_template: Option<String>,
}

/// The texts of a claim, as read from files or baked into an app.
#[derive(Debug, Clone, Copy)]
pub struct ClaimTexts<'a> {
    /// `recipe.toml`.
    pub recipe: &'a str,
    /// `policy.toml`.
    pub policy: &'a str,
    /// `manifest.json`.
    pub manifest: &'a [u8],
    /// `tokenizer.json`.
    pub tokenizer: Option<&'a [u8]>,
    /// The chat template.
    pub chat_template: Option<&'a str>,
}

impl Claim {
    /// Parses the texts. For a manifest of random weights the tokenizer and template are left out, as they
    /// were when it was made.
    ///
    /// # Errors
    /// The first contract file that cannot be used.
    pub fn parse(texts: ClaimTexts<'_>) -> Result<Self, ContractError> {
        let recipe = Recipe::parse(texts.recipe)?;
        let policy = Policy::parse(texts.policy)?;
        let manifest = Manifest::parse(texts.manifest)?;
        let real = manifest.weights == WeightsKind::Checkpoint;
        if let Some(tokenizer) = texts.tokenizer {
            ContractError::check_size("tokenizer.json", tokenizer.len(), limits::TOKENIZER_BYTES_MAX)?;
        }
        if let Some(template) = texts.chat_template {
            ContractError::check_size("chat template", template.len(), limits::TEMPLATE_BYTES_MAX)?;
        }
        Ok(Self {
            recipe,
            policy,
            manifest,
            tokenizer: texts.tokenizer.filter(|_| real).map(<[u8]>::to_vec),
            chat_template: texts.chat_template.filter(|_| real).map(str::to_owned),
        })
    }

    /// The digests of these very files.
    pub fn bound(&self) -> Bound {
        bound(&self.recipe, &self.policy, self.tokenizer.as_deref(), self.chat_template.as_deref())
    }

    /// What the evidence is judged by.
    pub fn asked(&self) -> Asked<'_> {
        let Manifest { sha256, export, evidence, .. } = &self.manifest;
        let runtime = evidence.as_ref().map_or(RUNTIME_VERSION, |evidence| &evidence.bound.runtime);
        let (bounds, parameters) = (self.recipe.bounds(), export.parameters);
        Asked { bounds, sha256: *sha256, parameters, runtime }
    }

    /// `auto` resolved for a file of this size.
    pub fn delivery(&self, file_bytes: u64) -> Delivery {
        self.policy.delivery(&self.recipe, file_bytes)
    }

    /// What the `.pte` must be to keep the claim's promises.
    pub fn expect(&self) -> pte::Expect {
        // With a promised digest, the digests that weights name themselves need no pass of their own: they were
        // checked when the promise was made.
        pte::Expect { sha256: Some(self.manifest.sha256.to_bytes()), ..expect(&self.recipe) }
    }
}

/// The digests that a manifest and its evidence are bound to.
pub fn bound(
    recipe: &Recipe,
    policy: &Policy,
    tokenizer: Option<&[u8]>,
    chat_template: Option<&str>,
) -> Bound {
    Bound {
        recipe: recipe.digest(),
        policy: policy.digest(),
        tokenizer: tokenizer.map(Digest::of),
        chat_template: chat_template.map(|text| Digest::of(text.as_bytes())),
    }
}

/// What a `.pte` must be to keep a recipe's promises.
pub fn expect(recipe: &Recipe) -> pte::Expect {
    let Recipe { architecture, export, tokens, limits, .. } = recipe;
    let delegated = export.backend != Backend::Portable;
    let ids = |ids: &[u32]| ids.iter().map(|id| i64::from(*id)).collect();
    pte::Expect {
        file_bytes_min: Some(limits.file_bytes_min),
        file_bytes_max: Some(limits.file_bytes_max),
        planned_bytes_max: Some(limits.planned_bytes_max),
        sha256: None,
        forward: true,
        straight_line: true,
        sound_weights: true,
        quantization: Some(export.quantization),
        delegated_linears: if delegated { export.delegated_linears } else { Some(0) },
        eight_bit_linears: (export.quantization == Quantization::Int4).then(|| eight_bit_linears(recipe)),
        two_row_linears: Some(two_row_linears(recipe)),
        small_linears: delegated.then(|| small_linears(recipe)),
        partitions: if delegated { export.partitions } else { Some(0) },
        backends: delegated.then(|| "XnnpackBackend".to_owned()).into_iter().collect(),
        kernels: Some(pte::linked_runtime().clone()),
        operators: pte::Operators::Admitted(pte::admitted(
            architecture.family.as_str(),
            export.backend.as_str(),
        )),
        delegated_weight_share_min: None,
        delegated_mac_share_min: None,
        metadata_required: METADATA_METHODS.iter().map(|name| (*name).to_owned()).collect(),
        metadata: BTreeMap::new(),
        vocab: Some(architecture.vocab.into()),
        seq_len: Some(export.seq_len.into()),
        dim: Some(architecture.dim.into()),
        bos: Some(tokens.bos.into()),
        eos: ids(&tokens.eos),
    }
}

/// Linears that take their input in two rows: of 8-bit weights all but what follows attention, of 4-bit ones the head.
fn two_row_linears(recipe: &Recipe) -> u32 {
    let of_layers = recipe.architecture.layers.saturating_mul(6);
    match (recipe.export.activations(), recipe.export.quantization) {
        (Some(Activations::TwoRows), Quantization::Int8) => of_layers.saturating_add(1),
        (Some(Activations::TwoRows), Quantization::Int4) => 1,
        _ => 0,
    }
}

/// Unquantized products beside the linears, and the most parameters that they have. Each norm has one row that takes the mean,
/// each rotary rotation of queries and of keys a matrix. A rotated model has a matrix before each `down`, and one before
/// a head that shares its rows with the embedding; a `down` that takes two rows has one row that takes the mean.
fn small_linears(recipe: &Recipe) -> (u32, u64) {
    let it = &recipe.architecture;
    let [dim, head] = [it.dim, it.head_dim].map(u64::from);
    let square = |size: u64| size.saturating_mul(size);
    let before_down = match (recipe.export.activations(), recipe.export.quantization) {
        (Some(Activations::Rotated), _) => Some(square(rotated_group(it.ffn))).filter(|&params| params > 1),
        (Some(Activations::TwoRows), Quantization::Int8) => Some(it.ffn.into()),
        _ => None,
    };
    let rotates = recipe.export.activations() == Some(Activations::Rotated);
    let before_head = (rotates && it.tied).then(|| square(dim));
    // How often, and of how many parameters.
    let parts = [
        (it.layers.saturating_mul(if it.post_norms { 4 } else { 2 }), dim),
        (it.layers.saturating_mul(if it.qk_norm { 2 } else { 0 }), head),
        (it.rotated_layers().saturating_mul(2), square(head)),
        (if before_down.is_some() { it.layers } else { 0 }, before_down.unwrap_or_default()),
        (1, dim),
        (u32::from(before_head.is_some()), before_head.unwrap_or_default()),
    ];
    parts.iter().fold((0, 0), |(count, params), &(times, each)| {
        (count.saturating_add(times), params.saturating_add(each.saturating_mul(times.into())))
    })
}

/// Channels that a rotated model mixes before `down`: the largest power of two up to 128 that divides their number.
fn rotated_group(channels: u32) -> u64 {
    1 << channels.trailing_zeros().min(7)
}

/// Linears of a 4-bit model that keep 8 bits, and their parameters: the head, and each layer's `v`, `o` and `down`.
fn eight_bit_linears(recipe: &Recipe) -> (u32, u64) {
    let it = &recipe.architecture;
    let [dim, vocab, size, ffn] = [it.dim, it.vocab, it.head_dim, it.ffn].map(u64::from);
    // A head that takes two rows has a spare column.
    let columns = dim.saturating_add(u64::from(recipe.export.activations() == Some(Activations::TwoRows)));
    // `v` has a row for each value of its heads, `o` such a column; `down` has a column for each channel.
    let heads = u64::from(it.kv_heads).saturating_add(it.heads.into());
    let lines = heads.saturating_mul(size).saturating_add(ffn);
    let layers = lines.saturating_mul(dim).saturating_mul(it.layers.into());
    (it.layers.saturating_mul(3).saturating_add(1), vocab.saturating_mul(columns).saturating_add(layers))
}

/// Metadata methods that runners read: upstream's, and the engine's.
const METADATA_METHODS: [&str; 6] =
    ["get_max_seq_len", "get_max_context_len", "get_vocab_size", "use_kv_cache", "get_bos_id", "get_eos_ids"];

/// Prompts of the reference conversation, as the app renders them with these files.
///
/// # Errors
/// A message: what the template is refused for, with the line.
pub fn prompts(recipe: &Recipe, tokenizer: &Facts, chat_template: &str) -> Result<Prompts, String> {
    let text = |id: Option<&u32>| id.and_then(|id| tokenizer.token(*id)).unwrap_or_default().to_owned();
    let (bos_token, eos_token) = (text(Some(&recipe.tokens.bos)), text(recipe.tokens.eos.first()));
    let renderings =
        template::judge(chat_template, &bos_token, &eos_token).map_err(|fault| fault.to_string())?;
    Ok(Prompts { bos_token, eos_token, renderings })
}

/// The reference conversation with what its template may print.
#[derive(Debug, Clone)]
pub struct Prompts {
    /// The text of the start token.
    pub bos_token: String,
    /// The text of the first stop token.
    pub eos_token: String,
    /// The conversation in its lengths.
    pub renderings: Vec<template::Rendering>,
}

/// Rows of the vocabulary that a tokenizer of this recipe's model can emit. A model may have more: rows that only pad the matrix
/// stand behind the last token, and are never sampled.
///
/// # Errors
/// A message: it has a token that the model lacks, or it lacks one that the recipe names.
pub fn token_rows(recipe: &Recipe, tokenizer: &Facts) -> Result<u32, String> {
    let (rows, vocab) = (tokenizer.rows, recipe.architecture.vocab);
    if rows > vocab {
        return Err(format!("got tokens up to {}, expected ids below the model's {vocab}", rows - 1));
    }
    let named = recipe.tokens.eos.iter().chain([&recipe.tokens.bos]);
    match named.into_iter().find(|id| **id >= rows) {
        Some(id) => Err(format!("got {rows} ids, expected the recipe's token {id} among them")),
        None => Ok(rows),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn promise(text: &str) -> pte::Expect {
        expect(&Recipe::parse(text).unwrap())
    }

    #[test]
    fn a_recipe_promises_its_rows_and_its_bits() {
        let text = include_str!("../models/llama3.2-1b/recipe.toml");
        let int8 = promise(text);
        assert_eq!((int8.two_row_linears, int8.eight_bit_linears), (Some(0), None));
        // Of a layer: two means, two rotary rotations. Of the model: the last norm's mean.
        let plain = 16 * (2 * 2048 + 2 * 64 * 64) + 2048;
        assert_eq!(int8.small_linears, Some((16 * 5 + 2, plain + 16 * 128 * 128 + 2048 * 2048)));
        let with = |text: &str, bits: &str, activations: &str| {
            let key = format!("quantization = \"{bits}\"");
            promise(&text.replace(&key, &format!("{key}\nactivations = \"{activations}\"")))
        };
        let one_row = with(text, "int8", "one-row");
        assert_eq!((one_row.two_row_linears, one_row.small_linears), (Some(0), Some((16 * 4 + 1, plain))));
        let two_rows = with(text, "int8", "two-rows");
        assert_eq!(two_rows.two_row_linears, Some(97));
        assert_eq!(two_rows.small_linears, Some((16 * 5 + 1, plain + 16 * 8192)));
        // What other families have of their own: norms of heads, norms before the residual, layers without positions.
        let shape = |more: &str| text.replace("tied = true", &format!("tied = true\n{more}"));
        let heads = promise(&shape("qk_norm = true")).small_linears.unwrap();
        let plain_rotated = int8.small_linears.unwrap();
        assert_eq!((heads.0 - plain_rotated.0, heads.1 - plain_rotated.1), (32, 32 * 64));
        let kinds = format!("layer_kinds = [{}\"global\"]", "\"unrotated\", ".repeat(15));
        let unrotated = promise(&shape(&kinds)).small_linears.unwrap();
        assert_eq!((plain_rotated.0 - unrotated.0, plain_rotated.1 - unrotated.1), (30, 30 * 64 * 64));
        let normed = with(&shape("post_norms = true"), "int8", "two-rows").small_linears.unwrap();
        assert_eq!(normed, (16 * 7 + 1, plain + 16 * 8192 + 32 * 2048));
        let text = include_str!("../models/llama3.2-1b-int4/recipe.toml");
        let (int4, layers) = (promise(text), 16 * (512 + 2048 + 8192) * 2048);
        assert_eq!(int4.eight_bit_linears, Some((49, 128_256 * 2048 + layers)));
        assert_eq!((int4.two_row_linears, int4.small_linears), (Some(0), int8.small_linears));
        let two_rows = with(text, "int4", "two-rows");
        assert_eq!(two_rows.eight_bit_linears, Some((49, 128_256 * 2049 + layers)));
        assert_eq!((two_rows.two_row_linears, two_rows.small_linears), (Some(1), one_row.small_linears));
    }
}
