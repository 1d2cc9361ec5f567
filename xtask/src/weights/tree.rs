//! What the hub says is in the repository, and which of it an export reads.
//!
//! **Invariant:** every name that becomes a path is plain (no separator, not hidden) and is in the hub's own list;
//! every file has a size below its limit and a digest before its first byte is asked for.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, anyhow, bail, ensure};
use model_assets::{
    digest::Digest,
    limits::{CHECKPOINT_FILES_MAX, TOKENIZER_BYTES_MAX},
    name::{is_commit, is_plain},
    recipe::Recipe,
};
use serde::Deserialize;
use ureq::http::Uri;

use crate::{
    http::{
        client::{Client, text},
        fault::{Attempts, Fault},
        wanted::{Listed, Pin, Size, Wanted},
    },
    predict,
};

use super::hub::Hub;

const PAGE_BYTES_MAX: u64 = 8 << 20;
const PAGES_MAX: usize = 20;
/// Largest `config.json` or `generation_config.json`.
pub(super) const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// Largest `model.safetensors.index.json` that is read.
pub(super) const INDEX_BYTES_MAX: u64 = 16 << 20;
/// Headers of safetensors files, beside their tensors.
const HEADERS_BYTES_MAX: u64 = 64 << 20;

pub(super) const CONFIG: &str = "config.json";
pub(super) const GENERATION: &str = "generation_config.json";
pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// One entry of the tree API; keys that are not used are ignored, the API grows.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    oid: String,
    #[serde(default)]
    size: u64,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

/// The hub's list of the repository's top-level files.
pub(super) struct Tree(BTreeMap<String, (u64, Listed)>);

impl Tree {
    /// Asks for the list, page by page.
    pub(super) fn fetch(client: &Client, hub: &Hub) -> Result<Self, Fault> {
        let mut files = BTreeMap::new();
        let mut url = hub.tree_url(&client.endpoint)?;
        for _ in 0..PAGES_MAX {
            let (entries, next) = page(client, &url)?;
            for entry in entries.into_iter().filter(|entry| entry.kind == "file") {
                let (name, file) = entry.read().map_err(|error| client_error(client, &error))?;
                if files.insert(name.clone(), file).is_some() {
                    return Err(Fault::fatal(anyhow!("list of files: `{}` twice", client.tame(&name))));
                }
            }
            let Some(next) = next else { return Ok(Self(files)) };
            url = client.endpoint.follow(&url, &next)?;
            if !client.endpoint.owns(&url) {
                return Err(Fault::fatal(anyhow!("list of files: its next page is on another host")));
            }
        }
        Err(Fault::fatal(anyhow!("list of files: more than {PAGES_MAX} pages")))
    }

    /// The files that are always needed, and the one that has or lists the weights.
    pub(super) fn needed(&self, recipe: &Recipe) -> anyhow::Result<Vec<Wanted>> {
        let weights = if self.has(SINGLE) { SINGLE } else { INDEX };
        // It may name stop tokens that `config.json` does not. A recipe that pins other files than it has its own.
        let taken = |name: &str| recipe.source.pins().is_none_or(|pins| pins.contains_key(name));
        let generation = Some(GENERATION).filter(|name| self.has(name) && taken(name));
        let files = [Some(CONFIG), generation, Some(recipe.tokens.tokenizer.as_str()), Some(weights)];
        files.into_iter().flatten().map(|name| self.want(name, recipe)).collect()
    }

    /// The shards that an index names.
    pub(super) fn shards(&self, index: &[u8], recipe: &Recipe) -> anyhow::Result<Vec<Wanted>> {
        shard_names(index)?.iter().map(|name| self.want(name, recipe)).collect()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// A small file, if it is there and holds anything.
    pub(super) fn small(&self, name: &str, bytes_max: u64) -> anyhow::Result<Option<Wanted>> {
        let Some((bytes, listed)) = self.0.get(name).copied().filter(|(bytes, _)| *bytes > 0) else {
            return Ok(None);
        };
        ensure!(bytes <= bytes_max, "{name}: the hub declares {bytes} bytes, expected at most {bytes_max}");
        Ok(Some(Wanted { name: name.to_owned(), size: Size::Exactly(bytes), listed, pin: None }))
    }

    /// The digest that the hub has of a file, which must be there.
    pub(super) fn sha256(&self, name: &str) -> anyhow::Result<Option<Digest>> {
        match self.0.get(name) {
            Some((_, Listed::Sha256(sha256))) => Ok(Some(*sha256)),
            Some(_) => Ok(None),
            None => bail!("{name}: not in the repository at this revision"),
        }
    }

    fn want(&self, name: &str, recipe: &Recipe) -> anyhow::Result<Wanted> {
        let (bytes, listed) =
            *self.0.get(name).with_context(|| format!("{name}: not in the repository at this revision"))?;
        let most = bytes_max(name, recipe);
        ensure!(bytes <= most, "{name}: the hub declares {bytes} bytes, expected at most {most}");
        ensure!(bytes > 0, "{name}: the hub declares 0 bytes");
        let unpinned = || format!("{name}: has no digest in the recipe's `source.files`");
        let pin = recipe.source.pins().map(|pins| pins.get(name).copied().with_context(unpinned));
        let pin = pin.transpose()?;
        if let (Some(pin), Listed::Sha256(hub)) = (pin, listed) {
            ensure!(pin == hub, "{name}: the hub has sha256 {hub}, expected the recipe's {pin}");
        }
        let pin = pin.map(|sha256| Pin { sha256, whose: "the recipe's" });
        Ok(Wanted { name: name.to_owned(), size: Size::Exactly(bytes), listed, pin })
    }
}

/// The names of the files that an index lists.
pub(super) fn shard_names(index: &[u8]) -> anyhow::Result<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_slice(index).with_context(|| format!("{INDEX}: not an index"))?;
    let names: BTreeSet<_> = index.weight_map.into_values().collect();
    ensure!(!names.is_empty(), "{INDEX}: names no file");
    let count = names.len();
    ensure!(
        count <= CHECKPOINT_FILES_MAX,
        "{INDEX}: names {count} files, expected at most {CHECKPOINT_FILES_MAX}"
    );
    for name in &names {
        let expected = "expected a plain `*.safetensors` name";
        ensure!(is_plain(name) && name.ends_with(".safetensors"), "{INDEX}: names {name:?}, {expected}");
    }
    Ok(names)
}

/// Largest size of a file that the recipe's shapes explain.
fn bytes_max(name: &str, recipe: &Recipe) -> u64 {
    match name {
        CONFIG | GENERATION => CONFIG_BYTES_MAX,
        INDEX => INDEX_BYTES_MAX,
        _ if name.ends_with(".safetensors") => weights_bytes_max(recipe),
        _ => TOKENIZER_BYTES_MAX,
    }
}

/// All weights together: four bytes a parameter is the widest type that is exported from.
pub(super) fn weights_bytes_max(recipe: &Recipe) -> u64 {
    4 * predict::parameters(recipe) + HEADERS_BYTES_MAX
}

impl Entry {
    fn read(self) -> Result<(String, (u64, Listed)), String> {
        let wrong = |what: &str| Err(format!("list of files: `{}`: {what}", self.path));
        let Some(lfs) = &self.lfs else {
            let Some(oid) = hex20(&self.oid) else { return wrong("its oid is not 40 hex digits") };
            return Ok((self.path, (self.size, Listed::GitBlob(oid))));
        };
        let Some(oid) = Digest::parse(&lfs.oid) else { return wrong("its lfs oid is not 64 hex digits") };
        Ok((self.path, (lfs.size, Listed::Sha256(oid))))
    }
}

fn client_error(client: &Client, error: &str) -> Fault {
    Fault::fatal(anyhow!("{}", client.tame(error)))
}

/// One page and where the next one is.
fn page(client: &Client, url: &Uri) -> Result<(Vec<Entry>, Option<String>), Fault> {
    document(client, url, "list of files")
}

/// An answer in JSON, and where the next page of it is.
pub(super) fn document<T: serde::de::DeserializeOwned>(
    client: &Client,
    url: &Uri,
    what: &str,
) -> Result<(T, Option<String>), Fault> {
    let mut attempts = Attempts::new();
    loop {
        let got = client.get(url, None).and_then(|mut reply| {
            let mut bytes = Vec::new();
            client.read(reply.body_mut(), PAGE_BYTES_MAX, |part| {
                bytes.extend_from_slice(part);
                Ok(())
            })?;
            Ok((bytes, text(reply.headers(), "link").and_then(next_page)))
        });
        match got {
            Ok((bytes, next)) => {
                let read = serde_json::from_slice(&bytes);
                let read = read.map_err(|error| client_error(client, &format!("{what}: {error}")))?;
                return Ok((read, next));
            }
            Err(fault) => drop(attempts.next(fault, false, &client.patience)?),
        }
    }
}

/// The target of `rel="next"` in a `Link` header.
fn next_page(link: &str) -> Option<String> {
    let next = link.split(',').find(|part| part.contains("rel=\"next\""))?;
    Some(next.split_once('<')?.1.split_once('>')?.0.to_owned())
}

fn hex20(text: &str) -> Option<[u8; 20]> {
    let mut bytes = [0; 20];
    if !is_commit(text) {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(bytes)
}
