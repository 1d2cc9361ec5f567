//! The XNNPACK graph as owned Rust values.

use super::super::flat::{Fault, Flat, Read, Table};

/// "No value": what an absent bias or an internal value carries as its id.
pub(super) const NO_ID: u32 = u32::MAX;

#[derive(Debug, Default)]
pub(super) struct Graph<'a> {
    pub(super) nodes: Vec<Node>,
    pub(super) values: Vec<Value>,
    pub(super) externs: u32,
    pub(super) inputs: Vec<u32>,
    pub(super) outputs: Vec<u32>,
    pub(super) inline_constants: usize,
    pub(super) constants: Vec<ConstantEntry<'a>>,
}

impl Graph<'_> {
    pub(super) fn keys(&self) -> Vec<String> {
        self.constants.iter().filter_map(|constant| constant.key).map(str::to_owned).collect()
    }
}

#[derive(Debug)]
pub(super) struct ConstantEntry<'a> {
    pub(super) offset: u64,
    pub(super) size: u64,
    pub(super) key: Option<&'a str>,
}

impl ConstantEntry<'_> {
    pub(super) fn is_reserved(&self) -> bool {
        matches!(self.offset, 0 | u64::MAX) && self.size == 0 && self.key.is_none_or(str::is_empty)
    }
}

#[derive(Debug)]
pub(super) struct Value {
    pub(super) dtype: i16,
    pub(super) rank: u32,
    pub(super) dims: Vec<u32>,
    pub(super) constant: u32,
    pub(super) external: u32,
    pub(super) flags: u32,
    pub(super) id: u32,
    pub(super) quant: Quant,
}

#[derive(Debug)]
pub(super) enum Quant {
    None,
    Channel { scales: Vec<f32>, axis: i32, constant: u32, count: u32 },
    Tensor { scale: f32, zero_point: i32 },
    Token { dims: i32 },
    Group { scales: Vec<f32>, axis: i32, group: i32, constant: u32, count: u32 },
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) inputs: Vec<u32>,
    pub(super) filter: Option<u32>,
    pub(super) bias: Option<u32>,
    pub(super) outputs: Vec<u32>,
    /// Plain parameters, in schema order.
    pub(super) params: Vec<u32>,
    pub(super) floats: Vec<f32>,
    pub(super) vectors: Vec<Vec<u32>>,
    pub(super) flags: u32,
    pub(super) clamp: Option<(f32, f32)>,
}

/// A kind of node. The layout has one letter per field: `i` input, `x` optional input, `w` filter, `b` bias, `o` output,
/// `u` parameter, `f` float, `v` vector, `F` flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) code: u8,
    pub(super) name: &'static str,
    layout: &'static str,
}

pub(super) mod code {
    pub(in super::super) const FULLY_CONNECTED: u8 = 2;
    pub(in super::super) const TRANSPOSE: u8 = 5;
    pub(in super::super) const CONV: u8 = 7;
    pub(in super::super) const RESIZE: u8 = 9;
    pub(in super::super) const PAD: u8 = 10;
    pub(in super::super) const AVG_POOL: u8 = 11;
    pub(in super::super) const DEPTHWISE: u8 = 13;
    pub(in super::super) const MAX_POOL: u8 = 14;
    pub(in super::super) const CONVERT: u8 = 18;
    pub(in super::super) const GLOBAL_AVG_POOL: u8 = 19;
    pub(in super::super) const RESHAPE: u8 = 20;
    pub(in super::super) const ARG_MAX_POOL: u8 = 21;
    pub(in super::super) const SLICE: u8 = 35;
    pub(in super::super) const ATTENTION: u8 = 36;
    pub(in super::super) const BATCH_MATMUL: u8 = 37;
    pub(in super::super) const CONV_TRANSPOSE: u8 = 39;
}

pub(super) const UNKNOWN: &str = "unknown";

const BINARY: &str = "iioF";
const UNARY: &str = "ioF";
const CONV: &str = "uuuuuuuuuuuuuuuiwboF";
const POOL: &str = "uuuuuuuuuuioF";
const CAT: &str = "uiixxoFx";

const KINDS: [(&str, &str); 47] = [
    ("add", BINARY),
    ("fully_connected", "iwboF"),
    ("softmax", UNARY),
    ("sigmoid", UNARY),
    ("static_transpose", "uvioF"),
    ("clamp", UNARY),
    ("conv_2d", CONV),
    ("div", BINARY),
    ("static_resize_bilinear_2d", "uuioF"),
    ("static_constant_pad", "vvfioF"),
    ("avg_pooling_2d", POOL),
    ("minimum", BINARY),
    ("depthwise_conv_2d", CONV),
    ("max_pooling_2d", POOL),
    ("multiply", BINARY),
    ("subtract", BINARY),
    ("floor", UNARY),
    ("convert", UNARY),
    ("global_avg_pooling_2d", UNARY),
    ("static_reshape", "uvioF"),
    ("arg_max_pooling_2d", "uuuuuuiooF"),
    ("square_root", UNARY),
    ("ceiling", UNARY),
    ("hardswish", UNARY),
    ("leaky_relu", "fioF"),
    ("maximum", BINARY),
    ("negate", UNARY),
    ("square", UNARY),
    ("elu", "fioF"),
    ("abs", UNARY),
    ("prelu", BINARY),
    ("concatenate_2", CAT),
    ("concatenate_3", CAT),
    ("concatenate_4", CAT),
    ("static_slice", "uvvioF"),
    ("scaled_dot_product_attention", "iiiiioF"),
    ("batch_matrix_multiply", BINARY),
    ("concatenate_5", CAT),
    ("conv_transpose_2d", CONV),
    ("reciprocal_square_root", UNARY),
    ("log", UNARY),
    ("gelu", UNARY),
    ("tanh", UNARY),
    ("exp", UNARY),
    ("sin", UNARY),
    ("copy", UNARY),
    ("cos", UNARY),
];

fn kind(code: u8) -> Option<Kind> {
    let &(name, layout) = KINDS.get(usize::from(code).checked_sub(1)?)?;
    // The concatenations share a layout in which later inputs are unused by the shorter ones.
    let layout = match code {
        33 => "uiiixoFx",
        34 => "uiiiioFx",
        38 => "uiiiioFi",
        _ => layout,
    };
    Some(Kind { code, name, layout })
}

pub(super) fn parse<'a>(flat: &Flat<'a>) -> Read<Graph<'a>> {
    let root = flat.root(9)?;
    root.string(0)?;
    let mut graph = Graph { externs: root.u32(3)?.unwrap_or(0), ..Graph::default() };
    let (Some(nodes), Some(values)) = (root.tables(1, 4)?, root.tables(2, 2)?) else {
        return Err(Fault::Malformed("no nodes or no values", 0));
    };
    for node in nodes {
        graph.nodes.push(parse_node(node)?);
    }
    for value in values {
        graph.values.push(parse_value(value)?);
    }
    graph.inputs = root.u32s(4)?.unwrap_or_default();
    graph.outputs = root.u32s(5)?.unwrap_or_default();
    // Old graphs keep one empty reserved buffer here.
    for buffer in root.tables(6, 1)?.unwrap_or_default() {
        let (bytes, _) = buffer.bytes(0)?.unwrap_or_default();
        graph.inline_constants = graph.inline_constants.saturating_add(usize::from(!bytes.is_empty()));
    }
    root.u32s(7)?;
    for constant in root.tables(8, 3)?.unwrap_or_default() {
        graph.constants.push(ConstantEntry {
            offset: constant.u64(0)?.unwrap_or(0),
            size: constant.u64(1)?.unwrap_or(0),
            key: constant.string(2)?,
        });
    }
    Ok(graph)
}

fn parse_node(table: Table<'_, '_>) -> Read<Node> {
    let code = table.u8(0)?.unwrap_or(0);
    // An unknown node is kept without fields and refused with a place (G3).
    let found = kind(code).unwrap_or(Kind { code, name: UNKNOWN, layout: "" });
    let fields = u16::try_from(found.layout.len()).unwrap_or(u16::MAX);
    let missing = Fault::Malformed("node without a table", table.at());
    let body = if fields == 0 { table } else { table.table(1, fields)?.ok_or(missing)? };
    // The debug handle carries no meaning for execution, but its bytes belong to the schema.
    table.u32(2)?;
    let clamp = match table.table(3, 2)? {
        Some(clamp) => Some((clamp.f32(0)?.unwrap_or(0.0), clamp.f32(1)?.unwrap_or(0.0))),
        None => None,
    };
    let mut node = Node {
        kind: found,
        inputs: Vec::new(),
        filter: None,
        bias: None,
        outputs: Vec::new(),
        params: Vec::new(),
        floats: Vec::new(),
        vectors: Vec::new(),
        flags: 0,
        clamp,
    };
    for (field, letter) in (0_u16..).zip(found.layout.bytes()) {
        match letter {
            b'f' => node.floats.push(body.f32(field)?.unwrap_or(0.0)),
            b'v' => {
                let vector =
                    body.u32s(field)?.ok_or(Fault::Malformed("node without a vector", table.at()))?;
                node.vectors.push(vector);
            }
            _ => {
                let number = body.u32(field)?.unwrap_or(0);
                match letter {
                    b'i' => node.inputs.push(number),
                    b'w' => node.filter = Some(number),
                    b'b' => node.bias = (number != NO_ID).then_some(number),
                    b'o' => node.outputs.push(number),
                    b'F' => node.flags = number,
                    b'u' => node.params.push(number),
                    _ => {}
                }
            }
        }
    }
    Ok(node)
}

fn parse_value(table: Table<'_, '_>) -> Read<Value> {
    let missing = Fault::Malformed("value without a table", table.at());
    match table.u8(0)?.unwrap_or(0) {
        1 => parse_tensor(table.table(1, 8)?.ok_or(missing)?, Quant::None),
        2 => {
            let body = table.table(1, 3)?.ok_or(missing)?;
            let quant = parse_quant(body)?;
            parse_tensor(body.table(0, 8)?.ok_or(missing)?, quant)
        }
        _ => Err(Fault::Malformed("unknown kind of value", table.at())),
    }
}

fn parse_tensor(table: Table<'_, '_>, quant: Quant) -> Read<Value> {
    if table.i16(7)?.unwrap_or(0) != 0 {
        return Err(Fault::Malformed("the old way of dynamic quantization", table.at()));
    }
    Ok(Value {
        dtype: table.i16(0)?.unwrap_or(0),
        rank: table.u32(1)?.unwrap_or(0),
        dims: table.u32s(2)?.unwrap_or_default(),
        constant: table.u32(3)?.unwrap_or(0),
        external: table.u32(4)?.unwrap_or(0),
        flags: table.u32(5)?.unwrap_or(0),
        id: table.u32(6)?.unwrap_or(0),
        quant,
    })
}

fn parse_quant(table: Table<'_, '_>) -> Read<Quant> {
    let missing = Fault::Malformed("quantization without a table", table.at());
    let quant = |fields| table.table(2, fields)?.ok_or(missing);
    Ok(match table.u8(1)?.unwrap_or(0) {
        1 => {
            let quant = quant(4)?;
            Quant::Channel {
                scales: quant.f32s(0)?.unwrap_or_default(),
                axis: quant.i32(1)?.unwrap_or(0),
                constant: quant.u32(2)?.unwrap_or(0),
                count: quant.u32(3)?.unwrap_or(0),
            }
        }
        2 => {
            let quant = quant(2)?;
            Quant::Tensor { scale: quant.f32(0)?.unwrap_or(0.0), zero_point: quant.i32(1)?.unwrap_or(0) }
        }
        3 => Quant::Token { dims: quant(1)?.i32(0)?.unwrap_or(0) },
        4 => {
            let quant = quant(6)?;
            // Field 3 is deprecated; a file that has it hides bytes there (G10).
            Quant::Group {
                scales: quant.f32s(0)?.unwrap_or_default(),
                axis: quant.i32(1)?.unwrap_or(0),
                group: quant.i32(2)?.unwrap_or(0),
                constant: quant.u32(4)?.unwrap_or(0),
                count: quant.u32(5)?.unwrap_or(0),
            }
        }
        _ => return Err(Fault::Malformed("unknown quantization", table.at())),
    })
}
