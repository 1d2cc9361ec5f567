//! The changes, and the parts of a file that they change.

use model_assets::{pte::Summary, random::SplitMix64};

use super::Args;

/// A part of a `.pte` file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Region {
    Head,
    Program,
    Graphs,
    Constants,
    Weights,
    Padding,
}

impl Region {
    pub(crate) const ALL: [Self; 6] =
        [Self::Head, Self::Program, Self::Graphs, Self::Constants, Self::Weights, Self::Padding];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Program => "program",
            Self::Graphs => "delegate graphs",
            Self::Constants => "constants outside delegates",
            Self::Weights => "named data (weights)",
            Self::Padding => "padding",
        }
    }
}

/// Bytes in front of the program's first table.
const HEAD_BYTES: u64 = 40;

/// Where the parts of a file are.
pub(crate) struct Layout {
    program_bytes: u64,
    /// Begin, end, kind; what lies inside another comes first.
    segments: Vec<(u64, u64, Region)>,
}

impl Layout {
    pub(crate) fn of(summary: &Summary) -> Self {
        let mut segments: Vec<_> = summary
            .segments
            .iter()
            .map(|segment| {
                let user = segment.users.first().map(String::as_str).unwrap_or_default();
                let region = match user.split(' ').next() {
                    Some("delegate") => Region::Graphs,
                    Some("named") => Region::Weights,
                    _ => Region::Constants,
                };
                (segment.offset_bytes, segment.offset_bytes + segment.size_bytes, region)
            })
            .collect();
        segments.sort_by_key(|(start, end, _)| end - start);
        Self { program_bytes: summary.program_bytes, segments }
    }

    pub(crate) fn region(&self, at: usize) -> Region {
        let at = at as u64;
        match at {
            at if at < HEAD_BYTES => Region::Head,
            at if at < self.program_bytes => Region::Program,
            at => self
                .segments
                .iter()
                .find(|(start, end, _)| (*start..*end).contains(&at))
                .map_or(Region::Padding, |(.., region)| *region),
        }
    }
}

/// One change of a file.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mutant {
    Byte { at: usize, value: u8 },
    Word { at: usize, value: u32 },
    Long { at: usize, value: u64 },
}

impl Mutant {
    pub(crate) fn at(&self) -> usize {
        match *self {
            Self::Byte { at, .. } | Self::Word { at, .. } | Self::Long { at, .. } => at,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Byte { .. } => 1,
            Self::Word { .. } => 4,
            Self::Long { .. } => 8,
        }
    }

    pub(crate) fn apply(&self, bytes: &mut [u8]) {
        match *self {
            Self::Byte { at, value } => bytes[at] = value,
            Self::Word { at, value } => bytes[at..at + 4].copy_from_slice(&value.to_le_bytes()),
            Self::Long { at, value } => bytes[at..at + 8].copy_from_slice(&value.to_le_bytes()),
        }
    }

    pub(crate) fn undo(&self, good: &[u8], bytes: &mut [u8]) {
        let range = self.at()..self.at() + self.len();
        bytes[range.clone()].copy_from_slice(&good[range]);
    }

    /// A name that also serves as a file name.
    pub(crate) fn id(&self, file: &str) -> String {
        match self {
            Self::Byte { at, value } => format!("{file}@{at:#x}={value:02x}"),
            Self::Word { at, value } => format!("{file}@{at:#x}={value:08x}"),
            Self::Long { at, value } => format!("{file}@{at:#x}={value:016x}"),
        }
    }
}

/// All mutants of a file, or as many as wanted, spread evenly.
pub(crate) fn all(good: &[u8], layout: &Layout, args: &Args) -> Vec<Mutant> {
    let mut random = SplitMix64::new(args.seed);
    let mut mutants = Vec::new();
    let texts = if args.operators.is_some() { texts(good) } else { Vec::new() };
    for at in 0..good.len() {
        let region = layout.region(at);
        let weights = matches!(region, Region::Weights | Region::Constants);
        if weights && args.no_weights || texts.iter().any(|text| text.contains(&at)) {
            continue;
        }
        let bytes = byte_values(good[at], args.values, &mut random);
        mutants.extend(bytes.into_iter().map(|value| Mutant::Byte { at, value }));
        if !weights
            && at % 4 == 0
            && let Some(old) = word(good, at)
        {
            let words = word_values(good, old, args.words, &mut random);
            mutants.extend(words.into_iter().map(|value| Mutant::Word { at, value }));
            // The same word may be the low half of an integer: a program does not say which are.
            let long = good[at..].first_chunk().copied().map(u64::from_le_bytes);
            if args.operators.is_some()
                && let Some(old) = long
            {
                mutants.extend(long_values(old).into_iter().map(|value| Mutant::Long { at, value }));
            }
        }
    }
    let (all, wanted) = (mutants.len(), args.limit.unwrap_or(usize::MAX).min(mutants.len()));
    let mut number = 0;
    mutants.retain(|_| {
        number += 1;
        (number * wanted) / all != ((number - 1) * wanted) / all
    });
    mutants
}

/// A low and a high bit flipped, then whatever.
fn byte_values(old: u8, count: usize, random: &mut SplitMix64) -> Vec<u8> {
    let fixed = [old ^ 0x01, old ^ 0x80].into_iter();
    let rest = std::iter::repeat_with(|| random.draw().to_le_bytes()[0]).take(64);
    distinct(fixed.chain(rest), old, count)
}

/// Another word of the file, a small number, the extremes, a neighbour.
fn word_values(good: &[u8], old: u32, count: usize, random: &mut SplitMix64) -> Vec<u32> {
    let other = word(good, random.below(good.len() / 4) * 4).unwrap_or(0);
    let small = u32::try_from(random.below(256)).unwrap_or(0);
    let usual = [other, small, u32::MAX, 0, old.wrapping_add(1), old.wrapping_sub(1), old.wrapping_mul(2)];
    let start = random.below(usual.len());
    let usual = usual.into_iter().cycle().skip(start).take(usual.len());
    distinct(usual, old, count)
}

/// The edges of 32 and 64 bits, and one off.
fn long_values(old: u64) -> Vec<u64> {
    let edges = [0, u64::MAX, (1 << 31) - 1, 1 << 31, 1 << 32, 1 << 33, u64::MAX >> 1, 1 << 63];
    let near = [old.wrapping_add(1), old.wrapping_sub(1), old | 1 << 32, old | 1 << 33];
    distinct(edges.into_iter().chain(near), old, usize::MAX)
}

/// Long texts: how the exporter's caller nests inputs and outputs. The runtime reads none of it.
fn texts(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    const SHORTEST: usize = 48;
    let mut found = Vec::new();
    let mut start = 0;
    for (at, byte) in bytes.iter().chain(&[0]).enumerate() {
        if !(b' '..=b'~').contains(byte) {
            if at - start >= SHORTEST {
                found.push(start..at);
            }
            start = at + 1;
        }
    }
    found
}

fn distinct<T: PartialEq + Copy>(values: impl Iterator<Item = T>, old: T, count: usize) -> Vec<T> {
    let mut kept: Vec<T> = Vec::new();
    for value in values {
        if kept.len() == count {
            break;
        }
        if value != old && !kept.contains(&value) {
            kept.push(value);
        }
    }
    kept
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mutant_changes_its_bytes_and_undoes_it() {
        let good: Vec<u8> = (0..16).collect();
        let mutants = [
            Mutant::Byte { at: 3, value: 0xff },
            Mutant::Word { at: 12, value: 0xdead_beef },
            Mutant::Long { at: 4, value: u64::MAX },
        ];
        for mutant in mutants {
            let mut bytes = good.clone();
            mutant.apply(&mut bytes);
            assert_eq!(bytes.iter().zip(&good).filter(|(new, old)| new != old).count(), mutant.len());
            mutant.undo(&good, &mut bytes);
            assert_eq!(bytes, good);
        }
    }

    #[test]
    fn integers_are_tried_at_their_edges_and_long_texts_left_alone() {
        let values = long_values(2);
        assert!(values.contains(&(2 | 1 << 33)) && values.contains(&3) && !values.contains(&2));
        let mut bytes = vec![0_u8; 8];
        bytes.extend([b'x'; 60]);
        bytes.extend([0, 0, 0, 0]);
        bytes.extend(*b"aten::mm");
        let [text] = texts(&bytes).try_into().expect("one text");
        assert_eq!(text, 8..68);
    }

    #[test]
    fn values_differ_from_the_old_one_and_from_each_other() {
        let mut random = SplitMix64::new(5);
        for old in 0..=u8::MAX {
            let mut values = byte_values(old, 8, &mut random);
            assert_eq!(values.len(), 8);
            assert!(!values.contains(&old));
            values.sort_unstable();
            values.dedup();
            assert_eq!(values.len(), 8);
        }
    }
}
