//! The EQ test: items, the published EQ-Bench v2 formula, and how sure a difference is.
//!
//! An item is a short dialogue, four emotions, and how strongly somebody feels each of them at its end, 0 to 10. There
//! are two sets of ten, written for this repository: `general` for models that know the world, `small-world` in the
//! format and words that `tiny` was trained on, of combinations that it was not.
//!
//! **Invariant:** the items are part of this crate: evidence names their digest, and another text voids it.

use serde::{Deserialize, Serialize};

use crate::{digest::Digest, evidence};

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
/// Resamples of the interval.
const RESAMPLES: usize = 10_000;
/// Name of the transcript, beside the manifest.
pub const TRANSCRIPT_FILE: &str = "eq-transcript.json";
/// Largest transcript that is read.
pub const TRANSCRIPT_BYTES_MAX: u64 = 4 << 20;

const GENERAL: &str = include_str!("../evidence/eq-general.jsonl");
const SMALL_WORLD: &str = include_str!("../evidence/eq-small-world.jsonl");
const TALK_GENERAL: &str = include_str!("../evidence/talk-general.txt");
const TALK_SMALL_WORLD: &str = include_str!("../evidence/talk-small-world.txt");

impl ItemSet {
    /// The ten items.
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

/// What a set of ratings amounts to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// Items.
    pub items: usize,
    /// Share of readable answers of the `.pte`, 0 to 1.
    pub parse_rate: f64,
    /// Mean score of the readable ones, 0 to 100 (and below).
    pub score: f64,
    /// The same for the eager quantized model.
    pub eager_parse_rate: f64,
    /// The same for the eager quantized model.
    pub eager_score: f64,
    /// Mean over the items that both answered of `.pte` minus eager.
    pub difference: f64,
    /// 95 % interval of that difference.
    pub low: f64,
    /// 95 % interval of that difference.
    pub high: f64,
}

impl Verdict {
    /// Whether the `.pte` and the eager model are as good as one another, as far as the items can tell.
    pub fn agrees(&self) -> bool {
        self.low <= 0.0 && 0.0 <= self.high
    }
}

/// Scores the ratings against the items; `None` when they are not about these items, each once and in order.
pub fn judge(items: &[Item], given: &[evidence::EqItem]) -> Option<Verdict> {
    let same = items.len() == given.len() && items.iter().zip(given).all(|(item, given)| item.id == given.id);
    if !same || items.is_empty() {
        return None;
    }
    let score = |answer: &Option<[f64; 4]>, item: &Item| Some(item_score(answer.as_ref()?, &item.reference));
    let pairs: Vec<(Option<f64>, Option<f64>)> = items
        .iter()
        .zip(given)
        .map(|(item, given)| (score(&given.pte, item), score(&given.eager, item)))
        .collect();
    let own: Vec<f64> = pairs.iter().filter_map(|pair| pair.0).collect();
    let eager: Vec<f64> = pairs.iter().filter_map(|pair| pair.1).collect();
    let differences: Vec<f64> = pairs.iter().filter_map(|pair| Some(pair.0? - pair.1?)).collect();
    let (low, high) = interval(&differences, SEED);
    Some(Verdict {
        items: items.len(),
        parse_rate: own.len() as f64 / items.len() as f64,
        score: mean(&own),
        eager_parse_rate: eager.len() as f64 / items.len() as f64,
        eager_score: mean(&eager),
        difference: mean(&differences),
        low,
        high,
    })
}

/// Mean; of nothing it is no number, which no threshold lets pass.
fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// 95 % percentile bootstrap of the mean, seeded: the same values give the same interval everywhere.
pub fn interval(values: &[f64], seed: u64) -> (f64, f64) {
    if values.is_empty() {
        return (f64::NAN, f64::NAN);
    }
    let mut state = seed;
    let mut next = || {
        // Sebastiano Vigna's SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let draw = |_| {
                let index = usize::try_from(next() % values.len() as u64).unwrap_or_default();
                values.get(index).copied().unwrap_or(f64::NAN)
            };
            (0..values.len()).map(draw).sum::<f64>() / values.len() as f64
        })
        .collect();
    means.sort_by(f64::total_cmp);
    let at = |share: f64| means.get((share * RESAMPLES as f64) as usize).copied().unwrap_or(f64::NAN);
    (at(0.025), at(0.975))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn emotions(names: [&str; 4]) -> [String; 4] {
        names.map(str::to_owned)
    }

    #[test]
    fn both_sets_hold_ten_items_and_ten_turns() {
        for set in [ItemSet::General, ItemSet::SmallWorld] {
            let items = set.items().unwrap();
            assert_eq!(items.len(), 10, "{set:?}");
            assert_eq!(set.talk().len(), TALK_TURNS, "{set:?}");
            for item in &items {
                assert!(item.emotions.iter().all(|emotion| item.prompt.contains(emotion)), "{}", item.id);
                assert!(item.reference.iter().all(|value| (0.0..=10.0).contains(value)), "{}", item.id);
            }
            // Whoever gives the same number to everything must not pass for somebody who reads.
            for value in 0..=10 {
                let scores = items.iter().map(|item| item_score(&[f64::from(value); 4], &item.reference));
                assert!(scores.sum::<f64>() / 10.0 < 66.0, "{set:?}: {value}");
            }
            let mut ids: Vec<_> = items.iter().map(|item| &item.id).collect();
            ids.sort();
            ids.dedup();
            assert_eq!(ids.len(), 10);
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

    fn answered(items: &[Item], off: [f64; 2]) -> Vec<evidence::EqItem> {
        let near = |item: &Item, off: f64| item.reference.map(|value| (value - off).abs());
        let answer = |item: &Item| evidence::EqItem {
            id: item.id.clone(),
            pte: Some(near(item, off[0])),
            eager: Some(near(item, off[1])),
        };
        items.iter().map(answer).collect()
    }

    #[test]
    fn a_worse_model_is_told_from_an_equal_one() {
        let items = ItemSet::General.items().unwrap();
        let equal = judge(&items, &answered(&items, [1.0, 1.0])).unwrap();
        assert!(equal.agrees() && equal.difference == 0.0 && equal.parse_rate == 1.0, "{equal:?}");
        let worse = judge(&items, &answered(&items, [3.0, 1.0])).unwrap();
        assert!(!worse.agrees() && worse.high < 0.0, "{worse:?}");
        assert_eq!(judge(&items, &answered(&items, [3.0, 1.0])).unwrap(), worse, "the interval is seeded");
    }

    #[test]
    fn ratings_of_other_items_and_of_none_prove_nothing() {
        let items = ItemSet::General.items().unwrap();
        let mut given = answered(&items, [0.0, 0.0]);
        given.swap(0, 1);
        assert!(judge(&items, &given).is_none());
        assert!(judge(&items, &given[..9]).is_none());
        let silent = items.iter().map(|i| evidence::EqItem { id: i.id.clone(), pte: None, eager: None });
        let verdict = judge(&items, &silent.collect::<Vec<_>>()).unwrap();
        assert!(verdict.parse_rate == 0.0 && verdict.score.is_nan() && !verdict.agrees(), "{verdict:?}");
    }
}
