//! Q8_0: blocks of 32 weights with one half-precision scale, symmetric, rounded to nearest.
//!
//! The rule is ggml's `quantize_row_q8_0_ref`, bit for bit: `d = amax / 127`, `q = round(x * (1 / d))` with the scale
//! before it is rounded to half precision.

use super::value::{BLOCK_BYTES, BLOCK_WEIGHTS};

/// Appends the blocks of a row; its length is a multiple of 32.
pub fn q8_0(row: &[f32], out: &mut Vec<u8>) {
    let (blocks, _) = row.as_chunks::<{ BLOCK_WEIGHTS as usize }>();
    out.reserve(blocks.len().saturating_mul(BLOCK_BYTES as usize));
    for block in blocks {
        let largest = block.iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs()));
        let scale = largest / 127.0;
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        out.extend(to_half(scale).to_le_bytes());
        // A quotient of the largest weight cannot leave the range of an i8.
        out.extend(block.iter().map(|weight| (weight * inverse).round() as i8 as u8));
    }
}

/// The weights of blocks, for whoever wants to look at them.
pub fn from_q8_0(bytes: &[u8]) -> Vec<f32> {
    let (blocks, _) = bytes.as_chunks::<{ BLOCK_BYTES as usize }>();
    let weights = blocks.iter().flat_map(|[low, high, weights @ ..]| {
        let scale = from_half(u16::from_le_bytes([*low, *high]));
        weights.iter().map(move |weight| f32::from(*weight as i8) * scale)
    });
    weights.collect()
}

/// How a checkpoint stores its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// bfloat16.
    Bf16,
}

impl Precision {
    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        if self == Self::F32 { 4 } else { 2 }
    }

    /// Reads little-endian numbers into `out`; the place of the first that is not finite, if there is one.
    pub fn read(self, bytes: &[u8], out: &mut [f32]) -> Option<usize> {
        match self {
            Self::F32 => fill(out, bytes.as_chunks().0, |it| f32::from_le_bytes(*it)),
            Self::F16 => fill(out, bytes.as_chunks().0, |it| from_half(u16::from_le_bytes(*it))),
            Self::Bf16 => {
                fill(out, bytes.as_chunks().0, |it| f32::from_bits(u32::from(u16::from_le_bytes(*it)) << 16))
            }
        }
        out.iter().position(|value| !value.is_finite())
    }
}

fn fill<const N: usize>(out: &mut [f32], bytes: &[[u8; N]], read: impl Fn(&[u8; N]) -> f32) {
    for (out, bytes) in out.iter_mut().zip(bytes) {
        *out = read(bytes);
    }
}

/// The rows of each head in the order that llama.cpp rotates them in: the first of the first half, the first of the
/// second half, the second of the first half, and so on.
pub fn interleave(rows: &[f32], head_rows: usize, width: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(rows.len());
    for head in rows.chunks_exact(head_rows.saturating_mul(width).max(1)) {
        let (low, high) = head.split_at(head.len() / 2);
        for (a, b) in low.chunks_exact(width.max(1)).zip(high.chunks_exact(width.max(1))) {
            out.extend_from_slice(a);
            out.extend_from_slice(b);
        }
    }
    out
}

/// A half-precision number of this value, rounded to nearest, ties to even.
pub fn to_half(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16) as u16 & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    // Infinity, or no number, or what rounds to infinity.
    if magnitude >= 0x477f_f000 {
        let nan = if magnitude > 0x7f80_0000 { 0x0200 } else { 0 };
        return sign | 0x7c00 | nan;
    }
    if magnitude < 0x3880_0000 {
        // Adding 0.5 leaves exactly the bits of a subnormal half at the end, rounded as an addition rounds.
        let aligned = f32::from_bits(magnitude) + 0.5;
        return sign | (aligned.to_bits() & 0xffff) as u16;
    }
    let odd = (magnitude >> 13) & 1;
    let rounded = magnitude.wrapping_sub(0x3800_0000).wrapping_add(0xfff).wrapping_add(odd);
    sign | (rounded >> 13) as u16
}

/// The value of a half-precision number.
pub fn from_half(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    let (exponent, fraction) = (u32::from(half >> 10) & 0x1f, u32::from(half & 0x3ff));
    let magnitude = match exponent {
        0 => (fraction as f32 * 2.0_f32.powi(-24)).to_bits(),
        0x1f => 0x7f80_0000 | (fraction << 13),
        _ => (exponent.wrapping_add(112) << 23) | (fraction << 13),
    };
    f32::from_bits(sign | magnitude)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_half_survives_the_way_there_and_back() {
        for half in 0..=u16::MAX {
            let value = from_half(half);
            if value.is_nan() {
                assert!(from_half(to_half(value)).is_nan());
            } else {
                assert_eq!(to_half(value), half, "{value}");
            }
        }
        // Known values: the largest, the smallest normal, the smallest.
        assert_eq!(
            [from_half(0x7bff), from_half(0x0400), from_half(1)],
            [65504.0, 6.103_515_6e-5, 5.960_464_5e-8]
        );
    }

    #[test]
    fn halves_are_rounded_to_nearest_and_ties_to_even() {
        for low in 0..0x7bff_u16 {
            let (a, b) = (f64::from(from_half(low)), f64::from(from_half(low + 1)));
            let middle = ((a + b) / 2.0) as f32;
            assert_eq!(to_half(middle), low + (low & 1), "{middle}");
            assert_eq!(to_half(f32::from_bits(middle.to_bits() + 1)), low + 1);
            assert_eq!(to_half(f32::from_bits(middle.to_bits() - 1)), low);
        }
        assert_eq!((to_half(65520.0), to_half(65519.9)), (0x7c00, 0x7bff));
    }

    #[test]
    fn a_block_is_the_one_that_ggml_writes() {
        // d = 12.7 / 127 = 0.1, whose half is 0x2e66.
        let mut row = [0.0; 32];
        (row[0], row[1], row[2], row[31]) = (12.7, -12.7, 0.049, 0.051);
        let mut out = Vec::new();
        q8_0(&row, &mut out);
        let mut expected = [0_u8; 34];
        for (place, byte) in [(0, 0x66), (1, 0x2e), (2, 127), (3, 129), (33, 1)] {
            expected.as_mut_slice().get_mut(place).map(|it| *it = byte).unwrap();
        }
        assert_eq!(out, expected);
        let mut zero = Vec::new();
        q8_0(&[0.0; 64], &mut zero);
        assert_eq!(zero, [0; 68]);
    }

    #[test]
    fn numbers_of_every_precision_are_read_and_what_is_not_finite_is_found() {
        let mut out = [0.0; 2];
        assert_eq!(Precision::Bf16.read(&[0x80, 0x3f, 0x40, 0xc0], &mut out), None);
        assert_eq!(out, [1.0, -3.0]);
        assert_eq!(Precision::F16.read(&[0x00, 0x3c, 0x00, 0x7c], &mut out), Some(1));
        assert_eq!(out, [1.0, f32::INFINITY]);
        let bytes: Vec<u8> = [f32::NAN, 2.5].iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(Precision::F32.read(&bytes, &mut out), Some(0));
        assert_eq!((out.last(), Precision::F32.bytes(), Precision::Bf16.bytes()), (Some(&2.5), 4, 2));
    }

    #[test]
    fn rows_of_a_head_are_interleaved_as_llama_cpp_rotates_them() {
        // Two heads of four rows, one column; then one head of two rows, two columns.
        let rows: Vec<f32> = (0..8_u8).map(f32::from).collect();
        assert_eq!(interleave(&rows, 4, 1), [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
        assert_eq!(interleave(&[0.0, 0.5, 1.0, 1.5], 2, 2), [0.0, 0.5, 1.0, 1.5]);
    }

    proptest! {
        #[test]
        fn the_error_is_at_most_half_a_step(row in prop::collection::vec(-100.0_f32..100.0, 32)) {
            let mut out = Vec::new();
            q8_0(&row, &mut out);
            let largest = row.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
            // Half a step of rounding, and the scale's own rounding to 11 bits on up to 127 steps.
            let bound = largest / 127.0 * (0.5 + 127.0 / 2048.0) + 1e-6;
            for (a, b) in row.iter().zip(from_q8_0(&out)) {
                prop_assert!((a - b).abs() <= bound, "{} {}", a, b);
            }
        }
    }
}
