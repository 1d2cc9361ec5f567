//! The contract between the export pipeline and the app: what a model promises ([`recipe`], [`policy`]), what
//! was found and measured ([`pte`], [`evidence`]), the record of both ([`manifest`]), and the one door that a
//! model's bytes go through ([`check::validate`]).
//!
//! **Invariant:** this crate knows no network, no processes and no command line. It reads files
//! ([`dir::ModelDir`]) and bytes, and writes nothing.
#![forbid(unsafe_code)]

pub mod bootstrap;
#[cfg(feature = "bundle")]
pub mod bundle;
pub mod check;
pub mod claim;
pub mod closed_pipe;
pub mod digest;
pub mod dir;
pub mod eq;
pub mod error;
pub mod evidence;
pub mod gguf;
pub mod ledger;
pub mod licence;
pub mod limits;
pub mod manifest;
pub mod name;
pub mod policy;
pub mod provenance;
pub mod pte;
pub mod random;
pub mod recipe;
pub mod regular;
pub mod reserve;
pub mod scheme;
#[cfg(feature = "signature")]
pub mod signature;
#[cfg(feature = "signature")]
pub mod signers;
pub mod template;
pub mod tokenizer;

/// Digest of a value's meaning: its canonical JSON, with keys in declaration order.
fn canonical_digest(value: &impl serde::Serialize) -> digest::Digest {
    // Serialising plain data into memory cannot fail; were it ever to, an empty text matches no record.
    digest::Digest::of(&serde_json::to_vec(value).unwrap_or_default())
}

#[cfg(test)]
mod tests;
