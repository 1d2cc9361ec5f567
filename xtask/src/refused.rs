//! Evidence that was measured and refused: kept beside the manifest, with the bounds that it missed, until a later measurement
//! passes.
//!
//! **Invariant:** it is shown and never believed: no check reads it, no build and no bundle carries it. It belongs to the files
//! that its binding names, and says nothing about others.

use std::io::Write as _;

use anyhow::{Context as _, anyhow};
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{
    check::{Profile, Refusal},
    claim::Claim,
    digest::Digest,
    dir::ModelDir,
    manifest::{Evidence, EvidenceBinding},
    recipe::EvidenceKind,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    atomic_file::{AtomicFile, remove},
    evidence::eq::Transcript,
    published::now,
};

/// Its name, beside `manifest.json` or in the work folder of an export.
pub(crate) const REFUSED_FILE: &str = "refused-evidence.json";
const SCHEMA: u32 = 1;
const BYTES_MAX: u64 = 16 << 20;

/// What was measured, and why it does not count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Refused {
    schema: u32,
    model: String,
    /// The kind of build that it was measured for.
    profile: String,
    /// When it was refused, RFC 3339 in UTC.
    pub(crate) refused: String,
    /// What it was measured on.
    bound: EvidenceBinding,
    /// As in a manifest; a figure that is no number is `null` here.
    evidence: Value,
    /// The word-by-word record of the EQ test.
    transcript: Option<Value>,
    /// Every bound that was missed.
    pub(crate) reasons: Vec<Reason>,
}

/// A bound that was missed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reason {
    /// The check, such as `evidence-parity`.
    pub(crate) check: String,
    pub(crate) location: String,
    pub(crate) got: String,
    pub(crate) expected: String,
}

impl Reason {
    /// Whether it is about this kind of evidence.
    pub(crate) fn is_of(&self, kind: EvidenceKind) -> bool {
        self.check.strip_prefix("evidence-") == Some(kind.as_str())
    }
}

impl Refused {
    /// The evidence that was measured for a claim, and its refusal.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub(crate) fn new(
        claim: &Claim,
        evidence: &Evidence,
        transcript: Option<&[u8]>,
        profile: Profile,
        refusal: &Refusal,
    ) -> anyhow::Result<Self> {
        let reason = |it: &model_assets::check::Finding| Reason {
            check: it.id.clone(),
            location: it.location.clone(),
            got: it.got.clone(),
            expected: it.expected.clone(),
        };
        Ok(Self {
            schema: SCHEMA,
            model: claim.recipe.name.clone(),
            profile: profile.as_str().to_owned(),
            refused: now(),
            bound: binding(claim),
            evidence: serde_json::to_value(evidence)?,
            transcript: transcript.map(serde_json::from_slice).transpose()?,
            reasons: refusal.reasons().map(reason).collect(),
        })
    }

    /// What was measured; `None` when a figure of it is no number.
    pub(crate) fn evidence(&self) -> Option<Evidence> {
        Evidence::deserialize(&self.evidence).ok()
    }

    /// The word-by-word record of the EQ test.
    pub(crate) fn transcript(&self) -> Option<Transcript> {
        Transcript::deserialize(self.transcript.as_ref()?).ok()
    }

    /// Keeps it beside the manifest, with what was refused before of the same files and not measured again.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn keep(mut self, dir: &ModelDir, claim: &Claim) -> anyhow::Result<Utf8PathBuf> {
        if let Some(before) = read(dir, claim) {
            self.complete(before);
        }
        let path = path(dir);
        self.write(&path)?;
        Ok(path)
    }

    fn complete(&mut self, before: Self) {
        let missing = |evidence: &Value, name: &str| evidence.get(name).is_none_or(Value::is_null);
        let mut kinds = EvidenceKind::ALL.to_vec();
        kinds.retain(|kind| missing(&self.evidence, kind.as_str()));
        for kind in kinds {
            if let Some(old) = before.evidence.get(kind.as_str()).filter(|old| !old.is_null()) {
                self.evidence[kind.as_str()] = old.clone();
                self.reasons.extend(before.reasons.iter().filter(|reason| reason.is_of(kind)).cloned());
            }
        }
        self.transcript = self.transcript.take().or(before.transcript);
    }

    /// Writes it, whole.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn write(&self, path: &Utf8Path) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        let mut file = AtomicFile::create(path)?;
        file.write_all(&text).with_context(|| format!("{path}: cannot be written"))?;
        file.put_in_place()
    }
}

fn binding(claim: &Claim) -> EvidenceBinding {
    EvidenceBinding::current(claim.manifest.sha256, claim.bound())
}

fn path(dir: &ModelDir) -> Utf8PathBuf {
    dir.path().join(REFUSED_FILE)
}

/// What was refused of the files of this claim; another file of that name is nothing.
pub(crate) fn read(dir: &ModelDir, claim: &Claim) -> Option<Refused> {
    of_any(dir).filter(|refused| refused.bound == binding(claim))
}

fn of_any(dir: &ModelDir) -> Option<Refused> {
    let bytes = model_assets::regular::read(path(dir), BYTES_MAX).ok()?;
    let refused: Refused = serde_json::from_slice(&bytes).ok()?;
    (refused.schema == SCHEMA).then_some(refused)
}

/// Forgets what was refused of another `.pte` than the one that is published now.
///
/// # Errors
/// The file cannot be removed.
pub(crate) fn forget_others(dir: &ModelDir, published: Digest) -> anyhow::Result<()> {
    if of_any(dir).is_some_and(|refused| refused.bound.pte == published) {
        return Ok(());
    }
    remove(&path(dir))
}

/// Forgets what was refused, once all of it was measured again and passed; of other files, too.
///
/// # Errors
/// The file cannot be removed.
pub(crate) fn forget(dir: &ModelDir, proved: &Claim) -> anyhow::Result<()> {
    if let Some(refused) = read(dir, proved) {
        let passed = |kind| proved.manifest.evidence.as_ref().is_some_and(|evidence| evidence.has(kind));
        let open =
            |kind: EvidenceKind| refused.reasons.iter().any(|reason| reason.is_of(kind)) && !passed(kind);
        if EvidenceKind::ALL.into_iter().any(open) {
            return Ok(());
        }
    }
    remove(&path(dir))
}

/// The error of an export whose figures were refused: they are kept in its work folder.
pub(crate) fn of_export(work: &Utf8Path, claim: &Claim, refusal: Refusal) -> anyhow::Error {
    let Some(evidence) = &claim.manifest.evidence else { return refusal.into() };
    let path = work.join(REFUSED_FILE);
    let kept = Refused::new(claim, evidence, None, Profile::Dev, &refusal).and_then(|it| it.write(&path));
    match kept {
        Ok(()) => anyhow!(refusal).context(format!("{path}: measured, refused")),
        Err(error) => {
            anyhow!(refusal).context(format!("{path}: the measurement could not be kept: {error:#}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use model_assets::check::{Finding, Severity};

    use super::*;

    fn claim() -> (tempfile::TempDir, ModelDir, Claim) {
        let real = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../model-assets/models");
        let (claim, _) = ModelDir::new(&real, "tiny").open().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let dir = ModelDir::new(Utf8Path::from_path(folder.path()).unwrap(), "tiny");
        fs::create_dir(dir.path()).unwrap();
        (folder, dir, claim)
    }

    fn refused(claim: &Claim, kind: &str, evidence: &Evidence) -> Refused {
        let finding = Finding {
            id: format!("evidence-{kind}"),
            severity: Severity::Reject,
            location: "memory".into(),
            got: "peak 9 bytes".into(),
            expected: "at most 8".into(),
        };
        let refusal = Refusal {
            model: "tiny".into(),
            findings: vec![finding],
            hint: String::new(),
            checks: Vec::new(),
        };
        Refused::new(claim, evidence, None, Profile::Release, &refusal).unwrap()
    }

    #[test]
    fn what_was_refused_is_kept_until_all_of_it_passed() {
        let (_folder, dir, claim) = claim();
        let evidence = claim.manifest.evidence.clone().unwrap();
        let bare = Evidence::none(binding(&claim));
        let benchmark = Evidence { benchmark: evidence.benchmark.clone(), ..bare.clone() };
        refused(&claim, "benchmark", &benchmark).keep(&dir, &claim).unwrap();
        // Another kind fails later: the first one is not forgotten.
        let load = Evidence { load: evidence.load.clone(), ..bare.clone() };
        refused(&claim, "load", &load).keep(&dir, &claim).unwrap();
        let kept = read(&dir, &claim).unwrap();
        let both = kept.evidence().unwrap();
        assert_eq!((both.load, both.benchmark), (evidence.load.clone(), evidence.benchmark.clone()));
        assert_eq!(kept.reasons.len(), 2);
        let mut proved = claim.clone();
        proved.manifest.evidence = Some(load);
        forget(&dir, &proved).unwrap();
        assert!(read(&dir, &claim).is_some(), "the benchmark is still open");
        forget(&dir, &claim).unwrap();
        assert!(!path(&dir).exists());
    }

    #[test]
    fn of_other_files_it_says_nothing() {
        let (_folder, dir, claim) = claim();
        let evidence = claim.manifest.evidence.clone().unwrap();
        refused(&claim, "load", &evidence).keep(&dir, &claim).unwrap();
        let mut other = claim.clone();
        other.manifest.sha256 = Digest::of(b"other");
        assert!(read(&dir, &other).is_none());
        forget_others(&dir, claim.manifest.sha256).unwrap();
        assert!(read(&dir, &claim).is_some());
        forget_others(&dir, other.manifest.sha256).unwrap();
        assert!(!path(&dir).exists());
        fs::write(path(&dir), "{").unwrap();
        assert!(read(&dir, &claim).is_none());
    }

    #[test]
    fn a_figure_that_is_no_number_is_kept_as_none() {
        let (_folder, dir, claim) = claim();
        let mut evidence = claim.manifest.evidence.clone().unwrap();
        evidence.load.as_mut().unwrap().load_ms = f64::NAN;
        refused(&claim, "load", &evidence).keep(&dir, &claim).unwrap();
        let kept = read(&dir, &claim).unwrap();
        assert_eq!(kept.evidence(), None);
        assert_eq!(kept.reasons[0].got, "peak 9 bytes");
    }
}
