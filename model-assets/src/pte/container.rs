//! The container: magic, extended header, and that the header accounts for every byte of the file.

use super::check_id::CheckId::{C1, C2, C3, C4, C5, C6, C7, C8, C9, C10, L1};
use super::limits;
use super::program::DataSegment;
use super::read::ReadAt;
use super::report::{Place, Report};

/// Where the parts of the file are, as far as the header can be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Container {
    /// Length of the file, bytes.
    pub(super) file_bytes: u64,
    /// Length of the program from byte 0, bytes.
    pub(super) program_bytes: u64,
    /// End of magic and header: the bytes before it are not part of any table.
    pub(super) head_bytes: u64,
    /// Where segments begin; `None` when the file has no segments.
    pub(super) segment_base: Option<u64>,
    /// End of the last segment by the header; absent in the short header.
    pub(super) segment_data_bytes: Option<u64>,
}

const HEAD_BYTES: usize = 64;

/// Reads and checks the head. `None` when the rest cannot be read.
pub(super) fn check(file: &dyn ReadAt, file_bytes: u64, report: &mut Report) -> Option<Container> {
    let at = Place::root("header");
    if file_bytes < limits::FILE_BYTES_MIN {
        report.reject(C1, &at, "the file is too short to hold a program", file_bytes, "≥ 64 bytes");
        return None;
    }
    let mut head = [0; HEAD_BYTES];
    if let Err(error) = file.read_exact_at(&mut head, 0) {
        report.reject(super::CheckId::C0, &at, "the head cannot be read", error, "64 bytes");
        return None;
    }
    if head.get(4..8) != Some(b"ET12") {
        report.reject(C2, &at, "not an ExecuTorch program", ascii(head.get(4..8)), "ET12");
        return None;
    }
    if head.get(8..12) != Some(b"eh00") {
        return headless(file_bytes, report, &at);
    }
    let container = parse(&head, file_bytes)?;
    check_header(&head, &container, report, &at)?;
    check_extent(&container, report, &at);
    Some(container)
}

/// A file without the extended header is a program from end to end.
fn headless(file_bytes: u64, report: &mut Report, at: &Place<'_>) -> Option<Container> {
    if file_bytes > limits::PROGRAM_BYTES_MAX {
        report.reject(L1, at, "the program is too long", file_bytes, limits::PROGRAM_BYTES_MAX);
        return None;
    }
    Some(Container {
        file_bytes,
        program_bytes: file_bytes,
        head_bytes: 8,
        segment_base: None,
        segment_data_bytes: None,
    })
}

fn parse(head: &[u8], file_bytes: u64) -> Option<Container> {
    let header_bytes = u32_at(head, 12)?;
    let base = u64_at(head, 24)?;
    let data = if header_bytes >= limits::HEADER_BYTES_USUAL { u64_at(head, 32) } else { None };
    Some(Container {
        file_bytes,
        program_bytes: u64_at(head, 16)?,
        head_bytes: u64::from(header_bytes).checked_add(8)?,
        segment_base: (base != 0).then_some(base),
        segment_data_bytes: data,
    })
}

fn check_header(head: &[u8], container: &Container, report: &mut Report, at: &Place<'_>) -> Option<()> {
    let header_bytes = u32_at(head, 12)?;
    if header_bytes < limits::HEADER_BYTES_MIN {
        report.reject(C4, at, "the extended header is too short", header_bytes, "≥ 24 bytes");
        return None;
    }
    if header_bytes != limits::HEADER_BYTES_USUAL {
        report.warn(C4, at, "unusual length of the extended header", header_bytes, "32 bytes");
    }
    let Container { file_bytes, program_bytes, head_bytes, .. } = *container;
    if program_bytes <= head_bytes {
        report.reject(
            C5,
            at,
            "the program ends before its header does",
            program_bytes,
            format!("> {head_bytes}"),
        );
        return None;
    }
    if program_bytes > file_bytes {
        let message = "the program ends behind the end of the file";
        report.reject(C5, at, message, program_bytes, format!("≤ {file_bytes}"));
        return None;
    }
    if program_bytes > limits::PROGRAM_BYTES_MAX {
        report.reject(L1, at, "the program is too long", program_bytes, limits::PROGRAM_BYTES_MAX);
        return None;
    }
    Some(())
}

/// C6 to C9: the header accounts for the file to the last byte.
fn check_extent(container: &Container, report: &mut Report, at: &Place<'_>) {
    let Container { file_bytes, program_bytes, segment_base, segment_data_bytes, .. } = *container;
    let Some(base) = segment_base else {
        if let Some(data) = segment_data_bytes.filter(|&bytes| bytes != 0) {
            report.reject(C6, at, "segment data without a segment base", data, 0);
        }
        if program_bytes < file_bytes {
            let trailing = file_bytes.saturating_sub(program_bytes);
            report.reject(C8, at, "bytes trail the program", trailing, "no trailing bytes");
        }
        return;
    };
    match base.checked_sub(program_bytes) {
        None => {
            report.reject(C6, at, "segments begin inside the program", base, format!("≥ {program_bytes}"))
        }
        Some(gap) if gap >= limits::GAP_BYTES_MAX => {
            report.reject(C6, at, "gap between program and segments", gap, "< 64 KiB");
        }
        Some(_) => {}
    }
    if base % limits::ALIGNMENT_BYTES != 0 {
        report.reject(C9, at, "the segment base is not aligned", base, "a multiple of 16");
    }
    let Some(data) = segment_data_bytes else { return };
    match base.checked_add(data) {
        None => {
            report.reject(C7, at, "segment base and size overflow", format!("{base} + {data}"), file_bytes)
        }
        Some(end) if end > file_bytes => report.reject(C7, at, "the file is truncated", file_bytes, end),
        Some(end) if end < file_bytes => {
            let trailing = file_bytes.saturating_sub(end);
            report.reject(C8, at, "bytes trail the last segment", format!("{trailing} bytes"), "none");
        }
        Some(_) => {}
    }
}

/// C10 for the bytes between the program and the segments.
pub(super) fn check_padding(file: &dyn ReadAt, container: &Container, report: &mut Report) {
    let Some(base) = container.segment_base else { return };
    check_zero(file, container.program_bytes, base.min(container.file_bytes), report);
}

/// C10: every byte from `start` to `end` is zero. Longer gaps are refused elsewhere and not read.
pub(super) fn check_zero(file: &dyn ReadAt, start: u64, end: u64, report: &mut Report) {
    let at = Place::root("padding");
    let Some(bytes) = end.checked_sub(start).filter(|&bytes| bytes > 0 && bytes < limits::GAP_BYTES_MAX)
    else {
        return;
    };
    let Ok(length) = usize::try_from(bytes) else { return };
    let mut gap = vec![0; length];
    if let Err(error) = file.read_exact_at(&mut gap, start) {
        report.reject(
            super::CheckId::C0,
            &at,
            "padding cannot be read",
            error,
            format!("{bytes} bytes at {start}"),
        );
        return;
    }
    if let Some(index) = gap.iter().position(|&byte| byte != 0) {
        let offset = start.saturating_add(u64::try_from(index).unwrap_or(0));
        report.reject(C10, &at, "hidden byte in padding", format!("non-zero byte at {offset}"), "zero");
    }
}

pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(offset..)?.first_chunk().copied()?))
}

pub(super) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(offset..)?.first_chunk().copied()?))
}

pub(super) fn ascii(bytes: Option<&[u8]>) -> String {
    bytes.unwrap_or_default().escape_ascii().to_string()
}

/// C3, once the program is known: without the header there is nothing for segments to lie in.
pub(super) fn check_headless(container: &Container, segments: &[DataSegment], report: &mut Report) {
    // The exporter lists an empty segment of constants even when there are none.
    let filled = segments.iter().filter(|segment| segment.offset != 0 || segment.size != 0).count();
    if container.segment_base.is_none() && filled > 0 {
        let at = Place::root("header");
        report.reject(
            C3,
            &at,
            "segments without an extended header or base",
            format!("{filled} segments"),
            "none",
        );
    }
}
