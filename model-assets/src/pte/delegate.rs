//! Delegates: which backend, where the blob is, who calls it with what, and what is inside.

use super::check_id::CheckId::{C0, D1, D2, D3, D4, D5, D6, D7, D8, D9, D10, G12, L2};
use super::expect::{Expect, Operators};
use super::program::{Delegate, ExecutionPlan, Instruction, Program, Value};
use super::read::ReadAt;
use super::report::{Place, Report};
use super::segment::Segments;
use super::value::{TensorFacts, index};
use super::{limits, summary, xnn};

const XNNPACK: &str = "XnnpackBackend";

/// Checks all delegates of a method. One entry per delegate.
pub(super) fn check(
    file: &dyn ReadAt,
    (program, segments): (&Program<'_>, &mut Segments<'_>),
    (plan, facts): (&ExecutionPlan<'_>, &TensorFacts),
    expect: &Expect,
    at: &Place<'_>,
    report: &mut Report,
) -> Vec<xnn::Findings> {
    let mut found = Vec::new();
    for (number, delegate) in plan.delegates.iter().enumerate() {
        let at = at.at("delegate", number);
        check_id(delegate, expect, &at, report);
        check_specs(delegate, &at, report);
        let calls = calls(plan, number);
        if calls.is_empty() {
            report.reject(D10, &at, "the delegate is never called", 0, "at least one call");
        }
        let range = locate(program, segments, delegate, &at, report);
        if let (Some((_, index)), true) = (delegate.data.filter(|data| data.0 == 1), range.is_some()) {
            segments.use_by(index, format!("delegate {}/{number}", plan.name.unwrap_or_default()));
        }
        let mut one = xnn::Findings::default();
        if let Some((start, bytes)) = range {
            one.summary.blob_bytes = bytes;
            let args: Vec<Vec<xnn::Argument>> =
                calls.iter().map(|call| arguments(plan, facts, call)).collect();
            if delegate.id == Some(XNNPACK)
                && let Some(inside) = read(file, (start, bytes), segments, &args, &at, report)
            {
                one = inside;
            }
        }
        check_admitted(&one, expect, &at, report);
        delegate.id.unwrap_or_default().clone_into(&mut one.summary.backend);
        found.push(one);
    }
    found
}

/// G12.
fn check_admitted(found: &xnn::Findings, expect: &Expect, at: &Place<'_>, report: &mut Report) {
    for (node, &number) in &found.nodes {
        if let Operators::Admitted(table) = expect.operators
            && !table.nodes.contains(node)
        {
            let expected = "a node that the worker's exports have (cargo xtask dev operators)";
            report.reject(G12, &at.at("node", number), "no model of the family has this", node, expected);
        }
        report.calls.nodes.insert(node.clone());
    }
}

/// D1.
fn check_id(delegate: &Delegate<'_>, expect: &Expect, at: &Place<'_>, report: &mut Report) {
    let id = delegate.id.unwrap_or_default();
    let linked = expect.kernels.as_ref().map(|table| table.backends.as_slice()).unwrap_or_default();
    let allowed = |list: &[String]| list.is_empty() || list.iter().any(|backend| backend == id);
    if id.is_empty() {
        report.reject(D1, at, "no backend", "none", "a backend id");
    } else if !allowed(&expect.backends) {
        report.reject(D1, at, "the backend is not allowed", id, expect.backends.join(", "));
    } else if !allowed(linked) {
        report.reject(D1, at, "the backend is not linked", id, linked.join(", "));
    } else if id != XNNPACK {
        report.warn(D1, at, "the inside of this backend's data is not checked", id, XNNPACK);
    }
}

/// D5 to D7.
fn check_specs(delegate: &Delegate<'_>, at: &Place<'_>, report: &mut Report) {
    for (number, &(key, value)) in delegate.specs.iter().enumerate() {
        let at = at.at("compile spec", number);
        if key.is_none_or(str::is_empty) && !value {
            report.reject(D5, &at, "the compile spec is empty", "neither key nor value", "both");
        } else if key.is_none_or(str::is_empty) {
            report.reject(D6, &at, "no key", "none", "a key");
        } else if !value {
            report.reject(D7, &at, "no value", "null", "a vector, even an empty one");
        }
    }
}

/// The argument lists of all calls of a delegate.
fn calls<'p>(plan: &'p ExecutionPlan<'_>, number: usize) -> Vec<&'p [i32]> {
    let instructions = plan.chains.iter().flat_map(|chain| chain.instructions.iter().flatten());
    instructions
        .filter_map(|instruction| match instruction {
            Instruction::Delegate { delegate, args } if index(*delegate) == number => {
                Some(args.as_deref().unwrap_or_default())
            }
            _ => None,
        })
        .collect()
}

fn arguments(plan: &ExecutionPlan<'_>, facts: &TensorFacts, call: &[i32]) -> Vec<xnn::Argument> {
    let describe = |&value: &i32| {
        let tensor = facts.get(index(value)).and_then(Option::as_ref);
        xnn::Argument {
            kind: plan.values.get(index(value)).map_or("missing", Value::kind),
            tensor: tensor.map(|facts| (facts.dtype, facts.elements, facts.sizes.len())),
            constant: tensor.is_some_and(|facts| facts.constant),
        }
    };
    call.iter().map(describe).collect()
}

/// D2 to D4, D8, D9: absolute offset and length of the blob.
fn locate(
    program: &Program<'_>,
    segments: &Segments<'_>,
    delegate: &Delegate<'_>,
    at: &Place<'_>,
    report: &mut Report,
) -> Option<(u64, u64)> {
    let Some((location, number)) = delegate.data else {
        report.reject(D2, at, "no reference to data", "null", "a reference");
        return None;
    };
    let slot = usize::try_from(number).ok()?;
    let range = match location {
        0 => program
            .inline_delegates
            .get(slot)
            .map(|&(start, length)| Some((u64::try_from(start).ok()?, u64::try_from(length).ok()?))),
        1 => segments.ranges.get(slot).copied(),
        _ => {
            report.reject(D3, at, "location of the data", location, "0 (inline) or 1 (segment)");
            return None;
        }
    };
    let Some(range) = range else {
        let count = if location == 0 { program.inline_delegates.len() } else { segments.ranges.len() };
        report.reject(D4, at, "no such data", number, format!("< {count}"));
        return None;
    };
    let (start, bytes) = range?;
    if bytes == 0 {
        report.reject(D9, at, "the delegate's data is empty", "0 bytes", "a blob");
        return None;
    }
    if bytes > limits::DELEGATE_BLOB_BYTES_MAX {
        report.reject(L2, at, "the delegate's data is too long", bytes, limits::DELEGATE_BLOB_BYTES_MAX);
        return None;
    }
    let users =
        if location == 1 { segments.users.get(slot).map(Vec::as_slice).unwrap_or_default() } else { &[] };
    let other = users.iter().find(|user| !user.starts_with("delegate "));
    let inside = segments.inside.get(slot).copied().flatten().filter(|_| location == 1);
    if let Some(other) = other {
        report.reject(D8, at, "the segment holds something else too", other, "a segment of its own");
    } else if let Some(outer) = inside {
        report.reject(D8, at, "the blob lies inside another segment", outer, "a segment of its own");
    }
    Some((start, bytes))
}

fn read(
    file: &dyn ReadAt,
    (start, bytes): (u64, u64),
    segments: &Segments<'_>,
    calls: &[Vec<xnn::Argument>],
    at: &Place<'_>,
    report: &mut Report,
) -> Option<xnn::Findings> {
    let mut blob = vec![0; usize::try_from(bytes).ok()?];
    if let Err(error) = file.read_exact_at(&mut blob, start) {
        report.reject(C0, at, "the blob cannot be read", error, format!("{bytes} bytes at {start}"));
        return None;
    }
    let mut found = None;
    // Without a call the graph is still checked, only not against arguments.
    let lists = calls.iter().map(|args| Some(args.as_slice())).chain(calls.is_empty().then_some(None));
    for args in lists {
        found = xnn::check(&blob, start, segments, args, at, report);
    }
    found
}

/// The summary row of each delegate.
pub(super) fn summary(found: &[xnn::Findings]) -> Vec<summary::Delegate> {
    found.iter().map(|one| one.summary.clone()).collect()
}
