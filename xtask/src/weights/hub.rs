//! What the hub's answers mean, and where its files are.

use anyhow::anyhow;
use ureq::http::{HeaderMap, StatusCode, Uri};

use crate::http::{
    client::{Refused, Site, text},
    endpoint::Endpoint,
    fault::Fault,
};

/// A repository at a revision.
#[derive(Debug, Clone)]
pub(super) struct Hub {
    pub(super) repo: String,
    pub(super) revision: String,
}

impl Hub {
    /// The address of a file.
    pub(super) fn file_url(&self, endpoint: &Endpoint, name: &str) -> anyhow::Result<Uri> {
        endpoint.url(&format!("{}/resolve/{}/{name}", self.repo, self.revision))
    }

    /// The address of what the hub says of the repository.
    pub(super) fn card_url(&self, endpoint: &Endpoint) -> anyhow::Result<Uri> {
        endpoint.url(&format!("api/models/{}/revision/{}", self.repo, self.revision))
    }

    /// The address of the first page of the list of files.
    pub(super) fn tree_url(&self, endpoint: &Endpoint) -> anyhow::Result<Uri> {
        endpoint.url(&format!("api/models/{}/tree/{}", self.repo, self.revision))
    }
}

impl Site for Hub {
    /// A mirror that follows a branch must not answer for a commit.
    fn check(&self, headers: &HeaderMap) -> Result<(), String> {
        match text(headers, "x-repo-commit") {
            Some(commit) if commit != self.revision => {
                Err(format!("{}: got commit `{commit}`, expected {}", self.repo, self.revision))
            }
            _ => Ok(()),
        }
    }

    /// Says exactly what to accept or set.
    fn no_access(&self, refused: Refused<'_>) -> Fault {
        let Refused { error, status, code, endpoint, token } = refused;
        let (repo, page) = (&self.repo, format!("{endpoint}/{}", self.repo));
        let settings = format!("{endpoint}/settings/tokens");
        let gated = code == "GatedRepo" || status == StatusCode::FORBIDDEN;
        let hint = match token {
            None if gated => format!(
                "the model is gated: accept its licence at {page}, make a read token at {settings}, then: export HF_TOKEN=..."
            ),
            None => format!("make a read token at {settings}, then: export HF_TOKEN=..."),
            Some(token) if gated => format!(
                "the token from {} is known, but its account has no access: accept the licence at {page} and wait for the \
                 grant; a fine-grained token also needs `Read access to contents of all public gated repos`",
                token.origin()
            ),
            Some(token) => format!(
                "the token from {} is not valid or has expired: make a read token at {settings}",
                token.origin()
            ),
        };
        Fault::Access { error: error.context(format!("{repo}: access denied")), hint }
    }

    fn missing(&self, refused: Refused<'_>) -> Fault {
        let Refused { error, code, endpoint, .. } = refused;
        let repo = &self.repo;
        let what = match code {
            "RevisionNotFound" => format!("revision {} does not exist", self.revision),
            "EntryNotFound" => "the file does not exist at this revision".to_owned(),
            _ => "no such repository, file or revision; a private one looks the same without a token"
                .to_owned(),
        };
        let hint = format!("correct `source` in recipe.toml: look at {endpoint}/{repo}");
        Fault::Fatal { error: anyhow!(error).context(format!("{repo}: {what}")), hint: Some(hint) }
    }
}
