//! A `.pte` in a package: where it lies, and whether a phone can map it there.

use model_assets::provenance::PTE_ALIGN_BYTES;
use serde::Serialize;

use super::app::AppVerdict;
use crate::package::{Item, Kind};

/// What the runtime needs of a program's first byte; the mapping itself begins at the page before.
const MAP_ALIGN_BYTES: u64 = 16;

/// A packaged `.pte`.
#[derive(Serialize)]
pub(super) struct Asset {
    pub(super) name: String,
    pub(super) bytes: u64,
    /// Offset in the package when it is stored as it is.
    pub(super) stored_at: Option<u64>,
    /// The power of two that the offset is a multiple of, up to pages of 16 KiB.
    aligned_bytes: Option<u64>,
    /// Whether a phone maps it out of the package; absent where the package is unpacked before.
    pub(super) in_place: Option<bool>,
    pub(super) proved_for_dev: bool,
    pub(super) proved_for_release: bool,
    pub(super) verdict: String,
}

impl Asset {
    pub(super) fn new(kind: Kind, item: &Item, verdict: &AppVerdict) -> Self {
        let aligned = item.stored_at().is_some_and(|offset| offset % MAP_ALIGN_BYTES == 0);
        Self {
            name: item.name.clone(),
            bytes: item.bytes,
            stored_at: item.stored_at(),
            aligned_bytes: item.stored_at().map(alignment),
            in_place: (kind == Kind::Apk).then_some(aligned),
            proved_for_dev: verdict.dev.is_ok(),
            proved_for_release: verdict.release.is_ok(),
            verdict: verdict.text(),
        }
    }

    pub(super) fn placement(&self) -> String {
        match (self.in_place, self.stored_at) {
            (None, _) => {
                "not from here: it is unpacked, or packaged again, before it is installed".to_owned()
            }
            (Some(_), Some(offset)) => stored(offset),
            (Some(_), None) => COMPRESSED.to_owned(),
        }
    }
}

const COMPRESSED: &str = "no: compressed; name it in noCompress";

pub(super) fn placement(item: &Item) -> String {
    item.stored_at().map_or_else(|| COMPRESSED.to_owned(), stored)
}

/// 4096 and 16384 are whole pages of phones.
fn alignment(offset: u64) -> u64 {
    1 << offset.trailing_zeros().min(PTE_ALIGN_BYTES.trailing_zeros())
}

fn stored(offset: u64) -> String {
    let align = alignment(offset);
    let answer = if align >= MAP_ALIGN_BYTES { "yes" } else { "no; run zipalign 16 and sign again" };
    format!("{answer}: stored at {offset}, aligned to {align}")
}
