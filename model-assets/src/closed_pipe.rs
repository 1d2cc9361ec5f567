//! A reader of the output that goes away ends a program: quietly, and with everything put back that a return would put back. Here
//! because every program of the workspace has this crate, and none has another's.
//!
//! Rust ignores SIGPIPE, and `println!` panics where the pipe is closed. That panic is taken for what it means: it unwinds, so that
//! children are ended and files removed, and it is not shown.

use std::{
    any::Any,
    panic::{self, AssertUnwindSafe},
};

/// Runs the whole of a program; `None` when nobody reads its output any more.
///
/// # Panics
/// As the command does for every other reason.
pub fn quietly<T>(command: impl FnOnce() -> T) -> Option<T> {
    let default_hook = panic::take_hook();
    panic::set_hook(Box::new(move |panic_info| {
        if !is_closed_pipe(panic_info.payload()) {
            default_hook(panic_info);
        }
    }));
    match panic::catch_unwind(AssertUnwindSafe(command)) {
        Ok(outcome) => Some(outcome),
        Err(payload) if is_closed_pipe(payload.as_ref()) => None,
        Err(payload) => panic::resume_unwind(payload),
    }
}

/// Whether a panic is that of `println!` or `eprintln!` on a closed pipe.
fn is_closed_pipe(payload: &(dyn Any + Send)) -> bool {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.is_some_and(|text| text.starts_with("failed printing to std") && text.contains("Broken pipe"))
}
