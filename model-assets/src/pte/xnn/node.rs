//! Nodes of an XNNPACK graph: that each reads what exists, and that weights fit what they are multiplied with.

use std::collections::HashSet;

use super::super::check_id::CheckId::{G1, G2, G3, G4, G5, G6, G7, G8, G9, G11, Q13};
use super::super::hash::{Float, Look, Watch};
use super::super::report::{Place, Report};
use super::super::{census, dtype, limits};
use super::graph::{Graph, Node, Quant, UNKNOWN, code};
use super::value::{Known, Values};
use super::{Findings, pattern, shape, types};

/// `XNN_FLAG_TRANSPOSE_WEIGHTS`.
const TRANSPOSED: u32 = 1;

pub(super) fn check(
    graph: &Graph<'_>,
    values: &mut Values<'_>,
    at: &Place<'_>,
    report: &mut Report,
    found: &mut Findings,
) {
    let inputs = values.values().filter(|known| known.is_input() || known.value.constant != 0);
    let mut ready: HashSet<u32> = inputs.map(|known| known.value.id).collect();
    let mut written = HashSet::new();
    let mut weights = HashSet::new();
    for (number, node) in graph.nodes.iter().enumerate() {
        let at = at.at("node", number);
        let at = at.part(node.kind.name);
        let count = found.summary.nodes.entry(node.kind.name.to_owned()).or_default();
        *count = count.saturating_add(1);
        for &id in node.inputs.iter().chain(&node.filter).chain(&node.bias) {
            if !values.contains_key(&id) {
                report.reject(G4, &at, "no such value", id, "a value of the graph");
            } else if !ready.contains(&id) {
                report.reject(
                    G1,
                    &at,
                    "reads what nothing has written yet",
                    id,
                    "an input, a constant or a result",
                );
            }
        }
        for &id in &node.outputs {
            if !values.contains_key(&id) {
                report.reject(G4, &at, "no such value", id, "a value of the graph");
            } else if !written.insert(id) || !ready.insert(id) {
                report.reject(G2, &at, "writes what is there already", id, "a value without another writer");
            }
        }
        if node.kind.name == UNKNOWN {
            report.reject(G3, &at, "unknown kind of node", node.kind.code, "1 to 47");
        }
        found.nodes.entry(pattern::of(node, values)).or_insert(number);
        check_clamp(node, &at, report);
        settle_layout(node, values);
        let values = &*values;
        check_result(node, values, &at, report);
        if let Err((got, expected)) = types::check(node, values) {
            report.reject(G11, &at, "dtypes", got, expected);
        }
        check_weights(node, values, &at, report, found);
        check_params(node, values, &at, report);
        count_weights(node, values, &mut weights, &at, found);
    }
    let values = &*values;
    let outputs = values.values().filter(|known| known.is_output());
    found.written = outputs.filter_map(|known| usize::try_from(known.value.external).ok()).collect();
    for known in values.values().filter(|known| known.is_output() && !written.contains(&known.value.id)) {
        report.reject(G9, at, "an external output is never written", known.value.id, "a writer");
    }
    for known in values.values().filter(|known| known.value.constant != 0) {
        if weights.insert(known.value.id) {
            count_weight("other", known, found);
        }
    }
}

fn check_clamp(node: &Node, at: &Place<'_>, report: &mut Report) {
    let Some((min, max)) = node.clamp else { return };
    if min.partial_cmp(&max) != Some(std::cmp::Ordering::Less) {
        report.reject(G7, at, "clamp", format!("{min} to {max}"), "a minimum below the maximum");
    }
}

/// The exporter leaves the dims of a dynamically quantized image in the order that they had before the image was
/// transposed. The runtime computes the true order when the method runs, so what follows is held to that one.
///
/// **Invariant:** only the order changes, and never of the dims that count the rows: each has parameters of its own in
/// memory that is sized from the declared dims.
fn settle_layout(node: &Node, values: &mut Values<'_>) {
    let inferred = (node.kind.code == code::CONVERT).then(|| shape::infer(node, values)).flatten().flatten();
    let result = node.outputs.first().and_then(|id| values.get_mut(id));
    let (Some(inferred), Some(result)) = (inferred, result) else { return };
    let Quant::Token { dims: inner } = result.value.quant else { return };
    let rows = usize::try_from(inner).ok().and_then(|inner| inferred.len().checked_sub(inner));
    let same_rows = rows.is_some_and(|rows| result.dims.get(..rows) == inferred.get(..rows));
    let sorted = |dims: &[u64]| {
        let mut dims = dims.to_vec();
        dims.sort_unstable();
        dims
    };
    if same_rows && !result.is_output() && sorted(&result.dims) == sorted(&inferred) {
        result.dims = inferred;
    }
}

/// G8: the declared shape of the result is the one that the node computes.
fn check_result(node: &Node, values: &Values<'_>, at: &Place<'_>, report: &mut Report) {
    if node.flags & !shape::flags_allowed(node.kind.code) != 0 {
        let expected = format!("bits of {:#x}", shape::flags_allowed(node.kind.code));
        report.reject(G8, at, "flags", format!("{:#x}", node.flags), expected);
    }
    let Some(result) = node.outputs.first().and_then(|id| values.get(id)) else { return };
    let Some(inferred) = shape::infer(node, values) else { return };
    if inferred.as_ref() != Some(&result.dims) {
        let got = format!("{:?}", result.dims);
        report.reject(G8, at, "shape of the result", got, format!("{inferred:?}"));
    }
}

/// Output channels, and how long the filter must be, in elements.
struct Shape {
    outputs: u64,
    elements: Option<u64>,
    axis: i32,
}

/// G5, G6 and Q13.
fn check_weights(
    node: &Node,
    values: &Values<'_>,
    at: &Place<'_>,
    report: &mut Report,
    found: &mut Findings,
) {
    let Some(filter) = node.filter.and_then(|id| values.get(&id)) else { return };
    let input = node.inputs.first().and_then(|id| values.get(id));
    let output = node.outputs.first().and_then(|id| values.get(id));
    let (Some(input), Some(output)) = (input, output) else { return };
    let shape = if node.kind.code == code::FULLY_CONNECTED {
        found.linears = found.linears.saturating_add(1);
        let two_rows = matches!(input.value.quant, Quant::Token { .. }) && input.dims.first() == Some(&2);
        found.two_row_linears = found.two_row_linears.saturating_add(u32::from(two_rows));
        fully_connected(node, filter, input, output, at, report)
    } else {
        convolution(node, filter, input, output, at, report)
    };
    let Some(shape) = shape else { return };
    if shape.elements != Some(filter.elements) {
        let expected = format!("{:?} elements", shape.elements);
        report.reject(G5, at, "the filter does not fit", format!("{:?}", filter.dims), expected);
    }
    if let Quant::Channel { axis, .. } | Quant::Group { axis, .. } = filter.value.quant
        && axis != shape.axis
    {
        report.reject(Q13, at, "quantized axis of the filter", axis, shape.axis);
    }
    if let Some(bias) = node.bias.and_then(|id| values.get(&id))
        && (bias.elements != shape.outputs || bias.value.constant == 0)
    {
        let got = format!("{:?}", bias.dims);
        report.reject(
            G6,
            at,
            "the bias does not fit",
            got,
            format!("a constant of {} elements", shape.outputs),
        );
    }
}

fn fully_connected(
    node: &Node,
    filter: &Known<'_>,
    input: &Known<'_>,
    output: &Known<'_>,
    at: &Place<'_>,
    report: &mut Report,
) -> Option<Shape> {
    let &[first, second] = filter.dims.as_slice() else {
        report.reject(G5, at, "rank of the filter", filter.dims.len(), 2);
        return None;
    };
    let transposed = node.flags & TRANSPOSED != 0;
    let (outputs, inputs) = if transposed { (second, first) } else { (first, second) };
    if input.dims.last() != Some(&inputs) || output.dims.last() != Some(&outputs) {
        let expected = format!("input {:?} to output {:?}", input.dims, output.dims);
        report.reject(G5, at, "the filter does not fit", format!("{:?}", filter.dims), expected);
        return None;
    }
    Some(Shape { outputs, elements: outputs.checked_mul(inputs), axis: i32::from(transposed) })
}

fn convolution(
    node: &Node,
    filter: &Known<'_>,
    input: &Known<'_>,
    output: &Known<'_>,
    at: &Place<'_>,
    report: &mut Report,
) -> Option<Shape> {
    let param = |index: usize| node.params.get(index).copied().map(u64::from);
    let (height, width, stride_y, stride_x) = (param(4)?, param(5)?, param(6)?, param(7)?);
    let (dilation_y, dilation_x) = (param(8)?, param(9)?);
    let (group_inputs, group_outputs, groups) = (param(10)?, param(11)?, param(12)?);
    let positive =
        [height, width, stride_y, stride_x, dilation_y, dilation_x, group_inputs, group_outputs, groups];
    if positive.contains(&0) {
        report.reject(G8, at, "a zero among the sizes of a convolution", format!("{positive:?}"), "> 0");
        return None;
    }
    let (inputs, outputs) = (groups.checked_mul(group_inputs)?, groups.checked_mul(group_outputs)?);
    if input.dims.last() != Some(&inputs) || output.dims.last() != Some(&outputs) {
        let got = format!("{inputs} to {outputs} channels");
        report.reject(G5, at, "channels", got, format!("input {:?} to output {:?}", input.dims, output.dims));
        return None;
    }
    let depthwise = node.kind.code == code::DEPTHWISE;
    if depthwise && (group_inputs != 1 || filter.dims.last() != Some(&outputs)) {
        report.reject(G5, at, "filter of a depthwise convolution", format!("{:?}", filter.dims), outputs);
    }
    let spatial = match (depthwise, filter.dims.as_slice()) {
        (true, &[_, y, x, _]) | (false, &[_, y, x, _]) => (y, x),
        _ => (0, 0),
    };
    if spatial != (height, width) {
        let got = format!("{:?}", filter.dims);
        report.reject(G5, at, "the filter does not fit the kernel", got, format!("{height} x {width}"));
    }
    let elements = outputs.checked_mul(height)?.checked_mul(width)?.checked_mul(group_inputs);
    Some(Shape { outputs, elements, axis: if depthwise { 3 } else { 0 } })
}

/// G8 for the nodes that carry shapes of their own.
fn check_params(node: &Node, values: &Values<'_>, at: &Place<'_>, report: &mut Report) {
    let Some(input) = node.inputs.first().and_then(|id| values.get(id)) else { return };
    let rank = input.dims.len();
    let declared = node.params.first().and_then(|&rank| usize::try_from(rank).ok());
    let lengths: Vec<usize> = node.vectors.iter().map(Vec::len).collect();
    let good = match node.kind.code {
        code::TRANSPOSE => {
            let order = node.vectors.first().map(Vec::as_slice).unwrap_or_default();
            let seen: HashSet<u32> = order
                .iter()
                .copied()
                .filter(|&dim| usize::try_from(dim).is_ok_and(|dim| dim < rank))
                .collect();
            declared == Some(rank) && lengths == [rank] && seen.len() == rank
        }
        code::PAD => lengths == [rank, rank],
        code::RESHAPE => {
            let most = usize::try_from(limits::XNN_RANK_MAX).unwrap_or(0);
            declared.is_some_and(|declared| declared <= most && lengths == [declared])
        }
        code::SLICE => declared == Some(rank) && lengths == [rank, rank] && slice_fits(node, input),
        _ => return,
    };
    if !good {
        let got = format!("rank {declared:?} and {:?}", node.vectors);
        report.reject(G8, at, "parameters do not fit the input", got, format!("{:?}", input.dims));
    }
}

fn slice_fits(node: &Node, input: &Known<'_>) -> bool {
    let [offsets, sizes] = node.vectors.as_slice() else { return false };
    offsets.iter().zip(sizes).zip(&input.dims).all(|((&offset, &size), &dim)| {
        u64::from(offset).checked_add(u64::from(size)).is_some_and(|end| end <= dim)
    })
}

/// Adds the node's weights to the census and its work to the count.
fn count_weights(
    node: &Node,
    values: &Values<'_>,
    counted: &mut HashSet<u32>,
    at: &Place<'_>,
    found: &mut Findings,
) {
    let role = match node.kind.code {
        code::FULLY_CONNECTED => "linear",
        _ => "convolution",
    };
    for (id, role) in node.filter.iter().map(|id| (id, role)).chain(node.bias.iter().map(|id| (id, "bias"))) {
        if let Some(known) = values.get(id).filter(|known| known.value.constant != 0)
            && counted.insert(*id)
        {
            if role != "bias"
                && let Some(constant) = known.constant
            {
                let float = match known.value.dtype {
                    1 => Some(Float::F32),
                    2 => Some(Float::F16),
                    14 => Some(Float::Bf16),
                    _ => None,
                };
                let (look, place) = (Look::Weight(float), format!("{at} / filter"));
                found.watches.push(Watch { at: constant.at, bytes: constant.bytes, look, place });
            }
            count_weight(role, known, found);
        }
    }
    let elements = |id: Option<&u32>| id.and_then(|id| values.get(id)).map_or(0, |known| known.elements);
    let last =
        |id: Option<&u32>| id.and_then(|id| values.get(id)).and_then(|known| known.dims.last().copied());
    let macs = match node.kind.code {
        code::FULLY_CONNECTED | code::BATCH_MATMUL => {
            elements(node.outputs.first()).saturating_mul(last(node.inputs.first()).unwrap_or(0))
        }
        code::CONV | code::DEPTHWISE | code::CONV_TRANSPOSE => {
            let per_output = [4, 5, 10].map(|index| node.params.get(index).copied().map_or(0, u64::from));
            elements(node.outputs.first()).saturating_mul(census::product(&per_output))
        }
        _ => 0,
    };
    found.summary.macs = found.summary.macs.saturating_add(macs);
}

fn count_weight(role: &'static str, known: &Known<'_>, found: &mut Findings) {
    let Some(constant) = known.constant else { return };
    let dtype = dtype::xnn(known.value.dtype).map_or("unknown", |(name, _)| name);
    found.weights.add(true, role, dtype, known.elements, constant.bytes);
    let scales = known.scales();
    if scales > 0 {
        let (name, width) =
            if matches!(known.value.quant, Quant::Group { .. }) { ("bf16", 2) } else { ("f32", 4) };
        found.weights.add(true, "scale", name, scales, scales.saturating_mul(width));
    }
    let scale_bytes =
        scales.saturating_mul(if matches!(known.value.quant, Quant::Group { .. }) { 2 } else { 4 });
    found.summary.weight_bytes =
        found.summary.weight_bytes.saturating_add(constant.bytes).saturating_add(scale_bytes);
}
