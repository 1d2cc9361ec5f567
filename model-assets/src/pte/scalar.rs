//! Kinds of the scalars that kernels compute.
//!
//! The runtime unboxes a value by the kind it has at that moment and aborts on another one; what the file declares
//! for a computed value is only a placeholder. So the kinds are followed from instruction to instruction.

use std::collections::HashMap;

use super::kernels::{Return, Schema};
use super::program::{Plan, Value};
use super::value::{TensorFacts, index};

/// What a kernel has put into a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scalar {
    Int,
    Double,
    Bool,
    /// A scalar of a kind that is not followed.
    Unknown,
}

/// The kinds at one point of a method.
pub(super) struct Scalars {
    now: HashMap<usize, Scalar>,
    /// Without control flow, an instruction runs exactly after the one before it.
    followed: bool,
}

impl Scalars {
    /// `overwritten` are all values that any instruction overwrites with a scalar.
    pub(super) fn new(straight: bool, overwritten: impl IntoIterator<Item = usize>) -> Self {
        let unknown = overwritten.into_iter().map(|value| (value, Scalar::Unknown));
        Self { now: if straight { HashMap::new() } else { unknown.collect() }, followed: straight }
    }

    /// What a value has been overwritten with so far.
    pub(super) fn now(&self, value: i32) -> Option<Scalar> {
        self.now.get(&index(value)).copied()
    }

    /// A kernel has run.
    pub(super) fn run(
        &mut self,
        name: &str,
        schema: &Schema,
        args: &[i32],
        plan: &Plan<'_>,
        facts: &TensorFacts,
    ) {
        if !self.followed {
            return;
        }
        for (&value, made) in args.iter().skip(schema.args.len()).zip(&schema.returns) {
            let Return::Fresh(kind) = made else { continue };
            if !is_scalar(kind) {
                continue;
            }
            let scalar = match kind.as_str() {
                "int" => Scalar::Int,
                "bool" => Scalar::Bool,
                "float" => Scalar::Double,
                _ => self.made(name, args, plan, facts),
            };
            self.now.insert(index(value), scalar);
        }
    }

    fn made(&self, name: &str, args: &[i32], plan: &Plan<'_>, facts: &TensorFacts) -> Scalar {
        let kind = |position: usize| args.get(position).map_or(Scalar::Unknown, |&arg| self.kind(plan, arg));
        match name {
            "aten::_local_scalar_dense" => {
                let tensor = args.first().and_then(|&arg| facts.get(index(arg))).and_then(Option::as_ref);
                match tensor.map(|tensor| tensor.dtype) {
                    Some(0..=4) => Scalar::Int,
                    Some(5..=7) => Scalar::Double,
                    Some(11) => Scalar::Bool,
                    _ => Scalar::Unknown,
                }
            }
            "executorch_prim::add.Scalar"
            | "executorch_prim::sub.Scalar"
            | "executorch_prim::mul.Scalar"
            | "executorch_prim::floordiv.Scalar" => match (kind(0), kind(1)) {
                (Scalar::Int, Scalar::Int) => Scalar::Int,
                (Scalar::Double, Scalar::Int | Scalar::Double) | (Scalar::Int, Scalar::Double) => {
                    Scalar::Double
                }
                _ => Scalar::Unknown,
            },
            "executorch_prim::truediv.Scalar" => Scalar::Double,
            _ => Scalar::Unknown,
        }
    }

    /// The kind of any scalar value at this point.
    fn kind(&self, plan: &Plan<'_>, value: i32) -> Scalar {
        self.now(value).unwrap_or(match plan.values.get(index(value)) {
            Some(Value::Int(_)) => Scalar::Int,
            Some(Value::Double(_)) => Scalar::Double,
            Some(Value::Bool(_)) => Scalar::Bool,
            _ => Scalar::Unknown,
        })
    }

    /// Whether arithmetic takes the value: it aborts on truth values.
    pub(super) fn is_number(&self, plan: &Plan<'_>, value: i32) -> bool {
        self.kind(plan, value) != Scalar::Bool
    }

    /// Whether each item of a list of integers is one.
    pub(super) fn are_ints(&self, items: &[i64]) -> bool {
        items.iter().all(|&item| {
            let now = usize::try_from(item).ok().and_then(|item| self.now.get(&item));
            matches!(now, None | Some(Scalar::Int | Scalar::Unknown))
        })
    }
}

/// Whether a kind in a schema is a number or a truth value.
pub(super) fn is_scalar(kind: &str) -> bool {
    matches!(kind, "int" | "bool" | "float" | "Scalar")
}

/// Kernels whose operands must be numbers.
pub(super) fn is_arithmetic(name: &str) -> bool {
    matches!(
        name.strip_prefix("executorch_prim::"),
        Some("add.Scalar" | "sub.Scalar" | "mul.Scalar" | "floordiv.Scalar" | "truediv.Scalar")
    )
}
