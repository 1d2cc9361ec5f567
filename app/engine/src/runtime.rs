//! The runtime itself, apart from any model: what it can execute, how many threads it uses.

use std::sync::{Mutex, MutexGuard, PoisonError};

use model_assets::pte::RuntimeTable;

use crate::error::{Error, Result};
use crate::ffi;

/// Version of the ExecuTorch runtime that this crate was built against.
pub const VERSION: &str = env!("ENGINE_RUNTIME_VERSION");

/// Most threads that can be asked for; more only hurts on any phone or laptop.
pub const THREADS_MAX: u32 = 64;

/// Length of the smallest file that is worth more than one thread (docs/full-scale.md has the measurement). The file stands for
/// what a token reads: it is known before anything is loaded.
const DIVIDED_BYTES_MIN: u64 = 4_000_000;

/// How many models are loaded. Held during loading and unloading, so that the thread pool is never replaced
/// under a delegate that keeps a pointer to it.
static LIVE_MODELS: Mutex<usize> = Mutex::new(0);

/// Everything that the linked runtime can execute, our own kernels included, as the runtime itself lists it.
///
/// # Errors
/// When the runtime does not start.
pub fn table() -> Result<RuntimeTable> {
    let list = |names: std::result::Result<Vec<String>, _>| {
        let mut names = names.map_err(Error::runtime("start the runtime"))?;
        names.sort_unstable();
        names.dedup();
        Ok::<_, Error>(names)
    };
    Ok(RuntimeTable {
        runtime: VERSION.to_owned(),
        backends: list(ffi::backends())?,
        kernels: list(ffi::kernels())?,
    })
}

/// Threads that the runtime uses now.
///
/// # Errors
/// When the runtime does not start.
pub fn threads() -> Result<u32> {
    ffi::threads().map_err(Error::runtime("start the runtime"))
}

/// The default number of threads: performance cores where the CPU has two kinds, else physical cores.
///
/// # Errors
/// When the runtime does not start.
pub fn threads_default() -> Result<u32> {
    let performance = ffi::performance_cores().map_err(Error::runtime("start the runtime"))?;
    // A container may have been given fewer processors than the machine has cores.
    let allowed =
        std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
    Ok(if performance == 0 { allowed } else { performance.min(allowed) }.min(THREADS_MAX))
}

/// The default number of threads for a model whose file has so many bytes.
///
/// # Errors
/// When the runtime does not start.
pub fn threads_for(file_bytes: u64) -> Result<u32> {
    threads_default().map(|cores| worth_dividing(file_bytes, cores))
}

/// To hand an operator's work to other threads and to wait for them takes microseconds, dozens of times a token. Dividing it
/// saves a part of the time that the weights take: of few bytes, less than that.
fn worth_dividing(file_bytes: u64, cores: u32) -> u32 {
    if file_bytes < DIVIDED_BYTES_MIN { 1 } else { cores }
}

/// Sets the number of threads; possible only while no model is loaded.
///
/// # Errors
/// When `count` is out of range, a model is loaded, or the runtime refuses.
pub fn set_threads(count: u32) -> Result<()> {
    let setting = |got: String, expected| Error::Setting { name: "threads", got, expected };
    if !(1..=THREADS_MAX).contains(&count) {
        return Err(setting(count.to_string(), "1 to 64"));
    }
    let live = live_models();
    if *live > 0 {
        return Err(setting(format!("{count} while {} models are loaded", *live), "no loaded model"));
    }
    #[expect(unsafe_code, reason = "only here is it known that no model lives")]
    // SAFETY: no model is live, and the lock keeps one from being loaded meanwhile.
    let set = unsafe { ffi::set_threads(count) };
    set.map_err(Error::runtime("set the number of threads"))
}

/// Instruction sets that the engine's attention is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attention {
    /// What every processor of the architecture has.
    Portable,
    /// AVX2 with fused multiply-add.
    Avx2,
    /// AVX-512 with its F, VL, DQ and BW parts.
    Avx512,
}

impl std::str::FromStr for Attention {
    type Err = &'static str;

    fn from_str(name: &str) -> std::result::Result<Self, Self::Err> {
        match name {
            "portable" => Ok(Self::Portable),
            "avx2" => Ok(Self::Avx2),
            "avx512" => Ok(Self::Avx512),
            _ => Err("expected portable, avx2 or avx512"),
        }
    }
}

/// Makes attention use another instruction set than the widest, to see that a proof does not hang on one; possible only while
/// no model is loaded.
///
/// # Errors
/// When a model is loaded or the processor lacks it.
pub fn set_attention(attention: Attention) -> Result<()> {
    let live = live_models();
    if *live > 0 {
        let got = format!("{attention:?} while {} models are loaded", *live);
        return Err(Error::Setting { name: "attention", got, expected: "no loaded model" });
    }
    let variant = match attention {
        Attention::Portable => 1,
        Attention::Avx2 => 2,
        Attention::Avx512 => 3,
    };
    #[expect(unsafe_code, reason = "only here is it known that no model lives")]
    // SAFETY: no model is live, and the lock keeps one from being loaded meanwhile.
    let set = unsafe { ffi::set_attention(variant) };
    set.map_err(Error::runtime("set the instruction set of attention"))
}

fn live_models() -> MutexGuard<'static, usize> {
    // The count is right even if a holder panicked: it is changed in one step.
    LIVE_MODELS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts a model as loaded for as long as it lives.
#[derive(Debug)]
pub(crate) struct Live(());

impl Live {
    /// Runs `load` while the thread pool cannot be replaced, and counts what it loaded.
    pub(crate) fn while_loading<T>(load: impl FnOnce() -> Result<T>) -> Result<(Self, T)> {
        let mut live = live_models();
        let loaded = load()?;
        *live += 1;
        Ok((Self(()), loaded))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let mut live = live_models();
        *live = live.saturating_sub(1);
    }
}

/// Largest resident memory of this process so far, in bytes; `None` when the system does not say.
pub fn peak_rss_bytes() -> Option<u64> {
    // Linux's getrusage starts from the parent's peak; the process's own is in /proc.
    let own = memory().map(|memory| memory.peak_bytes);
    own.or_else(|| Some(ffi::peak_rss_bytes()).filter(|bytes| *bytes > 0))
}

/// Resident memory of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Anonymous pages: heap, stacks, packed weights.
    pub anonymous_bytes: u64,
    /// File-backed pages: mapped models, the binary, libraries. The system can take them back.
    pub file_bytes: u64,
    /// Peak of the whole.
    pub peak_bytes: u64,
}

/// Resident memory now, where the system tells it apart (Linux and Android).
pub fn memory() -> Option<Memory> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kilobytes = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(Memory {
        anonymous_bytes: kilobytes("RssAnon:")?,
        file_bytes: kilobytes("RssFile:")?,
        peak_bytes: kilobytes("VmHWM:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_too_small_to_divide_has_one_thread_and_a_large_one_every_core() {
        let threads = |bytes| worth_dividing(bytes, 4);
        assert_eq!([threads(0), threads(2_222_464), threads(DIVIDED_BYTES_MIN - 1)], [1; 3]);
        assert_eq!([threads(DIVIDED_BYTES_MIN), threads(1_238_497_024), threads(u64::MAX)], [4; 3]);
        assert_eq!(threads_for(0).unwrap(), 1);
        assert_eq!(threads_for(u64::MAX).unwrap(), threads_default().unwrap());
    }
}
