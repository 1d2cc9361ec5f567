//! Measures evidence, kind by kind: what `verify` records, `bench` and `eval` show, and an export begins with.
//!
//! **Invariant:** nothing is judged here. What was measured goes into a claim, and `check::validate` decides.

pub(crate) mod eager;

use std::fs;

use anyhow::Context as _;
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{
    claim::Claim,
    dir::ModelDir,
    evidence::{Evidence, EvidenceBinding, EvidenceKind},
    manifest::{SourceRecord, Stage},
    recipe::Recipe,
};

use crate::{
    console::Console,
    engine::{Checked, Engine, Files, Profile},
    workspace::Workspace,
};

pub(crate) use self::eager::Checkpoint;
use self::eager::{EagerRun, Replies};

macro_rules! measurers {
    ($($(#[$about:meta])* $kind:ident { $(#[$field:meta])* $name:ident: $record:ty })*) => {
        $(pub(crate) mod $name;)*

        fn measurer(kind: EvidenceKind) -> &'static Measurer {
            match kind {
                $(EvidenceKind::$kind => &$name::MEASURER,)*
            }
        }
    };
}

// One module per kind: the table has the names.
model_assets::evidence_kinds!(measurers);

/// How a kind is measured.
pub(crate) struct Measurer {
    /// What the eager model is asked. All kinds share one process: half of its time is start and quantization.
    ask: fn(&Bench<'_>) -> anyhow::Result<Vec<EagerRun>>,
    /// Puts the figures into the evidence.
    measure: fn(&Round<'_>, &mut Measured) -> anyhow::Result<()>,
}

/// What the measurements of one command share.
pub(crate) struct Round<'a> {
    bench: &'a Bench<'a>,
    /// The eager model's values, recorded by the export.
    reference: &'a Utf8Path,
    checkpoint: &'a Checkpoint,
    /// What the eager model answered.
    eager: Replies,
}

/// For a kind that asks the eager model nothing.
fn no_questions(_: &Bench<'_>) -> anyhow::Result<Vec<EagerRun>> {
    Ok(Vec::new())
}

/// A model to be measured.
pub(crate) struct Bench<'a> {
    pub(crate) workspace: &'a Workspace,
    pub(crate) dir: &'a ModelDir,
    pub(crate) claim: &'a Claim,
    pub(crate) files: Files,
    pub(crate) console: &'a Console,
}

/// A checkpoint to be asked, whatever was exported from it.
pub(crate) struct Subject<'a> {
    pub(crate) workspace: &'a Workspace,
    pub(crate) dir: &'a ModelDir,
    pub(crate) recipe: &'a Recipe,
    /// The checkpoint that was exported.
    pub(crate) source: &'a SourceRecord,
    /// Tokenizer and chat template; absent for random weights.
    pub(crate) words: Option<(Utf8PathBuf, Utf8PathBuf)>,
    pub(crate) console: &'a Console,
}

impl Subject<'_> {
    /// A folder below `.proofmark` for what is made on the way.
    pub(crate) fn folder(&self, name: &str) -> anyhow::Result<Utf8PathBuf> {
        let folder = self.workspace.state().join(name).join(self.dir.name());
        fs::create_dir_all(&folder).with_context(|| format!("{folder}: cannot be made"))?;
        Ok(folder)
    }
}

/// What was measured, and the transcript that a part of it is about.
pub(crate) struct Measured {
    pub(crate) evidence: Evidence,
    pub(crate) transcript: Option<Vec<u8>>,
}

impl Bench<'_> {
    fn binding(&self) -> EvidenceBinding {
        EvidenceBinding::current(self.claim.manifest.sha256, self.claim.bound())
    }

    /// Load and parity: all that an export needs; and what it took to measure them.
    ///
    /// # Errors
    /// The model does not load or run.
    pub(crate) fn load_and_parity(&self, reference: &Utf8Path) -> anyhow::Result<(Evidence, Stage)> {
        let engine = self.engine(Profile::Dev)?;
        let Checked { load, parity, stage } =
            engine.check(self.claim, &self.files, reference, self.console)?;
        Ok((Evidence { load: Some(load), parity, ..Evidence::none(self.binding()) }, stage))
    }

    /// The kinds that are asked for.
    ///
    /// # Errors
    /// The model does not load or run, or the eager model cannot be asked.
    pub(crate) fn measure(
        &self,
        kinds: &[EvidenceKind],
        reference: &Utf8Path,
        checkpoint: &Checkpoint,
    ) -> anyhow::Result<Measured> {
        let mut measured = Measured { evidence: Evidence::none(self.binding()), transcript: None };
        let mut round = Round { bench: self, reference, checkpoint, eager: Replies::new() };
        let (mut questions, mut waiting) = (Vec::new(), Vec::new());
        for kind in kinds {
            let asked = (measurer(*kind).ask)(self)?;
            if asked.is_empty() {
                (measurer(*kind).measure)(&round, &mut measured)?;
            } else {
                questions.extend(asked);
                waiting.push(*kind);
            }
        }
        if !waiting.is_empty() {
            round.eager = eager::ask(&self.subject(), checkpoint, &questions)?;
        }
        for kind in waiting {
            (measurer(kind).measure)(&round, &mut measured)?;
        }
        Ok(measured)
    }

    fn engine(&self, profile: Profile) -> anyhow::Result<Engine> {
        Engine::open(self.workspace, profile, self.console)
    }

    fn folder(&self, name: &str) -> anyhow::Result<Utf8PathBuf> {
        self.subject().folder(name)
    }

    pub(crate) fn subject(&self) -> Subject<'_> {
        let Claim { recipe, manifest, .. } = self.claim;
        Subject {
            workspace: self.workspace,
            dir: self.dir,
            recipe,
            source: &manifest.source,
            words: self.files.words.clone(),
            console: self.console,
        }
    }
}
