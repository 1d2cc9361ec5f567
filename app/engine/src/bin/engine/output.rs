//! What leaves the process: results, errors, and files that appear whole or not at all.

use std::fs::{self, File};
use std::io::Write;

use camino::Utf8Path;
use serde::Serialize;

use crate::exit;

/// A reason to end, with its exit code.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) code: u8,
    pub(crate) message: String,
    pub(crate) hint: Option<&'static str>,
}

impl Failed {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    /// An error of the engine about `what`, which may be empty.
    pub(crate) fn from_engine(code: u8, what: &str, error: engine::Error) -> Self {
        let hint = error.hint();
        // Errors about files already name the file.
        let message = match &error {
            engine::Error::Io { .. } | engine::Error::Range { .. } => error.to_string(),
            _ if what.is_empty() => error.to_string(),
            _ => format!("{what}: {error}"),
        };
        Self { code, message, hint }
    }

    pub(crate) fn model(path: &Utf8Path) -> impl FnOnce(engine::Error) -> Self {
        move |error| Self::from_engine(exit::MODEL, path.as_str(), error)
    }

    pub(crate) fn run(path: &Utf8Path) -> impl Fn(engine::Error) -> Self {
        move |error| Self::from_engine(exit::RUN, path.as_str(), error)
    }
}

pub(crate) fn print(text: &str) -> Result<(), Failed> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|e| Failed::new(exit::OUTPUT, format!("standard output: {e}")))
}

pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failed> {
    let text = serde_json::to_string(value).map_err(|e| Failed::new(exit::OUTPUT, e.to_string()))?;
    print(&(text + "\n"))
}

/// Writes JSON beside its final name, syncs it and renames it into place: a reader sees the old file or the
/// whole new one.
pub(crate) fn write_json(path: &Utf8Path, value: &impl Serialize) -> Result<(), Failed> {
    let failed = |e: std::io::Error| Failed::new(exit::OUTPUT, format!("{path}: {e}"));
    let name =
        path.file_name().ok_or_else(|| Failed::new(exit::OUTPUT, format!("{path}: expected a file name")))?;
    let mut text = serde_json::to_vec_pretty(value).map_err(|e| Failed::new(exit::OUTPUT, e.to_string()))?;
    text.push(b'\n');
    let folder = path.parent().filter(|folder| !folder.as_str().is_empty()).unwrap_or(Utf8Path::new("."));
    let temporary = folder.join(format!(".{name}.{}.tmp", std::process::id()));
    let written = File::create(&temporary)
        .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = written {
        // The error to report is the first one.
        let _ = fs::remove_file(&temporary);
        return Err(failed(error));
    }
    // So that the rename survives a power cut too.
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}
