//! Every part of a file with a name, a text and the bytes it stands for: what two files are compared by.
//!
//! **Invariant:** a place is unique within an outline, and a text holds no offset into the file: moving a segment
//! changes no item.

use super::container;
use super::program::{Delegate, ExecutionPlan, Instruction, Program, Tensor, Value, operator_name};
use super::read::ReadAt;
use super::report::{Place, Report};
use super::segment::{self, Segments};
use super::value::{self, TensorFacts, index};
use super::xnn;
use super::{dtype, limits, parse_program, read_program};

/// One part of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Where it is: `plan forward / delegate 3 / node 12 fully_connected / filter`.
    pub place: String,
    /// What it says, in a line.
    pub text: String,
    /// The bytes of a weight or another constant: absolute offset and length.
    pub data: Option<(u64, u64)>,
}

impl Item {
    /// The bytes of a delegated weight's scales, if it is those.
    #[must_use]
    pub fn scales(&self) -> Option<(u64, u64)> {
        self.data.filter(|_| self.place.ends_with(xnn::SCALES))
    }
}

/// Lists the parts of a file, in file order. `None` when its container or program cannot be read.
///
/// Nothing is judged here: what [`super::verify`] rejects may well be listed.
pub fn outline(file: &dyn ReadAt) -> Option<Vec<Item>> {
    let mut unused = Report::default();
    let container = container::check(file, file.len().ok()?, &mut unused)?;
    let bytes = read_program(file, &container, &mut unused)?;
    let program = parse_program(&bytes, &container, &mut unused)?;
    let segments = segment::check(file, &container, &program, &mut unused);
    let mut items = Items::default();
    items.add("program", format!("version {}", program.version), None);
    for named in &program.named {
        let range = segments.range(named.segment);
        let size = range.map_or(0, |(_, size)| size);
        items.add(format!("named data / {}", named.key.unwrap_or("?")), format!("{size} bytes"), range);
    }
    for plan in &program.plans {
        let at = format!("plan {}", plan.name.unwrap_or("?"));
        let place = Place::root_named("plan", plan.name.unwrap_or_default());
        let facts = value::check(&program, &segments, plan, &place, &mut unused);
        plan_items(plan, &facts, &at, &mut items);
        for (number, delegate) in plan.delegates.iter().enumerate() {
            let at = format!("{at} / delegate {number}");
            delegate_items(file, (&program, &segments), delegate, &at, &mut items);
        }
    }
    Some(items.0)
}

#[derive(Default)]
struct Items(Vec<Item>);

impl Items {
    fn add(&mut self, place: impl Into<String>, text: String, data: Option<(u64, u64)>) {
        self.0.push(Item { place: place.into(), text, data });
    }
}

fn plan_items(plan: &ExecutionPlan<'_>, facts: &TensorFacts, at: &str, items: &mut Items) {
    items.add(format!("{at} / inputs"), format!("{:?}", plan.inputs), None);
    items.add(format!("{at} / outputs"), format!("{:?}", plan.outputs), None);
    items.add(format!("{at} / planned memory"), format!("{:?} bytes", plan.planned), None);
    for (number, value) in plan.values.iter().enumerate() {
        let facts = facts.get(number).and_then(Option::as_ref);
        let data = facts.and_then(|facts| Some((facts.constant_at?, facts.bytes)));
        let text = match value {
            Value::Tensor(tensor) => tensor_text(tensor),
            value => format!("{value:?}"),
        };
        items.add(format!("{at} / value {number}"), text, data);
    }
    let instructions = plan.chains.iter().flat_map(|chain| chain.instructions.iter().flatten());
    for (number, instruction) in instructions.enumerate() {
        let text = match instruction {
            Instruction::Kernel { operator, args } => {
                let name = plan.operators.get(index(*operator)).and_then(operator_name).unwrap_or_default();
                format!("kernel {name}{:?}", args.as_deref().unwrap_or_default())
            }
            Instruction::Delegate { delegate, args } => {
                format!("delegate {delegate}{:?}", args.as_deref().unwrap_or_default())
            }
            other => format!("{other:?}"),
        };
        items.add(format!("{at} / instruction {number}"), text, None);
    }
}

fn tensor_text(tensor: &Tensor<'_>) -> String {
    let name = dtype::program(tensor.dtype).map_or("?", |(name, _)| name);
    let sizes = tensor.sizes.as_deref().unwrap_or_default();
    let mut text = format!("tensor {name} {sizes:?}");
    if tensor.dynamism != 0 {
        text.push_str(" dynamic");
    }
    if let Some(name) = tensor.extra.as_ref().and_then(|extra| extra.name) {
        text.push_str(&format!(" `{name}`"));
    }
    match tensor.allocation {
        Some(allocation) => {
            text.push_str(&format!(" in buffer {} at {}", allocation.memory, allocation.offset))
        }
        None if tensor.buffer != 0 => text.push_str(" constant"),
        None => {}
    }
    let order = tensor.dim_order.as_deref().unwrap_or_default();
    if !order.iter().map(|&dim| usize::from(dim)).eq(0..order.len()) {
        text.push_str(&format!(" order {order:?}"));
    }
    text
}

fn delegate_items(
    file: &dyn ReadAt,
    (program, segments): (&Program<'_>, &Segments<'_>),
    delegate: &Delegate<'_>,
    at: &str,
    items: &mut Items,
) {
    items.add(at, format!("{} {:?}", delegate.id.unwrap_or("?"), delegate.specs), None);
    let range = match delegate.data {
        Some((0, number)) => usize::try_from(number).ok().and_then(|number| {
            let &(start, bytes) = program.inline_delegates.get(number)?;
            Some((u64::try_from(start).ok()?, u64::try_from(bytes).ok()?))
        }),
        Some((1, number)) => segments.range(number),
        _ => None,
    };
    let Some((start, bytes)) = range.filter(|(_, bytes)| *bytes <= limits::DELEGATE_BLOB_BYTES_MAX) else {
        return;
    };
    let known = delegate.id == Some("XnnpackBackend");
    let blob = usize::try_from(bytes).ok().filter(|_| known).and_then(|bytes| {
        let mut blob = vec![0; bytes];
        file.read_exact_at(&mut blob, start).ok().map(|()| blob)
    });
    match blob.and_then(|blob| xnn::outline(&blob, start, segments)) {
        Some(parts) => {
            parts.into_iter().for_each(|(part, text, data)| items.add(format!("{at} / {part}"), text, data));
        }
        None => items.add(format!("{at} / data"), format!("{bytes} bytes"), Some((start, bytes))),
    }
}
