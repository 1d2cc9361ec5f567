//! A shipped app as a list of files: an Android or iOS package (a zip), or an unpacked `.app` folder.
//!
//! **Invariant:** a package is read one way or not at all. What two installers could read differently is refused, so that
//! the files seen here are the files that a phone sees.

mod folder;
pub(crate) mod native;
mod zip;

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
};

use anyhow::{Context as _, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use flate2::read::DeflateDecoder;
use model_assets::{limits::MODEL_BYTES_MAX, provenance::Part, pte::ReadAt, regular};
use rawzip::{FileReader, ZipArchive, ZipArchiveEntryWayfinder};

/// Largest file of a package that is read.
const ITEM_BYTES_MAX: u64 = MODEL_BYTES_MAX;
/// Most bytes of all files of a package: a model, an embedded copy for every ABI ends below it.
const TOTAL_BYTES_MAX: u64 = 4 * MODEL_BYTES_MAX;
/// Most files of a folder; a zip without the 64-bit extension ends there too.
const ITEMS_MAX: usize = 65_534;
/// Longest name of a file.
const NAME_BYTES_MAX: usize = 1024;
/// Bytes of a file's start that tell what it is.
pub(crate) const HEAD_BYTES: usize = 8;

/// What lays the files out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// An Android package, installed as it is.
    Apk,
    /// An Android bundle, from which a store makes packages.
    Aab,
    /// An iOS package, unpacked when it is installed.
    Ipa,
    /// An unpacked app.
    AppFolder,
}

/// A file of a package.
#[derive(Debug)]
pub(crate) struct Item {
    /// Path inside the package, with `/` between its parts.
    pub(crate) name: String,
    /// Length, bytes, unpacked.
    pub(crate) bytes: u64,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// Bytes of the package itself.
    Stored { offset: u64 },
    /// Compressed.
    Deflated { packed_bytes: u64, entry: ZipArchiveEntryWayfinder },
    /// A file of a folder.
    Disk(Utf8PathBuf),
}

impl Item {
    /// Offset in the package, if the bytes lie there as they are.
    pub(crate) fn stored_at(&self) -> Option<u64> {
        match self.place {
            Place::Stored { offset } => Some(offset),
            _ => None,
        }
    }

    /// The last part of the name.
    pub(crate) fn file_name(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or_default()
    }
}

/// The files of an app.
#[derive(Debug)]
pub(crate) struct Package {
    kind: Kind,
    items: Vec<Item>,
    zip: Option<(File, ZipArchive<FileReader>)>,
}

impl Package {
    /// Lists a zip package; `None` when it is laid out like no app.
    ///
    /// # Errors
    /// What makes it ambiguous, hostile or unreadable.
    pub(crate) fn open_zip(file: &File) -> anyhow::Result<Option<Self>> {
        let (archive, items) = zip::list(file)?;
        check_total(&items)?;
        let kind = kind(&items);
        Ok(kind
            .map(|kind| file.try_clone().map(|file| Self { kind, items, zip: Some((file, archive)) }))
            .transpose()?)
    }

    /// Lists an unpacked app.
    ///
    /// # Errors
    /// A link, a name that is not UTF-8, or more than the limits.
    pub(crate) fn open_folder(path: &Utf8Path) -> anyhow::Result<Self> {
        let items = folder::list(path)?;
        check_total(&items)?;
        Ok(Self { kind: Kind::AppFolder, items, zip: None })
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn items(&self) -> &[Item] {
        &self.items
    }

    /// The first bytes of a file; shorter when the file is.
    ///
    /// # Errors
    /// It cannot be read or unpacked.
    pub(crate) fn head(&self, item: &Item) -> anyhow::Result<Vec<u8>> {
        let mut head = Vec::new();
        let limit = HEAD_BYTES as u64;
        match &item.place {
            Place::Deflated { entry, .. } => {
                let entry = self.archive()?.get_entry(*entry)?;
                DeflateDecoder::new(entry.reader()).take(limit).read_to_end(&mut head)
            }
            Place::Stored { .. } | Place::Disk(_) => {
                head.resize(usize::try_from(item.bytes.min(limit))?, 0);
                self.open(item)?.read_exact_at(&mut head, 0).map(|()| 0)
            }
        }
        .with_context(|| format!("{}: cannot be read", item.name))?;
        Ok(head)
    }

    /// A file's bytes; a compressed one is unpacked to a temporary file first.
    ///
    /// # Errors
    /// It cannot be read, or does not unpack to what its header says.
    pub(crate) fn open<'a>(&'a self, item: &Item) -> anyhow::Result<Box<dyn ReadAt + 'a>> {
        Ok(match &item.place {
            Place::Stored { offset } => Box::new(Part::new(self.file()?, *offset, item.bytes)),
            Place::Disk(path) => {
                let file = regular::open(path).with_context(|| format!("{path}: cannot be opened"))?;
                let bytes = file.metadata()?.len();
                ensure!(bytes == item.bytes, "{path}: got {bytes} bytes, expected {} as listed", item.bytes);
                Box::new(file)
            }
            Place::Deflated { packed_bytes, entry } => Box::new(
                self.inflate(item, *packed_bytes, *entry)
                    .with_context(|| format!("{}: cannot be unpacked", item.name))?,
            ),
        })
    }

    fn inflate(
        &self,
        item: &Item,
        packed_bytes: u64,
        entry: ZipArchiveEntryWayfinder,
    ) -> anyhow::Result<File> {
        let entry = self.archive()?.get_entry(entry)?;
        let mut source = entry.verifying_reader(DeflateDecoder::new(entry.reader())).take(item.bytes + 1);
        let mut file = tempfile::tempfile()?;
        let got = io::copy(&mut source, &mut file)?;
        ensure!(got == item.bytes, "got {got} bytes or more, expected {}", item.bytes);
        let mut decoder = source.into_inner().into_inner();
        ensure!(decoder.read(&mut [0])? == 0, "got more than {} bytes, expected no more", item.bytes);
        ensure!(
            decoder.total_in() == packed_bytes,
            "got a stream of {} bytes, expected {packed_bytes}",
            decoder.total_in()
        );
        file.flush()?;
        file.rewind()?;
        Ok(file)
    }

    fn file(&self) -> anyhow::Result<&File> {
        self.zip.as_ref().map(|(file, _)| file).context("the package is no archive")
    }

    fn archive(&self) -> anyhow::Result<&ZipArchive<FileReader>> {
        self.zip.as_ref().map(|(_, archive)| archive).context("the package is no archive")
    }
}

/// The ABI in the path of an Android native library: `lib/<abi>/x.so`, or `<module>/lib/<abi>/x.so` in a bundle.
pub(crate) fn android_abi(name: &str) -> Option<&str> {
    let parts: Vec<_> = name.split('/').collect();
    match parts.as_slice() {
        ["lib", abi, _] | [_, "lib", abi, _] => Some(*abi),
        _ => None,
    }
}

fn kind(items: &[Item]) -> Option<Kind> {
    let any = |test: &dyn Fn(&str) -> bool| items.iter().any(|item| test(&item.name));
    let bundle = |name: &str| name == "BundleConfig.pb" || name.ends_with("/manifest/AndroidManifest.xml");
    if any(&bundle) {
        Some(Kind::Aab)
    } else if any(&|name| name.starts_with("Payload/")) {
        Some(Kind::Ipa)
    } else if any(&|name| name == "AndroidManifest.xml" || name.starts_with("lib/")) {
        Some(Kind::Apk)
    } else {
        None
    }
}

fn check_total(items: &[Item]) -> anyhow::Result<()> {
    let mut total = 0_u64;
    for item in items {
        let name = &item.name;
        ensure!(
            item.bytes <= ITEM_BYTES_MAX,
            "{name}: got {} bytes, expected at most {ITEM_BYTES_MAX}",
            item.bytes
        );
        total = total.saturating_add(item.bytes);
    }
    ensure!(
        total <= TOTAL_BYTES_MAX,
        "files: got {total} bytes unpacked, expected at most {TOTAL_BYTES_MAX}"
    );
    Ok(())
}

/// A name that means the same file to every reader.
fn check_name(name: &[u8]) -> anyhow::Result<&str> {
    let escaped = name.escape_ascii();
    ensure!(
        name.len() <= NAME_BYTES_MAX,
        "{escaped}: got a name of {} bytes, expected at most {NAME_BYTES_MAX}",
        name.len()
    );
    let text =
        std::str::from_utf8(name).ok().with_context(|| format!("{escaped}: got a name that is not UTF-8"))?;
    let plain = |part: &str| !matches!(part, "" | "." | "..");
    let inside = text.strip_suffix('/').unwrap_or(text).split('/').all(plain);
    let marks = text.chars().any(|c| c.is_control() || c == '\\');
    ensure!(inside && !marks, "{escaped}: got a name that leads elsewhere, expected parts joined by `/`");
    Ok(text)
}
