//! Views: tensors that the runtime moves to where another one lies.

use std::collections::HashSet;

use super::program::{ExecutionPlan, Instruction, operator_name};
use super::value::{TensorFacts, index};

/// The kernel that makes a view when the method runs.
pub(super) const VIEW: &str = "executorch_prim::et_view.default";

/// Source and view of a call.
pub(super) fn pair(plan: &ExecutionPlan<'_>, operator: i32, args: &[i32]) -> Option<(usize, usize)> {
    let name = plan.operators.get(index(operator)).and_then(operator_name)?;
    let (&[source, _, view], true) = (args, name == VIEW) else { return None };
    Some((index(source), index(view)))
}

/// Views of constants, and views of those.
pub(super) fn of_constants(plan: &ExecutionPlan<'_>, facts: &TensorFacts) -> HashSet<usize> {
    let mut found = HashSet::new();
    let constant =
        |value: usize| facts.get(value).and_then(Option::as_ref).is_some_and(|facts| facts.constant);
    for instruction in plan.chains.iter().flat_map(|chain| chain.instructions.iter().flatten()) {
        let Instruction::Kernel { operator, args: Some(args) } = instruction else { continue };
        if let Some((source, view)) = pair(plan, *operator, args)
            && (constant(source) || found.contains(&source))
        {
            found.insert(view);
        }
    }
    found
}
