//! Counts, and the Markdown tables they are printed in.

use std::collections::BTreeMap;

use super::{corpus::Subject, mutant::Region, probe::Verdict};

/// Counts of one region.
#[derive(Debug, Default, Clone)]
pub(crate) struct Row {
    pub(crate) mutants: u64,
    /// Rejected by the structure level.
    pub(crate) structure: u64,
    /// Rejected only by the hash level, without a promised digest.
    pub(crate) hash: u64,
    /// Of what the structure level accepted, rejected with the promised digest.
    pub(crate) digest: u64,
    same: u64,
    different: u64,
    refused: u64,
    crashed: u64,
    unstable: u64,
    endless: u64,
}

impl Row {
    pub(crate) fn count(&mut self, verdict: &Verdict) {
        *match verdict {
            Verdict::Same => &mut self.same,
            Verdict::Different => &mut self.different,
            Verdict::Refused => &mut self.refused,
            Verdict::Crashed { .. } => &mut self.crashed,
            Verdict::Unstable => &mut self.unstable,
            Verdict::Endless => &mut self.endless,
        } += 1;
    }

    fn fields(&mut self) -> [&mut u64; 10] {
        [
            &mut self.mutants,
            &mut self.structure,
            &mut self.hash,
            &mut self.digest,
            &mut self.same,
            &mut self.different,
            &mut self.refused,
            &mut self.crashed,
            &mut self.unstable,
            &mut self.endless,
        ]
    }

    fn line(&self, name: &str) -> String {
        let accepted = self.mutants - self.structure;
        let Self { mutants, structure, hash, same, different, refused, crashed, unstable, endless, .. } =
            self;
        let ran = same + different + refused + crashed + unstable + endless;
        let digest = structure + self.digest;
        format!(
            "| {name} | {mutants} | {structure} | {} | {digest} | {accepted} | {ran} | {same} | {different} | \
             {refused} | {crashed} | {unstable} | {endless} |",
            structure + hash
        )
    }
}

/// Counts by region.
#[derive(Debug, Default)]
pub(crate) struct Tally(BTreeMap<Region, Row>);

impl Tally {
    pub(crate) fn row(&mut self, region: Region) -> &mut Row {
        self.0.entry(region).or_default()
    }

    pub(crate) fn mutants(&self) -> u64 {
        self.0.values().map(|row| row.mutants).sum()
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (region, row) in &other.0 {
            add(self.row(*region), row);
        }
    }

    fn lines(&self) -> String {
        let mut sum = Row::default();
        let mut text = String::new();
        for region in Region::ALL {
            if let Some(row) = self.0.get(&region) {
                add(&mut sum, row);
                text += &row.line(region.as_str());
                text.push('\n');
            }
        }
        text + &sum.line("**all**") + "\n"
    }
}

fn add(to: &mut Row, from: &Row) {
    let mut from = from.clone();
    for (to, from) in to.fields().into_iter().zip(from.fields()) {
        *to += *from;
    }
}

const HEAD: &str = "| part | mutants | rejected by structure | … and named digests | … and the file's digest | \
                    accepted by structure | run | same answer | other answer | error | crashed | unstable | endless |\n\
                    |---|---|---|---|---|---|---|---|---|---|---|---|---|\n";

/// The table of one file.
pub(crate) fn file(subject: &Subject, tally: &Tally) -> String {
    format!("### {}\n\n{}\n\n{HEAD}{}", subject.name, subject.about, tally.lines())
}

/// The table of all files together.
pub(crate) fn total(tally: &Tally) -> String {
    format!("### All files\n\n{HEAD}{}", tally.lines())
}
