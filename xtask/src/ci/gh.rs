//! The GitHub CLI as a child process.
//!
//! **Invariant:** a secret reaches `gh` on its standard input only: never an argument, and the hub's token is not in its
//! environment either. What `gh` prints is shown without it.

use anyhow::{Context as _, anyhow, bail};
use serde::de::DeserializeOwned;

use crate::{
    child::github_cmd,
    exit::{Exit, Failure},
    token::Token,
};

/// Older ones lack `gh run download --name` for big artifacts and `gh secret set` from a pipe.
const VERSION_MIN: (u32, u32) = (2, 20);
/// The first with `gh attestation verify`.
pub(super) const VERSION_ATTESTATION: (u32, u32) = (2, 49);
const SHOWN_CHARS_MAX: usize = 600;

/// A `gh` that is there, new enough and logged in.
pub(super) struct Gh {
    shell: xshell::Shell,
    token: Option<Token>,
    pub(super) version: (u32, u32),
}

impl Gh {
    /// Looks for `gh`; changes nothing.
    pub(super) fn find(shell: &xshell::Shell, token: Option<Token>) -> Result<Self, Failure> {
        let install =
            "install the GitHub CLI 2.20 or newer (Debian: apt-get install gh), then: gh auth login";
        let mut gh = Self { shell: shell.clone(), token, version: (0, 0) };
        let output =
            gh.read(&["--version"]).map_err(|failure| Failure::new(Exit::Gh, failure.error, install))?;
        gh.version = version(&output).ok_or_else(|| {
            Failure::new(Exit::Gh, anyhow!("gh: got no version from `gh --version`"), install)
        })?;
        if gh.version < VERSION_MIN {
            let (major, minor) = gh.version;
            let error =
                anyhow!("gh: got version {major}.{minor}, expected {}.{}", VERSION_MIN.0, VERSION_MIN.1);
            return Err(Failure::new(Exit::Gh, error, install));
        }
        // Not `gh auth status`: that fails for a stale login at any other host.
        match gh.read(&["api", "user", "--jq", ".login"]) {
            Err(Failure { code: Exit::GhAccess, error, .. }) => {
                let hint = "run: gh auth login --scopes repo,workflow";
                Err(Failure::new(Exit::GhAccess, error.context("gh is not logged in"), hint))
            }
            Err(failure) => Err(failure),
            Ok(_) => Ok(()),
        }?;
        Ok(gh)
    }

    /// Runs `gh` and returns its standard output.
    pub(super) fn read(&self, arguments: &[&str]) -> Result<String, Failure> {
        self.call(arguments, None)
    }

    /// Runs `gh` with a secret on its standard input.
    pub(super) fn call(&self, arguments: &[&str], stdin: Option<&str>) -> Result<String, Failure> {
        let shell = &self.shell;
        let command = github_cmd!(shell, "gh {arguments...}").quiet().ignore_status();
        // Never a prompt: this may be a script.
        let command = command.env("GH_PROMPT_DISABLED", "1").stdin(stdin.unwrap_or_default());
        let output = command.output().map_err(|error| {
            let hint =
                "install the GitHub CLI 2.20 or newer (Debian: apt-get install gh), then: gh auth login";
            Failure::new(Exit::Gh, anyhow!("gh: cannot be started: {error}"), hint)
        })?;
        if output.status.success() {
            return String::from_utf8(output.stdout)
                .context("gh: its output is not UTF-8")
                .map_err(Failure::from);
        }
        let message = String::from_utf8_lossy(&output.stderr);
        Err(self.refusal(arguments, output.status.code(), &message))
    }

    /// A REST call's answer.
    pub(super) fn api<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let text = self.read(&["api", path])?;
        serde_json::from_str(&text)
            .with_context(|| format!("gh api {path}: not the expected answer"))
            .map_err(Failure::from)
    }

    /// Tells a missing permission from the rest.
    fn refusal(&self, arguments: &[&str], code: Option<i32>, message: &str) -> Failure {
        let message: String = Token::redact(self.token.as_ref(), message)
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(SHOWN_CHARS_MAX)
            .collect();
        let error =
            anyhow!("gh {}: exit code {}: {}", arguments.join(" "), code.unwrap_or(-1), message.trim());
        let any = |marks: &[&str]| marks.iter().any(|mark| message.contains(mark));
        if code == Some(4) || any(&["HTTP 401", "Bad credentials"]) {
            Failure::new(Exit::GhAccess, error, "run: gh auth login --scopes repo,workflow")
        } else if any(&[
            "HTTP 403",
            "HTTP 404",
            "not accessible",
            "admin rights",
            "workflow scope",
            "Could not resolve to a Repository",
        ]) {
            let hint = "the account that `gh` is logged in with needs to see and administer the repository: gh auth refresh --scopes \
                        repo,workflow, or ask its owner";
            Failure::new(Exit::GhAccess, error, hint)
        } else {
            error.into()
        }
    }
}

/// `gh version 2.23.0 (…)`.
fn version(output: &str) -> Option<(u32, u32)> {
    let mut numbers = output.strip_prefix("gh version ")?.split(['.', ' ']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// `owner/name` of a remote's address.
pub(super) fn repository(url: &str) -> anyhow::Result<String> {
    let rest = url.trim().trim_end_matches('/');
    let rest = rest.strip_suffix(".git").unwrap_or(rest);
    let mut parts = rest.rsplit(['/', ':']);
    let (Some(name), Some(owner)) = (parts.next(), parts.next()) else { bail!("origin: got `{rest}`") };
    check_repository(&format!("{owner}/{name}"))
}

/// Refuses what is no `owner/name`: it becomes part of addresses and arguments.
pub(super) fn check_repository(name: &str) -> anyhow::Result<String> {
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with(['-', '.'])
            && part.len() <= 100
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    match name.split_once('/') {
        Some((owner, repo)) if plain(owner) && plain(repo) => Ok(name.to_owned()),
        _ => bail!("repository: got {name:?}, expected OWNER/NAME"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(version("gh version 2.23.0 (2023-02-27 Debian 2.23.0+dfsg1-1)\nhttps://x"), Some((2, 23)));
        assert_eq!(version("gh version 2.100.1"), Some((2, 100)));
        assert_eq!(version("hub version 2"), None);
    }

    #[test]
    fn repositories() {
        for url in [
            "https://github.com/acme/proof.git",
            "git@github.com:acme/proof.git",
            "ssh://git@github.com/acme/proof",
            "https://github.com/acme/proof/",
        ] {
            assert_eq!(repository(url).unwrap(), "acme/proof", "{url}");
        }
        for bad in ["acme", "acme/", "-R/x", "a/b/c", "acme/../x", "acme/pro of", "acme/x?y"] {
            assert!(check_repository(bad).is_err(), "{bad}");
        }
    }
}
