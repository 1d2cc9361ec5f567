//! Where the rows of a GGUF come from: a checkpoint's safetensors, or the seeded weights of a rehearsal.
//!
//! **Invariant:** no more than the rows asked for are in memory.

use std::{
    io::Read as _,
    process::{Child, Command, Stdio},
};

use anyhow::Context as _;
use model_assets::{gguf::Precision, recipe::Architecture};
use serde_json::json;

use crate::{
    checkpoint::{Checkpoint, finite},
    child,
    workspace::Workspace,
};

/// Where rows are read from.
pub(super) enum Weights {
    /// A checkpoint.
    Checkpoint(Checkpoint),
    /// The worker's generator, asked in the order of the file: it answers with every tensor in turn.
    Random(Generator),
}

impl Weights {
    /// Rows `first..` of a tensor, as many as `out` holds at this width.
    pub(super) fn rows(
        &mut self,
        name: &str,
        shape: &[u64],
        first: u64,
        out: &mut [f32],
    ) -> anyhow::Result<()> {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.rows(name, shape, first, out),
            Self::Random(generator) => generator.next(name, out),
        }
    }
}

/// The process that generates the weights of a rehearsal: the very ones of the `.pte`'s.
pub(super) struct Generator {
    child: Child,
    bytes: Vec<u8>,
}

impl Generator {
    /// Starts it; `names` are the tensors in the order in which they will be asked for.
    pub(super) fn start(
        workspace: &Workspace,
        seed: u64,
        architecture: &Architecture,
        names: &[String],
    ) -> anyhow::Result<Self> {
        let request = json!({"seed": seed, "architecture": crate::protocol::Architecture::from(architecture), "names": names}).to_string();
        let child = command(workspace, &request)
            .spawn()
            .with_context(|| format!("{}: cannot be started", workspace.python()))?;
        Ok(Self { child, bytes: Vec::new() })
    }

    fn next(&mut self, name: &str, out: &mut [f32]) -> anyhow::Result<()> {
        self.bytes.resize(out.len() * 4, 0);
        let stdout = self.child.stdout.as_mut().context("the generator has no output")?;
        stdout
            .read_exact(&mut self.bytes)
            .with_context(|| format!("{name}: the generator ended before it had written all"))?;
        finite(name, Precision::F32.read(&self.bytes, out))
    }
}

/// As isolated as the supervised worker: nothing of this folder or of the user's is imported.
fn command(workspace: &Workspace, request: &str) -> Command {
    let script = workspace.python_sources().join("random_weights.py");
    let mut command = child::command(workspace.python());
    command.args(["-I", "-B", script.as_str(), request]).stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

impl Drop for Generator {
    fn drop(&mut self) {
        // It has ended already, unless the export failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_isolated() {
        let command = command(&Workspace::find(None).unwrap(), "{}");
        let arguments: Vec<_> = command.get_args().filter_map(|it| it.to_str()).collect();
        assert_eq!((arguments[..2].to_vec(), arguments[3]), (vec!["-I", "-B"], "{}"));
        assert!(arguments[2].ends_with("python/random_weights.py"), "{arguments:?}");
    }
}
