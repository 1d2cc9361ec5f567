//! `inspect`, `diff` and `verify` of single files, as the real binary does them.
#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

#[path = "../../model-assets/hostile/builder.rs"]
#[expect(dead_code, reason = "shared by several tests")]
mod builder;

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use builder::Pte;
use serde_json::Value;

/// Files in a folder of their own.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

fn xtask(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask")).args(args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn inspect_shows_what_the_file_holds() {
    let files = Files::new();
    let path = files.write("toy.pte", &Pte::default().build());
    let output = xtask(&["inspect", path.to_str().unwrap()]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stdout(&output);
    for part in [
        "input 0: tensor i64 [1, 4] (at most)",
        "output 0: tensor f32 [1, 4, 8]",
        "1 × quantized_decomposed::embedding_byte.dtype_out",
        "0: XnnpackBackend",
        "1 convert, 1 fully_connected",
        "planned memory: 640 bytes",
        "get_vocab_size = 8",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }

    let json = xtask(&["inspect", "--json", path.to_str().unwrap()]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["accepted"], true);
    assert_eq!(json["summary"]["weights"].as_array().unwrap().len(), 4);
}

#[test]
fn inspect_says_that_a_binary_holds_no_model() {
    let output = xtask(&["inspect", env!("CARGO_BIN_EXE_xtask")]);
    assert_eq!(output.status.code(), Some(8));
    assert!(stderr(&output).contains("expected an app that the gate built"), "{}", stderr(&output));
}

#[test]
fn inspect_shows_and_refuses_a_broken_file() {
    let files = Files::new();
    let mut bytes = Pte::default().build();
    bytes.push(0);
    let path = files.write("long.pte", &bytes);
    let output = xtask(&["inspect", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(5));
    assert!(stdout(&output).contains("C8"), "{}", stdout(&output));
}

#[test]
fn equal_files_have_no_difference() {
    let files = Files::new();
    let (a, b) = (Pte::default().build(), Pte::default().build());
    let (a, b) = (files.write("a.pte", &a), files.write("b.pte", &b));
    let output = xtask(&["diff", a.to_str().unwrap(), b.to_str().unwrap()]);
    assert!(output.status.success(), "{}", stderr(&output));
}

/// The differences between the good toy model and a changed one.
fn difference(change: impl FnOnce(&mut Pte)) -> Vec<Value> {
    let files = Files::new();
    let a = files.write("a.pte", &Pte::default().build());
    let mut changed = Pte::default();
    change(&mut changed);
    let b = files.write("b.pte", &changed.build());
    let output = xtask(&["diff", "--json", a.to_str().unwrap(), b.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(9), "{}", stderr(&output));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["equal"], false);
    answer["changes"].as_array().unwrap().clone()
}

#[test]
fn a_changed_weight_is_named_by_its_node() {
    let changes = difference(|pte| pte.segments[2][100] ^= 1);
    let filter =
        changes.iter().find(|change| change["place"].as_str().unwrap().ends_with("fully_connected / filter"));
    let filter = filter.unwrap_or_else(|| panic!("{changes:#?}"));
    assert_eq!(filter["place"], "plan forward / delegate 0 / node 1 fully_connected / filter");
    assert_eq!(
        (&filter["differing"], &filter["first"], &filter["bytes"]),
        (&1.into(), &100.into(), &256.into())
    );
    let named = |change: &&Value| change["place"].as_str().unwrap().starts_with("named data / ");
    assert_eq!(changes.iter().filter(named).count(), 1, "the datum under its key: {changes:#?}");
    assert_eq!(changes.len(), 2, "{changes:#?}");
}

#[test]
fn a_changed_scale_constant_and_metadata_are_named() {
    let changes = difference(|pte| pte.segments[3][0] ^= 1);
    assert!(
        changes.iter().any(|change| change["place"].as_str().unwrap().ends_with("filter scales")),
        "{changes:#?}"
    );

    let changes = difference(|pte| pte.segments[0][5] ^= 1);
    assert_eq!(changes.len(), 1, "{changes:#?}");
    assert_eq!(changes[0]["place"], "plan forward / value 1");

    let changes = difference(|pte| {
        pte.program.item(1, 1).item(2, 0).sub(1).set(0, builder::i64(9));
    });
    assert_eq!(changes.len(), 1, "{changes:#?}");
    assert_eq!(changes[0]["place"], "plan get_vocab_size / value 0");
    assert_eq!((&changes[0]["a"], &changes[0]["b"]), (&"Int(8)".into(), &"Int(9)".into()));
}

#[test]
fn bytes_that_belong_to_no_part_still_make_a_difference() {
    let files = Files::new();
    let good = Pte::default().build();
    let mut padded = good.clone();
    let program = usize::try_from(u64::from_le_bytes(good[16..24].try_into().unwrap())).unwrap();
    padded[program] = 1;
    let (a, b) = (files.write("a.pte", &good), files.write("b.pte", &padded));
    let output = xtask(&["diff", "--json", a.to_str().unwrap(), b.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(9));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer["only_layout"], &answer["equal"]), (&true.into(), &false.into()));
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let files = Files::new();
    let good = files.write("a.pte", &Pte::default().build());
    let bad = files.write("b.pte", &[0; 100]);
    let output = xtask(&["diff", good.to_str().unwrap(), bad.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(5));
}

#[test]
fn verify_writes_sarif_and_reads_weights_only_when_asked_to() {
    let files = Files::new();
    let mut broken = Pte::default();
    broken.segments[2][100] ^= 1;
    let path = files.write("a.pte", &broken.build());
    let sarif = files.0.path().join("a.sarif");
    let output = xtask(&["verify", path.to_str().unwrap(), "--sarif", sarif.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(5));
    let log: Value = serde_json::from_slice(&fs::read(&sarif).unwrap()).unwrap();
    assert_eq!(log["version"], "2.1.0");
    let results = log["runs"][0]["results"].as_array().unwrap();
    assert!(
        results.iter().any(|result| result["ruleId"] == "N5" && result["level"] == "error"),
        "{results:#?}"
    );

    let output = xtask(&["verify", path.to_str().unwrap(), "--structure"]);
    assert!(output.status.success(), "{}", stderr(&output));
}
