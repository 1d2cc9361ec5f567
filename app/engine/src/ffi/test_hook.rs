//! The test hook: any registered operator on plain values.

use super::*;

/// A tensor as an operator sees it; elements start after [`GUARD`] floats and end before as many.
#[derive(Debug, Clone)]
pub(crate) struct Tensor {
    pub(crate) scalar_type: i32,
    pub(crate) sizes: Vec<i64>,
    memory: Vec<f32>,
    len: usize,
    /// Whether the operator gets no memory at all.
    pub(crate) null: bool,
}

/// Floats around a tensor's elements: as many as the widest vector and a cache line more.
const GUARD: usize = 32;

impl Tensor {
    /// A float tensor between guards of NaN, so that a read outside shows in the result.
    pub(crate) fn new(sizes: &[usize], data: &[f32]) -> Self {
        assert_eq!(sizes.iter().product::<usize>(), data.len());
        let guard = [f32::NAN; GUARD];
        let memory = [&guard, data, &guard].concat();
        let sizes = sizes.iter().map(|size| i64::try_from(*size).unwrap()).collect();
        Self { scalar_type: TensorInfo::FLOAT, sizes, memory, len: data.len(), null: false }
    }

    pub(crate) fn data(&self) -> &[f32] {
        &self.memory[GUARD..GUARD + self.len]
    }

    /// Whether nothing outside the elements was written.
    pub(crate) fn guards_hold(&self) -> bool {
        let (before, rest) = self.memory.split_at(GUARD);
        before.iter().chain(&rest[self.len..]).all(|x| x.to_bits() == f32::NAN.to_bits())
    }
}

/// An argument of an operator.
#[derive(Debug, Clone)]
pub(crate) enum Argument {
    None,
    Int(i64),
    Bool(bool),
    Double(f64),
    Tensor(Tensor),
}

#[repr(C)]
struct RawArgument {
    kind: i32,
    scalar_type: i32,
    rank: i32,
    sizes: [i64; RANK_MAX],
    data: *mut c_void,
    integer: i64,
    real: f64,
}

unsafe extern "C" {
    fn engine_test_call(
        kernel: *const c_char,
        arguments: *const RawArgument,
        count: usize,
        variant: i32,
    ) -> u32;
}

/// Calls an operator; `variant` as in `shim.h`.
pub(crate) fn call(kernel: &CStr, arguments: &mut [Argument], variant: i32) -> Code {
    start().unwrap();
    let raw: Vec<RawArgument> = arguments.iter_mut().map(raw).collect();
    // SAFETY: as many arguments as told; every tensor has memory for its sizes, or the null pointer.
    Code(unsafe { engine_test_call(kernel.as_ptr(), raw.as_ptr(), raw.len(), variant) })
}

fn raw(argument: &mut Argument) -> RawArgument {
    let mut raw = RawArgument {
        kind: 0,
        scalar_type: 0,
        rank: 0,
        sizes: [0; RANK_MAX],
        data: ptr::null_mut(),
        integer: 0,
        real: 0.0,
    };
    match argument {
        Argument::None => {}
        Argument::Int(value) => (raw.kind, raw.integer) = (1, *value),
        Argument::Bool(value) => (raw.kind, raw.integer) = (2, i64::from(*value)),
        Argument::Double(value) => (raw.kind, raw.real) = (3, *value),
        Argument::Tensor(tensor) => {
            (raw.kind, raw.scalar_type) = (4, tensor.scalar_type);
            raw.rank = i32::try_from(tensor.sizes.len()).unwrap();
            raw.sizes[..tensor.sizes.len()].copy_from_slice(&tensor.sizes);
            if !tensor.null {
                raw.data = tensor.memory[GUARD..].as_mut_ptr().cast();
            }
        }
    }
    raw
}
