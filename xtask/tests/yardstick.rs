//! Yardsticks from the hub to a figure: data in the real formats from a local server, asked of the exported `tiny` in the real
//! engine and of its checkpoint in the real worker.
//!
//! Needs the set-up and `cargo xtask export` first, as `cargo xtask test` does.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

mod hub;
mod parquet_file;
mod tree;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::Command,
    sync::Arc,
};

use hub::{Answer, Files, Hub};
use model_assets::{
    digest::Digest,
    evidence::{Task, Yardstick},
};
use parquet_file::{ARC, Column, MMLU, TEXTS, write};
use tree::{Tree, repository, said, two_models};

const REVISION: &str = "89abcdef0123456789abcdef0123456789abcdef";

/// Data sets by name, with the path in their repository and their bytes.
fn data(folder: &Path) -> BTreeMap<&'static str, (&'static str, Vec<u8>)> {
    let place = folder.join("data.parquet");
    let written = |schema: &str, columns: &[Column]| {
        write(&place, schema, columns);
        fs::read(&place).unwrap()
    };
    let questions = vec!["How do you feel?", "What helps?", "Who are you?"];
    let choices =
        || Column::Lists(vec![vec!["sad", "glad"], vec!["rest", "work", "rain"], vec!["Pip", "Rosa"]]);
    let labels = Column::Lists(vec![vec!["A", "B"], vec!["1", "2", "3"], vec!["A", "B"]]);
    let ids = Column::Texts(vec!["q1", "q2", "q3"]);
    let keys = Column::Texts(vec!["B", "1", "A"]);
    let arc = [ids, Column::Texts(questions.clone()), choices(), labels, keys];
    let mmlu = [Column::Texts(questions), choices(), Column::Numbers(vec![1, 0, 0])];
    let text = Column::Texts(vec![
        "",
        " = Keys = \n",
        " I feel sad because I lost my keys . \n",
        "Tell me a joke.\n",
    ]);
    let followed = concat!(
        r#"{"key": 1, "prompt": "Tell me a joke.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}"#,
        "\n",
        r#"{"key": 2, "prompt": "Hello.", "instruction_id_list": ["language:response_language"], "kwargs": [{}]}"#,
        "\n",
    );
    BTreeMap::from([
        ("wikitext-2-raw-v1", ("raw/test.parquet", written(TEXTS, &[text]))),
        ("mmlu", ("all/test.parquet", written(MMLU, &mmlu))),
        ("arc-challenge", ("challenge/test.parquet", written(ARC, &arc))),
        ("ifeval", ("input.jsonl", followed.as_bytes().to_vec())),
    ])
}

fn table(data: &BTreeMap<&str, (&str, Vec<u8>)>) -> String {
    let row = |(name, (file, bytes)): (&&str, &(&str, Vec<u8>))| {
        let sha256 = Digest::of(bytes);
        format!(
            "[{name}]\nrepo = \"acme/{name}\"\nrevision = \"{REVISION}\"\nfile = \"{file}\"\nsha256 = \"{sha256}\"\nlicence = \"MIT\"\n"
        )
    };
    data.iter().map(row).collect()
}

#[test]
fn data_come_from_the_hub_and_both_models_are_asked() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let tree = Tree::new();
    tree.put(&two_models()[0]);
    for name in ["config.json", "model.safetensors", "heldout.jsonl"] {
        fs::copy(repository(name), tree.model(name)).unwrap();
    }
    for folder in [".proofmark", "xtask", "model-assets/evidence"] {
        fs::create_dir_all(tree.path(folder)).unwrap();
    }
    for made in [".proofmark/venv", ".proofmark/sdk", "xtask/python"] {
        symlink(root.join(made), tree.path(made)).unwrap();
    }
    // The engine is the repository's: the tree has no sources.
    let cargo = tree.path("cargo");
    let real = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    fs::write(&cargo, format!("#!/bin/sh\ncd '{}' && exec '{real}' \"$@\"\n", root.display())).unwrap();
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).unwrap();

    let data = data(&tree.path(""));
    let listed = tree.path("model-assets/evidence/datasets.toml");
    fs::write(&listed, table(&data)).unwrap();
    let served: BTreeMap<String, Vec<u8>> = data
        .iter()
        .map(|(name, (file, bytes))| {
            (format!("/datasets/acme/{name}/resolve/{REVISION}/{file}"), bytes.clone())
        })
        .collect();
    let served = Arc::new(served);
    let hub = Hub::start(Files(BTreeMap::new()), move |asked, answer| match served.get(&asked.path) {
        Some(bytes) => Answer::new(200, bytes.clone()).with("X-Repo-Commit", REVISION),
        None => answer,
    });
    let eval = |arguments: &[&str]| -> (i32, String) {
        let mut command: Command = tree.xtask(&[&["eval"], arguments].concat());
        command.env("HF_ENDPOINT", &hub.url).env("CARGO", &cargo);
        command.env("HOME", std::env::var("HOME").unwrap_or_default());
        said(&mut command)
    };
    let record = |name: &str| -> Yardstick {
        let path = tree.path(".proofmark/eval/tiny").join(format!("{name}.json"));
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    };
    for (task, arguments, items) in [
        (Task::ArcChallenge, vec!["arc-challenge"], 3),
        (Task::MmluTiny, vec!["mmlu-tiny", "--items", "2"], 2),
        (Task::Wikitext2, vec!["perplexity", "--dataset", "wikitext-2-raw-v1", "--window", "16"], 0),
        (Task::IfevalLite, vec!["ifeval-lite"], 1),
    ] {
        let (code, text) = eval(&arguments);
        assert_eq!(code, 0, "{text}");
        assert!(text.contains("published, by other protocols") && text.contains("protocol "), "{text}");
        let found = record(task.as_str());
        let figures = found.figures();
        assert_eq!(found.task, task);
        assert!(figures.fp32.is_finite() && figures.loss.value.is_finite(), "{found}");
        if task == Task::Wikitext2 {
            assert!(figures.items > 1 && found.words == Some(16), "{found:?}");
            assert!(figures.fp32 > 1.0 && figures.loss.value.abs() < 0.1, "{found}");
        } else {
            assert_eq!(figures.items, items, "{found:?}");
        }
    }

    // A second time nothing is asked of the hub; a file that went bad is fetched again.
    let asked = hub.asked().len();
    assert_eq!(eval(&["arc-challenge"]).0, 0);
    assert_eq!(hub.asked().len(), asked);
    // Other bytes than the table names are refused, wherever they come from.
    let other = fs::read_to_string(&listed)
        .unwrap()
        .replace(&Digest::of(&data["mmlu"].1).to_string(), &"ab".repeat(32));
    fs::write(&listed, other).unwrap();
    let (code, text) = eval(&["mmlu-tiny"]);
    assert!(code != 0 && text.contains(&"ab".repeat(32)), "{text}");
}
