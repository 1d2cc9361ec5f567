//! Every command is started by a test: [`STARTED`] names the test of each, and holds the list to `docs/commands.md`, which is
//! written from the command line itself. Commands that no other test starts are started here, on the smallest real input.
//!
//! Needs the set-up and `cargo xtask export` first, as `cargo xtask test` does.
#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

mod tree;

use std::{fs, path::Path, process::Command};

use tree::{Tree, repository, said, two_models};

/// Command, the file that starts it, and the line there that does.
const STARTED: &[(&str, &str, &str)] = &[
    ("doctor", "xtask/tests/cli.rs", r#".args(["doctor", "--json", "--mobile"])"#),
    ("setup", "xtask/tests/secrets.rs", r#"tree.xtask(&["setup"])"#),
    ("export", "xtask/tests/kill.rs", r#".args(["export", "tiny", "--force", "--json"])"#),
    ("verify", "xtask/tests/bundle.rs", r#"tree.run(&["verify", "tiny", "--level", "static"])"#),
    ("report", "xtask/tests/refused.rs", r#"tree.run(&["report", "tiny", "#),
    ("inspect", "xtask/tests/inspect.rs", r#"xtask(&["inspect", "#),
    ("clean", "xtask/tests/clean.rs", r#"tree.run(&["clean", "--models"])"#),
    ("new", "xtask/tests/new.rs", r#"run(&["new", given])"#),
    ("weights", "xtask/tests/weights/scratch.rs", r#"command.args(["weights", "tiny", "#),
    ("bench", HERE, r#"measure(&["bench", "tiny", "#),
    ("eval eq", HERE, r#"measure(&["eval", "eq"])"#),
    ("eval quality", HERE, r#"measure(&["eval", "quality", "tiny", "--text", "#),
    ("eval grammar", HERE, r#"measure(&["eval", "grammar"])"#),
    ("eval perplexity", "xtask/tests/yardstick.rs", r#"vec!["perplexity", "#),
    ("eval mmlu-tiny", "xtask/tests/yardstick.rs", r#"vec!["mmlu-tiny", "#),
    ("eval arc-challenge", "xtask/tests/yardstick.rs", r#"vec!["arc-challenge"]"#),
    ("eval ifeval-lite", "xtask/tests/yardstick.rs", r#"vec!["ifeval-lite"]"#),
    ("diff", "xtask/tests/inspect.rs", r#"xtask(&["diff", "#),
    ("sign", "xtask/tests/signature.rs", r#"models.xtask(&["sign", "#),
    ("pack", "xtask/tests/bundle.rs", r#"tree.run(&["pack", "tiny", "#),
    ("fetch", "xtask/tests/bundle.rs", r#"tree.run(&["fetch", "#),
    ("sbom", HERE, r#"tree.run(&["sbom", "tiny", "#),
    ("ci setup", "xtask/tests/ci.rs", r#"stage.ci(&["setup"], "#),
    ("ci run", "xtask/tests/ci.rs", r#"stage.ci(&["run", "tiny"], "#),
    ("ci watch", "xtask/tests/ci.rs", r#"&["watch", "7"]"#),
    ("ci fetch", "xtask/tests/ci.rs", r#"stage.ci(&["fetch", "7", "tiny"], "#),
    // The SDKs are on no machine that runs the tests: plans, and for ARM64 Linux the builds too, where its compiler is.
    ("mobile arm64-linux", "xtask/tests/mobile.rs", r#"steps(&["arm64-linux", "#),
    ("mobile android", "xtask/tests/mobile.rs", r#"steps(&["android", "#),
    ("mobile ios", "xtask/tests/mobile.rs", r#"steps(&["ios", "#),
    ("app run", "xtask/tests/road.rs", "\"app\",\n        \"run\","),
    // Slint compiles for minutes: a job of its own.
    ("app test", CI, "run: cargo xtask app test\n"),
    ("app screenshots", CI, "run: cargo xtask app screenshots "),
    ("app bench", CI, "run: cargo xtask app bench "),
    ("test", ".ci/run", "exec cargo xtask test\n"),
    // `cargo xtask test` runs these.
    ("dev mutate", "xtask/src/dev/mod.rs", "mutate::run(workspace, &mutate::Args::smallest())"),
    ("dev operators", "xtask/src/dev/mod.rs", "operators::run(workspace, &operators::Args::comparing())"),
    ("dev families", "xtask/src/dev/mod.rs", "families::run(workspace, &families::Args::eager())"),
    ("dev schemas", "xtask/src/dev/mod.rs", "schemas::run(workspace, &schemas::Args::comparing())"),
    ("dev fuzz", "xtask/src/dev/mod.rs", "fuzz::run(workspace, &fuzz::Args::short())"),
    ("dev lint-workflows", "xtask/tests/lint_workflows.rs", r#".args(["dev", "lint-workflows"])"#),
    ("dev train-tiny", HERE, r#"tree.with_engine(&["dev", "train-tiny", "#),
    ("dev docs", HERE, r#"xtask(&["dev", "docs", "--check"])"#),
    ("completions", HERE, r#"xtask(&["completions", "#),
];
const HERE: &str = "xtask/tests/commands.rs";
const CI: &str = ".github/workflows/ci.yml";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn xtask(arguments: &[&str]) -> (i32, String) {
    said(Command::new(env!("CARGO_BIN_EXE_xtask")).args(arguments))
}

#[test]
fn every_command_is_started_by_a_test() {
    let (code, text) = xtask(&["dev", "docs", "--check"]);
    assert_eq!(code, 0, "{text}");
    let page = fs::read_to_string(root().join("docs/commands.md")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `cargo xtask ")?.split('`').next());
    let words = |row: &str| -> String {
        let lower = |word: &&str| word.starts_with(|letter: char| letter.is_ascii_lowercase());
        row.split(' ').take_while(lower).collect::<Vec<_>>().join(" ")
    };
    let all: Vec<String> = rows.map(words).collect();
    // One that has commands below it does nothing by itself.
    let mut leaves =
        all.iter().filter(|name| !all.iter().any(|other| other.starts_with(&format!("{name} "))));
    let mut started: Vec<&str> = STARTED.iter().map(|(name, ..)| *name).collect();
    let mut found: Vec<&str> = leaves.by_ref().map(String::as_str).collect();
    started.sort_unstable();
    found.sort_unstable();
    assert!(found.len() > 30, "{found:?}");
    assert_eq!(found, started, "commands of the command line, and those that STARTED names a test of");
    for (command, file, line) in STARTED {
        let text = fs::read_to_string(root().join(file)).unwrap();
        // This table is no test.
        let text = if *file == HERE { text.split_once("const HERE").unwrap().1 } else { &text };
        assert!(text.contains(line), "`{command}`: {file} has no `{line}`");
    }
}

/// A work tree with the exported `tiny`, its checkpoint, and the repository's set-up.
fn tree_with_engine() -> Tree {
    let tree = Tree::new();
    let [model, _] = two_models();
    tree.put(&model);
    for name in ["config.json", "model.safetensors", "heldout.jsonl"] {
        fs::copy(repository(name), tree.model(name)).unwrap();
    }
    tree.borrow_engine();
    tree
}

#[test]
fn the_evidence_of_tiny_can_be_measured_kind_by_kind() {
    let tree = tree_with_engine();
    let measure = |arguments: &[&str]| {
        let (code, text) = said(&mut tree.with_engine(arguments));
        assert_eq!(code, 0, "{arguments:?}: {text}");
        text
    };
    let talks = fs::read_to_string(repository("heldout.jsonl")).unwrap();
    let first = |count: usize| talks.lines().take(count).collect::<Vec<_>>().join("\n");
    fs::write(tree.path("few.jsonl"), first(24)).unwrap();
    let few = tree.path("few.jsonl");
    let text = measure(&["eval", "quality", "tiny", "--text", few.to_str().unwrap()]);
    assert!(text.contains("quality: "), "{text}");
    assert!(measure(&["eval", "eq"]).contains("eq-transcript.json"));
    // All of them take minutes.
    fs::write(tree.model("heldout.jsonl"), first(4)).unwrap();
    assert!(measure(&["eval", "grammar"]).contains("grammar"));
}

#[test]
fn a_benchmark_of_tiny() {
    let tree = tree_with_engine();
    let measure = |arguments: &[&str]| said(&mut tree.with_engine(arguments));
    let out = tree.path("figures");
    let out = out.to_str().unwrap();
    let (code, text) = measure(&["bench", "tiny", "--repeats", "1", "--threads", "1", "--out", out]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("tg128"), "{text}");
}

#[test]
fn a_bill_of_materials_names_the_published_file() {
    let tree = Tree::new();
    let [model, _] = two_models();
    tree.put(&model);
    let out = tree.path("tiny.cdx.json");
    let (code, text) = tree.run(&["sbom", "tiny", "--out", out.to_str().unwrap()]);
    assert_eq!(code, 0, "{text}");
    let bill: serde_json::Value = serde_json::from_slice(&fs::read(out).unwrap()).unwrap();
    assert_eq!(bill["bomFormat"], "CycloneDX");
    assert!(bill.to_string().contains(&tree::sha256(&model).to_string()));
}

#[test]
fn a_training_of_one_step_writes_a_checkpoint() {
    let tree = tree_with_engine();
    fs::remove_file(tree.model("model.safetensors")).unwrap();
    let (code, text) =
        said(&mut tree.with_engine(&["dev", "train-tiny", "--steps", "1", "--dialogues", "1"]));
    assert_eq!(code, 0, "{text}");
    assert!(tree.model("model.safetensors").is_file(), "{text}");
}

/// Runs the script in a shell, if it is here, and asks what it completes.
fn completed(shell: &str, script: &str, ask: &str) -> Option<String> {
    let output = Command::new(shell).args(["-c", &format!("{script}\n{ask}")]).output().ok()?;
    assert!(output.stderr.is_empty(), "{shell}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn completions_complete() {
    let (code, bash) = xtask(&["completions", "bash"]);
    assert_eq!(code, 0, "{bash}");
    let ask = "COMP_WORDS=(xtask dev lin) COMP_CWORD=2; _xtask xtask lin dev; echo \"${COMPREPLY[@]}\"; type -t xtask";
    assert_eq!(completed("bash", &bash, ask).as_deref(), Some("lint-workflows\nfunction\n"));
    let (code, fish) = xtask(&["completions", "fish"]);
    assert_eq!(code, 0);
    if let Some(text) = completed("fish", &fish, "complete --do-complete 'xtask dev lin'") {
        assert!(text.contains("lint-workflows"), "{text}");
    }
    let (code, zsh) = xtask(&["completions", "zsh"]);
    assert!(code == 0 && zsh.starts_with("#compdef xtask\n") && zsh.contains("lint-workflows"));
    let _ = completed("zsh", "autoload -U compinit && compinit -D", &zsh);
    assert_eq!(xtask(&["completions", "tcsh"]).0, 2);
}
