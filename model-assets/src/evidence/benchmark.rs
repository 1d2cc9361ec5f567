//! Speed and memory, measured in the engine on one machine.
//!
//! **Invariant:** no figure here is compared with a clock's absolute value: the recipe bounds memory, and a ratio of
//! speeds of one run.

use serde::{Deserialize, Serialize};

/// A benchmark of one model on one machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Benchmark {
    /// Version of the runtime.
    pub runtime: String,
    /// Lower-case hex SHA-256 of the `.pte` that was run.
    pub pte_sha256: String,
    /// Size of the `.pte`, bytes.
    pub file_bytes: u64,
    /// Where it was measured.
    pub machine: Machine,
    /// Threads.
    pub threads: u32,
    /// Most tokens per call of a prefill.
    pub chunk_tokens: u32,
    /// From open to a loaded method with the file's pages dropped from the page cache before, milliseconds; absent where
    /// the system cannot drop them.
    pub load_cold_ms: Option<f64>,
    /// The same with the file in the page cache, mean over the repeats.
    pub load_warm_ms: f64,
    /// Standard deviation of it.
    pub load_warm_sd_ms: f64,
    /// The first prefill after a load, which packs weights, milliseconds.
    pub first_prefill_ms: f64,
    /// Time to first token: tokenization, prefill and sampling, without the load, mean over the repeats; absent without a
    /// tokenizer.
    pub ttft_ms: Option<f64>,
    /// Standard deviation of it.
    pub ttft_sd_ms: Option<f64>,
    /// Tokens of the prompt whose first token was waited for.
    pub ttft_prompt_tokens: Option<u32>,
    /// `pp64`, `pp512`, `tg32`, `tg128`.
    pub speeds: Vec<Speed>,
    /// The same for other numbers of threads.
    pub sweep: Vec<SweepStep>,
    /// Resident memory; absent where the system does not tell it apart.
    pub memory: Option<MemorySteps>,
    /// Energy; absent where the platform does not tell.
    pub energy: Option<Energy>,
    /// Decoding against the memory's bandwidth.
    pub roofline: Roofline,
}

/// The machine that figures were taken on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Name of the processor.
    pub processor: String,
    /// Instruction set architecture, such as `x86_64`.
    pub architecture: String,
    /// Processors that this process may use.
    pub processors: u32,
    /// Memory, bytes.
    pub memory_bytes: Option<u64>,
    /// Operating system and its version.
    pub system: String,
}

impl Machine {
    /// The machine that this process runs on, as far as it tells.
    pub fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key))?;
            line.split_once(':').map(|(_, value)| value.trim().to_owned())
        };
        let cpu = read("/proc/cpuinfo");
        let kibibytes = field(&read("/proc/meminfo"), "MemTotal");
        let kibibytes = kibibytes.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
        let release = read("/proc/sys/kernel/osrelease");
        Self {
            processor: field(&cpu, "model name")
                .or_else(|| field(&cpu, "Hardware"))
                .unwrap_or("unknown".to_owned()),
            architecture: std::env::consts::ARCH.to_owned(),
            processors: std::thread::available_parallelism()
                .map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
            memory_bytes: kibibytes.and_then(|n| n.checked_mul(1024)),
            system: format!("{} {}", std::env::consts::OS, release.trim()).trim_end().to_owned(),
        }
    }
}

/// Tokens per second of one case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Speed {
    /// `pp` for prefill or `tg` for generation, and the number of tokens.
    pub name: String,
    /// Tokens.
    pub tokens: u32,
    /// Timed repeats, after one that is not timed.
    pub repeats: u32,
    /// Mean, tokens per second.
    pub mean: f64,
    /// Standard deviation.
    pub sd: f64,
    /// Slowest repeat.
    pub min: f64,
    /// Fastest repeat.
    pub max: f64,
}

/// Speeds with some number of threads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SweepStep {
    /// Threads.
    pub threads: u32,
    /// Prefill.
    pub prefill: Speed,
    /// Decode.
    pub decode: Speed,
}

/// Resident memory at some moments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct MemorySteps {
    /// Before the model is opened.
    pub start: Resident,
    /// After the load.
    pub loaded: Resident,
    /// After the first prefill.
    pub first_prefill: Resident,
    /// After the last timed case.
    pub steady: Resident,
    /// Highest resident memory of the process up to there.
    pub peak_bytes: u64,
}

/// Resident memory by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Resident {
    /// Heap, stacks, packed weights: the system cannot take it back.
    pub anonymous_bytes: u64,
    /// Mapped files: the system can take them back.
    pub file_bytes: u64,
}

/// Energy of decoding, as the processor counts it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Energy {
    /// The counter, such as `package-0`.
    pub counter: String,
    /// Joules per decoded token, everything that the machine did meanwhile included.
    pub joules_per_token: f64,
}

/// Decoding reads weights for every token: how close to the memory's bandwidth is it?
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Roofline {
    /// Measured in this process, with as many threads, between the repeats of the decoding.
    pub read_bytes_per_second: f64,
    /// Bytes per token times decode speed.
    pub used_bytes_per_second: f64,
    /// Share of the first that is used; above 1 when the weights fit a cache.
    pub share: f64,
    /// Weight bytes that a token reads: the file's, without tables of which it reads a row. Absent where only the file's
    /// size is known, which counts then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_token: Option<u64>,
}

impl Benchmark {
    /// Holds the longest decoding against the memory's bandwidth: each token reads so many bytes, or the whole file where
    /// that is all that is known.
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 52 bits")]
    pub fn reckon_roofline(&mut self, bytes_per_token: Option<u64>) {
        let decoded = self.speeds.iter().rfind(|speed| speed.name.starts_with("tg"));
        let tokens_per_second = decoded.map_or(0.0, |speed| speed.mean);
        let roofline = &mut self.roofline;
        roofline.bytes_per_token = bytes_per_token;
        roofline.used_bytes_per_second =
            tokens_per_second * bytes_per_token.unwrap_or(self.file_bytes) as f64;
        roofline.share = roofline.used_bytes_per_second / roofline.read_bytes_per_second;
    }

    /// The case of this name.
    pub fn speed(&self, name: &str) -> Option<&Speed> {
        self.speeds.iter().find(|speed| speed.name == name)
    }

    /// Fastest prefill over slowest decode: prompts must gain by going through in one piece.
    pub fn prefill_over_decode(&self) -> f64 {
        let best = |kind: &str, pick: fn(f64, f64) -> f64, start: f64| {
            self.speeds.iter().filter(|s| s.name.starts_with(kind)).map(|s| s.mean).fold(start, pick)
        };
        best("pp", f64::max, 0.0) / best("tg", f64::min, f64::INFINITY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_a_name() {
        let machine = Machine::here();
        assert!(machine.processors > 0 && !machine.system.is_empty() && !machine.processor.is_empty());
    }
}
