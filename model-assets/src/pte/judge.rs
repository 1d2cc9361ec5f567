//! Operators whose calls are understood in full: what a kernel does not look at is looked at here.
//!
//! An operator that is not here, or a call outside what was studied of it (another dtype, another order of the
//! dimensions, a computed dimension), is *unknown* (X16): a warning, and a refusal where a file must be judged.
//!
//! **Invariant:** every operator here has its programs in the mutation study (`docs/mutation-study.md`).

use std::collections::HashSet;

use super::dtype::{BF16, BOOL, F16, F32, F64, I32, I64};
use super::program::{ExecutionPlan, Value};
use super::scalar::Scalars;
use super::shape::Misfit;
use super::value::{Facts, TensorFacts, index};
use super::xnn::broadcast;

/// What is known about a call.
pub(super) enum CallVerdict {
    /// The kernel gets what it computes with.
    Sound,
    /// It does not (X13).
    Misfit(Misfit),
    /// Nobody knows (X16); why.
    Unknown(&'static str),
}

/// The call that is judged.
pub(super) struct Call<'c, 'a> {
    pub(super) args: &'c [i32],
    pub(super) plan: &'c ExecutionPlan<'a>,
    pub(super) facts: &'c TensorFacts,
    /// Values that a kernel overwrites with a scalar.
    pub(super) computed: &'c HashSet<usize>,
    /// What is known of those at this point.
    pub(super) scalars: &'c Scalars,
}

type Judge = fn(&Call<'_, '_>) -> CallVerdict;

const JUDGES: [(&str, Judge); 17] = [
    ("aten::_local_scalar_dense", item),
    ("aten::add.out", elementwise),
    ("aten::addmm.out", add_product),
    ("aten::embedding.out", embedding),
    ("aten::mm.out", product),
    ("aten::mul.out", elementwise),
    ("aten::rsqrt.out", unary),
    ("aten::select_copy.int_out", select),
    ("aten::sigmoid.out", unary),
    ("aten::slice_copy.Tensor_out", slice),
    // What these check is in `shape.rs`: their kernels abort on it.
    ("aten::sym_size.int", plain),
    ("executorch_prim::add.Scalar", numbers),
    ("executorch_prim::et_view.default", view),
    ("executorch_prim::mul.Scalar", numbers),
    ("llama::custom_sdpa.out", attention),
    ("llama::update_cache.out", plain),
    ("quantized_decomposed::embedding_byte.dtype_out", plain),
];

/// Whether calls of the operator can be judged.
#[cfg(test)]
pub(super) fn knows(name: &str) -> bool {
    JUDGES.iter().any(|(known, _)| *known == name)
}

/// The operators whose calls the verifier can judge, sorted.
pub fn names() -> impl Iterator<Item = &'static str> {
    JUDGES.iter().map(|(name, _)| *name)
}

/// Judges a call that has the right number and kinds of arguments.
pub(super) fn judge(name: &str, call: &Call<'_, '_>) -> CallVerdict {
    let Some((_, judge)) = JUDGES.iter().find(|(known, _)| *known == name) else {
        return CallVerdict::Unknown("the operator's kernel was not studied");
    };
    if call.tensors().any(|(facts, ordered)| facts.is_none() || !ordered) {
        return CallVerdict::Unknown("the dimensions of a tensor are not in their usual order");
    }
    judge(call)
}

impl Call<'_, '_> {
    fn tensor(&self, position: usize) -> Option<&Facts> {
        self.facts.get(index(*self.args.get(position)?))?.as_ref()
    }

    /// The value of an argument that no kernel overwrites.
    fn fixed(&self, position: usize) -> Option<&Value<'_>> {
        let value = index(*self.args.get(position)?);
        self.plan.values.get(value).filter(|_| !self.computed.contains(&value))
    }

    /// Every tensor argument: what is known of it, and whether its dimensions lie in order.
    fn tensors(&self) -> impl Iterator<Item = (Option<&Facts>, bool)> {
        self.args.iter().filter_map(|&arg| match self.plan.values.get(index(arg)) {
            Some(Value::Tensor(tensor)) => {
                let order = tensor.dim_order.as_deref().unwrap_or_default();
                let ordered = order.iter().map(|&dim| usize::from(dim)).eq(0..order.len());
                Some((self.facts.get(index(arg)).and_then(Option::as_ref), ordered))
            }
            _ => None,
        })
    }

    /// The dtype of all given tensors, when it is one.
    fn dtype(&self, positions: &[usize]) -> Option<i8> {
        let mut all = positions.iter().map(|&position| self.tensor(position).map(|facts| facts.dtype));
        let first = all.next()??;
        all.all(|dtype| dtype == Some(first)).then_some(first)
    }

    /// The sizes of a tensor; none for what is no tensor, which has findings of its own.
    fn sizes(&self, position: usize) -> &[u64] {
        self.tensor(position).map_or(&[], |facts| facts.sizes.as_slice())
    }

    /// A constant dimension of a tensor of so many.
    fn dimension(&self, position: usize, rank: usize) -> Result<usize, CallVerdict> {
        let Some(Value::Int(number)) = self.fixed(position) else {
            return Err(CallVerdict::Unknown("a computed dimension"));
        };
        wrap(*number, rank).ok_or_else(|| misfit("a dimension", number, format!("below {rank}")))
    }

    /// The output, which a kernel resizes within what was declared: as large as can be, so that it always can.
    fn out(&self, position: usize, expected: &[u64]) -> CallVerdict {
        let found = self.sizes(position);
        if found == expected {
            return CallVerdict::Sound;
        }
        misfit("shape of the output", format!("{found:?}"), format!("{expected:?}"))
    }
}

fn misfit(message: &'static str, got: impl ToString, expected: impl ToString) -> CallVerdict {
    CallVerdict::Misfit((message, got.to_string(), expected.to_string()))
}

/// An index from the front, or from the end where negative.
fn wrap(number: i64, count: usize) -> Option<usize> {
    let all = i64::try_from(count).ok()?;
    let wrapped = if number < 0 { number.checked_add(all)? } else { number };
    usize::try_from(wrapped).ok().filter(|&wrapped| wrapped < count)
}

fn is_float(dtype: i8) -> bool {
    matches!(dtype, F16 | F32 | F64 | BF16)
}

fn plain(_: &Call<'_, '_>) -> CallVerdict {
    CallVerdict::Sound
}

/// Sums and products of computed scalars; their kinds are followed by X11.
fn numbers(call: &Call<'_, '_>) -> CallVerdict {
    let numbers = call
        .args
        .iter()
        .take(2)
        .all(|&arg| matches!(call.plan.values.get(index(arg)), Some(Value::Int(_) | Value::Double(_))));
    if numbers { CallVerdict::Sound } else { CallVerdict::Unknown("an operand is no number") }
}

fn item(call: &Call<'_, '_>) -> CallVerdict {
    match call.tensor(0) {
        Some(tensor) if matches!(tensor.dtype, 0..=4 | F32 | F64 | BOOL) => CallVerdict::Sound,
        _ => CallVerdict::Unknown("a scalar of another dtype"),
    }
}

fn unary(call: &Call<'_, '_>) -> CallVerdict {
    match call.dtype(&[0, 1]) {
        Some(dtype) if is_float(dtype) => call.out(1, call.sizes(0)),
        _ => CallVerdict::Unknown("dtypes that are not one and the same float"),
    }
}

/// Sum and product of two tensors: arguments a, b, and the output last.
fn elementwise(call: &Call<'_, '_>) -> CallVerdict {
    let Some(last) = call.args.len().checked_sub(2) else { return CallVerdict::Sound };
    if !call.dtype(&[0, 1, last]).is_some_and(is_float) {
        return CallVerdict::Unknown("dtypes that are not one and the same float");
    }
    // The sum has a factor before its output.
    if last == 3 && !matches!(call.fixed(2), Some(Value::Int(_) | Value::Double(_))) {
        return CallVerdict::Unknown("a factor that is no constant number");
    }
    match broadcast(call.sizes(0), call.sizes(1)) {
        Some(sizes) => call.out(last, &sizes),
        None => misfit(
            "shapes",
            format!("{:?}", call.sizes(0)),
            format!("one that goes with {:?}", call.sizes(1)),
        ),
    }
}

fn product(call: &Call<'_, '_>) -> CallVerdict {
    matrices(call, [0, 1, 2])
}

/// A product with a bias: bias, two matrices, two factors, output.
fn add_product(call: &Call<'_, '_>) -> CallVerdict {
    let constant = |position| matches!(call.fixed(position), Some(Value::Int(_) | Value::Double(_)));
    if !constant(3) || !constant(4) || call.dtype(&[0, 1]).is_none() {
        return CallVerdict::Unknown("a factor that is no constant number, or dtypes that differ");
    }
    if broadcast(call.sizes(0), call.sizes(5)).as_deref() != Some(call.sizes(5)) {
        return misfit("shape of the bias", format!("{:?}", call.sizes(0)), format!("{:?}", call.sizes(5)));
    }
    matrices(call, [1, 2, 5])
}

fn matrices(call: &Call<'_, '_>, [one, other, out]: [usize; 3]) -> CallVerdict {
    if !call.dtype(&[one, other, out]).is_some_and(is_float) {
        return CallVerdict::Unknown("dtypes that are not one and the same float");
    }
    match (call.sizes(one), call.sizes(other)) {
        (&[rows, inner], &[same, columns]) if inner == same => call.out(out, &[rows, columns]),
        (one, other) => misfit("shapes", format!("{one:?}"), format!("a matrix that goes with {other:?}")),
    }
}

fn embedding(call: &Call<'_, '_>) -> CallVerdict {
    let (&[_, width], Some(indices), Some(_)) = (call.sizes(0), call.tensor(1), call.dtype(&[0, 5])) else {
        return CallVerdict::Unknown("a table of other dimensions or of another dtype than the output");
    };
    // The kernel copies bytes, whatever they mean, but reads the indices as what they are.
    if !matches!(indices.dtype, I32 | I64) {
        return misfit("dtype of the indices", indices.dtype, "3 or 4 (integers)");
    }
    let sizes: Vec<u64> = indices.sizes.iter().copied().chain([width]).collect();
    call.out(5, &sizes)
}

fn select(call: &Call<'_, '_>) -> CallVerdict {
    let (sizes, Some(_)) = (call.sizes(0), call.dtype(&[0, 3])) else {
        return misfit("dtypes of input and output", "two", "one");
    };
    let dimension = match call.dimension(1, sizes.len()) {
        Ok(dimension) => dimension,
        Err(verdict) => return verdict,
    };
    let size = sizes.get(dimension).copied().unwrap_or(0);
    // The kernel looks at the index itself; only of a constant one it is known before.
    if let Some(Value::Int(number)) = call.fixed(2)
        && usize::try_from(size).ok().and_then(|size| wrap(*number, size)).is_none()
    {
        return misfit("an index", number, format!("below {size}"));
    }
    let rest = sizes.iter().enumerate().filter(|(at, _)| *at != dimension).map(|(_, &size)| size);
    call.out(3, &rest.collect::<Vec<_>>())
}

fn slice(call: &Call<'_, '_>) -> CallVerdict {
    let (sizes, Some(_)) = (call.sizes(0), call.dtype(&[0, 5])) else {
        return misfit("dtypes of input and output", "two", "one");
    };
    let dimension = match call.dimension(1, sizes.len()) {
        Ok(dimension) => dimension,
        Err(verdict) => return verdict,
    };
    let out = call.sizes(5);
    let others = |sizes: &[u64]| -> Vec<u64> {
        sizes.iter().enumerate().filter(|(at, _)| *at != dimension).map(|(_, &size)| size).collect()
    };
    let (full, kept) = (sizes.get(dimension).copied(), out.get(dimension).copied());
    if others(sizes) != others(out) || sizes.len() != out.len() || kept > full {
        return misfit("shape of the output", format!("{out:?}"), format!("a part of {sizes:?}"));
    }
    match call.fixed(4) {
        Some(Value::Int(step)) if *step > 0 => CallVerdict::Sound,
        _ => CallVerdict::Unknown("a computed step"),
    }
}

/// A view lies where its source does: the runtime divides by the product of the sizes that are given.
fn view(call: &Call<'_, '_>) -> CallVerdict {
    let Some(_) = call.dtype(&[0, 2]) else { return misfit("dtypes of source and view", "two", "one") };
    let Some(Value::IntList(items)) = call.args.get(1).and_then(|&arg| call.plan.values.get(index(arg)))
    else {
        return CallVerdict::Sound;
    };
    let out = call.sizes(2);
    if items.len() != out.len() {
        return misfit("sizes of the view", items.len(), out.len());
    }
    let mut open = 0_u32;
    for (&item, &size) in items.iter().zip(out) {
        let value = usize::try_from(item).unwrap_or(usize::MAX);
        match call.plan.values.get(value).filter(|_| !call.computed.contains(&value)) {
            Some(Value::Int(-1)) => open = open.saturating_add(1),
            Some(Value::Int(number)) if u64::try_from(*number) == Ok(size) => {}
            Some(Value::Int(number)) => return misfit("a size of the view", number, size),
            // The kernel multiplies computed sizes, and compares with the source only what it divided by the product.
            _ if call.scalars.is_within(value, size) => {}
            _ => return CallVerdict::Unknown("a computed size without a bound"),
        }
    }
    if open > 1 {
        return misfit("sizes that are left open", open, "at most 1");
    }
    let elements = |position| call.tensor(position).map(|facts| facts.elements);
    if elements(0) != elements(2) {
        return misfit("elements of the view", format!("{:?}", elements(2)), format!("{:?}", elements(0)));
    }
    CallVerdict::Sound
}

/// The engine's own kernel looks at everything; it takes no mask.
fn attention(call: &Call<'_, '_>) -> CallVerdict {
    match call.fixed(4) {
        Some(Value::Null) => CallVerdict::Sound,
        _ => CallVerdict::Unknown("an attention mask"),
    }
}
