//! Yardsticks: tasks that others publish figures of, by the `.pte` in the engine and by the unquantized model, item by item.
//!
//! A score depends on shots, template and sampler more than on quantization, so a recipe bounds what is lost between the two
//! and never the score.
//!
//! **Invariant:** what is kept are results per item; score, loss and interval are computed from them. Which items, asked how, is
//! part of the record: the digest of the data and that of the protocol.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    EvidenceKind,
    measurement::{Asked, Bounds, Kind, Measurement, Metric, Part, json},
};
use crate::{
    bootstrap::{self, Interval},
    digest::Digest,
    error::ContractError,
    ledger::Ledger,
};

pub(super) const KIND: Kind = Kind {
    name: "Yardstick",
    title: "Yardsticks",
    absent: "Not measured: the recipe bounds none, or the evidence is still to come.",
    check,
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

    /// Published figures of one model, by another protocol.
    pub fn published(self) -> &'static str {
        match self {
            Self::Wikitext2 => {
                "Llama 3.2 1B Instruct, perplexity per word: 22.92 at a window of 512, 34.83 at 128 (executorch PR 11663)"
            }
            Self::MmluTiny => {
                "Llama 3.2 1B Instruct, MMLU: BF16 49.3, vanilla PTQ 43.3, SpinQuant 47.3, QLoRA 49.0 (model card)"
            }
            Self::ArcChallenge => {
                "Llama 3.2 1B Instruct, ARC-C: BF16 59.4, vanilla PTQ 54.3, SpinQuant 57.0, QLoRA 60.7 (model card)"
            }
            Self::IfevalLite => {
                "Llama 3.2 1B Instruct, IFEval: BF16 59.5, vanilla PTQ 51.5, SpinQuant 58.4, QLoRA 55.6 (model card)"
            }
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

    /// What a person reads of a result.
    pub fn lines(&self) -> [String; 3] {
        [
            self.to_string(),
            format!("protocol {}: {}", self.protocol_digest(), self.protocol),
            format!("published, by other protocols (compare losses, not scores): {}", self.task.published()),
        ]
    }

    fn judge(&self, id: &str, limit: &YardstickLimit, ledger: &mut Ledger) {
        let it = self.figures();
        let known = self.items.iter().all(|item| item.weight > 0.0 && item.fp32 >= 0.0 && item.pte >= 0.0);
        let holds = known && it.items >= ITEMS_MIN && it.loss.high <= limit.loss_max;
        let got = format!("loss {:+.4} of {} items", it.loss, it.items);
        let expected = format!("upper end at most {:+}, at least {ITEMS_MIN} items", limit.loss_max);
        ledger.judge(id, self.task.as_str(), holds, got, expected);
    }
}

impl Measurement for Vec<Yardstick> {
    /// Judges every task of the recipe; what else was measured is not judged.
    fn judge(&self, id: &str, asked: &Asked<'_>, ledger: &mut Ledger) {
        for limit in asked.bounds.yardstick {
            match self.iter().find(|it| it.task == limit.task) {
                Some(it) => it.judge(id, limit, ledger),
                None => ledger.fail(id, limit.task.as_str(), "none", "a measurement of this task"),
            }
        }
    }

    fn lines(&self, _: &Asked<'_>) -> Vec<String> {
        self.iter().flat_map(Yardstick::lines).collect()
    }

    fn card(&self, _: &Asked<'_>) -> Vec<String> {
        self.iter().map(ToString::to_string).collect()
    }

    fn metrics(&self, _: &Asked<'_>) -> Vec<Metric> {
        let of_task = |it: &Yardstick| {
            let figures = it.figures();
            let slice = format!("{}, protocol {}", it.task.as_str(), it.protocol_digest());
            [("score", figures.pte), ("loss from eager fp32", figures.loss.value)]
                .map(|(name, value)| Metric { name, slice: slice.clone(), value })
        };
        self.iter().flat_map(of_task).collect()
    }

    fn parts(&self, asked: &Asked<'_>) -> Vec<Part> {
        if self.is_empty() {
            return vec![Part::Text(KIND.absent.to_owned())];
        }
        let row = |it: &Yardstick| {
            let limit = asked.bounds.yardstick.iter().find(|limit| limit.task == it.task);
            let figures = it.figures();
            vec![
                it.task.as_str().to_owned(),
                format!("{:.4}", figures.pte),
                format!("{:.4}", figures.fp32),
                format!("{:+.4}", figures.loss),
                limit.map_or("none".to_owned(), |limit| format!("upper end at most {}", limit.loss_max)),
                figures.items.to_string(),
            ]
        };
        let table = Part::Table {
            caption: "Yardsticks, item by item",
            heads: vec!["task", ".pte", "unquantized", "loss, 95 % interval", "bound", "items"],
            rows: self.iter().map(row).collect(),
        };
        let protocol = |it: &Yardstick| {
            let (task, published) = (it.task.as_str(), it.task.published());
            Part::Text(format!("{task}: {}. Published, by other protocols: {published}.", it.protocol))
        };
        [table].into_iter().chain(self.iter().map(protocol)).collect()
    }

    fn value(&self) -> Value {
        json(self)
    }
}

fn check(bounds: &Bounds<'_>) -> Result<(), ContractError> {
    let refuse = |got: String, expected| Err(ContractError::value("recipe.toml", "yardstick", got, expected));
    if bounds.yardstick.is_empty() && bounds.demands.any(EvidenceKind::Yardstick) {
        return refuse("no table".to_owned(), "a task and its loss, as `evidence` demands it");
    }
    for (index, limit) in bounds.yardstick.iter().enumerate() {
        let twice = bounds.yardstick.iter().take(index).any(|earlier| earlier.task == limit.task);
        if twice || !(0.0..=1.0).contains(&limit.loss_max) {
            let got = format!("{} with {}", limit.task.as_str(), limit.loss_max);
            return refuse(got, "each task once, a loss of 0 to 1");
        }
    }
    Ok(())
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
