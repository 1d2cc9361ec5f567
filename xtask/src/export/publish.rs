//! Puts a proven model in its directory. Why the order is safe: see [`model_assets::dir`].
//!
//! **Invariant:** the rename of `manifest.json` is the one commit point. Killed before it, the old model stands; killed
//! after it, the new one does: `.pte`, reference, transcript, log and signature, each beside its own manifest.

use std::{
    borrow::Borrow,
    fs,
    io::{Read as _, Write as _},
};

use anyhow::{Context as _, ensure};
use camino::Utf8Path;
use model_assets::{
    check::Validated,
    digest::Digest,
    dir::{ModelDir, pending_name},
    eq::TRANSCRIPT_FILE,
    limits::MANIFEST_BYTES_MAX,
    manifest::{LOG_FILE, MANIFEST_FILE, Manifest},
    signature::SIGNATURE_FILE,
};

use crate::{
    atomic_file::{self, AtomicFile},
    refused,
};

/// Name of the `.pte` in a work directory.
pub(crate) const WORK_PTE: &str = "model.pte";
/// Name of the tokenizer in a work directory.
pub(crate) const WORK_TOKENIZER: &str = "tokenizer.json";
/// Name of the reference logits in a work directory.
pub(crate) const WORK_REFERENCE: &str = "reference.safetensors";

/// Moves a proven model into its directory. See [`model_assets::dir`] for why the order is safe.
pub(crate) fn publish(
    dir: &ModelDir,
    validated: &Validated<impl Borrow<fs::File>>,
    manifest: &Manifest,
    work: &Utf8Path,
) -> anyhow::Result<()> {
    let (proven, claimed) = (validated.sha256(), manifest.sha256);
    ensure!(proven == claimed, "manifest: got sha256 {claimed}, expected the proven file's {proven}");
    let (place, path) = (dir.path(), work.join(WORK_PTE));
    // By its name a file is moved that was proved by its descriptor.
    ensure!(
        atomic_file::is_at(validated.source().borrow(), &path)?,
        "{path}: got another file than was proved"
    );
    let mut files = vec![
        (path, manifest.file.as_str(), manifest.sha256),
        (work.join(WORK_REFERENCE), &manifest.reference.name, manifest.reference.sha256),
    ];
    let eq = manifest.evidence.as_ref().and_then(|evidence| evidence.eq.as_ref());
    if let Some(eq) = eq.filter(|_| work.join(TRANSCRIPT_FILE).exists()) {
        files.push((work.join(TRANSCRIPT_FILE), TRANSCRIPT_FILE, eq.transcript));
    }
    let (bytes, recipe) = (manifest.to_bytes(), dir.recipe()?);
    // One that is there already stays untouched: it may be reviewed text.
    let tokenizer = manifest.bound.tokenizer.filter(|sha256| {
        let path = place.join(&recipe.tokens.tokenizer);
        !fs::read(path).is_ok_and(|bytes| Digest::of(&bytes) == *sha256)
    });
    if let Some(sha256) = tokenizer {
        files.push((work.join(WORK_TOKENIZER), &recipe.tokens.tokenizer, sha256));
    }
    files.push((work.join(LOG_FILE), LOG_FILE, Digest::of(&bytes)));
    if work.join(SIGNATURE_FILE).exists() {
        files.push((work.join(SIGNATURE_FILE), SIGNATURE_FILE, Digest::of(&bytes)));
    }
    // Takes its space on the disk before anything moves: what is left are renames.
    let commit = staged(dir, MANIFEST_FILE, &bytes)?;
    for (from, name, sha256) in &files {
        fs::File::open(from)?.sync_all()?;
        moved(from, &place.join(pending_name(name, *sha256)))?;
    }
    sync_dir(&place)?;
    commit.put_in_place()?;
    settle(dir)?;
    refused::forget_others(dir, manifest.sha256)
}

/// Moves a finished file to a name that it waits under; copies it where the work is done on another disk.
pub(super) fn moved(from: &Utf8Path, to: &Utf8Path) -> anyhow::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == std::io::ErrorKind::CrossesDevices => {
            let mut file = AtomicFile::create(to)?;
            let mut source = fs::File::open(from).with_context(|| format!("{from}: cannot be opened"))?;
            std::io::copy(&mut source, &mut file).with_context(|| format!("{to}: cannot be written"))?;
            file.put_in_place()?;
            fs::remove_file(from).with_context(|| format!("{from}: cannot be removed"))
        }
        outcome => outcome.with_context(|| format!("{to}: cannot be put in place")),
    }
}

/// Finishes a publish that was killed behind its commit point, and removes what commands that were killed before theirs
/// left behind. Returns the names of what it found.
pub(crate) fn settle(dir: &ModelDir) -> anyhow::Result<Vec<String>> {
    let (place, path) = (dir.path(), dir.manifest_path());
    let mut bytes = Vec::new();
    let file = fs::File::open(&path).with_context(|| format!("{path}: cannot be opened"))?;
    file.take(MANIFEST_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    let (manifest, own) = (Manifest::parse(&bytes).with_context(|| path.to_string())?, Digest::of(&bytes));
    let eq = manifest.evidence.as_ref().and_then(|evidence| evidence.eq.as_ref());
    let recipe = dir.recipe()?;
    let named = [
        (recipe.tokens.tokenizer.as_str(), manifest.bound.tokenizer),
        (manifest.file.as_str(), Some(manifest.sha256)),
        (&manifest.reference.name, Some(manifest.reference.sha256)),
        (TRANSCRIPT_FILE, eq.map(|eq| eq.transcript)),
        (LOG_FILE, Some(own)),
        (SIGNATURE_FILE, Some(own)),
    ];
    let mut found = give_names(&place, &named)?;
    let replaced = [MANIFEST_FILE, SIGNATURE_FILE, TRANSCRIPT_FILE, &recipe.tokens.tokenizer];
    for name in replaced.into_iter().chain(recipe.licence.files()) {
        found.extend(atomic_file::discard(&place.join(name))?);
    }
    sync_dir(&place)?;
    Ok(found)
}

/// Moves the files that a committed record names from where they wait to their plain names, and removes what waits for another
/// record. Returns the names of what it found.
pub(super) fn give_names(place: &Utf8Path, named: &[(&str, Option<Digest>)]) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for (name, sha256) in named {
        let pending = sha256.map(|sha256| pending_name(name, sha256));
        if let Some(pending) = pending.filter(|pending| place.join(pending).exists()) {
            fs::rename(place.join(&pending), place.join(name)).with_context(|| format!("{place}/{name}"))?;
            found.push(pending);
        }
        found.extend(sweep(place, name)?);
    }
    Ok(found)
}

/// Removes every pending file of this name; says which.
fn sweep(place: &Utf8Path, name: &str) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in place.read_dir_utf8()? {
        let entry = entry?;
        // Of one that was still being written too.
        let written = entry.file_name().strip_prefix('.').and_then(|it| it.strip_suffix(".new"));
        let whole = written.unwrap_or(entry.file_name());
        let suffix = whole.strip_prefix(name).and_then(|rest| rest.strip_prefix('.'));
        if suffix.is_some_and(|s| s.len() == Digest::SHORT_CHARS && s.bytes().all(|b| b.is_ascii_hexdigit()))
        {
            fs::remove_file(entry.path())?;
            found.push(entry.file_name().to_owned());
        }
    }
    Ok(found)
}

/// Replaces `manifest.json`, and the transcript if there is one: the same model, with other evidence.
pub(crate) fn write_manifest(
    dir: &ModelDir,
    manifest: &Manifest,
    transcript: Option<&[u8]>,
) -> anyhow::Result<()> {
    // What waits for its name under the digest of the manifest that goes would never get it.
    settle(dir)?;
    if let Some(text) = transcript {
        replace(dir, &pending_name(TRANSCRIPT_FILE, Digest::of(text)), text)?;
    }
    replace(dir, MANIFEST_FILE, &manifest.to_bytes())?;
    settle(dir).map(drop)
}

/// Replaces a file of a model's directory, whole: killed at any instant, the old one is there or the new one.
pub(crate) fn replace(dir: &ModelDir, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
    staged(dir, name, bytes)?.put_in_place()
}

pub(super) fn staged(dir: &ModelDir, name: &str, bytes: &[u8]) -> anyhow::Result<AtomicFile> {
    let place = dir.path().join(name);
    let mut file = AtomicFile::create(&place)?;
    file.write_all(bytes).with_context(|| format!("{place}: cannot be written"))?;
    file.sync().with_context(|| format!("{place}: cannot be synced"))?;
    Ok(file)
}

pub(super) fn sync_dir(path: &Utf8Path) -> anyhow::Result<()> {
    fs::File::open(path)?.sync_all().with_context(|| format!("{path}: cannot be synced"))
}

#[cfg(test)]
mod tests {
    use std::{
        process::{Command, Stdio},
        time::Duration,
    };

    use camino::Utf8PathBuf;
    use model_assets::check::{Profile, validate};

    use super::*;

    /// Names the scratch directory to the child that publishes until it is killed.
    const CHILD: &str = "PROOFMARK_TEST_PUBLISH";
    const KILLS: u32 = 60;

    /// The exported tiny model and a second one that differs in one bit that only a digest guards.
    fn two_models(models: &Utf8Path) -> [(Vec<u8>, Manifest); 2] {
        let dir = ModelDir::new(models, "tiny");
        let (claim, _) = dir.open().expect("run: cargo xtask export");
        let bytes = fs::read(dir.resolve(&claim.manifest.file, claim.manifest.sha256)).unwrap();
        // The constants come first behind the program: embedding rows, norms, rotary tables.
        let first = usize::try_from(claim.manifest.structure.program_bytes).unwrap();
        let variant = (first..bytes.len()).step_by(4096).find_map(|index| {
            let mut other = bytes.clone();
            other[index] ^= 1;
            let mut claim = claim.clone();
            claim.manifest.sha256 = Digest::of(&other);
            claim.manifest.evidence = None;
            validate(other.clone(), &claim, Profile::Dev).is_ok().then_some((other, claim.manifest))
        });
        [(bytes, claim.manifest), variant.expect("a byte that only the digest guards")]
    }

    fn keep(folder: &Utf8Path, models: &[(Vec<u8>, Manifest)]) {
        for (index, (bytes, manifest)) in models.iter().enumerate() {
            fs::write(folder.join(format!("{index}.pte")), bytes).unwrap();
            fs::write(folder.join(format!("{index}.json")), manifest.to_bytes()).unwrap();
        }
    }

    fn kept(folder: &Utf8Path) -> [(Vec<u8>, Manifest); 2] {
        [0, 1].map(|index| {
            let manifest = fs::read(folder.join(format!("{index}.json"))).unwrap();
            (fs::read(folder.join(format!("{index}.pte"))).unwrap(), Manifest::parse(&manifest).unwrap())
        })
    }

    fn stage(work: &Utf8Path, bytes: &[u8], manifest: &Manifest) -> Manifest {
        let reference = manifest.sha256.to_string().into_bytes();
        let mut manifest = manifest.clone();
        (manifest.reference.bytes, manifest.reference.sha256) =
            (reference.len() as u64, Digest::of(&reference));
        fs::create_dir_all(work).unwrap();
        fs::write(work.join(WORK_PTE), bytes).unwrap();
        fs::write(work.join(WORK_REFERENCE), reference).unwrap();
        for name in [LOG_FILE, SIGNATURE_FILE] {
            fs::write(work.join(name), of_its_manifest(name, &manifest.to_bytes())).unwrap();
        }
        manifest
    }

    /// What stands in for the log or the signature of a manifest.
    fn of_its_manifest(name: &str, manifest: &[u8]) -> String {
        format!("{name} of {}", Digest::of(manifest))
    }

    /// The manifest that stands, with its own log and signature.
    fn pair(dir: &ModelDir, when: &str) -> Vec<u8> {
        let bytes = fs::read(dir.manifest_path()).unwrap();
        for name in [LOG_FILE, SIGNATURE_FILE] {
            let found = fs::read_to_string(dir.resolve(name, Digest::of(&bytes))).unwrap();
            assert_eq!(found, of_its_manifest(name, &bytes), "{when}: another model's {name}");
        }
        bytes
    }

    /// Every state that a publish goes through, made by hand: it moves its files one by one under the names at which they
    /// wait, renames the manifest, and moves them one by one to their plain names.
    #[test]
    fn each_state_of_a_publish_is_one_model_and_is_put_right() {
        let real = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../model-assets/models");
        let (claim, _) = ModelDir::new(&real, "tiny").open().expect("run: cargo xtask export");
        let model = |of: &str| {
            let mut manifest = claim.manifest.clone();
            manifest.published = of.to_owned();
            (manifest.sha256, manifest.reference.sha256) =
                (Digest::of(of.as_bytes()), Digest::of(of.as_bytes()));
            manifest.bound.tokenizer = Some(manifest.sha256);
            let bytes = manifest.to_bytes();
            let own = |name: &str| (name.to_owned(), Digest::of(&bytes), of_its_manifest(name, &bytes));
            let proved = |name: &str| (name.to_owned(), manifest.sha256, of.to_owned());
            let files = [
                proved(&manifest.file),
                proved(&manifest.reference.name),
                proved(&claim.recipe.tokens.tokenizer),
                own(LOG_FILE),
                own(SIGNATURE_FILE),
            ];
            (bytes, files)
        };
        let ((old, before), (new, after)) = (model("2026-11-25T00:00:00Z"), model("2026-11-26T00:00:00Z"));
        let count = after.len();
        // Moves before the commit, then the commit, then moves behind it.
        for state in 0..=2 * count + 1 {
            let folder = tempfile::tempdir().unwrap();
            let models = Utf8Path::from_path(folder.path()).unwrap();
            let dir = ModelDir::new(models, "tiny");
            fs::create_dir(dir.path()).unwrap();
            fs::copy(real.join("tiny/recipe.toml"), dir.recipe_path()).unwrap();
            fs::write(dir.manifest_path(), &old).unwrap();
            before.iter().for_each(|(name, _, text)| fs::write(dir.path().join(name), text).unwrap());
            let waiting = after.iter().take(state);
            waiting.for_each(|(name, at, text)| {
                fs::write(dir.path().join(pending_name(name, *at)), text).unwrap();
            });
            let committed = state > count;
            if committed {
                fs::write(dir.manifest_path(), &new).unwrap();
            } else {
                fs::write(dir.path().join(".manifest.json.new"), &new[..new.len() / 2]).unwrap();
            }
            for (name, at, _) in after.iter().take(state.saturating_sub(count + 1)) {
                fs::rename(dir.path().join(pending_name(name, *at)), dir.path().join(name)).unwrap();
            }
            let (manifest, files) = if committed { (&new, &after) } else { (&old, &before) };
            let whole = |when: &str| {
                assert_eq!(pair(&dir, when), *manifest, "{when}");
                for (name, at, text) in files {
                    assert_eq!(fs::read_to_string(dir.resolve(name, *at)).unwrap(), *text, "{when}: {name}");
                }
            };
            whole(&format!("state {state}"));
            settle(&dir).unwrap();
            whole(&format!("state {state}, put right"));
            let names = dir.path().read_dir_utf8().unwrap().count();
            assert_eq!(names, count + 2, "state {state}: files are left beside recipe, manifest and theirs");
        }
    }

    /// Run as a child by the test below: publishes the two models in turn until it is killed.
    #[test]
    fn publish_for_ever() {
        let Ok(scratch) = std::env::var(CHILD) else { return };
        let models = Utf8PathBuf::from(scratch);
        let dir = ModelDir::new(&models, "tiny");
        let real = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../model-assets/models");
        let two = kept(&models);
        let (mut claim, _) = ModelDir::new(&real, "tiny").open().unwrap();
        println!("ready");
        for (bytes, manifest) in two.iter().cycle() {
            let work = models.join("work");
            claim.manifest = stage(&work, bytes, manifest);
            let pte = fs::File::open(work.join(WORK_PTE)).unwrap();
            let validated = validate(pte, &claim, Profile::Dev).unwrap();
            publish(&dir, &validated, &claim.manifest, &work).unwrap();
            println!("published");
        }
    }

    #[test]
    fn killed_at_any_moment_a_publish_leaves_a_whole_model() {
        let folder = tempfile::tempdir().unwrap();
        let models = Utf8Path::from_path(folder.path()).unwrap();
        let real = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../model-assets/models");
        fs::create_dir(models.join("tiny")).unwrap();
        fs::copy(real.join("policy.toml"), models.join("policy.toml")).unwrap();
        for name in ["recipe.toml", "tokenizer.json", "chat_template.jinja"] {
            fs::copy(real.join("tiny").join(name), models.join("tiny").join(name)).unwrap();
        }
        keep(models, &two_models(&real));
        let mut seen = std::collections::BTreeSet::new();
        for kill in 0..KILLS {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "export::publish::tests::publish_for_ever", "--nocapture"])
                .env(CHILD, models.as_str())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            // However slow the disk is, some are killed in the first publish, some in the second, some in the third.
            wait_for(&mut child, &["ready", "published", "published"][..=kill as usize % 3]);
            // A prime step spreads the moments over the whole of a publish.
            std::thread::sleep(Duration::from_micros(u64::from(kill) * 7_919 % 60_000));
            child.kill().unwrap();
            child.wait().unwrap();
            let dir = ModelDir::new(models, "tiny");
            if seen.is_empty() && !dir.manifest_path().exists() {
                continue;
            }
            let (claim, _) = dir.open().unwrap();
            let (path, pte) = dir.open_pte(&claim.manifest).unwrap();
            validate(pte, &claim, Profile::Dev)
                .unwrap_or_else(|refusal| panic!("kill {kill}: {path}: {refusal}"));
            let record = &claim.manifest.reference;
            let reference = fs::read(dir.resolve(&record.name, record.sha256)).unwrap();
            assert_eq!(Digest::of(&reference), record.sha256, "kill {kill}: another model's reference");
            pair(&dir, &format!("kill {kill}"));
            seen.insert(claim.manifest.sha256);
        }
        assert_eq!(seen.len(), 2, "the kills should have met both models");
    }

    /// Waits for lines that hold these words, in this order.
    fn wait_for(child: &mut std::process::Child, words: &[&str]) {
        use std::io::{BufRead as _, BufReader};
        let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines().map_while(Result::ok);
        for word in words {
            assert!(lines.any(|line| line.contains(word)), "the child never said `{word}`");
        }
    }
}
