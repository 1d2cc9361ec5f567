//! Yardsticks: tasks that others publish figures of, by the `.pte` in the engine and by the unquantized model, item by item.
//!
//! A score depends on shots, template and sampler more than on quantization, so a recipe bounds what is lost between the two
//! and never the score.
//!
//! **Invariant:** what is kept are results per item; score, loss and interval are computed from them. Which items, asked how, is
//! part of the record: the digest of the data and that of the protocol.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    bootstrap::{self, Interval},
    digest::Digest,
    ledger::Ledger,
};

/// Fewest items (of a text: windows) that a bound is judged on.
const ITEMS_MIN: usize = 20;
const SEED: u64 = 31;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Perplexity on WikiText-2.
    Wikitext2,
    /// Four choices: a sample of MMLU.
    MmluTiny,
    /// Three to five choices: grade-school science.
    ArcChallenge,
    /// Instructions whose following a program can check: those of IFEval that need no language model or library.
    IfevalLite,
}

impl Task {
    /// Every task.
    pub const ALL: [Self; 4] = [Self::Wikitext2, Self::MmluTiny, Self::ArcChallenge, Self::IfevalLite];

    /// The name used in files and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Wikitext2 => "wikitext2",
            Self::MmluTiny => "mmlu-tiny",
            Self::ArcChallenge => "arc-challenge",
            Self::IfevalLite => "ifeval-lite",
        }
    }
}

/// A bound of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct YardstickLimit {
    /// The task.
    pub task: Task,
    /// Largest loss against the unquantized model: of the share of right items, or of perplexity relative to it. Compared with
    /// the upper end of the interval.
    pub loss_max: f64,
}

/// What was measured of one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Yardstick {
    /// The task.
    pub task: Task,
    /// SHA-256 of the data.
    pub data: Digest,
    /// How it was asked, in words: shots, template, sampler, which items.
    pub protocol: String,
    /// Words of a text, for the perplexity per word that others publish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub words: Option<u64>,
    /// Results in order.
    pub items: Vec<YardstickItem>,
}

/// One item, or one window of a text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct YardstickItem {
    /// Its name.
    pub id: String,
    /// 1, or the tokens of a window.
    pub weight: f64,
    /// The unquantized model: 1 when right and 0 when not, or the negative log-likelihood of the window, nats.
    pub fp32: f64,
    /// The same for the `.pte`.
    pub pte: f64,
}

/// What the items amount to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct YardstickFigures {
    /// Items.
    pub items: usize,
    /// Share of right items, or perplexity (per word where words are known), of the unquantized model.
    pub fp32: f64,
    /// The same for the `.pte`.
    pub pte: f64,
    /// What is lost, with its 95 % interval: a difference of shares, or a relative rise of perplexity.
    pub loss: Interval,
}

impl Yardstick {
    /// Digest of the protocol: two records with the same one can be compared.
    pub fn protocol_digest(&self) -> Digest {
        Digest::of(self.protocol.as_bytes())
    }

    /// Scores, loss and interval.
    pub fn figures(&self) -> YardstickFigures {
        let total = |value: &dyn Fn(&YardstickItem) -> f64| self.items.iter().map(value).sum::<f64>();
        let weight = total(&|item| item.weight);
        let (fp32, pte) = (total(&|item| item.fp32), total(&|item| item.pte));
        let perplexity = self.task == Task::Wikitext2;
        let worse =
            |item: &YardstickItem| if perplexity { item.pte - item.fp32 } else { item.fp32 - item.pte };
        let pairs: Vec<_> = self.items.iter().map(|item| (worse(item), item.weight)).collect();
        let loss = bootstrap::ratio(&pairs, SEED);
        if !perplexity {
            let (fp32, pte) = (fp32 / weight, pte / weight);
            return YardstickFigures { items: self.items.len(), fp32, pte, loss };
        }
        let per = self.words.map_or(weight, |words| words as f64);
        let (fp32, pte) = ((fp32 / per).exp(), (pte / per).exp());
        YardstickFigures { items: self.items.len(), fp32, pte, loss: loss.map(|x| x.exp() - 1.0) }
    }

    pub(crate) fn judge(&self, id: &str, limit: &YardstickLimit, ledger: &mut Ledger) {
        let it = self.figures();
        let known = self.items.iter().all(|item| item.weight > 0.0 && item.fp32 >= 0.0 && item.pte >= 0.0);
        let holds = known && it.items >= ITEMS_MIN && it.loss.high <= limit.loss_max;
        let got = format!("loss {:+.4} of {} items", it.loss, it.items);
        let expected = format!("upper end at most {:+}, at least {ITEMS_MIN} items", limit.loss_max);
        ledger.judge(id, self.task.as_str(), holds, got, expected);
    }
}

impl fmt::Display for Yardstick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let YardstickFigures { items, fp32, pte, loss } = self.figures();
        let name = self.task.as_str();
        match (self.task, self.words) {
            (Task::Wikitext2, Some(words)) => write!(
                f,
                "{name}: perplexity per word {pte:.3}, fp32 {fp32:.3}, loss {loss:+.4}; {words} words in {items} windows"
            ),
            (Task::Wikitext2, None) => {
                write!(f, "{name}: perplexity {pte:.3}, fp32 {fp32:.3}, loss {loss:+.4}; {items} windows")
            }
            _ => write!(
                f,
                "{name}: {:.1} %, fp32 {:.1} %, loss {loss:+.4}; {items} items",
                pte * 100.0,
                fp32 * 100.0
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choices(count: usize, lost: usize) -> Yardstick {
        let item = |number: usize| YardstickItem {
            id: number.to_string(),
            weight: 1.0,
            fp32: f64::from(u8::from(number.is_multiple_of(2))),
            pte: f64::from(u8::from(number.is_multiple_of(2) && number >= 2 * lost)),
        };
        Yardstick {
            task: Task::ArcChallenge,
            data: Digest::of(b"arc"),
            protocol: "0 shots".into(),
            words: None,
            items: (0..count).map(item).collect(),
        }
    }

    fn refused(it: &Yardstick, loss_max: f64) -> Vec<String> {
        let mut ledger = Ledger::default();
        it.judge("evidence-yardstick", &YardstickLimit { task: it.task, loss_max }, &mut ledger);
        ledger.refused()
    }

    #[test]
    fn a_loss_is_paired_and_judged_by_its_upper_end() {
        let it = choices(200, 4);
        let figures = it.figures();
        assert_eq!((figures.fp32, figures.pte), (0.5, 0.48));
        assert!((figures.loss.value - 0.02).abs() < 1e-12 && figures.loss.high > 0.03, "{it}");
        assert_eq!(refused(&it, 0.06), [""; 0]);
        assert_eq!(refused(&it, 0.03), ["arc-challenge"], "the loss itself would pass");
        assert_eq!(refused(&choices(10, 0), 0.5), ["arc-challenge"], "too few items");
    }

    #[test]
    fn perplexity_is_per_word_and_its_loss_is_relative() {
        let item = |number: u32| YardstickItem {
            id: number.to_string(),
            weight: 100.0,
            fp32: 300.0,
            pte: 300.0 + 100.0 * 1.01_f64.ln(),
        };
        let items = (0..30).map(item).collect();
        let it = Yardstick { task: Task::Wikitext2, words: Some(1500), items, ..choices(1, 0) };
        let figures = it.figures();
        assert!((figures.fp32 - 6.0_f64.exp()).abs() < 1e-6, "{it}");
        assert!((figures.loss.value - 0.01).abs() < 1e-9 && (figures.loss.high - 0.01).abs() < 1e-9, "{it}");
        assert_eq!(refused(&it, 0.02), [""; 0]);
        assert_eq!(refused(&it, 0.005), ["wikitext2"]);
        let mut broken = it;
        broken.items[3].pte = f64::NAN;
        assert_eq!(refused(&broken, 1.0), ["wikitext2"]);
    }
}
