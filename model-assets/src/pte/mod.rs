//! The `.pte` reader and verifier: what stands between an ExecuTorch program and the runtime.
//!
//! The runtime crashes, reads out of bounds or answers wrongly on files that it accepts. [`verify`] reads the head,
//! the program and the delegate blobs by position, checks every rule of [`CheckId`] on them, and touches the
//! weights only when asked to hash them.
//!
//! **Invariant:** no input makes this module panic, loop without bound or allocate beyond [`limits`].
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::unwrap_used, clippy::expect_used)]
#![deny(clippy::panic, clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)]

pub mod admitted;
mod census;
mod check_id;
mod container;
mod delegate;
mod dtype;
mod expect;
mod flat;
mod hash;
mod instruction;
mod judge;
mod kernels;
pub mod limits;
mod memory;
mod metadata;
mod number;
mod outline;
mod outside;
mod pattern;
mod program;
mod promise;
mod read;
mod report;
mod scalar;
mod segment;
mod shape;
pub mod summary;
mod taps;
mod value;
mod view;
pub(crate) mod witness;
mod xnn;

use std::collections::{BTreeSet, HashMap, HashSet};

pub use admitted::{Admitted, AdmittedTable, admitted};
pub use check_id::CheckId;
pub use expect::{Expect, Operators, Quantization};
pub use judge::names as judged_operators;
pub use kernels::{RuntimeTable, linked_runtime};
pub use outline::{Item, outline};
pub use read::ReadAt;
pub use report::{Finding, Report, Severity};
pub use summary::{MetaValue, Summary};
pub use taps::{LayerTaps, Tap, taps};

use census::Weights;
use container::Container;
use flat::{Fault, Flat};
use hash::Watch;
use program::{ExecutionPlan, Program};
use report::Place;
use segment::Segments;
use witness::Witness;

/// How much of the file to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Head, program and delegate blobs: milliseconds, whatever the size of the weights.
    Structure,
    /// The same, and every byte once: digests, scales, zero and non-finite weights.
    Hash,
}

/// Checks a file.
///
/// At [`Level::Hash`] the structure was read from bytes that were the same when they were hashed: the digest is of the
/// file that was checked. A file may change afterwards, so load from the same buffer, or compare the digest.
pub fn verify(file: &dyn ReadAt, level: Level, expect: &Expect) -> Report {
    let mut report = Report::default();
    let (whole, witness) = (file, Witness::new(file));
    let file: &dyn ReadAt = if level == Level::Hash { &witness } else { whole };
    let file_bytes = match file.len() {
        Ok(bytes) => bytes,
        Err(error) => {
            report.reject(CheckId::C0, &Place::root("file"), "the length cannot be read", error, "a file");
            return report;
        }
    };
    let program_bytes = container::check(file, file_bytes, &mut report)
        .and_then(|container| Some((container, read_program(file, &container, &mut report)?)));
    let done = program_bytes.as_ref().and_then(|(container, bytes)| {
        container::check_padding(file, container, &mut report);
        let program = parse_program(bytes, container, &mut report)?;
        container::check_headless(container, &program.segments, &mut report);
        let (segments, watches) = check_program(file, container, &program, expect, &mut report);
        Some((segments, watches))
    });
    if level == Level::Hash {
        match &done {
            Some((segments, watches)) => {
                let same = witness.into_same();
                hash::check(whole, file_bytes, (segments, watches), same, expect, &mut report);
            }
            None => hash::digest_only(whole, file_bytes, expect, &mut report),
        }
    }
    report
}

fn read_program(file: &dyn ReadAt, container: &Container, report: &mut Report) -> Option<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(container.program_bytes).ok()?];
    if let Err(error) = file.read_exact_at(&mut bytes, 0) {
        let expected = format!("{} bytes", container.program_bytes);
        report.reject(CheckId::C0, &Place::root("program"), "the program cannot be read", error, expected);
        return None;
    }
    Some(bytes)
}

/// P1 to P3, P7, P8.
fn parse_program<'a>(bytes: &'a [u8], container: &Container, report: &mut Report) -> Option<Program<'a>> {
    let at = Place::root("program");
    let flat = Flat::new(bytes, usize::try_from(container.head_bytes).ok()?);
    let program = match program::parse(&flat) {
        Ok(program) => program,
        Err(Fault::Malformed(what, offset)) => {
            report.reject(CheckId::P1, &at, what, format!("byte {offset}"), "a well-formed flatbuffer");
            return None;
        }
        Err(Fault::UnknownField(offset)) => {
            let got = format!("table at byte {offset}");
            report.reject(
                CheckId::P8,
                &at,
                "a field that the schema does not know",
                got,
                "the fields of version 0",
            );
            return None;
        }
    };
    if program.version != 0 {
        report.reject(CheckId::P2, &at, "schema version", program.version, 0);
    }
    if program.inline_constants > 0 {
        report.reject(CheckId::P3, &at, "constants inside the program", program.inline_constants, "none");
    }
    if let Some(offset) = flat.hidden_byte() {
        report.reject(CheckId::P7, &at, "hidden byte", format!("byte {offset}"), "zero");
    }
    Some(program)
}

/// What is added up over the methods.
#[derive(Default)]
struct Totals {
    weights: Weights,
    watches: Vec<Watch>,
    embeddings: Vec<(Vec<u64>, i8)>,
    keys: HashSet<String>,
    counted: HashMap<u64, ()>,
}

fn check_program<'a>(
    file: &dyn ReadAt,
    container: &Container,
    program: &Program<'a>,
    expect: &Expect,
    report: &mut Report,
) -> (Segments<'a>, Vec<Watch>) {
    metadata::check_names(program, expect, report);
    let mut segments = segment::check(file, container, program, report);
    let mut summary = Summary {
        file_bytes: container.file_bytes,
        program_bytes: container.program_bytes,
        segment_base_bytes: container.segment_base.unwrap_or(0),
        ..Summary::default()
    };
    let mut totals = Totals::default();
    for plan in &program.plans {
        check_plan(file, (program, &mut segments), plan, expect, (&mut summary, &mut totals), report);
    }
    finish(program, &segments, expect, (&mut summary, &totals), report);
    report.summary = Some(summary);
    (segments, totals.watches)
}

fn check_plan<'a>(
    file: &dyn ReadAt,
    (program, segments): (&Program<'a>, &mut Segments<'a>),
    plan: &ExecutionPlan<'a>,
    expect: &Expect,
    (summary, totals): (&mut Summary, &mut Totals),
    report: &mut Report,
) {
    let name = plan.name.unwrap_or_default();
    let at = Place::root_named("plan", name);
    let facts = value::check(program, segments, plan, &at, report);
    instruction::check(plan, &facts, expect, &at, report);
    let delegates = delegate::check(file, (program, segments), (plan, &facts), expect, &at, report);
    memory::check(plan, &facts, &delegates, &at, report);
    let outside = outside::survey(plan, &facts, &mut totals.counted);
    if let Some(constant) = metadata::constant(plan) {
        summary.metadata.insert(name.to_owned(), constant);
    }
    let planned_bytes: Vec<u64> =
        plan.planned.iter().skip(1).map(|&size| u64::try_from(size).unwrap_or(0)).collect();
    let planned = planned_bytes.iter().fold(0_u64, |sum, &size| sum.saturating_add(size));
    summary.planned_bytes = summary.planned_bytes.saturating_add(planned);
    for delegate in &delegates {
        totals.weights.merge(&delegate.weights);
        totals.watches.extend(delegate.watches.iter().cloned());
        totals.keys.extend(delegate.keys.iter().cloned());
    }
    totals.weights.merge(&outside.weights);
    totals.watches.extend(outside.watches);
    if name == "forward" {
        let macs = delegates.iter().fold(0_u64, |sum, delegate| sum.saturating_add(delegate.summary.macs));
        summary.delegated_macs = macs;
        summary.macs = macs.saturating_add(outside.macs);
        summary.partitions = u32::try_from(plan.delegates.len()).unwrap_or(u32::MAX);
        summary.delegated_linears =
            delegates.iter().fold(0, |sum, delegate| sum.saturating_add(delegate.linears));
        summary.two_row_linears =
            delegates.iter().fold(0, |sum, delegate| sum.saturating_add(delegate.two_row_linears));
        summary.undelegated_linears = outside.linears;
        let inside = delegates.iter().map(|delegate| delegate.summary.weight_bytes);
        summary.forward_read_bytes = inside.fold(outside.read_bytes, u64::saturating_add);
        totals.embeddings = outside.embeddings;
    }
    let instructions = plan.chains.iter().flat_map(|chain| chain.instructions.iter().flatten()).count();
    summary.plans.push(summary::MethodSummary {
        name: name.to_owned(),
        inputs: plan.inputs.iter().map(|&input| value::describe(plan, &facts, input)).collect(),
        outputs: plan.outputs.iter().map(|&output| value::describe(plan, &facts, output)).collect(),
        operators: outside.operators,
        instructions: u32::try_from(instructions).unwrap_or(u32::MAX),
        values: u32::try_from(plan.values.len()).unwrap_or(u32::MAX),
        delegates: delegate::summary(&delegates),
        planned_bytes,
    });
}

fn finish(
    program: &Program<'_>,
    segments: &Segments<'_>,
    expect: &Expect,
    (summary, totals): (&mut Summary, &Totals),
    report: &mut Report,
) {
    segments.check_used(report);
    let xnnpack_only = program
        .plans
        .iter()
        .flat_map(|plan| &plan.delegates)
        .all(|delegate| delegate.id.is_some_and(|id| id == "XnnpackBackend"));
    // Another backend may read named data in ways that are not known here.
    for (number, named) in program.named.iter().enumerate().filter(|_| xnnpack_only) {
        if let Some(key) = named.key.filter(|key| !totals.keys.contains(*key)) {
            let at = Place::root_at("named data", number);
            report.reject(CheckId::W4, &at, "no delegate uses the datum", key, "a user");
        }
    }
    let operators = summary.plans.iter().flat_map(|plan| plan.operators.keys().cloned());
    summary.operators = operators.collect::<BTreeSet<_>>().into_iter().collect();
    let backends = summary.plans.iter().flat_map(|plan| plan.delegates.iter().map(|one| one.backend.clone()));
    summary.backends = backends.collect::<BTreeSet<_>>().into_iter().collect();
    summary.segments = segments.summary();
    summary.weights = totals.weights.rows();
    summary.delegated_weight_bytes = totals.weights.bytes(true);
    summary.weight_bytes = summary.delegated_weight_bytes.saturating_add(totals.weights.bytes(false));
    metadata::check_promised(summary, expect, report);
    metadata::check_figures(summary, expect, report);
    metadata::check_contract(summary, expect, report);
    promise::check(summary, &totals.embeddings, expect, report);
}
