//! The machine under a benchmark: its page cache, its energy counter. What it is: [`Machine::here`].
//!
//! [`Machine::here`]: model_assets::evidence::Machine::here

use std::fs;

use camino::Utf8Path;

/// Where Linux shows the processor's energy counters (RAPL).
const POWERCAP: &str = "/sys/class/powercap";

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
}
