//! Speed and memory, measured in the engine on one machine.
//!
//! **Invariant:** no figure here is compared with a clock's absolute value: the recipe bounds memory, and a ratio of
//! speeds of one run.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::measurement::{Asked, Bounds, Kind, Measurement, Metric, Part, json, megabytes, within};
use crate::{error::ContractError, ledger::Ledger};

pub(super) const KIND: Kind = Kind { name: "Benchmark", title: "Benchmark", absent: "Not measured.", check };

/// Benchmark bounds. Never a time: another machine must come to the same verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct BenchmarkLimits {
    /// Largest resident memory of a process that loads and runs the model, bytes.
    pub peak_rss_bytes_max: u64,
    /// Smallest ratio of the fastest prefill to the slowest decode: below 1 a prompt goes through token by token.
    pub prefill_over_decode_min: f64,
}

impl Default for BenchmarkLimits {
    /// What a phone with 8 GB leaves to one app.
    fn default() -> Self {
        Self { peak_rss_bytes_max: 4_000_000_000, prefill_over_decode_min: 1.5 }
    }
}

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

    /// The figures as a Markdown table.
    pub fn markdown(&self) -> String {
        let machine = &self.machine;
        let memory = machine.memory_bytes.map_or(String::new(), |n| format!(", {:.1} GB", n as f64 / 1e9));
        // Writing to a String cannot fail.
        let mut text = format!(
            "{} ({}, {} processors{memory}, {}), ExecuTorch {}, {} threads, model {:.1} MB\n\n| what | mean ± sd | least to most |\n|---|---|---|\n",
            machine.processor,
            machine.architecture,
            machine.processors,
            machine.system,
            self.runtime,
            self.threads,
            self.file_bytes as f64 / 1e6
        );
        let cold = self
            .load_cold_ms
            .map_or("not measured: the system drops no pages".to_owned(), |ms| format!("{ms:.1} ms"));
        let _ = writeln!(text, "| load, cold | {cold} | |");
        let _ =
            writeln!(text, "| load, warm | {:.2} ± {:.2} ms | |", self.load_warm_ms, self.load_warm_sd_ms);
        let _ = writeln!(text, "| first prefill | {:.1} ms | |", self.first_prefill_ms);
        if let (Some(ms), Some(sd), Some(tokens)) = (self.ttft_ms, self.ttft_sd_ms, self.ttft_prompt_tokens) {
            let _ = writeln!(text, "| time to first token, prompt of {tokens} | {ms:.2} ± {sd:.2} ms | |");
        }
        let row = |text: &mut String, name: &str, s: &Speed| {
            let _ = writeln!(
                text,
                "| {name} | {:.1} ± {:.1} tok/s | {:.1} to {:.1} |",
                s.mean, s.sd, s.min, s.max
            );
        };
        for speed in &self.speeds {
            row(&mut text, &speed.name, speed);
        }
        for step in &self.sweep {
            for speed in [&step.prefill, &step.decode] {
                row(&mut text, &format!("{}, threads: {}", speed.name, step.threads), speed);
            }
        }
        if let Some(memory) = &self.memory {
            let _ = writeln!(text, "| memory, peak | {:.1} MB | |", memory.peak_bytes as f64 / 1e6);
            let steps = [
                ("loaded", &memory.loaded),
                ("first prefill", &memory.first_prefill),
                ("steady", &memory.steady),
            ];
            for (name, r) in steps {
                let (anonymous, file) = (r.anonymous_bytes as f64 / 1e6, r.file_bytes as f64 / 1e6);
                let _ = writeln!(
                    text,
                    "| memory, {name} | {anonymous:.1} MB anonymous, {file:.1} MB file-backed | |"
                );
            }
            let steady = memory.steady.anonymous_bytes + memory.steady.file_bytes;
            let _ = writeln!(
                text,
                "| memory, steady over the file | {:.3} | |",
                steady as f64 / self.file_bytes as f64
            );
        }
        match &self.energy {
            Some(energy) => {
                let _ = writeln!(
                    text,
                    "| energy | {:.5} J per token ({}) | |",
                    energy.joules_per_token, energy.counter
                );
            }
            None => text.push_str("| energy | not told by this platform | |\n"),
        }
        let r = &self.roofline;
        let (used, read, share) =
            (r.used_bytes_per_second / 1e9, r.read_bytes_per_second / 1e9, r.share * 100.0);
        let _ = writeln!(
            text,
            "| memory bandwidth used by decoding | {used:.2} of {read:.1} GB/s, {share:.0} % | |"
        );
        text
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

impl Measurement for Benchmark {
    fn judge(&self, id: &str, asked: &Asked<'_>, ledger: &mut Ledger) {
        let (limits, sha256) = (asked.bounds.benchmark, asked.sha256.to_string());
        let measured = self.speeds.iter().all(|it| it.repeats > 0 && it.mean > 0.0 && it.sd >= 0.0);
        let whole =
            measured && ["pp", "tg"].iter().all(|kind| self.speeds.iter().any(|s| s.name.starts_with(kind)));
        let got = format!("{} cases of {}", self.speeds.len(), self.pte_sha256);
        let expected = format!("prefill and decode of {sha256}");
        ledger.judge(id, "speeds", whole && self.pte_sha256 == sha256, got, expected);
        let ratio = self.prefill_over_decode();
        let got = format!("prefill {ratio:.2} times as fast as decode");
        let expected = format!("at least {}", limits.prefill_over_decode_min);
        ledger.judge(id, "speeds", ratio >= limits.prefill_over_decode_min, got, expected);
        // A system that does not tell memory apart still told the load's peak.
        if let Some(memory) = &self.memory {
            let fits = memory.peak_bytes > 0 && memory.peak_bytes <= limits.peak_rss_bytes_max;
            let got = format!("peak {} bytes", memory.peak_bytes);
            ledger.judge(id, "memory", fits, got, format!("at most {}", limits.peak_rss_bytes_max));
        }
    }

    fn lines(&self, _: &Asked<'_>) -> Vec<String> {
        self.markdown().lines().map(str::to_owned).collect()
    }

    fn card(&self, _: &Asked<'_>) -> Vec<String> {
        let mean = |name: &str| self.speed(name).map(|speed| speed.mean);
        let row = mean("pp64").zip(mean("tg32")).map(|(prefill, decode)| {
            format!("{prefill:.0} tok/s in, {decode:.0} tok/s out on {}", self.machine.processor)
        });
        row.into_iter().collect()
    }

    /// None: speeds are a machine's, not a model's.
    fn metrics(&self, _: &Asked<'_>) -> Vec<Metric> {
        Vec::new()
    }

    fn parts(&self, _: &Asked<'_>) -> Vec<Part> {
        let machine = &self.machine;
        let place = format!(
            "On {}, {}, {} processors, {}: ExecuTorch {}, {} threads. Figures of this machine alone.",
            machine.processor,
            machine.architecture,
            machine.processors,
            machine.system,
            self.runtime,
            self.threads
        );
        vec![Part::Text(place), Part::Cards(self.cards()), self.speeds_table()]
    }

    fn value(&self) -> Value {
        json(self)
    }
}

impl Benchmark {
    fn cards(&self) -> Vec<(&'static str, String)> {
        let milliseconds = |ms: Option<f64>| ms.map_or("not measured".to_owned(), |ms| format!("{ms:.2} ms"));
        let mut cards = vec![
            ("load, cold", milliseconds(self.load_cold_ms)),
            ("load, warm", milliseconds(Some(self.load_warm_ms))),
            ("first token", milliseconds(self.ttft_ms)),
        ];
        if let Some(memory) = &self.memory {
            cards.push(("memory, peak", megabytes(memory.peak_bytes)));
            cards.push(("steady, anonymous", megabytes(memory.steady.anonymous_bytes)));
            cards.push(("steady, file-backed", megabytes(memory.steady.file_bytes)));
        }
        let energy = self.energy.as_ref();
        let energy = energy.map(|it| format!("{:.4} J/token", it.joules_per_token));
        cards.push(("energy", energy.unwrap_or("not told".to_owned())));
        cards
    }

    fn speeds_table(&self) -> Part {
        let row = |threads: u32, speed: &Speed| {
            vec![
                speed.name.clone(),
                threads.to_string(),
                format!("{:.1}", speed.mean),
                format!("{:.1}", speed.sd),
                format!("{:.1}", speed.min),
                format!("{:.1}", speed.max),
            ]
        };
        let own = self.speeds.iter().map(|speed| row(self.threads, speed));
        let sweep =
            self.sweep.iter().flat_map(|step| [&step.prefill, &step.decode].map(|it| row(step.threads, it)));
        Part::Table {
            caption: "Tokens per second",
            heads: vec!["case", "threads", "mean", "sd", "least", "most"],
            rows: own.chain(sweep).collect(),
        }
    }
}

fn check(bounds: &Bounds<'_>) -> Result<(), ContractError> {
    within("benchmark.prefill_over_decode_min", bounds.benchmark.prefill_over_decode_min, f64::MAX)
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
