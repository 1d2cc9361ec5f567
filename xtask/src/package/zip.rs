//! The files of a zip, where every reader agrees on what they are.
//!
//! Zip says most things twice, in the central directory and before each file, and its end is found by searching for it.
//! Signature checks and installers have disagreed over that before. So everything that is said twice must be the same,
//! names are unique, no byte belongs to two files, and what phones do not read (64-bit sizes, encryption, several disks)
//! is refused.

use std::{collections::HashSet, fs::File};

use anyhow::{Context as _, anyhow, ensure};
use model_assets::pte::ReadAt as _;
use rawzip::{
    CompressionMethod, FileReader, RECOMMENDED_BUFFER_SIZE, ZipArchive, ZipFileHeaderRecord,
    ZipLocalFileHeader, extra_fields::ExtraFieldId,
};

use super::{Item, Place, check_name};

const END: [u8; 4] = *b"PK\x05\x06";
const END64_LOCATOR: [u8; 4] = *b"PK\x06\x07";
const END_BYTES: u64 = 22;
const END64_LOCATOR_BYTES: u64 = 20;
const LOCAL_HEADER_BYTES: u64 = 30;
/// A name and an extra field, each of a 16-bit length.
const VARIABLE_BYTES_MAX: usize = 2 * 0xffff;
/// No code, model or picture shrinks like this; a file that is to fill a disk does.
const RATIO_MAX: u64 = 200;
const RATIO_BYTES_MIN: u64 = 16 << 20;
const DEFLATE: u16 = 8;

/// The archive and its files, folders left out.
///
/// # Errors
/// Whatever makes it ambiguous, hostile or unreadable.
pub(super) fn list(file: &File) -> anyhow::Result<(ZipArchive<FileReader>, Vec<Item>)> {
    let mut buffer = vec![0; RECOMMENDED_BUFFER_SIZE.max(VARIABLE_BYTES_MAX + 0xffff)];
    let archive = ZipArchive::from_file(file.try_clone()?, &mut buffer).context("end of the archive")?;
    let end = End::read(file, archive.eocd_offset())?;
    ensure!(archive.directory_offset() == end.directory_offset, "central directory: cannot be found");
    let (mut local, mut items, mut names) = (vec![0; VARIABLE_BYTES_MAX], Vec::new(), HashSet::new());
    let (mut ranges, mut count, mut directory_bytes) = (Vec::new(), 0_u64, 0_u64);
    let mut entries = archive.entries(&mut buffer);
    while let Some(record) = entries.next_entry().context("central directory")? {
        count += 1;
        ensure!(
            count <= end.entries,
            "central directory: got more than {} files, expected as many",
            end.entries
        );
        directory_bytes += record_bytes(&record);
        let name = check_name(record.file_path().as_ref())?.to_owned();
        let plain = name.strip_suffix('/').unwrap_or(&name).to_owned();
        ensure!(names.insert(plain), "{name}: got the name twice, expected once");
        check_record(&record).with_context(|| name.clone())?;
        let entry = archive.get_entry(record.wayfinder()).with_context(|| name.clone())?;
        let header = entry.local_header(&mut local).with_context(|| name.clone())?;
        check_same(&record, &header).with_context(|| name.clone())?;
        let (start, finish) = entry.compressed_data_range();
        ranges.push((record.local_header_offset(), finish, name.clone()));
        if name.ends_with('/') {
            ensure!(record.uncompressed_size_hint() == 0, "{name}: got a folder with contents");
            continue;
        }
        let bytes = record.uncompressed_size_hint();
        let place = if record.compression_method().as_u16() == DEFLATE {
            Place::Deflated { packed_bytes: record.compressed_size_hint(), entry: record.wayfinder() }
        } else {
            Place::Stored { offset: start }
        };
        items.push(Item { name, bytes, place });
    }
    ensure!(count == end.entries, "central directory: got {count} files, expected {}", end.entries);
    ensure!(
        directory_bytes == end.directory_bytes,
        "central directory: got files of {directory_bytes} bytes, expected {}",
        end.directory_bytes
    );
    check_overlap(ranges, end.directory_offset)?;
    Ok((archive, items))
}

/// The end record, which rawzip found.
struct End {
    entries: u64,
    directory_offset: u64,
    directory_bytes: u64,
}

impl End {
    fn read(file: &File, offset: u64) -> anyhow::Result<Self> {
        let len = file.len()?;
        let mut record = [0; END_BYTES as usize];
        file.read_exact_at(&mut record, offset).context("end of the archive")?;
        let [_, _, _, _, a, b, c, d, e, f, g, h, s0, s1, s2, s3, o0, o1, o2, o3, l0, l1] = record;
        let short = |bytes| u64::from(u16::from_le_bytes(bytes));
        let long = |bytes| u64::from(u32::from_le_bytes(bytes));
        let (disk, directory_disk) = (short([a, b]), short([c, d]));
        let (here, entries) = (short([e, f]), short([g, h]));
        let (bytes, start, comment) = (long([s0, s1, s2, s3]), long([o0, o1, o2, o3]), short([l0, l1]));
        let wide = here == 0xffff || entries == 0xffff || bytes == 0xffff_ffff || start == 0xffff_ffff;
        ensure!(
            !wide && !has_locator64(file, offset)?,
            "end of the archive: got 64-bit sizes, which phones do not read"
        );
        ensure!(
            disk == 0 && directory_disk == 0 && here == entries,
            "end of the archive: got {entries} files on disk {disk}, expected one disk"
        );
        ensure!(
            offset + END_BYTES + comment == len,
            "end of the archive: got a file of {len} bytes, expected {}",
            offset + END_BYTES + comment
        );
        ensure!(
            start.checked_add(bytes) == Some(offset),
            "central directory: got {bytes} bytes at {start}, expected it to end at {offset}"
        );
        ensure!(
            no_other_end(file, offset, len)?,
            "end of the archive: got two that could be it, expected one"
        );
        Ok(Self { entries, directory_offset: start, directory_bytes: bytes })
    }
}

fn has_locator64(file: &File, end: u64) -> anyhow::Result<bool> {
    let Some(offset) = end.checked_sub(END64_LOCATOR_BYTES) else { return Ok(false) };
    let mut mark = [0; 4];
    file.read_exact_at(&mut mark, offset)?;
    Ok(mark == END64_LOCATOR)
}

/// Whether no other place near the end of the file could be taken for the end record: one before it whose comment would
/// reach the end of the file, or any in its comment.
fn no_other_end(file: &File, offset: u64, len: u64) -> anyhow::Result<bool> {
    let from = len.saturating_sub(END_BYTES + 0xffff);
    let mut tail = vec![0; usize::try_from(len - from)?];
    file.read_exact_at(&mut tail, from)?;
    let other = tail.windows(END_BYTES as usize).enumerate().any(|(index, window)| {
        let at = from + index as u64;
        let comment = window.get(20..22).map_or(0, |bytes| u64::from(bytes[0]) | u64::from(bytes[1]) << 8);
        window.starts_with(&END) && at != offset && (at > offset || at + END_BYTES + comment == len)
    });
    let last = tail.get(tail.len().saturating_sub(END_BYTES as usize - 1)..).unwrap_or_default();
    let in_comment = len > offset + END_BYTES && last.windows(END.len()).any(|window| window == END);
    Ok(!other && !in_comment)
}

fn record_bytes(record: &ZipFileHeaderRecord<'_>) -> u64 {
    const FIXED_BYTES: u64 = 46;
    let (name, extra) = (record.file_path().len(), record.extra_fields().remaining_bytes().len());
    FIXED_BYTES + (name + extra + record.comment().as_bytes().len()) as u64
}

fn check_record(record: &ZipFileHeaderRecord<'_>) -> anyhow::Result<()> {
    let flags = record.flags();
    let secret = flags.is_encrypted() || flags.has_strong_encryption() || flags.is_masked();
    ensure!(!secret, "got an encrypted file, expected a readable one");
    ensure!(!record.mode().is_symlink(), "got a link, expected a file");
    let named = record.extra_fields().any(|(id, _)| id == ExtraFieldId::INFO_ZIP_UNICODE_PATH);
    ensure!(!named, "got a second name in an extra field, expected one name");
    let wide = record.extra_fields().any(|(id, _)| id == ExtraFieldId::ZIP64);
    ensure!(!wide, "got 64-bit sizes, which phones do not read");
    let (packed, bytes) = (record.compressed_size_hint(), record.uncompressed_size_hint());
    match record.compression_method() {
        CompressionMethod::STORE => {
            ensure!(packed == bytes, "got {packed} stored bytes, expected {bytes}");
        }
        CompressionMethod::DEFLATE => {
            let bomb = bytes > RATIO_BYTES_MIN && bytes / packed.max(1) > RATIO_MAX;
            ensure!(!bomb, "got {bytes} bytes from {packed}, expected at most {RATIO_MAX} times as many");
        }
        other => return Err(anyhow!("got compression {other}, expected stored or deflated")),
    }
    Ok(())
}

/// The header before the file says what the central directory says.
fn check_same(record: &ZipFileHeaderRecord<'_>, local: &ZipLocalFileHeader<'_>) -> anyhow::Result<()> {
    let (name, expected) = (local.file_path(), record.file_path());
    let escaped = name.as_ref().escape_ascii();
    ensure!(name.as_ref() == expected.as_ref(), "local header: got name {escaped}, expected the directory's");
    let (method, expected) = (local.compression_method(), record.compression_method());
    ensure!(method == expected, "local header: got compression {method}, expected {expected}");
    let marks = |flags: rawzip::EntryFlags| (flags.is_encrypted(), flags.has_data_descriptor());
    ensure!(
        marks(local.flags()) == marks(record.flags()),
        "local header: got other flags than the directory's"
    );
    let wide = local.extra_fields().any(|(id, _)| id == ExtraFieldId::ZIP64);
    ensure!(!wide, "local header: got 64-bit sizes, which phones do not read");
    let got = [local.compressed_size_hint(), local.uncompressed_size_hint(), local.crc32().into()];
    let expected = [record.compressed_size_hint(), record.uncompressed_size_hint(), record.crc32().into()];
    // A streaming writer does not know them yet.
    let later = local.flags().has_data_descriptor() && got == [0; 3];
    ensure!(later || got == expected, "local header: got sizes and checksum {got:?}, expected {expected:?}");
    Ok(())
}

/// No byte belongs to two files, and none of a file to the directory. Gaps are allowed: packagers leave them, and the
/// signature of an Android package lies in one.
fn check_overlap(mut ranges: Vec<(u64, u64, String)>, directory: u64) -> anyhow::Result<()> {
    ranges.sort();
    let mut before = 0;
    for (start, end, name) in ranges {
        ensure!(
            start >= before,
            "{name}: got bytes from {start}, expected none before {before}: they are another file's"
        );
        ensure!(
            end >= start + LOCAL_HEADER_BYTES && end <= directory,
            "{name}: got an end at {end}, expected at most {directory}"
        );
        before = end;
    }
    Ok(())
}
