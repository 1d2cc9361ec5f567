//! Starts child processes; no other file does.
//!
//! **Invariant:** a child gets no secret that it does not need, and no variable that points it at another repository or at
//! other packages. Compilers, linkers and the runtime that parses a model need no secret.

use std::{ffi::OsStr, process::Command};

use anyhow::Context as _;
use camino::{Utf8Path, Utf8PathBuf};

use crate::{token::TOKEN_VARIABLES, workspace::Workspace};

/// Names a signing key: see `sign`.
pub(crate) const SIGNING_KEY: &str = "PROOFMARK_SIGNING_KEY";

/// Ends of words in a name that say that its value is secret.
const SECRET_WORDS: [&str; 11] = [
    "TOKEN",
    "TOKENS",
    "SECRET",
    "SECRETS",
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "CREDENTIAL",
    "CREDENTIALS",
    "COOKIE",
    "APIKEY",
];
/// Ends of such names.
const SECRET_ENDS: [&str; 4] = ["_KEY", "_KEYS", "_PAT", "_AUTH"];
/// Secrets that the GitHub CLI reads.
const GITHUB: [&str; 4] = ["GH_TOKEN", "GITHUB_TOKEN", "GH_ENTERPRISE_TOKEN", "GITHUB_ENTERPRISE_TOKEN"];

/// What git itself lists as local to a repository (`git rev-parse --local-env-vars`), and where it stops looking for one. A hook
/// that runs this program sets them.
const GIT: [&str; 17] = [
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_CEILING_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_CONFIG",
    "GIT_CONFIG_COUNT",
    "GIT_CONFIG_PARAMETERS",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_INTERNAL_SUPER_PREFIX",
    "GIT_NAMESPACE",
    "GIT_NO_REPLACE_OBJECTS",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_REPLACE_REF_BASE",
    "GIT_WORK_TREE",
];

/// What a child may need of the environment beyond what everybody gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// It works on files.
    Nothing,
    /// It speaks to a network, and so to its proxies, whose addresses may hold a password.
    Network,
    /// The GitHub CLI: the network, and a token of its own.
    GitHub,
}

impl Needs {
    /// Whether a child that needs this may see a variable.
    fn admit(self, name: &str) -> bool {
        let upper = name.to_ascii_uppercase();
        if GIT.contains(&upper.as_str()) || is_python(&upper) || is_packages(&upper) {
            return false;
        }
        if GITHUB.contains(&upper.as_str()) {
            return self == Self::GitHub;
        }
        if upper.ends_with("_PROXY") {
            return self != Self::Nothing;
        }
        !is_secret(&upper)
    }
}

fn is_secret(upper: &str) -> bool {
    upper == SIGNING_KEY
        || TOKEN_VARIABLES.contains(&upper)
        || upper.split('_').any(|word| SECRET_WORDS.iter().any(|end| word.ends_with(end)))
        || SECRET_ENDS.iter().any(|end| upper.ends_with(end))
}

/// What changes which modules a Python finds: each of ours has its own.
fn is_python(upper: &str) -> bool {
    ["PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONUSERBASE", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"]
        .contains(&upper)
}

/// Settings of pip and uv: `packages` hands on those that say where packages are, and no others.
fn is_packages(upper: &str) -> bool {
    upper.starts_with("PIP_") || upper.starts_with("UV_")
}

/// The variables of this process that a child must not see.
fn hidden(needs: Needs) -> impl Iterator<Item = std::ffi::OsString> {
    std::env::vars_os().map(|(name, _)| name).filter(move |name| !needs.admit(&name.to_string_lossy()))
}

/// A child that works on files.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    with(program, Needs::Nothing)
}

/// A child with these needs.
pub(crate) fn with(program: impl AsRef<OsStr>, needs: Needs) -> Command {
    let mut command = Command::new(program);
    for name in hidden(needs) {
        command.env_remove(name);
    }
    command
}

/// As [`command`], for a child whose output is read while it runs.
pub(crate) fn expression(program: &Utf8Path, arguments: &[&str]) -> duct::Expression {
    let expression = duct::cmd(program.as_str(), arguments);
    hidden(Needs::Nothing).fold(expression, |expression, name| expression.env_remove(name))
}

/// Cargo, the one that runs this program if one does: it may have to fetch a crate.
pub(crate) fn cargo() -> Command {
    with(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), Needs::Network)
}

/// Where cargo puts what it builds: a variable or a person's settings may name another folder than the work tree's own.
pub(crate) fn target_folder(workspace: &Workspace) -> anyhow::Result<Utf8PathBuf> {
    let arguments = ["metadata", "--no-deps", "--offline", "--format-version", "1"];
    let output =
        cargo().args(arguments).current_dir(workspace.root()).output().context("cargo cannot be started")?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim_end()))?;
    let folder = metadata.get("target_directory").and_then(serde_json::Value::as_str);
    Ok(folder.context("cargo names no target folder")?.into())
}

/// A shell for [`cmd!`] and [`network_cmd!`] in a folder.
pub(crate) fn shell(folder: &Utf8Path) -> anyhow::Result<xshell::Shell> {
    let shell = xshell::Shell::new()?;
    shell.change_dir(folder);
    Ok(shell)
}

/// A command line without the variables that a child with these needs must not see.
pub(crate) fn clean(mut command: xshell::Cmd<'_>, needs: Needs) -> xshell::Cmd<'_> {
    for name in hidden(needs) {
        command = command.env_remove(name);
    }
    command
}

/// As `xshell::cmd!`, for a child that works on files.
macro_rules! cmd {
    ($shell:expr, $line:literal) => {
        $crate::child::clean(::xshell::cmd!($shell, $line), $crate::child::Needs::Nothing)
    };
}

/// As [`cmd!`], for a child that speaks to a network: cargo may have to fetch a crate.
macro_rules! network_cmd {
    ($shell:expr, $line:literal) => {
        $crate::child::clean(::xshell::cmd!($shell, $line), $crate::child::Needs::Network)
    };
}

/// As [`cmd!`], for the GitHub CLI.
macro_rules! github_cmd {
    ($shell:expr, $line:literal) => {
        $crate::child::clean(::xshell::cmd!($shell, $line), $crate::child::Needs::GitHub)
    };
}

pub(crate) use {cmd, github_cmd, network_cmd};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_reaches_who_needs_it_and_nobody_else() {
        for (name, nothing, network, github) in [
            ("PATH", true, true, true),
            ("HOME", true, true, true),
            ("CARGO_TARGET_DIR", true, true, true),
            ("SSH_AUTH_SOCK", true, true, true),
            ("PROOFMARK_MODEL", true, true, true),
            ("TOKENIZERS_PARALLELISM", true, true, true),
            ("MYTOKEN", false, false, false),
            ("HF_TOKEN", false, false, false),
            ("HUGGING_FACE_HUB_TOKEN", false, false, false),
            ("hf_token", false, false, false),
            ("PROOFMARK_SIGNING_KEY", false, false, false),
            ("CARGO_REGISTRY_TOKEN", false, false, false),
            ("AWS_SECRET_ACCESS_KEY", false, false, false),
            ("ACTIONS_ID_TOKEN_REQUEST_URL", false, false, false),
            ("OPENAI_API_KEY", false, false, false),
            ("DB_PASSWORD", false, false, false),
            ("GITHUB_TOKEN", false, false, true),
            ("GH_TOKEN", false, false, true),
            ("HTTPS_PROXY", false, true, true),
            ("http_proxy", false, true, true),
            ("NO_PROXY", false, true, true),
            ("PIP_INDEX_URL", false, false, false),
            ("UV_INDEX_URL", false, false, false),
            ("PYTHONPATH", false, false, false),
            ("GIT_DIR", false, false, false),
            ("GIT_AUTHOR_NAME", true, true, true),
        ] {
            let got = [Needs::Nothing, Needs::Network, Needs::GitHub].map(|needs| needs.admit(name));
            assert_eq!(got, [nothing, network, github], "{name}");
        }
    }

    /// The one place where a child is made is this file.
    #[test]
    fn nobody_else_starts_a_child() {
        let sources = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut seen = 0;
        for entry in walkdir::WalkDir::new(&sources).into_iter().map(Result::unwrap) {
            let path = Utf8Path::from_path(entry.path()).unwrap();
            let tests =
                path.as_str().ends_with("tests.rs") || path.components().any(|part| part.as_str() == "tests");
            if path.extension() != Some("rs") || tests || path.ends_with("src/child.rs") {
                continue;
            }
            seen += 1;
            let text = std::fs::read_to_string(path).unwrap();
            let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            for maker in ["Command::new(", "xshell::cmd!", "Shell::new(", "duct::cmd", "duct::sh", ".exec()"]
            {
                assert!(!product.contains(maker), "{path}: {maker} makes a child: use crate::child");
            }
        }
        assert!(seen > 80, "got {seen} files");
    }
}
