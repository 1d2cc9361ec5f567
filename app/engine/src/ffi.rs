//! The C interface of `cpp/shim.h` and the thinnest safe wrappers over it.
//!
//! **Invariant:** every call that can be made wrongly is only reachable through a method that makes it rightly;
//! the two whose rightness this module cannot see ([`Handle::load`], [`set_threads`]) are `unsafe` themselves.

mod raw;
#[cfg(test)]
pub(crate) mod test_hook;

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::{self, NonNull};
use std::sync::OnceLock;

use model_assets::pte::Tap;

use self::raw::*;
use crate::error::{Code, Failure};

/// Most dimensions that a tensor description carries.
pub(crate) const RANK_MAX: usize = 8;
const LOG_BYTES: usize = 2048;

/// Type and upper-bound shape of an input or output.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TensorInfo {
    /// ExecuTorch's scalar type; -1 if it is not a tensor.
    pub(crate) scalar_type: i32,
    rank: i32,
    sizes: [i64; RANK_MAX],
}

impl TensorInfo {
    pub(crate) const FLOAT: i32 = 6;
    pub(crate) const LONG: i32 = 4;

    pub(crate) fn sizes(&self) -> &[i64] {
        let rank = usize::try_from(self.rank).unwrap_or(0).min(RANK_MAX);
        self.sizes.get(..rank).unwrap_or_default()
    }
}

/// A load-time option of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendOption {
    /// The backend, such as `XnnpackBackend`.
    pub backend: CString,
    /// The option, such as `weight_cache_enabled`.
    pub key: CString,
    /// Its value.
    pub value: OptionValue,
}

/// Value of a [`BackendOption`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OptionValue {
    /// A switch.
    Bool(bool),
    /// A number.
    Int(i32),
    /// A text of at most 255 bytes.
    Text(CString),
}

/// A value that a metadata method returned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// An integer.
    Int(i64),
    /// A truth value.
    Bool(bool),
    /// A number.
    Double(f64),
}

/// What is recorded while a model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Record {
    /// Nothing, as in an app.
    #[default]
    Nothing,
    /// Time per operator; costs a few percent.
    Time,
    /// What instructions compute, for [`crate::Session::probe`].
    Values,
}

/// Sees a value that an instruction computed, and may change it before the next one reads it.
pub(crate) type Probe<'a> = &'a mut dyn FnMut(Tap, &mut [f32]);

/// Time spent under one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The runtime's name for it.
    pub name: String,
    /// How often it ran.
    pub calls: u64,
    /// Total wall time.
    pub nanoseconds: u64,
}

fn check(code: u32) -> Result<(), Failure> {
    if code == 0 { Ok(()) } else { Err(Failure { code: Code(code), log: log() }) }
}

/// Takes the errors that the runtime logged in this thread's last call, even if the call succeeded.
fn log() -> String {
    let mut text = [0_u8; LOG_BYTES];
    // SAFETY: the buffer is writable and its true size is passed.
    let length = unsafe { engine_log(text.as_mut_ptr().cast(), text.len()) };
    String::from_utf8_lossy(text.get(..length).unwrap_or_default()).into_owned()
}

/// Starts the runtime once; every entry into this module passes here first.
pub(crate) fn start() -> Result<(), Failure> {
    static STARTED: OnceLock<Result<(), Failure>> = OnceLock::new();
    // SAFETY: the function is called once, before any other of the runtime.
    STARTED.get_or_init(|| check(unsafe { engine_init() })).clone()
}

/// Names `get` yields until it yields null.
fn names(get: unsafe extern "C" fn(usize) -> *const c_char) -> Vec<String> {
    let name = |index| {
        // SAFETY: the function takes any index and returns null or a NUL-terminated text that lives as long
        // as the process.
        let name = unsafe { get(index) };
        // SAFETY: not null, see above.
        (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
    };
    (0..).map_while(name).collect()
}

pub(crate) fn kernels() -> Result<Vec<String>, Failure> {
    start().map(|()| names(engine_kernel_name))
}

pub(crate) fn backends() -> Result<Vec<String>, Failure> {
    start().map(|()| names(engine_backend_name))
}

pub(crate) fn threads() -> Result<u32, Failure> {
    // SAFETY: takes nothing, returns a number.
    start().map(|()| unsafe { engine_threads() })
}

pub(crate) fn performance_cores() -> Result<u32, Failure> {
    // SAFETY: takes nothing, returns a number.
    start().map(|()| unsafe { engine_performance_cores() })
}

pub(crate) fn peak_rss_bytes() -> u64 {
    // SAFETY: takes nothing, returns a number.
    unsafe { engine_peak_rss_bytes() }
}

/// Replaces the thread pool.
///
/// # Safety
/// No [`Handle`] may exist: delegates keep a pointer to the pool they were created with.
pub(crate) unsafe fn set_threads(count: u32) -> Result<(), Failure> {
    start()?;
    // SAFETY: the caller promises that nothing uses the old pool.
    check(unsafe { engine_set_threads(count) })
}

/// Replaces the kernels of attention; `variant` as in `shim.h`.
///
/// # Safety
/// No [`Handle`] may exist: a model may be running.
pub(crate) unsafe fn set_attention(variant: i32) -> Result<(), Failure> {
    start()?;
    // SAFETY: the caller promises that nothing runs.
    check(unsafe { engine_set_attention(variant) })
}

/// A loaded program with its `forward` method.
#[derive(Debug)]
pub(crate) struct Handle(NonNull<RawModel>);

// SAFETY: the runtime ties no state of a model to a thread; `&mut self` on every call that runs it keeps two
// threads from using it at once.
unsafe impl Send for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the pointer came from engine_load and is freed once.
        unsafe { engine_free(self.0.as_ptr()) }
    }
}

impl Handle {
    /// Loads a program; also returns the errors that the runtime logged although it succeeded.
    ///
    /// # Safety
    /// `bytes` must stay valid and unchanged until the handle is dropped.
    pub(crate) unsafe fn load(
        bytes: *const [u8],
        options: &[BackendOption],
        record: Record,
    ) -> Result<(Self, String), Failure> {
        start()?;
        let raw: Vec<RawOption> = options
            .iter()
            .map(|option| {
                let (kind, number, text) = match &option.value {
                    OptionValue::Bool(on) => (0, i64::from(*on), ptr::null()),
                    OptionValue::Int(number) => (1, i64::from(*number), ptr::null()),
                    OptionValue::Text(text) => (2, 0, text.as_ptr()),
                };
                RawOption { backend: option.backend.as_ptr(), key: option.key.as_ptr(), kind, number, text }
            })
            .collect();
        let record = match record {
            Record::Nothing => 0,
            Record::Time => 1,
            Record::Values => 2,
        };
        let mut model = ptr::null_mut();
        // SAFETY: the caller vouches for `bytes`; the options live to the end of this function, and the
        // runtime copies them.
        check(unsafe {
            engine_load(bytes.cast(), bytes.len(), raw.as_ptr(), raw.len(), record, &mut model)
        })?;
        let complaints = log();
        NonNull::new(model)
            .map(|model| (Self(model), complaints))
            .ok_or_else(|| Failure { code: Code(1), log: "loading yielded no model".into() })
    }

    /// Names of the program's methods.
    pub(crate) fn methods(&self) -> Vec<CString> {
        let name = |index| {
            // SAFETY: takes any index; returns null or a text inside the program.
            let name = unsafe { engine_method_name(self.0.as_ptr(), index) };
            // SAFETY: not null; verified as a flatbuffer string (NUL-terminated) when the program was loaded.
            (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) }.to_owned())
        };
        (0..).map_while(name).collect()
    }

    /// Values of a metadata method, at most `most` of them.
    pub(crate) fn metadata(&mut self, method: &CStr, most: usize) -> Result<Vec<Value>, Failure> {
        let mut values = vec![RawValue::default(); most];
        let mut count = most;
        // SAFETY: `count` is the true capacity of `values`.
        check(unsafe { engine_metadata(self.0.as_ptr(), method.as_ptr(), values.as_mut_ptr(), &mut count) })?;
        values.truncate(count);
        Ok(values
            .iter()
            .map(|value| match value.kind {
                0 => Value::Int(value.integer),
                1 => Value::Bool(value.integer != 0),
                _ => Value::Double(value.real),
            })
            .collect())
    }

    /// Inputs and outputs of `forward`.
    pub(crate) fn signature(&mut self) -> Result<(Vec<TensorInfo>, Vec<TensorInfo>), Failure> {
        const MOST: usize = 16;
        let (mut inputs, mut outputs) =
            (vec![TensorInfo::default(); MOST], vec![TensorInfo::default(); MOST]);
        let (mut input_count, mut output_count) = (MOST, MOST);
        // SAFETY: both counts are true capacities.
        check(unsafe {
            engine_signature(
                self.0.as_ptr(),
                inputs.as_mut_ptr(),
                &mut input_count,
                outputs.as_mut_ptr(),
                &mut output_count,
            )
        })?;
        inputs.truncate(input_count);
        outputs.truncate(output_count);
        Ok((inputs, outputs))
    }

    /// Runs `forward` on made-up inputs; its outputs as bytes, at most `most` of them.
    pub(crate) fn call(&mut self, most: usize) -> Result<Vec<u8>, Failure> {
        let mut bytes = vec![0; most];
        let mut count = most;
        // SAFETY: `count` is the true capacity of `bytes`.
        check(unsafe { engine_call(self.0.as_ptr(), bytes.as_mut_ptr(), &mut count) })?;
        bytes.truncate(count);
        Ok(bytes)
    }

    /// Runs `forward(tokens, position)`; allocates nothing. The logits live in the model's memory.
    pub(crate) fn forward(&mut self, tokens: &[i64], position: i64) -> Result<&[f32], Failure> {
        let (mut logits, mut count) = (ptr::null(), 0);
        // SAFETY: the tokens outlive the call, and the runtime reads them only during it.
        check(unsafe {
            engine_forward(self.0.as_ptr(), tokens.as_ptr(), tokens.len(), position, &mut logits, &mut count)
        })?;
        // A damaged memory plan can put the output anywhere inside the model's memory.
        if logits.is_null() || !logits.is_aligned() {
            return Err(Failure { code: Code(1), log: "forward yielded no aligned logits".into() });
        }
        // SAFETY: not null and aligned; the runtime returned `count` floats that stay in place until the next
        // call on this model, which the borrow of `self` prevents.
        Ok(unsafe { std::slice::from_raw_parts(logits, count) })
    }

    /// [`Self::forward`], with a look at every fp32 value that is computed; only of a model that was loaded for that.
    pub(crate) fn forward_probed(
        &mut self,
        tokens: &[i64],
        position: i64,
        mut probe: Probe<'_>,
    ) -> Result<&[f32], Failure> {
        /// A panic cannot leave it: the process ends.
        unsafe extern "C" fn seen(
            context: *mut c_void,
            instruction: u32,
            argument: u32,
            data: *mut f32,
            count: usize,
        ) {
            // SAFETY: the context is the probe of the call that is running, which nothing else uses meanwhile.
            let probe = unsafe { &mut *context.cast::<Probe<'_>>() };
            // SAFETY: the runtime computed `count` floats there, aligned, and reads them after this call.
            let values = unsafe { std::slice::from_raw_parts_mut(data, count) };
            probe(Tap { instruction, argument }, values);
        }
        let model = self.0.as_ptr();
        // SAFETY: a live model; the probe outlives the call of `forward`, and is taken away after it.
        unsafe { engine_probe(model, Some(seen), (&raw mut probe).cast()) };
        let logits = self.forward(tokens, position).map(|logits| (logits.as_ptr(), logits.len()));
        // SAFETY: a live model.
        unsafe { engine_probe(model, None, ptr::null_mut()) };
        // SAFETY: what `forward` returned for this borrow of `self`.
        logits.map(|(data, count)| unsafe { std::slice::from_raw_parts(data, count) })
    }

    /// Recorded events, empty unless loaded with [`Record::Time`].
    pub(crate) fn profile(&self) -> Vec<Event> {
        const MOST: usize = 1024;
        let mut raw: Vec<RawEvent> = Vec::with_capacity(MOST);
        // SAFETY: there is room for MOST elements, and the first min(MOST, result) are written.
        unsafe {
            let count = engine_profile(self.0.as_ptr(), raw.as_mut_ptr(), MOST);
            raw.set_len(count.min(MOST));
        }
        raw.iter()
            .map(|event| Event {
                // SAFETY: the name lives as long as the model, which is borrowed.
                name: unsafe { CStr::from_ptr(event.name) }.to_string_lossy().into_owned(),
                calls: event.calls,
                nanoseconds: event.nanoseconds,
            })
            .collect()
    }

    /// Sets every recorded total to zero.
    pub(crate) fn profile_reset(&mut self) {
        // SAFETY: the pointer is a live model.
        unsafe { engine_profile_reset(self.0.as_ptr()) }
    }
}
