//! What the layout of packed weights depends on besides the weights: the kernels that the CPU makes XNNPACK choose.

use std::fmt::Write as _;

/// Lines of `/proc/cpuinfo` that name a CPU's kind, on x86 and on ARM. Some kernels go by kind, not by feature.
/// The lists of features tell more than the compiler's own detection does, such as AMX and SME.
const KIND_LINES: [&str; 8] = [
    "vendor_id",
    "cpu family",
    "model",
    "flags",
    "CPU implementer",
    "CPU part",
    "CPU architecture",
    "Features",
];

/// Describes the CPU: the same text whenever packed weights may be shared.
pub(super) fn describe() -> String {
    let mut text = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
    for feature in features() {
        // Writing to a String cannot fail.
        let _ = write!(text, " {feature}");
    }
    let kinds = std::fs::read_to_string("/proc/cpuinfo").map(|text| kinds(&text)).unwrap_or_default();
    text + &kinds
}

/// The kinds of cores, in the order of their text, each once: a phone has several.
fn kinds(cpuinfo: &str) -> String {
    let mut kinds: Vec<_> = cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.trim(), value.trim()))
        .filter(|(key, _)| KIND_LINES.contains(key))
        .map(|(key, value)| format!("; {key} {value}"))
        .collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds.concat()
}

macro_rules! detected {
    ($detect:ident: $($feature:tt)*) => {
        [$(($feature, std::arch::$detect!($feature))),*]
            .into_iter()
            .filter_map(|(name, has)| has.then_some(name))
            .collect()
    };
}

#[cfg(target_arch = "x86_64")]
fn features() -> Vec<&'static str> {
    detected!(is_x86_feature_detected:
        "ssse3" "sse4.1" "avx" "avx2" "fma" "f16c" "avx512f" "avx512bw" "avx512dq" "avx512vl" "avx512vbmi"
        "avx512vnni" "avx512bf16" "avx512fp16" "gfni" "avxvnni" "avxvnniint8")
}

#[cfg(target_arch = "aarch64")]
fn features() -> Vec<&'static str> {
    detected!(is_aarch64_feature_detected: "fp16" "dotprod" "i8mm" "bf16" "sve" "sve2")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn features() -> Vec<&'static str> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_describes_itself_the_same_way_twice() {
        assert_eq!(describe(), describe());
        assert!(describe().starts_with(std::env::consts::ARCH));
    }

    #[test]
    fn kinds_of_cores_count_and_clock_rates_do_not() {
        let phone = "processor : 0\nCPU implementer : 0x41\nCPU part : 0xd05\nBogoMIPS : 38.4\n\
                     processor : 1\nCPU implementer : 0x41\nCPU part : 0xd0a\nBogoMIPS : 40\n";
        assert_eq!(kinds(phone), "; CPU implementer 0x41; CPU part 0xd05; CPU part 0xd0a");
        assert_eq!(kinds("model\t\t: 143\ncpu MHz : 2000\nmodel name : x\n"), "; model 143");
    }
}
