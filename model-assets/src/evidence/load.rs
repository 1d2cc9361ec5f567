//! Load: the runtime opened the model and ran it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::measurement::{Asked, Kind, Measurement, Metric, Part, json, megabytes, unbounded};
use crate::ledger::Ledger;

pub(super) const KIND: Kind =
    Kind { name: "Load", title: "Load and first run", absent: "Not measured.", check: unbounded };

/// The model was loaded by the runtime and ran: a prefill, then decode steps, with finite logits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// Wall time from open to a loaded `forward` method, milliseconds.
    pub load_ms: f64,
    /// Wall time of the first prefill (includes weight packing), milliseconds.
    pub first_prefill_ms: f64,
    /// Tokens prefilled in one piece.
    pub prefill_tokens: u32,
    /// Single-token decode steps after it.
    pub decode_tokens: u32,
    /// Whether every logit seen was finite.
    pub finite: bool,
    /// Peak resident memory of the process, bytes.
    pub peak_rss_bytes: u64,
}

impl Measurement for Load {
    fn judge(&self, id: &str, _: &Asked<'_>, ledger: &mut Ledger) {
        let ran = self.finite && self.prefill_tokens > 0 && self.decode_tokens > 0;
        let expected = "a prefill and decode with finite logits";
        ledger.judge(id, "manifest.json", ran, format!("{self:?}"), expected);
    }

    fn lines(&self, _: &Asked<'_>) -> Vec<String> {
        let (load_ms, first, peak) = (self.load_ms, self.first_prefill_ms, self.peak_rss_bytes / 1_000_000);
        vec![format!("load {load_ms:.0} ms, first prefill {first:.0} ms, peak {peak} MB")]
    }

    fn card(&self, asked: &Asked<'_>) -> Vec<String> {
        let finite = if self.finite { "finite" } else { "not finite" };
        vec![format!("ran in ExecuTorch {}, logits {finite}", asked.runtime)]
    }

    fn metrics(&self, _: &Asked<'_>) -> Vec<Metric> {
        Vec::new()
    }

    fn parts(&self, _: &Asked<'_>) -> Vec<Part> {
        vec![Part::Cards(vec![
            ("load", format!("{:.0} ms", self.load_ms)),
            ("first prefill", format!("{:.0} ms", self.first_prefill_ms)),
            ("tokens prefilled", self.prefill_tokens.to_string()),
            ("decode steps", self.decode_tokens.to_string()),
            ("logits", if self.finite { "finite" } else { "not finite" }.to_owned()),
            ("memory, peak", megabytes(self.peak_rss_bytes)),
        ])]
    }

    fn value(&self) -> Value {
        json(self)
    }
}
