//! `cargo xtask weights` against a hub that misbehaves: the real binary, a real socket. Every run's output and every file
//! that it leaves is searched for the token.
#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

mod cases;
#[path = "../hub/mod.rs"]
mod hub;
mod scratch;

use std::{
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use cases::{Case, cases, honest};
use hub::{Files, Hub, Pace, REPO, REVISION};
use model_assets::digest::Digest;
use scratch::{INDEX, Scratch, TOKEN, WEIGHTS, WEIGHTS_BYTES, no_token_in, token_stayed_home};

#[test]
fn a_hub_that_misbehaves() {
    let cases = cases();
    let next = AtomicUsize::new(0);
    let bad = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        // Most of a case is waiting.
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(case))) {
                        let why = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                        bad.lock().unwrap().push(format!("{}: {why}", case.name));
                    }
                }
            });
        }
    });
    let bad = bad.into_inner().unwrap();
    assert!(bad.is_empty(), "{} of {} cases:\n{}", bad.len(), cases.len(), bad.join("\n"));
    println!(
        "{} behaviours, {} of them refused",
        cases.len(),
        cases.iter().filter(|case| case.code != 0).count()
    );
}

fn run(case: &Case) {
    let (scratch, bend) = (Scratch::new(""), Arc::clone(&case.bend));
    let hub = Hub::start(case.files.clone(), move |asked, answer| bend(asked, answer));
    let (code, text) = scratch.run(&hub.url, case.token, &["--attempts", "3"]);
    assert_eq!(code, case.code, "{text}");
    for says in case.says {
        assert!(text.contains(says), "`{says}` is not in:\n{text}");
    }
    assert!(!text.contains('\u{1b}'), "an escape reached the terminal:\n{text}");
    token_stayed_home(&hub.asked(), case.token);
    if code == 0 {
        scratch.is_whole(&case.files);
    } else {
        assert!(text.contains("hint: "), "{text}");
        assert!(
            !scratch.cache().join(".proofmark-receipt.json").exists(),
            "a refused checkpoint got a receipt"
        );
    }
}

/// Every row of the table in the documentation is a case here, and the other way round.
#[test]
fn the_documented_table_is_this_one() {
    let table = include_str!("../../../docs/supply-chain-fetch.md");
    for case in cases() {
        let wanted = if case.code == 0 { "goes on".to_owned() } else { format!("exit {}", case.code) };
        let row = table.lines().find(|line| line.starts_with(&format!("| {} |", case.name)));
        let row = row.unwrap_or_else(|| panic!("`{}` has no row", case.name));
        assert!(row.contains(&wanted), "{row}: expected {wanted}");
    }
}

#[test]
fn what_is_there_is_proved_without_the_network_and_rot_is_found() {
    let files = Files::checkpoint(WEIGHTS_BYTES);
    let (hub, scratch) = (Hub::start(files.clone(), honest), Scratch::new(""));
    let (code, text) = scratch.run(&hub.url, true, &["--offline"]);
    assert_eq!((code, hub.asked().len()), (20, 0), "{text}");
    assert!(text.contains("nothing whole is there") && text.contains("without --offline"), "{text}");
    let (code, text) = scratch.run(&hub.url, true, &[]);
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("[source.files]") && text.contains(&Digest::of(&files.0[WEIGHTS]).to_string()),
        "{text}"
    );
    let asked = hub.asked().len();
    for more in [&["--offline"][..], &[]] {
        let (code, text) = scratch.run("http://127.0.0.1:1", true, more);
        assert_eq!(code, 0, "{text}");
    }
    let mut rotten = files.0[WEIGHTS].clone();
    rotten[1234] ^= 1;
    std::fs::write(scratch.cache().join(WEIGHTS), rotten).unwrap();
    let (code, text) = scratch.run(&hub.url, true, &["--offline"]);
    assert!(code == 20 && text.contains("model.safetensors: got sha256"), "{text}");
    assert_eq!(hub.asked().len(), asked, "offline asked the hub");
    let (code, text) = scratch.run(&hub.url, true, &[]);
    assert_eq!(code, 0, "{text}");
    scratch.is_whole(&files);
}

#[test]
fn the_recipes_own_digests_decide() {
    let files = Files::checkpoint(WEIGHTS_BYTES);
    let pins = |change: &dyn Fn(&str, String) -> Option<String>| {
        let names = ["config.json", "tokenizer.json", WEIGHTS];
        let lines = names.iter().filter_map(|name| {
            Some(format!("\"{name}\" = \"{}\"\n", change(name, Digest::of(&files.0[*name]).to_string())?))
        });
        format!("\n[source.files]\n{}", lines.collect::<String>())
    };
    let zeros = "0".repeat(64);
    for (wrong, says) in
        [("", ""), (WEIGHTS, "expected the recipe's 0000"), ("config.json", "expected the recipe's 0000")]
    {
        let hub = Hub::start(files.clone(), honest);
        let scratch =
            Scratch::new(&pins(&|name, digest| Some(if name == wrong { zeros.clone() } else { digest })));
        let (code, text) = scratch.run(&hub.url, true, &["--attempts", "2"]);
        assert_eq!(code, if wrong.is_empty() { 0 } else { 20 }, "{text}");
        assert!(text.contains(says), "{text}");
        let fetched = hub.asked().iter().any(|asked| asked.wants(WEIGHTS));
        assert_eq!(
            fetched,
            wrong.is_empty(),
            "{wrong}: a checkpoint that cannot be right was fetched all the same"
        );
        assert!(!text.contains("to pin these"), "{text}");
    }
    // Stop tokens of the repository that the recipe does not pin: it has its own.
    let scratch = Scratch::new(&pins(&|_, digest| Some(digest)));
    let hub = Hub::start(files.clone().with("generation_config.json", r#"{"eos_token_id": 7}"#), honest);
    let (code, text) = scratch.run(&hub.url, true, &[]);
    assert_eq!(code, 0, "{text}");
    assert!(!hub.asked().iter().any(|asked| asked.wants("generation_config.json")));
    // Shards that the recipe does not name are not taken on the index's word.
    let scratch = Scratch::new(&pins(&|_, digest| Some(digest)));
    let sharded = files
        .clone()
        .without(WEIGHTS)
        .with("x.safetensors", "x")
        .with(INDEX, r#"{"weight_map": {"a": "x.safetensors"}}"#);
    let (code, text) = scratch.run(&Hub::start(sharded, honest).url, true, &[]);
    assert!(code == 20 && text.contains("has no digest in the recipe"), "{text}");
}

#[test]
fn what_lies_in_the_cache_is_not_believed() {
    let files = Files::checkpoint(WEIGHTS_BYTES);
    let etag = format!("\"{}\"", Digest::of(&files.0[WEIGHTS]));
    // A partial file of other bytes, with the right tag: found at the end, fetched again from the start.
    let (hub, scratch) = (Hub::start(files.clone(), honest), Scratch::new(""));
    std::fs::create_dir_all(scratch.cache()).unwrap();
    std::fs::write(scratch.cache().join("model.safetensors.incomplete"), vec![7; 1 << 20]).unwrap();
    std::fs::write(scratch.cache().join("model.safetensors.incomplete.etag"), &etag).unwrap();
    let (code, text) = scratch.run(&hub.url, true, &[]);
    assert!(code == 0 && text.contains("got sha256"), "{text}");
    scratch.is_whole(&files);
    let asked = hub.asked();
    let ranges =
        asked.iter().filter(|asked| asked.wants(WEIGHTS)).map(|asked| asked.headers.contains_key("range"));
    assert_eq!(ranges.collect::<Vec<_>>(), [true, false]);

    // A tag that would break the header apart is never sent.
    let (hub, scratch) = (Hub::start(files.clone(), honest), Scratch::new(""));
    std::fs::create_dir_all(scratch.cache()).unwrap();
    std::fs::write(scratch.cache().join("model.safetensors.incomplete"), vec![7; 1 << 20]).unwrap();
    std::fs::write(scratch.cache().join("model.safetensors.incomplete.etag"), "\"a\r\nX-Evil: 1\"").unwrap();
    let (code, text) = scratch.run(&hub.url, true, &[]);
    assert_eq!(code, 0, "{text}");
    assert!(hub.asked().iter().all(|asked| !asked.headers.contains_key("x-evil")));

    // Weights that were not fetched would be read by the export.
    let (hub, scratch) = (Hub::start(files, honest), Scratch::new(""));
    std::fs::create_dir_all(scratch.cache()).unwrap();
    std::fs::write(scratch.cache().join("stray.safetensors"), "x").unwrap();
    let (code, text) = scratch.run(&hub.url, true, &[]);
    assert!(code == 20 && text.contains("stray.safetensors: was not fetched"), "{text}");
}

#[test]
fn a_token_file_is_found_and_a_broken_token_is_refused_unseen() {
    let scratch = Scratch::new("");
    let hub = Hub::start(Files::checkpoint(1 << 10), honest);
    let file = scratch.folder.path().join("token.txt");
    let run = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let output = scratch.command(&hub.url, false, &[]).env("HF_TOKEN_PATH", &file).output().unwrap();
        std::fs::remove_file(&file).unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(!text.contains(TOKEN), "{text}");
        (output.status.code(), text)
    };
    let (code, text) = run(&format!("{TOKEN} and more\n"));
    assert!(code == Some(20) && text.contains("expected one word"), "{text}");
    let (code, text) = run(&format!("{TOKEN}\n"));
    assert_eq!(code, Some(0), "{text}");
    token_stayed_home(&hub.asked(), true);
}

#[test]
fn a_plan_asks_nobody_and_names_no_secret() {
    let (hub, scratch) = (Hub::start(Files::checkpoint(1 << 10), honest), Scratch::new(""));
    let (code, text) = scratch.run(&hub.url, true, &["--dry-run"]);
    assert_eq!((code, hub.asked().len()), (0, 0), "{text}");
    let plan: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(plan["fetch"], format!("{REPO}@{REVISION}"));
    assert_eq!(plan["token"], "HF_TOKEN");
    assert!(!scratch.folder.path().join("cache").exists(), "a dry run made a folder");
}

#[test]
fn an_endpoint_in_the_clear_is_refused() {
    let (code, text) = Scratch::new("").run("http://192.0.2.1", true, &[]);
    assert!(code == 20 && text.contains("HF_ENDPOINT: got `http://192.0.2.1`"), "{text}");
}

/// The golden ratio's fraction: its multiples modulo 1 fill any interval evenly, in no order.
const STEP: f64 = 0.618_033_988_75;

#[test]
fn killed_at_any_moment_a_fetch_goes_on_where_it_was() {
    let kills: u32 = std::env::var("PROOFMARK_FETCH_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(50);
    let files = Files::checkpoint(WEIGHTS_BYTES);
    let hub = Hub::start(files.clone(), |_, answer| answer.paced(Pace::Slow));
    let mut scratch = Scratch::new("");
    let mut finished = 0;
    for kill in 1..=kills {
        let mut child =
            scratch.command(&hub.url, true, &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(300).mul_f64(f64::from(kill) * STEP % 1.0));
        child.kill().unwrap();
        child.wait().unwrap();
        no_token_in(scratch.folder.path());
        // Whatever has its own name is right; the receipt is there only when everything is.
        for (name, bytes) in &files.0 {
            let path = scratch.cache().join(name);
            assert!(
                !path.exists() || std::fs::read(path).unwrap() == *bytes,
                "kill {kill}: {name} is half done"
            );
        }
        if scratch.cache().join(".proofmark-receipt.json").exists() {
            scratch.is_whole(&files);
            let (code, text) = scratch.run(&hub.url, true, &["--offline"]);
            assert_eq!(code, 0, "kill {kill}: {text}");
            (scratch, finished) = (Scratch::new(""), finished + 1);
        }
    }
    let (code, text) = scratch.run(&hub.url, true, &[]);
    assert_eq!(code, 0, "{text}");
    scratch.is_whole(&files);
    let resumed = hub.asked().iter().filter(|asked| asked.headers.contains_key("range")).count();
    println!("{kills} kills, {finished} came too late, {resumed} downloads were gone on with");
    assert!(resumed > 0, "no download was resumed");
}

#[test]
fn ctrl_c_ends_a_fetch_that_waits_for_a_silent_server() {
    let hub = Hub::start(Files::checkpoint(1 << 10), |_, answer| answer.paced(Pace::Silent));
    let scratch = Scratch::new("");
    let mut command = scratch.command(&hub.url, true, &["--attempts", "100", "--stall-timeout", "3600"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.unwrap_or_else(|error| panic!("{error}"));
    while hub.asked().is_empty() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let start = Instant::now();
    let pid = rustix::process::Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(text.contains("interrupted") && text.contains("go on with"), "{text}");
    println!("ended after {:?}", start.elapsed());
}
