//! A node as text: its kind and the dtypes of what it reads and writes.

use super::super::dtype;
use super::graph::Node;
use super::value::Values;

pub(super) fn of(node: &Node, values: &Values<'_>) -> String {
    let name = |id: &u32| {
        let Some(known) = values.get(id) else { return "missing".to_owned() };
        let name = dtype::xnn(known.value.dtype).map_or("?", |(name, _)| name);
        if known.value.constant == 0 { name.to_owned() } else { format!("constant {name}") }
    };
    let bias = node.bias.iter().map(|id| format!("bias {}", name(id)));
    let read: Vec<String> = node.inputs.iter().chain(&node.filter).map(name).chain(bias).collect();
    let written: Vec<String> = node.outputs.iter().map(name).collect();
    format!("{}({}) {}", node.kind.name, read.join(", "), written.join(", "))
}
