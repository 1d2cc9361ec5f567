//! Where tensors have their bytes: planned memory, and slots of the constant tables.

use super::Facts;
use crate::pte::check_id::CheckId::{M1, M2, M3, T9, T10, T14, T15, T16};
use crate::pte::program::{ExecutionPlan, Program, Subsegment, Tensor, Value};
use crate::pte::report::{Place, Report, Severity};
use crate::pte::segment::Segments;
use crate::pte::{dtype, limits};

/// T9, T10, T14 to T16.
pub(super) fn check_storage(
    program: &Program<'_>,
    segments: &Segments<'_>,
    plan: &ExecutionPlan<'_>,
    (tensor, mut facts, fed): (&Tensor<'_>, Facts, bool),
    at: &Place<'_>,
    report: &mut Report,
) -> Facts {
    if let Some(allocation) = tensor.allocation {
        check_planned(plan, allocation.memory, allocation.offset, facts.bytes, at, report);
    }
    if tensor.buffer == 0 {
        if tensor.allocation.is_none() && !fed && facts.elements > 0 {
            report.reject(
                T16,
                at,
                "the tensor has no data",
                "neither constant nor planned nor fed nor written first",
                "one of them",
            );
        }
        return facts;
    }
    let table =
        if tensor.allocation.is_some() { program.mutables.first() } else { program.constants.as_ref() };
    facts.constant = tensor.allocation.is_none();
    facts.constant_at = table.and_then(|table| {
        let slot = check_slot(table, segments, tensor.buffer, facts.bytes, at, report)?;
        segments.range(table.segment)?.0.checked_add(slot)
    });
    if table.is_none() {
        report.reject(T14, at, "constant without a table", tensor.buffer, "a constant table");
    }
    facts
}

fn check_planned(
    plan: &ExecutionPlan<'_>,
    memory: u32,
    offset: u64,
    bytes: u64,
    at: &Place<'_>,
    report: &mut Report,
) {
    let buffer = usize::try_from(memory).ok().filter(|&memory| memory >= 1);
    let Some(&size) = buffer.and_then(|memory| plan.planned.get(memory)) else {
        report.reject(T9, at, "memory id", memory, format!("1 to {}", plan.planned.len().saturating_sub(1)));
        return;
    };
    let end = offset.checked_add(bytes);
    if end.is_none_or(|end| i64::try_from(end).map_or(true, |end| end > size)) {
        report.reject(
            T10,
            at,
            "planned beyond its buffer",
            format!("{offset} + {bytes}"),
            format!("≤ {size}"),
        );
    } else if !offset.is_multiple_of(limits::ALIGNMENT_BYTES) {
        report.reject(T10, at, "planned without alignment", offset, "a multiple of 16");
    }
}

fn check_slot(
    table: &Subsegment,
    segments: &Segments<'_>,
    buffer: u32,
    bytes: u64,
    at: &Place<'_>,
    report: &mut Report,
) -> Option<u64> {
    let (_, size) = segments.range(table.segment)?;
    let Some(&start) = usize::try_from(buffer).ok().and_then(|buffer| table.offsets.get(buffer)) else {
        report.reject(T14, at, "constant index", buffer, format!("< {}", table.offsets.len()));
        return None;
    };
    // The offsets ascend (S8), so the slot ends at the first one that is larger.
    let next = table.offsets.partition_point(|&offset| offset <= start);
    let slot = table.offsets.get(next).copied().unwrap_or(size).saturating_sub(start);
    if bytes > slot {
        report.reject(T15, at, "the constant is longer than its slot", bytes, format!("≤ {slot} bytes"));
    } else if bytes > 0 && slot.saturating_sub(bytes) >= limits::CONSTANT_SLACK_BYTES_MAX {
        report.reject(
            T15,
            at,
            "the constant leaves bytes of its slot unused",
            bytes,
            format!("{slot} bytes"),
        );
    }
    Some(start)
}

/// M1 to M3.
pub(super) fn check_memory(plan: &ExecutionPlan<'_>, at: &Place<'_>, report: &mut Report) {
    let at = at.part("planned memory");
    for (number, &size) in plan.planned.iter().enumerate() {
        if size < 0 || (number == 0 && size != 0) {
            let expected = if number == 0 { "0" } else { "≥ 0" };
            report.reject(M1, &at, format!("size of buffer {number}"), size, expected);
        }
    }
    for &(buffer, kind, device) in &plan.devices {
        if kind != 0 || device != 0 {
            report.reject(
                M2,
                &at,
                format!("device of buffer {buffer}"),
                format!("{kind}:{device}"),
                "0:0 (CPU)",
            );
        }
    }
    let mut reached = vec![0_u64; plan.planned.len()];
    for value in &plan.values {
        let Value::Tensor(tensor) = value else { continue };
        let Some(allocation) = tensor.allocation else { continue };
        let sizes = tensor.sizes.iter().flatten().map(|&size| u64::try_from(size).ok());
        let elements = sizes.into_iter().try_fold(1_u64, |product, size| product.checked_mul(size?));
        let bytes = dtype::program(tensor.dtype).and_then(|(_, width)| elements?.checked_mul(width));
        let end = bytes.and_then(|bytes| bytes.checked_add(allocation.offset)).unwrap_or(u64::MAX);
        let memory = usize::try_from(allocation.memory).unwrap_or(usize::MAX);
        if let Some(reached) = reached.get_mut(memory) {
            *reached = end.max(*reached);
        }
    }
    for (number, (&size, &used)) in plan.planned.iter().zip(&reached).enumerate() {
        let size = u64::try_from(size).unwrap_or(0);
        let bound = used.saturating_mul(limits::PLANNED_SLACK_FACTOR).max(limits::PLANNED_SLACK_BYTES_MIN);
        if size > bound {
            let message = format!("buffer {number} is far larger than what uses it");
            let excessive = size > limits::PLANNED_SLACK_BYTES_MAX;
            let severity = if excessive { Severity::Reject } else { Severity::Warn };
            report.add(severity, M3, &at, message, size, format!("≤ {bound} bytes"));
        }
    }
}
