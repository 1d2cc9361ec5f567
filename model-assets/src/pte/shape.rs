//! Shape rules of the operators whose kernels abort, or read out of bounds, instead of checking them.

use std::collections::HashSet;

use super::dtype::{F32, I64};
use super::kernels::Schema;
use super::program::{ExecutionPlan, Value};
use super::value::{Facts, TensorFacts, index};

/// Message, got, expected.
pub(super) type Misfit = (&'static str, String, String);

/// `computed` are the values that a kernel overwrites with a scalar.
pub(super) fn check(
    name: &str,
    schema: &Schema,
    args: &[i32],
    (plan, facts): (&ExecutionPlan<'_>, &TensorFacts),
    computed: &HashSet<usize>,
) -> Result<(), Misfit> {
    check_divisors(name, args, plan)?;
    check_lists(schema, args, (plan, facts))?;
    let fixed = |position: usize| {
        let value = index(*args.get(position)?);
        plan.values.get(value).filter(|_| !computed.contains(&value))
    };
    let tensor = |position: usize| {
        args.get(position).and_then(|&value| facts.get(index(value))).and_then(Option::as_ref)
    };
    let exotic = |value: i32| facts.get(index(value))?.as_ref().filter(|f| !is_computed(f.dtype));
    let mut tensors = args.iter().flat_map(|&arg| items(plan, arg));
    if let Some(facts) = tensors.find_map(exotic).filter(|_| !name.starts_with("quantized_decomposed::")) {
        return misfit("a dtype that kernels do not compute with", facts.dtype, "integers, floats or bool");
    }
    match name {
        name if name.starts_with("quantized_decomposed::embedding_") => {
            let with_dtype = name.ends_with(".dtype_out");
            let packed = match name.strip_prefix("quantized_decomposed::embedding_") {
                Some(rest) if rest.starts_with("4bit") => 2,
                Some(rest) if rest.starts_with("2bit") => 4,
                _ => 1,
            };
            let out = tensor(if with_dtype { 7 } else { 6 });
            embedding(tensor(0), tensor(1), tensor(5), out, packed)?;
            zero_points(tensor(1), tensor(2), out)?;
            bounds(fixed(3), fixed(4))?;
            if with_dtype { output_dtype(fixed(6), out) } else { Ok(()) }
        }
        "aten::sym_size.int" => dimension(tensor(0), fixed(1)),
        "aten::_local_scalar_dense" => match tensor(0) {
            Some(tensor) if tensor.elements != 1 => misfit("elements of a scalar", tensor.elements, 1),
            _ => Ok(()),
        },
        "aten::embedding.out" => match tensor(1) {
            Some(indices) if !matches!(indices.dtype, 3 | I64) => {
                misfit("dtype of the indices", indices.dtype, "3 or 4 (integers)")
            }
            _ => Ok(()),
        },
        "aten::arange.out" => range(&Value::Int(0), fixed(0), Some(&Value::Int(1)), tensor(1)),
        "aten::arange.start_out" => match fixed(0) {
            Some(start) => range(start, fixed(1), fixed(2), tensor(3)),
            None => Ok(()),
        },
        "aten::convolution.out" => convolution(tensor(1), tensor(2), args, facts),
        "llama::update_cache.out" => update_cache(tensor(0), tensor(1)),
        "llama::custom_sdpa.out" => attention(tensor(0), tensor(1), tensor(2), tensor(8)),
        _ => Ok(()),
    }
}

/// The tensors of an argument: those of a list, or itself.
fn items(plan: &ExecutionPlan<'_>, arg: i32) -> Vec<i32> {
    match plan.values.get(index(arg)) {
        Some(Value::TensorList(items) | Value::OptionalTensorList(items)) => items.clone(),
        _ => vec![arg],
    }
}

/// Kernels that write a list of tensors take the dtype of their input for that of every output.
fn check_lists(
    schema: &Schema,
    args: &[i32],
    (plan, facts): (&ExecutionPlan<'_>, &TensorFacts),
) -> Result<(), Misfit> {
    let dtype = |value: i32| facts.get(index(value))?.as_ref().map(|facts| facts.dtype);
    let input = args.iter().zip(&schema.args).find(|(_, argument)| argument.kind == "Tensor");
    let Some(input) = input.and_then(|(&arg, _)| dtype(arg)) else { return Ok(()) };
    let lists = args.iter().zip(&schema.args).filter(|(_, argument)| argument.kind == "Tensor[]!");
    match lists.flat_map(|(&arg, _)| items(plan, arg)).filter_map(dtype).find(|&dtype| dtype != input) {
        Some(other) => misfit("dtype of a tensor in the output's list", other, input),
        None => Ok(()),
    }
}

/// Kernels divide by these integers without looking.
fn check_divisors(name: &str, args: &[i32], plan: &ExecutionPlan<'_>) -> Result<(), Misfit> {
    let positions: &[usize] = match name {
        "aten::convolution.out" => &[3, 5, 8],
        "aten::split_copy.Tensor_out" | "aten::unfold_copy.out" => &[1],
        "aten::slice_copy.Tensor_out" => &[4],
        "aten::pixel_shuffle.out" | "aten::pixel_unshuffle.out" => &[1],
        "aten::avg_pool2d.out" | "aten::max_pool2d_with_indices.out" => &[1, 2],
        "executorch_prim::floordiv.Scalar" | "executorch_prim::mod.Scalar" => &[1],
        "executorch_prim::floordiv.int" | "executorch_prim::mod.int" => &[1],
        _ => return Ok(()),
    };
    let value = |index: usize| plan.values.get(index);
    for &position in positions {
        let found = args.get(position).and_then(|&arg| value(index(arg)));
        let numbers: Vec<i64> = match found {
            Some(Value::Int(number)) => vec![*number],
            Some(Value::IntList(items)) => {
                let items = items.iter().filter_map(|&item| value(usize::try_from(item).ok()?));
                items
                    .filter_map(|item| if let Value::Int(number) = item { Some(*number) } else { None })
                    .collect()
            }
            _ => continue,
        };
        // Remainders may be taken of a negative number; everything else counts or strides.
        let good = |number: i64| if name.starts_with("executorch_prim::") { number != 0 } else { number > 0 };
        if !numbers.iter().copied().all(good) {
            return misfit("a divisor, a stride or a count", numbers, "above 0");
        }
    }
    Ok(())
}

/// Kernels abort on quantized, packed and 8-bit floating-point tensors.
fn is_computed(dtype: i8) -> bool {
    matches!(dtype, 0..=7 | 11 | 15 | 27..=29)
}

fn misfit<T>(
    message: &'static str,
    got: impl std::fmt::Debug,
    expected: impl std::fmt::Debug,
) -> Result<T, Misfit> {
    Err((message, format!("{got:?}"), format!("{expected:?}")))
}

/// `packed` values stand in each stored byte.
fn embedding(
    weight: Option<&Facts>,
    scales: Option<&Facts>,
    indices: Option<&Facts>,
    out: Option<&Facts>,
    packed: u64,
) -> Result<(), Misfit> {
    let (Some(weight), Some(scales), Some(indices), Some(out)) = (weight, scales, indices, out) else {
        return Ok(());
    };
    let (&[rows, stored], &[scale_rows, ..]) = (weight.sizes.as_slice(), scales.sizes.as_slice()) else {
        return misfit("ranks of weight and scales", (&weight.sizes, &scales.sizes), "2 and 1 or 2");
    };
    let columns = stored.saturating_mul(packed);
    let groups = scales.sizes.get(1).copied().unwrap_or(1);
    if scale_rows != rows || scales.sizes.len() > 2 || groups == 0 || columns.checked_rem(groups) != Some(0) {
        return misfit("shape of the scales", &scales.sizes, (rows, "a divisor of", columns));
    }
    if !matches!(weight.dtype, 0 | 1) {
        return misfit("dtype of the weight", weight.dtype, "0 or 1 (8-bit)");
    }
    // The kernel aborts on 32-bit ones, unlike `aten::embedding`.
    if indices.dtype != I64 {
        return misfit("dtype of the indices", indices.dtype, "4 (64-bit integers)");
    }
    if !matches!(scales.dtype, 5 | F32) || !matches!(out.dtype, 5 | F32) {
        return misfit("dtype of scales and output", (scales.dtype, out.dtype), "5 or 6 (floats)");
    }
    let mut expected = indices.sizes.clone();
    expected.push(columns);
    if out.sizes != expected {
        return misfit("shape of the output", &out.sizes, expected);
    }
    if indices.dynamic && !out.dynamic {
        return misfit("the output of dynamic indices", "a static shape", "a dynamic shape");
    }
    Ok(())
}

/// A dimension of which the kernel asks the size: it aborts on a negative one too.
fn dimension(tensor: Option<&Facts>, dimension: Option<&Value<'_>>) -> Result<(), Misfit> {
    let Some(tensor) = tensor else { return Ok(()) };
    let rank = tensor.sizes.len();
    match dimension {
        Some(Value::Int(number)) if usize::try_from(*number).is_ok_and(|number| number < rank) => Ok(()),
        Some(Value::Int(number)) => misfit("a dimension", number, 0..rank),
        _ => misfit("a dimension", "computed", "a constant"),
    }
}

/// The kernel aborts when the numbers from `start` to `end` are fewer than none, or too many to count.
///
/// A computed end is a length or a position: no constant start above 1 is certain to lie before it.
fn range(
    start: &Value<'_>,
    end: Option<&Value<'_>>,
    step: Option<&Value<'_>>,
    out: Option<&Facts>,
) -> Result<(), Misfit> {
    const MOST: f64 = i32::MAX as f64;
    let number = |value: &Value<'_>| match value {
        Value::Int(number) => Some(*number as f64),
        Value::Double(number) => Some(*number),
        _ => None,
    };
    let (Some(first), Some(stride)) = (number(start), step.and_then(number)) else {
        return misfit("start and step of a range", "computed", "constants");
    };
    let Some(last) = end.and_then(number) else {
        let good = (-MOST..=1.0).contains(&first) && (1.0..=MOST).contains(&stride);
        return if good {
            Ok(())
        } else {
            misfit("start and step of a range", (first, stride), "≤ 1 and ≥ 1")
        };
    };
    let count = ((last - first) / stride).ceil();
    match out.map(|out| out.sizes.as_slice()) {
        Some(&[length]) if (0.0..=MOST).contains(&count) && count <= length as f64 => Ok(()),
        Some(sizes) => misfit("the length of a range", count, sizes),
        None => Ok(()),
    }
}

fn zero_points(scales: Option<&Facts>, points: Option<&Facts>, out: Option<&Facts>) -> Result<(), Misfit> {
    let (Some(scales), Some(points), Some(out)) = (scales, points, out) else { return Ok(()) };
    if points.sizes != scales.sizes || points.dtype != out.dtype {
        return misfit("zero points", (points.dtype, &points.sizes), (out.dtype, &scales.sizes));
    }
    Ok(())
}

/// The smallest and the largest quantized value.
fn bounds(min: Option<&Value<'_>>, max: Option<&Value<'_>>) -> Result<(), Misfit> {
    match (min, max) {
        (Some(Value::Int(min)), Some(Value::Int(max))) if min <= max => Ok(()),
        (Some(Value::Int(min)), Some(Value::Int(max))) => {
            misfit("bounds of the weight", (min, max), "ascending")
        }
        _ => misfit("bounds of the weight", "computed", "constants"),
    }
}

fn output_dtype(promised: Option<&Value<'_>>, out: Option<&Facts>) -> Result<(), Misfit> {
    match (promised, out) {
        (Some(Value::Null), _) | (_, None) => Ok(()),
        (Some(Value::Int(code)), Some(out)) if *code == i64::from(out.dtype) => Ok(()),
        (Some(Value::Int(code)), Some(out)) => misfit("dtype of the output", out.dtype, code),
        _ => misfit("dtype of the output", "computed", "a constant"),
    }
}

/// The kernel reads one bias per output channel whatever the length of the bias.
fn convolution(
    weight: Option<&Facts>,
    bias: Option<&Facts>,
    args: &[i32],
    facts: &TensorFacts,
) -> Result<(), Misfit> {
    let (Some(weight), Some(bias)) = (weight, bias) else { return Ok(()) };
    // The output (argument 9) has batch, channels, …; for a transposed convolution the weight does not tell.
    let out = args.get(9).and_then(|&value| facts.get(index(value))).and_then(Option::as_ref);
    let channels = out.and_then(|out| out.sizes.get(1)).or(weight.sizes.first()).copied().unwrap_or(0);
    if bias.sizes != [channels] {
        return misfit("shape of the bias", &bias.sizes, [channels]);
    }
    Ok(())
}

fn update_cache(value: Option<&Facts>, cache: Option<&Facts>) -> Result<(), Misfit> {
    let (Some(value), Some(cache)) = (value, cache) else { return Ok(()) };
    let (&[batch, length, heads, width], &[cache_batch, capacity, cache_heads, cache_width]) =
        (value.sizes.as_slice(), cache.sizes.as_slice())
    else {
        return misfit("ranks of value and cache", (&value.sizes, &cache.sizes), "4 and 4");
    };
    let fits = length <= capacity
        && (batch, heads, width) == (cache_batch, cache_heads, cache_width)
        && value.dtype == cache.dtype;
    if !fits {
        let expected = (cache.dtype, &cache.sizes);
        return misfit("the value does not fit the cache", (value.dtype, &value.sizes), expected);
    }
    Ok(())
}

fn attention(
    query: Option<&Facts>,
    keys: Option<&Facts>,
    values: Option<&Facts>,
    out: Option<&Facts>,
) -> Result<(), Misfit> {
    let (Some(query), Some(keys), Some(values), Some(out)) = (query, keys, values, out) else {
        return Ok(());
    };
    let (&[batch, _, heads, width], &[key_batch, _, key_heads, key_width]) =
        (query.sizes.as_slice(), keys.sizes.as_slice())
    else {
        return misfit("ranks of query and keys", (&query.sizes, &keys.sizes), "4 and 4");
    };
    if keys.sizes != values.sizes || query.sizes != out.sizes {
        let got = (&keys.sizes, &values.sizes, &query.sizes, &out.sizes);
        return misfit("shapes", got, "keys as values, query as output");
    }
    if (batch, width) != (key_batch, key_width) || heads.checked_rem(key_heads) != Some(0) {
        return misfit("query against keys", &query.sizes, &keys.sizes);
    }
    let dtypes = [query.dtype, keys.dtype, values.dtype, out.dtype];
    if dtypes != [F32; 4] {
        return misfit("dtypes", dtypes, [F32; 4]);
    }
    Ok(())
}
