//! Values of a method: kinds, lists, tensors and the memory they are planned into.

mod storage;

use std::collections::HashSet;

use self::storage::{check_memory, check_storage};

use super::check_id::CheckId::{
    I1, I2, I3, I4, I5, T1, T2, T3, T4, T5, T6, T7, T8, T11, T12, T13, V1, V2, V3, V4, V5,
};
use super::program::{ExecutionPlan, Instruction, Program, Tensor, Value, operator_name};
use super::report::{Place, Report};
use super::segment::Segments;
use super::{dtype, kernels, limits, summary};

/// What is known of a tensor once its shape was checked.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) dtype: i8,
    pub(super) sizes: Vec<u64>,
    pub(super) elements: u64,
    pub(super) bytes: u64,
    /// Absolute file offset of a constant.
    pub(super) constant_at: Option<u64>,
    pub(super) constant: bool,
    /// Whether the shape may be smaller at run time.
    pub(super) dynamic: bool,
}

/// The tensors of a method by value index.
pub(super) type TensorFacts = Vec<Option<Facts>>;

pub(super) fn index(value: i32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

pub(super) fn check(
    program: &Program<'_>,
    segments: &Segments<'_>,
    plan: &ExecutionPlan<'_>,
    at: &Place<'_>,
    report: &mut Report,
) -> TensorFacts {
    let bound = written_or_fed(plan);
    let mut facts = Vec::new();
    for (number, value) in plan.values.iter().enumerate() {
        let at = at.at("value", number);
        check_kind(plan, value, &at, report);
        facts.push(match value {
            Value::Tensor(tensor) => {
                let facts = check_tensor(tensor, &at, report);
                facts.map(|facts| {
                    let fed = bound.contains(&number);
                    check_storage(program, segments, plan, (tensor, facts, fed), &at, report)
                })
            }
            _ => None,
        });
    }
    check_memory(plan, at, report);
    check_io(plan, at, report);
    facts
}

/// Values that get their data from the caller or by a move. The caller may lend memory to an output; nothing is in it before
/// an instruction writes it.
fn written_or_fed(plan: &ExecutionPlan<'_>) -> HashSet<usize> {
    let mut fed: HashSet<usize> =
        plan.inputs.iter().chain(&plan.outputs).map(|&value| index(value)).collect();
    let mut empty: HashSet<usize> = plan.outputs.iter().map(|&value| index(value)).collect();
    plan.inputs.iter().for_each(|&value| _ = empty.remove(&index(value)));
    for instruction in plan.chains.iter().flat_map(|chain| chain.instructions.iter().flatten()) {
        match instruction {
            Instruction::Move { to, .. } => {
                fed.insert(index(*to));
                empty.remove(&index(*to));
            }
            Instruction::Kernel { operator, args: Some(args) } => {
                for value in read(plan, *operator, args) {
                    // A kernel that reads it first finds no memory at all.
                    if empty.contains(&value) {
                        fed.remove(&value);
                    }
                }
                args.iter().for_each(|&arg| _ = empty.remove(&index(arg)));
            }
            Instruction::Delegate { args: Some(args), .. } => {
                args.iter().for_each(|&arg| _ = empty.remove(&index(arg)));
            }
            _ => {}
        }
    }
    fed
}

/// Values that a call reads, also inside lists.
fn read(plan: &ExecutionPlan<'_>, operator: i32, args: &[i32]) -> Vec<usize> {
    let name = plan.operators.get(index(operator)).and_then(operator_name);
    let Some(schema) = name.as_deref().and_then(kernels::schema) else { return Vec::new() };
    let mut found = Vec::new();
    for (&arg, _) in args.iter().zip(&schema.args).filter(|(_, argument)| !argument.is_written()) {
        found.push(index(arg));
        if let Some(Value::TensorList(items) | Value::OptionalTensorList(items)) = plan.values.get(index(arg))
        {
            found.extend(items.iter().map(|&item| index(item)));
        }
    }
    found
}

fn check_kind(plan: &ExecutionPlan<'_>, value: &Value<'_>, at: &Place<'_>, report: &mut Report) {
    match value {
        Value::Unknown(kind) => report.reject(V1, at, "unknown kind of value", kind, "1 to 11"),
        Value::Hollow(what) => report.reject(V2, at, *what, "null", "a table with content"),
        Value::IntList(items) => {
            for &item in items {
                let found = usize::try_from(item).ok().and_then(|item| plan.values.get(item));
                check_item(found, |value| matches!(value, Value::Int(_)), (V4, "int"), item, at, report);
            }
        }
        Value::TensorList(items) => {
            for &item in items {
                let found = plan.values.get(index(item));
                check_item(found, is_tensor, (V5, "tensor"), i64::from(item), at, report);
            }
        }
        Value::OptionalTensorList(items) => {
            for &item in items.iter().filter(|&&item| item != -1) {
                let found = plan.values.get(index(item));
                let fits = |value: &Value<'_>| is_tensor(value) || matches!(value, Value::Null);
                check_item(found, fits, (V5, "tensor or null"), i64::from(item), at, report);
            }
        }
        _ => {}
    }
}

fn is_tensor(value: &Value<'_>) -> bool {
    matches!(value, Value::Tensor(_))
}

fn check_item(
    found: Option<&Value<'_>>,
    fits: impl Fn(&Value<'_>) -> bool,
    (id, expected): (super::CheckId, &str),
    item: i64,
    at: &Place<'_>,
    report: &mut Report,
) {
    match found {
        None => report.reject(V3, at, "a list names a value that is not there", item, "an index in range"),
        Some(value) if !fits(value) => {
            report.reject(
                id,
                at,
                "a list holds the wrong kind",
                format!("{} at {item}", value.kind()),
                expected,
            );
        }
        Some(_) => {}
    }
}

/// T1 to T8 and T11 to T13.
fn check_tensor(tensor: &Tensor<'_>, at: &Place<'_>, report: &mut Report) -> Option<Facts> {
    if tensor.storage_offset != 0 {
        report.reject(T2, at, "storage offset", tensor.storage_offset, 0);
    }
    if tensor.layout != 0 {
        report.reject(T7, at, "layout", tensor.layout, "0 (strided)");
    }
    if !(0..=1).contains(&tensor.dynamism) {
        report.reject(T8, at, "shape dynamism", tensor.dynamism, "0 (static) or 1 (bounded)");
    }
    check_extra(tensor, at, report);
    let Some((_, width)) = dtype::program(tensor.dtype) else {
        report.reject(T1, at, "unknown dtype", tensor.dtype, "a known dtype");
        return None;
    };
    let sizes = check_sizes(tensor, at, report)?;
    let elements = sizes.iter().try_fold(1_u64, |product, &size| product.checked_mul(size));
    let Some(elements) = elements.filter(|&elements| elements < limits::TENSOR_ELEMENTS_MAX) else {
        report.reject(T6, at, "too many elements", format!("{sizes:?}"), "< 2^40");
        return None;
    };
    let bytes = elements.checked_mul(width)?;
    let dynamic = tensor.dynamism == 1;
    Some(Facts { dtype: tensor.dtype, sizes, elements, bytes, constant_at: None, constant: false, dynamic })
}

fn check_extra(tensor: &Tensor<'_>, at: &Place<'_>, report: &mut Report) {
    let Some(extra) = &tensor.extra else { return };
    if extra.mutable_table != 0 {
        report.reject(T11, at, "mutable segment table", extra.mutable_table, 0);
    }
    if extra.location != 0 {
        report.reject(T12, at, "data outside the file", extra.location, "0 (in the file)");
    }
    if extra.device != 0 || extra.device_index != 0 {
        report.reject(T13, at, "device", format!("{}:{}", extra.device, extra.device_index), "0:0 (CPU)");
    }
}

/// T3 to T5.
fn check_sizes(tensor: &Tensor<'_>, at: &Place<'_>, report: &mut Report) -> Option<Vec<u64>> {
    let Some(sizes) = &tensor.sizes else {
        report.reject(T3, at, "no sizes", "null", "a vector");
        return None;
    };
    if sizes.len() > limits::TENSOR_RANK_MAX {
        report.reject(T4, at, "rank", sizes.len(), format!("≤ {}", limits::TENSOR_RANK_MAX));
        return None;
    }
    let checked: Result<Vec<u64>, _> = sizes.iter().map(|&size| u64::try_from(size)).collect();
    let mut seen = [false; limits::TENSOR_RANK_MAX];
    let order = tensor.dim_order.as_deref().unwrap_or_default();
    let permutes = order.iter().all(|&dim| {
        let slot = seen.get_mut(..sizes.len()).and_then(|seen| seen.get_mut(usize::from(dim)));
        slot.is_some_and(|slot| !std::mem::replace(slot, true))
    });
    if tensor.dim_order.is_none() || order.len() != sizes.len() || !permutes {
        let expected = format!("a permutation of 0..{}", sizes.len());
        report.reject(T5, at, "dim order", format!("{:?}", tensor.dim_order), expected);
        return None;
    }
    let Ok(checked) = checked else {
        report.reject(T3, at, "negative size", format!("{sizes:?}"), "≥ 0");
        return None;
    };
    Some(checked)
}

/// I1 to I5.
fn check_io(plan: &ExecutionPlan<'_>, at: &Place<'_>, report: &mut Report) {
    let mut seen = HashSet::new();
    for (number, &input) in plan.inputs.iter().enumerate() {
        let at = at.at("input", number);
        if !seen.insert(input) {
            report.reject(I2, &at, "the same value is fed twice", input, "distinct values");
        }
        let Some(value) = check_end(plan, input, &at, report) else { continue };
        if let Value::Tensor(tensor) = value
            && tensor.buffer != 0
        {
            report.reject(I4, &at, "an input has stored data", format!("constant {}", tensor.buffer), "none");
        }
    }
    for (number, &output) in plan.outputs.iter().enumerate() {
        check_end(plan, output, &at.at("output", number), report);
    }
    if plan.outputs.is_empty() {
        report.reject(I5, at, "the method has no output", 0, "≥ 1");
    }
}

fn check_end<'p, 'a>(
    plan: &'p ExecutionPlan<'a>,
    value: i32,
    at: &Place<'_>,
    report: &mut Report,
) -> Option<&'p Value<'a>> {
    let Some(found) = plan.values.get(index(value)) else {
        report.reject(
            I1,
            at,
            "no such value",
            value,
            format!("0 to {}", plan.values.len().saturating_sub(1)),
        );
        return None;
    };
    if matches!(
        found,
        Value::IntList(_)
            | Value::DoubleList
            | Value::BoolList
            | Value::TensorList(_)
            | Value::OptionalTensorList(_)
    ) {
        report.reject(I3, at, "a list crosses the method's border", found.kind(), "a tensor or a scalar");
    }
    Some(found)
}

/// How a value looks from outside the method.
pub(super) fn describe(plan: &ExecutionPlan<'_>, facts: &TensorFacts, value: i32) -> summary::Io {
    let number = index(value);
    let found = plan.values.get(number);
    let tensor = facts.get(number).and_then(Option::as_ref);
    summary::Io {
        kind: found.map_or("missing", Value::kind).to_owned(),
        dtype: tensor.and_then(|facts| dtype::program(facts.dtype)).map(|(name, _)| name.to_owned()),
        shape: tensor.map(|facts| facts.sizes.clone()).unwrap_or_default(),
        dynamic: tensor.is_some_and(|facts| facts.dynamic),
    }
}
