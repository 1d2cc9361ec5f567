//! What is tried again: the real binary with workers that fail, each in its own way.
//!
//! Needs the set-up first, as `cargo xtask test` does.
#![cfg(unix)]

mod tree;

use std::fs;

use tree::{Tree, repository, said};

/// The rest of a worker that has `request` and can `answer`.
const WORKERS: [(&str, &str, bool); 7] = [
    ("dies", "os._exit(9)", true),
    ("is killed for want of memory", "os.kill(os.getpid(), 9)", true),
    ("has no memory", "answer('memory')", true),
    ("has a full disk", "answer('disk')", true),
    ("stalls", "time.sleep(1000)", true),
    ("refuses the weights", "answer('weights')", false),
    ("refuses the graph", "answer('delegate')", false),
];

const BEGIN: &str = "
import json, os, sys, time
request = json.load(open(sys.argv[1]))
os.mkdir(request['work_dir'] + '/worker_of_this_attempt')
def answer(kind):
    said = {'protocol': 1, 'ok': False, 'stages': [], 'kind': kind, 'error': 'E of ' + kind, 'hint': None}
    json.dump(said, open(request['response'], 'w'))
    sys.exit(1)
";

#[test]
fn what_the_machine_did_is_tried_again_and_what_was_refused_is_not() {
    let tree = Tree::new();
    tree.borrow_engine();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(repository(name), tree.model(name)).unwrap();
    }
    fs::remove_file(tree.path("xtask/python")).unwrap();
    let worker = tree.path("xtask/python/proofmark_worker");
    fs::create_dir_all(&worker).unwrap();
    for (name, does, again) in WORKERS {
        fs::write(worker.join("run.py"), format!("{BEGIN}{does}\n")).unwrap();
        let (code, text) = said(&mut tree.with_engine(&["export", "tiny", "--stall-timeout", "1"]));
        assert_eq!(code, 4, "{name}: {text}");
        assert_eq!(text.contains("attempt 2 of 2"), again, "{name}: {text}");
        let told = if again { "failed 2 times" } else { "the same inputs would be refused again" };
        assert!(text.contains(told) && text.contains("nothing was published"), "{name}: {text}");
        let report = fs::read_to_string(tree.path(".proofmark/work/tiny/escalation.txt")).unwrap();
        assert_eq!(
            (report.contains("attempt 1: "), report.contains("attempt 2: ")),
            (true, again),
            "{report}"
        );
        assert!(!tree.model("manifest.json").exists(), "{name}");
        let work = fs::read_dir(tree.path(".proofmark/work/tiny")).unwrap();
        let left = work.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert_eq!(left.filter(|name| name.starts_with("worker_")).collect::<Vec<_>>(), [""; 0], "{name}");
    }
}
