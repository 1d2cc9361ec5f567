//! Kinds of the scalars that kernels compute.
//!
//! The runtime unboxes a value by the kind it has at that moment and aborts on another one; what the file declares
//! for a computed value is only a placeholder. So the kinds are followed from instruction to instruction.

use std::collections::{HashMap, HashSet};

use super::kernels::{Return, Schema};
use super::program::{ExecutionPlan, Value};
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
    /// Values that some instruction overwrites.
    overwritten: HashSet<usize>,
    /// Smallest and largest number that a computed integer can be; absent where it can be any.
    ranges: HashMap<usize, (i64, i64)>,
    /// Without control flow, an instruction runs exactly after the one before it.
    followed: bool,
}

impl Scalars {
    /// `overwritten` are all values that any instruction overwrites with a scalar.
    pub(super) fn new(straight: bool, overwritten: HashSet<usize>) -> Self {
        let unknown = overwritten.iter().map(|&value| (value, Scalar::Unknown));
        let now = if straight { HashMap::new() } else { unknown.collect() };
        Self { now, overwritten, ranges: HashMap::new(), followed: straight }
    }

    /// Whether any instruction overwrites the value: what the file declares for it means nothing.
    pub(super) fn is_overwritten(&self, value: usize) -> bool {
        self.overwritten.contains(&value)
    }

    /// Whether a computed integer is certain to be neither negative nor above a bound.
    pub(super) fn is_within(&self, value: usize, most: u64) -> bool {
        self.ranges
            .get(&value)
            .is_some_and(|&(low, high)| low >= 0 && u64::try_from(high).is_ok_and(|high| high <= most))
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
        plan: &ExecutionPlan<'_>,
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
            // Values of other instructions may stand for this one's operands, so the old range goes last.
            match self.range(name, args, plan, facts) {
                Some(range) => self.ranges.insert(index(value), range),
                None => self.ranges.remove(&index(value)),
            };
            let scalar = match kind.as_str() {
                "int" => Scalar::Int,
                "bool" => Scalar::Bool,
                "float" => Scalar::Double,
                _ => self.made(name, args, plan, facts),
            };
            self.now.insert(index(value), scalar);
        }
    }

    /// What an integer that a kernel computes can be.
    fn range(
        &self,
        name: &str,
        args: &[i32],
        plan: &ExecutionPlan<'_>,
        facts: &TensorFacts,
    ) -> Option<(i64, i64)> {
        let operand = |position: usize| {
            let value = index(*args.get(position)?);
            if self.overwritten.contains(&value) {
                return self.ranges.get(&value).copied();
            }
            match plan.values.get(value)? {
                Value::Int(number) => Some((*number, *number)),
                _ => None,
            }
        };
        match name {
            "aten::sym_size.int" => {
                let (dimension, _) = operand(1)?;
                let tensor = facts.get(index(*args.first()?))?.as_ref()?;
                let size = tensor.sizes.get(usize::try_from(dimension).ok()?)?;
                Some((0, i64::try_from(*size).ok()?))
            }
            "executorch_prim::add.Scalar" => {
                let ((low, high), (other_low, other_high)) = (operand(0)?, operand(1)?);
                Some((low.checked_add(other_low)?, high.checked_add(other_high)?))
            }
            "executorch_prim::mul.Scalar" => {
                let ((low, high), (other_low, other_high)) = (operand(0)?, operand(1)?);
                // Of factors that are not negative the products ascend.
                (low >= 0 && other_low >= 0)
                    .then_some((low.checked_mul(other_low)?, high.checked_mul(other_high)?))
            }
            _ => None,
        }
    }

    fn made(&self, name: &str, args: &[i32], plan: &ExecutionPlan<'_>, facts: &TensorFacts) -> Scalar {
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
    fn kind(&self, plan: &ExecutionPlan<'_>, value: i32) -> Scalar {
        self.now(value).unwrap_or(match plan.values.get(index(value)) {
            Some(Value::Int(_)) => Scalar::Int,
            Some(Value::Double(_)) => Scalar::Double,
            Some(Value::Bool(_)) => Scalar::Bool,
            _ => Scalar::Unknown,
        })
    }

    /// Whether arithmetic takes the value: it aborts on truth values.
    pub(super) fn is_number(&self, plan: &ExecutionPlan<'_>, value: i32) -> bool {
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
