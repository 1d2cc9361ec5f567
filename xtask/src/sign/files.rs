//! Which files of a model's directory are signed, and how the directory differs from the signed one.
//!
//! Signed: the manifest, the `.pte`, and what goes with it byte for byte: reference logits, tokenizer, template, the texts of
//! the licence. The manifest names by digest what else belongs to the proof: recipe and policy by their meaning (a comment
//! may change), the EQ transcript, the checkpoint.
//!
//! Not signed: the signature, the files of git, the log, and other files that lay there when the model was signed. A file that
//! comes later is an error, for the public tool too.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, anyhow};
use camino::Utf8Path;
use model_assets::{
    check::{Finding, Severity},
    claim::Claim,
    digest::Digest,
    dir::{ModelDir, POLICY_FILE, RECIPE_FILE},
    eq::TRANSCRIPT_FILE,
    manifest::{LOG_FILE, MANIFEST_FILE, WeightsKind},
    recipe::Source,
    signature::{Resource, SIGNATURE_FILE, Statement},
};

use crate::{
    exit::{Exit, Failure},
    published::Published,
};

/// Passed over whether they are there or not: a bundle has some, a work tree others.
const NEVER_SIGNED: [&str; 9] = [
    ".git",
    ".gitattributes",
    ".github",
    ".gitignore",
    TRANSCRIPT_FILE,
    LOG_FILE,
    POLICY_FILE,
    RECIPE_FILE,
    SIGNATURE_FILE,
];

/// The statement to sign: the proved `.pte` and the texts as they were read, the other files as they are on disk.
pub(super) fn statement(model: &Published, pte: Digest) -> Result<Statement, Failure> {
    let Published { dir, claim: Claim { recipe, manifest, tokenizer, chat_template, .. }, files } = model;
    if manifest.weights == WeightsKind::Random {
        let error =
            anyhow!("{MANIFEST_FILE}: got random weights, expected a checkpoint: a rehearsal is not signed");
        return Err(Failure::new(Exit::Signature, error, format!("run: cargo xtask export {}", dir.name())));
    }
    // Its digest is checked here; the manifest names it.
    model.reference()?;
    let mut signed = BTreeMap::from([
        (MANIFEST_FILE.to_owned(), Digest::of(&files.manifest)),
        (manifest.file.clone(), pte),
        (manifest.reference.name.clone(), manifest.reference.sha256),
    ]);
    let tokenizer = tokenizer.as_deref().map(Digest::of);
    let template = chat_template.as_ref().map(|text| Digest::of(text.as_bytes()));
    let named = [(&recipe.tokens.tokenizer, tokenizer), (&recipe.tokens.chat_template, template)];
    signed.extend(named.into_iter().filter_map(|(name, digest)| Some((name.clone(), digest?))));
    for name in recipe.licence.files().filter(|name| dir.path().join(name).exists()) {
        signed.insert(name.to_owned(), digest(&dir.path().join(name))?);
    }
    let mut ignored: BTreeSet<String> = NEVER_SIGNED.map(str::to_owned).into();
    for name in names(&dir.path())? {
        // A link to a checkpoint is this machine's own; the manifest has the digests of what it leads to.
        if !matches!(&recipe.source, Source::Path { path, .. } if *path == name) {
            regular_or_folder(&dir.path().join(&name))?;
        }
        if !signed.contains_key(&name) {
            ignored.insert(name);
        }
    }
    let resources = signed.into_iter().map(|(name, sha256)| Resource { name, sha256 }).collect();
    Ok(Statement { model: dir.name().to_owned(), resources, ignored: ignored.into_iter().collect() })
}

/// Every file that was changed, removed or added since the signature.
pub(super) fn differences(dir: &ModelDir, statement: &Statement) -> anyhow::Result<Vec<Finding>> {
    let place = dir.path();
    let mut findings = Vec::new();
    let mut find = |id: &str, location: &str, got: String, expected: String| {
        let (id, location) = (id.to_owned(), location.to_owned());
        findings.push(Finding { id, severity: Severity::Reject, location, got, expected });
    };
    for Resource { name, sha256 } in &statement.resources {
        let path = place.join(name);
        if !path.exists() {
            find("signature-digest", name, "no such file".to_owned(), format!("{sha256}, as signed"));
            continue;
        }
        regular_or_folder(&path)?;
        let got = digest(&path)?;
        if got != *sha256 {
            find("signature-digest", name, got.to_string(), sha256.to_string());
        }
    }
    for name in strangers(&place, "", statement)? {
        find("signature-extra", &name, "a file that was not signed".to_owned(), "no such file".to_owned());
    }
    Ok(findings)
}

/// Files below a folder that are neither signed nor passed over.
fn strangers(place: &Utf8Path, below: &str, statement: &Statement) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for name in names(&place.join(below))? {
        let name = if below.is_empty() { name } else { format!("{below}/{name}") };
        // The signature of a model is never in it, whatever its maker called the file.
        if statement.ignores(&name) || statement.sha256(&name).is_some() || name == SIGNATURE_FILE {
            continue;
        }
        if regular_or_folder(&place.join(&name))? {
            found.push(name);
        } else {
            found.extend(strangers(place, &name, statement)?);
        }
    }
    Ok(found)
}

/// Names in a folder, sorted.
fn names(folder: &Utf8Path) -> anyhow::Result<Vec<String>> {
    let entries = folder.read_dir_utf8().with_context(|| format!("{folder}: cannot be opened"))?;
    let names = entries.map(|entry| entry.map(|entry| entry.file_name().to_owned()));
    let mut names: Vec<_> = names.collect::<Result<_, _>>().with_context(|| format!("{folder}"))?;
    names.sort();
    Ok(names)
}

/// True for a regular file, false for a folder. The public tool refuses a directory with anything else in it.
fn regular_or_folder(path: &Utf8Path) -> anyhow::Result<bool> {
    let kind = path.symlink_metadata().with_context(|| format!("{path}: cannot be opened"))?.file_type();
    if !kind.is_file() && !kind.is_dir() {
        return Err(anyhow!("{path}: got a link or a special file, expected a regular one"));
    }
    Ok(kind.is_file())
}

fn digest(path: &Utf8Path) -> anyhow::Result<Digest> {
    let mut file = model_assets::regular::open(path).with_context(|| format!("{path}: cannot be opened"))?;
    Digest::of_reader(&mut file).with_context(|| format!("{path}: cannot be read"))
}
