//! `cargo xtask dev train-tiny`: trains the embedded default model again, from the text that the repository generates.

use anyhow::Context as _;

use crate::{
    child::{self, cmd},
    exit::Outcome,
    setup,
    workspace::Workspace,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Optimizer steps
    #[arg(long, default_value_t = 4000)]
    steps: u32,
    /// Seed of the text's order and of the first weights
    #[arg(long, default_value_t = 7)]
    seed: u32,
    /// Conversations of the evaluation afterwards
    #[arg(long, default_value_t = 100)]
    dialogues: u32,
    /// Threads
    #[arg(long, default_value_t = 1)]
    threads: u32,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Outcome {
    setup::ensure(workspace)?;
    let shell = child::shell(workspace.root())?;
    let (python, out) = (workspace.python(), "model-assets/models/tiny");
    let Args { steps, seed, dialogues, threads } = args;
    let [steps, seed, dialogues, threads] = [steps, seed, dialogues, threads].map(ToString::to_string);
    let scripts = workspace.python_sources().join("train_tiny");
    cmd!(
        shell,
        "{python} -B {scripts}/train.py --out {out} --steps {steps} --seed {seed} --threads {threads}"
    )
    .run()
    .context("training stopped; run the same command again to go on from its last saved state")?;
    cmd!(shell, "{python} -B {scripts}/evaluate.py {out} --record --dialogues {dialogues}").run()?;
    eprintln!("the checkpoint changed: run cargo xtask export");
    Ok(())
}
