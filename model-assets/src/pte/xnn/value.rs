//! Values of an XNNPACK graph: shapes, external ids, constants and quantization, and the arguments behind them.

use std::collections::{HashMap, HashSet};

use super::super::check_id::CheckId::{
    A1, A2, A3, A4, A5, Q1, Q2, Q3, Q4, Q5, Q6, Q7, Q8, Q9, Q10, Q11, Q12, Q13, Q14, Q15, Q16, W4,
};
use super::super::hash::{Float, Look, Watch};
use super::super::report::{Place, Report};
use super::super::{dtype, limits};
use super::Findings;
use super::graph::{Graph, NO_ID, Quant, Value};

/// A constant that lies in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Constant {
    pub(in super::super) at: u64,
    pub(in super::super) bytes: u64,
}

/// What the method passes at one position.
#[derive(Debug, Clone)]
pub(in super::super) struct Argument {
    pub(in super::super) kind: &'static str,
    /// Dtype, elements, rank; absent when it is no tensor.
    pub(in super::super) tensor: Option<(i8, u64, usize)>,
    pub(in super::super) constant: bool,
}

/// A checked value.
#[derive(Debug)]
pub(super) struct Known<'g> {
    pub(super) value: &'g Value,
    pub(super) dims: Vec<u64>,
    pub(super) elements: u64,
    pub(super) constant: Option<Constant>,
}

impl Known<'_> {
    pub(super) fn is_input(&self) -> bool {
        self.value.flags & 1 != 0
    }

    pub(super) fn is_output(&self) -> bool {
        self.value.flags & 2 != 0
    }

    /// Bytes of weights and of scales behind the value.
    pub(super) fn scales(&self) -> u64 {
        match &self.value.quant {
            Quant::Channel { scales, constant, count, .. } | Quant::Group { scales, constant, count, .. } => {
                if *constant == 0 {
                    scales.len() as u64
                } else {
                    u64::from(*count)
                }
            }
            _ => 0,
        }
    }
}

pub(super) type Values<'g> = HashMap<u32, Known<'g>>;

pub(super) fn check<'g>(
    graph: &'g Graph<'_>,
    constants: &[Option<Constant>],
    args: Option<&[Argument]>,
    at: &Place<'_>,
    (report, found): (&mut Report, &mut Findings),
) -> Values<'g> {
    let mut values = Values::new();
    let mut used = HashSet::new();
    for (number, value) in graph.values.iter().enumerate() {
        let at = at.at("value", number);
        let Some((dims, elements)) = check_shape(value, &at, report) else { continue };
        let constant = check_constant(graph, constants, value, (&dims, elements), &at, report);
        used.insert(value.constant);
        check_quant(graph, constants, value, (&dims, &mut used), &at, (report, found));
        if values.insert(value.id, Known { value, dims, elements, constant }).is_some() || value.id == NO_ID {
            report.reject(Q16, &at, "the id stands there twice or is reserved", value.id, "unique ids");
        }
    }
    for (number, _) in graph.constants.iter().enumerate().skip(1) {
        if !u32::try_from(number).is_ok_and(|number| used.contains(&number)) {
            report.reject(W4, &at.at("constant", number), "no value uses the constant", "unused", "used");
        }
    }
    check_externals(graph, &values, args, at, report);
    values
}

/// Q1 to Q4.
fn check_shape(value: &Value, at: &Place<'_>, report: &mut Report) -> Option<(Vec<u64>, u64)> {
    if dtype::xnn(value.dtype).is_none() {
        report.reject(Q1, at, "unknown dtype", value.dtype, "1 to 14");
        return None;
    }
    if value.flags & !3 != 0 {
        report.reject(
            Q4,
            at,
            "unknown flags",
            format!("{:#x}", value.flags),
            "bits 0 (input) and 1 (output)",
        );
    }
    if value.rank > limits::XNN_RANK_MAX || usize::try_from(value.rank) != Ok(value.dims.len()) {
        let got = format!("rank {} and {} sizes", value.rank, value.dims.len());
        report.reject(Q2, at, "rank", got, format!("equal and ≤ {}", limits::XNN_RANK_MAX));
        return None;
    }
    let dims: Vec<u64> = value.dims.iter().map(|&dim| u64::from(dim)).collect();
    let elements = dims.iter().try_fold(1_u64, |product, &dim| product.checked_mul(dim));
    let Some(elements) = elements.filter(|&elements| elements < limits::TENSOR_ELEMENTS_MAX) else {
        report.reject(Q3, at, "too many elements", format!("{dims:?}"), "< 2^40");
        return None;
    };
    Some((dims, elements))
}

fn lookup(constants: &[Option<Constant>], index: u32) -> Option<&Option<Constant>> {
    constants.get(usize::try_from(index).ok()?)
}

/// Q7 to Q9.
fn check_constant(
    graph: &Graph<'_>,
    constants: &[Option<Constant>],
    value: &Value,
    (dims, elements): (&[u64], u64),
    at: &Place<'_>,
    report: &mut Report,
) -> Option<Constant> {
    if value.constant == 0 {
        return None;
    }
    let Some(constant) = lookup(constants, value.constant) else {
        report.reject(Q7, at, "no such constant", value.constant, format!("< {}", graph.constants.len()));
        return None;
    };
    if value.flags != 0 || value.external != NO_ID {
        report.reject(Q8, at, "a constant is external", value.external, "no external id and no flags");
    }
    let (_, bits) = dtype::xnn(value.dtype)?;
    let expected = if bits < 8 {
        // Rows of packed values begin on a byte.
        let (&last, rows) = dims.split_last().unwrap_or((&1, &[]));
        let rows = rows.iter().try_fold(1_u64, |product, &dim| product.checked_mul(dim));
        rows.and_then(|rows| last.checked_mul(bits)?.div_ceil(8).checked_mul(rows))
    } else {
        elements.checked_mul(bits / 8)
    };
    let constant = (*constant)?;
    if expected != Some(constant.bytes) {
        report.reject(
            Q9,
            at,
            "the constant does not fit the shape",
            constant.bytes,
            format!("{expected:?} bytes"),
        );
        return None;
    }
    Some(constant)
}

/// Q10 to Q15.
fn check_quant(
    graph: &Graph<'_>,
    constants: &[Option<Constant>],
    value: &Value,
    (dims, used): (&[u64], &mut HashSet<u32>),
    at: &Place<'_>,
    (report, found): (&mut Report, &mut Findings),
) {
    let fits = match &value.quant {
        Quant::None => matches!(value.dtype, 1 | 2 | 12 | 13 | 14),
        Quant::Channel { .. } => matches!(value.dtype, 6..=8),
        Quant::Tensor { .. } => matches!(value.dtype, 3..=5),
        Quant::Token { .. } => matches!(value.dtype, 9 | 11),
        Quant::Group { .. } => value.dtype == 10,
    };
    if !fits {
        let scheme = match &value.quant {
            Quant::None => "none",
            Quant::Channel { .. } => "per channel",
            Quant::Tensor { .. } => "per tensor",
            Quant::Token { .. } => "per token",
            Quant::Group { .. } => "per group",
        };
        let name = dtype::xnn(value.dtype).map_or("unknown", |(name, _)| name);
        report.reject(Q14, at, "the quantization does not fit the dtype", scheme, format!("one for {name}"));
        return;
    }
    let scales = match &value.quant {
        Quant::None => return,
        Quant::Tensor { scale, zero_point } => {
            return check_tensor_quant(value, *scale, *zero_point, at, report);
        }
        Quant::Token { dims: batch } => {
            if !usize::try_from(*batch).is_ok_and(|batch| batch >= 1 && batch <= dims.len())
                || value.constant != 0
            {
                report.reject(Q14, at, "dimensions per token", batch, format!("1 to {}", dims.len()));
            }
            return;
        }
        Quant::Channel { scales, axis, constant, count } => {
            let channels = usize::try_from(*axis).ok().and_then(|axis| dims.get(axis));
            let Some(&channels) = channels else {
                report.reject(Q13, at, "quantized axis", axis, format!("< {}", dims.len()));
                return;
            };
            Scales { inline: scales, constant: *constant, count: *count, expected: channels, width: 4 }
        }
        Quant::Group { scales, axis, group, constant, count } => {
            let Some(expected) = check_group(dims, *axis, *group, at, report) else { return };
            Scales { inline: scales, constant: *constant, count: *count, expected, width: 2 }
        }
    };
    used.insert(scales.constant);
    check_scales(graph, constants, &scales, at, (report, found));
}

struct Scales<'s> {
    inline: &'s [f32],
    constant: u32,
    count: u32,
    expected: u64,
    width: u64,
}

fn check_scales(
    graph: &Graph<'_>,
    constants: &[Option<Constant>],
    scales: &Scales<'_>,
    at: &Place<'_>,
    (report, found): (&mut Report, &mut Findings),
) {
    let stored = scales.constant != 0;
    let count = if stored { u64::from(scales.count) } else { scales.inline.len() as u64 };
    if count != scales.expected {
        report.reject(Q10, at, "scales", count, scales.expected);
    }
    if scales.inline.iter().any(|scale| !scale.is_normal() || *scale <= 0.0) {
        report.reject(
            Q12,
            at,
            "an inline scale is not finite and positive",
            format!("{:?}", scales.inline),
            "> 0",
        );
    }
    if !stored {
        return;
    }
    let Some(constant) = lookup(constants, scales.constant) else {
        report.reject(Q7, at, "no such constant", scales.constant, format!("< {}", graph.constants.len()));
        return;
    };
    let Some(constant) = constant else { return };
    let expected = count.checked_mul(scales.width);
    if expected != Some(constant.bytes) {
        report.reject(Q11, at, "length of the stored scales", constant.bytes, format!("{expected:?} bytes"));
        return;
    }
    let float = if scales.width == 2 { Float::Bf16 } else { Float::F32 };
    let look = Look::Scale(float);
    found.watches.push(Watch { at: constant.at, bytes: constant.bytes, look, place: at.to_string() });
}

fn check_tensor_quant(value: &Value, scale: f32, zero_point: i32, at: &Place<'_>, report: &mut Report) {
    if !scale.is_normal() || scale <= 0.0 {
        report.reject(Q12, at, "the scale is not finite and positive", scale, "> 0");
    }
    let range = match value.dtype {
        3 => -128..=127,
        4 => 0..=255,
        _ => 0..=0,
    };
    if !range.contains(&zero_point) {
        report.reject(Q15, at, "zero point", zero_point, format!("{range:?}"));
    }
}

/// Q13 and Q15 for block-wise quantization: the number of scales.
fn check_group(dims: &[u64], axis: i32, group: i32, at: &Place<'_>, report: &mut Report) -> Option<u64> {
    let &[channels, width] = dims else {
        report.reject(Q13, at, "rank of a block-wise quantized value", dims.len(), 2);
        return None;
    };
    if axis != 0 {
        report.reject(Q13, at, "quantized axis", axis, 0);
        return None;
    }
    let multiple = u64::from(limits::XNN_GROUP_MULTIPLE);
    let group = u64::try_from(group).ok().filter(|&group| group > 0 && group.is_multiple_of(multiple));
    let groups =
        group.filter(|&group| width.checked_rem(group) == Some(0)).and_then(|g| width.checked_div(g));
    let Some(groups) = groups else {
        let expected = format!("a multiple of {multiple} that divides {width}");
        report.reject(Q15, at, "group", format!("{group:?}"), expected);
        return None;
    };
    channels.checked_mul(groups)
}

/// Q5, Q6, A1 to A5.
fn check_externals(
    graph: &Graph<'_>,
    values: &Values<'_>,
    args: Option<&[Argument]>,
    at: &Place<'_>,
    report: &mut Report,
) {
    let mut seen = HashSet::new();
    let mut count = 0_usize;
    for (number, value) in graph.values.iter().enumerate() {
        let at = at.at("value", number);
        let external = value.external != NO_ID;
        if external != (value.flags & 3 != 0) || (external && value.external >= graph.externs) {
            let expected = format!("flags if and only if an id below {}", graph.externs);
            report.reject(
                Q5,
                &at,
                "external id",
                format!("{} with flags {}", value.external, value.flags),
                expected,
            );
            continue;
        }
        if !external {
            continue;
        }
        count = count.saturating_add(1);
        if !seen.insert(value.external) {
            report.reject(Q6, &at, "the external id stands there twice", value.external, "unique ids");
        }
        let Some(args) = args else { continue };
        let Some(arg) = usize::try_from(value.external).ok().and_then(|id| args.get(id)) else {
            report.reject(
                A1,
                &at,
                "external id beyond the arguments",
                value.external,
                format!("< {}", args.len()),
            );
            continue;
        };
        if let Some(known) = values.get(&value.id) {
            check_argument(known, arg, &at, report);
        }
    }
    if args.is_some_and(|args| args.len() != count) {
        let got = args.map_or(0, <[Argument]>::len);
        report.reject(A2, at, "arguments", got, format!("{count} external values"));
    }
    let listed: HashSet<u32> = graph.inputs.iter().chain(&graph.outputs).copied().collect();
    let externals = graph.values.iter().filter(|value| value.external != NO_ID);
    let ids: HashSet<u32> = externals.map(|value| value.id).collect();
    if listed != ids {
        report.reject(Q5, at, "listed inputs and outputs", format!("{listed:?}"), format!("{ids:?}"));
    }
}

/// A3 to A5.
fn check_argument(known: &Known<'_>, arg: &Argument, at: &Place<'_>, report: &mut Report) {
    let Some((kind, elements, rank)) = arg.tensor else {
        report.reject(A3, at, "the argument is no tensor", arg.kind, "tensor");
        return;
    };
    let output = known.is_output();
    let fits = match known.value.dtype {
        1 => kind == 6,
        2 => kind == 5,
        3 => kind == 1,
        4 => kind == 0,
        // Indices come out as 32-bit integers, which the backend widens in place.
        5 | 12 => kind == 3 || (output && kind == dtype::I64),
        14 => kind == 15,
        _ => false,
    };
    let name = dtype::xnn(known.value.dtype).map_or("unknown", |(name, _)| name);
    if !fits {
        let got = dtype::program(kind).map_or("unknown", |(name, _)| name);
        report.reject(A4, at, "dtype of the argument", got, name);
    }
    // A scalar becomes a tensor of one element on the way into the graph.
    if elements != known.elements || (rank != known.dims.len() && elements != 1) {
        let got = format!("rank {rank} with {elements} elements");
        report.reject(A4, at, "size of the argument", got, format!("{:?}", known.dims));
    }
    if output && arg.constant {
        report.reject(A5, at, "the delegate writes a constant", "a constant", "a planned tensor");
    }
}
