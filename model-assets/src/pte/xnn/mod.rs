//! XNNPACK blobs: header, graph, constants, quantization, nodes, and how the method feeds them.
//!
//! **Invariant:** every value the runtime defines from an accepted graph has exactly as many weight bytes and scales
//! behind it as XNNPACK will read.

mod graph;
mod node;
mod outline;
mod pattern;
mod shape;
mod types;
mod value;

use std::collections::{BTreeMap, HashSet};

use super::census::Weights;
use super::check_id::CheckId::{G10, H1, H2, H3, H4, H5, H6, H7, H8, H9, H10, W1, W2, W3, W5};
use super::container::{ascii, u32_at, u64_at};
use super::flat::{Fault, Flat};
use super::hash::Watch;
use super::report::{Place, Report};
use super::segment::Segments;
use super::{limits, summary};
use graph::Graph;
pub(super) use outline::{SCALES, outline};
pub(super) use shape::broadcast;
pub(super) use value::{Argument, Constant};

/// What the graph adds to the picture of the whole file.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) summary: summary::Delegate,
    pub(super) weights: Weights,
    /// Fully connected nodes.
    pub(super) linears: u32,
    /// Of these, the ones with a dynamically quantized batch of two.
    pub(super) two_row_linears: u32,
    /// Weights and stored scales to look at while the file is hashed.
    pub(super) watches: Vec<Watch>,
    /// Named data used.
    pub(super) keys: Vec<String>,
    /// Nodes as patterns, with the number of the first of each.
    pub(super) nodes: BTreeMap<String, usize>,
    /// Arguments that the graph writes.
    pub(super) written: HashSet<usize>,
}

/// Checks a blob that begins at `blob_at` in the file.
pub(super) fn check(
    blob: &[u8],
    blob_at: u64,
    segments: &Segments<'_>,
    args: Option<&[Argument]>,
    at: &Place<'_>,
    report: &mut Report,
) -> Option<Findings> {
    let (graph_bytes, constants_at, constants_bytes) = check_header(blob, at, report)?;
    let at = at.part("graph");
    if !matches!(graph_bytes.get(4..8), Some(b"XN00" | b"XN01")) {
        report.reject(H7, &at, "no XNNPACK graph", ascii(graph_bytes.get(4..8)), "XN00 or XN01");
        return None;
    }
    let flat = Flat::new(graph_bytes, 8);
    let graph = match graph::parse(&flat) {
        Ok(graph) => graph,
        Err(Fault::Malformed(what, offset)) => {
            report.reject(H8, &at, what, format!("byte {offset} of the graph"), "a well-formed flatbuffer");
            return None;
        }
        Err(Fault::UnknownField(offset)) => {
            let got = format!("unknown field or kind at byte {offset} of the graph");
            report.reject(
                H8,
                &at,
                "the graph has what its schema does not",
                got,
                "the fields of version 1.5.1",
            );
            return None;
        }
    };
    if let Some(offset) = flat.hidden_byte() {
        report.reject(G10, &at, "hidden byte", format!("byte {offset} of the graph"), "zero");
    }
    if graph.externs > limits::XNN_EXTERNS_MAX {
        report.reject(H9, &at, "external values", graph.externs, format!("≤ {}", limits::XNN_EXTERNS_MAX));
        return None;
    }
    if graph.inline_constants > 0 {
        report.reject(H10, &at, "weights inside the graph", graph.inline_constants, "none");
    }
    let base = u64::try_from(constants_at).ok().and_then(|offset| blob_at.checked_add(offset))?;
    let constants = check_constants(&graph, (base, constants_bytes), segments, &at, report);
    let mut found = Findings { keys: graph.keys(), ..Findings::default() };
    let mut values = value::check(&graph, &constants, args, &at, (report, &mut found));
    node::check(&graph, &mut values, &at, report, &mut found);
    found.summary.blob_bytes = u64::try_from(blob.len()).unwrap_or(u64::MAX);
    Some(found)
}

/// H1 to H6. The graph, and where constants begin and how many bytes they have.
fn check_header<'b>(blob: &'b [u8], at: &Place<'_>, report: &mut Report) -> Option<(&'b [u8], usize, u64)> {
    let at = at.part("header");
    if blob.get(..4) != Some(&[0; 4]) || blob.get(4..8) != Some(b"XH00") {
        report.reject(H1, &at, "no XNNPACK blob", ascii(blob.get(..8)), "four zero bytes and XH00");
        return None;
    }
    let bytes = u16::from_le_bytes(blob.get(8..10)?.first_chunk().copied()?);
    if bytes != limits::XNN_HEADER_BYTES {
        report.reject(H2, &at, "header length", bytes, limits::XNN_HEADER_BYTES);
        return None;
    }
    let header = usize::from(bytes);
    let (Some(graph_at), Some(graph_bytes)) = (u32_at(blob, 10), u32_at(blob, 14)) else {
        return short(&at, report);
    };
    let (Some(constants_at), Some(constants_bytes)) = (u32_at(blob, 18), u64_at(blob, 22)) else {
        return short(&at, report);
    };
    let graph_start = usize::try_from(graph_at).ok()?;
    let graph_end = usize::try_from(graph_bytes).ok().and_then(|bytes| graph_start.checked_add(bytes));
    let graph = graph_end.filter(|_| graph_start >= header).and_then(|end| blob.get(graph_start..end));
    let (Some(graph), Some(graph_end)) = (graph, graph_end) else {
        let got = format!("{graph_at} + {graph_bytes}");
        report.reject(
            H3,
            &at,
            "the graph is not inside the blob",
            got,
            format!("{header} to {}", blob.len()),
        );
        return None;
    };
    if graph_start % 16 != 0 {
        report.reject(H3, &at, "the graph is not aligned", graph_at, "a multiple of 16");
    }
    let constants_start = usize::try_from(constants_at).ok().filter(|&start| start >= graph_end);
    let Some(constants_start) = constants_start else {
        report.reject(H4, &at, "constants begin inside the graph", constants_at, format!("≥ {graph_end}"));
        return None;
    };
    let end = u64::try_from(constants_start).ok().and_then(|start| start.checked_add(constants_bytes));
    let blob_bytes = u64::try_from(blob.len()).ok()?;
    // Without constants the blob may end with the graph, before the padding that would precede them.
    let ends = end == Some(blob_bytes)
        || (constants_bytes == 0 && blob.len() >= graph_end && end >= Some(blob_bytes));
    if !ends {
        report.reject(H5, &at, "the blob does not end with its constants", blob_bytes, format!("{end:?}"));
        return None;
    }
    let gaps = [blob.get(header..graph_start), blob.get(graph_end..constants_start.min(blob.len()))];
    if gaps.into_iter().flatten().flatten().any(|&byte| byte != 0) {
        report.reject(H6, &at, "hidden byte in padding", "non-zero", "zero");
    }
    Some((graph, constants_start, constants_bytes))
}

fn short<T>(at: &Place<'_>, report: &mut Report) -> Option<T> {
    report.reject(H2, at, "the header is cut", "less than 30 bytes", "30 bytes");
    None
}

/// W1 to W3 and W5. `None` where a constant cannot be used.
fn check_constants(
    graph: &Graph<'_>,
    (base, bytes): (u64, u64),
    segments: &Segments<'_>,
    at: &Place<'_>,
    report: &mut Report,
) -> Vec<Option<Constant>> {
    let mut constants = Vec::new();
    for (number, constant) in graph.constants.iter().enumerate() {
        let at = at.at("constant", number);
        if number == 0 {
            if !constant.is_reserved() {
                report.reject(W5, &at, "the reserved constant has data", format!("{constant:?}"), "nothing");
            }
            constants.push(None);
            continue;
        }
        let range = match constant.key {
            Some(key) => check_key(key, constant, segments, &at, report),
            None => {
                let end = constant.offset.checked_add(constant.size);
                if constant.offset == u64::MAX {
                    report.reject(W1, &at, "neither key nor offset", "none", "one of them");
                    None
                } else if end.is_none_or(|end| end > bytes) || constant.offset % limits::ALIGNMENT_BYTES != 0
                {
                    let got = format!("{} + {}", constant.offset, constant.size);
                    report.reject(
                        W3,
                        &at,
                        "the constant is not inside the blob",
                        got,
                        format!("≤ {bytes}, aligned"),
                    );
                    None
                } else {
                    base.checked_add(constant.offset)
                }
            }
        };
        constants.push(range.map(|at| Constant { at, bytes: constant.size }));
    }
    constants
}

fn check_key(
    key: &str,
    constant: &graph::ConstantEntry<'_>,
    segments: &Segments<'_>,
    at: &Place<'_>,
    report: &mut Report,
) -> Option<u64> {
    if constant.offset != u64::MAX || key.is_empty() {
        report.reject(W1, at, "both key and offset, or an empty key", constant.offset, "2^64-1 beside a key");
        return None;
    }
    let Some(&slot) = segments.named.get(key) else {
        report.reject(W2, at, "no such named datum", key, "a key of the file");
        return None;
    };
    let (start, size) = segments.ranges.get(slot).copied().flatten()?;
    if size != constant.size {
        report.reject(W3, at, "the constant and its segment differ in length", constant.size, size);
        return None;
    }
    Some(start)
}
