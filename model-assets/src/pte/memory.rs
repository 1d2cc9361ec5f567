//! X15: tensors that live at the same time in the same planned bytes.
//!
//! Views and in-place results share bytes on purpose, so kernels that are known to alias join their tensors into one
//! group. It is a warning: the exporter's planner is trusted, this finds what changed after it.

use super::check_id::CheckId::X15;
use super::instruction::operator_name;
use super::limits;
use super::program::{Instruction, Plan, Value};
use super::report::{Place, Report};
use super::value::{TensorFacts, index};

struct Span {
    value: usize,
    memory: u32,
    start: u64,
    end: u64,
    first: usize,
    last: usize,
    group: usize,
}

pub(super) fn check(plan: &Plan<'_>, facts: &TensorFacts, at: &Place<'_>, report: &mut Report) {
    let [chain] = plan.chains.as_slice() else { return };
    let instructions = chain.instructions.as_deref().unwrap_or_default();
    let branches = |instruction: &Instruction| {
        matches!(
            instruction,
            Instruction::JumpFalse { .. } | Instruction::Move { .. } | Instruction::Free { .. }
        )
    };
    // Without straight-line code, "at the same time" has no simple meaning.
    if instructions.iter().any(branches) {
        return;
    }
    let mut spans = spans(plan, facts, instructions);
    spans.sort_by_key(|span| (span.memory, span.start));
    compare(&spans, at, report);
}

fn spans(plan: &Plan<'_>, facts: &TensorFacts, instructions: &[Instruction]) -> Vec<Span> {
    let count = plan.values.len();
    let mut uses: Vec<Option<(usize, usize)>> = vec![None; count];
    let mut groups: Vec<usize> = (0..count).collect();
    let mut touch = |value: usize, time: usize| {
        if let Some(slot) = uses.get_mut(value) {
            *slot = Some(slot.map_or((time, time), |(first, last)| (first.min(time), last.max(time))));
        }
    };
    for (time, instruction) in instructions.iter().enumerate() {
        let time = time.saturating_add(1);
        let args = match instruction {
            Instruction::Kernel { operator, args: Some(args) } => {
                join_views(plan, *operator, args, &mut groups);
                args
            }
            Instruction::Delegate { args: Some(args), .. } => args,
            _ => continue,
        };
        for &arg in args {
            touch(index(arg), time);
            if let Some(Value::TensorList(items) | Value::OptionalTensorList(items)) =
                plan.values.get(index(arg))
            {
                items.iter().for_each(|&item| touch(index(item), time));
            }
        }
    }
    let end = instructions.len().saturating_add(1);
    plan.inputs.iter().for_each(|&input| touch(index(input), 0));
    plan.outputs.iter().for_each(|&output| touch(index(output), end));
    let mut spans = Vec::new();
    for (value, used) in uses.iter().enumerate() {
        let (Some(Value::Tensor(tensor)), Some((first, last))) = (plan.values.get(value), *used) else {
            continue;
        };
        let (Some(allocation), Some(Some(facts))) = (tensor.allocation, facts.get(value)) else { continue };
        if facts.bytes == 0 {
            continue;
        }
        let end = allocation.offset.saturating_add(facts.bytes);
        let group = groups.get(value).copied().unwrap_or(value);
        spans.push(Span {
            value,
            memory: allocation.memory,
            start: allocation.offset,
            end,
            first,
            last,
            group,
        });
    }
    spans
}

/// A view and its source are one group.
fn join_views(plan: &Plan<'_>, operator: i32, args: &[i32], groups: &mut [usize]) {
    let name = plan.operators.get(index(operator)).and_then(operator_name).unwrap_or_default();
    if name != "executorch_prim::et_view.default" {
        return;
    }
    if let (Some(&source), Some(&view)) = (args.first(), args.last()) {
        let group = groups.get(index(source)).copied();
        if let (Some(group), Some(slot)) = (group, groups.get_mut(index(view))) {
            *slot = group;
        }
    }
}

fn compare(spans: &[Span], at: &Place<'_>, report: &mut Report) {
    let (mut compared, mut named) = (0_usize, 0_usize);
    for (number, one) in spans.iter().enumerate() {
        for other in spans.iter().skip(number.saturating_add(1)) {
            if other.memory != one.memory || other.start >= one.end {
                break;
            }
            compared = compared.saturating_add(1);
            if compared > limits::OVERLAP_PAIRS_MAX || named >= limits::OVERLAP_FINDINGS_MAX {
                return;
            }
            // A view that the exporter removed leaves two tensors with the very same bytes.
            let same_bytes = (one.start, one.end) == (other.start, other.end);
            if one.group == other.group || same_bytes || one.last < other.first || other.last < one.first {
                continue;
            }
            named = named.saturating_add(1);
            let got = format!("bytes {} to {} of buffer {}", other.start, one.end.min(other.end), one.memory);
            let message =
                format!("shares planned bytes with value {}, which lives at the same time", one.value);
            report.warn(X15, &at.at("value", other.value), message, got, "bytes of its own");
        }
    }
}
