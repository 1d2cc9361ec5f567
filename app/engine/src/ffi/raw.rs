//! The declarations of `cpp/shim.h`, as they are there.

use std::ffi::{c_char, c_void};
use std::marker::PhantomData;

use super::TensorInfo;

#[repr(C)]
pub(super) struct RawModel {
    _private: [u8; 0],
    _not_send: PhantomData<*mut ()>,
}

#[repr(C)]
pub(super) struct RawOption {
    pub(super) backend: *const c_char,
    pub(super) key: *const c_char,
    pub(super) kind: i32,
    pub(super) number: i64,
    pub(super) text: *const c_char,
}

#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RawValue {
    pub(super) kind: i32,
    pub(super) integer: i64,
    pub(super) real: f64,
}

#[repr(C)]
pub(super) struct RawEvent {
    pub(super) name: *const c_char,
    pub(super) calls: u64,
    pub(super) nanoseconds: u64,
}

pub(super) type Probed = unsafe extern "C" fn(*mut c_void, u32, u32, *mut f32, usize);

unsafe extern "C" {
    pub(super) fn engine_init() -> u32;
    pub(super) fn engine_log(text: *mut c_char, capacity: usize) -> usize;
    pub(super) fn engine_kernel_name(index: usize) -> *const c_char;
    pub(super) fn engine_backend_name(index: usize) -> *const c_char;
    pub(super) fn engine_threads() -> u32;
    pub(super) fn engine_performance_cores() -> u32;
    pub(super) fn engine_set_threads(count: u32) -> u32;
    pub(super) fn engine_set_attention(variant: i32) -> u32;
    pub(super) fn engine_load(
        data: *const c_void,
        size: usize,
        options: *const RawOption,
        option_count: usize,
        record: i32,
        model: *mut *mut RawModel,
    ) -> u32;
    pub(super) fn engine_free(model: *mut RawModel);
    pub(super) fn engine_method_name(model: *const RawModel, index: usize) -> *const c_char;
    pub(super) fn engine_metadata(
        model: *mut RawModel,
        method: *const c_char,
        values: *mut RawValue,
        count: *mut usize,
    ) -> u32;
    pub(super) fn engine_signature(
        model: *mut RawModel,
        inputs: *mut TensorInfo,
        input_count: *mut usize,
        outputs: *mut TensorInfo,
        output_count: *mut usize,
    ) -> u32;
    pub(super) fn engine_forward(
        model: *mut RawModel,
        tokens: *const i64,
        count: usize,
        position: i64,
        logits: *mut *const f32,
        logit_count: *mut usize,
    ) -> u32;
    pub(super) fn engine_call(model: *mut RawModel, bytes: *mut u8, count: *mut usize) -> u32;
    pub(super) fn engine_probe(model: *mut RawModel, probed: Option<Probed>, context: *mut c_void);
    pub(super) fn engine_peak_rss_bytes() -> u64;
    pub(super) fn engine_profile(model: *const RawModel, events: *mut RawEvent, capacity: usize) -> usize;
    pub(super) fn engine_profile_reset(model: *mut RawModel);
}
