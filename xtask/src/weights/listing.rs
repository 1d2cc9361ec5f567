//! What the hub has of a model that has no recipe yet: its commit, its small files, the digests of the large ones.
//!
//! **Invariant:** a branch is asked for once and becomes a commit; whatever comes after is of that commit.

use std::collections::BTreeMap;

use anyhow::{Context as _, anyhow, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{
    digest::Digest,
    limits::{LICENCE_BYTES_MAX, TEMPLATE_BYTES_MAX, TOKENIZER_BYTES_MAX},
    name::is_commit,
};
use serde::Deserialize;
use serde_json::Value;
use ureq::http::HeaderMap;

use crate::{
    console::Console,
    exit::{Exit, Failure},
    http::{
        client::{Client, Refused, Site},
        download,
        endpoint::Endpoint,
        fault::{Fault, Patience},
        progress::Progress,
    },
    supervise,
    token::{Token, environment},
};

use super::{
    STALL, TRIES,
    hub::Hub,
    is_offline,
    tree::{self, CONFIG, CONFIG_BYTES_MAX, GENERATION, INDEX, INDEX_BYTES_MAX, SINGLE, Tree},
};

const TOKENIZER: &str = "tokenizer.json";
/// What an export reads of a checkpoint beside its weights.
const READ: [(&str, u64); 4] = [
    (CONFIG, CONFIG_BYTES_MAX),
    (GENERATION, CONFIG_BYTES_MAX),
    (TOKENIZER, TOKENIZER_BYTES_MAX),
    (INDEX, INDEX_BYTES_MAX),
];
/// What a recipe is written from besides: the first text of a licence is the model's.
const LOOKED_AT: [(&str, u64); 5] = [
    ("tokenizer_config.json", TOKENIZER_BYTES_MAX),
    ("chat_template.jinja", TEMPLATE_BYTES_MAX),
    ("LICENSE.txt", LICENCE_BYTES_MAX),
    ("LICENSE", LICENCE_BYTES_MAX),
    ("LICENSE.md", LICENCE_BYTES_MAX),
];

/// A repository at a commit.
pub(crate) struct Listing {
    /// Removes the folder in the end.
    pub(crate) kept: tempfile::TempDir,
    /// The small files.
    pub(crate) folder: Utf8PathBuf,
    pub(crate) commit: String,
    /// Every file that an export reads; without a digest where the hub has none of a file that was not fetched.
    pub(crate) files: BTreeMap<String, Option<Digest>>,
    /// By the hub's name of it.
    pub(crate) licence: Option<String>,
}

/// Asks the hub; `again` is the command that does.
pub(crate) fn listing(repo: &str, revision: &str, again: &str) -> Result<Listing, Failure> {
    if is_offline() {
        let error = anyhow!("offline: HF_HUB_OFFLINE is set, and {repo} is a repository of the hub");
        return Err(Failure::new(Exit::Fetch, error, format!("without HF_HUB_OFFLINE, run: {again}")));
    }
    listed(repo, revision).map_err(|fault| match fault {
        Fault::Interrupted => {
            let hint = format!("nothing was written; run: {again}");
            Failure::new(Exit::Interrupted, anyhow!("interrupted"), hint)
        }
        other => other.into_failure(again),
    })
}

fn listed(repo: &str, revision: &str) -> Result<Listing, Fault> {
    supervise::watch_interrupts()?;
    let hub = |revision: &str| Hub { repo: repo.to_owned(), revision: revision.to_owned() };
    let (endpoint, token) = (Endpoint::find(environment)?, Token::find(environment)?);
    let patience = Patience::new(STALL, TRIES);
    let named = hub(revision);
    let client = Client::new(endpoint.clone(), token.clone(), patience, Named(named.clone()))?;
    let (card, _): (Card, _) =
        tree::document(&client, &named.card_url(&client.endpoint)?, "description of the repository")?;
    let commit = client.tame(&card.sha);
    if !is_commit(&commit) {
        return Err(Fault::fatal(anyhow!("{repo}: got the commit `{commit}`, expected 40 hex digits")));
    }
    let pinned = hub(&commit);
    let client = Client::new(endpoint, token, patience, Named(pinned.clone()))?;
    let tree = Tree::fetch(&client, &pinned)?;
    let (kept, folder) = scratch()?;
    let files = fetch(&client, &pinned, &tree, &folder)?;
    Ok(Listing { kept, folder, commit, files, licence: card.licence() })
}

fn scratch() -> anyhow::Result<(tempfile::TempDir, Utf8PathBuf)> {
    let kept = tempfile::tempdir().context("a temporary folder cannot be made")?;
    let folder = Utf8PathBuf::try_from(kept.path().to_owned())?;
    Ok((kept, folder))
}

/// The small files into the folder, and the digests of all that an export reads.
fn fetch(
    client: &Client,
    hub: &Hub,
    tree: &Tree,
    folder: &Utf8Path,
) -> Result<BTreeMap<String, Option<Digest>>, Fault> {
    let console = Console::new(false);
    let mut progress = Progress::new(&console);
    let mut found = BTreeMap::new();
    for (name, bytes_max) in READ.into_iter().chain(LOOKED_AT) {
        let wanted = match tree.small(name, bytes_max) {
            // Whoever releases the model is told that the text is missing.
            Err(_) if name.starts_with("LICENSE") => None,
            other => other?,
        };
        let Some(wanted) = wanted else { continue };
        let url = hub.file_url(&client.endpoint, name)?;
        let record = download::file(client, &url, folder, &wanted, &mut |bytes, total, failed| {
            progress.seen(name, bytes, total, failed);
        })?;
        if READ.iter().any(|(read, _)| *read == name) {
            found.insert(name.to_owned(), Some(record.sha256));
        }
    }
    progress.finish();
    for name in [CONFIG, TOKENIZER] {
        if !found.contains_key(name) {
            return Err(Fault::fatal(anyhow!(
                "{}: {name}: not in the repository at this revision",
                hub.repo
            )));
        }
    }
    // As an export prefers it.
    if tree.has(SINGLE) {
        found.remove(INDEX);
        found.insert(SINGLE.to_owned(), tree.sha256(SINGLE)?);
    } else {
        for name in shards(&hub.repo, folder)? {
            found.insert(name.clone(), tree.sha256(&name)?);
        }
    }
    Ok(found)
}

fn shards(repo: &str, folder: &Utf8Path) -> anyhow::Result<std::collections::BTreeSet<String>> {
    let path = folder.join(INDEX);
    ensure!(path.exists(), "{repo}: got neither {SINGLE} nor {INDEX}, expected weights as safetensors");
    tree::shard_names(&std::fs::read(path)?)
}

/// What the hub says of a repository; keys that are not used are ignored.
#[derive(Deserialize)]
struct Card {
    sha: String,
    #[serde(default, rename = "cardData")]
    data: Value,
}

impl Card {
    /// `other` says only that the name is elsewhere.
    fn licence(&self) -> Option<String> {
        let text = |key: &str| {
            let found = &self.data[key];
            let first = found.as_str().or_else(|| found.as_array()?.first()?.as_str())?;
            let tame: String = first.chars().filter(|c| !c.is_control()).take(100).collect();
            Some(tame).filter(|it| !it.is_empty() && it != "other")
        };
        text("license").or_else(|| text("license_name"))
    }
}

/// A repository that a person named on the command line, perhaps by a branch.
struct Named(Hub);

impl Site for Named {
    fn check(&self, headers: &HeaderMap) -> Result<(), String> {
        if is_commit(&self.0.revision) { self.0.check(headers) } else { Ok(()) }
    }

    fn no_access(&self, refused: Refused<'_>) -> Fault {
        self.0.no_access(refused)
    }

    fn missing(&self, refused: Refused<'_>) -> Fault {
        let page = format!("{}/{}", refused.endpoint, self.0.repo);
        match self.0.missing(refused) {
            Fault::Fatal { error, .. } => Fault::Fatal {
                error,
                hint: Some(format!("correct the name or the revision: look at {page}")),
            },
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_licence_is_named_in_one_of_two_places() {
        for (data, wanted) in [
            (json!({"license": "apache-2.0"}), Some("apache-2.0")),
            (json!({"license": ["mit", "other"]}), Some("mit")),
            (json!({"license": "other", "license_name": "qwen-research"}), Some("qwen-research")),
            (json!({"license": "other"}), None),
            (json!(null), None),
        ] {
            assert_eq!(Card { sha: String::new(), data }.licence().as_deref(), wanted);
        }
    }
}
