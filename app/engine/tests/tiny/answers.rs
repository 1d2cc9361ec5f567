//! `engine answer`, `engine talk` and `engine score`.

use std::process::Command;

use camino::Utf8Path;
use model_assets::{
    digest::Digest,
    evidence::{AnswerRequest, Answers, Prompt, TalkRequest, Talked, Turn, quality::Scored},
};
use serde::Serialize;

use super::cli::{fails, stdout};
use super::{folder, tiny, tiny_pte};

/// Runs a command with a request and returns what it wrote.
fn ask<T: serde::de::DeserializeOwned>(folder: &Utf8Path, command: &str, request: &impl Serialize) -> T {
    let (asked, response) = (folder.join("request.json"), folder.join("response.json"));
    std::fs::write(&asked, serde_json::to_vec(request).unwrap()).unwrap();
    let arguments = arguments(command, &asked, &response);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    assert_eq!(stdout(&arguments), "");
    serde_json::from_slice(&std::fs::read(&response).unwrap()).unwrap()
}

fn arguments(command: &str, asked: &Utf8Path, response: &Utf8Path) -> Vec<String> {
    let (model, tokenizer, template) = (tiny_pte(), tiny("tokenizer.json"), tiny("chat_template.jinja"));
    let mut list = vec![command.to_owned()];
    for (flag, path) in [
        ("--model", model.as_path()),
        ("--tokenizer", tokenizer.as_path()),
        ("--template", template.as_path()),
        ("--request", asked),
        ("--response", response),
    ] {
        list.extend([flag.to_owned(), path.to_string()]);
    }
    list
}

fn request(texts: &[&str]) -> AnswerRequest {
    let prompt = |text: &&str| Prompt { id: (*text).to_owned(), messages: vec![Turn::user(*text)] };
    AnswerRequest { prompts: texts.iter().map(prompt).collect(), temperature: 0.01, seed: 7, tokens_max: 48 }
}

#[test]
fn an_answer_does_not_depend_on_its_neighbours() {
    let (_folder, path) = folder();
    let both: Answers = ask(&path, "answer", &request(&["Hello there.", "Tell me a joke."]));
    let alone: Answers = ask(&path, "answer", &request(&["Hello there."]));
    assert_eq!(both.answers.first(), alone.answers.first());
    for answer in &both.answers {
        assert!(
            answer.finished && answer.tokens > 2 && answer.special == 0 && answer.forgotten == 0,
            "{answer:?}"
        );
        assert!(!answer.text.contains("<|"), "{answer:?}");
    }
    assert_eq!((both.runtime.as_str(), both.answers.len()), ("1.5.1", 2));
}

#[test]
fn a_conversation_outgrows_the_window_and_goes_on() {
    let (_folder, path) = folder();
    let long = format!("repeat after me: {}", "calm bored guitar letter ".repeat(12));
    let says: Vec<String> = (0..10).map(|_| long.clone()).collect();
    let talked: Talked =
        ask(&path, "talk", &TalkRequest { says, temperature: 0.01, seed: 7, tokens_max: 32 });
    assert_eq!((talked.window, talked.turns.len()), (512, 10));
    assert!(talked.turns.iter().map(|turn| turn.forgotten).sum::<u32>() > 0, "{talked:?}");
    assert!(talked.turns.iter().all(|turn| turn.prompt_tokens + 32 <= 512), "{talked:?}");
}

#[test]
fn a_request_that_cannot_be_met_is_refused() {
    let (_folder, path) = folder();
    let (asked, response) = (path.join("request.json"), path.join("response.json"));
    let arguments = arguments("answer", &asked, &response);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    fails(&arguments, 2, "request.json");
    std::fs::write(&asked, r#"{"prompts": [], "temperature": 0, "seed": 1}"#).unwrap();
    fails(&arguments, 2, "tokens_max");
    let narrator = r#"[{"id": "a", "messages": [{"role": "narrator", "content": "Once"}]}]"#;
    std::fs::write(
        &asked,
        format!(r#"{{"prompts": {narrator}, "temperature": 0, "seed": 1, "tokens_max": 4}}"#),
    )
    .unwrap();
    fails(&arguments, 2, "got `narrator`");
    let long = request(&["calm ".repeat(900).as_str()]);
    std::fs::write(&asked, serde_json::to_vec(&long).unwrap()).unwrap();
    fails(&arguments, 12, "context window");
    assert!(!response.exists());
}

/// Windows of tiny's own text, as `engine score` writes them: the first line, and tokens and logits of each.
#[test]
fn texts_are_scored_token_by_token() {
    let (model, tokenizer, template) = (tiny_pte(), tiny("tokenizer.json"), tiny("chat_template.jinja"));
    let texts = tiny("heldout.jsonl");
    let paths =
        ["--model", model.as_str(), "--tokenizer", tokenizer.as_str(), "--template", template.as_str()];
    let output = Command::new(env!("CARGO_BIN_EXE_engine"))
        .arg("score")
        .args(paths)
        .args(["--texts", texts.as_str(), "--window", "64", "--windows", "2"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let end = output.stdout.iter().position(|byte| *byte == b'\n').unwrap();
    let about: Scored = serde_json::from_slice(&output.stdout[..end]).unwrap();
    assert_eq!(
        (about.runtime.as_str(), about.sha256),
        ("1.5.1", Digest::of(&std::fs::read(&model).unwrap()))
    );
    let words = output.stdout[end + 1..].as_chunks::<4>().0;
    let one = 1 + 64 + 63 * 1024;
    assert_eq!(words.len(), 2 * one);
    for frame in words.chunks(one) {
        assert_eq!(u32::from_le_bytes(frame[0]), 64);
        let tokens: Vec<_> = frame[1..65].iter().map(|word| u32::from_le_bytes(*word)).collect();
        let rows = frame[65..].chunks(1024).zip(&tokens[1..]);
        let best = |row: &[[u8; 4]]| {
            let logits = row.iter().map(|word| f32::from_le_bytes(*word)).enumerate();
            logits.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(index, _)| index)
        };
        let hits = rows.filter(|(row, next)| best(row) == usize::try_from(**next).ok()).count();
        assert!(hits > 25, "{hits} of 63 tokens of a text in its own words are guessed");
    }
}

#[test]
fn a_score_that_nobody_reads_ends() {
    let (model, tokenizer, template) = (tiny_pte(), tiny("tokenizer.json"), tiny("chat_template.jinja"));
    let texts = tiny("heldout.jsonl");
    let paths =
        ["--model", model.as_str(), "--tokenizer", tokenizer.as_str(), "--template", template.as_str()];
    let mut child = Command::new(env!("CARGO_BIN_EXE_engine"))
        .arg("score")
        .args(paths)
        .args(["--texts", texts.as_str(), "--window", "512", "--windows", "60"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(13), "{}", String::from_utf8_lossy(&output.stderr));
}
