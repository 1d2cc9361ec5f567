//! The promised size and digests of a file, and the check of its bytes.

use std::{fs, io::Read as _};

use model_assets::{digest::Digest, manifest::FileRecord};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::fault::Fault;

/// A file that is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) name: String,
    pub(crate) size: Size,
    pub(crate) listed: Listed,
    pub(crate) pin: Option<Pin>,
}

/// What is known of a file's size before it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    Exactly(u64),
    AtMost(u64),
}

impl Size {
    pub(crate) fn max(self) -> u64 {
        match self {
            Self::Exactly(bytes) | Self::AtMost(bytes) => bytes,
        }
    }

    pub(super) fn fits(self, bytes: u64) -> bool {
        match self {
            Self::Exactly(exactly) => bytes == exactly,
            Self::AtMost(most) => bytes <= most,
        }
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exactly(bytes) => write!(f, "{bytes}"),
            Self::AtMost(bytes) => write!(f, "at most {bytes}"),
        }
    }
}

/// What a file's bytes must hash to, by the word of the hub's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listed {
    /// Of a file in large-file storage.
    Sha256(Digest),
    /// SHA-1 of git's blob object, of any other file.
    GitBlob([u8; 20]),
    /// No list names it: what is in it proves itself.
    Nothing,
}

/// The digest that a person or a recipe demands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pin {
    pub(crate) sha256: Digest,
    /// Whose digest it is, for messages.
    pub(crate) whose: &'static str,
}

impl Wanted {
    /// Whether the bytes of a file say that it is this one.
    pub(super) fn has_digest(&self) -> bool {
        self.listed != Listed::Nothing || self.pin.is_some()
    }
}

/// Both digests of what went by.
pub(super) struct Sums {
    sha256: Sha256,
    blob: Option<Sha1>,
    bytes: u64,
}

impl Sums {
    pub(super) fn new(wanted: &Wanted) -> Self {
        let blob = matches!(wanted.listed, Listed::GitBlob(_)).then(|| {
            let mut sha1 = Sha1::new();
            // A list that names blobs names sizes as well.
            sha1.update(format!("blob {}\0", wanted.size.max()));
            sha1
        });
        Self { sha256: Sha256::new(), blob, bytes: 0 }
    }

    pub(super) fn update(&mut self, part: &[u8]) {
        self.sha256.update(part);
        if let Some(blob) = &mut self.blob {
            blob.update(part);
        }
        self.bytes += part.len() as u64;
    }

    /// Takes in the first `count` bytes of a file and leaves it there.
    pub(super) fn absorb(&mut self, file: &mut fs::File, count: u64) -> Result<(), Fault> {
        let mut buffer = vec![0; 1 << 20];
        let mut reader = file.take(count);
        loop {
            match reader.read(&mut buffer)? {
                0 => return Ok(()),
                read => self.update(buffer.get(..read).unwrap_or_default()),
            }
            if crate::supervise::interrupted() {
                return Err(Fault::Interrupted);
            }
        }
    }

    pub(super) fn finish(self, wanted: &Wanted) -> anyhow::Result<FileRecord> {
        let sha256 = Digest::from_bytes(self.sha256.finalize().into());
        anyhow::ensure!(wanted.size.fits(self.bytes), "got {} bytes, expected {}", self.bytes, wanted.size);
        match wanted.listed {
            Listed::Sha256(hub) => {
                anyhow::ensure!(sha256 == hub, "got sha256 {sha256}, expected the hub's {hub}")
            }
            Listed::GitBlob(hub) => {
                let got: Option<[u8; 20]> = self.blob.map(|blob| blob.finalize().into());
                anyhow::ensure!(got == Some(hub), "got another git blob than the hub's list names");
            }
            Listed::Nothing => {}
        }
        if let Some(Pin { sha256: pin, whose }) = wanted.pin {
            anyhow::ensure!(sha256 == pin, "got sha256 {sha256}, expected {whose} {pin}");
        }
        Ok(FileRecord { name: wanted.name.clone(), bytes: self.bytes, sha256 })
    }
}
