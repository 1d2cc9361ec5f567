//! What a checkpoint says about itself, read from its own small files.

use std::collections::BTreeSet;

use anyhow::{Context as _, anyhow, bail};
use camino::Utf8Path;
use model_assets::{
    claim,
    licence::{self, OWN_LICENCE},
    limits::{LICENCE_BYTES_MAX, TEMPLATE_BYTES_MAX, TOKENIZER_BYTES_MAX},
    recipe::{Architecture, Recipe},
    regular,
    tokenizer::{self, Facts as Vocabulary},
};
use serde_json::Value;

use crate::checkpoint;

use super::{
    end,
    names::{TEMPLATE, TOKENIZER},
    source::Checkpoint,
};

const CONFIG_BYTES_MAX: u64 = 1 << 20;
const CONFIG: &str = "config.json";
const GENERATION: &str = "generation_config.json";
const SETTINGS: &str = "tokenizer_config.json";
/// Files that may hold the licence's own text.
const AGREEMENTS: [&str; 3] = ["LICENSE.txt", "LICENSE", "LICENSE.md"];

/// All that a recipe takes from the checkpoint.
pub(super) struct Facts {
    pub(super) architecture: Architecture,
    pub(super) bos: u32,
    pub(super) eos: Vec<u32>,
    pub(super) vocabulary: Vocabulary,
    pub(super) chat_template: String,
    pub(super) licence: Licence,
    /// The licence's own text, where the repository's does not do.
    pub(super) agreement: Option<String>,
    /// Of a checkpoint on this machine.
    pub(super) tokenizer: Option<Vec<u8>>,
}

/// How far the licence is known.
pub(super) enum Licence {
    Known(&'static str),
    /// As the checkpoint calls it.
    Named(String),
    Unknown,
}

impl Licence {
    pub(super) fn id(&self) -> &str {
        match self {
            Self::Known(id) => id,
            Self::Named(name) => name,
            Self::Unknown => "unknown",
        }
    }
}

impl Facts {
    pub(super) fn read(found: &Checkpoint, seq_len: u32) -> anyhow::Result<Self> {
        let folder = found.folder.as_path();
        let architecture = checkpoint::described(&folder.join(CONFIG), seq_len)?;
        let configs = [json(folder, CONFIG, CONFIG_BYTES_MAX)?, json(folder, GENERATION, CONFIG_BYTES_MAX)?];
        let settings = json(folder, SETTINGS, TOKENIZER_BYTES_MAX)?;
        let bytes = tokenizer(folder)?;
        let vocabulary = vocabulary(folder, &bytes)?;
        let mut eos = ends(&configs, &settings, &vocabulary);
        let Some(first) = eos.first().copied() else {
            bail!("{folder}: eos_token_id: got none in any file, expected a token that ends a reply");
        };
        let bos = start(&configs, &settings, &vocabulary).unwrap_or(first);
        let chat_template = template(folder, &settings)?;
        eos.extend(end::of_turn(&chat_template, &vocabulary, bos, first).filter(|id| !eos.contains(id)));
        let licence = named(found.licence.clone().or_else(|| front_matter(folder)).as_deref());
        let agreement = if matches!(licence, Licence::Known(OWN_LICENCE)) { None } else { agreement(folder) };
        let tokenizer = found.link.is_some().then_some(bytes);
        Ok(Self { architecture, bos, eos, vocabulary, chat_template, licence, agreement, tokenizer })
    }

    /// The notice that copies of the model must keep.
    pub(super) fn notice(&self) -> Option<String> {
        licence::llama_notice(self.licence.id())
    }

    /// What tokens are called, for people.
    pub(super) fn texts(&self, ids: &[u32]) -> String {
        let text = |id: &u32| self.vocabulary.token(*id).unwrap_or_default().escape_debug().to_string();
        ids.iter().map(text).collect::<Vec<_>>().join(", ")
    }

    /// Refuses the recipe where an export from this folder would, weights aside.
    pub(super) fn fits(
        &self,
        recipe: &Recipe,
        folder: &Utf8Path,
        vocabulary: &Vocabulary,
    ) -> anyhow::Result<()> {
        checkpoint::configured(folder, recipe)?;
        claim::prompts(recipe, vocabulary, &self.chat_template)
            .map_err(|error| anyhow!("{folder}: chat template: {error}"))?;
        Ok(())
    }
}

/// The bytes of a checkpoint's tokenizer.
pub(super) fn tokenizer(folder: &Utf8Path) -> anyhow::Result<Vec<u8>> {
    let path = folder.join(TOKENIZER);
    regular::read(&path, TOKENIZER_BYTES_MAX).with_context(|| format!("{path}: cannot be read"))
}

/// What the tokenizer of a folder says.
pub(super) fn vocabulary(folder: &Utf8Path, tokenizer: &[u8]) -> anyhow::Result<Vocabulary> {
    tokenizer::judge(tokenizer).map_err(|error| anyhow!("{folder}/{TOKENIZER}: {error}"))
}

fn text(folder: &Utf8Path, name: &str, bytes_max: u64) -> anyhow::Result<Option<String>> {
    let path = folder.join(name);
    if path.symlink_metadata().is_err() {
        return Ok(None);
    }
    let bytes = regular::read(&path, bytes_max).with_context(|| format!("{path}: cannot be read"))?;
    String::from_utf8(bytes).map(Some).with_context(|| format!("{path}: is not UTF-8"))
}

/// Null for a file that is not there.
fn json(folder: &Utf8Path, name: &str, bytes_max: u64) -> anyhow::Result<Value> {
    let Some(text) = text(folder, name, bytes_max)? else { return Ok(Value::Null) };
    serde_json::from_str(&text).with_context(|| format!("{folder}/{name}: is not JSON"))
}

/// The tokens that end a reply: every one that a file names, and first the tokenizer's, which is what templates print.
fn ends(configs: &[Value; 2], settings: &Value, vocabulary: &Vocabulary) -> Vec<u32> {
    let mut seen = BTreeSet::new();
    let listed = configs.iter().rev().flat_map(|config| ids(&config["eos_token_id"]));
    token(&settings["eos_token"], vocabulary)
        .into_iter()
        .chain(listed)
        .filter(|id| seen.insert(*id))
        .collect()
}

fn start(configs: &[Value; 2], settings: &Value, vocabulary: &Vocabulary) -> Option<u32> {
    let listed = configs.iter().flat_map(|config| ids(&config["bos_token_id"])).next();
    listed.or_else(|| token(&settings["bos_token"], vocabulary))
}

fn ids(value: &Value) -> Vec<u32> {
    let all = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    all.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok()).collect()
}

/// The id of a token that is named by its text, plain or in an object.
fn token(value: &Value, vocabulary: &Vocabulary) -> Option<u32> {
    vocabulary.id(value.as_str().or_else(|| value["content"].as_str())?)
}

/// A file of its own, or what the tokenizer's settings have: one template, or several with names.
fn template(folder: &Utf8Path, settings: &Value) -> anyhow::Result<String> {
    if let Some(own) = text(folder, TEMPLATE, TEMPLATE_BYTES_MAX)? {
        return Ok(own);
    }
    let given = &settings["chat_template"];
    let default = |list: &Vec<Value>| {
        let own = list.iter().find(|entry| entry["name"] == "default")?;
        own["template"].as_str().map(str::to_owned)
    };
    given.as_str().map(str::to_owned).or_else(|| given.as_array().and_then(default)).with_context(|| {
        format!("{folder}: got no chat template, expected chat_template.jinja, or one in {SETTINGS}: a base model does not chat")
    })
}

/// The first that can be read; a release is told where there is none.
fn agreement(folder: &Utf8Path) -> Option<String> {
    AGREEMENTS.iter().find_map(|name| text(folder, name, LICENCE_BYTES_MAX).ok().flatten())
}

/// `license` of the first lines of a `README.md`, between two lines of hyphens.
fn front_matter(folder: &Utf8Path) -> Option<String> {
    let text = text(folder, "README.md", CONFIG_BYTES_MAX).ok().flatten()?;
    let head = text.strip_prefix("---\n")?.split("\n---").next()?;
    let field = |key: &str| {
        let value = head.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        Some(value.trim().trim_matches(['"', '\'']).to_owned()).filter(|it| !it.is_empty() && it != "other")
    };
    field("license").or_else(|| field("license_name"))
}

/// The hub's names of licences, and the names that recipes use.
const LICENCES: [(&str, &str); 9] = [
    ("apache-2.0", OWN_LICENCE),
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
    let Some(licence) = licence else { return Licence::Unknown };
    let known = LICENCES.iter().find(|(name, _)| name.eq_ignore_ascii_case(licence));
    known.map_or_else(|| Licence::Named(licence.to_owned()), |(_, id)| Licence::Known(id))
}
