//! Counts, and the Markdown tables they are printed in.

use std::collections::BTreeMap;

use model_assets::pte::CheckId;

use super::{corpus::Subject, mutant::Region, probe::ProbeVerdict};

/// Counts of one region.
#[derive(Debug, Default, Clone, Copy)]
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
    /// Accepted with the warning that a call cannot be judged; what is judged strictly refuses them.
    pub(crate) unknown: u64,
    /// Of those: run, and crashed or endless.
    unknown_run: u64,
    unknown_harmed: u64,
}

impl Row {
    pub(crate) fn count(&mut self, verdict: &ProbeVerdict) {
        *match verdict {
            ProbeVerdict::Same => &mut self.same,
            ProbeVerdict::Different => &mut self.different,
            ProbeVerdict::Refused => &mut self.refused,
            ProbeVerdict::Crashed { .. } => &mut self.crashed,
            ProbeVerdict::Unstable => &mut self.unstable,
            ProbeVerdict::Endless => &mut self.endless,
        } += 1;
    }

    /// The run of a mutant that only a warning stands against.
    pub(crate) fn count_unknown(&mut self, verdict: &ProbeVerdict) {
        self.unknown_run += 1;
        self.unknown_harmed += u64::from(verdict.is_harm());
    }

    fn run(&self) -> u64 {
        self.same + self.different + self.refused + self.crashed + self.unstable + self.endless
    }

    fn fields(&mut self) -> [&mut u64; 13] {
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
            &mut self.unknown,
            &mut self.unknown_run,
            &mut self.unknown_harmed,
        ]
    }

    fn line(&self, name: &str) -> String {
        let accepted = self.mutants - self.structure - self.unknown;
        let Self { mutants, structure, hash, same, different, refused, crashed, unstable, endless, .. } =
            self;
        let ran = self.run();
        let digest = structure + self.digest;
        format!(
            "| {name} | {mutants} | {structure} | {} | {digest} | {accepted} | {ran} | {same} | {different} | \
             {refused} | {crashed} | {unstable} | {endless} |",
            structure + hash
        )
    }
}

/// Counts by region, and of what was refused by the rule that refused it first.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    regions: BTreeMap<Region, Row>,
    rules: BTreeMap<CheckId, Row>,
}

impl Tally {
    pub(crate) fn row(&mut self, region: Region) -> &mut Row {
        self.regions.entry(region).or_default()
    }

    /// What the runtime did with a mutant that a rule refused.
    pub(crate) fn refused(&mut self, rule: CheckId, verdict: &ProbeVerdict) {
        self.rules.entry(rule).or_default().count(verdict);
    }

    pub(crate) fn mutants(&self) -> u64 {
        self.regions.values().map(|row| row.mutants).sum()
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (region, row) in &other.regions {
            add(self.row(*region), row);
        }
        for (rule, row) in &other.rules {
            add(self.rules.entry(*rule).or_default(), row);
        }
    }

    fn lines(&self) -> String {
        let mut sum = Row::default();
        let mut text = String::new();
        for region in Region::ALL {
            if let Some(row) = self.regions.get(&region) {
                add(&mut sum, row);
                text += &row.line(region.as_str());
                text.push('\n');
            }
        }
        text + &sum.line("**all**") + "\n"
    }
}

fn add(to: &mut Row, from: &Row) {
    let mut from = *from;
    for (to, from) in to.fields().into_iter().zip(from.fields()) {
        *to += *from;
    }
}

const HEAD: &str = "| part | mutants | rejected by structure | … and named digests | … and the file's digest | \
                    accepted by structure | run | same answer | other answer | error | crashed | unstable | endless |\n\
                    |---|---|---|---|---|---|---|---|---|---|---|---|---|\n";

/// The table of one file.
pub(crate) fn file(subject: &Subject, tally: &Tally) -> String {
    format!("### {}\n\n{}\n\n{HEAD}{}", subject.name, subject.description, tally.lines())
}

/// What the runtime says of what the verifier refuses; nothing when none of it was run.
pub(crate) fn differential(tally: &Tally) -> Option<String> {
    let mut text = String::from(
        "| rule | a good file satisfies | refused and run | runtime refuses too | same answer | other answer | crashed \
         | unstable | endless |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for (rule, row) in &tally.rules {
        let Row { same, different, refused, crashed, unstable, endless, .. } = row;
        text += &format!(
            "| {rule} | {} | {} | {refused} | {same} | {different} | {crashed} | {unstable} | {endless} |\n",
            rule.rule(),
            row.run(),
        );
    }
    (!tally.rules.is_empty()).then_some(text)
}

/// The table of programs of one operator each.
pub(crate) fn operators(tallies: &BTreeMap<String, (usize, Tally)>) -> String {
    let mut text = String::from(
        "| operator | programs | mutants | rejected | unknown | accepted and run | same answer | other answer | error \
         | crashed | unstable | endless | unknown and run | of those crashed or endless |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    let mut sum = (0, Row::default());
    let line = |name: &str, programs: usize, row: &Row| {
        let Row { mutants, structure, unknown, same, different, refused, crashed, unstable, endless, .. } =
            row;
        format!(
            "| {name} | {programs} | {mutants} | {structure} | {unknown} | {} | {same} | {different} | {refused} | {crashed} \
             | {unstable} | {endless} | {} | {} |\n",
            row.run(),
            row.unknown_run,
            row.unknown_harmed
        )
    };
    for (name, (programs, tally)) in tallies {
        let mut row = Row::default();
        tally.regions.values().for_each(|region| add(&mut row, region));
        text += &line(&format!("`{name}`"), *programs, &row);
        sum.0 += programs;
        add(&mut sum.1, &row);
    }
    text + &line("**all**", sum.0, &sum.1)
}

/// The table of all files together.
pub(crate) fn total(tally: &Tally) -> String {
    format!("### All files\n\n{HEAD}{}", tally.lines())
}
