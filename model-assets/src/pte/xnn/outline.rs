//! A graph as named parts, for comparing two files.

use std::collections::HashMap;

use super::super::dtype;
use super::super::flat::Flat;
use super::super::report::{Place, Report};
use super::super::segment::Segments;
use super::Constant;
use super::graph::{self, Graph, Node, Quant, Value};

/// How the place of a weight's scales ends.
pub(in super::super) const SCALES: &str = " scales";

/// Place inside the delegate, text, and the bytes of a constant.
pub(in super::super) type Part = (String, String, Option<(u64, u64)>);

/// `None` when the blob or its graph cannot be read.
pub(in super::super) fn outline(blob: &[u8], blob_at: u64, segments: &Segments<'_>) -> Option<Vec<Part>> {
    let (mut unused, at) = (Report::default(), Place::root("delegate"));
    let (bytes, constants_at, constants_bytes) = super::check_header(blob, &at, &mut unused)?;
    let flat = Flat::new(bytes, 8);
    let graph = graph::parse(&flat).ok()?;
    let base = u64::try_from(constants_at).ok().and_then(|offset| blob_at.checked_add(offset))?;
    let constants = super::check_constants(&graph, (base, constants_bytes), segments, &at, &mut unused);
    let values: HashMap<u32, &Value> = graph.values.iter().map(|value| (value.id, value)).collect();
    let mut parts = vec![(
        "graph".to_owned(),
        format!("{} external values, inputs {:?}, outputs {:?}", graph.externs, graph.inputs, graph.outputs),
        None,
    )];
    for (number, value) in graph.values.iter().enumerate() {
        // Constants are listed under the node that reads them: that is where a person looks for a layer.
        if !is_constant(value) {
            parts.push((format!("value {number}"), value_text(value), None));
        }
    }
    for (number, node) in graph.nodes.iter().enumerate() {
        node_parts(number, node, &values, &constants, &mut parts);
    }
    parts.extend(orphans(&graph, &constants));
    Some(parts)
}

fn is_constant(value: &Value) -> bool {
    value.constant != 0
}

fn value_text(value: &Value) -> String {
    let name = dtype::xnn(value.dtype).map_or("?", |(name, _)| name);
    let quant = match &value.quant {
        Quant::None => String::new(),
        Quant::Channel { axis, count, scales, .. } => {
            format!(
                " per channel, axis {axis}, {} scales",
                scales.len().max(usize::try_from(*count).unwrap_or(0))
            )
        }
        Quant::Tensor { scale, zero_point } => format!(" scale {scale:e}, zero point {zero_point}"),
        Quant::Token { dims } => format!(" per token over {dims} dims"),
        Quant::Group { axis, group, count, .. } => format!(" groups of {group}, axis {axis}, {count} scales"),
    };
    let external = if value.flags == 0 { String::new() } else { format!(" external {}", value.external) };
    format!("id {} {name} {:?}{quant}{external}", value.id, value.dims)
}

fn node_parts(
    number: usize,
    node: &Node,
    values: &HashMap<u32, &Value>,
    constants: &[Option<Constant>],
    parts: &mut Vec<Part>,
) {
    let at = format!("node {number} {}", node.kind.name);
    let mut text = format!("{:?} → {:?}", node.inputs, node.outputs);
    for (what, id) in [("filter", node.filter), ("bias", node.bias)] {
        if let Some(id) = id {
            text.push_str(&format!(", {what} {id}"));
        }
    }
    if !node.params.is_empty() || !node.floats.is_empty() || !node.vectors.is_empty() || node.flags != 0 {
        let Node { params, floats, vectors, flags, .. } = node;
        text.push_str(&format!(", parameters {params:?} {floats:?} {vectors:?}, flags {flags:#x}"));
    }
    if let Some((min, max)) = node.clamp {
        text.push_str(&format!(", clamp {min} to {max}"));
    }
    parts.push((at.clone(), text, None));
    let inputs = node.inputs.iter().enumerate().map(|(slot, &id)| (format!("input {slot}"), id));
    let weights = [("filter", node.filter), ("bias", node.bias)];
    let weights = weights.into_iter().filter_map(|(what, id)| Some((what.to_owned(), id?)));
    for (what, id) in weights.chain(inputs) {
        let Some(value) = values.get(&id).filter(|value| is_constant(value)) else { continue };
        parts.push((format!("{at} / {what}"), value_text(value), range(constants, value.constant)));
        if let Some((text, data)) = scales(value, constants) {
            parts.push((format!("{at} / {what}{SCALES}"), text, data));
        }
    }
}

fn scales(value: &Value, constants: &[Option<Constant>]) -> Option<(String, Option<(u64, u64)>)> {
    let (Quant::Channel { scales, constant, .. } | Quant::Group { scales, constant, .. }) = &value.quant
    else {
        return None;
    };
    if *constant == 0 {
        Some((format!("{scales:?}"), None))
    } else {
        Some(("stored".to_owned(), range(constants, *constant)))
    }
}

fn range(constants: &[Option<Constant>], number: u32) -> Option<(u64, u64)> {
    let constant = usize::try_from(number).ok().and_then(|number| constants.get(number)?.as_ref())?;
    Some((constant.at, constant.bytes))
}

/// Constants that no value refers to would otherwise be compared nowhere.
fn orphans(graph: &Graph<'_>, constants: &[Option<Constant>]) -> Vec<Part> {
    let used = |number: u32| {
        graph.values.iter().any(|value| {
            value.constant == number
                || matches!(&value.quant, Quant::Channel { constant, .. } | Quant::Group { constant, .. } if *constant == number)
        })
    };
    let numbers = (0_u32..).zip(constants).filter(|(number, constant)| constant.is_some() && !used(*number));
    numbers
        .map(|(number, _)| (format!("constant {number}"), "unused".to_owned(), range(constants, number)))
        .collect()
}
