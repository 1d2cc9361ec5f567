//! Public data sets, fetched from the hub: `model-assets/evidence/datasets.toml` lists them.
//!
//! **Invariant:** a file is named by repository, commit and SHA-256; one that is there already is proved without the network.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::{Context as _, anyhow, ensure};
use camino::Utf8PathBuf;
use model_assets::{
    digest::Digest,
    limits::TOML_BYTES_MAX,
    name::{is_commit, is_plain},
};
use serde::Deserialize;
use ureq::http::HeaderMap;

use crate::{
    console::Console,
    exit::Failure,
    http::{
        client::{Client, Refused, Site, text},
        download,
        endpoint::Endpoint,
        fault::{Fault, Patience},
        progress::Progress,
        wanted::{Listed, Pin, Size, Wanted},
    },
    token::{Token, environment},
    workspace::Workspace,
};

const TABLE: &str = "model-assets/evidence/datasets.toml";
/// Largest file of a data set: the ones in the table have a few megabytes.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// A file of a data set.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Dataset {
    repo: String,
    revision: String,
    file: String,
    pub(crate) sha256: Digest,
    pub(crate) licence: String,
}

impl Dataset {
    /// The row of the table.
    ///
    /// # Errors
    /// There is no such row, or it is malformed.
    pub(crate) fn find(workspace: &Workspace, name: &str) -> anyhow::Result<Self> {
        let path = workspace.root().join(TABLE);
        let len = fs::metadata(&path).with_context(|| format!("{path}: cannot be opened"))?.len();
        ensure!(len <= TOML_BYTES_MAX, "{path}: got {len} bytes, expected at most {TOML_BYTES_MAX}");
        let table: BTreeMap<String, Self> =
            toml::from_str(&fs::read_to_string(&path)?).with_context(|| format!("{path}"))?;
        let names = table.keys().cloned().collect::<Vec<_>>().join(", ");
        let found =
            table.get(name).with_context(|| format!("{path}: got `{name}`, expected one of {names}"))?;
        found.check().with_context(|| format!("{path}: {name}"))?;
        Ok(found.clone())
    }

    fn check(&self) -> anyhow::Result<()> {
        let parts = |text: &str| text.split('/').all(is_plain);
        ensure!(parts(&self.repo) && self.repo.split('/').count() == 2, "repo: got `{}`", self.repo);
        ensure!(parts(&self.file), "file: got `{}`, expected a path of plain names", self.file);
        ensure!(is_commit(&self.revision), "revision: got `{}`, expected a commit", self.revision);
        Ok(())
    }

    /// The file on this machine, fetched if need be.
    ///
    /// # Errors
    /// It cannot be fetched, or is another than the table names.
    pub(crate) fn fetch(&self, workspace: &Workspace, console: &Console) -> Result<Utf8PathBuf, Failure> {
        let again = "the same command again".to_owned();
        self.fetch_or_fault(workspace, console).map_err(|fault| fault.into_failure(&again))
    }

    fn fetch_or_fault(&self, workspace: &Workspace, console: &Console) -> Result<Utf8PathBuf, Fault> {
        crate::supervise::watch_interrupts()?;
        let folder = workspace.state().join("datasets").join(&self.repo).join(&self.revision);
        fs::create_dir_all(&folder).with_context(|| format!("{folder}: cannot be made"))?;
        let wanted = Wanted {
            // One folder for all files of a commit, in which a name is one of them.
            name: self.file.replace('/', "_"),
            size: Size::AtMost(FILE_BYTES_MAX),
            listed: Listed::Nothing,
            pin: Some(Pin { sha256: self.sha256, whose: "the table's" }),
        };
        let (endpoint, token) = (Endpoint::find(environment)?, Token::find(environment)?);
        let url = endpoint.url(&format!("datasets/{}/resolve/{}/{}", self.repo, self.revision, self.file))?;
        let client = Client::new(endpoint, token, Patience::new(Duration::from_secs(30), 6), self.clone())?;
        console.step(&format!("{} ({})", self.repo, self.licence));
        let mut progress = Progress::new(console);
        download::file(&client, &url, &folder, &wanted, &mut |bytes, total, failed| {
            progress.seen(&wanted.name, bytes, total, failed);
        })?;
        progress.finish();
        Ok(download::path(&folder, &wanted))
    }
}

impl Site for Dataset {
    fn check(&self, headers: &HeaderMap) -> Result<(), String> {
        match text(headers, "x-repo-commit") {
            Some(commit) if commit != self.revision => {
                Err(format!("{}: got commit `{commit}`, expected {}", self.repo, self.revision))
            }
            _ => Ok(()),
        }
    }

    fn no_access(&self, refused: Refused<'_>) -> Fault {
        let Refused { error, endpoint, .. } = refused;
        let hint = format!(
            "look at {endpoint}/datasets/{}: it may want a licence accepted, or a token: export HF_TOKEN=...",
            self.repo
        );
        Fault::Access { error: error.context(format!("{}: access denied", self.repo)), hint }
    }

    fn missing(&self, refused: Refused<'_>) -> Fault {
        let Refused { error, endpoint, .. } = refused;
        let what = format!("{}@{}: no `{}`", self.repo, self.revision, self.file);
        let hint = format!("correct {TABLE}: look at {endpoint}/datasets/{}", self.repo);
        Fault::Fatal { error: anyhow!(error).context(what), hint: Some(hint) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table_is_sound() {
        let workspace = Workspace::find(None).unwrap();
        for name in ["wikitext-2-raw-v1", "mmlu", "arc-challenge", "ifeval"] {
            let row = Dataset::find(&workspace, name).unwrap();
            assert!(!row.licence.is_empty(), "{name}");
        }
        let error = Dataset::find(&workspace, "wikitext-3").unwrap_err().to_string();
        assert!(error.contains("expected one of arc-challenge, ifeval, mmlu, wikitext-2-raw-v1"), "{error}");
        let row = Dataset::find(&workspace, "mmlu").unwrap();
        for bad in [
            Dataset { repo: "cais/../mmlu".into(), ..row.clone() },
            Dataset { file: "/etc/passwd".into(), ..row.clone() },
            Dataset { revision: "main".into(), ..row.clone() },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
