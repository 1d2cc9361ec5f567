//! The real `engine` binary: exit codes, what it prints, what it leaves behind.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use super::{folder, tiny, tiny_pte};
use camino::Utf8Path;
use model_assets::digest::Digest;
use model_assets::{
    evidence::{Benched, EngineCheck, PackedWeights},
    pte::RuntimeTable,
};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::Value;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_engine"));
    command.args(arguments);
    command
}

fn engine(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

/// What a successful call printed.
pub(crate) fn stdout(arguments: &[&str]) -> String {
    let output = engine(arguments);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{arguments:?}: {errors}");
    assert_eq!(errors, "", "messages on success");
    String::from_utf8(output.stdout).unwrap()
}

/// A call that must end with `code`, print nothing, and name `expected` in its message.
pub(crate) fn fails(arguments: &[&str], code: i32, expected: &str) {
    let output = engine(arguments);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
    assert!(errors.contains(expected), "{arguments:?}: {errors}");
    assert!(output.stdout.is_empty());
}

#[test]
fn kernels_are_listed_for_people_and_programs() {
    let table: RuntimeTable = serde_json::from_str(&stdout(&["kernels", "--json"])).unwrap();
    assert_eq!(table, *model_assets::pte::linked_runtime());
    let text = stdout(&["kernels"]);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 1 + table.backends.len() + table.kernels.len());
    assert!(lines.contains(&"backend XnnpackBackend") && lines.contains(&"kernel llama::custom_sdpa.out"));
}

#[test]
fn check_writes_the_evidence() {
    let (_folder, path) = folder();
    let response = path.join("engine.json");
    let (model, reference) = (tiny_pte(), tiny("tiny-int8-seq512.reference"));
    let arguments = [
        "check",
        "--model",
        model.as_str(),
        "--reference",
        reference.as_str(),
        "--response",
        response.as_str(),
    ];
    assert_eq!(stdout(&arguments), "");
    let check: EngineCheck = serde_json::from_slice(&std::fs::read(&response).unwrap()).unwrap();
    assert_eq!(check.runtime, "1.5.1");
    assert_eq!(check.pte_sha256, Digest::of(&std::fs::read(&model).unwrap()).to_string());
    let load = &check.load;
    assert!(load.finite && load.load_ms > 0.0 && load.first_prefill_ms > 0.0, "{load:?}");
    assert!(load.prefill_tokens > 0 && load.decode_tokens > 0, "{load:?}");
    assert!((4 << 20..2 << 30).contains(&load.peak_rss_bytes), "{load:?}");
    let parity = check.parity.unwrap();
    assert!(parity.is_complete(5) && parity.calls == [20, 12, 1, 1, 1, 1, 1, 1, 1, 1], "{:?}", parity.calls);
    assert_eq!(parity.divergence(), None);
    for (name, fed) in parity.runs() {
        assert!(fed.run.rows > load.decode_tokens, "{name}");
        assert!(fed.run.mean_kl <= fed.floor.kl_max(), "{name}: {fed:?}");
        assert!(fed.run.mean_abs_diff <= fed.run.max_abs_diff, "{name}: {fed:?}");
    }
    // Nothing but the answer is left, and a second run replaces it.
    assert_eq!(stdout(&arguments), "");
    let left: Vec<_> =
        path.read_dir_utf8().unwrap().map(|entry| entry.unwrap().file_name().to_owned()).collect();
    assert_eq!(left, ["engine.json"]);
}

#[test]
fn check_without_a_reference_measures_no_parity() {
    let (_folder, path) = folder();
    let response = path.join("engine.json");
    stdout(&["check", "--model", tiny_pte().as_str(), "--response", response.as_str(), "--threads", "1"]);
    let check: EngineCheck = serde_json::from_slice(&std::fs::read(&response).unwrap()).unwrap();
    assert!(check.parity.is_none() && check.load.finite);
    assert_eq!((check.load.prefill_tokens, check.load.decode_tokens), (16, 8));
}

/// A reference file of `tiny`'s shape whose numbers are all the same, fed as a prompt and single steps.
fn reference(path: &Utf8Path, prompt: &[i64], steps: &[i64], (layers, vocab): (usize, usize), number: f32) {
    let tokens = [prompt, steps].concat();
    let calls: Vec<i64> = std::iter::once(i64::try_from(prompt.len()).unwrap())
        .chain(steps.iter().map(|_| 1))
        .filter(|call| *call > 0)
        .collect();
    let first = prompt.len().saturating_sub(1);
    let rows: Vec<i64> = (first..tokens.len()).map(|row| i64::try_from(row).unwrap()).collect();
    let le = |ids: &[i64]| ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<_>>();
    let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> =
        [("tokens", &tokens), ("calls", &calls), ("logit_rows", &rows)]
            .map(|(name, ids)| (name.to_owned(), Dtype::I64, vec![ids.len()], le(ids)))
            .into();
    let mut add = |name: String, shape: Vec<usize>| {
        let count = shape.iter().product::<usize>();
        let data = (0..count).flat_map(|_| number.to_le_bytes()).collect();
        tensors.push((name, Dtype::F32, shape, data));
    };
    for (name, width) in [("residual", 192), ("query", 192), ("key", 64), ("value", 64), ("attention", 192)] {
        add(name.to_owned(), vec![layers, tokens.len(), width]);
        add(format!("{name}_noise"), vec![layers, tokens.len()]);
        add(format!("{name}_floor"), vec![layers, tokens.len()]);
    }
    add("logits".to_owned(), vec![rows.len(), vocab]);
    add("logits_noise".to_owned(), vec![rows.len()]);
    add("logits_floor".to_owned(), vec![rows.len()]);
    add("floor".to_owned(), vec![2, 1, rows.len()]);
    let views = tensors.iter().map(|(name, dtype, shape, data)| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn a_reference_that_does_not_fit_is_code_11() {
    let (_folder, path) = folder();
    let (file, response) = (path.join("reference"), path.join("engine.json"));
    let model = tiny_pte();
    let refused = |expected: &str| {
        let arguments = [
            "check",
            "--model",
            model.as_str(),
            "--reference",
            file.as_str(),
            "--response",
            response.as_str(),
        ];
        fails(&arguments, 11, expected);
        assert!(!response.exists());
    };
    refused("No such file");
    std::fs::write(&file, b"no reference").unwrap();
    refused(file.as_str());
    std::fs::copy(tiny("model.safetensors"), &file).unwrap();
    refused("tensor tokens");
    reference(&file, &[1, 2], &[3], (5, 1000), 0.5);
    refused("got rows of 1000 logits, expected the model's 1024");
    reference(&file, &[1, 1024], &[3], (5, 1024), 0.5);
    refused("got token 1024, expected less than 1024");
    reference(&file, &[1; 510], &[3; 3], (1, 1024), 0.5);
    refused("513 in all");
    reference(&file, &[], &[3], (5, 1024), 0.5);
    refused("expected a prompt and single steps");
    reference(&file, &[1], &[3], (5, 1024), f32::NAN);
    refused("expected only finite ones");
}

#[test]
fn a_reference_of_other_weights_shows_in_the_figures() {
    // The engine measures; whether a difference is too large is xtask's and the recipe's to say.
    let (_folder, path) = folder();
    let (file, response) = (path.join("reference"), path.join("engine.json"));
    reference(&file, &[5, 6, 7], &[8, 9], (5, 1024), 0.5);
    let model = tiny_pte();
    stdout(&[
        "check",
        "--model",
        model.as_str(),
        "--reference",
        file.as_str(),
        "--response",
        response.as_str(),
    ]);
    let check: EngineCheck = serde_json::from_slice(&std::fs::read(&response).unwrap()).unwrap();
    let parity = check.parity.unwrap();
    for (name, fed) in parity.runs() {
        let run = &fed.run;
        assert!(run.rows == 3 && run.max_abs_diff > 1.0 && run.mean_kl > 0.1, "{name}: {run:?}");
    }
    assert_eq!(parity.divergence().unwrap().place.split(',').next(), Some("layer 0"));
}

#[test]
fn a_reference_of_another_number_of_layers_is_code_12() {
    let (_folder, path) = folder();
    let (file, response) = (path.join("reference"), path.join("engine.json"));
    reference(&file, &[5, 6, 7], &[8, 9], (4, 1024), 0.5);
    let (model, response) = (tiny_pte(), response.as_str());
    let arguments =
        ["check", "--model", model.as_str(), "--reference", file.as_str(), "--response", response];
    fails(&arguments, 12, "got 5 layers, expected the reference's 4");
}

#[test]
fn a_model_that_does_not_load_is_code_10() {
    let (_folder, path) = folder();
    let (bad, response) = (path.join("bad.pte"), path.join("engine.json"));
    let bytes = std::fs::read(tiny_pte()).unwrap();
    let refused = |expected: &str| {
        fails(&["check", "--model", bad.as_str(), "--response", response.as_str()], 10, expected);
        fails(&["bench", "--model", bad.as_str()], 10, expected);
        fails(&["run", "--model", bad.as_str(), "--tokens", "1"], 10, expected);
        assert!(!response.exists());
    };
    refused("No such file");
    for content in [&bytes[..0], &bytes[..1000], &bytes[..bytes.len() / 2], &[0x55; 70_000]] {
        std::fs::write(&bad, content).unwrap();
        refused(bad.as_str());
    }
}

#[test]
fn an_answer_that_cannot_be_written_is_code_13() {
    let (_folder, path) = folder();
    let model = tiny_pte();
    let nowhere = path.join("missing/engine.json");
    fails(&["check", "--model", model.as_str(), "--response", nowhere.as_str()], 13, nowhere.as_str());
    // A folder is in the way: the rename fails, and no temporary file stays.
    let folder = path.join("folder");
    std::fs::create_dir(&folder).unwrap();
    fails(&["check", "--model", model.as_str(), "--response", folder.as_str()], 13, folder.as_str());
    assert_eq!(path.read_dir_utf8().unwrap().count(), 1);
}

#[test]
fn a_wrong_command_line_is_code_2() {
    let model = tiny_pte();
    for arguments in [
        &[][..],
        &["nonsense"],
        &["check", "--model", model.as_str()],
        &["bench", "--model", model.as_str(), "--threads", "0"],
        &["bench", "--model", model.as_str(), "--threads", "65"],
        &["bench", "--model", model.as_str(), "--repeats", "0"],
        &["run", "--model", model.as_str()],
        &["run", "--model", model.as_str(), "--tokens", "-1"],
        &["run", "--model", model.as_str(), "--tokens", "1", "--stdin-loop"],
        &["run", "--tokens", "1"],
    ] {
        fails(arguments, 2, "--help");
    }
    for arguments in [&["--help"][..], &["--version"], &["bench", "--help"]] {
        assert!(!stdout(arguments).is_empty());
    }
    assert!(stdout(&["--help"]).contains("11 reference unusable"));
}

fn number(value: &Value, pointer: &str) -> f64 {
    value.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("{pointer} in {value}"))
}

#[test]
fn bench_says_what_became_of_the_packed_weights() {
    let (_folder, path) = folder();
    let bench = |cache: &Utf8Path| {
        let model = tiny_pte();
        let output = engine(&[
            "bench",
            "--model",
            model.as_str(),
            "--repeats",
            "1",
            "--json",
            "--packed-cache",
            cache.as_str(),
        ]);
        assert!(output.status.success());
        serde_json::from_slice::<Benched>(&output.stdout).unwrap().packed.unwrap()
    };
    let cache = path.join("cache");
    assert_eq!(bench(&cache), PackedWeights::Made { replaced: None });
    assert!(matches!(bench(&cache), PackedWeights::Warm | PackedWeights::Proved));
    std::fs::write(path.join("file"), "in the way of a folder").unwrap();
    assert!(matches!(bench(&path.join("file")), PackedWeights::Heap { .. }));
}

#[test]
fn bench_measures() {
    let model = tiny_pte();
    let text = stdout(&[
        "bench",
        "--model",
        model.as_str(),
        "--repeats",
        "2",
        "--json",
        "--profile",
        "--threads",
        "2",
    ]);
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert!(answer["packed"].is_null(), "{answer}");
    let bench = &answer["benchmark"];
    assert_eq!(number(bench, "/file_bytes"), model.metadata().unwrap().len() as f64);
    assert_eq!((number(bench, "/threads"), number(bench, "/chunk_tokens")), (2.0, 128.0));
    let names: Vec<_> =
        bench["speeds"].as_array().unwrap().iter().map(|speed| speed["name"].clone()).collect();
    assert_eq!(names, ["pp64", "pp512", "tg32", "tg128"]);
    for speed in bench["speeds"].as_array().unwrap() {
        let [min, mean, max] = ["/min", "/mean", "/max"].map(|pointer| number(speed, pointer));
        assert!(0.0 < min && min <= mean && mean <= max && max.is_finite(), "{speed}");
    }
    assert!(number(bench, "/load_warm_ms") > 0.0 && number(bench, "/memory/peak_bytes") > 1e6);
    assert!(number(bench, "/roofline/read_bytes_per_second") > 1e8);
    // Head and embedding are tied, and the embedding is not read as a table too.
    let (token, used) =
        (number(bench, "/roofline/bytes_per_token"), number(bench, "/roofline/used_bytes_per_second"));
    // Each layer reads a copy of the rotation before `down`, of which the file has one.
    let copies = f64::from(4 * 64 * 64 * 4);
    assert!((0.85..1.0).contains(&((token - copies) / number(bench, "/file_bytes"))), "{token}");
    assert_eq!(used, token * number(bench, "/speeds/3/mean"));
    let (profile, outside) = (&answer["profile"], number(&answer, "/profile/outside_delegates"));
    assert!((0.0..1.0).contains(&outside) && number(profile, "/tokens") == 32.0, "{profile}");
    let attention = profile["events"]
        .as_array()
        .unwrap()
        .iter()
        .find(|event| event["name"].as_str().unwrap().ends_with("llama::custom_sdpa.out"));
    assert_eq!(number(attention.unwrap(), "/calls_per_token"), 5.0);

    let text = stdout(&["bench", "--model", model.as_str(), "--repeats", "1", "--chunk", "64"]);
    for word in ["load", "pp64", "tg128", "memory", "roofline"] {
        assert!(text.contains(word), "{text}");
    }
    fails(&["bench", "--model", model.as_str(), "--chunk", "513"], 12, "prefill chunk: got 513");
}

fn parsed(line: &str) -> Value {
    serde_json::from_str(line).unwrap()
}

#[test]
fn run_answers_with_tokens_and_a_digest() {
    let model = tiny_pte();
    let run = |tokens: &str, count: &str| {
        stdout(&["run", "--model", model.as_str(), "--tokens", tokens, "-n", count])
    };
    let first = parsed(&run("0,2,7", "6"));
    assert_eq!(first["tokens"].as_array().unwrap().len(), 6);
    assert_eq!((&first["finite"], &first["model"]), (&true.into(), &model.as_str().into()));
    assert_eq!(first, parsed(&run("0,2,7", "6")));
    assert_ne!(first["logits_sha256"], parsed(&run("0,2,8", "6"))["logits_sha256"]);
    assert_eq!(parsed(&run("0", "0"))["tokens"].as_array().unwrap().len(), 0);
    fails(
        &["run", "--model", model.as_str(), "--tokens", "1,1024"],
        12,
        "token 1024 at 1: expected less than 1024",
    );
    fails(&["run", "--model", model.as_str(), "--tokens", "1", "-n", "600"], 12, "context window");
}

#[test]
fn a_talk_goes_on_after_the_end_of_a_reply_and_ends_with_its_last_message() {
    let (_folder, path) = folder();
    let (model, tokenizer, template) = (tiny_pte(), tiny("tokenizer.json"), tiny("chat_template.jinja"));
    let logits = path.join("logits");
    let run = |says: &[&str], count: &str| {
        let mut arguments = vec!["run", "--model", model.as_str(), "--tokenizer", tokenizer.as_str()];
        arguments.extend(["--template", template.as_str(), "--logits", logits.as_str(), "-n", count]);
        says.iter().for_each(|text| arguments.extend(["--prompt", text]));
        let tokens = parsed(&stdout(&arguments))["tokens"].as_array().unwrap().clone();
        assert_eq!(std::fs::metadata(&logits).unwrap().len(), tokens.len() as u64 * 1024 * 4);
        tokens
    };
    let (hello, name) = ("Hello, my name is Vera.", "What is my name?");
    let one = run(&[hello], "64");
    let ends = |tokens: &[Value]| tokens.iter().filter(|token| **token == 1).count();
    assert!(one.len() < 64 && ends(&one) == 1 && one.last().unwrap() == 1, "{one:?}");
    let two = run(&[hello, name], "64");
    assert!(two.starts_with(&one) && ends(&two) == 2 && two.last().unwrap() == 1, "{two:?}");
    // It read its own reply: alone, the question has another answer.
    assert_ne!(two[one.len()..], run(&[name], "64"));
    assert_eq!(run(&[hello, name], "3"), one[..3]);
}

#[test]
fn a_loop_goes_on_after_a_bad_file() {
    let (_folder, path) = folder();
    let (model, bad) = (tiny_pte(), path.join("bad.pte"));
    std::fs::write(&bad, b"bad").unwrap();
    let mut child = command(&["run", "--stdin-loop", "--tokens", "0,2,7", "-n", "2"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{model}\n{bad}\n{model}").unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let lines: Vec<_> = String::from_utf8(output.stdout).unwrap().lines().map(parsed).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0], lines[2]);
    assert!(lines[0]["tokens"].is_array());
    assert!(lines[1]["error"].as_str().unwrap().contains("bad.pte"), "{}", lines[1]);
}
