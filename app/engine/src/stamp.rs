//! File stamps: what the system reports about a file without reading it, and when that can be trusted.
//!
//! A file that was hashed once need not be hashed again where the system shows every change of its bytes otherwise:
//!
//! | where the file is | what its stamp is | what shows |
//! |---|---|---|
//! | fs-verity protects it | the digest that the kernel checks each page against | any other bytes |
//! | a file system in [`KEEPS_TIMES`] | size, inode, times of the last change | any write through this system since the hash |
//! | anywhere else | nothing | nothing: it is hashed at every start |
//!
//! Times alone are not enough: a process that has a page of the file mapped and dirtied *before* the hash goes on writing
//! to it without a new time. So [`Hashing`] syncs the file first. Then the page is clean and write-protected, and the next
//! write to it gives the file a new time.
//!
//! What times never show: a clock that was set back, and whoever writes to the disk below the file system. Both take
//! rights that an app's user has not.
//!
//! **Invariant:** a text that [`Hashing::end`] returns is of a file that was not written to since [`Hashing::begin`].

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, SystemTime};

/// How long a file must have been left alone before its times are believed: a change within one tick of the file
/// system's clock would not show.
const SETTLED: Duration = Duration::from_millis(20);
/// The same where the file system seems to count whole seconds.
const SETTLED_SECONDS: Duration = Duration::from_secs(2);

/// Magic numbers of local file systems (`linux/magic.h`) that give a new time to every first write to a clean page and
/// write pages back: ext2 to ext4, XFS, Btrfs, F2FS. Not tmpfs, which never cleans a page; not overlay, FUSE and network
/// file systems, which do not know what is written below them or elsewhere. What is not known is not believed.
#[cfg(any(target_os = "linux", target_os = "android"))]
const KEEPS_TIMES: [u32; 4] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010];
/// The same, by name (`statfs(2)` of Apple's systems). Not tried there.
#[cfg(target_vendor = "apple")]
const KEEPS_TIMES: [&str; 2] = ["apfs", "hfs"];

/// What an open file was like at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    size_and_times: String,
    worth: Worth,
}

/// Why a stamp says something of a file's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Worth {
    /// The kernel compares every page with this digest as it is read.
    Verity(String),
    /// A write changes the times.
    Times,
    Nothing,
}

impl Stamp {
    /// Looks at an open file.
    ///
    /// # Errors
    /// The system's error.
    pub fn of(file: &File) -> io::Result<Self> {
        let data = file.metadata()?;
        let worth = match verity(file) {
            Some(digest) => Worth::Verity(digest),
            None if keeps_times(file) => Worth::Times,
            None => Worth::Nothing,
        };
        Ok(Self { size_and_times: size_and_times(&data), worth })
    }

    /// The text that is recorded once the file was hashed, and compared afterwards: nothing where that would not be worth
    /// anything.
    pub fn text(&self) -> Option<String> {
        match &self.worth {
            Worth::Verity(digest) => Some(format!("verity {digest}")),
            Worth::Times => Some(self.size_and_times.clone()),
            Worth::Nothing => None,
        }
    }

    /// Whether the kernel answers for the bytes, also after the disk was changed below it.
    pub fn is_sealed(&self) -> bool {
        matches!(self.worth, Worth::Verity(_))
    }
}

/// A file that is being hashed in full.
#[derive(Debug)]
pub struct Hashing<'a> {
    file: &'a File,
    before: Stamp,
    /// Whether a later write gets a later time.
    shows_writes: bool,
}

impl<'a> Hashing<'a> {
    /// Before the first byte is read: waits some milliseconds if the file was just written, and writes back what is dirty.
    ///
    /// # Errors
    /// The system's error.
    pub fn begin(file: &'a File) -> io::Result<Self> {
        let before = Stamp::of(file)?;
        let settled = before.worth != Worth::Times || settle(&file.metadata()?);
        // In this order: a page that is dirtied between the stamp and the sync changes the times.
        let shows_writes = settled && file.sync_data().is_ok();
        Ok(Self { file, before, shows_writes })
    }

    /// After the last byte was read: the stamp of the bytes that were hashed, if it has any worth.
    ///
    /// # Errors
    /// The file changed meanwhile, or the system's error.
    pub fn end(self) -> io::Result<Option<Stamp>> {
        let now = Stamp::of(self.file)?;
        if now != self.before {
            return Err(io::Error::other("got a file that changes, expected one that nobody writes to"));
        }
        Ok(Some(now).filter(|stamp| stamp.worth != Worth::Nothing && self.shows_writes))
    }
}

fn size_and_times(data: &Metadata) -> String {
    let (device, inode, bytes) = (data.dev(), data.ino(), data.len());
    let (modified, changed) = ((data.mtime(), data.mtime_nsec()), (data.ctime(), data.ctime_nsec()));
    format!("{bytes} {device}:{inode} {}.{:09} {}.{:09}", modified.0, modified.1, changed.0, changed.1)
}

/// Waits until a write would get another time than the last one had; whether it would.
fn settle(data: &Metadata) -> bool {
    let (Ok(seconds), Ok(nanoseconds)) = (u64::try_from(data.ctime()), u32::try_from(data.ctime_nsec()))
    else {
        return false;
    };
    let rest = to_wait(Duration::new(seconds, nanoseconds), SystemTime::now());
    rest.inspect(|rest| std::thread::sleep(*rest)).is_some()
}

/// How long to wait after a change at this time since the epoch; nothing where that is too long for a start, or where the
/// change is yet to come: somebody set the clock back.
fn to_wait(changed: Duration, now: SystemTime) -> Option<Duration> {
    let needed = if changed.subsec_nanos() == 0 { SETTLED_SECONDS } else { SETTLED };
    let since = now.duration_since(SystemTime::UNIX_EPOCH + changed).ok()?;
    Some(needed.saturating_sub(since)).filter(|rest| *rest <= SETTLED)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn keeps_times(file: &File) -> bool {
    // The field is of another type on every architecture; the numbers have 32 bits.
    rustix::fs::fstatfs(file).is_ok_and(|data| KEEPS_TIMES.contains(&(data.f_type as u32)))
}

#[cfg(target_vendor = "apple")]
fn keeps_times(file: &File) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|data| {
        let name: Vec<u8> = data.f_fstypename.iter().map(|&c| c as u8).take_while(|&c| c != 0).collect();
        KEEPS_TIMES.iter().any(|known| known.as_bytes() == name)
    })
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn keeps_times(_: &File) -> bool {
    false
}

/// The digest of a file that fs-verity protects (`Documentation/filesystems/fsverity.rst`): of its size and of the tree of
/// hashes over its pages, which the kernel compares with each page that it reads. Nobody can write to such a file.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn verity(file: &File) -> Option<String> {
    use std::os::fd::AsRawFd as _;
    /// `_IOWR('f', 134, struct fsverity_digest)`, whose size is that of its two numbers.
    const FS_IOC_MEASURE_VERITY: u32 = 0xc004_6686;
    let mut answer =
        VerityDigest { algorithm: 0, size: DIGEST_BYTES_MAX as u16, bytes: [0; DIGEST_BYTES_MAX] };
    // SAFETY: the descriptor is open, and the kernel writes at most `size` bytes behind the two numbers.
    let failed =
        unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_MEASURE_VERITY as libc::Ioctl, &raw mut answer) };
    if failed == 0 { answer.text() } else { None }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn verity(_: &File) -> Option<String> {
    None
}

/// The longest digest of the kernel's algorithms.
const DIGEST_BYTES_MAX: usize = 64;

/// `struct fsverity_digest`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct VerityDigest {
    algorithm: u16,
    size: u16,
    bytes: [u8; DIGEST_BYTES_MAX],
}

impl VerityDigest {
    /// Nothing of an algorithm that is not known.
    fn text(&self) -> Option<String> {
        let name = match (self.algorithm, self.size) {
            (1, 32) => "sha256",
            (2, 64) => "sha512",
            _ => return None,
        };
        let digits = self.bytes.get(..usize::from(self.size))?.iter().map(|byte| format!("{byte:02x}"));
        Some(format!("{name}:{}", digits.collect::<String>()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::unix::fs::FileExt as _;

    fn file() -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, vec![1; 10_000]).unwrap();
        (folder, path)
    }

    /// The recorded text; nothing where the test's own folder is on a file system that is not believed.
    fn hashed(file: &File) -> Option<String> {
        Hashing::begin(file).unwrap().end().unwrap().and_then(|stamp| stamp.text())
    }

    #[test]
    fn a_file_that_was_hashed_is_known_until_it_is_written_to_by_whatever_name() {
        let (folder, path) = file();
        let open = File::open(&path).unwrap();
        let Some(recorded) = hashed(&open) else { return assert!(!keeps_times(&open)) };
        assert_eq!(Stamp::of(&open).unwrap().text().as_ref(), Some(&recorded));
        let link = folder.path().join("link");
        std::fs::hard_link(&path, &link).unwrap();
        let recorded = hashed(&open).unwrap();
        File::options().write(true).open(&link).unwrap().write_all_at(b"x", 5).unwrap();
        assert_ne!(Stamp::of(&open).unwrap().text(), Some(recorded));
    }

    #[test]
    fn a_page_that_was_dirty_before_the_hash_gives_a_new_time_when_it_is_written_to_after_it() {
        let (_folder, path) = file();
        let open = File::options().read(true).write(true).open(&path).unwrap();
        // SAFETY: nobody else has this file.
        let mut map = unsafe { memmap2::MmapMut::map_mut(&open) }.unwrap();
        map[0] = 2;
        let Some(recorded) = hashed(&open) else { return assert!(!keeps_times(&open)) };
        map[0] = 3;
        assert_ne!(Stamp::of(&open).unwrap().text(), Some(recorded));
    }

    #[test]
    fn a_file_that_is_written_to_while_it_is_hashed_has_no_stamp() {
        let (_folder, path) = file();
        let mut open = File::options().read(true).write(true).open(&path).unwrap();
        let hashing = Hashing::begin(&open).unwrap();
        (&open).write_all(b"x").unwrap();
        let error = hashing.end().unwrap_err().to_string();
        assert_eq!(error, "got a file that changes, expected one that nobody writes to");
        open.flush().unwrap();
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_is_in_memory_alone_is_hashed_at_every_start() {
        let file = rustix::fs::memfd_create("file", rustix::fs::MemfdFlags::CLOEXEC).map(File::from).unwrap();
        file.write_all_at(b"bytes", 0).unwrap();
        assert_eq!((hashed(&file), Stamp::of(&file).unwrap().text()), (None, None));
    }

    #[test]
    fn a_file_that_was_just_written_is_waited_for_and_one_of_the_future_is_not_believed() {
        let ms = Duration::from_millis;
        let now = SystemTime::UNIX_EPOCH + ms(1_000_000_500);
        let after = |since: u64| to_wait(ms(1_000_000_500 - since), now);
        assert_eq!([after(1), after(19), after(20), after(400)], [ms(19), ms(1), ms(0), ms(0)].map(Some));
        // A file system that counts seconds.
        assert_eq!((after(500), after(1500), after(2500)), (None, None, Some(ms(0))));
        assert_eq!(to_wait(ms(1_000_000_501), now), None);
    }

    #[test]
    fn only_known_digests_of_the_kernel_are_taken() {
        let digest =
            |algorithm, size| VerityDigest { algorithm, size, bytes: [0xab; DIGEST_BYTES_MAX] }.text();
        assert_eq!(digest(1, 32), Some(format!("sha256:{}", "ab".repeat(32))));
        assert_eq!(digest(2, 64), Some(format!("sha512:{}", "ab".repeat(64))));
        assert_eq!([digest(1, 64), digest(2, 32), digest(3, 32), digest(1, 65)], [None, None, None, None]);
        let sealed = |bytes: u8| Stamp {
            size_and_times: "1 2:3 4.5 6.7".to_owned(),
            worth: Worth::Verity(format!("sha256:{bytes}")),
        };
        // Times do not matter: the digest does.
        let moved = Stamp { size_and_times: "other".to_owned(), ..sealed(1) };
        assert!(
            sealed(1).is_sealed() && sealed(1).text() == moved.text() && sealed(1).text() != sealed(2).text()
        );
    }
}
