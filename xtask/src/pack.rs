//! `cargo xtask pack`: one proven model with everything that its proof is about, in one deterministic `.tar.gz`.
//!
//! **Invariant:** the model was validated in this run, and the `.pte` is read from the file that was validated.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, BufWriter, Seek as _, Write as _},
};

use anyhow::{Context as _, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{
    bundle::Writer,
    check::Profile,
    claim::Claim,
    digest::Digest,
    dir::ModelDir,
    eq::TRANSCRIPT_FILE,
    manifest::{LOG_FILE, MANIFEST_FILE, WeightsKind},
};

use crate::{
    atomic_file::{AtomicFile, folder},
    console::Console,
    exit::{Exit, Failure, Outcome},
    meter::Meter,
    published::Published,
    release, sign, supervise,
    workspace::Workspace,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model: a directory of `model-assets/models`
    #[arg(default_value = "tiny")]
    model: String,
    /// Where to write the bundle [default: .proofmark/bundle/MODEL.tar.gz]
    #[arg(long, value_name = "FILE")]
    out: Option<Utf8PathBuf>,
    /// Demand what a release build demands
    #[arg(long)]
    release: bool,
    /// Print events as JSON lines on standard output
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Outcome {
    let model = Published::open(workspace, &args.model, false)?;
    let Published { dir, claim, files: texts } = &model;
    let profile = if args.release { Profile::Release } else { Profile::Dev };
    let proof = model.prove()?;
    let proved = proof.judge(claim, profile)?;
    if args.release {
        release::demand(dir, claim, texts, &proved)?;
    }
    let reference = model.reference()?;
    let files = files(dir, claim, &texts.manifest, &reference);
    let name = claim.manifest.file.replace(".pte", ".tar.gz");
    let out = args.out.clone().unwrap_or_else(|| workspace.state().join("bundle").join(name));
    let console = Console::new(args.json);
    supervise::watch_interrupts()?;
    let written = write(&out, &files, proved.into_source().try_clone()?, claim, &console);
    console.done();
    written.map_err(|error| {
        let code = if supervise::interrupted() { Exit::Interrupted } else { Exit::Failure };
        Failure::new(code, error, format!("nothing was left behind; run: cargo xtask pack {}", args.model))
    })?;
    println!("{out}: {} bytes", out.metadata()?.len());
    Ok(())
}

/// Everything but the manifest, which stands first, in the order of a bundle.
fn files(
    dir: &ModelDir,
    claim: &Claim,
    manifest_bytes: &[u8],
    reference: &Utf8Path,
) -> BTreeMap<String, Utf8PathBuf> {
    let Claim { recipe, manifest, .. } = claim;
    let mut files = BTreeMap::from([
        (manifest.file.clone(), dir.resolve(&manifest.file, manifest.sha256)),
        (manifest.reference.name.clone(), reference.to_owned()),
        ("recipe.toml".to_owned(), dir.recipe_path()),
        ("policy.toml".to_owned(), dir.policy_path()),
        (LOG_FILE.to_owned(), dir.resolve(LOG_FILE, Digest::of(manifest_bytes))),
    ]);
    if manifest.weights == WeightsKind::Checkpoint {
        let (tokenizer, template) = (&recipe.tokens.tokenizer, &recipe.tokens.chat_template);
        files.insert(tokenizer.clone(), dir.tokenizer_path(recipe, manifest.bound.tokenizer));
        files.insert(template.clone(), dir.path().join(template));
    }
    let eq = manifest.evidence.as_ref().and_then(|evidence| evidence.eq.as_ref());
    let transcript = eq.map(|eq| dir.resolve(TRANSCRIPT_FILE, eq.transcript));
    if let Some(transcript) = transcript.filter(|path| path.is_file()) {
        files.insert(TRANSCRIPT_FILE.to_owned(), transcript);
    }
    files.extend(sign::companions(dir, recipe, manifest_bytes));
    files
}

fn write(
    out: &Utf8Path,
    files: &BTreeMap<String, Utf8PathBuf>,
    pte: fs::File,
    claim: &Claim,
    console: &Console,
) -> anyhow::Result<()> {
    let folder = folder(out);
    fs::create_dir_all(folder).with_context(|| format!("{folder}: cannot be made"))?;
    let mut writer = Writer::new(BufWriter::new(AtomicFile::create(out)?));
    let manifest = claim.manifest.to_bytes();
    writer.entry(MANIFEST_FILE, manifest.len() as u64, &mut manifest.as_slice())?;
    let mut pte = Some(pte);
    for (name, path) in files {
        let open = || model_assets::regular::open(path).with_context(|| format!("{path}: cannot be opened"));
        let mut file = match pte.take_if(|_| *name == claim.manifest.file) {
            Some(validated) => validated,
            None => open()?,
        };
        file.rewind()?;
        let total = file.metadata()?.len();
        let mut source = Meter::new(file, name, total, console);
        writer.entry(name, total, &mut source).with_context(|| format!("{path}"))?;
    }
    let mut sink = writer.finish()?;
    sink.flush()?;
    ensure!(!supervise::interrupted(), "interrupted");
    sink.into_inner().map_err(io::IntoInnerError::into_error)?.put_in_place()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use model_assets::dir::ModelDir;

    use super::*;

    const CHILD: &str = "PROOFMARK_TEST_PACK_MEMORY";
    /// Larger than the bound by far, and small enough for every run of the tests.
    const FILE_BYTES: u64 = 192 << 20;
    /// The window of the compressor, some buffers, and what the test's own process has.
    const PEAK_BYTES_MAX: u64 = 48 << 20;

    /// Run as a child by the test below, so that the peak is this pack's own: prints it.
    #[test]
    fn pack_a_large_file() {
        let Ok(scratch) = std::env::var(CHILD) else { return };
        let scratch = Utf8PathBuf::from(scratch);
        let models = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../model-assets/models");
        let (claim, _) = ModelDir::new(models, "tiny").open().expect("run: cargo xtask export");
        let place = scratch.join("large.pte");
        let pte = fs::File::create_new(&place).unwrap();
        pte.set_len(FILE_BYTES).unwrap();
        let files = BTreeMap::from([(claim.manifest.file.clone(), place.clone())]);
        let pte = fs::File::open(&place).unwrap();
        write(&scratch.join("large.tar.gz"), &files, pte, &claim, &Console::new(false)).unwrap();
        // How much of memory this process ever had (see proc(5)).
        let status = fs::read_to_string("/proc/self/status").unwrap();
        println!("{}", status.lines().find(|line| line.starts_with("VmHWM:")).unwrap());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_large_file_is_packed_in_little_memory() {
        let folder = tempfile::tempdir().unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "pack::tests::pack_a_large_file", "--nocapture"])
            .env(CHILD, folder.path())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let peak = text.lines().find_map(|line| line.split_once("VmHWM:")).map(|(_, peak)| peak);
        let kib: u64 =
            peak.unwrap_or_else(|| panic!("{text}")).trim().split(' ').next().unwrap().parse().unwrap();
        println!("peak {kib} KiB for a file of {} KiB", FILE_BYTES / 1024);
        assert!(
            kib * 1024 < PEAK_BYTES_MAX,
            "peak {kib} KiB, expected less than {} KiB",
            PEAK_BYTES_MAX / 1024
        );
        assert!(folder.path().join("large.tar.gz").metadata().unwrap().len() > 0);
    }
}
