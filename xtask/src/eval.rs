//! `cargo xtask eval`: asks a model questions and shows its answers; `verify` records what comes of them.

use std::fs;

use model_assets::{check::Profile, dir::ModelDir, recipe::EvidenceKind};

use crate::{
    Outcome,
    console::Console,
    engine::Files,
    evidence::{Bench, Checkpoint, Measured, quality::TOKENS_FILE},
    verify::{self, refused},
    workspace::Workspace,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    test: Test,
}

#[derive(clap::Subcommand)]
enum Test {
    /// Dialogues whose emotions are to be rated, and a conversation of ten turns
    Eq(Asked),
    /// Perplexity ratio, KL divergence and agreement with the unquantized model on real text
    Quality(Asked),
    /// The share of sampled replies that the grammar of the model's world accepts
    Grammar(Asked),
}

#[derive(clap::Args)]
struct Asked {
    /// The model: a directory of `model-assets/models`
    #[arg(default_value = "tiny")]
    model: String,
    /// The checkpoint that was exported, where the recipe does not lead to one
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<camino::Utf8PathBuf>,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Outcome {
    let (asked, kind) = match &args.test {
        Test::Eq(asked) => (asked, EvidenceKind::Eq),
        Test::Quality(asked) => (asked, EvidenceKind::Quality),
        Test::Grammar(asked) => (asked, EvidenceKind::Grammar),
    };
    let dir = ModelDir::new(workspace.models(), &asked.model);
    let (mut claim, _) = dir.claim().map_err(refused)?;
    claim.manifest.evidence = None;
    // Nothing is run that was not proved first.
    verify::judge(&dir, &claim, Profile::Dev)?;
    let (path, _) = dir.open_pte(&claim.manifest).map_err(refused)?;
    let console = Console::new(false);
    let files = Files::of(&dir, &claim, path);
    let bench = Bench { workspace, dir: &dir, claim: &claim, files, console: &console };
    let reference = verify::reference(&dir, &claim)?;
    let measured = bench.measure(&[kind], &reference, &Checkpoint(asked.checkpoint.clone()));
    console.done();
    let Measured { evidence, transcript } = measured.map_err(|error| verify::failed(&dir, error))?;
    verify::show(&evidence, &claim.recipe);
    if let Some(text) = transcript {
        let folder = workspace.state().join("eval").join(dir.name());
        fs::create_dir_all(&folder)?;
        let place = folder.join(model_assets::eq::TRANSCRIPT_FILE);
        fs::write(&place, text)?;
        println!("{place}");
    }
    if evidence.quality.is_some() {
        println!("{}", workspace.state().join("quality").join(dir.name()).join(TOKENS_FILE));
    }
    claim.manifest.evidence = Some(evidence);
    verify::judge(&dir, &claim, Profile::Dev).map(|_| ())
}
