//! `cargo xtask diff`: names what differs between two `.pte` files, down to the layer.
//!
//! **Invariant:** the exit code is 0 only for files that are equal byte for byte.

use std::{collections::BTreeMap, fs::File};

use anyhow::{Context as _, anyhow};
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::pte::{self, Item, ReadAt as _};
use serde::Serialize;

use crate::exit::{Exit, Failure, Outcome};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The first file
    a: Utf8PathBuf,
    /// The second file
    b: Utf8PathBuf,
    /// Show every difference, however many there are
    #[arg(long)]
    all: bool,
    /// Print the differences as JSON
    #[arg(long)]
    json: bool,
}

/// What differs at a place.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
enum Change {
    /// Only the first file has it.
    Removed { place: String, a: String },
    /// Only the second file has it.
    Added { place: String, b: String },
    /// It says something else.
    Changed { place: String, a: String, b: String },
    /// It says the same, and its bytes differ.
    Bytes { place: String, text: String, bytes: u64, differing: u64, first: u64 },
}

#[derive(Serialize)]
struct Answer {
    a: String,
    b: String,
    equal: bool,
    /// Bytes that differ somewhere although no part does: padding, the order of tables, shared segments.
    only_layout: bool,
    changes: Vec<Change>,
}

/// A file and its parts.
struct Side {
    path: Utf8PathBuf,
    file: File,
    items: Vec<Item>,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let (a, b) = (Side::open(&args.a)?, Side::open(&args.b)?);
    let lengths = (a.file.len()?, b.file.len()?);
    let equal = lengths.0 == lengths.1 && compare(&a, (0, lengths.0), &b, 0)?.0 == 0;
    let changes = if equal { Vec::new() } else { changes(&a, &b)? };
    let answer = Answer {
        a: a.path.to_string(),
        b: b.path.to_string(),
        equal,
        only_layout: !equal && changes.is_empty(),
        changes,
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
    } else {
        print(&answer, args.all);
    }
    if equal {
        return Ok(());
    }
    let error =
        anyhow!("{} and {}: got {} differing parts, expected none", a.path, b.path, answer.changes.len());
    Err(Failure { code: Exit::Different, error, hint: None })
}

impl Side {
    fn open(path: &Utf8Path) -> Result<Self, Failure> {
        let file = model_assets::regular::open(path).with_context(|| format!("{path}: cannot be opened"))?;
        let items = pte::outline(&file).ok_or_else(|| {
            let error = anyhow!("{path}: got something else, expected a .pte whose program can be read");
            Failure::new(Exit::Refused, error, format!("run: cargo xtask verify {path}"))
        })?;
        Ok(Self { path: path.to_owned(), file, items })
    }
}

fn changes(a: &Side, b: &Side) -> anyhow::Result<Vec<Change>> {
    let by_place: BTreeMap<&str, &Item> = b.items.iter().map(|item| (item.place.as_str(), item)).collect();
    let known: BTreeMap<&str, &Item> = a.items.iter().map(|item| (item.place.as_str(), item)).collect();
    let mut changes = Vec::new();
    for old in &a.items {
        let place = old.place.clone();
        let Some(new) = by_place.get(old.place.as_str()) else {
            changes.push(Change::Removed { place, a: old.text.clone() });
            continue;
        };
        if old.text != new.text {
            changes.push(Change::Changed { place, a: old.text.clone(), b: new.text.clone() });
        } else if let (Some(from), Some(to)) = (old.data, new.data) {
            if from.1 != to.1 {
                let text = |bytes: u64| format!("{} of {bytes} bytes", old.text);
                changes.push(Change::Changed { place, a: text(from.1), b: text(to.1) });
                continue;
            }
            let (differing, first) = compare(a, from, b, to.0)?;
            if differing > 0 {
                changes.push(Change::Bytes {
                    place,
                    text: old.text.clone(),
                    bytes: from.1,
                    differing,
                    first,
                });
            }
        }
    }
    let added = b.items.iter().filter(|new| !known.contains_key(new.place.as_str()));
    changes.extend(added.map(|new| Change::Added { place: new.place.clone(), b: new.text.clone() }));
    Ok(changes)
}

/// How many bytes of two ranges of one length differ, and the first that does.
fn compare(a: &Side, (from, length): (u64, u64), b: &Side, to: u64) -> anyhow::Result<(u64, u64)> {
    const CHUNK_BYTES: u64 = 1 << 20;
    let (mut differing, mut first, mut at) = (0, 0, 0);
    let (mut left, mut right) = (Vec::new(), Vec::new());
    while at < length {
        let chunk = usize::try_from(CHUNK_BYTES.min(length - at))?;
        left.resize(chunk, 0);
        right.resize(chunk, 0);
        a.file.read_exact_at(&mut left, from + at).with_context(|| a.path.to_string())?;
        b.file.read_exact_at(&mut right, to + at).with_context(|| b.path.to_string())?;
        // Equal chunks are the rule; the slow loop runs over the others.
        if left != right {
            for (offset, _) in left.iter().zip(&right).enumerate().filter(|(_, (left, right))| left != right)
            {
                if differing == 0 {
                    first = at + offset as u64;
                }
                differing += 1;
            }
        }
        at += chunk as u64;
    }
    Ok((differing, first))
}

/// Differences shown of one section unless all are wanted.
const SHOWN_MAX: usize = 20;

fn print(answer: &Answer, all: bool) {
    if answer.equal {
        println!("{} and {} are equal", answer.a, answer.b);
    } else if answer.only_layout {
        println!(
            "every part is the same; bytes differ in padding, in the order of tables or in the place of segments"
        );
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for change in &answer.changes {
        let section = section(change.place());
        let count = counts.entry(section).or_default();
        *count += 1;
        if all || *count <= SHOWN_MAX {
            println!("{change}");
        }
    }
    for (section, count) in counts.iter().filter(|(_, count)| !all && **count > SHOWN_MAX) {
        println!("… {section}: {} more (--all shows them)", count - SHOWN_MAX);
    }
}

/// A place up to the first number: what is counted together.
fn section(place: &str) -> &str {
    let end = place.match_indices(" / ").nth(1).map_or(place.len(), |(end, _)| end);
    let head = place.get(..end).unwrap_or(place);
    head.trim_end_matches(|c: char| c.is_ascii_hexdigit() || c == '_').trim_end()
}

impl Change {
    fn place(&self) -> &str {
        match self {
            Self::Removed { place, .. }
            | Self::Added { place, .. }
            | Self::Changed { place, .. }
            | Self::Bytes { place, .. } => place,
        }
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Removed { place, a } => write!(f, "- {place}: {a}"),
            Self::Added { place, b } => write!(f, "+ {place}: {b}"),
            Self::Changed { place, a, b } => write!(f, "~ {place}: {a} → {b}"),
            Self::Bytes { place, text, bytes, differing, first } => {
                write!(f, "~ {place}: {text}: {differing} of {bytes} bytes differ, the first at {first}")
            }
        }
    }
}
