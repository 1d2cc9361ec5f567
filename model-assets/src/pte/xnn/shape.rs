//! The shape that each node gives its result.
//!
//! XNNPACK computes these itself when the method runs, but sizes its first memory plan from what the graph declares.
//!
//! **Invariant:** an accepted graph declares no result larger than its inputs make it.

use super::super::limits;
use super::graph::{Node, code};
use super::value::{Known, Values};

/// The dims of the only result, when the rule of the node is known. `Some(None)` when the inputs do not fit the rule.
pub(super) fn infer(node: &Node, values: &Values<'_>) -> Option<Option<Vec<u64>>> {
    let inputs: Option<Vec<&Known<'_>>> = node.inputs.iter().map(|id| values.get(id)).collect();
    let inputs = inputs?;
    let first = inputs.first()?.dims.as_slice();
    let filter = node.filter.and_then(|id| values.get(&id));
    Some(match node.kind.code {
        code::FULLY_CONNECTED => {
            let dims = filter?.dims.as_slice();
            let outputs = if node.flags & 1 == 0 { dims.first() } else { dims.last() };
            outputs.and_then(|&outputs| replace_last(first, outputs))
        }
        code::TRANSPOSE => node.vectors.first().and_then(|order| permute(first, order)),
        code::CONV | code::DEPTHWISE => convolve(node, first),
        code::CONV_TRANSPOSE => deconvolve(node, first),
        code::RESIZE => match (first, node.params.as_slice()) {
            (&[n, _, _, c], &[height, width]) => Some(vec![n, height.into(), width.into(), c]),
            _ => None,
        },
        code::PAD => pad(node, first),
        code::AVG_POOL | code::MAX_POOL => pool(node, first),
        code::GLOBAL_AVG_POOL => match first {
            &[n, _, _, c] => Some(vec![n, 1, 1, c]),
            _ => None,
        },
        code::RESHAPE => reshape(node, inputs.first()?.elements),
        code::ARG_MAX_POOL | code::ATTENTION => return None,
        code::SLICE => slice(node, first),
        code::BATCH_MATMUL => matmul(first, inputs.get(1)?.dims.as_slice()),
        32..=34 | 38 => concatenate(node, &inputs),
        _ if inputs.len() == 2 => broadcast(first, inputs.get(1)?.dims.as_slice()),
        _ => Some(first.to_vec()),
    })
}

/// Flags that the exporter sets on a kind of node.
pub(super) fn flags_allowed(kind: u8) -> u32 {
    const TRANSPOSE_WEIGHTS: u32 = 0x1;
    const ALIGN_CORNERS: u32 = 0x8;
    const KEEP_DIMS: u32 = 0x40;
    match kind {
        code::FULLY_CONNECTED => TRANSPOSE_WEIGHTS,
        code::RESIZE => ALIGN_CORNERS,
        code::AVG_POOL | code::MAX_POOL | code::GLOBAL_AVG_POOL | code::ARG_MAX_POOL => KEEP_DIMS,
        _ => 0,
    }
}

fn replace_last(dims: &[u64], last: u64) -> Option<Vec<u64>> {
    let (_, rows) = dims.split_last()?;
    Some(rows.iter().copied().chain([last]).collect())
}

fn permute(dims: &[u64], order: &[u32]) -> Option<Vec<u64>> {
    order.iter().map(|&dim| dims.get(usize::try_from(dim).ok()?).copied()).collect()
}

/// The shape of an elementwise result.
pub(in super::super) fn broadcast(one: &[u64], other: &[u64]) -> Option<Vec<u64>> {
    let rank = one.len().max(other.len());
    let dim = |dims: &[u64], at: usize| {
        let missing = rank.saturating_sub(dims.len());
        at.checked_sub(missing).map_or(Some(1), |at| dims.get(at).copied())
    };
    (0..rank)
        .map(|at| match (dim(one, at)?, dim(other, at)?) {
            (1, size) | (size, 1) => Some(size),
            (size, same) => (size == same).then_some(size),
        })
        .collect()
}

fn matmul(one: &[u64], other: &[u64]) -> Option<Vec<u64>> {
    let (&[ref one_batch @ .., rows, inner], &[ref other_batch @ .., same, columns]) = (one, other) else {
        return None;
    };
    if inner != same {
        return None;
    }
    Some(broadcast(one_batch, other_batch)?.into_iter().chain([rows, columns]).collect())
}

/// One size of a pooling or a convolution.
fn slide(input: u64, window: u32, stride: u32, dilation: u32, padding: [u32; 2]) -> Option<u64> {
    let reach = u64::from(window).checked_sub(1)?.checked_mul(u64::from(dilation))?.checked_add(1)?;
    let padded = input.checked_add(u64::from(padding[0]))?.checked_add(u64::from(padding[1]))?;
    padded.checked_sub(reach)?.checked_div(u64::from(stride))?.checked_add(1)
}

fn convolve(node: &Node, dims: &[u64]) -> Option<Vec<u64>> {
    let (&[n, height, width, _], &[top, right, bottom, left, kh, kw, sy, sx, dy, dx, _, outputs, groups, ..]) =
        (dims, node.params.as_slice())
    else {
        return None;
    };
    let channels = u64::from(outputs).checked_mul(u64::from(groups))?;
    Some(vec![
        n,
        slide(height, kh, sy, dy, [top, bottom])?,
        slide(width, kw, sx, dx, [left, right])?,
        channels,
    ])
}

fn deconvolve(node: &Node, dims: &[u64]) -> Option<Vec<u64>> {
    let (
        &[n, height, width, _],
        &[top, right, bottom, left, kh, kw, sy, sx, dy, dx, _, outputs, groups, ay, ax],
    ) = (dims, node.params.as_slice())
    else {
        return None;
    };
    let spread = |input: u64, window: u32, stride: u32, dilation: u32, extra: u32, padding: [u32; 2]| {
        let reach = u64::from(window).checked_sub(1)?.checked_mul(u64::from(dilation))?.checked_add(1)?;
        let size = input.checked_sub(1)?.checked_mul(u64::from(stride))?.checked_add(reach)?;
        let cut = u64::from(padding[0]).checked_add(u64::from(padding[1]))?;
        size.checked_add(u64::from(extra))?.checked_sub(cut)
    };
    let channels = u64::from(outputs).checked_mul(u64::from(groups))?;
    let (rows, columns) =
        (spread(height, kh, sy, dy, ay, [top, bottom])?, spread(width, kw, sx, dx, ax, [left, right])?);
    Some(vec![n, rows, columns, channels])
}

fn pool(node: &Node, dims: &[u64]) -> Option<Vec<u64>> {
    let (&[n, height, width, c], &[top, right, bottom, left, ph, pw, sy, sx, dy, dx]) =
        (dims, node.params.as_slice())
    else {
        return None;
    };
    // Average pooling carries no dilation.
    let (dy, dx) = (dy.max(1), dx.max(1));
    Some(vec![n, slide(height, ph, sy, dy, [top, bottom])?, slide(width, pw, sx, dx, [left, right])?, c])
}

fn pad(node: &Node, dims: &[u64]) -> Option<Vec<u64>> {
    let [before, after] = node.vectors.as_slice() else { return None };
    let padded = dims.iter().zip(before).zip(after);
    padded
        .map(|((&dim, &pre), &post)| dim.checked_add(u64::from(pre))?.checked_add(u64::from(post)))
        .collect()
}

/// A size of zero stands for what is left of the input.
fn slice(node: &Node, dims: &[u64]) -> Option<Vec<u64>> {
    let [offsets, sizes] = node.vectors.as_slice() else { return None };
    if offsets.len() != dims.len() || sizes.len() != dims.len() {
        return None;
    }
    let cut = dims.iter().zip(offsets).zip(sizes);
    cut.map(|((&dim, &offset), &size)| {
        let left = dim.checked_sub(u64::from(offset))?;
        let size = if size == 0 { left } else { u64::from(size) };
        (size <= left).then_some(size)
    })
    .collect()
}

/// A zero stands for the one size that the input decides.
fn reshape(node: &Node, elements: u64) -> Option<Vec<u64>> {
    let sizes: Vec<u64> = node.vectors.first()?.iter().map(|&size| u64::from(size)).collect();
    let known = sizes
        .iter()
        .filter(|&&size| size != 0)
        .try_fold(1_u64, |product, &size| product.checked_mul(size))?;
    if known >= limits::TENSOR_ELEMENTS_MAX || sizes.iter().filter(|&&size| size == 0).count() > 1 {
        return None;
    }
    let open = elements.checked_div(known)?;
    let filled: Vec<u64> = sizes.iter().map(|&size| if size == 0 { open } else { size }).collect();
    let product = filled.iter().try_fold(1_u64, |product, &size| product.checked_mul(size))?;
    (product == elements).then_some(filled)
}

fn concatenate(node: &Node, inputs: &[&Known<'_>]) -> Option<Vec<u64>> {
    let first = inputs.first()?.dims.as_slice();
    let rank = i64::try_from(first.len()).ok()?;
    let axis = node.params.first().map(|axis| i64::from(axis.cast_signed()))?;
    let axis = usize::try_from(if axis < 0 { axis.checked_add(rank)? } else { axis }).ok()?;
    let mut dims = first.to_vec();
    for input in inputs.iter().skip(1) {
        if input.dims.len() != dims.len() {
            return None;
        }
        for (at, (dim, &size)) in dims.iter_mut().zip(&input.dims).enumerate() {
            if at == axis {
                *dim = dim.checked_add(size)?;
            } else if *dim != size {
                return None;
            }
        }
    }
    (axis < dims.len()).then_some(dims)
}
