//! The same model on two machines: greedy tokens that must be the same, logits that may differ in their last bits.

use std::{fmt::Write as _, fs, process::Command};

use anyhow::{Context as _, ensure};
use camino::Utf8Path;
use serde::Deserialize;

use crate::engine::Files;

/// What both are asked.
const PROMPTS: [&str; 5] = [
    "Hello, who are you?",
    "I feel sad because my friend moved away.",
    "I am so happy today, I passed the test!",
    "What is my name?",
    "I'm so angry, I had a fight with my roommate.",
];
/// Tokens of each reply; the end of a reply does not end it.
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

    fn reply(&self, prompt: &str, files: &Files, scratch: &Utf8Path) -> anyhow::Result<Reply> {
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
            "--prompt",
            prompt,
        ];
        let argv: Vec<_> = self.engine.iter().cloned().chain(arguments.map(str::to_owned)).collect();
        let ran: Ran = serde_json::from_str(&output(&argv)?).context("the engine's answer cannot be read")?;
        ensure!(ran.finite, "{}: got logits that are not finite", self.name);
        ensure!(
            ran.tokens.len() == TOKENS,
            "{}: got {} tokens, expected {TOKENS}",
            self.name,
            ran.tokens.len()
        );
        let bytes = fs::read(&logits).with_context(|| format!("{logits}: the engine wrote no logits"))?;
        let logits = bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect();
        Ok(Reply { tokens: ran.tokens, logits })
    }
}

/// Standard output of a command that succeeded.
pub(super) fn output(argv: &[String]) -> anyhow::Result<String> {
    let (program, arguments) = argv.split_first().context("no command")?;
    let output = Command::new(program)
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
struct Reply {
    tokens: Vec<u32>,
    logits: Vec<f32>,
}

/// Asks both machines everything; `eos` ends a reply.
pub(super) fn prompts(
    here: &Machine,
    there: &Machine,
    files: &Files,
    eos: &[u32],
    scratch: &Utf8Path,
) -> anyhow::Result<Report> {
    let mut rows = Vec::new();
    for prompt in PROMPTS {
        let (a, b) = (here.reply(prompt, files, scratch)?, there.reply(prompt, files, scratch)?);
        rows.push(Row::of(prompt, eos, &a, &b)?);
    }
    Ok(Report { names: [here.name, there.name], rows })
}

/// One prompt on both machines.
#[derive(Debug)]
struct Row {
    prompt: String,
    /// Tokens of the reply, its end included. What follows is forced: the model invents what a person might say next.
    reply: usize,
    /// Greedy tokens before the first that differs.
    same: usize,
    /// Largest difference of a logit while the tokens are the same.
    max_abs_diff: f32,
    /// Root of the mean square of those differences.
    rms_diff: f64,
    bit_equal: bool,
}

impl Row {
    fn of(prompt: &str, eos: &[u32], a: &Reply, b: &Reply) -> anyhow::Result<Self> {
        let (got, expected) = (b.logits.len(), a.logits.len());
        ensure!(got == expected && got > 0, "logits: got {got}, expected {expected}");
        let same = a.tokens.iter().zip(&b.tokens).take_while(|(a, b)| a == b).count();
        let end = a.tokens.iter().position(|token| eos.contains(token));
        let reply = end.map_or(a.tokens.len(), |index| index + 1);
        // A row of logits follows the prompt and every token.
        let row = a.logits.len() / (a.tokens.len() + 1);
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
        Ok(Self { prompt: prompt.to_owned(), reply, same, max_abs_diff, rms_diff, bit_equal })
    }
}

/// Every prompt on both machines.
#[derive(Debug)]
pub(super) struct Report {
    names: [&'static str; 2],
    rows: Vec<Row>,
}

impl Report {
    pub(super) fn text(&self) -> String {
        let [here, there] = self.names;
        let mut text = format!("greedy tokens, {here} and {there}; one thread each\n");
        for Row { prompt, reply, same, max_abs_diff, rms_diff, bit_equal } in &self.rows {
            let equal = if *bit_equal { "bit-equal" } else { "close" };
            let _ = writeln!(
                text,
                "  {same:>3} of {TOKENS} the same (reply {reply}); logits {equal}, largest difference {max_abs_diff:.2e}, rms {rms_diff:.2e}: {prompt}"
            );
        }
        text
    }

    /// Whether every reply was the same to its end.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        match self.rows.iter().find(|row| row.same < row.reply) {
            None => Ok(()),
            Some(Row { prompt, same, reply, .. }) => {
                anyhow::bail!("`{prompt}`: got {same} equal greedy tokens, expected the reply's {reply}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(tokens: &[u32], logits: &[f32]) -> Reply {
        Reply { tokens: tokens.to_vec(), logits: logits.to_vec() }
    }

    #[test]
    fn equal_replies_are_bit_equal_and_small_differences_are_not() {
        let tokens: Vec<u32> = (0..64).collect();
        let logits = vec![1.0; 65 * 2];
        let a = reply(&tokens, &logits);
        let row = Row::of("p", &[], &a, &a).unwrap();
        assert!(row.bit_equal && row.same == 64);
        let mut near = a.clone();
        near.logits[3] += 0.5;
        let row = Row::of("p", &[], &a, &near).unwrap();
        assert!(!row.bit_equal && row.same == 64 && (row.max_abs_diff - 0.5).abs() < 1e-6);
        let report = Report { names: ["a", "b"], rows: vec![row] };
        assert!(report.check().is_ok());
    }

    #[test]
    fn another_token_fails_and_what_follows_it_is_not_compared() {
        let (a, mut b) = (reply(&[1, 2, 3], &[0.0; 4]), reply(&[1, 9, 3], &[0.0; 4]));
        b.logits[3] = 9.0;
        let row = Row::of("p", &[], &a, &b).unwrap();
        assert_eq!((row.same, row.max_abs_diff), (1, 0.0));
        let report = Report { names: ["a", "b"], rows: vec![row] };
        assert!(report.check().unwrap_err().to_string().contains("got 1 equal greedy tokens"));
        assert!(Row::of("p", &[], &a, &reply(&[1, 2, 3], &[])).is_err());
        // Past the end of the reply nobody reads it.
        let row = Row::of("p", &[1], &a, &b).unwrap();
        let report = Report { names: ["a", "b"], rows: vec![row] };
        assert!(report.check().is_ok());
    }
}
