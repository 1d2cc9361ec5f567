//! Why an export, or a part of it, failed: because of its inputs, or because of the machine.
//!
//! **Invariant:** [`cause`] is the one place that decides. What was refused because of what it is will be refused again; only what
//! the machine did can go otherwise the next time.

use std::{fmt, fs, io};

use anyhow::{Context as _, bail};
use camino::Utf8Path;
use serde::{Deserialize, de::DeserializeOwned};

use crate::supervise::WorkerRun;

/// What caused a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Recipe, policy, checkpoint, worker, runtime: the same again fails the same.
    Inputs,
    /// A crash, a kill for memory, a stall, a full disk: another attempt may succeed.
    Machine,
}

/// A child process that did not do its work.
#[derive(Debug)]
pub(crate) struct Failed {
    cause: Cause,
    message: String,
}

impl Failed {
    pub(crate) fn new(cause: Cause, message: String) -> Self {
        Self { cause, message }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failed {}

/// Error kinds of the worker (`worker.py`) that the machine caused; the inputs caused any other.
const MACHINE_KINDS: [&str; 4] = ["memory", "disk", "io", "internal"];

/// Errors of files that another attempt meets again.
const LASTING: [io::ErrorKind; 8] = [
    io::ErrorKind::NotFound,
    io::ErrorKind::PermissionDenied,
    io::ErrorKind::AlreadyExists,
    io::ErrorKind::InvalidInput,
    io::ErrorKind::InvalidData,
    io::ErrorKind::UnexpectedEof,
    io::ErrorKind::NotADirectory,
    io::ErrorKind::IsADirectory,
];

/// Whether inputs or machine caused the failure. Findings, refusals and everything else without a mark of the machine count as
/// inputs.
pub(crate) fn cause(error: &anyhow::Error) -> Cause {
    for link in error.chain() {
        if let Some(failed) = link.downcast_ref::<Failed>() {
            return failed.cause;
        }
        if let Some(io) = link.downcast_ref::<io::Error>() {
            return if LASTING.contains(&io.kind()) { Cause::Inputs } else { Cause::Machine };
        }
    }
    Cause::Inputs
}

/// What the worker answered in `response`.
///
/// # Errors
/// [`Failed`]: it was killed, died, or said that it failed.
pub(crate) fn answer<T: DeserializeOwned>(response: &Utf8Path, run: &WorkerRun) -> anyhow::Result<T> {
    #[derive(Deserialize)]
    struct Head {
        ok: bool,
        kind: Option<String>,
        error: Option<String>,
        hint: Option<String>,
    }
    let (stage, peak) = (&run.stage, run.peaks.rss_bytes);
    let machine = |message| bail!(Failed::new(Cause::Machine, message));
    if let Some(reason) = &run.killed {
        return machine(format!("stage `{stage}`: the worker {reason} (peak {peak} bytes)"));
    }
    let Ok(bytes) = fs::read(response) else {
        let tail = run.tail.join("\n");
        return machine(format!(
            "stage `{stage}`: the worker died without an answer (peak {peak} bytes):\n{tail}"
        ));
    };
    let value: serde_json::Value = serde_json::from_slice(&bytes).with_context(|| response.to_string())?;
    let Head { ok, kind, error, hint } = Head::deserialize(&value).with_context(|| response.to_string())?;
    if ok && run.ok {
        return T::deserialize(value).with_context(|| response.to_string());
    }
    let of_machine = kind.is_none_or(|kind| MACHINE_KINDS.contains(&kind.as_str()));
    let error = error.unwrap_or_else(|| "the worker failed".into());
    let hint = hint.map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
    let message = format!("stage `{stage}`: {error}{hint} (peak {peak} bytes)");
    bail!(Failed::new(if of_machine { Cause::Machine } else { Cause::Inputs }, message))
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;
    use camino::Utf8PathBuf;
    use model_assets::check::Refusal;

    use super::*;
    use crate::supervise::Peaks;

    fn run(ok: bool, killed: Option<&str>) -> WorkerRun {
        let peaks = Peaks { rss_bytes: 5, anon_bytes: 5 };
        let killed = killed.map(str::to_owned);
        WorkerRun { ok, killed, stage: "quantize".into(), peaks, tail: vec!["the last line".into()] }
    }

    /// What comes of an answer, and whose fault it is.
    fn judged(content: Option<&str>, run: &WorkerRun) -> (String, Cause) {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::try_from(folder.path().join("response.json")).unwrap();
        content.iter().for_each(|content| fs::write(&path, content).unwrap());
        let error = answer::<serde_json::Value>(&path, run).unwrap_err();
        (format!("{error:#}"), cause(&error.context("around it")))
    }

    #[test]
    fn what_the_worker_names_decides() {
        let said = |kind: &str| format!(r#"{{"ok":false,"kind":"{kind}","error":"E","hint":"H"}}"#);
        // Every kind that the worker's sources name.
        for kind in
            ["request", "config", "weights", "delegate", "size", "format", "upstream", "gguf", "texts"]
        {
            let (text, cause) = judged(Some(&said(kind)), &run(false, None));
            assert_eq!(
                (text.as_str(), cause),
                ("stage `quantize`: E (hint: H) (peak 5 bytes)", Cause::Inputs)
            );
        }
        for kind in MACHINE_KINDS {
            assert_eq!(judged(Some(&said(kind)), &run(false, None)).1, Cause::Machine, "{kind}");
        }
    }

    #[test]
    fn a_crash_a_kill_and_a_stall_are_the_machines() {
        let (text, cause) = judged(None, &run(false, None));
        assert!(text.contains("died without an answer") && text.contains("the last line"), "{text}");
        assert_eq!(cause, Cause::Machine);
        for reason in
            ["used 9 bytes of anonymous memory, expected at most 8", "stalled: no output and no work for 3 s"]
        {
            let (text, cause) = judged(Some(r#"{"ok":true}"#), &run(false, Some(reason)));
            assert!(text.contains(reason) && cause == Cause::Machine, "{text}");
        }
        // It said that all is well, and then did not end so.
        assert_eq!(judged(Some(r#"{"ok":true}"#), &run(false, None)).1, Cause::Machine);
    }

    #[test]
    fn findings_and_refusals_are_of_the_inputs_and_a_full_disk_is_not() {
        let refusal =
            Refusal { model: "tiny".into(), findings: Vec::new(), hint: String::new(), checks: Vec::new() };
        for error in [anyhow::Error::new(refusal), anyhow!("model.pte: 3 findings reject the file")] {
            assert_eq!(cause(&error), Cause::Inputs, "{error:#}");
        }
        let io = |kind| {
            cause(&anyhow::Error::new(io::Error::from(kind)).context("manifest.json: cannot be written"))
        };
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded, io::ErrorKind::OutOfMemory] {
            assert_eq!(io(kind), Cause::Machine, "{kind}");
        }
        for kind in LASTING {
            assert_eq!(io(kind), Cause::Inputs, "{kind}");
        }
    }
}
