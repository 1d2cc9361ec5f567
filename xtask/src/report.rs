//! `cargo xtask report`: one page per model, for the decision to ship it.
//!
//! **Invariant:** verdicts are judged anew from the bytes when the page is made; a failed one is shown, not hidden.
//!
//! **Invariant:** the page is one file that loads nothing and runs nothing.

mod html;
mod measured;
mod missed;

use std::fs;

use anyhow::Context as _;
use camino::Utf8PathBuf;
use model_assets::{
    check::{self, Profile, Refusal},
    claim::Claim,
    digest::Digest,
    dir::ModelDir,
    eq,
    ledger::Check,
    recipe::EvidenceKind,
    regular,
};

use self::html::{Page, escape};
use crate::{
    evidence::eq::Transcript,
    exit::Outcome,
    published::Published,
    refused::{self, Refused},
    workspace::Workspace,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model: a directory of `model-assets/models`
    #[arg(default_value = "tiny")]
    model: String,
    /// Where to write the page [default: .proofmark/report/MODEL.html]
    #[arg(long, value_name = "FILE")]
    out: Option<Utf8PathBuf>,
    /// Use the rehearsal of the model
    #[arg(long)]
    rehearsed: bool,
}

/// All that a page shows.
struct Report {
    claim: Claim,
    /// The verdict for each kind of build, with the checks that it is made of.
    verdicts: Vec<(Profile, Result<Vec<Check>, Refusal>)>,
    transcript: Option<Transcript>,
    /// What was measured last and refused.
    refused: Option<Refused>,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Outcome {
    let model = Published::open(workspace, &args.model, args.rehearsed)?;
    let proof = model.prove()?;
    let Published { dir, claim, .. } = model;
    let verdicts = [Profile::Dev, Profile::Release].map(|profile| {
        (profile, proof.proved().judge(&claim, profile).map(|validated| validated.checks().to_vec()))
    });
    let verdicts = verdicts.to_vec();
    let transcript = transcript(&dir, &claim);
    let refused = refused::read(&dir, &claim);
    let page = page(&missed::with_refused_figures(Report { claim, verdicts, transcript, refused }))?;
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| workspace.state().join("report").join(format!("{}.html", args.model)));
    if let Some(folder) = out.parent().filter(|folder| !folder.as_str().is_empty()) {
        fs::create_dir_all(folder).with_context(|| format!("{folder}: cannot be made"))?;
    }
    fs::write(&out, page).with_context(|| format!("{out}: cannot be written"))?;
    println!("{out}");
    Ok(())
}

/// The transcript that the evidence names; another file of that name is none.
fn transcript(dir: &ModelDir, claim: &Claim) -> Option<Transcript> {
    let named = claim.manifest.evidence.as_ref()?.eq.as_ref()?.transcript;
    let path = dir.resolve(eq::TRANSCRIPT_FILE, named);
    let bytes = regular::read(&path, eq::TRANSCRIPT_BYTES_MAX).ok()?;
    if Digest::of(&bytes) != named {
        return None;
    }
    serde_json::from_slice(&bytes).ok()
}

fn page(report: &Report) -> anyhow::Result<String> {
    let mut page = Page::new();
    head(&mut page, report);
    verdicts(&mut page, report);
    for kind in EvidenceKind::ALL {
        measured::section(&mut page, report, kind)?;
        missed::note(&mut page, report, kind);
    }
    structure(&mut page, &report.claim);
    provenance(&mut page, &report.claim);
    Ok(page.finish(&format!("{}: what is proved", report.claim.recipe.name)))
}

/// Every section, by the name of its place in the page.
fn sections() -> impl Iterator<Item = (&'static str, &'static str)> {
    let kinds = EvidenceKind::ALL.into_iter().map(|kind| (kind.as_str(), kind.facts().title));
    let rest = [("census", "Weights and operators"), ("memory", "Memory plan"), ("provenance", "Provenance")];
    [("verdicts", "Verdicts")].into_iter().chain(kinds).chain(rest)
}

fn begin(page: &mut Page, id: &str) {
    let title = sections().find(|(known, _)| *known == id).map_or(id, |(_, title)| title);
    page.section(id, title);
}

fn head(page: &mut Page, report: &Report) {
    let Claim { recipe, manifest, .. } = &report.claim;
    page.raw(&format!("<header><h1>{}</h1>", escape(&recipe.name)));
    page.text(&recipe.description);
    page.raw(&format!(
        "<p class=\"soft\"><code>{}</code>, published {}</p></header>",
        escape(&manifest.file),
        escape(&manifest.published)
    ));
    let unmet = manifest.prd_findings(&report.claim.policy);
    let passed = |profile| {
        let verdict = report.verdicts.iter().find(|(known, _)| *known == profile);
        let holds = verdict.is_some_and(|(_, verdict)| verdict.is_ok());
        if holds { "✓ accepted" } else { "✗ refused" }.to_owned()
    };
    page.cards(&[
        ("release build", passed(Profile::Release)),
        ("dev build", passed(Profile::Dev)),
        ("size", megabytes(manifest.file_bytes)),
        (
            "weights",
            format!("{} × {}", millions(manifest.export.parameters), manifest.export.quantization.as_str()),
        ),
        ("window", format!("{} tokens", manifest.export.seq_len)),
        ("product requirements", if unmet.is_empty() { "met" } else { "not met" }.to_owned()),
    ]);
    page.raw("<nav aria-label=\"Sections\"><ul>");
    for (id, title) in sections() {
        page.raw(&format!("<li><a href=\"#{id}\">{}</a></li>", escape(title)));
    }
    page.raw("</ul></nav>");
}

fn verdicts(page: &mut Page, report: &Report) {
    begin(page, "verdicts");
    for (profile, verdict) in &report.verdicts {
        match verdict {
            Ok(checks) => {
                let (profile, checks) = (profile.as_str(), checks.len());
                page.text(format!("A {profile} build takes this model: {checks} checks passed."))
            }
            Err(refusal) => {
                page.text(format!("A {} build refuses this model; {}", profile.as_str(), refusal.hint));
                let row = |finding: &check::Finding| {
                    [&finding.id, &finding.location, &finding.got, &finding.expected]
                        .map(String::clone)
                        .to_vec()
                };
                let rows: Vec<_> = refusal.reasons().map(row).collect();
                let caption = format!("Why a {} build refuses it", profile.as_str());
                page.table(&caption, &["check", "where", "got", "expected"], &rows);
            }
        }
    }
    let unmet = report.claim.manifest.prd_findings(&report.claim.policy);
    unmet.iter().for_each(|reason| page.text(format!("Requirement not met: {reason}")));
    let row = |check: &Check| {
        vec![Page::verdict(check.passed), escape(&check.id), escape(&check.got), escape(&check.expected)]
    };
    for (profile, verdict) in &report.verdicts {
        let checks = verdict.as_ref().unwrap_or_else(|refusal| &refusal.checks);
        let rows: Vec<_> = checks.iter().map(row).collect();
        let profile = profile.as_str();
        page.raw(&format!("<details><summary>Every check of a {profile} build</summary>"));
        page.markup_table(
            &format!("Checks of a {profile} build"),
            &["verdict", "check", "got", "expected"],
            &rows,
        );
        page.raw("</details>");
    }
}

fn structure(page: &mut Page, claim: &Claim) {
    let it = &claim.manifest.structure;
    begin(page, "census");
    page.text(format!(
        "{} delegate partitions ({}) hold {} linear layers, {} of the weight bytes and {} of the multiplications.",
        it.partitions,
        it.backends.join(", "),
        it.delegated_linears,
        percent(it.delegated_weight_share),
        percent(it.delegated_mac_share)
    ));
    let row = |row: &model_assets::pte::summary::WeightRow| {
        vec![
            if row.delegated { "delegate" } else { "program" }.to_owned(),
            row.role.clone(),
            row.dtype.clone(),
            row.tensors.to_string(),
            row.params.to_string(),
            row.bytes.to_string(),
        ]
    };
    let rows: Vec<_> = it.weights.iter().map(row).collect();
    page.table("Quantization census", &["place", "role", "dtype", "tensors", "parameters", "bytes"], &rows);
    page.text(format!("Operators outside delegates: {}.", it.operators.join(", ")));
    begin(page, "memory");
    let load = claim.manifest.evidence.as_ref().and_then(|evidence| evidence.load.as_ref());
    let mut rows = vec![
        vec!["planned by the program (activations and cache)".to_owned(), megabytes(it.planned_bytes)],
        vec!["allowed by the recipe".to_owned(), megabytes(claim.recipe.limits.planned_bytes_max)],
        vec!["program without weights".to_owned(), megabytes(it.program_bytes)],
        vec!["file".to_owned(), megabytes(claim.manifest.file_bytes)],
    ];
    rows.extend(load.map(|load| {
        vec!["peak of a process that loads and runs it".to_owned(), megabytes(load.peak_rss_bytes)]
    }));
    page.table("Memory", &["what", "size"], &rows);
}

fn provenance(page: &mut Page, claim: &Claim) {
    begin(page, "provenance");
    let Claim { recipe, manifest, .. } = claim;
    let digest = |digest: Option<Digest>| digest.map_or("none".to_owned(), |digest| digest.to_string());
    let tools = &manifest.toolchain;
    let mut rows = vec![
        vec!["model".to_owned(), manifest.sha256.to_string()],
        vec!["recipe".to_owned(), manifest.bound.recipe.to_string()],
        vec!["policy".to_owned(), manifest.bound.policy.to_string()],
        vec!["tokenizer".to_owned(), digest(manifest.bound.tokenizer)],
        vec!["chat template".to_owned(), digest(manifest.bound.chat_template)],
        vec!["reference logits".to_owned(), manifest.reference.sha256.to_string()],
        vec!["export worker".to_owned(), tools.worker.to_string()],
        vec!["dependency lock".to_owned(), tools.lock.to_string()],
    ];
    let gguf = manifest.source.gguf.iter();
    rows.extend(gguf.map(|file| vec![format!("made from {}", file.name), file.sha256.to_string()]));
    rows.extend(manifest.source.files.iter().map(|file| vec![file.name.clone(), file.sha256.to_string()]));
    page.table("SHA-256", &["of", "digest"], &rows);
    let versions = [
        ("Python", &tools.python),
        ("torch", &tools.torch),
        ("torchao", &tools.torchao),
        ("ExecuTorch", &tools.executorch),
        ("safetensors", &tools.safetensors),
    ];
    let mut rows: Vec<_> = versions
        .iter()
        .map(|(name, version)| vec![(*name).to_owned(), format!("version {version}")])
        .collect();
    rows.push(vec!["source".to_owned(), format!("{:?}", manifest.source.source)]);
    rows.push(vec!["revision".to_owned(), tools.xtask_revision.clone().unwrap_or("outside git".to_owned())]);
    rows.push(vec!["licence".to_owned(), recipe.licence.id.clone()]);
    rows.extend(
        recipe.licence.attribution.iter().map(|words| vec!["must be shown".to_owned(), words.clone()]),
    );
    page.table("Made with", &["what", "value"], &rows);
    let row = |stage: &model_assets::manifest::Stage| {
        vec![stage.name.clone(), format!("{:.2}", stage.seconds), megabytes(stage.peak_rss_bytes)]
    };
    let rows: Vec<_> = manifest.export.stages.iter().map(row).collect();
    page.table("Stages of the export", &["stage", "seconds", "peak memory"], &rows);
}

fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn millions(count: u64) -> String {
    format!("{:.1} M", count as f64 / 1e6)
}

#[cfg(test)]
mod tests;
