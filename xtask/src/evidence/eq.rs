//! The EQ test and the ten-turn conversation: `.pte` in the engine, eager quantized model beside it.
//!
//! Prompt and answer must fit the window: every item takes well below half of 512 tokens. In the conversation the oldest
//! turns are forgotten where it grows beyond the window, as in the app.

use anyhow::Context as _;
use model_assets::{
    claim::Claim,
    digest::Digest,
    eq::{self, ANSWER_TOKENS_MAX, Item, SEED, TALK_TOKENS_MAX, TEMPERATURE},
    evidence::{Answer, AnswerRequest, Eq, EqItem, Prompt, Talk, TalkRequest, Talked, Turn},
    recipe::Quantization,
};
use serde::{Deserialize, Serialize};

use super::{
    Bench, Measured, Measurer, Round,
    eager::{EagerRun, Replies},
};
use crate::engine::{Engine, Profile};

/// Shortest cycle of characters that counts as a loop when it fills the end of a reply.
const LOOP_CHARS_MIN: usize = 24;
/// How often the end of a reply must repeat itself to count as a loop.
const LOOP_TIMES: usize = 3;
const RUN: &str = "eq";

pub(super) const MEASURER: Measurer = Measurer { ask, measure };

fn ask(bench: &Bench<'_>) -> anyhow::Result<Vec<EagerRun>> {
    Ok(vec![EqTest::new(bench.claim)?.eager_run()])
}

fn measure(round: &Round<'_>, measured: &mut Measured) -> anyhow::Result<()> {
    let (bench, engine) = (round.bench, round.bench.engine(Profile::Dev)?);
    let (eq, transcript) = EqTest::new(bench.claim)?.measure(bench, &engine, &round.eager)?;
    (measured.evidence.eq, measured.transcript) = (Some(eq), Some(transcript));
    Ok(())
}

/// What is asked.
struct EqTest {
    items: Vec<Item>,
    says: Vec<String>,
    quantization: Quantization,
}

/// The whole test, word by word: `eq-transcript.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Transcript {
    /// SHA-256 of the `.pte`.
    pub(crate) pte: Digest,
    pub(crate) temperature: f32,
    pub(crate) items: Vec<TranscriptItem>,
    pub(crate) talk: Vec<TranscriptTurn>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TranscriptItem {
    pub(crate) id: String,
    pub(crate) prompt: String,
    pub(crate) emotions: [String; 4],
    pub(crate) reference: [f64; 4],
    pub(crate) pte: String,
    pub(crate) eager: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TranscriptTurn {
    pub(crate) said: String,
    pub(crate) replied: String,
    pub(crate) prompt_tokens: u32,
    pub(crate) forgotten: u32,
}

impl EqTest {
    fn new(claim: &Claim) -> anyhow::Result<Self> {
        let set = claim.recipe.eq.items;
        let items = set.items().context("the items of the EQ test")?;
        Ok(Self { items, says: set.talk(), quantization: claim.recipe.export.quantization })
    }

    fn request(&self) -> AnswerRequest {
        let prompt = |item: &Item| Prompt { id: item.id.clone(), messages: vec![Turn::user(&item.prompt)] };
        AnswerRequest {
            prompts: self.items.iter().map(prompt).collect(),
            temperature: TEMPERATURE,
            seed: SEED,
            tokens_max: ANSWER_TOKENS_MAX,
        }
    }

    fn eager_run(&self) -> EagerRun {
        EagerRun { name: RUN, quantization: self.quantization, request: self.request() }
    }

    /// Asks the engine, and puts both sides together.
    fn measure(&self, bench: &Bench<'_>, engine: &Engine, eager: &Replies) -> anyhow::Result<(Eq, Vec<u8>)> {
        let own = engine.answers(bench.claim, &bench.files, &self.request(), bench.console)?;
        let eager = eager.get(RUN).context("the eager model answered nothing")?;
        let request = TalkRequest {
            says: self.says.clone(),
            temperature: TEMPERATURE,
            seed: SEED,
            tokens_max: TALK_TOKENS_MAX,
        };
        let talked = engine.talk(bench.claim, &bench.files, &request, bench.console)?;
        let transcript = self.transcript(bench.claim.manifest.sha256, &own, eager, &talked);
        let mut text = serde_json::to_vec_pretty(&transcript)?;
        text.push(b'\n');
        let rated = |answer: &Answer, item: &Item| eq::parse_answer(&answer.text, &item.emotions);
        let pairs = self.items.iter().zip(own.iter().zip(eager));
        let items = pairs
            .map(|(item, (own, eager))| EqItem {
                id: item.id.clone(),
                pte: rated(own, item),
                eager: rated(eager, item),
            })
            .collect();
        Ok((Eq { items, talk: talk(&talked), transcript: Digest::of(&text) }, text))
    }

    fn transcript(&self, pte: Digest, own: &[Answer], eager: &[Answer], talked: &Talked) -> Transcript {
        let item = |(item, (own, eager)): (&Item, (&Answer, &Answer))| TranscriptItem {
            id: item.id.clone(),
            prompt: item.prompt.clone(),
            emotions: item.emotions.clone(),
            reference: item.reference,
            pte: own.text.clone(),
            eager: eager.text.clone(),
        };
        let turn = |(said, turn): (&String, &Answer)| TranscriptTurn {
            said: said.clone(),
            replied: turn.text.clone(),
            prompt_tokens: turn.prompt_tokens,
            forgotten: turn.forgotten,
        };
        Transcript {
            pte,
            temperature: TEMPERATURE,
            items: self.items.iter().zip(own.iter().zip(eager)).map(item).collect(),
            talk: self.says.iter().zip(&talked.turns).map(turn).collect(),
        }
    }
}

/// What a conversation amounts to.
fn talk(talked: &Talked) -> Talk {
    let turns = &talked.turns;
    let count = |test: &dyn Fn(&Answer) -> bool| {
        u32::try_from(turns.iter().filter(|turn| test(turn)).count()).unwrap_or(u32::MAX)
    };
    let (mut row, mut same_in_a_row, mut before) = (0, 0, None);
    for turn in turns {
        row = if before == Some(turn.text.as_str()) { row + 1 } else { 1 };
        same_in_a_row = same_in_a_row.max(row);
        before = Some(&turn.text);
    }
    Talk {
        turns: count(&|_| true),
        tokens: turns.iter().map(|turn| turn.tokens).sum(),
        window: talked.window,
        prompt_tokens_max: turns.iter().map(|turn| turn.prompt_tokens).max().unwrap_or_default(),
        forgotten: turns.iter().map(|turn| turn.forgotten).sum(),
        empty: count(&|turn| turn.text.trim().is_empty()),
        special: turns.iter().map(|turn| turn.special).sum(),
        looping: count(&|turn| loops(&turn.text)),
        same_in_a_row,
    }
}

/// Whether the end of a text is some words over and over.
fn loops(text: &str) -> bool {
    let chars: Vec<char> = text.chars().collect();
    let longest = chars.len() / LOOP_TIMES;
    (1..=longest).any(|period| {
        // Short cycles must go on for longer: `ha ha ha` is a laugh.
        let times = LOOP_TIMES.max(LOOP_CHARS_MIN.div_ceil(period));
        let tail = chars.len().checked_sub(period * times).and_then(|begin| chars.get(begin..));
        tail.is_some_and(|tail| tail.iter().zip(tail.iter().skip(period)).all(|(a, b)| a == b))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collapse_is_told_from_a_refrain() {
        for text in [
            "I am here. I am here. I am here. I am here.",
            "well well well well well well well well",
            "Good. aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        ] {
            assert!(loops(text), "{text}");
        }
        for text in
            ["", "Ha ha ha! That is a good one.", "I listen. I understand. I am here for you.", "no, no, no"]
        {
            assert!(!loops(text), "{text}");
        }
    }

    #[test]
    fn a_conversation_is_counted() {
        let turn = |text: &str, special, forgotten| Answer {
            id: "1".into(),
            text: text.into(),
            finished: true,
            tokens: 3,
            special,
            prompt_tokens: 40,
            forgotten,
        };
        let turns = vec![
            turn("Yes.", 0, 0),
            turn("Yes.", 1, 2),
            turn(" ", 0, 0),
            turn("no no no no no no no no no no", 0, 2),
        ];
        let pte = Digest::of(b"x");
        let talk = talk(&Talked { runtime: String::new(), pte, window: 512, turns });
        assert_eq!((talk.turns, talk.tokens, talk.special, talk.forgotten), (4, 12, 1, 4));
        assert_eq!((talk.empty, talk.looping, talk.same_in_a_row), (1, 1, 2));
    }
}
