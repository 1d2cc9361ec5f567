//! Installs Python packages into venvs of ours, with pip and with uv.
//!
//! **Invariant:** both tools obey the user's settings for where packages come from: mirror, proxy, authority, cache. No other
//! setting reaches them: what is installed, and where, is decided here.

mod settings;

use std::fs;

use anyhow::Context as _;
use camino::{Utf8Path, Utf8PathBuf};
use xshell::Cmd;

use crate::{
    child::{self, cmd, network_cmd},
    token::environment,
    workspace::Workspace,
};

use self::settings::Settings;

/// Where packages come from, for one venv.
pub(crate) struct Packages {
    python: Utf8PathBuf,
    settings: Settings,
    /// For uv, where the person's own cache cannot be made.
    cache: Option<Utf8PathBuf>,
}

impl Packages {
    /// For a venv that has pip.
    pub(crate) fn of(workspace: &Workspace, python: &Utf8Path) -> anyhow::Result<Self> {
        let cache = own_cache().is_none().then(|| workspace.state().join("uv-cache"));
        let settings = Settings::find(&pip_settings(workspace, python)?, &environment)?;
        Ok(Self { python: python.to_owned(), settings, cache })
    }

    /// `pip install` with these arguments.
    pub(crate) fn pip<'a>(&self, shell: &'a xshell::Shell, arguments: &[&str]) -> Cmd<'a> {
        let python = &self.python;
        let command =
            network_cmd!(shell, "{python} -I -m pip install --quiet --disable-pip-version-check --no-input")
                .args(arguments);
        // The null device: no file of settings is read.
        let command = command.env("PIP_CONFIG_FILE", "/dev/null");
        self.settings.pip().into_iter().fold(command, |command, (name, value)| command.env(name, value))
    }

    /// `uv pip install` with these arguments, into the venv.
    ///
    /// Modules are compiled once, here: the worker writes no bytecode, and PyTorch's modules take it ten seconds a start.
    pub(crate) fn uv<'a>(&self, shell: &'a xshell::Shell, arguments: &[&str]) -> Cmd<'a> {
        let python = &self.python;
        let command = network_cmd!(
            shell,
            "{python} -I -m uv pip install --quiet --no-progress --compile-bytecode --python {python}"
        );
        let mut command = command.args(arguments).env("UV_NO_CONFIG", "1");
        if let Some(cache) = &self.cache {
            command = command.env("UV_CACHE_DIR", cache);
        }
        self.settings.uv().into_iter().fold(command, |command, (name, value)| command.env(name, value))
    }

    /// As [`Self::uv`], from one index alone.
    pub(crate) fn uv_from<'a>(&self, shell: &'a xshell::Shell, index: &str, arguments: &[&str]) -> Cmd<'a> {
        let mut command = self.uv(shell, &[&["--default-index", index], arguments].concat());
        for name in settings::OTHER_INDEXES {
            command = command.env_remove(name);
        }
        command
    }
}

/// What pip itself says that it would obey, files and variables merged.
fn pip_settings(workspace: &Workspace, python: &Utf8Path) -> anyhow::Result<String> {
    let shell = child::shell(workspace.root())?;
    let mut command = cmd!(shell, "{python} -I -m pip config list").quiet();
    // Its own variables are what is asked for.
    for (name, value) in std::env::vars().filter(|(name, _)| name.starts_with("PIP_")) {
        command = command.env(name, value);
    }
    command.read().context("pip: its settings cannot be read; run: pip config debug")
}

/// The cache of the person, if there is one or one can be made.
fn own_cache() -> Option<Utf8PathBuf> {
    let set = |name: &str| environment(name).filter(|value| !value.is_empty());
    if let Some(named) = set("UV_CACHE_DIR") {
        return Some(named.into());
    }
    let home = || set("HOME").map(|home| Utf8Path::new(&home).join(".cache"));
    let cache = set("XDG_CACHE_HOME").map(Utf8PathBuf::from).or_else(home)?.join("uv");
    let writable = fs::create_dir_all(&cache).is_ok() && tempfile::tempfile_in(&cache).is_ok();
    writable.then_some(cache)
}
