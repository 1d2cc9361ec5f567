//! Measures evidence, kind by kind: what `verify` records, `bench` and `eval` show, and an export begins with.
//!
//! **Invariant:** nothing is judged here. What was measured goes into a claim, and `check::validate` decides.

pub(crate) mod eager;
pub(crate) mod eq;
mod grammar;
pub(crate) mod quality;
pub(crate) mod yardstick;

use std::fs;

use anyhow::Context as _;
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{
    claim::Claim,
    dir::ModelDir,
    evidence::Benchmark,
    manifest::{Evidence, EvidenceBinding, SourceRecord, Stage},
    recipe::{EvidenceKind, Recipe},
};

use crate::{
    console::Console,
    engine::{Checked, Engine, Files, Profile},
    workspace::Workspace,
};

pub(crate) use self::eager::Checkpoint;

/// Timed repeats of each case of a benchmark.
pub(crate) const REPEATS: u32 = 5;

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
        let engine = Engine::open(self.workspace, Profile::Dev, self.console)?;
        let Checked { load, parity, stage } =
            engine.check(self.claim, &self.files, reference, self.console)?;
        Ok((Evidence { load: Some(load), parity, ..Evidence::none(self.binding()) }, stage))
    }

    /// Speed and memory, with the engine compiled as users get it and weights packed where the app has them.
    ///
    /// # Errors
    /// The model does not load or run.
    pub(crate) fn benchmark(&self) -> anyhow::Result<Benchmark> {
        let engine = Engine::open(self.workspace, Profile::Release, self.console)?;
        Ok(engine.bench(&self.files, REPEATS, None, self.console)?.into_evidence())
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
        let wants = |kind| kinds.contains(&kind);
        let mut evidence = Evidence::none(self.binding());
        if wants(EvidenceKind::Load) || wants(EvidenceKind::Parity) {
            (evidence, _) = self.load_and_parity(reference)?;
        }
        if wants(EvidenceKind::Benchmark) {
            evidence.benchmark = Some(self.benchmark()?);
        }
        let mut transcript = None;
        if wants(EvidenceKind::Quality) {
            let engine = Engine::open(self.workspace, Profile::Dev, self.console)?;
            let (runtime, subject) = (quality::runtime(self, &engine), self.subject());
            let parameters = self.claim.manifest.export.parameters;
            evidence.quality = Some(quality::measure(&subject, &runtime, parameters, checkpoint)?);
        }
        if wants(EvidenceKind::Yardstick) {
            let engine = Engine::open(self.workspace, Profile::Dev, self.console)?;
            let tasks = self.claim.recipe.yardstick.iter();
            let measured = tasks.map(|limit| {
                yardstick::measure(self, &engine, limit.task, checkpoint, yardstick::Amount::default())
            });
            evidence.yardstick = Some(measured.collect::<anyhow::Result<_>>()?);
        }
        if wants(EvidenceKind::Eq) || wants(EvidenceKind::Grammar) {
            let engine = Engine::open(self.workspace, Profile::Dev, self.console)?;
            let eq = wants(EvidenceKind::Eq).then(|| eq::Plan::new(self.claim)).transpose()?;
            let grammar = wants(EvidenceKind::Grammar).then(|| grammar::Plan::new(self)).transpose()?;
            // One process asks the eager model for both: half of its time is start and quantization.
            let mut runs = Vec::new();
            runs.extend(eq.iter().flat_map(eq::Plan::eager_runs));
            runs.extend(grammar.iter().flat_map(grammar::Plan::eager_runs));
            let eager = eager::ask(&self.subject(), checkpoint, &runs)?;
            if let Some(plan) = eq {
                let (eq, text) = plan.measure(self, &engine, &eager)?;
                (evidence.eq, transcript) = (Some(eq), Some(text));
            }
            if let Some(plan) = grammar {
                evidence.grammar = Some(plan.measure(self, &engine, &eager)?);
            }
        }
        Ok(Measured { evidence, transcript })
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
