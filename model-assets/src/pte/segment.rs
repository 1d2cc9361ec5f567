//! Segments and named data: that the table accounts for every byte behind the program, and who uses what.

use std::collections::{BTreeMap, HashMap};

use super::check_id::CheckId::{N1, N2, N3, N4, S1, S2, S3, S4, S5, S6, S7, S8, S9, S10};
use super::container::{self, Container};
use super::limits;
use super::program::{Program, Subsegment};
use super::read::ReadAt;
use super::report::{Place, Report};
use super::summary;

/// The segment table after its checks.
pub(super) struct Segments<'a> {
    /// Absolute offset and size; `None` for an entry that does not fit the file.
    pub(super) ranges: Vec<Option<(u64, u64)>>,
    /// What refers to each segment.
    pub(super) users: Vec<Vec<String>>,
    /// The segment that contains each one, when bytes are shared.
    pub(super) inside: Vec<Option<u32>>,
    /// Named data: key to segment index.
    pub(super) named: HashMap<&'a str, usize>,
    mutable: Vec<bool>,
}

impl<'a> Segments<'a> {
    pub(super) fn range(&self, index: u32) -> Option<(u64, u64)> {
        self.ranges.get(usize::try_from(index).ok()?).copied().flatten()
    }

    pub(super) fn use_by(&mut self, index: u32, user: String) {
        let users = usize::try_from(index).ok().and_then(|index| self.users.get_mut(index));
        if let Some(users) = users {
            users.push(user);
        }
    }

    pub(super) fn summary(&self) -> Vec<summary::Segment> {
        let rows = self.ranges.iter().zip(&self.users).zip(&self.inside);
        rows.map(|((range, users), inside)| {
            let (offset_bytes, size_bytes) = range.unwrap_or_default();
            summary::Segment { offset_bytes, size_bytes, users: users.clone(), inside: *inside }
        })
        .collect()
    }

    /// S10, once everything that may refer to a segment has been read.
    pub(super) fn check_used(&self, report: &mut Report) {
        for (index, users) in self.users.iter().enumerate() {
            if users.is_empty() {
                let at = Place::root_at("segment", index);
                report.reject(S10, &at, "nothing refers to the segment", "no user", "at least one");
            }
        }
    }
}

pub(super) fn check<'a>(
    file: &dyn ReadAt,
    container: &Container,
    program: &Program<'a>,
    report: &mut Report,
) -> Segments<'a> {
    let count = program.segments.len();
    let mut segments = Segments {
        ranges: check_ranges(container, program, report),
        users: vec![Vec::new(); count],
        inside: vec![None; count],
        named: HashMap::new(),
        mutable: vec![false; count],
    };
    check_tables(program, &mut segments, report);
    check_named(program, &mut segments, report);
    check_layout(file, container, &mut segments, report);
    segments
}

/// S1, S2, S5.
fn check_ranges(
    container: &Container,
    program: &Program<'_>,
    report: &mut Report,
) -> Vec<Option<(u64, u64)>> {
    let base = container.segment_base.unwrap_or(container.file_bytes);
    let mut ranges = Vec::new();
    for (index, segment) in program.segments.iter().enumerate() {
        let at = Place::root_at("segment", index);
        let got = format!("offset {} size {}", segment.offset, segment.size);
        let start = base.checked_add(segment.offset);
        let end = start.and_then(|start| start.checked_add(segment.size));
        let (Some(start), Some(end)) = (start, end) else {
            report.reject(S1, &at, "offset and size overflow", got, "below 2^64");
            ranges.push(None);
            continue;
        };
        if end > container.file_bytes {
            report.reject(
                S2,
                &at,
                "the segment ends behind the file",
                got,
                format!("≤ {}", container.file_bytes),
            );
            ranges.push(None);
            continue;
        }
        // Nothing is read from an empty one: without constants the exporter lists one at the end of the file.
        if segment.size > 0 && start % limits::ALIGNMENT_BYTES != 0 {
            report.reject(S5, &at, "the segment is not aligned", start, "a multiple of 16");
        }
        ranges.push(Some((start, segment.size)));
    }
    ranges
}

/// S7, S8, S9.
fn check_tables(program: &Program<'_>, segments: &mut Segments<'_>, report: &mut Report) {
    if let Some(constants) = program.constants.as_ref().filter(|table| !table.offsets.is_empty()) {
        check_table(constants, &Place::root("constants"), segments, report);
        segments.use_by(constants.segment, "constants".to_owned());
    }
    if program.mutables.len() > 1 {
        let at = Place::root("mutable state");
        report.reject(S9, &at, "several mutable segment tables", program.mutables.len(), "at most 1");
    }
    for table in &program.mutables {
        check_table(table, &Place::root("mutable state"), segments, report);
        segments.use_by(table.segment, "mutable state".to_owned());
        let flag = usize::try_from(table.segment).ok().and_then(|index| segments.mutable.get_mut(index));
        if let Some(flag) = flag {
            *flag = true;
        }
    }
}

fn check_table(table: &Subsegment, at: &Place<'_>, segments: &Segments<'_>, report: &mut Report) {
    let Some((_, size)) = segments.range(table.segment) else {
        report.reject(S7, at, "no such segment", table.segment, format!("< {}", segments.ranges.len()));
        return;
    };
    let mut before = 0;
    for (index, &offset) in table.offsets.iter().enumerate() {
        let at = at.at("offset", index);
        if offset > size {
            report.reject(S8, &at, "the offset is behind its segment", offset, format!("≤ {size}"));
        } else if offset % limits::ALIGNMENT_BYTES != 0 {
            report.reject(S8, &at, "the constant is not aligned", offset, "a multiple of 16");
        } else if offset < before {
            report.reject(S8, &at, "the offsets do not ascend", offset, format!("≥ {before}"));
        }
        before = offset;
    }
}

/// N1 to N4.
fn check_named<'a>(program: &Program<'a>, segments: &mut Segments<'a>, report: &mut Report) {
    for (index, named) in program.named.iter().enumerate() {
        let at = Place::root_at("named data", index);
        let Some(key) = named.key.filter(|key| !key.is_empty()) else {
            report.reject(N1, &at, "no key", "none", "a key");
            continue;
        };
        let slot = usize::try_from(named.segment).ok().filter(|&slot| slot < segments.ranges.len());
        let Some(slot) = slot else {
            report.reject(N2, &at, "no such segment", named.segment, format!("< {}", segments.ranges.len()));
            continue;
        };
        if segments.range(named.segment).is_some_and(|(_, size)| size == 0) {
            report.reject(N3, &at, "the datum is empty", "0 bytes", "at least 1");
        }
        if segments.named.insert(key, slot).is_some() {
            report.reject(N4, &at, "the key stands there twice", key, "unique keys");
        }
        segments.use_by(named.segment, format!("named {key}"));
    }
}

/// S3, S4, S6 and the padding between segments.
fn check_layout(file: &dyn ReadAt, container: &Container, segments: &mut Segments<'_>, report: &mut Report) {
    let Some(base) = container.segment_base else { return };
    let mut order: Vec<(u64, u64, usize)> = Vec::new();
    for (index, range) in segments.ranges.iter().enumerate() {
        if let Some((start, size)) = range {
            order.push((*start, start.saturating_add(*size), index));
        }
    }
    order.sort_by_key(|&(start, end, index)| (start, std::cmp::Reverse(end), index));
    let (mut covered, mut outer) = (base, None::<(u64, usize)>);
    let mut gaps = BTreeMap::new();
    for (start, end, index) in order {
        let at = Place::root_at("segment", index);
        if let Some((outer_end, outer_index)) =
            outer.filter(|&(outer_end, _)| start < outer_end && end > start)
        {
            let got = format!("bytes {start} to {end}");
            let mutable = |index: usize| segments.mutable.get(index).copied().unwrap_or(false);
            if end > outer_end || mutable(index) || mutable(outer_index) {
                let expected =
                    format!("inside segment {outer_index}, which ends at {outer_end}, and read-only");
                report.reject(S3, &at, "segments overlap", got, expected);
            } else {
                report.warn(
                    S3,
                    &at,
                    "bytes are shared between segments",
                    got,
                    format!("not in {outer_index}"),
                );
            }
            if let Some(slot) = segments.inside.get_mut(index) {
                *slot = u32::try_from(outer_index).ok();
            }
        }
        if start > covered {
            gaps.insert(covered, (start, index));
        }
        if end > covered {
            covered = end;
            outer = Some((end, index));
        }
    }
    for (&from, &(to, index)) in &gaps {
        let gap = to.saturating_sub(from);
        if gap >= limits::GAP_BYTES_MAX {
            let at = Place::root_at("segment", index);
            report.reject(S4, &at, "gap before the segment", format!("{gap} bytes"), "< 64 KiB");
        } else {
            container::check_zero(file, from, to, report);
        }
    }
    check_end(file, container, base, covered, report);
}

fn check_end(file: &dyn ReadAt, container: &Container, base: u64, covered: u64, report: &mut Report) {
    let at = Place::root("segments");
    let end = container.segment_data_bytes.map_or(container.file_bytes, |data| base.saturating_add(data));
    if covered == end {
        return;
    }
    report.reject(S6, &at, "segments end elsewhere than the header says", covered, end);
    container::check_zero(file, covered, end.min(container.file_bytes), report);
}
