//! What a container's limit on memory leaves. The kernel's documents call it `memory.max` (cgroup-v2) and
//! `memory.limit_in_bytes` (cgroup-v1); `/proc/meminfo` knows neither.
//!
//! **Invariant:** every group above this process counts: the least that one of them leaves is what there is.

use std::fs;

use camino::Utf8Path;

/// The names of one version's files.
struct Files {
    limit: &'static str,
    used: &'static str,
    /// Key in `memory.stat` of file pages that can be taken back at once.
    reclaimable: &'static str,
}

const V1: Files = Files {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    reclaimable: "total_inactive_file ",
};
const V2: Files = Files { limit: "memory.max", used: "memory.current", reclaimable: "inactive_file " };

/// What the groups of this process leave, bytes; `None` where none has a limit.
pub(super) fn free_bytes() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    least(&own, Utf8Path::new("/sys/fs/cgroup"))
}

/// `own` is `/proc/self/cgroup`, a hierarchy a line: `ID:CONTROLLERS:PATH`.
fn least(own: &str, mounted: &Utf8Path) -> Option<u64> {
    let groups = own.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        if controllers.is_empty() {
            // Beside version 1 it is mounted apart.
            let unified = mounted.join("unified");
            let root = if unified.is_dir() { unified } else { mounted.to_owned() };
            return Some((root, path, V2));
        }
        let memory = controllers.split(',').any(|name| name == "memory");
        memory.then(|| (mounted.join("memory"), path, V1))
    });
    groups.filter_map(|(root, path, files)| of_group(&root, path, &files)).min()
}

/// The least that a group or one above it leaves. In a container the path may be the host's: what is not there is passed over,
/// and the root of the mount is the container's own.
fn of_group(root: &Utf8Path, path: &str, files: &Files) -> Option<u64> {
    let place = root.join(path.trim_start_matches('/'));
    let above = place.ancestors().take_while(|group| group.starts_with(root));
    above.filter_map(|group| left(group, files)).min()
}

fn left(group: &Utf8Path, files: &Files) -> Option<u64> {
    let number = |name: &str| fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
    // `max` is no number; version 1 writes a limit near 2^63 instead.
    let limit = number(files.limit).filter(|limit| *limit < 1 << 60)?;
    let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let reclaimable = stat.lines().find_map(|line| line.strip_prefix(files.reclaimable)?.trim().parse().ok());
    let used = number(files.used)?.saturating_sub(reclaimable.unwrap_or(0));
    Some(limit.saturating_sub(used))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Utf8Path, files: &[(&str, &str)]) {
        fs::create_dir_all(folder).unwrap();
        for (name, text) in files {
            fs::write(folder.join(name), text).unwrap();
        }
    }

    #[test]
    fn the_least_that_a_group_above_leaves_counts() {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(folder.path()).unwrap();
        write(
            &root.join("a"),
            &[
                ("memory.max", "1000\n"),
                ("memory.current", "700\n"),
                ("memory.stat", "anon 1\ninactive_file 100\n"),
            ],
        );
        write(&root.join("a/b"), &[("memory.max", "max\n"), ("memory.current", "500\n")]);
        write(&root.join("a/b/c"), &[("memory.max", "600\n"), ("memory.current", "500\n")]);
        assert_eq!(least("0::/a\n", root), Some(400));
        assert_eq!(least("0::/a/b\n", root), Some(400));
        assert_eq!(least("0::/a/b/c\n", root), Some(100));
        assert_eq!(least("0::/\n", root), None);
        assert_eq!(least("0::/gone/away\n", root), None);
        // A container sees its own group as the root, but the file may name the host's path.
        write(root, &[("memory.max", "90"), ("memory.current", "60")]);
        assert_eq!(least("0::/docker/0123\n", root), Some(30));
    }

    #[test]
    fn both_versions_are_read_and_the_smaller_counts() {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(folder.path()).unwrap();
        let (one, two) = (root.join("memory/x"), root.join("unified/y"));
        write(
            &one,
            &[
                ("memory.limit_in_bytes", "350000000"),
                ("memory.usage_in_bytes", "50000000"),
                ("memory.stat", "inactive_file 1\ntotal_inactive_file 20000000\n"),
            ],
        );
        write(&two, &[("memory.max", "400000000"), ("memory.current", "0")]);
        write(
            &root.join("memory"),
            &[("memory.limit_in_bytes", "9223372036854771712"), ("memory.usage_in_bytes", "1")],
        );
        let own = "12:cpu,cpuacct:/z\n4:hugetlb,memory:/x\n0::/y\n";
        assert_eq!(least(own, root), Some(320_000_000));
        write(&two, &[("memory.max", "3")]);
        assert_eq!(least(own, root), Some(3));
        assert_eq!(least("4:memory:/none\n", root), None);
    }
}
