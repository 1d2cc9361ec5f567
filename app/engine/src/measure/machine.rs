//! The machine under a benchmark: what it is, its page cache, its energy counter.

use std::fs;

use camino::Utf8Path;
use model_assets::evidence::Machine;

/// Where Linux shows the processor's energy counters (RAPL).
const POWERCAP: &str = "/sys/class/powercap";

/// What the machine is.
pub fn describe() -> Machine {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    let cpu = read("/proc/cpuinfo");
    let kibibytes = field(&read("/proc/meminfo"), "MemTotal");
    let kibibytes = kibibytes.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
    let release = read("/proc/sys/kernel/osrelease");
    Machine {
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

/// Asks the system to drop a file's pages from the page cache; says whether it took the advice.
pub fn drop_pages(path: &Utf8Path) -> bool {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let Ok(file) = fs::File::open(path) else { return false };
        // Only clean pages can be dropped.
        let clean = file.sync_all().is_ok();
        clean && rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).is_ok()
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        let _ = path;
        false
    }
}

/// A processor's energy counter.
#[derive(Debug)]
pub struct Counter {
    /// Its name, such as `package-0`.
    pub name: String,
    folder: std::path::PathBuf,
    range: u64,
}

impl Counter {
    /// The first package's counter, where the platform has one that this process may read.
    pub fn find() -> Option<Self> {
        let mut folders: Vec<_> = fs::read_dir(POWERCAP).ok()?.flatten().map(|entry| entry.path()).collect();
        folders.sort();
        folders.into_iter().find_map(|folder| {
            let name = fs::read_to_string(folder.join("name")).ok()?.trim().to_owned();
            let range = fs::read_to_string(folder.join("max_energy_range_uj")).ok()?.trim().parse().ok()?;
            let counter = Self { name, folder, range };
            (counter.name.starts_with("package") && counter.microjoules().is_some()).then_some(counter)
        })
    }

    /// Its reading.
    pub fn microjoules(&self) -> Option<u64> {
        fs::read_to_string(self.folder.join("energy_uj")).ok()?.trim().parse().ok()
    }

    /// Joules between two readings; the counter wraps at its range.
    pub fn joules(&self, before: u64, after: u64) -> f64 {
        let spent = if after >= before { after - before } else { after + self.range.saturating_sub(before) };
        spent as f64 / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_wrapped_still_counts_up() {
        let counter = Counter { name: "package-0".into(), folder: "/nowhere".into(), range: 1_000_000 };
        assert!((counter.joules(200_000, 700_000) - 0.5).abs() < 1e-12);
        assert!((counter.joules(900_000, 100_000) - 0.2).abs() < 1e-12);
        assert_eq!(counter.microjoules(), None);
    }

    #[test]
    fn the_machine_has_a_name() {
        let machine = describe();
        assert!(machine.processors > 0 && !machine.system.is_empty() && !machine.processor.is_empty());
    }
}
