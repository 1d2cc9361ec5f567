//! A published model, opened once: its directory, what is claimed about it, and the one read of its `.pte`.
//!
//! **Invariant:** a command reads the `.pte` of a published model once, however often it judges what is claimed of it.

use std::{fs::File, sync::atomic::Ordering, time::SystemTime};

use anyhow::{Context as _, anyhow};
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{
    check::{Expectation, Profile, Proved, Validated, prove},
    claim::Claim,
    digest::Digest,
    dir::{ClaimFiles, ModelDir},
    regular,
};

use crate::{
    exit::{Exit, Failure, refused},
    supervise,
    workspace::Workspace,
};

/// A published model, or a rehearsal of one.
pub(crate) struct Published {
    pub(crate) dir: ModelDir,
    pub(crate) claim: Claim,
    pub(crate) files: ClaimFiles,
}

/// A `.pte` that was read, and is open.
pub(crate) struct Proof {
    path: Utf8PathBuf,
    proved: Proved<File>,
    before: (u64, SystemTime),
}

impl Published {
    /// Reads what is claimed about a model.
    pub(crate) fn open(workspace: &Workspace, model: &str, rehearsed: bool) -> Result<Self, Failure> {
        let models = if rehearsed { workspace.rehearsals() } else { workspace.models() };
        Self::read(ModelDir::new(models, model))
    }

    /// As [`Self::open`], of a directory.
    pub(crate) fn read(dir: ModelDir) -> Result<Self, Failure> {
        let (claim, files) = dir.open().map_err(refused)?;
        Ok(Self { dir, claim, files })
    }

    /// The same without evidence, for a command that measures: only the bytes are judged.
    pub(crate) fn without_evidence(mut self) -> Self {
        self.claim.manifest.evidence = None;
        self
    }

    /// Reads the `.pte`.
    pub(crate) fn prove(&self) -> Result<Proof, Failure> {
        let (path, pte) = self.dir.open_pte(&self.claim.manifest).map_err(refused)?;
        Ok(Proof::of(path, pte, &Expectation::claimed(&self.claim))?)
    }

    /// The eager model's values that the manifest names, digest checked.
    pub(crate) fn reference(&self) -> Result<Utf8PathBuf, Failure> {
        let record = &self.claim.manifest.reference;
        let path = self.dir.resolve(&record.name, record.sha256);
        let hint = format!("run: cargo xtask export {} --force", self.dir.name());
        let mut file = regular::open(&path)
            .with_context(|| format!("{path}: cannot be opened, expected the reference logits"))
            .map_err(|error| Failure::new(Exit::Refused, error, hint.clone()))?;
        let got = Digest::of_reader(&mut file)?;
        if got == record.sha256 {
            return Ok(path);
        }
        let error = anyhow!("{path}: got sha256 {got}, expected {}", record.sha256);
        Err(Failure::new(Exit::Refused, error, hint))
    }
}

impl Proof {
    /// Reads an open file.
    pub(crate) fn of(path: Utf8PathBuf, pte: File, expectation: &Expectation) -> anyhow::Result<Self> {
        let before = regular::stamp(&pte)?;
        Ok(Self { path, proved: prove(pte, expectation), before })
    }

    /// Where the file is.
    pub(crate) fn path(&self) -> &Utf8Path {
        &self.path
    }

    /// Judges a claim about the bytes that were read.
    pub(crate) fn judge(&self, claim: &Claim, profile: Profile) -> Result<Validated<&File>, Failure> {
        self.proved().judge(claim, profile).map_err(refused)
    }

    /// The bytes that were read.
    pub(crate) fn proved(&self) -> &Proved<File> {
        &self.proved
    }

    /// Refuses a file that was written to since it was read: a measurement of minutes lies between.
    pub(crate) fn ensure_unchanged(&self) -> Result<(), Failure> {
        if regular::stamp(self.proved.source())? == self.before {
            return Ok(());
        }
        let error = anyhow!("{}: got a file that changes, expected one that nobody writes to", self.path);
        Err(Failure::new(Exit::Refused, error, "run the same command again"))
    }
}

/// This moment, RFC 3339 in UTC.
pub(crate) fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// A measurement that did not come to its end.
pub(crate) fn failed(dir: &ModelDir, error: anyhow::Error) -> Failure {
    if supervise::INTERRUPTED.load(Ordering::Relaxed) {
        return Failure::new(Exit::Interrupted, error, "nothing was recorded; run the same command again");
    }
    Failure::new(Exit::Refused, error, format!("run: cargo xtask export {} --force", dir.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that this thread read so far, from files or from the page cache.
    #[cfg(target_os = "linux")]
    fn bytes_read() -> u64 {
        let io = std::fs::read_to_string("/proc/thread-self/io").unwrap();
        io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_published_model_is_read_once_and_judged_often() {
        let models = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../model-assets/models");
        let model = Published::read(ModelDir::new(models, "tiny")).expect("run: cargo xtask export");
        let before = bytes_read();
        let proof = model.prove().unwrap();
        let once = bytes_read() - before;
        // The structure is read twice, the weights once.
        let size = model.claim.manifest.file_bytes;
        assert!((size..size * 2).contains(&once), "{once} bytes of {size}");
        let before = bytes_read();
        for _ in 0..5 {
            proof.judge(&model.claim, Profile::Dev).unwrap();
        }
        proof.ensure_unchanged().unwrap();
        // What `bytes_read` itself reads.
        assert!(bytes_read() - before < 4096);
    }

    #[test]
    fn a_file_that_was_written_to_since_is_refused() {
        let (folder, model) = (tempfile::tempdir().unwrap(), "model.pte");
        let path = Utf8Path::from_path(folder.path()).unwrap().join(model);
        std::fs::write(&path, b"not a model").unwrap();
        let recipe = include_str!("../../model-assets/models/tiny/recipe.toml");
        let recipe = model_assets::recipe::Recipe::parse(recipe).unwrap();
        let pte = File::open(&path).unwrap();
        let proof = Proof::of(path.clone(), pte, &Expectation::made_by(&recipe)).unwrap();
        proof.ensure_unchanged().unwrap();
        std::fs::write(&path, b"not a model either").unwrap();
        let failure = proof.ensure_unchanged().unwrap_err();
        assert!(failure.error.to_string().contains("got a file that changes"));
    }
}
