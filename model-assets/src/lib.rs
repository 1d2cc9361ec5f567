//! The contract between the export pipeline and the app.
#![forbid(unsafe_code)]

pub mod evidence;
pub mod pte;
