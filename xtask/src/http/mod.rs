//! Fetching over https: a request with its redirects, and a file that is resumed, hashed, and renamed only when it is
//! complete. Bounded in time, memory, disk and attempts.

pub(crate) mod client;
pub(crate) mod download;
pub(crate) mod endpoint;
pub(crate) mod fault;
pub(crate) mod progress;
pub(crate) mod proxy;
mod trust;
pub(crate) mod wanted;
