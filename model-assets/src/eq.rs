//! The EQ test: items, the published EQ-Bench v2 formula, and how sure a difference is.
//!
//! An item is a short dialogue, four emotions, and how strongly somebody feels each of them at its end, 0 to 10. There
//! are two sets, written for this repository: `general` (30 items) for models that know the world, `small-world` (10) in
//! the format and words that `tiny` was trained on, of combinations that it was not.
//!
//! **Invariant:** scores and their difference are of the same items: those that both models answered readably. There is
//! no score where these are too few.
//!
//! **Invariant:** the items are part of this crate: evidence names their digest, and another text voids it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    bootstrap::{self, Interval},
    digest::Digest,
};

/// Which items a model is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ItemSet {
    /// Dialogues of daily life, for any instruction-tuned model.
    #[default]
    General,
    /// Dialogues of the small world that `tiny` was trained on.
    SmallWorld,
}

/// One item.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// Its name.
    pub id: String,
    /// What the model is asked.
    pub prompt: String,
    /// The four emotions, as the prompt names them.
    pub emotions: [String; 4],
    /// How strong they are.
    pub reference: [f64; 4],
}

/// Share of items whose answer must be readable, as published.
pub const PARSE_RATE_MIN: f64 = 5.0 / 6.0;
/// Sampling temperature, as published.
pub const TEMPERATURE: f32 = 0.01;
/// Seed of the sampling and of the interval.
pub const SEED: u64 = 20;
/// Most tokens of an answer: four lines of a rating, and some talk around them.
pub const ANSWER_TOKENS_MAX: u32 = 96;
/// Turns of the conversation.
pub const TALK_TURNS: usize = 10;
/// Most tokens of a turn's reply.
pub const TALK_TOKENS_MAX: u32 = 96;
/// Name of the transcript, beside the manifest.
pub const TRANSCRIPT_FILE: &str = "eq-transcript.json";
/// Largest transcript that is read.
pub const TRANSCRIPT_BYTES_MAX: u64 = 4 << 20;

const GENERAL: &str = include_str!("../evidence/eq-general.jsonl");
const SMALL_WORLD: &str = include_str!("../evidence/eq-small-world.jsonl");
const TALK_GENERAL: &str = include_str!("../evidence/talk-general.txt");
const TALK_SMALL_WORLD: &str = include_str!("../evidence/talk-small-world.txt");

impl ItemSet {
    /// The items.
    ///
    /// # Errors
    /// Never, for the items of this crate (a test reads them all).
    pub fn items(self) -> Result<Vec<Item>, serde_json::Error> {
        let text = match self {
            Self::General => GENERAL,
            Self::SmallWorld => SMALL_WORLD,
        };
        text.lines().map(serde_json::from_str).collect()
    }

    /// What the person says in the conversation of ten turns.
    pub fn talk(self) -> Vec<String> {
        let text = match self {
            Self::General => TALK_GENERAL,
            Self::SmallWorld => TALK_SMALL_WORLD,
        };
        // One line per turn; a line break within a turn is written `\n`.
        text.lines().map(|line| line.replace("\\n", "\n")).collect()
    }
}

/// Digest of every item and conversation.
pub fn items_digest() -> Digest {
    Digest::of([GENERAL, SMALL_WORLD, TALK_GENERAL, TALK_SMALL_WORLD].concat().as_bytes())
}

/// One item by the EQ-Bench v2 formula, times 10: 100 is perfect, far off is below 0.
pub fn item_score(given: &[f64; 4], reference: &[f64; 4]) -> f64 {
    let penalty = |distance: f64| {
        if distance == 0.0 {
            0.0
        } else if distance <= 5.0 {
            6.5 / (1.0 + (-1.2 * (distance - 4.0)).exp())
        } else {
            distance
        }
    };
    let sum: f64 = given.iter().zip(reference).map(|(given, right)| penalty((given - right).abs())).sum();
    10.0 * (10.0 - 0.7477 * sum)
}

/// The ratings in an answer: a line `emotion: number` for each of the four, whatever stands around them. `None` when one
/// is missing, given twice with different values, or out of range.
pub fn parse_answer(text: &str, emotions: &[String; 4]) -> Option<[f64; 4]> {
    let mut found: [Option<f64>; 4] = [None; 4];
    for line in text.lines() {
        let plain = line.replace(['*', '`', '_'], "").to_lowercase();
        let Some((name, value)) = plain.split_once(':') else { continue };
        let name = name.trim().trim_start_matches(|c: char| !c.is_alphabetic());
        let Some(index) = emotions.iter().position(|emotion| emotion.to_lowercase() == name) else {
            continue;
        };
        let number = value.trim().split(|c: char| !(c.is_ascii_digit() || c == '.')).next()?;
        let rating: f64 = number.trim_end_matches('.').parse().ok()?;
        let slot = found.get_mut(index)?;
        if !(0.0..=10.0).contains(&rating) || slot.is_some_and(|earlier| earlier != rating) {
            return None;
        }
        *slot = Some(rating);
    }
    let [Some(a), Some(b), Some(c), Some(d)] = found else { return None };
    Some([a, b, c, d])
}

/// One item: what was rated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct EqItem {
    /// Name of the item.
    pub id: String,
    /// The four ratings by the `.pte`; absent when its answer could not be read.
    pub pte: Option<[f64; 4]>,
    /// Those by the eager quantized model.
    pub eager: Option<[f64; 4]>,
}

/// What a set of ratings amounts to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EqVerdict {
    /// Items.
    pub items: usize,
    /// Items that the `.pte` answered readably.
    pub readable: usize,
    /// The same for the eager quantized model.
    pub eager_readable: usize,
    /// Share of readable answers of the `.pte` minus the eager model's.
    pub readable_difference: Interval,
    /// Absent where fewer than [`PARSE_RATE_MIN`] of the items were answered readably by both.
    pub scores: Option<Scores>,
}

/// Scores over the items that both models answered readably.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Scores {
    /// How many these are.
    pub items: usize,
    /// Mean score of the `.pte`, 0 to 100 (and below).
    pub score: f64,
    /// The same for the eager quantized model.
    pub eager: f64,
    /// Mean of `.pte` minus eager.
    pub difference: Interval,
}

impl fmt::Display for EqVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { items, readable, eager_readable, .. } = self;
        match &self.scores {
            Some(it) => write!(
                f,
                "score {:.2}, eager {:.2}, difference {:+.2} over {} of {items} items",
                it.score, it.eager, it.difference, it.items
            ),
            None => {
                write!(f, "readable {readable} of {items} (eager {eager_readable}), the score means nothing")
            }
        }
    }
}

/// Scores the ratings against the items; `None` when they are not about these items, each once and in order.
pub fn judge(items: &[Item], given: &[EqItem]) -> Option<EqVerdict> {
    let same = items.len() == given.len() && items.iter().zip(given).all(|(item, given)| item.id == given.id);
    if !same || items.is_empty() {
        return None;
    }
    let score = |answer: &Option<[f64; 4]>, item: &Item| Some(item_score(answer.as_ref()?, &item.reference));
    let pairs: Vec<_> = items
        .iter()
        .zip(given)
        .filter_map(|(item, given)| Some((score(&given.pte, item)?, score(&given.eager, item)?)))
        .collect();
    let more = |given: &EqItem| f64::from(given.pte.is_some()) - f64::from(given.eager.is_some());
    Some(EqVerdict {
        items: items.len(),
        readable: given.iter().filter(|given| given.pte.is_some()).count(),
        eager_readable: given.iter().filter(|given| given.eager.is_some()).count(),
        readable_difference: bootstrap::mean(&given.iter().map(more).collect::<Vec<_>>(), SEED),
        scores: (pairs.len() as f64 >= PARSE_RATE_MIN * items.len() as f64).then(|| scores(&pairs)),
    })
}

fn scores(pairs: &[(f64, f64)]) -> Scores {
    let mean = |side: &dyn Fn(&(f64, f64)) -> f64| pairs.iter().map(side).sum::<f64>() / pairs.len() as f64;
    let differences: Vec<_> = pairs.iter().map(|(own, eager)| own - eager).collect();
    Scores {
        items: pairs.len(),
        score: mean(&|pair| pair.0),
        eager: mean(&|pair| pair.1),
        difference: bootstrap::mean(&differences, SEED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn emotions(names: [&str; 4]) -> [String; 4] {
        names.map(str::to_owned)
    }

    #[test]
    fn both_sets_hold_their_items_and_ten_turns() {
        for (set, count) in [(ItemSet::General, 30), (ItemSet::SmallWorld, 10)] {
            let items = set.items().unwrap();
            assert_eq!(items.len(), count, "{set:?}");
            assert_eq!(set.talk().len(), TALK_TURNS, "{set:?}");
            for item in &items {
                assert!(item.emotions.iter().all(|emotion| item.prompt.contains(emotion)), "{}", item.id);
                assert!(item.reference.iter().all(|value| (0.0..=10.0).contains(value)), "{}", item.id);
            }
            // Whoever gives the same number to everything must not pass for somebody who reads.
            for value in 0..=10 {
                let scores = items.iter().map(|item| item_score(&[f64::from(value); 4], &item.reference));
                assert!(scores.sum::<f64>() / (count as f64) < 66.0, "{set:?}: {value}");
            }
            let mut ids: Vec<_> = items.iter().map(|item| &item.id).collect();
            ids.sort();
            ids.dedup();
            assert_eq!(ids.len(), count);
        }
    }

    #[test]
    fn the_formula_is_the_published_one() {
        let reference = [0.0, 5.0, 10.0, 3.0];
        assert!((item_score(&reference, &reference) - 100.0).abs() < 1e-12);
        // One off by 4: the sigmoid is at its middle, 3.25.
        let score = item_score(&[4.0, 5.0, 10.0, 3.0], &reference);
        assert!((score - 10.0 * (10.0 - 0.7477 * 3.25)).abs() < 1e-12);
        // Beyond 5 the penalty is the distance.
        let score = item_score(&[8.0, 5.0, 10.0, 3.0], &reference);
        assert!((score - 10.0 * (10.0 - 0.7477 * 8.0)).abs() < 1e-12);
    }

    #[test]
    fn answers_are_read_with_what_stands_around_them() {
        let emotions = emotions(["sad", "Angry", "proud", "calm"]);
        let plain = "sad: 7\nangry: 0\nproud: 10\ncalm: 2";
        assert_eq!(parse_answer(plain, &emotions), Some([7.0, 0.0, 10.0, 2.0]));
        let chatty = "Here are my ratings:\n- **Sad**: 7/10\n- Angry: 0.5\n2. proud: 10.\n * calm : 2 (low)\nDone: yes";
        assert_eq!(parse_answer(chatty, &emotions), Some([7.0, 0.5, 10.0, 2.0]));
    }

    #[test]
    fn answers_that_say_less_or_too_much_are_not_read() {
        let emotions = emotions(["sad", "angry", "proud", "calm"]);
        for text in [
            "",
            "sad: 7\nangry: 0\nproud: 10",
            "sad: 7\nangry: 0\nproud: 10\ncalm: 11",
            "sad: 7\nangry: 0\nproud: 10\ncalm: very",
            "sad: 7\nangry: 0\nproud: 10\ncalm: 2\nsad: 3",
            "sadder: 7\nangry: 0\nproud: 10\ncalm: 2",
        ] {
            assert_eq!(parse_answer(text, &emotions), None, "{text}");
        }
    }

    fn answered(items: &[Item], off: [f64; 2]) -> Vec<EqItem> {
        let near = |item: &Item, off: f64| item.reference.map(|value| (value - off).abs());
        let answer = |item: &Item| EqItem {
            id: item.id.clone(),
            pte: Some(near(item, off[0])),
            eager: Some(near(item, off[1])),
        };
        items.iter().map(answer).collect()
    }

    #[test]
    fn a_worse_model_is_told_from_an_equal_one() {
        let items = ItemSet::General.items().unwrap();
        let equal = judge(&items, &answered(&items, [1.0, 1.0])).unwrap().scores.unwrap();
        assert!(equal.difference.holds_zero() && equal.difference.value == 0.0, "{equal:?}");
        let worse = judge(&items, &answered(&items, [3.0, 1.0])).unwrap();
        let scores = worse.scores.unwrap();
        assert!(!scores.difference.holds_zero() && scores.difference.high < 0.0, "{worse:?}");
        assert_eq!(judge(&items, &answered(&items, [3.0, 1.0])).unwrap(), worse, "the interval is seeded");
    }

    #[test]
    fn scores_and_their_difference_are_of_the_same_items() {
        let items = ItemSet::General.items().unwrap();
        let mut given = answered(&items, [1.0, 1.0]);
        // Far off where only one side can be read: neither score may hear of it.
        for (index, side) in given.iter_mut().take(4).enumerate() {
            if index % 2 == 0 {
                (side.pte, side.eager) = (Some([10.0, 10.0, 0.0, 0.0]), None);
            } else {
                (side.pte, side.eager) = (None, Some([0.0, 0.0, 10.0, 10.0]));
            }
        }
        let verdict = judge(&items, &given).unwrap();
        let scores = verdict.scores.unwrap();
        assert_eq!((scores.items, verdict.readable, verdict.eager_readable), (26, 28, 28));
        assert_eq!(scores.score, scores.eager);
        assert!((scores.score - scores.eager - scores.difference.value).abs() < 1e-12, "{verdict}");
    }

    #[test]
    fn too_few_readable_answers_have_no_score() {
        let items = ItemSet::General.items().unwrap();
        let unread = |own: usize, eager: usize| {
            let mut given = answered(&items, [1.0, 1.0]);
            given.iter_mut().take(own).for_each(|it| it.pte = None);
            given.iter_mut().take(eager).for_each(|it| it.eager = None);
            judge(&items, &given).unwrap()
        };
        assert!(unread(5, 5).scores.is_some());
        let silent = unread(27, 26);
        assert_eq!(silent.to_string(), "readable 3 of 30 (eager 4), the score means nothing");
        assert!(silent.readable_difference.holds_zero(), "{silent:?}");
        assert!(!unread(27, 5).readable_difference.holds_zero());
    }

    #[test]
    fn ratings_of_other_items_prove_nothing() {
        let items = ItemSet::General.items().unwrap();
        let mut given = answered(&items, [0.0, 0.0]);
        given.swap(0, 1);
        assert!(judge(&items, &given).is_none());
        assert!(judge(&items, &given[..9]).is_none());
        assert!(judge(&[], &[]).is_none());
    }
}
