//! The files of the cache: their names, what must be true of them, and how they come to be.
//!
//! Three files a key: `packed-<key>.bin`, the runtime's; `.json`, its digest and what it was made of, written last, so
//! that a packed file without it does not count; `.stamp`, what the file looked like when its whole digest was last
//! checked. The key is the digest of everything the packed bytes depend on, so another model, runtime or CPU has
//! other names. The digest is checked in full once per install and once per boot; between, the stamp speaks, where it is
//! worth something ([`crate::stamp`]).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;

use camino::{Utf8Path, Utf8PathBuf};
use model_assets::digest::Digest;
use model_assets::regular;
use serde::{Deserialize, Serialize};

use super::{PackedCache, cpu, lock};
use crate::runtime;
use crate::stamp::{Hashing, Stamp};

/// Version of these rules and files.
const SCHEMA: u32 = 1;
/// Largest sidecar that is read.
const SIDECAR_BYTES_MAX: u64 = 16 * 1024;
/// Largest record of a stamp that is read.
const STAMP_BYTES_MAX: u64 = 1024;
const COPY_BYTES: usize = 1 << 20;
/// How the name of a file ends that is not whole yet.
const TEMPORARY: &str = ".new";

/// Everything that the packed bytes depend on, and their digest.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sidecar {
    schema: u32,
    model_sha256: Digest,
    runtime: String,
    cpu: String,
    packed_bytes: u64,
    packed_sha256: Digest,
}

/// Where the files of one key lie.
#[derive(Debug)]
pub(super) struct Place {
    dir: Utf8PathBuf,
    model: Digest,
    cpu: String,
    stem: String,
}

impl Place {
    pub(super) fn new(cache: &PackedCache) -> Self {
        let cpu = cpu::describe();
        let key = Digest::of(format!("{SCHEMA}\n{}\n{}\n{cpu}", cache.model, runtime::VERSION).as_bytes());
        let stem = format!("packed-{}", key.to_string().get(..16).unwrap_or_default());
        Self { dir: cache.dir.clone(), model: cache.model, cpu, stem }
    }

    pub(super) fn packed(&self) -> Utf8PathBuf {
        self.dir.join(format!("{}.bin", self.stem))
    }

    fn sidecar(&self) -> Utf8PathBuf {
        self.dir.join(format!("{}.json", self.stem))
    }

    fn stamp(&self) -> Utf8PathBuf {
        self.dir.join(format!("{}.stamp", self.stem))
    }

    /// The packed file, proved and held under a shared lock, and whether its stamp sufficed. `None` when there is none;
    /// an error says what is wrong with the one that is there.
    pub(super) fn find(&self) -> Result<Option<(File, bool)>, String> {
        let Some(sidecar) = self.read_sidecar()? else { return Ok(None) };
        let path = self.packed();
        let wrong = |what: &str, got: &dyn ToString, expected: &dyn ToString| {
            format!("{path}: got {what} {}, expected {}", got.to_string(), expected.to_string())
        };
        let io = |error: io::Error| format!("{path}: {error}");
        let file = match regular::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
        };
        // Only a writer would prevent it, and the file is read-only.
        lock::try_shared(&file).map_err(io)?;
        let bytes = file.metadata().map_err(io)?.len();
        if bytes != sidecar.packed_bytes {
            return Err(wrong("size", &bytes, &sidecar.packed_bytes));
        }
        let expected = record(&sidecar.packed_sha256, &Stamp::of(&file).map_err(io)?);
        let recorded = || regular::read(self.stamp(), STAMP_BYTES_MAX);
        if expected.is_some_and(|text| recorded().is_ok_and(|recorded| recorded == text.as_bytes())) {
            return Ok(Some((file, true)));
        }
        let hashing = Hashing::begin(&file).map_err(io)?;
        let digest = Digest::of_reader(&mut &file).map_err(io)?;
        if digest != sidecar.packed_sha256 {
            return Err(wrong("sha256", &digest, &sidecar.packed_sha256));
        }
        let stamp = hashing.end().map_err(io)?;
        if let Some(text) = stamp.and_then(|stamp| record(&digest, &stamp)) {
            // Not being able to remember costs a hash at the next start, nothing else.
            let _ = self.replace(&self.stamp(), text.as_bytes());
        }
        Ok(Some((file, false)))
    }

    /// `None` when there is none; one that does not fit the key it is named for is wrong.
    fn read_sidecar(&self) -> Result<Option<Sidecar>, String> {
        let path = self.sidecar();
        let text = match regular::read(&path, SIDECAR_BYTES_MAX) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{path}: {error}")),
        };
        let sidecar: Sidecar = serde_json::from_slice(&text).map_err(|error| format!("{path}: {error}"))?;
        let expected = self.describe(sidecar.packed_bytes, sidecar.packed_sha256);
        if sidecar == expected {
            Ok(Some(sidecar))
        } else {
            Err(format!("{path}: got {sidecar:?}, expected {expected:?}"))
        }
    }

    fn describe(&self, packed_bytes: u64, packed_sha256: Digest) -> Sidecar {
        Sidecar {
            schema: SCHEMA,
            model_sha256: self.model,
            runtime: runtime::VERSION.to_owned(),
            cpu: self.cpu.clone(),
            packed_bytes,
            packed_sha256,
        }
    }

    /// Waits until this process is the only one that makes this file. The lock ends with its holder, however it ends.
    pub(super) fn lock(&self) -> Result<File, String> {
        let path = self.dir.join(format!("{}.lock", self.stem));
        fs::create_dir_all(&self.dir)
            .and_then(|()| OpenOptions::new().create(true).truncate(false).write(true).open(&path))
            .and_then(|file| lock::exclusive(&file).map(|()| file))
            .map_err(|error| format!("{path}: {error}"))
    }

    /// A file for the runtime to pack into, which it opens once more for every delegate. In memory where the system can do
    /// that: the runtime writes through a mapping, and a disk that fills up under a mapping kills the process.
    pub(super) fn scratch(&self) -> Result<File, String> {
        let file = self.nameless()?;
        let path = by_descriptor(&file);
        // Where that is forbidden, every delegate would be packed on the heap, at every attempt.
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|error| format!("{path}: cannot be opened again: {error}"))?;
        Ok(file)
    }

    #[cfg(target_os = "linux")]
    fn nameless(&self) -> Result<File, String> {
        use rustix::fs::{MemfdFlags, memfd_create};
        memfd_create("packed-weights", MemfdFlags::CLOEXEC).map(File::from).map_err(|error| error.to_string())
    }

    /// Apple's systems have no file in memory alone, and Android's policy lets an app use one but not open it a second time
    /// (`appdomain_tmpfs` in `te_macros`: no `open`).
    #[cfg(not(target_os = "linux"))]
    fn nameless(&self) -> Result<File, String> {
        unnamed(&temporary(&self.dir.join(&self.stem)))
    }

    /// Whether the disk has room for packed weights of a model of this size, and for packing them where that is on the disk.
    pub(super) fn has_room(&self, model_bytes: usize) -> Result<(), String> {
        let copies = if cfg!(target_os = "linux") { 1 } else { 2 };
        has_room(&self.dir, (model_bytes as u64).saturating_mul(copies))
    }

    /// Copies what was packed to its place: hashed on the way, read-only, synced, renamed, and its sidecar last.
    pub(super) fn keep(&self, scratch: &mut File) -> Result<(), String> {
        let path = self.packed();
        let temporary = temporary(&path);
        let kept = copy(scratch, &temporary).and_then(|(bytes, digest)| {
            // An old sidecar must not vouch for new bytes, nor the other way round.
            remove(&self.sidecar())?;
            remove(&self.stamp())?;
            fs::rename(&temporary, &path)?;
            let mut text = serde_json::to_vec_pretty(&self.describe(bytes, digest))?;
            text.push(b'\n');
            self.replace(&self.sidecar(), &text)
        });
        kept.map_err(|error| {
            // The error to report is the first one.
            let _ = fs::remove_file(&temporary);
            format!("{path}: {error}")
        })
    }

    /// Removes what killed processes left of this key: up to the size of the model each time. The caller has the lock,
    /// so nobody is writing a packed file or a sidecar; a stamp that is lost as it is written costs a hash.
    pub(super) fn remove_leftovers(&self) {
        self.remove_names(|name| {
            name.strip_prefix(&self.stem)
                .is_some_and(|rest| rest.starts_with('.') && rest.ends_with(TEMPORARY))
        });
    }

    /// Removes all files of other keys, also what killed processes left. A file that is in use lives on unseen.
    pub(super) fn remove_others(&self) {
        self.remove_names(|name| name.starts_with("packed-") && !name.starts_with(&self.stem));
    }

    /// Only room is at stake: what cannot be removed stays.
    fn remove_names(&self, unwanted: impl Fn(&str) -> bool) {
        let Ok(entries) = self.dir.read_dir_utf8() else { return };
        for entry in entries.flatten().filter(|entry| unwanted(entry.file_name())) {
            let _ = fs::remove_file(entry.path());
        }
    }

    /// Writes a small file whole or not at all.
    fn replace(&self, path: &Utf8Path, content: &[u8]) -> io::Result<()> {
        let temporary = temporary(path);
        let written = File::create(&temporary)
            .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&temporary, path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written?;
        File::open(&self.dir)?.sync_all()
    }
}

/// A file that ends with its last descriptor or mapping; it has its name for a moment only.
pub(super) fn unnamed(path: &Utf8Path) -> Result<File, String> {
    let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(path);
    file.and_then(|file| fs::remove_file(path).map(|()| file)).map_err(|error| format!("{path}: {error}"))
}

/// Whether a disk has this much room.
pub(super) fn has_room(dir: &Utf8Path, expected: u64) -> Result<(), String> {
    match rustix::fs::statvfs(dir.as_std_path()) {
        Ok(disk) if disk.f_bavail.saturating_mul(disk.f_frsize) < expected => {
            let got = disk.f_bavail.saturating_mul(disk.f_frsize);
            Err(format!("{dir}: got {got} bytes free, expected {expected}"))
        }
        // What cannot be asked is found out by writing.
        _ => Ok(()),
    }
}

/// A name beside `path` that no other thread uses: one maker at a time holds the lock, but stamps are written without it.
pub(super) fn temporary(path: &Utf8Path) -> Utf8PathBuf {
    let thread = format!("{:?}", std::thread::current().id());
    let thread: String = thread.chars().filter(char::is_ascii_digit).collect();
    Utf8PathBuf::from(format!("{path}.{}-{thread}{TEMPORARY}", std::process::id()))
}

/// A name for an open file that ends with its descriptor.
pub(super) fn by_descriptor(file: &File) -> String {
    format!("/dev/fd/{}", file.as_raw_fd())
}

fn remove(path: &Utf8Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Copies all of `from` to a new read-only file; returns its size and digest.
fn copy(from: &mut File, path: &Utf8Path) -> io::Result<(u64, Digest)> {
    remove(path)?;
    let mut to = OpenOptions::new().create_new(true).write(true).open(path)?;
    from.rewind()?;
    let mut reader = Tee { from, to: &mut to, bytes: 0 };
    let digest = Digest::of_reader(&mut reader)?;
    let bytes = reader.bytes;
    to.set_permissions(fs::Permissions::from_mode(0o444))?;
    to.sync_all()?;
    Ok((bytes, digest))
}

/// Writes what is read from it.
struct Tee<'a> {
    from: &'a mut File,
    to: &'a mut File,
    bytes: u64,
}

impl io::Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(COPY_BYTES);
        let read = self.from.read(buffer.get_mut(..most).unwrap_or_default())?;
        self.to.write_all(buffer.get(..read).unwrap_or_default())?;
        self.bytes += read as u64;
        Ok(read)
    }
}

/// What must not have changed since the file was hashed. The boot counts, unless the kernel answers for the bytes: what lay
/// on a disk meanwhile is read again.
fn record(digest: &Digest, stamp: &Stamp) -> Option<String> {
    let text = stamp.text()?;
    let boot = match stamp.is_sealed() {
        true => String::new(),
        false => fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default(),
    };
    Some(format!("{digest} {text} {}\n", boot.trim()))
}
