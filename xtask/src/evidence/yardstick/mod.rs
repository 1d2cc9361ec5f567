//! Yardsticks: public tasks with published figures, run by the engine and by the unquantized model.
//!
//! **Invariant:** both sides get the same questions; the protocol is described in words that are part of the record.

mod instructions;
mod rows;

use std::fs;

use anyhow::{Context as _, ensure};
use model_assets::{
    evidence::{
        AnswerRequest, Prompt, Task, Turn, Yardstick, YardstickItem,
        quality::{Scored, WINDOW_TOKENS_MAX, tokens_max},
    },
    manifest::RUNTIME_VERSION,
    recipe::Quantization,
};
use serde::Deserialize;
use serde_json::json;

use super::{Bench, Checkpoint, Measured, Measurer, Round, eager, no_questions, quality};

use self::rows::Question;
use crate::{
    datasets::Dataset,
    engine::{self, Engine, Profile},
    exit::Failure,
    protocol,
};

/// Items of a task, spread over the whole set.
const CHOICE_ITEMS: usize = 114;
const INSTRUCTION_ITEMS: usize = 40;
const REPLY_TOKENS_MAX: u32 = 256;
const LETTERS: [&str; 8] = ["A", "B", "C", "D", "E", "F", "G", "H"];

pub(super) const MEASURER: Measurer = Measurer { ask: no_questions, measure: evidence };

/// How much is asked, where it is not the usual.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Amount {
    /// Items of a set, or words of a text.
    pub(crate) items: Option<usize>,
    /// Tokens of a window of text.
    pub(crate) window: Option<u32>,
}

/// Every task that the recipe bounds.
fn evidence(round: &Round<'_>, measured: &mut Measured) -> anyhow::Result<()> {
    let (bench, engine) = (round.bench, round.bench.engine(Profile::Dev)?);
    let tasks = bench.claim.recipe.yardstick.iter();
    let results = tasks.map(|limit| measure(bench, &engine, limit.task, round.checkpoint, Amount::default()));
    measured.evidence.yardstick = Some(results.collect::<anyhow::Result<_>>()?);
    Ok(())
}

/// Measures one task.
///
/// # Errors
/// The data cannot be fetched or read, there is no checkpoint, or one of the two sides fails.
pub(crate) fn measure(
    bench: &Bench<'_>,
    engine: &Engine,
    task: Task,
    checkpoint: &Checkpoint,
    amount: Amount,
) -> anyhow::Result<Yardstick> {
    let name = match task {
        Task::Wikitext2 => "wikitext-2-raw-v1",
        Task::MmluTiny => "mmlu",
        Task::ArcChallenge => "arc-challenge",
        Task::IfevalLite => "ifeval",
    };
    let data = Dataset::find(bench.workspace, name)?;
    let path = data.fetch(bench.workspace, bench.console).map_err(Failure::into_error)?;
    let asked = Asked { bench, engine, task, checkpoint, amount, data: data.sha256 };
    match task {
        Task::Wikitext2 => asked.perplexity(&rows::texts(&path)?),
        Task::MmluTiny => asked.choices(&rows::mmlu(&path)?),
        Task::ArcChallenge => asked.choices(&rows::arc(&path)?),
        Task::IfevalLite => asked.instructions(&instructions::items(&path)?),
    }
}

struct Asked<'a> {
    bench: &'a Bench<'a>,
    engine: &'a Engine,
    task: Task,
    checkpoint: &'a Checkpoint,
    amount: Amount,
    data: model_assets::digest::Digest,
}

impl Asked<'_> {
    fn record(&self, protocol: String, words: Option<u64>, items: Vec<YardstickItem>) -> Yardstick {
        Yardstick { task: self.task, data: self.data, protocol, words, items }
    }

    /// The text of the rows up to so many words, in windows that each begin with the token that begins a text.
    fn perplexity(&self, rows: &[String]) -> anyhow::Result<Yardstick> {
        let parameters = self.bench.claim.manifest.export.parameters;
        // More tokens than words, in any tokenizer for this language.
        let usual = usize::try_from(tokens_max(parameters) * 2 / 3)?;
        let most = self.amount.items.unwrap_or(usual);
        let (mut text, mut words) = (String::new(), 0);
        for row in rows {
            if words >= most {
                break;
            }
            words += row.split_whitespace().count();
            text += row;
        }
        ensure!(words > 0, "got no words, expected a text");
        let window =
            self.amount.window.unwrap_or(WINDOW_TOKENS_MAX).min(self.bench.claim.recipe.export.seq_len);
        let place = self.bench.subject().folder("yardstick")?.join("wikitext2.jsonl");
        fs::write(&place, json!({"id": "wikitext2", "text": text}).to_string() + "\n")?;
        let runtime = quality::runtime(self.bench, self.engine);
        let most = u64::try_from(text.len())?;
        let windows =
            quality::scored(&self.bench.subject(), &runtime, self.checkpoint, &place, window, most)?;
        let item = |it: &model_assets::evidence::QualityWindow| YardstickItem {
            id: it.id.clone(),
            weight: f64::from(it.scored),
            fp32: it.nll_fp32,
            pte: it.nll,
        };
        let protocol = format!(
            "WikiText-2 raw, test split, rows in order up to {words} words, as they are; windows of {window} tokens without \
             overlap, each after the token that begins a text; every token is scored"
        );
        Ok(self.record(protocol, Some(words as u64), windows.iter().map(item).collect()))
    }

    /// Letters by the logits after the prompt.
    fn choices(&self, questions: &[Question]) -> anyhow::Result<Yardstick> {
        #[derive(Deserialize)]
        struct Response {
            engine: Scored,
            items: Vec<Answered>,
        }
        #[derive(Deserialize)]
        struct Answered {
            id: String,
            fp32: bool,
            pte: bool,
        }
        // Of the questions that fit the smallest window in use.
        let fits = |it: &&Question| {
            let chars = it.question.len() + it.choices.iter().map(String::len).sum::<usize>();
            chars <= 1200 && (2..=LETTERS.len()).contains(&it.choices.len())
        };
        let usable: Vec<&Question> = questions.iter().filter(fits).collect();
        let picked = spread(&usable, self.amount.items.unwrap_or(CHOICE_ITEMS));
        ensure!(!picked.is_empty(), "got no questions");
        let place = self.bench.subject().folder("yardstick")?.join(format!("{}.jsonl", self.task.as_str()));
        let lines: Vec<_> = picked.iter().map(|it| line(it).to_string() + "\n").collect();
        fs::write(&place, lines.concat())?;
        let runtime = quality::runtime(self.bench, self.engine);
        let window = self.bench.claim.recipe.export.seq_len.min(WINDOW_TOKENS_MAX);
        let command = quality::with_text(&runtime, &place, window);
        self.bench.console.step(&format!("{}: unquantized model and engine", self.task.as_str()));
        let question = protocol::Question::Choice { window, texts: place, engine: command };
        let Response { engine: ran, items } = eager::work(&self.bench.subject(), self.checkpoint, question)?;
        let expected = (RUNTIME_VERSION, self.bench.claim.manifest.sha256);
        engine::ran("the engine", expected, &ran.runtime, &ran.sha256.to_string())?;
        let item = |it: &Answered| YardstickItem {
            id: it.id.clone(),
            weight: 1.0,
            fp32: f64::from(u8::from(it.fp32)),
            pte: f64::from(u8::from(it.pte)),
        };
        let protocol = format!(
            "{} of {} questions, spread evenly over the test split; no examples; one message in the chat template that ends with \
             `Answer with the letter only.`; the likeliest letter as the first token of the reply",
            picked.len(),
            questions.len()
        );
        Ok(self.record(protocol, None, items.iter().map(item).collect()))
    }

    /// Greedy replies, and whether they follow.
    fn instructions(&self, items: &[instructions::Item]) -> anyhow::Result<Yardstick> {
        let all: Vec<_> = items.iter().collect();
        let picked = spread(&all, self.amount.items.unwrap_or(INSTRUCTION_ITEMS));
        ensure!(!picked.is_empty(), "got no items whose every instruction a program can check");
        let prompt =
            |it: &&instructions::Item| Prompt { id: it.id.clone(), messages: vec![Turn::user(&it.prompt)] };
        let prompts = picked.iter().map(prompt).collect();
        let request = AnswerRequest { prompts, temperature: 0.0, seed: 1, tokens_max: REPLY_TOKENS_MAX };
        let run = eager::EagerRun {
            name: "ifeval-lite",
            quantization: Quantization::Fp32,
            request: request.clone(),
        };
        let mut eager = eager::ask(&self.bench.subject(), self.checkpoint, &[run])?;
        let eager = eager.remove("ifeval-lite").context("the eager model answered nothing")?;
        let own = self.engine.answers(self.bench.claim, &self.bench.files, &request, self.bench.console)?;
        let followed = |item: &instructions::Item, reply: &str| f64::from(u8::from(item.followed(reply)));
        let results = picked.iter().zip(own.iter().zip(&eager)).map(|(item, (own, eager))| YardstickItem {
            id: item.id.clone(),
            weight: 1.0,
            fp32: followed(item, &eager.text),
            pte: followed(item, &own.text),
        });
        let protocol = format!(
            "{} of {} items of IFEval all of whose instructions a program can check, spread evenly; the prompt as one message in \
             the chat template; greedy replies of at most {REPLY_TOKENS_MAX} tokens; every instruction of an item followed, \
             strictly",
            picked.len(),
            items.len()
        );
        Ok(self.record(protocol, None, results.collect()))
    }
}

/// One line for the worker and the engine.
fn line(question: &Question) -> serde_json::Value {
    let letters = LETTERS.get(..question.choices.len()).unwrap_or_default();
    let choices: Vec<_> =
        letters.iter().zip(&question.choices).map(|(letter, choice)| format!("{letter}. {choice}")).collect();
    let text =
        format!("{}\n\n{}\n\nAnswer with the letter only.", question.question.trim(), choices.join("\n"));
    json!({
        "id": question.id, "messages": [{"role": "user", "content": text}], "prompt": true, "choices": letters,
        "answer": question.answer,
    })
}

/// `count` of them, evenly; all where there are no more.
fn spread<'a, T>(all: &[&'a T], count: usize) -> Vec<&'a T> {
    if all.len() <= count {
        return all.to_vec();
    }
    (0..count).filter_map(|index| all.get(index * all.len() / count).copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_ends_with_what_is_wanted() {
        let question = Question {
            id: "q".into(),
            question: " What falls? ".into(),
            choices: vec!["an apple".into(), "a star".into()],
            answer: 1,
        };
        let line = line(&question);
        assert_eq!(line["choices"], json!(["A", "B"]));
        let text = "What falls?\n\nA. an apple\nB. a star\n\nAnswer with the letter only.";
        assert_eq!((line["messages"][0]["content"].as_str(), line["answer"].as_u64()), (Some(text), Some(1)));
    }

    #[test]
    fn items_are_spread_over_the_whole_set() {
        let all: Vec<u32> = (0..100).collect();
        let all: Vec<&u32> = all.iter().collect();
        assert_eq!(spread(&all, 4), [&0, &25, &50, &75]);
        assert_eq!(spread(&all[..3], 4).len(), 3);
    }
}
