//! The same model on two machines: greedy tokens that must be the same, logits that may differ in their last bits.

use std::{fmt::Write as _, fs};

use anyhow::{Context as _, ensure};
use camino::Utf8Path;
use serde::Deserialize;

use crate::engine::Files;

/// What both are asked. Each begins a talk that goes on with those after it (and, behind the last, with the first) until
/// the replies are long enough: a single reply of a small model is not, and past its end nothing meaningful follows.
const PROMPTS: [&str; 5] = [
    "Hello, who are you?",
    "I feel sad because my friend moved away.",
    "I am so happy today, I passed the test!",
    "What is my name?",
    "I'm so angry, I had a fight with my roommate.",
];
/// Greedy tokens of each talk, in all its replies together; the ends of replies are among them.
const TOKENS: usize = 64;

/// How an engine is run on a machine.
pub(super) struct Machine {
    name: &'static str,
    engine: Vec<String>,
}

impl Machine {
    pub(super) fn new(name: &'static str, engine: Vec<String>) -> Self {
        Self { name, engine }
    }

    fn talk(&self, says: &[&str], files: &Files, scratch: &Utf8Path) -> anyhow::Result<Talk> {
        let (tokenizer, template) = files.words.as_ref().context("random weights: nothing to say")?;
        let logits = scratch.join(format!("logits-{}", self.name));
        let count = TOKENS.to_string();
        // One thread: an emulator runs a spinning pool at a crawl, and the order of sums does not depend on it.
        let arguments = [
            "run",
            "--threads",
            "1",
            "-n",
            &count,
            "--model",
            files.pte.as_str(),
            "--tokenizer",
            tokenizer.as_str(),
            "--template",
            template.as_str(),
            "--logits",
            logits.as_str(),
        ];
        let says = says.iter().flat_map(|&text| ["--prompt", text]);
        let arguments = arguments.into_iter().chain(says).map(str::to_owned);
        let argv: Vec<_> = self.engine.iter().cloned().chain(arguments).collect();
        let ran: Ran = serde_json::from_str(&output(&argv)?).context("the engine's answer cannot be read")?;
        ensure!(ran.finite, "{}: got logits that are not finite", self.name);
        ensure!(
            ran.tokens.len() == TOKENS,
            "{}: got replies of {} tokens in all, expected {TOKENS}",
            self.name,
            ran.tokens.len()
        );
        let bytes = fs::read(&logits).with_context(|| format!("{logits}: the engine wrote no logits"))?;
        let logits = bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect();
        Ok(Talk { tokens: ran.tokens, logits })
    }
}

/// Standard output of a command that succeeded.
pub(super) fn output(argv: &[String]) -> anyhow::Result<String> {
    let (program, arguments) = argv.split_first().context("no command")?;
    let output = crate::child::command(program)
        .args(arguments)
        .output()
        .with_context(|| format!("{program}: cannot be started"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: ended with {}: {}", argv.join(" "), output.status, said.trim_end());
    String::from_utf8(output.stdout).context("output that is not UTF-8")
}

/// The engine's answer.
#[derive(Deserialize)]
struct Ran {
    tokens: Vec<u32>,
    finite: bool,
}

#[derive(Debug, Clone)]
struct Talk {
    tokens: Vec<u32>,
    logits: Vec<f32>,
}

/// Talks with both machines.
pub(super) fn prompts(
    here: &Machine,
    there: &Machine,
    files: &Files,
    scratch: &Utf8Path,
) -> anyhow::Result<Report> {
    let mut rows = Vec::new();
    for (index, prompt) in PROMPTS.iter().enumerate() {
        let mut says = PROMPTS;
        says.rotate_left(index);
        let (a, b) = (here.talk(&says, files, scratch)?, there.talk(&says, files, scratch)?);
        rows.push(Row::of(prompt, &a, &b)?);
    }
    Ok(Report { names: [here.name, there.name], rows })
}

/// One talk on both machines.
#[derive(Debug)]
struct Row {
    /// Its first message.
    prompt: String,
    /// Greedy tokens before the first that differs.
    same: usize,
    /// Largest difference of a logit while the tokens are the same.
    max_abs_diff: f32,
    /// Root of the mean square of those differences.
    rms_diff: f64,
    bit_equal: bool,
}

impl Row {
    fn of(prompt: &str, a: &Talk, b: &Talk) -> anyhow::Result<Self> {
        let (got, expected) = (b.logits.len(), a.logits.len());
        ensure!(got == expected && got > 0, "logits: got {got}, expected {expected}");
        let same = a.tokens.iter().zip(&b.tokens).take_while(|(a, b)| a == b).count();
        // A row of logits chose each token.
        let row = a.logits.len() / a.tokens.len().max(1);
        let pairs = a.logits.iter().zip(&b.logits).take(row * (same + 1));
        let (mut max_abs_diff, mut squares, mut count) = (0.0_f32, 0.0, 0_u32);
        for (a, b) in pairs {
            let diff = (a - b).abs();
            max_abs_diff = max_abs_diff.max(diff);
            squares += f64::from(diff).powi(2);
            count += 1;
        }
        let rms_diff = (squares / f64::from(count.max(1))).sqrt();
        let bit_equal = same == a.tokens.len() && max_abs_diff == 0.0;
        Ok(Self { prompt: prompt.to_owned(), same, max_abs_diff, rms_diff, bit_equal })
    }
}

/// Every talk on both machines.
#[derive(Debug)]
pub(super) struct Report {
    names: [&'static str; 2],
    rows: Vec<Row>,
}

impl Report {
    pub(super) fn text(&self) -> String {
        let [here, there] = self.names;
        let mut text = format!("greedy tokens, {here} and {there}; one thread each\n");
        for Row { prompt, same, max_abs_diff, rms_diff, bit_equal } in &self.rows {
            let equal = if *bit_equal { "bit-equal" } else { "close" };
            let _ = writeln!(
                text,
                "  {same:>3} of {TOKENS} the same; logits {equal}, largest difference {max_abs_diff:.2e}, rms {rms_diff:.2e}: {prompt}"
            );
        }
        text
    }

    /// Whether every token was the same.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        match self.rows.iter().find(|row| row.same < TOKENS) {
            None => Ok(()),
            Some(Row { prompt, same, .. }) => {
                anyhow::bail!("`{prompt}`: got {same} equal greedy tokens, expected {TOKENS}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk(logits: &[f32]) -> Talk {
        Talk { tokens: (0..64).collect(), logits: logits.to_vec() }
    }

    #[test]
    fn equal_talks_are_bit_equal_and_small_differences_are_not() {
        let a = talk(&[1.0; 64 * 2]);
        let row = Row::of("p", &a, &a).unwrap();
        assert!(row.bit_equal && row.same == 64);
        let mut near = a.clone();
        near.logits[3] += 0.5;
        let row = Row::of("p", &a, &near).unwrap();
        assert!(!row.bit_equal && row.same == 64 && (row.max_abs_diff - 0.5).abs() < 1e-6);
        let report = Report { names: ["a", "b"], rows: vec![row] };
        assert!(report.check().is_ok());
    }

    #[test]
    fn another_token_fails_and_what_follows_it_is_not_compared() {
        for at in [1, 63] {
            let (a, mut b) = (talk(&[0.0; 64]), talk(&[0.0; 64]));
            b.tokens[at] = 99;
            b.logits.iter_mut().skip(at + 1).for_each(|logit| *logit = 9.0);
            let row = Row::of("p", &a, &b).unwrap();
            assert_eq!((row.same, row.max_abs_diff), (at, 0.0));
            let report = Report { names: ["a", "b"], rows: vec![row] };
            let said = report.check().unwrap_err().to_string();
            assert!(said.contains(&format!("got {at} equal greedy tokens")), "{said}");
        }
        assert!(Row::of("p", &talk(&[0.0; 64]), &talk(&[])).is_err());
    }
}
