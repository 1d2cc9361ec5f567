//! Where a decoder's program computes what its layers hand on: found in the instructions, not in the numbers.
//!
//! A layer is one call of the attention operator. Its query is the operator's first argument; key and value are what went
//! into the two caches that it reads; the residual is the activation of the model's width that was computed last before the
//! query, or along with it. The width is that of the last residual: an embedding's rows may have a spare column.
//!
//! **Invariant:** a tap is the instruction that computes a value and the place among what that instruction lets the runtime's
//! event tracer see: all arguments of a delegate call, the one output of a kernel.

use super::container;
use super::kernels;
use super::program::{ExecutionPlan, Instruction, Tensor, Value, operator_name};
use super::read::ReadAt;
use super::report::Report;
use super::value::index;
use super::{dtype, parse_program, read_program};

const ATTENTION: &str = "llama::custom_sdpa.out";
const CACHE: &str = "llama::update_cache.out";
/// Its output is its input's memory, which it does not write.
const VIEW: &str = "executorch_prim::et_view.default";

/// A value that the event tracer sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tap {
    /// Number of the instruction that computes it.
    pub instruction: u32,
    /// Which of the values that the tracer sees of this instruction.
    pub argument: u32,
}

/// What one layer hands on. The residual is what goes into the layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerTaps {
    /// `[1, n, dim]`.
    pub residual: Tap,
    /// Rotated: `[1, n, heads, head_dim]`.
    pub query: Tap,
    /// Rotated: `[1, n, kv_heads, head_dim]`.
    pub key: Tap,
    /// `[1, n, kv_heads, head_dim]`.
    pub value: Tap,
    /// Attention's output: `[1, n, heads, head_dim]`.
    pub attention: Tap,
}

/// Finds the layers of `forward`, in the order in which they run.
///
/// # Errors
/// A message that says what the program lacks: it cannot be read, runs no attention, or computes its operands elsewhere.
pub fn taps(file: &dyn ReadAt) -> Result<Vec<LayerTaps>, String> {
    const UNREADABLE: &str = "the program cannot be read";
    let mut unused = Report::default();
    let bytes = file.len().map_err(|error| error.to_string())?;
    let container = container::check(file, bytes, &mut unused).ok_or(UNREADABLE)?;
    let bytes = read_program(file, &container, &mut unused).ok_or(UNREADABLE)?;
    let program = parse_program(&bytes, &container, &mut unused).ok_or(UNREADABLE)?;
    let plan = program.plans.iter().find(|plan| plan.name == Some("forward")).ok_or("no method forward")?;
    Flow::of(plan)?.layers()
}

/// The instructions of a method that runs straight through, and where each of its values comes from.
struct Flow<'p, 'a> {
    plan: &'p ExecutionPlan<'a>,
    instructions: &'p [Instruction],
    /// By value.
    origins: Vec<Option<Tap>>,
}

impl<'p, 'a> Flow<'p, 'a> {
    fn of(plan: &'p ExecutionPlan<'a>) -> Result<Self, String> {
        let [chain] = plan.chains.as_slice() else {
            return Err(format!("got {} chains, expected 1", plan.chains.len()));
        };
        let instructions = chain.instructions.as_deref().unwrap_or_default();
        let mut flow = Self { plan, instructions, origins: vec![None; plan.values.len()] };
        // Inputs and constants are there before the first instruction.
        let mut known: Vec<bool> = plan.values.iter().map(is_constant).collect();
        plan.inputs.iter().for_each(|&input| mark(&mut known, input));
        for (number, instruction) in (0_u32..).zip(instructions) {
            flow.step(number, instruction, &mut known)?;
        }
        Ok(flow)
    }

    fn step(&mut self, number: u32, instruction: &Instruction, known: &mut [bool]) -> Result<(), String> {
        match instruction {
            Instruction::Delegate { args: Some(args), .. } => {
                for (argument, &value) in (0_u32..).zip(args) {
                    // A delegate lists what it reads, then what it writes: what nothing computed before.
                    if known.get(index(value)) == Some(&false) {
                        self.set(value, Tap { instruction: number, argument });
                    }
                }
                args.iter().for_each(|&value| mark(known, value));
            }
            Instruction::Kernel { operator, args: Some(args) } => {
                let name = self.name(*operator);
                if name == VIEW {
                    let seen = args.first().and_then(|&of| self.origin(of));
                    if let (Some(seen), Some(&view)) = (seen, args.get(2)) {
                        self.set(view, seen);
                    }
                } else if let Some(written) = written(&name, args) {
                    self.set(written, Tap { instruction: number, argument: 0 });
                }
                args.iter().for_each(|&value| mark(known, value));
            }
            Instruction::Free { .. } => {}
            other => return Err(format!("instruction {number}: got {other:?}, expected straight-line code")),
        }
        Ok(())
    }

    fn layers(&self) -> Result<Vec<LayerTaps>, String> {
        let mut layers = Vec::new();
        let last = self.calls(ATTENTION).last().and_then(|(_, args)| self.origin(*args.first()?));
        let width =
            last.and_then(|query| self.activations(query.instruction).last().map(|(_, width)| *width));
        for (number, args) in self.calls(ATTENTION) {
            let [query, keys, values, ..] = args else {
                return Err(format!("instruction {number}: attention without operands"));
            };
            let at = |what: &str, value: Option<i32>| {
                let tap = value.and_then(|value| self.origin(value));
                tap.ok_or_else(|| format!("instruction {number}: attention's {what} comes from nowhere"))
            };
            let query = at("query", Some(*query))?;
            layers.push(LayerTaps {
                residual: self.residual(query.instruction, width)?,
                query,
                key: at("key", self.cached(*keys, number))?,
                value: at("value", self.cached(*values, number))?,
                attention: Tap { instruction: number, argument: 0 },
            });
        }
        if layers.is_empty() { Err(format!("forward never calls {ATTENTION}")) } else { Ok(layers) }
    }

    /// What the last update before an instruction wrote to a cache.
    fn cached(&self, cache: i32, before: u32) -> Option<i32> {
        let updates =
            self.calls(CACHE).filter(|(number, args)| *number < before && args.get(1) == Some(&cache));
        updates.last().and_then(|(_, args)| args.first().copied())
    }

    /// Activations `[1, n, width]` that are computed up to an instruction, in their order, with their width.
    fn activations(&self, instruction: u32) -> Vec<(Tap, i32)> {
        let found = self.origins.iter().zip(&self.plan.values).filter_map(|(origin, value)| {
            let tap = (*origin).filter(|tap| tap.instruction <= instruction)?;
            Some((tap, *activation(value)?.get(2)?))
        });
        let mut found: Vec<_> = found.collect();
        found.sort_unstable();
        found
    }

    /// The last activation of the model's width that is computed up to an instruction.
    fn residual(&self, instruction: u32, width: Option<i32>) -> Result<Tap, String> {
        let activations = self.activations(instruction).into_iter();
        let found: Vec<_> = activations.filter(|(_, it)| Some(*it) == width).map(|(tap, _)| tap).collect();
        let last = found.last().copied().ok_or("no activation before the first query")?;
        match found.iter().filter(|tap| tap.instruction == last.instruction).count() {
            1 => Ok(last),
            many => Err(format!("instruction {}: got {many} activations, expected one", last.instruction)),
        }
    }

    fn calls(&self, wanted: &str) -> impl Iterator<Item = (u32, &'p [i32])> {
        let of = move |(number, instruction): (u32, &'p Instruction)| match instruction {
            Instruction::Kernel { operator, args: Some(args) } if self.name(*operator) == wanted => {
                Some((number, args.as_slice()))
            }
            _ => None,
        };
        (0_u32..).zip(self.instructions).filter_map(of)
    }

    fn name(&self, operator: i32) -> String {
        self.plan.operators.get(index(operator)).and_then(operator_name).unwrap_or_default()
    }

    fn origin(&self, value: i32) -> Option<Tap> {
        self.origins.get(index(value)).copied().flatten()
    }

    fn set(&mut self, value: i32, tap: Tap) {
        if let Some(origin) = self.origins.get_mut(index(value)) {
            *origin = Some(tap);
        }
    }
}

fn mark(known: &mut [bool], value: i32) {
    if let Some(known) = known.get_mut(index(value)) {
        *known = true;
    }
}

fn is_constant(value: &Value<'_>) -> bool {
    matches!(value, Value::Tensor(tensor) if tensor.buffer != 0)
}

/// The tensor that a kernel writes.
fn written(name: &str, args: &[i32]) -> Option<i32> {
    let schema = kernels::schema(name)?;
    let place = schema.args.iter().rposition(kernels::Argument::is_written)?;
    args.get(place).copied()
}

/// Sizes of an fp32 tensor `[1, n, width]`.
fn activation<'v>(value: &'v Value<'_>) -> Option<&'v [i32]> {
    let Value::Tensor(tensor) = value else { return None };
    let Tensor { dtype, sizes: Some(sizes), .. } = tensor.as_ref() else { return None };
    (*dtype == dtype::F32 && sizes.len() == 3 && sizes.first() == Some(&1)).then_some(sizes.as_slice())
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test may fail")]
mod tests {
    use super::super::program::{Chain, Operator};
    use super::*;

    const NAMES: [&str; 3] = [
        "quantized_decomposed::embedding_byte.dtype_out",
        "llama::update_cache.out",
        "llama::custom_sdpa.out",
    ];

    fn tensor(sizes: &[i32], buffer: u32) -> Value<'static> {
        Value::Tensor(Box::new(Tensor {
            dtype: dtype::F32,
            sizes: Some(sizes.to_vec()),
            buffer,
            ..Tensor::default()
        }))
    }

    fn kernel(operator: i32, args: &[i32]) -> Instruction {
        Instruction::Kernel { operator, args: Some(args.to_vec()) }
    }

    fn delegate(delegate: i32, args: &[i32]) -> Instruction {
        Instruction::Delegate { delegate, args: Some(args.to_vec()) }
    }

    /// Two layers; the second writes its key before its value, and its residual before its query.
    fn plan() -> ExecutionPlan<'static> {
        let heads = || tensor(&[1, 4, 2, 4], 0);
        let values = vec![
            Value::Null,
            tensor(&[1, 4, 8], 0), // 1: the embedding's
            tensor(&[8], 3),       // 2: a constant
            heads(),               // 3 to 6: value, query, key, attention of layer 0
            heads(),
            heads(),
            heads(),
            heads(), // 7, 8: caches of layer 0
            heads(),
            tensor(&[1, 4, 8], 0), // 9: the next residual
            heads(),               // 10 to 13: key, value, query, attention of layer 1
            heads(),
            heads(),
            heads(),
            heads(), // 14, 15: caches of layer 1
            heads(),
            tensor(&[1, 9], 0), // 16: logits
        ];
        let attention = |q, k, v, out| kernel(2, &[q, k, v, 0, 0, 0, 0, 0, out, out]);
        let instructions = vec![
            kernel(0, &[2, 2, 0, 0, 0, 0, 0, 1, 1]),
            delegate(0, &[1, 2, 3, 4, 5]),
            kernel(1, &[3, 8, 0, 0, 0]),
            kernel(1, &[5, 7, 0, 0, 0]),
            attention(4, 7, 8, 6),
            delegate(1, &[6, 1, 2, 9, 10, 11, 12]),
            kernel(1, &[10, 14, 0, 0, 0]),
            kernel(1, &[11, 15, 0, 0, 0]),
            attention(12, 14, 15, 13),
            delegate(2, &[13, 9, 2, 16]),
        ];
        let operator = |name: &'static str| {
            let (name, overload) = name.split_once('.').unwrap();
            Operator { name: Some(name), overload: Some(overload) }
        };
        ExecutionPlan {
            name: Some("forward"),
            values,
            operators: NAMES.map(operator).into(),
            chains: vec![Chain { instructions: Some(instructions), ..Chain::default() }],
            ..ExecutionPlan::default()
        }
    }

    fn instructions<'p>(plan: &'p mut ExecutionPlan<'_>) -> &'p mut Vec<Instruction> {
        plan.chains[0].instructions.as_mut().unwrap()
    }

    fn layers(change: impl FnOnce(&mut ExecutionPlan<'_>)) -> Result<Vec<LayerTaps>, String> {
        let mut plan = plan();
        change(&mut plan);
        Flow::of(&plan)?.layers()
    }

    #[test]
    fn operands_are_told_by_the_caches_that_they_go_into() {
        let tap = |instruction, argument| Tap { instruction, argument };
        let found = layers(|_| ()).unwrap();
        let first = LayerTaps {
            residual: tap(0, 0),
            query: tap(1, 3),
            key: tap(1, 4),
            value: tap(1, 2),
            attention: tap(4, 0),
        };
        let second = LayerTaps {
            residual: tap(5, 3),
            query: tap(5, 6),
            key: tap(5, 4),
            value: tap(5, 5),
            attention: tap(8, 0),
        };
        assert_eq!(found, [first, second]);
    }

    #[test]
    fn an_embedding_may_have_a_spare_column_that_is_cut_off() {
        let found = layers(|plan| {
            plan.values[1] = tensor(&[1, 4, 9], 0);
            plan.values.push(tensor(&[1, 4, 8], 0));
            // The first delegate cuts it and hands it on.
            instructions(plan)[1] = delegate(0, &[1, 2, 3, 4, 5, 17]);
            instructions(plan)[5] = delegate(1, &[6, 17, 2, 9, 10, 11, 12]);
        });
        let found = found.unwrap();
        assert_eq!(found[0].residual, Tap { instruction: 1, argument: 5 });
        assert_eq!(found[1].residual, Tap { instruction: 5, argument: 3 });
    }

    #[test]
    fn a_program_without_layers_says_what_it_lacks() {
        let says = |expected: &str, change: &dyn Fn(&mut ExecutionPlan<'_>)| {
            let error = layers(change).unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        says("forward never calls llama::custom_sdpa.out", &|plan| _ = instructions(plan).drain(2..));
        says("attention's key comes from nowhere", &|plan| _ = instructions(plan).remove(3));
        says("got 2 activations", &|plan| plan.values[11] = tensor(&[1, 4, 8], 0));
        says("got 0 chains", &|plan| plan.chains.clear());
        says("expected straight-line code", &|plan| {
            instructions(plan).push(Instruction::Move { from: 0, to: 0 });
        });
    }
}
