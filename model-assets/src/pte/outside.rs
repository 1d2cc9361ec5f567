//! What runs outside delegates: constants by role, layers left behind, and their share of the work.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::census::{self, Weights};
use super::dtype;
use super::hash::{Float, Look, Watch};
use super::program::{ExecutionPlan, Instruction, Value, operator_name};
use super::value::{Facts, TensorFacts, index};

#[derive(Debug, Default)]
pub(super) struct Outside {
    pub(super) weights: Weights,
    /// Bytes of the constants that a call reads whole.
    pub(super) read_bytes: u64,
    pub(super) macs: u64,
    pub(super) linears: Vec<String>,
    pub(super) operators: BTreeMap<String, u32>,
    pub(super) watches: Vec<Watch>,
    /// Rows, stored columns and dtype of each embedding table.
    pub(super) embeddings: Vec<(Vec<u64>, i8)>,
}

/// `counted` holds the file offsets that were counted already: methods share constants.
pub(super) fn survey(
    plan: &ExecutionPlan<'_>,
    facts: &TensorFacts,
    counted: &mut HashMap<u64, ()>,
) -> Outside {
    let mut outside = Outside::default();
    let mut roles: HashMap<usize, &'static str> = HashMap::new();
    for instruction in plan.chains.iter().flat_map(|chain| chain.instructions.iter().flatten()) {
        let Instruction::Kernel { operator, args: Some(args) } = instruction else { continue };
        let Some(name) = plan.operators.get(index(*operator)).and_then(operator_name) else { continue };
        let count = outside.operators.entry(name.clone()).or_default();
        *count = count.saturating_add(1);
        let sizes = |position: usize| {
            args.get(position)
                .and_then(|&v| facts.get(index(v)))
                .and_then(Option::as_ref)
                .map(|f| f.sizes.as_slice())
        };
        outside.macs = outside.macs.saturating_add(macs(&name, &sizes));
        for (position, role) in roles_of(&name) {
            let Some(&value) = args.get(*position) else { continue };
            let Some(known) = facts.get(index(value)).and_then(Option::as_ref).filter(|f| f.constant) else {
                continue;
            };
            if roles.insert(index(value), role).is_none() {
                match *role {
                    "linear" => outside.linears.push(named(plan, index(value), &known.sizes)),
                    "embedding" => outside.embeddings.push((known.sizes.clone(), known.dtype)),
                    _ => {}
                }
            }
        }
    }
    let looked_up = looked_up(plan);
    for (value, known) in facts.iter().enumerate() {
        let Some(known) = known.as_ref().filter(|known| known.constant) else { continue };
        if !looked_up.contains(&value) {
            outside.read_bytes = outside.read_bytes.saturating_add(known.bytes);
        }
        let fresh = known.constant_at.is_none_or(|at| known.bytes == 0 || counted.insert(at, ()).is_none());
        if let (true, Some((name, _))) = (fresh, dtype::program(known.dtype)) {
            let role = roles.get(&value).copied().unwrap_or("other");
            let packed = if role == "embedding" && is_packed(plan, value) { 2 } else { 1 };
            outside.watches.extend(watch(plan, value, known, role));
            outside.weights.add(false, role, name, known.elements.saturating_mul(packed), known.bytes);
        }
    }
    outside
}

/// Values of which a call reads single rows: the tables of embeddings, unless something else reads them too.
fn looked_up(plan: &ExecutionPlan<'_>) -> HashSet<usize> {
    let (mut rows, mut whole) = (HashSet::new(), HashSet::new());
    for instruction in plan.chains.iter().flat_map(|chain| chain.instructions.iter().flatten()) {
        match instruction {
            Instruction::Kernel { operator, args: Some(args) } => {
                let name = plan.operators.get(index(*operator)).and_then(operator_name).unwrap_or_default();
                let roles = roles_of(&name);
                let tables =
                    if roles.first().is_some_and(|(_, role)| *role == "embedding") { roles } else { &[] };
                for (position, &arg) in args.iter().enumerate() {
                    let table = tables.iter().any(|(table, _)| *table == position);
                    (if table { &mut rows } else { &mut whole }).insert(index(arg));
                }
            }
            Instruction::Delegate { args: Some(args), .. } => {
                whole.extend(args.iter().map(|&arg| index(arg)));
            }
            _ => {}
        }
    }
    rows.difference(&whole).copied().collect()
}

/// Constants without a role may hold anything: a mask is full of infinities.
fn watch(plan: &ExecutionPlan<'_>, value: usize, known: &Facts, role: &str) -> Option<Watch> {
    let float = match known.dtype {
        5 => Some(Float::F16),
        6 => Some(Float::F32),
        15 => Some(Float::Bf16),
        _ => None,
    };
    let look = match role {
        "linear" | "convolution" | "embedding" => Look::Weight(float),
        _ => return None,
    };
    let place = format!("plan {} / value {value} ({role})", plan.name.unwrap_or_default());
    Some(Watch { at: known.constant_at?, bytes: known.bytes, look, place })
}

fn is_packed(plan: &ExecutionPlan<'_>, value: usize) -> bool {
    let instructions = plan.chains.iter().flat_map(|chain| chain.instructions.iter().flatten());
    instructions.into_iter().any(|instruction| match instruction {
        Instruction::Kernel { operator, args: Some(args) } => {
            let name = plan.operators.get(index(*operator)).and_then(operator_name).unwrap_or_default();
            name.contains("embedding_4bit") && args.first().is_some_and(|&arg| index(arg) == value)
        }
        _ => false,
    })
}

/// Which arguments of an operator are weights, and of what role.
fn roles_of(name: &str) -> &'static [(usize, &'static str)] {
    match name {
        "aten::embedding.out" => &[(0, "embedding")],
        "aten::linear.out" => &[(1, "linear"), (2, "bias")],
        "aten::mm.out" | "aten::bmm.out" => &[(0, "linear"), (1, "linear")],
        "aten::addmm.out" => &[(0, "bias"), (2, "linear")],
        "aten::convolution.out" => &[(1, "convolution"), (2, "bias")],
        name if name.starts_with("quantized_decomposed::embedding_") => {
            &[(0, "embedding"), (1, "scale"), (2, "scale")]
        }
        name if name.starts_with("quantized_decomposed::mixed_linear")
            || name.starts_with("quantized_decomposed::mixed_mm") =>
        {
            &[(1, "linear"), (2, "scale")]
        }
        _ => &[],
    }
}

fn macs<'f>(name: &str, sizes: &dyn Fn(usize) -> Option<&'f [u64]>) -> u64 {
    let elements = |position: usize| sizes(position).map_or(0, census::product);
    let last = |position: usize| sizes(position).and_then(|sizes| sizes.last().copied()).unwrap_or(0);
    match name {
        // Each element of the left operand meets every output column.
        "aten::mm.out" | "aten::bmm.out" => elements(0).saturating_mul(last(1)),
        "aten::addmm.out" => elements(1).saturating_mul(last(2)),
        "aten::linear.out" => {
            elements(0).saturating_mul(sizes(1).and_then(|s| s.first().copied()).unwrap_or(0))
        }
        "aten::convolution.out" => {
            let weight = sizes(1).unwrap_or_default();
            let per_output = census::product(weight.get(1..).unwrap_or_default());
            elements(9).saturating_mul(per_output)
        }
        // Scores and weighted sum: the query meets every cached position twice.
        "llama::custom_sdpa.out" => {
            let cached = sizes(1).and_then(|sizes| sizes.get(1).copied()).unwrap_or(0);
            elements(0).saturating_mul(cached).saturating_mul(2)
        }
        _ => 0,
    }
}

fn named(plan: &ExecutionPlan<'_>, value: usize, sizes: &[u64]) -> String {
    let name = match plan.values.get(value) {
        Some(Value::Tensor(tensor)) => tensor.extra.as_ref().and_then(|extra| extra.name),
        _ => None,
    };
    name.map_or_else(|| format!("value {value} {sizes:?}"), str::to_owned)
}
