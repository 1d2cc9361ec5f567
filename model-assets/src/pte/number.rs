//! X17: integers of a call that kernels narrow.
//!
//! A program stores 64 bits; kernels keep sizes, strides, counts, paddings and dimensions in 32 and cut off what does
//! not fit, after or without a look at it. Which of an operator's integers are such is not written anywhere, so all are
//! held to 32 bits but the ends of a slice, which every exporter leaves open with 2^63-1 and the kernel clips first.

use super::kernels::{Argument, Schema};
use super::program::{ExecutionPlan, Value};
use super::scalar::Scalars;
use super::value::index;

/// Codes of dtypes end here (`ScalarType::NumOptions`).
const DTYPES: i64 = 44;

/// The first argument that does not fit: its position, what is there, and what is expected.
pub(super) fn check(
    name: &str,
    schema: &Schema,
    args: &[i32],
    plan: &ExecutionPlan<'_>,
    scalars: &Scalars,
) -> Option<(usize, i64, &'static str)> {
    args.iter().zip(&schema.args).enumerate().find_map(|(position, (&arg, argument))| {
        let (fits, expected) = rule(name, argument)?;
        let number = constants(arg, plan, scalars).find(|&number| !fits(number))?;
        Some((position, number, expected))
    })
}

type Fits = fn(i64) -> bool;

fn rule(name: &str, argument: &Argument) -> Option<(Fits, &'static str)> {
    let kind = argument.kind.trim_end_matches('?').trim_end_matches("[]");
    match kind {
        "int" if is_slice_end(name, argument) => None,
        "int" => Some((|number| i32::try_from(number).is_ok(), "an integer of 32 bits")),
        "ScalarType" => Some((|number| (0..DTYPES).contains(&number), "the code of a dtype")),
        "MemoryFormat" | "Layout" => Some((|number| (0..=4).contains(&number), "0 to 4")),
        _ => None,
    }
}

fn is_slice_end(name: &str, argument: &Argument) -> bool {
    name.starts_with("aten::slice_") && matches!(argument.name.as_str(), "start" | "end")
}

/// The integers that a value holds from the start. What a kernel computes is not known here.
fn constants<'p>(
    arg: i32,
    plan: &'p ExecutionPlan<'_>,
    scalars: &'p Scalars,
) -> Box<dyn Iterator<Item = i64> + 'p> {
    let constant = move |value: usize| match plan.values.get(value) {
        Some(Value::Int(number)) if !scalars.is_overwritten(value) => Some(*number),
        _ => None,
    };
    match plan.values.get(index(arg)) {
        Some(Value::IntList(items)) => {
            Box::new(items.iter().filter_map(move |&item| constant(usize::try_from(item).ok()?)))
        }
        _ => Box::new(constant(index(arg)).into_iter()),
    }
}
