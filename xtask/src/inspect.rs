//! `cargo xtask inspect`: a `.pte` file in readable form, or the model inside an app (a binary, package or folder).
//!
//! **Invariant:** what is shown was read by the verifier; a file that it refuses is shown as far as it can be read, and
//! the command fails.

mod app;
mod asset;
mod package;

use std::{fmt::Write as _, fs::File};

use anyhow::{Context as _, anyhow};
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{
    check::Profile,
    pte::{
        self, Expect, Level, ReadAt as _, Report, Summary,
        summary::{Delegate, Io, MethodSummary},
    },
    regular,
};
use serde_json::json;

use crate::exit::{Exit, Failure, Outcome, usage};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A `.pte` file, an app's binary, an `.apk`, `.aab` or `.ipa`, or an `.app` folder
    file: Utf8PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Also list every segment
    #[arg(long)]
    segments: bool,
    /// Of an app: refuse what may not reach users
    ///
    /// A model that is not proved for release, and libraries that phones with pages of 16 KiB cannot load.
    #[arg(long)]
    release: bool,
}

impl Args {
    /// As if `cargo xtask inspect FILE`, with `--release` or without, had been typed.
    pub(crate) fn of(file: Utf8PathBuf, release: bool) -> Self {
        Self { file, json: false, segments: false, release }
    }
}

pub(crate) fn run(args: &Args) -> Outcome {
    let path = &args.file;
    let profile = if args.release { Profile::Release } else { Profile::Dev };
    if path.is_dir() {
        return package::run_folder(path, profile, args.json);
    }
    let file = regular::open(path).with_context(|| format!("{path}: cannot be opened"))?;
    match kind(&file) {
        Kind::Pte if args.release => {
            usage("--release is about an app; of a model run: cargo xtask verify MODEL --level release")
        }
        Kind::Pte => {}
        Kind::Binary => return app::run(path, &file, profile, args.json),
        Kind::Archive => return package::run_zip(path, &file, profile, args.json),
    }
    let expect = Expect { kernels: Some(pte::linked_runtime().clone()), ..Expect::default() };
    let report = pte::verify(&file, Level::Structure, &expect);
    if args.json {
        let text = json!({
            "file": path, "accepted": report.is_accepted(), "findings": report.findings, "summary": report.summary,
        });
        println!("{}", serde_json::to_string_pretty(&text)?);
    } else {
        print!("{}", text(path, &report, args.segments)?);
    }
    if report.is_accepted() {
        return Ok(());
    }
    let error = anyhow!("{path}: got {} findings that reject, expected none", report.rejects().count());
    Err(Failure::new(Exit::Refused, error, format!("run: cargo xtask verify {path}")))
}

/// What a file is, by its first bytes.
enum Kind {
    Pte,
    Binary,
    Archive,
}

fn kind(file: &File) -> Kind {
    let mut head = [0; 4];
    // A file too short for a head is no binary; the verifier says what else is wrong with it.
    if file.read_exact_at(&mut head, 0).is_err() {
        return Kind::Pte;
    }
    match head {
        [0x7f, b'E', b'L', b'F']
        | [0xcf | 0xce, 0xfa, 0xed, 0xfe]
        | [0xca, 0xfe, 0xba, 0xbe | 0xbf]
        | [b'M', b'Z', ..] => Kind::Binary,
        [b'P', b'K', 3, 4] | [b'P', b'K', 5, 6] => Kind::Archive,
        _ => Kind::Pte,
    }
}

fn text(path: &Utf8Path, report: &Report, segments: bool) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    match &report.summary {
        None => writeln!(out, "{path}: cannot be read")?,
        Some(summary) => {
            head(&mut out, path, summary)?;
            summary
                .plans
                .iter()
                .filter(|plan| !is_constant(summary, plan))
                .try_for_each(|p| plan(&mut out, p))?;
            census(&mut out, summary)?;
            metadata(&mut out, summary)?;
            places(&mut out, summary, segments)?;
        }
    }
    if !report.findings.is_empty() {
        writeln!(out, "\nfindings")?;
        report.findings.iter().try_for_each(|finding| writeln!(out, "  {:?} {finding}", finding.severity))?;
    }
    Ok(out)
}

fn is_constant(summary: &Summary, plan: &MethodSummary) -> bool {
    summary.metadata.contains_key(&plan.name)
}

fn head(out: &mut String, path: &Utf8Path, summary: &Summary) -> std::fmt::Result {
    let Summary { file_bytes, program_bytes, segments, plans, metadata, .. } = summary;
    writeln!(
        out,
        "{path}: {file_bytes} bytes: program {program_bytes}, {} segments; {} methods, {} of them constants",
        segments.len(),
        plans.len(),
        metadata.len()
    )?;
    writeln!(
        out,
        "delegated: {:.2} % of the weight bytes, {:.2} % of the multiply-accumulates of forward ({} of {})",
        summary.delegated_weight_share() * 100.0,
        summary.delegated_mac_share() * 100.0,
        summary.delegated_macs,
        summary.macs
    )
}

fn plan(out: &mut String, plan: &MethodSummary) -> std::fmt::Result {
    let MethodSummary { name, inputs, outputs, operators, instructions, values, delegates, planned_bytes } =
        plan;
    writeln!(out, "\nmethod {name}: {values} values, {instructions} instructions")?;
    for (what, ends) in [("input", inputs), ("output", outputs)] {
        for (number, end) in ends.iter().enumerate() {
            writeln!(out, "  {what} {number}: {}", io(end))?;
        }
    }
    let total: u64 = planned_bytes.iter().sum();
    writeln!(out, "  planned memory: {total} bytes in {} buffers {planned_bytes:?}", planned_bytes.len())?;
    writeln!(out, "  outside delegates: {} operators", operators.len())?;
    for (operator, calls) in operators {
        writeln!(out, "    {calls:>5} × {operator}")?;
    }
    writeln!(out, "  delegates: {}", delegates.len())?;
    delegates.iter().enumerate().try_for_each(|(number, one)| delegate(out, number, one))
}

fn io(end: &Io) -> String {
    match &end.dtype {
        Some(dtype) => {
            format!("{} {dtype} {:?}{}", end.kind, end.shape, if end.dynamic { " (at most)" } else { "" })
        }
        None => end.kind.clone(),
    }
}

fn delegate(out: &mut String, number: usize, delegate: &Delegate) -> std::fmt::Result {
    let Delegate { backend, blob_bytes, nodes, weight_bytes, macs } = delegate;
    let count: u32 = nodes.values().sum();
    writeln!(
        out,
        "    {number}: {backend}, blob {blob_bytes} bytes, weights {weight_bytes} bytes, {macs} MACs, {count} nodes"
    )?;
    let nodes: Vec<_> = nodes.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    if nodes.is_empty() { Ok(()) } else { writeln!(out, "       {}", nodes.join(", ")) }
}

fn census(out: &mut String, summary: &Summary) -> std::fmt::Result {
    writeln!(out, "\nweights: {} bytes", summary.weight_bytes)?;
    writeln!(
        out,
        "  {:<10} {:<12} {:<8} {:>7} {:>14} {:>14}",
        "where", "role", "dtype", "tensors", "parameters", "bytes"
    )?;
    for row in &summary.weights {
        let place = if row.delegated { "delegated" } else { "outside" };
        writeln!(
            out,
            "  {place:<10} {:<12} {:<8} {:>7} {:>14} {:>14}",
            row.role, row.dtype, row.tensors, row.params, row.bytes
        )?;
    }
    for name in &summary.undelegated_linears {
        writeln!(out, "  a linear outside any delegate: {name}")?;
    }
    Ok(())
}

fn metadata(out: &mut String, summary: &Summary) -> std::fmt::Result {
    writeln!(out, "\nmetadata")?;
    summary.metadata.iter().try_for_each(|(name, value)| writeln!(out, "  {name} = {value}"))
}

fn places(out: &mut String, summary: &Summary, all: bool) -> std::fmt::Result {
    let shared = summary.segments.iter().filter(|segment| segment.inside.is_some()).count();
    writeln!(
        out,
        "\nsegments: {} from byte {}, {shared} inside another",
        summary.segments.len(),
        summary.segment_base_bytes
    )?;
    if !all {
        return Ok(());
    }
    for (number, segment) in summary.segments.iter().enumerate() {
        let inside = segment.inside.map(|outer| format!(" (inside {outer})")).unwrap_or_default();
        writeln!(
            out,
            "  {number}: {} bytes at {}{inside}: {}",
            segment.size_bytes,
            segment.offset_bytes,
            segment.users.join(", ")
        )?;
    }
    Ok(())
}
