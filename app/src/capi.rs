//! The C surface, for hosts in Swift or C: `include/proofmark.h`; `jvm.rs` is the same for Kotlin and Java.
//!
//! A handle, strings of JSON in and out, nothing else: the messages are those of [`crate::message`], so a new event needs
//! no new function. UniFFI would add its runtime, a generator and a licence that this project does not take (MPL-2.0)
//! for eight functions.
//!
//! **Invariant:** no panic crosses the border, no pointer is believed to be non-null, and a string that was handed out is
//! freed by [`proofmark_free_string`] alone.

use std::{
    ffi::{CStr, CString, c_char, c_int},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError, TryLockError, mpsc::Receiver},
    time::{Duration, Instant},
};

use camino::Utf8PathBuf;
use serde::Deserialize;

use crate::{
    Asset, Config, Host, Overrides,
    host::{Stopper, Unsent},
    message::Event,
};

/// The command was taken.
pub const PROOFMARK_OK: c_int = 0;
/// It is no command.
pub const PROOFMARK_INVALID: c_int = 1;
/// Too many commands wait.
pub const PROOFMARK_BUSY: c_int = 2;
/// The core has ended.
pub const PROOFMARK_GONE: c_int = 3;

/// Version of this surface: of the functions, and of the JSON that goes in and out. It changes when a host would have to;
/// a new event, command or field is none of that: hosts pass over what they do not know.
pub const PROOFMARK_ABI_VERSION: u32 = 1;

/// A running core.
#[derive(Debug)]
pub struct Proofmark(Arc<Core>);

/// Held by each call while it runs, so that closing cannot free it under a call that waits.
#[derive(Debug)]
pub(crate) struct Core {
    /// None once it is closed.
    host: Mutex<Option<Host>>,
    stopper: Stopper,
    events: Mutex<Receiver<Event>>,
}

/// Pause before retrying when another thread holds the event queue.
const TURN_PAUSE: Duration = Duration::from_millis(5);

/// How a host starts the core.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Start {
    /// Folder of conversations; absent, they are forgotten.
    data: Option<Utf8PathBuf>,
    /// Folder of what can be made again.
    cache: Utf8PathBuf,
    /// File of the model.
    model_path: Option<Utf8PathBuf>,
    /// Descriptor of a file with the model in it; the host keeps its own.
    model_fd: Option<i32>,
    /// Where the model begins in it.
    #[serde(default)]
    model_offset: u64,
    /// Length of the model in it.
    model_bytes: Option<u64>,
    /// Threads.
    threads: Option<u32>,
}

impl Start {
    fn config(self) -> Result<Config, String> {
        let asset = match (self.model_fd, self.model_path, self.model_bytes) {
            (Some(fd), path, Some(len)) => Asset::Range {
                file: duplicate(fd)?,
                path: path.unwrap_or_else(|| format!("descriptor {fd}").into()),
                offset: self.model_offset,
                len,
            },
            (Some(_), _, None) => return Err("got model_fd, expected model_bytes with it".to_owned()),
            (None, Some(path), _) => Asset::File(path),
            (None, None, _) => Asset::Default,
        };
        let (data, cache, threads) = (self.data, self.cache, self.threads);
        Ok(Config { data, cache, asset, threads, overrides: Overrides::default() })
    }
}

/// A file of our own over the host's descriptor: the host may close its own at any time.
fn duplicate(fd: i32) -> Result<std::fs::File, String> {
    let name = if cfg!(target_vendor = "apple") { "/dev/fd" } else { "/proc/self/fd" };
    model_assets::regular::open(format!("{name}/{fd}")).map_err(|error| format!("model_fd {fd}: {error}"))
}

/// Starts the core by a configuration in JSON.
pub(crate) fn start(config: &str) -> Result<Proofmark, String> {
    let start: Start = serde_json::from_str(config).map_err(|error| error.to_string())?;
    let (host, events) = Host::start(start.config()?).map_err(|error| error.to_string())?;
    let stopper = host.stopper();
    Ok(Proofmark(Arc::new(Core { host: Mutex::new(Some(host)), stopper, events: Mutex::new(events) })))
}

/// Sends a command in JSON; returns why it was not accepted.
pub(crate) fn send(core: &Core, command: &str) -> Result<(), (c_int, String)> {
    let command = serde_json::from_str(command).map_err(|error| (PROOFMARK_INVALID, error.to_string()))?;
    let host = core.host.lock().unwrap_or_else(PoisonError::into_inner);
    let sent = host.as_ref().map_or(Err(Unsent::Gone), |host| host.send(command));
    sent.map_err(|unsent| match unsent {
        Unsent::Busy => (PROOFMARK_BUSY, unsent.to_string()),
        Unsent::Gone => (PROOFMARK_GONE, unsent.to_string()),
    })
}

/// The next event in JSON, if one comes in time.
pub(crate) fn next(core: &Core, timeout: Duration) -> Option<String> {
    let until = Instant::now() + timeout;
    let left = || until.saturating_duration_since(Instant::now());
    loop {
        // Never wait on the lock itself: another thread may hold it for its whole timeout, which may be longer than this one.
        let events = match core.events.try_lock() {
            Ok(events) => events,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) if left().is_zero() || core.stopper.is_closed() => return None,
            Err(TryLockError::WouldBlock) => {
                std::thread::sleep(TURN_PAUSE.min(left()));
                continue;
            }
        };
        let event = events.recv_timeout(left()).ok()?;
        return serde_json::to_string(&event).ok();
    }
}

impl Proofmark {
    /// To call with.
    pub(crate) fn core(&self) -> Arc<Core> {
        self.0.clone()
    }
}

impl Core {
    /// Ends the reply being written.
    pub(crate) fn stop(&self) {
        self.stopper.stop();
    }

    /// Ends the core and waits until everything is on disk. Who waits for an event gets none: its channel ends.
    pub(crate) fn close(&self) {
        // Not while the lock is held: sending must never wait for this.
        let host = self.host.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(host) = host {
            host.close();
        }
    }
}

/// Starts the core. `config` is a JSON object with `cache` and, as wanted, `data`, `model_path`, or `model_fd` with
/// `model_offset` and `model_bytes`, and `threads`. Answers null on failure, and why in `error` when that is not null.
///
/// # Safety
/// `config` is null or a string that ends with a zero; `error` is null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn proofmark_start(config: *const c_char, error: *mut *mut c_char) -> *mut Proofmark {
    let started = || -> Result<Proofmark, String> {
        // SAFETY: the caller's promise.
        let text = unsafe { text(config) }.ok_or("got no UTF-8 text, expected a JSON object")?;
        start(text)
    };
    let started = catch_unwind(started).unwrap_or_else(|_| Err("the core panicked".to_owned()));
    match started {
        Ok(core) => Box::into_raw(Box::new(core)),
        Err(message) => {
            // SAFETY: the caller's promise.
            unsafe { write_message(error, &message) };
            std::ptr::null_mut()
        }
    }
}

/// Sends a command: JSON such as `{"command":"say","text":"hello"}`. Never waits. Answers one of the codes.
///
/// # Safety
/// `core` is null or from [`proofmark_start`] and not closed; `command` is null or ends with a zero; `error` is null or
/// may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn proofmark_send(
    core: *const Proofmark,
    command: *const c_char,
    error: *mut *mut c_char,
) -> c_int {
    // SAFETY: the caller's promise.
    let (core, text) = unsafe { (core.as_ref().map(Proofmark::core), text(command)) };
    let Some(core) = core else { return PROOFMARK_GONE };
    let sent = catch_unwind(AssertUnwindSafe(|| send(&core, text.unwrap_or_default())));
    match sent.unwrap_or_else(|_| Err((PROOFMARK_GONE, "the core panicked".to_owned()))) {
        Ok(()) => PROOFMARK_OK,
        Err((code, message)) => {
            // SAFETY: the caller's promise.
            unsafe { write_message(error, &message) };
            code
        }
    }
}

/// Ends the reply being written, at once; from any thread.
///
/// # Safety
/// `core` is null or from [`proofmark_start`] and not closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn proofmark_stop(core: *const Proofmark) {
    // SAFETY: the caller's promise.
    if let Some(core) = unsafe { core.as_ref() } {
        core.core().stop();
    }
}

/// The next event as JSON, to be freed; null when none came in time. Waits for `timeout_ms` at most, also when other threads wait:
/// not for the thread of an interface, unless it is 0. After the core has ended (its last event is then `refused`, unless
/// it was closed) it answers null at once; so it does when the core is closed while it waits.
///
/// # Safety
/// `core` is null or from [`proofmark_start`] and not closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn proofmark_next_event(core: *const Proofmark, timeout_ms: u32) -> *mut c_char {
    // SAFETY: the caller's promise.
    let Some(core) = (unsafe { core.as_ref().map(Proofmark::core) }) else { return std::ptr::null_mut() };
    let next = catch_unwind(AssertUnwindSafe(|| next(&core, Duration::from_millis(timeout_ms.into()))));
    next.ok().flatten().map_or(std::ptr::null_mut(), |text| owned(&text))
}

/// [`PROOFMARK_ABI_VERSION`] of the library, to compare with the header's.
#[unsafe(no_mangle)]
pub extern "C" fn proofmark_abi_version() -> u32 {
    PROOFMARK_ABI_VERSION
}

/// Which model is inside and what proved it, as JSON to be freed; null when the library was altered.
#[unsafe(no_mangle)]
pub extern "C" fn proofmark_provenance() -> *mut c_char {
    let text = catch_unwind(|| Some(crate::provenance().ok()?.to_string()));
    text.ok().flatten().map_or(std::ptr::null_mut(), |text| owned(&text))
}

/// Frees a string that this library handed out.
///
/// # Safety
/// `text` is null or a string from this library, not freed before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn proofmark_free_string(text: *mut c_char) {
    if !text.is_null() {
        // SAFETY: the caller's promise.
        drop(unsafe { CString::from_raw(text) });
    }
}

/// Ends the core and waits until everything is on disk. A [`proofmark_next_event`] that waits answers null.
///
/// # Safety
/// `core` is null or from [`proofmark_start`], not closed before, and no other call begins with it any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn proofmark_close(core: *mut Proofmark) {
    if !core.is_null() {
        // SAFETY: the caller's promise.
        let core = unsafe { Box::from_raw(core) };
        let _ = catch_unwind(AssertUnwindSafe(|| core.core().close()));
    }
}

/// A string of the caller.
///
/// # Safety
/// `text` is null or ends with a zero, and lives as long as the answer is used.
unsafe fn text<'a>(text: *const c_char) -> Option<&'a str> {
    if text.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_str().ok()
}

/// Writes a message for the caller to free.
///
/// # Safety
/// `place` is null or may be written to.
unsafe fn write_message(place: *mut *mut c_char, message: &str) {
    if !place.is_null() {
        // SAFETY: the caller's promise.
        unsafe { place.write(owned(message)) };
    }
}

/// A string for the caller to free. JSON has no zero in it; in a message it would end the string.
fn owned(text: &str) -> *mut c_char {
    CString::new(text.replace('\0', " ")).unwrap_or_default().into_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready() -> Arc<Core> {
        let core = start(r#"{"cache": ""}"#).unwrap().core();
        while !next(&core, Duration::from_secs(1 << 40)).unwrap().starts_with(r#"{"event":"ready""#) {}
        core
    }

    #[test]
    fn who_waits_for_an_event_keeps_nobody_else_waiting() {
        let core = ready();
        let waiting = core.clone();
        // Longer than anybody would watch a test.
        let forever = Duration::from_secs(1 << 40);
        let held = core.events.lock().unwrap();
        assert_eq!(next(&core, Duration::ZERO), None, "without time it does not wait for another's turn");
        drop(held);
        let thread = std::thread::spawn(move || next(&waiting, forever));
        send(&core, r#"{"command":"list"}"#).unwrap();
        assert!(thread.join().unwrap().unwrap().contains("listed"));
        // Two wait, one of them for its turn; closing ends both.
        let threads =
            [core.clone(), core.clone()].map(|core| std::thread::spawn(move || next(&core, forever)));
        core.close();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), None);
        }
        assert_eq!(send(&core, r#"{"command":"list"}"#).unwrap_err().0, PROOFMARK_GONE);
        core.close();
    }
}
