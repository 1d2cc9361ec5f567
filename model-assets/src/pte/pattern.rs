//! A call as text: what stays the same from model to model.
//!
//! Of tensors it has dtype, rank, whether the shape may be smaller at run time and whether the data is a constant; of
//! integers the number where it selects what the kernel does (a dimension, a step, a bound of a scheme), and only that
//! there is one where it counts something. So one line stands for a call in models of every size.

use super::dtype;
use super::kernels::{Argument, Return, Schema};
use super::program::{ExecutionPlan, Value};
use super::scalar::Scalars;
use super::value::{TensorFacts, index};

pub(super) fn of(
    name: &str,
    schema: &Schema,
    args: &[i32],
    (plan, facts): (&ExecutionPlan<'_>, &TensorFacts),
    scalars: &Scalars,
) -> String {
    let one = |(&arg, argument): (&i32, &Argument)| value(index(arg), argument, (plan, facts), scalars);
    let list: Vec<String> = args.iter().zip(&schema.args).map(one).collect();
    // What a kernel computes is a scalar of a kind that the schema or X11 decides.
    let fresh = schema.returns.iter().any(|kind| matches!(kind, Return::Fresh(_)));
    format!("{name}({}){}", list.join(", "), if fresh { " computed" } else { "" })
}

fn value(
    value: usize,
    argument: &Argument,
    (plan, facts): (&ExecutionPlan<'_>, &TensorFacts),
    scalars: &Scalars,
) -> String {
    if scalars.is_overwritten(value) {
        return "computed".to_owned();
    }
    match plan.values.get(value) {
        Some(Value::Int(number)) => integer(*number, argument),
        Some(Value::Bool(truth)) => truth.to_string(),
        Some(Value::Double(number)) if *number == 0.0 || *number == 1.0 => format!("{number:?}"),
        Some(Value::Tensor(tensor)) => match facts.get(value).and_then(Option::as_ref) {
            Some(facts) => {
                let name = dtype::program(facts.dtype).map_or("?", |(name, _)| name);
                let constant = if facts.constant { "constant " } else { "" };
                let dynamic = if tensor.dynamism == 0 { "" } else { "~" };
                let order = tensor.dim_order.as_deref().unwrap_or_default();
                let ordered = order.iter().map(|&dim| usize::from(dim)).eq(0..order.len());
                let order = if ordered { String::new() } else { format!(" order {order:?}") };
                format!("{constant}{name}[{}]{dynamic}{order}", facts.sizes.len())
            }
            None => "tensor".to_owned(),
        },
        Some(Value::IntList(items)) => {
            let item = |&item: &i64| match usize::try_from(item).ok() {
                Some(item) if scalars.is_overwritten(item) => "computed".to_owned(),
                Some(item) => match plan.values.get(item) {
                    Some(Value::Int(number)) => integer(*number, argument),
                    _ => "?".to_owned(),
                },
                None => "?".to_owned(),
            };
            format!("[{}]", items.iter().map(item).collect::<Vec<_>>().join(", "))
        }
        Some(Value::TensorList(items)) => format!("tensors[{}]", items.len()),
        Some(other) => other.kind().to_owned(),
        None => "missing".to_owned(),
    }
}

/// Whether an argument chooses what is done, by its name; every other integer counts or measures.
fn chooses(argument: &Argument) -> bool {
    let name = argument.name.as_str();
    argument.kind.starts_with("ScalarType")
        || matches!(name, "alpha" | "beta" | "step" | "padding_idx")
        || name.starts_with("dim")
        || name.ends_with("_min")
        || name.ends_with("_max")
}

fn integer(number: i64, argument: &Argument) -> String {
    // -1 stands for "the rest" or "the last", whatever is counted.
    if number == -1 || chooses(argument) { number.to_string() } else { "int".to_owned() }
}
