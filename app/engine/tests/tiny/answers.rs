//! `engine answer`, `engine talk` and the held-out half of `engine check`.

use camino::{Utf8Path, Utf8PathBuf};
use model_assets::evidence::{
    AnswerRequest, Answers, EngineCheck, Heldout, Prompt, TalkRequest, Talked, Turn,
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

fn heldout(tokenizer: &Utf8PathBuf) -> Heldout {
    let (_folder, path) = folder();
    let response = path.join("check.json");
    let (model, reference) = (tiny_pte(), tiny("tiny-int8-seq512.reference"));
    let template = tiny("chat_template.jinja");
    let arguments = ["check", "--model", model.as_str(), "--reference", reference.as_str(), "--tokenizer"];
    let rest = [tokenizer.as_str(), "--template", template.as_str(), "--response", response.as_str()];
    stdout(&[&arguments[..], &rest[..]].concat());
    let check: EngineCheck = serde_json::from_slice(&std::fs::read(&response).unwrap()).unwrap();
    check.parity.unwrap().heldout.unwrap()
}

#[test]
fn held_out_texts_agree_with_the_eager_model() {
    let it = heldout(&tiny("tokenizer.json"));
    assert!(it.texts > 4 && it.same_tokens == it.texts && it.tokens > 2000, "{it:?}");
    assert!(it.scored > 1000 && it.quantized.rows == 512 && it.fp32.rows == 512, "{it:?}");
    assert!(it.quantized.mean_kl < it.fp32.mean_kl && it.fp32.mean_kl < 0.01, "{it:?}");
    assert!(1.0 < it.perplexity && it.perplexity_ratio() < 1.02, "{it:?}");
    assert!((it.perplexity / it.perplexity_quantized - 1.0).abs() < 1e-3, "{it:?}");
}
