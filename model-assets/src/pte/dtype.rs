//! Dtypes of program tensors and of XNNPACK values.

/// Name and bytes per element of a program dtype.
pub(super) fn program(code: i8) -> Option<(&'static str, u64)> {
    Some(match code {
        0 => ("u8", 1),
        1 => ("i8", 1),
        2 => ("i16", 2),
        3 => ("i32", 4),
        4 => ("i64", 8),
        5 => ("f16", 2),
        6 => ("f32", 4),
        7 => ("f64", 8),
        11 => ("bool", 1),
        12 => ("qint8", 1),
        13 => ("quint8", 1),
        14 => ("qint32", 4),
        15 => ("bf16", 2),
        16 => ("quint4x2", 1),
        17 => ("quint2x4", 1),
        22 => ("bits16", 2),
        23 => ("f8e5m2", 1),
        24 => ("f8e4m3fn", 1),
        25 => ("f8e5m2fnuz", 1),
        26 => ("f8e4m3fnuz", 1),
        27 => ("u16", 2),
        28 => ("u32", 4),
        29 => ("u64", 8),
        _ => return None,
    })
}

pub(super) const I32: i8 = 3;
pub(super) const I64: i8 = 4;
pub(super) const F16: i8 = 5;
pub(super) const F32: i8 = 6;
pub(super) const F64: i8 = 7;
pub(super) const BOOL: i8 = 11;
pub(super) const BF16: i8 = 15;

/// Name and bits per element of an XNNPACK dtype; the invalid one has no entry.
pub(super) fn xnn(code: i16) -> Option<(&'static str, u64)> {
    Some(match code {
        1 => ("f32", 32),
        2 => ("f16", 16),
        3 => ("qint8", 8),
        4 => ("quint8", 8),
        5 => ("qint32", 32),
        6 => ("qcint8", 8),
        7 => ("qcint32", 32),
        8 => ("qcint4", 4),
        9 => ("qdint8", 8),
        10 => ("qbint4", 4),
        11 => ("qpint8", 8),
        12 => ("int32", 32),
        13 => ("pfp32", 32),
        14 => ("bf16", 16),
        _ => return None,
    })
}
