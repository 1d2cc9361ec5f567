//! The EQ test and the ten-turn conversation, as they went.
//!
//! **Invariant:** what is kept are the ratings that were given; score, parse rate and interval are computed from them
//! ([`crate::eq`]) wherever they are judged or shown.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::measurement::{Asked, Bounds, Kind, Measurement, Metric, Part, json, within};
pub use crate::eq::EqItem;
use crate::{
    digest::Digest,
    eq::{self, EqVerdict, ItemSet},
    error::ContractError,
    ledger::Ledger,
};

/// Most turns in a row with the same reply: a person may say three things that deserve the same answer.
const SAME_IN_A_ROW_MAX: u32 = 3;

pub(super) const KIND: Kind =
    Kind { name: "EQ test", title: "EQ test and conversation", absent: "Not measured.", check };

/// EQ test thresholds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct EqLimits {
    /// Smallest score, 0 to 100; without it the answers are only compared with the eager model's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score_min: Option<f64>,
    /// Which items are asked.
    #[serde(default)]
    pub items: ItemSet,
}

/// The EQ test of the `.pte`, paired with the eager quantized model, and a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Eq {
    /// Items in order.
    pub items: Vec<EqItem>,
    /// The conversation.
    pub talk: Talk,
    /// SHA-256 of the transcript, `eq-transcript.json` beside the manifest.
    pub transcript: Digest,
}

/// Counts over a conversation in which the model reads its own replies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Talk {
    /// Turns that got a reply.
    pub turns: u32,
    /// Tokens replied.
    pub tokens: u32,
    /// Context window, tokens.
    pub window: u32,
    /// Largest prompt that was fed, tokens.
    pub prompt_tokens_max: u32,
    /// Messages that had to be forgotten for want of room.
    pub forgotten: u32,
    /// Replies with nothing in them.
    pub empty: u32,
    /// Special tokens inside replies.
    pub special: u32,
    /// Replies that end in a loop of the same words.
    pub looping: u32,
    /// Most turns in a row with the same reply.
    pub same_in_a_row: u32,
}

impl Measurement for Eq {
    fn judge(&self, id: &str, asked: &Asked<'_>, ledger: &mut Ledger) {
        let limits = asked.bounds.eq;
        let Some(verdict) = self.verdict(asked) else {
            let got = format!("{} answers", self.items.len());
            return ledger.fail(id, "items", got, "one for each item of the test");
        };
        let EqVerdict { items, readable, eager_readable, readable_difference, scores } = &verdict;
        let got = format!("{readable} of {items}, eager {eager_readable}");
        let holds = readable_difference.holds_zero();
        ledger.judge(id, "readable answers", holds, got, "as many as eager's, as far as the items can tell");
        if let Some(min) = limits.score_min {
            let passed = scores.is_some_and(|it| it.score >= min);
            let expected =
                format!("at least {min}, {:.2} % of the answers readable", eq::PARSE_RATE_MIN * 100.0);
            ledger.judge(id, "score", passed, &verdict, expected);
        }
        if let Some(scores) = scores {
            let holds = scores.difference.holds_zero();
            ledger.judge(id, "difference from eager", holds, &verdict, "an interval that holds 0");
        }
        self.talk.judge(id, ledger);
    }

    fn lines(&self, asked: &Asked<'_>) -> Vec<String> {
        let Talk { turns, forgotten, .. } = self.talk;
        let line = self.verdict(asked).map(|verdict| {
            format!("eq: {verdict}; conversation of {turns} turns, {forgotten} messages forgotten")
        });
        line.into_iter().collect()
    }

    fn card(&self, asked: &Asked<'_>) -> Vec<String> {
        let row = self.verdict(asked).map(|EqVerdict { items, readable, scores, .. }| match scores {
            Some(it) => {
                format!("{:.1} of 100 over {} items (eager model {:.1})", it.score, it.items, it.eager)
            }
            None => format!("readable {readable} of {items}, the score means nothing"),
        });
        row.into_iter().collect()
    }

    fn metrics(&self, asked: &Asked<'_>) -> Vec<Metric> {
        let Some(verdict) = self.verdict(asked) else { return Vec::new() };
        let metric = |name, value| Metric { name, slice: format!("{} dialogues", verdict.items), value };
        let share = verdict.readable as f64 / verdict.items as f64;
        let score = verdict.scores.map(|scores| metric("EQ score, of 100", scores.score));
        [metric("share of readable EQ answers", share)].into_iter().chain(score).collect()
    }

    fn parts(&self, asked: &Asked<'_>) -> Vec<Part> {
        let Some(verdict) = self.verdict(asked) else { return vec![Part::Text(KIND.absent.to_owned())] };
        let result = format!(
            "Of 100: {verdict}. Readable answers: {} of {}, eager {}. So few items tell a broken model from a whole one; \
             they do not rank good ones.",
            verdict.readable, verdict.items, verdict.eager_readable
        );
        let it = &self.talk;
        let talk = format!(
            "Conversation of {} turns: {} tokens said, largest prompt {} of {} tokens, {} messages forgotten for want of \
             room, {} empty, {} looping, {} special tokens.",
            it.turns,
            it.tokens,
            it.prompt_tokens_max,
            it.window,
            it.forgotten,
            it.empty,
            it.looping,
            it.special
        );
        vec![Part::Text(result), self.ratings_table(asked, verdict.scores.is_some()), Part::Text(talk)]
    }

    fn value(&self) -> Value {
        json(self)
    }
}

impl Eq {
    /// What the ratings amount to; nothing where they are not about the items that the recipe names.
    fn verdict(&self, asked: &Asked<'_>) -> Option<EqVerdict> {
        eq::judge(&asked.bounds.eq.items.items().unwrap_or_default(), &self.items)
    }

    /// Item by item; too few to be scored are not scored one by one either.
    fn ratings_table(&self, asked: &Asked<'_>, scored: bool) -> Part {
        let joined = |values: &[f64; 4]| values.map(|value| value.to_string()).join(", ");
        let ratings = |given: &Option<[f64; 4]>| given.as_ref().map_or("not readable".to_owned(), joined);
        let items = asked.bounds.eq.items.items().unwrap_or_default();
        let row = |(item, given): (&eq::Item, &EqItem)| {
            let score = given.pte.filter(|_| scored).map(|it| eq::item_score(&it, &item.reference));
            vec![
                item.id.clone(),
                item.emotions.join(", "),
                format!("({})", joined(&item.reference)),
                ratings(&given.pte),
                ratings(&given.eager),
                score.map_or("none".to_owned(), |score| format!("{score:.1}")),
            ]
        };
        Part::Table {
            caption: "Ratings, 0 to 10",
            heads: vec!["item", "emotions", "right", ".pte", "eager", "score"],
            rows: items.iter().zip(&self.items).map(row).collect(),
        }
    }
}

impl Talk {
    fn judge(&self, id: &str, ledger: &mut Ledger) {
        let holds = self.turns as usize == eq::TALK_TURNS
            && self.tokens > 0
            && self.prompt_tokens_max <= self.window
            && (self.empty, self.special, self.looping) == (0, 0, 0)
            && self.same_in_a_row <= SAME_IN_A_ROW_MAX;
        let expected = format!(
            "{} turns within the window, none empty or looping, no special token, at most {SAME_IN_A_ROW_MAX} same \
             replies in a row",
            eq::TALK_TURNS
        );
        ledger.judge(id, "conversation", holds, format!("{self:?}"), expected);
    }
}

fn check(bounds: &Bounds<'_>) -> Result<(), ContractError> {
    within("eq.score_min", bounds.eq.score_min.unwrap_or_default(), 100.0)
}
