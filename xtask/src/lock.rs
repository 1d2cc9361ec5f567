//! Lock files: one command at a time works on a model, on a fetch or on the caches.

use std::{fs, time::Duration};

use anyhow::{Context as _, anyhow};
use camino::Utf8Path;

use crate::{
    exit::{Exit, Failure},
    supervise,
    workspace::Workspace,
};

const POLL: Duration = Duration::from_millis(200);

/// Takes a lock file for as long as the answer lives; `None` while another process has it.
pub(crate) fn try_file(path: &Utf8Path) -> anyhow::Result<Option<fs::File>> {
    let file = fs::File::create(path).with_context(|| format!("{path}: cannot be made"))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("{path}: cannot be locked"))
        }
    }
}

/// The lock of a model; fails while another command exports, fetches or signs it.
pub(crate) fn model(workspace: &Workspace, name: &str) -> Result<fs::File, Failure> {
    fs::create_dir_all(workspace.locks())?;
    let path = workspace.locks().join(name);
    try_file(&path)?.ok_or_else(|| {
        let error = anyhow!("{path}: another export or fetch of `{name}` is running");
        Failure::new(Exit::Export, error, "wait for it")
    })
}

/// As [`model`], but waits: a measurement of minutes is not thrown away for the seconds of a publish.
pub(crate) fn model_when_free(workspace: &Workspace, name: &str) -> Result<fs::File, Failure> {
    fs::create_dir_all(workspace.locks())?;
    let path = workspace.locks().join(name);
    let mut announced = false;
    loop {
        if let Some(lock) = try_file(&path)? {
            return Ok(lock);
        }
        if supervise::interrupted() {
            let error = anyhow!("{path}: another command still has `{name}`");
            let hint = "nothing was recorded; run the same command again";
            return Err(Failure::new(Exit::Interrupted, error, hint));
        }
        if !std::mem::replace(&mut announced, true) {
            eprintln!("waiting for another export or fetch of `{name}`");
        }
        std::thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_waited_for_where_work_would_be_lost() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::find(Utf8Path::from_path(folder.path())).unwrap();
        let held = model(&workspace, "tiny").unwrap();
        let refused = model(&workspace, "tiny").unwrap_err();
        assert!(refused.error.to_string().contains("another export or fetch"));
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| model_when_free(&workspace, "tiny").map(|_| ()));
            std::thread::sleep(POLL * 2);
            assert!(!waits.is_finished(), "held by another");
            drop(held);
            assert!(waits.join().unwrap().is_ok());
        });
    }
}
