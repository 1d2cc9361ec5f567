//! What a checkpoint says about itself, read from its own small files.

use std::collections::BTreeSet;

use anyhow::{Context as _, anyhow, bail};
use camino::Utf8Path;
use model_assets::{
    limits::{TEMPLATE_BYTES_MAX, TOKENIZER_BYTES_MAX},
    recipe::Architecture,
    tokenizer,
};
use serde_json::Value;

use crate::export;

use super::source::Checkpoint;

const SMALL_BYTES_MAX: u64 = 4 << 20;
/// Files that may hold the licence's own text.
const AGREEMENTS: [&str; 4] = ["LICENSE.txt", "LICENSE", "LICENSE.md", "USE_POLICY.md"];

/// All that a recipe takes from the checkpoint.
pub(super) struct Facts {
    pub(super) architecture: Architecture,
    pub(super) bos: u32,
    pub(super) eos: Vec<u32>,
    /// What the end tokens are called, for people.
    pub(super) eos_texts: Vec<String>,
    pub(super) chat_template: String,
    pub(super) licence: Licence,
    /// The licence's own text.
    pub(super) agreement: Option<String>,
}

/// How far the licence is known.
pub(super) enum Licence {
    Known(&'static str),
    /// As the checkpoint calls it.
    Named(String),
    Unknown,
}

impl Facts {
    pub(super) fn read(found: &Checkpoint, seq_len: u32) -> anyhow::Result<Self> {
        let folder = found.folder.as_path();
        let architecture = export::described(&folder.join("config.json"), seq_len)?;
        let config = json(folder, "config.json")?.unwrap_or_default();
        let generation = json(folder, "generation_config.json")?.unwrap_or_default();
        let settings = json(folder, "tokenizer_config.json")?.unwrap_or_default();
        let bytes = export::content(&folder.join("tokenizer.json"), TOKENIZER_BYTES_MAX)?;
        let words = tokenizer::judge(&bytes).map_err(|error| anyhow!("{folder}/tokenizer.json: {error}"))?;
        let eos = ends(&[&config, &generation], &settings, &words);
        let Some(first) = eos.first() else {
            bail!("{folder}: no file names a token that ends a reply (`eos_token_id`)");
        };
        let bos = start(&[&config, &generation], &settings, &words).unwrap_or(*first);
        let text = |id: &u32| words.token(*id).unwrap_or_default().to_owned();
        let licence = found.licence.clone().or_else(|| front_matter(folder));
        let agreement = AGREEMENTS.iter().find_map(|name| small_text(folder, name).ok().flatten());
        Ok(Self {
            architecture,
            bos,
            eos_texts: eos.iter().map(text).collect(),
            eos,
            chat_template: template(folder, &settings)?,
            licence: named(licence.as_deref()),
            agreement,
        })
    }
}

fn small_text(folder: &Utf8Path, name: &str) -> anyhow::Result<Option<String>> {
    let path = folder.join(name);
    if !path.exists() {
        return Ok(None);
    }
    let bytes = export::content(&path, SMALL_BYTES_MAX)?;
    String::from_utf8(bytes).map(Some).with_context(|| format!("{path}: is not UTF-8"))
}

fn json(folder: &Utf8Path, name: &str) -> anyhow::Result<Option<Value>> {
    let Some(text) = small_text(folder, name)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).with_context(|| format!("{folder}/{name}: is not JSON"))
}

/// The tokens that end a reply: every one that a file names, in order.
fn ends(configs: &[&Value], settings: &Value, words: &tokenizer::Facts) -> Vec<u32> {
    let mut seen = BTreeSet::new();
    let listed = configs.iter().flat_map(|config| ids(&config["eos_token_id"]));
    listed.chain(token(&settings["eos_token"], words)).filter(|id| seen.insert(*id)).collect()
}

fn start(configs: &[&Value], settings: &Value, words: &tokenizer::Facts) -> Option<u32> {
    let listed = configs.iter().flat_map(|config| ids(&config["bos_token_id"])).next();
    listed.or_else(|| token(&settings["bos_token"], words))
}

fn ids(value: &Value) -> Vec<u32> {
    let all = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    all.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok()).collect()
}

/// The id of a token that is named by its text, plain or in an object.
fn token(value: &Value, words: &tokenizer::Facts) -> Option<u32> {
    words.id(value.as_str().or_else(|| value["content"].as_str())?)
}

/// A file of its own, or what `tokenizer_config.json` has: one template, or several with names.
fn template(folder: &Utf8Path, settings: &Value) -> anyhow::Result<String> {
    let path = folder.join("chat_template.jinja");
    if path.exists() {
        let bytes = export::content(&path, TEMPLATE_BYTES_MAX)?;
        return String::from_utf8(bytes).with_context(|| format!("{path}: is not UTF-8"));
    }
    let given = &settings["chat_template"];
    let default = |list: &Vec<Value>| {
        let own = list.iter().find(|entry| entry["name"] == "default")?;
        own["template"].as_str().map(str::to_owned)
    };
    given.as_str().map(str::to_owned).or_else(|| given.as_array().and_then(default)).with_context(|| {
        format!("{folder}: no chat template; expected chat_template.jinja, or one in tokenizer_config.json")
    })
}

/// `license` of the first lines of a `README.md`, between two lines of hyphens.
fn front_matter(folder: &Utf8Path) -> Option<String> {
    let text = small_text(folder, "README.md").ok().flatten()?;
    let head = text.strip_prefix("---\n")?.split("\n---").next()?;
    let field = |key: &str| {
        let value = head.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        Some(value.trim().trim_matches(['"', '\'']).to_owned()).filter(|value| !value.is_empty())
    };
    // `other` says only that the name is elsewhere.
    field("license_name").or_else(|| field("license"))
}

/// The hub's names of licences, and the names that recipes use.
const LICENCES: [(&str, &str); 9] = [
    ("apache-2.0", "Apache-2.0"),
    ("mit", "MIT"),
    ("bsd-3-clause", "BSD-3-Clause"),
    ("llama2", "Llama 2 Community License"),
    ("llama3", "Llama 3 Community License"),
    ("llama3.1", "Llama 3.1 Community License"),
    ("llama3.2", "Llama 3.2 Community License"),
    ("llama3.3", "Llama 3.3 Community License"),
    ("gemma", "Gemma Terms of Use"),
];

fn named(licence: Option<&str>) -> Licence {
    let Some(licence) = licence.filter(|name| *name != "other") else { return Licence::Unknown };
    let known = LICENCES.iter().find(|(name, _)| name.eq_ignore_ascii_case(licence));
    known.map_or_else(|| Licence::Named(licence.to_owned()), |(_, id)| Licence::Known(id))
}
