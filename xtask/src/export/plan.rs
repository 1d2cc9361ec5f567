//! What an export does, as a value: recipe, checkpoint and options in, nothing run yet.
//!
//! **Invariant:** a plan is made without changing anything but the cache of checkpoints, and what is run is the plan that
//! `--dry-run` prints.

use anyhow::{Context as _, anyhow, bail};
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{
    claim,
    digest::Digest,
    dir::ModelDir,
    gguf,
    policy::Policy,
    recipe::{Recipe, Source},
    reserve, tokenizer,
};
use serde_json::{Value, json};

use crate::{
    console::Console,
    exit::{Exit, Failure, refused},
    protocol,
    supervise::Bounds,
    weights,
    workspace::Workspace,
};

use super::{
    Args, Runtime,
    inputs::{Inputs, Words, inputs_digest},
    publish::{WORK_PTE, WORK_REFERENCE},
    unusable,
};

const REFERENCE_PROMPT_TOKENS: u32 = 32;
const REFERENCE_DECODE_TOKENS: u32 = 8;

/// All that decides an export: printed by `--dry-run`, otherwise run.
pub(super) struct ExportPlan {
    pub(super) dir: ModelDir,
    pub(super) recipe: Recipe,
    pub(super) policy: Policy,
    pub(super) source: Source,
    /// Where the weights are read from; `None` for random ones.
    pub(super) checkpoint: Option<Utf8PathBuf>,
    /// What was read of it; `None` for random weights.
    pub(super) read: Option<Inputs>,
    pub(super) work: Utf8PathBuf,
    /// Export even if nothing has changed.
    pub(super) force: bool,
    pub(super) target: Target,
}

/// What is made.
pub(super) enum Target {
    /// A `.pte`, by the worker.
    Pte(Box<WorkerPlan>),
    /// A `.gguf`, by this process.
    Gguf,
}

/// What the worker does.
pub(super) struct WorkerPlan {
    /// Digest of all that decides the bytes.
    pub(super) inputs: Digest,
    pub(super) request: protocol::Export,
    pub(super) bounds: Bounds,
}

/// What is known before the checkpoint's files are read.
struct Settings {
    dir: ModelDir,
    recipe: Recipe,
    policy: Policy,
    source: Source,
}

/// What `--dry-run` prints.
///
/// # Errors
/// As [`ExportPlan::new`].
pub(super) fn describe(workspace: &Workspace, args: &Args, console: &Console) -> Result<String, Failure> {
    let settings = Settings::read(workspace, args)?;
    // What would be asked of the worker depends on files that a dry run does not fetch.
    match settings.fetch(workspace, args)? {
        Some(fetch) => Ok(serde_json::to_string_pretty(&fetch.describe()?)?),
        None => Ok(settings.plan(workspace, args, console)?.describe()?),
    }
}

impl ExportPlan {
    /// Plans an export; fetches a checkpoint that is not here.
    ///
    /// # Errors
    /// The model does not exist, the policy refuses its recipe, or no export can be made of the checkpoint.
    pub(super) fn new(workspace: &Workspace, args: &Args, console: &Console) -> Result<Self, Failure> {
        Settings::read(workspace, args)?.plan(workspace, args, console)
    }

    fn describe(&self) -> serde_json::Result<String> {
        match &self.target {
            Target::Pte(worker) => serde_json::to_string_pretty(&worker.request),
            Target::Gguf => serde_json::to_string_pretty(&self.gguf_summary()),
        }
    }

    /// What a GGUF would hold.
    fn gguf_summary(&self) -> Value {
        let tensors = gguf::plan::tensors(&self.recipe.architecture);
        let weights: u64 = tensors.iter().filter_map(|(tensor, _)| tensor.bytes()).sum();
        json!({
            "file": reserve::file_name(&self.recipe), "runtime": reserve::RESERVE_RUNTIME,
            "source": self.source, "checkpoint": self.checkpoint,
            "tensors": tensors.len(), "weight_bytes": weights, "work_dir": self.work,
        })
    }
}

impl Settings {
    fn read(workspace: &Workspace, args: &Args) -> Result<Self, Failure> {
        let dir = ModelDir::new(workspace.models(), &args.model);
        let (recipe, policy) = (dir.recipe().map_err(refused)?, dir.policy().map_err(refused)?);
        policy.admits(&recipe)?;
        if args.runtime == Runtime::Llamacpp {
            // Before a checkpoint is fetched for a recipe that no GGUF is written for.
            reserve::expect(&recipe, None, None)
                .map_err(|message| unusable(anyhow!("{message}"), &recipe))?;
        }
        if args.rehearse {
            let dir = ModelDir::new(workspace.rehearsals(), &args.model);
            return Ok(Self { dir, source: recipe.rehearsal().source, recipe, policy });
        }
        Ok(Self { dir, source: recipe.source.clone(), recipe, policy })
    }

    /// The fetch that must come first; none where the checkpoint is given, or made from a GGUF.
    fn fetch(&self, workspace: &Workspace, args: &Args) -> Result<Option<weights::FetchPlan>, Failure> {
        let from_hub = matches!(self.source, Source::Hub { .. }) && args.checkpoint.is_none();
        if !from_hub || weights::made_from_gguf(workspace, &self.recipe.name)?.is_some() {
            return Ok(None);
        }
        Ok(weights::FetchPlan::new(&self.recipe, &workspace.weights(), args.offline, String::new()))
    }

    fn plan(self, workspace: &Workspace, args: &Args, console: &Console) -> Result<ExportPlan, Failure> {
        let checkpoint = self.checkpoint(workspace, args, console)?;
        let Self { dir, recipe, policy, source } = self;
        let read = checkpoint.as_ref().map(|folder| Inputs::read(&dir, &recipe, folder, console));
        let read = read.transpose().map_err(|error| unusable(error, &recipe))?;
        if let (Some(inputs), Source::Path { .. }, Some(pins), None) =
            (&read, &source, source.pins(), &args.checkpoint)
        {
            inputs.are(pins).map_err(|error| unusable(error, &recipe))?;
        }
        let work = |name: &str| workspace.state().join("work").join(name);
        let mut plan = ExportPlan {
            work: work(&format!("{}-gguf", args.model)),
            force: args.force,
            target: Target::Gguf,
            dir,
            recipe,
            policy,
            source,
            checkpoint,
            read,
        };
        if args.runtime == Runtime::Executorch {
            plan.work = work(&args.model);
            let inputs = inputs_digest(plan.read.as_ref(), &plan.recipe, &plan.source, workspace)?;
            let (request, bounds) = (plan.request()?, args.bounds());
            plan.target = Target::Pte(Box::new(WorkerPlan { inputs, request, bounds }));
        }
        Ok(plan)
    }

    /// Where the weights are read from; `None` for random ones.
    fn checkpoint(
        &self,
        workspace: &Workspace,
        args: &Args,
        console: &Console,
    ) -> Result<Option<Utf8PathBuf>, Failure> {
        match (&self.source, &args.checkpoint) {
            (Source::Random { .. }, _) => Ok(None),
            (_, Some(given)) => {
                let found = given.canonicalize_utf8();
                Ok(Some(found.with_context(|| {
                    format!("{given}: cannot be opened, expected a checkpoint directory")
                })?))
            }
            (Source::Path { path, .. }, None) => {
                let folder = self.dir.path().join(path);
                if !folder.is_dir() && self.source.pins().is_some() {
                    return Err(not_here(&folder, &self.recipe));
                }
                Ok(Some(folder))
            }
            (Source::Gguf { .. }, None) => weights::of_gguf(workspace, &self.recipe).map(Some),
            (Source::Hub { .. }, None) => weights::checkpoint(workspace, &self.recipe, args.offline, console),
        }
    }
}

impl ExportPlan {
    /// What the worker is asked.
    fn request(&self) -> anyhow::Result<protocol::Export> {
        let Recipe { architecture, tokens, .. } = &self.recipe;
        let source = match (&self.checkpoint, &self.source) {
            (Some(folder), _) => protocol::Source::Safetensors { dir: folder.clone() },
            (None, Source::Random { seed }) => protocol::Source::Random { seed: *seed },
            (None, other) => bail!("{other:?}: got no checkpoint directory"),
        };
        // Any real token will do: parity compares arithmetic, not meaning. The first is what texts begin with, where trained
        // models have their largest values.
        let token = |index: u32| match index {
            0 => tokens.bos,
            _ => (index * 7919 + 13) % architecture.vocab,
        };
        let all = REFERENCE_PROMPT_TOKENS + REFERENCE_DECODE_TOKENS;
        Ok(protocol::Export {
            pte: self.work.join(WORK_PTE),
            reference: self.work.join(WORK_REFERENCE),
            reference_prompt: (0..REFERENCE_PROMPT_TOKENS).map(token).collect(),
            reference_decode: (REFERENCE_PROMPT_TOKENS..all).map(token).collect(),
            words: self.words()?,
            ..protocol::Export::of(&self.recipe, source, &self.work)
        })
    }

    /// What turns conversations into tokens, and the prompts that the app makes of some; random weights have none.
    fn words(&self) -> anyhow::Result<Option<protocol::Words>> {
        let Some(Inputs { words, .. }) = &self.read else { return Ok(None) };
        let (tokenizer, template) = Words::places(&self.work);
        // The worker renders with another Jinja, and must come to the same.
        let prompts = tokenizer::judge(&words.tokenizer)
            .and_then(|facts| claim::prompts(&self.recipe, &facts, &words.chat_template));
        let prompts = prompts.map_err(|message| anyhow!("{template}: {message}"))?;
        let reference = prompts.renderings.iter().map(|it| {
            let message = |(role, content): (&str, &str)| protocol::Message {
                role: role.to_owned(),
                content: content.to_owned(),
            };
            protocol::Prompt {
                messages: it.messages().map(message).collect(),
                add_generation_prompt: it.add_generation_prompt,
                prompt: it.prompt.clone(),
            }
        });
        let reference = reference.collect();
        let (bos_token, eos_token) = (prompts.bos_token, prompts.eos_token);
        Ok(Some(protocol::Words { tokenizer, chat_template: template, bos_token, eos_token, reference }))
    }
}

/// A checkpoint that its recipe knows by digests: it lay on the machine where the recipe was written.
fn not_here(folder: &Utf8Path, recipe: &Recipe) -> Failure {
    let error = anyhow!(
        "{folder}: no such folder, expected the checkpoint whose digests the recipe has, or a link to it"
    );
    let hint =
        format!("run: cargo xtask export {} --checkpoint DIR, or for good: ln -s DIR {folder}", recipe.name);
    Failure::new(Exit::Fetch, error, hint)
}
