//! G11: dtypes of a node's values.
//!
//! XNNPACK refuses most wrong combinations when it makes the graph, but a dynamically quantized value that does not
//! come from a conversion has no scales behind it, and reading them crashes.

use super::super::dtype;
use super::graph::{Node, code};
use super::value::Values;

const F32: i16 = 1;
const F16: i16 = 2;
const QINT8: i16 = 3;
const QUINT8: i16 = 4;
const QCINT8: i16 = 6;
const QDINT8: i16 = 9;
const QPINT8: i16 = 11;
const PFP32: i16 = 13;
const BF16: i16 = 14;

/// What was got and what was expected.
type Misfit = (String, &'static str);

pub(super) fn check(node: &Node, values: &Values<'_>) -> Result<(), Misfit> {
    let dtype = |id: &u32| values.get(id).map(|known| known.value.dtype);
    let inputs: Option<Vec<i16>> = node.inputs.iter().map(dtype).collect();
    // Unknown ids have findings of their own.
    let (Some(inputs), Some(output)) = (inputs, node.outputs.first().and_then(dtype)) else { return Ok(()) };
    let Some(&first) = inputs.first() else { return Ok(()) };
    let (good, expected) = match node.kind.code {
        code::CONVERT => {
            (is_conversion(first, output), "floats or static quantization; dynamic only as a result")
        }
        code::FULLY_CONNECTED | code::CONV | code::DEPTHWISE | code::CONV_TRANSPOSE => {
            let filter = node.filter.as_ref().and_then(dtype);
            (filter.is_none_or(|filter| is_product(first, filter, output)), "floats, or quantized alike")
        }
        code::BATCH_MATMUL => match inputs.get(1) {
            Some(&second) => (is_product(first, second, output), "floats, or quantized alike"),
            None => return Ok(()),
        },
        code::ARG_MAX_POOL => (!is_dynamic(first) && !is_dynamic(output), "no dynamic quantization"),
        _ => {
            let same = inputs.iter().all(|&dtype| dtype == output);
            (same && !is_dynamic(output), "one dtype for all, not dynamically quantized")
        }
    };
    if good {
        return Ok(());
    }
    let name = |code: i16| dtype::xnn(code).map_or("unknown", |(name, _)| name);
    let inputs: Vec<_> = inputs.into_iter().map(name).collect();
    Err((format!("{} to {}", inputs.join(", "), name(output)), expected))
}

/// Scales are computed for each row when the value is made.
fn is_dynamic(dtype: i16) -> bool {
    matches!(dtype, QDINT8 | QPINT8 | PFP32)
}

fn is_float(dtype: i16) -> bool {
    matches!(dtype, F32 | F16 | BF16)
}

fn is_conversion(input: i16, output: i16) -> bool {
    if is_dynamic(output) { is_float(input) } else { !is_dynamic(input) }
}

fn is_product(input: i16, filter: i16, output: i16) -> bool {
    match input {
        QINT8 => output == QINT8 && matches!(filter, QINT8 | QCINT8),
        QUINT8 => output == QUINT8 && filter == QUINT8,
        F32 | F16 | BF16 => is_float(output) && !is_dynamic(filter),
        QDINT8 | QPINT8 | PFP32 => is_float(output) && !is_dynamic(filter),
        _ => false,
    }
}
