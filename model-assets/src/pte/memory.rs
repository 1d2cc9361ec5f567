//! X15: tensors that live at the same time in the same planned bytes.
//!
//! Views share bytes on purpose. Those that the runtime makes are one group with their source; those that the exporter
//! removed lie exactly where their source does, and nothing writes them.
//!
//! What shares bytes computes nonsense; that is a warning. It is refused where the nonsense could become an index or
//! leaves the method: kernels read and write where integers say.

use std::collections::HashSet;

use super::check_id::CheckId::X15;
use super::program::{ExecutionPlan, Instruction, Value, operator_name};
use super::report::{Place, Report, Severity};
use super::value::{TensorFacts, index};
use super::{kernels, limits, view, xnn};

struct Span {
    value: usize,
    memory: u32,
    start: u64,
    end: u64,
    first: usize,
    last: usize,
    group: usize,
    /// Whether an instruction writes it, or the caller.
    written: bool,
    /// Whether it holds integers, or crosses the method's border.
    grave: bool,
}

pub(super) fn check(
    plan: &ExecutionPlan<'_>,
    facts: &TensorFacts,
    delegates: &[xnn::Findings],
    at: &Place<'_>,
    report: &mut Report,
) {
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
    let written = written(plan, delegates, instructions);
    let mut spans = spans(plan, facts, instructions, &written);
    spans.sort_by_key(|span| (span.memory, span.start));
    compare(&spans, at, report);
}

/// Values that instructions or the caller write.
fn written(
    plan: &ExecutionPlan<'_>,
    delegates: &[xnn::Findings],
    instructions: &[Instruction],
) -> HashSet<usize> {
    let mut written: HashSet<usize> = plan.inputs.iter().map(|&input| index(input)).collect();
    for instruction in instructions {
        match instruction {
            Instruction::Kernel { operator, args: Some(args) } => {
                let name = plan.operators.get(index(*operator)).and_then(operator_name);
                let schema = name.as_deref().and_then(kernels::schema);
                let arguments = args.iter().zip(schema.iter().flat_map(|schema| &schema.args));
                for (&arg, _) in arguments.filter(|(_, argument)| argument.is_written()) {
                    written.insert(index(arg));
                    if let Some(Value::TensorList(items)) = plan.values.get(index(arg)) {
                        written.extend(items.iter().map(|&item| index(item)));
                    }
                }
            }
            Instruction::Delegate { delegate, args: Some(args) } => {
                let Some(found) = delegates.get(index(*delegate)) else { continue };
                let outputs =
                    args.iter().enumerate().filter(|(position, _)| found.written.contains(position));
                written.extend(outputs.map(|(_, &arg)| index(arg)));
            }
            _ => {}
        }
    }
    written
}

fn spans(
    plan: &ExecutionPlan<'_>,
    facts: &TensorFacts,
    instructions: &[Instruction],
    written: &HashSet<usize>,
) -> Vec<Span> {
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
                if let Some((source, view)) = view::pair(plan, *operator, args) {
                    join(source, view, &mut groups);
                }
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
        let at_border = plan.inputs.iter().chain(&plan.outputs).any(|&end| index(end) == value);
        let integers = matches!(facts.dtype, 0..=4 | 11 | 27..=29);
        spans.push(Span {
            value,
            memory: allocation.memory,
            start: allocation.offset,
            end,
            first,
            last,
            group,
            written: written.contains(&value),
            grave: at_border || integers,
        });
    }
    spans
}

/// A view and its source are one group.
fn join(source: usize, view: usize, groups: &mut [usize]) {
    let group = groups.get(source).copied();
    if let (Some(group), Some(slot)) = (group, groups.get_mut(view)) {
        *slot = group;
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
            // A view that the exporter removed leaves two tensors with the very same bytes, of which nothing writes one.
            let same_bytes =
                (one.start, one.end) == (other.start, other.end) && !(one.written && other.written);
            if one.group == other.group || same_bytes || one.last < other.first || other.last < one.first {
                continue;
            }
            named = named.saturating_add(1);
            let got = format!("bytes {} to {} of buffer {}", other.start, one.end.min(other.end), one.memory);
            let message =
                format!("shares planned bytes with value {}, which lives at the same time", one.value);
            let severity = if one.grave || other.grave { Severity::Reject } else { Severity::Warn };
            report.add(severity, X15, &at.at("value", other.value), message, got, "bytes of its own");
        }
    }
}
