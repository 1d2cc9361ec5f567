//! Bundles: what is written is read back, twice the same, and nothing else is.
#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

use std::io::{self, Read, Write};

use flate2::{Compression, GzBuilder};
use model_assets::bundle::{self, BundleError, Entry, Writer};
use proptest::prelude::*;

const FILES: [(&str, &[u8]); 3] =
    [("manifest.json", b"{}"), ("a.pte", &[7; 1000]), ("recipe.toml", b"name = 1")];

fn write(files: &[(&str, &[u8])]) -> Result<Vec<u8>, BundleError> {
    let mut writer = Writer::new(Vec::new());
    for (name, bytes) in files {
        writer.entry(name, bytes.len() as u64, &mut &bytes[..])?;
    }
    writer.finish()
}

/// The archive inside, uncompressed.
fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    io::copy(&mut flate2::read::GzDecoder::new(&write(files).unwrap()[..]), &mut bytes).unwrap();
    bytes
}

fn gzip(tar: &[u8]) -> Vec<u8> {
    let mut gzip = GzBuilder::new().operating_system(0xff).write(Vec::new(), Compression::fast());
    gzip.write_all(tar).unwrap();
    gzip.finish().unwrap()
}

/// An archive of zeros that is never held in memory.
struct Sparse(Box<dyn Read>);

impl Sparse {
    fn new(files: &[(&str, u64)]) -> Self {
        let mut all: Box<dyn Read> = Box::new(io::empty());
        for (name, bytes) in files {
            let mut header = tar::Header::new_ustar();
            header.set_path(name).unwrap();
            header.set_size(*bytes);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_entry_type(tar::EntryType::Regular);
            header.set_cksum();
            let header = header.as_bytes().to_vec();
            let data = io::repeat(0).take(bytes.next_multiple_of(512));
            all = Box::new(all.chain(io::Cursor::new(header)).chain(data));
        }
        Self(all)
    }
}

impl Read for Sparse {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

fn read(bundle: &[u8]) -> Result<Vec<Entry>, BundleError> {
    bundle::read(bundle, &mut |_| Ok(io::sink()))
}

/// A header that `tar` itself would write, changed, with its checksum put right.
fn changed(change: impl Fn(&mut tar::Header)) -> Result<Vec<Entry>, BundleError> {
    let mut bytes = tar(&FILES);
    let mut header = tar::Header::from_byte_slice(&bytes[..512]).clone();
    change(&mut header);
    header.set_cksum();
    bytes[..512].copy_from_slice(header.as_bytes());
    read(&gzip(&bytes))
}

fn is_header(result: Result<Vec<Entry>, BundleError>) -> bool {
    matches!(result, Err(BundleError::Header { index: 0 }))
}

#[test]
fn a_bundle_is_read_back_and_written_twice_the_same() {
    let bundle = write(&FILES).unwrap();
    assert_eq!(bundle, write(&FILES).unwrap());
    let mut seen: Vec<Vec<u8>> = Vec::new();
    let entries = bundle::read(&bundle[..], &mut |_| {
        seen.push(Vec::new());
        Ok(Vec::new())
    });
    let names: Vec<_> = entries.unwrap().into_iter().map(|entry| (entry.name, entry.bytes)).collect();
    assert_eq!(names, FILES.map(|(name, bytes)| (name.to_owned(), bytes.len() as u64)));
    assert_eq!(seen.len(), 3);
}

#[test]
fn odd_headers() {
    assert!(changed(|_| ()).is_ok());
    for kind in [
        tar::EntryType::Link,
        tar::EntryType::Symlink,
        tar::EntryType::Directory,
        tar::EntryType::Char,
        tar::EntryType::Block,
        tar::EntryType::Fifo,
        tar::EntryType::GNULongName,
        tar::EntryType::GNULongLink,
        tar::EntryType::GNUSparse,
        tar::EntryType::XHeader,
        tar::EntryType::XGlobalHeader,
        tar::EntryType::Continuous,
    ] {
        assert!(is_header(changed(|header| header.set_entry_type(kind))), "{kind:?}");
    }
    assert!(is_header(changed(|header| header.set_mode(0o4755))), "set-uid");
    assert!(is_header(changed(|header| header.set_mode(0o600))), "mode");
    assert!(is_header(changed(|header| header.set_uid(1000))), "owner");
    assert!(is_header(changed(|header| header.set_gid(1000))), "group");
    assert!(is_header(changed(|header| header.set_mtime(1))), "time");
    assert!(is_header(changed(|header| header.set_username("root").unwrap())), "user name");
    assert!(is_header(changed(|header| header.set_link_name("/etc/passwd").unwrap())), "link name");
    assert!(is_header(changed(|header| header.as_mut_bytes()[345] = b'x')), "prefix");
    assert!(is_header(changed(|header| header.as_mut_bytes()[511] = 1)), "tail");
    assert!(is_header(changed(|header| header.as_mut_bytes()[124..136].fill(0xff))), "binary size");
    assert!(is_header(changed(|header| header.as_mut_bytes()[0] = 0xff)), "not UTF-8");
    let mut checksum = tar(&FILES);
    checksum[148] ^= 1;
    assert!(is_header(read(&gzip(&checksum))), "checksum");
}

#[test]
fn odd_names() {
    for name in
        ["../manifest.json", "/manifest.json", ".manifest.json", "a/manifest.json", "a\\b", "", "a b", "ä"]
    {
        let named = |header: &mut tar::Header| {
            let field = &mut header.as_mut_bytes()[..100];
            field.fill(0);
            field[..name.len()].copy_from_slice(name.as_bytes());
        };
        let result = changed(named);
        let refused =
            matches!(result, Err(BundleError::Name { index: 0, .. } | BundleError::Header { index: 0 }));
        assert!(refused, "{name}: {result:?}");
        assert!(matches!(write(&[(name, b"")]), Err(BundleError::Name { .. })), "{name}");
    }
}

#[test]
fn odd_orders() {
    let order = |files: &[(&str, &[u8])]| matches!(write(files), Err(BundleError::Order { .. }));
    assert!(order(&[("a.pte", b"")]), "the manifest is not first");
    assert!(order(&[FILES[0], FILES[0]]), "twice the manifest");
    assert!(order(&[FILES[0], FILES[1], FILES[1]]), "twice a file");
    assert!(order(&[FILES[0], FILES[2], FILES[1]]), "descending");
    assert!(order(&[FILES[0], FILES[2], FILES[0]]), "the manifest again");
    // The reader holds to the same order: two archives one after the other have every name twice.
    let one = tar(&FILES);
    let body = &one[..one.len() - 1024];
    assert!(matches!(read(&gzip(&[body, &one].concat())), Err(BundleError::Order { index: 3, .. })));
}

#[test]
fn too_many_and_too_large() {
    let names: Vec<String> = (10..30).map(|n| format!("f{n}")).collect();
    let mut files = vec![FILES[0]];
    files.extend(names.iter().map(|name| (name.as_str(), &b""[..])));
    assert!(matches!(write(&files), Err(BundleError::Files)));
    let result = changed(|header| header.set_size(9 << 20));
    assert!(matches!(result, Err(BundleError::Size { got: 9_437_184, .. })), "{result:?}");
    // Two models, each within its bound, are more than a bundle: refused at the second header, before its bytes.
    let mut sparse = Sparse::new(&[("manifest.json", 0), ("a.pte", 6_000_000_000), ("b.pte", 6_000_000_000)]);
    let error = bundle::read_tar(&mut sparse, &mut |_| Ok(io::sink())).unwrap_err();
    assert!(
        matches!(&error, BundleError::Size { name, got: 12_000_000_000, .. } if name == "all files"),
        "{error}"
    );
    // A bomb has to declare its size first.
    assert!(matches!(changed(|header| header.set_size(0o77_777_777_777)), Err(BundleError::Size { .. })));
}

#[test]
fn a_file_of_another_length_than_was_said() {
    for said in [0, 9, 11] {
        let mut writer = Writer::new(Vec::new());
        let error = writer.entry("manifest.json", said, &mut &b"ten bytes!"[..]).unwrap_err();
        assert!(matches!(error, BundleError::Length { expected, .. } if expected == said), "{error}");
    }
}

#[test]
fn bytes_that_belong_to_nothing() {
    let is_trailing = |bundle: &[u8]| matches!(read(bundle), Err(BundleError::Trailing { .. }));
    let (bundle, archive) = (write(&FILES).unwrap(), tar(&FILES));
    assert!(is_trailing(&[&bundle[..], b"x"].concat()), "behind the stream");
    assert!(is_trailing(&[&bundle[..], &bundle].concat()), "a second stream");
    assert!(is_trailing(&gzip(&[&archive[..], &[0; 512]].concat())), "a third empty block");
    assert!(is_trailing(&gzip(&[&archive[..], b"x"].concat())), "behind the archive");
    let mut padded = archive.clone();
    padded[512 + 2] = 1;
    assert!(is_trailing(&gzip(&padded)), "in the padding of a file");
    let mut second = archive.clone();
    let last = second.len() - 1;
    second[last] = 1;
    assert!(is_trailing(&gzip(&second)), "in the second empty block");
    assert!(is_trailing(&gzip(&[0; 1024])), "no files at all");
}

#[test]
fn another_gzip_header() {
    let bundle = write(&FILES).unwrap();
    for at in 0..10 {
        let mut odd = bundle.clone();
        odd[at] ^= 1;
        assert!(matches!(read(&odd), Err(BundleError::Gzip { .. })), "byte {at}");
    }
}

#[test]
fn a_cut_or_damaged_stream() {
    let bundle = write(&FILES).unwrap();
    for end in 0..bundle.len() {
        assert!(read(&bundle[..end]).is_err(), "cut at {end}");
    }
    let mut checksum = bundle.clone();
    let at = checksum.len() - 8;
    checksum[at] ^= 1;
    assert!(matches!(read(&checksum), Err(BundleError::Io(_))));
}

proptest! {
    #[test]
    fn no_changed_byte_makes_another_bundle(at in 0_usize..4096, bit in 0_u8..8) {
        // One archive for one set of files: whatever is read from a changed one differs from what was written.
        let mut archive = tar(&FILES);
        let at = at % archive.len();
        archive[at] ^= 1 << bit;
        let content = [512..514, 1536..2536, 3072..3080].iter().any(|data| data.contains(&at));
        prop_assert!(read(&gzip(&archive)).is_err() || content, "byte {at}");
    }

    #[test]
    fn noise_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        prop_assert!(read(&bytes).is_err());
        prop_assert!(bundle::read_tar(&mut &bytes[..], &mut |_| Ok(io::sink())).is_err());
    }
}
