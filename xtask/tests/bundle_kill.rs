//! kill -9 at 50 random moments across `pack`, `fetch FILE` and `fetch URL`: nothing half done is seen, each model has its own
//! signature, and the same command run again succeeds and tidies up. (60 more kills are beside the publish code, and 50 among the tests of `weights`.)
//!
//! A moment is random in two ways: behind a random line of the command's progress, and a random time after it.
#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

#[path = "hub/mod.rs"]
mod hub;
mod tree;

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

use hub::{Hub, Pace, REPO, REVISION};
use model_assets::random::SplitMix64;
use tree::{Files, Tree, bundled, names, sha256, two_models};

const KILLS: u32 = 50;
const SEED: u64 = 20_261_125;
/// More lines of progress than any of the commands has.
const LINES: usize = 12;
/// Longest time after a line; the next one mostly comes sooner.
const AFTER: Duration = Duration::from_millis(40);

/// Kills a command behind so many lines, or behind the line that begins its proof, and so much time; says what it was at.
fn killed(mut command: Command, lines: Option<usize>, after: Duration) -> String {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut seen = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut last = "start".to_owned();
    for _ in 0..lines.unwrap_or(usize::MAX) {
        match seen.next() {
            Some(line) => last = line,
            None => break,
        }
        if lines.is_none() && last.contains("\"prove\"") {
            break;
        }
    }
    std::thread::sleep(after);
    child.kill().unwrap();
    let ended = child.wait().unwrap();
    if ended.code().is_some() {
        return "came to its end".to_owned();
    }
    let event: serde_json::Value = serde_json::from_str(&last).unwrap_or(serde_json::Value::String(last));
    let step = ["step", "file"].iter().find_map(|key| event[*key].as_str());
    step.or(event.as_str()).unwrap_or("?").to_owned()
}

#[test]
fn killed_at_any_moment_nothing_half_done_is_seen() {
    let (tree, mut random) = (Tree::new(), SplitMix64::new(SEED));
    let models = tree.signed(two_models());
    let bundles = models.clone().map(|model| packed(&tree, &model));
    let served = bundles.iter().enumerate().fold(hub::Files::checkpoint(1), |files, (index, bundle)| {
        files.with(&format!("{index}.tar.gz"), bundle.clone())
    });
    let hub = Hub::start(served, |_, answer| answer.paced(Pace::Slow));
    let out = tree.path("out/tiny.tar.gz");
    fs::create_dir_all(out.parent().unwrap()).unwrap();
    for (index, bundle) in bundles.iter().enumerate() {
        fs::write(tree.path(&format!("{index}.tar.gz")), bundle).unwrap();
    }
    let mut moments = BTreeMap::new();
    for kill in 0..KILLS {
        let wanted = random.below(2);
        let file = tree.path(&format!("{wanted}.tar.gz")).to_str().unwrap().to_owned();
        let url = format!("{}/{REPO}/resolve/{REVISION}/{wanted}.tar.gz", hub.url);
        let arguments = match kill % 3 {
            0 => ["pack", "tiny", "--json", "--out", out.to_str().unwrap()].map(str::to_owned).to_vec(),
            1 => ["fetch", "--json", &file].map(str::to_owned).to_vec(),
            _ => ["fetch", "--json", &url].map(str::to_owned).to_vec(),
        };
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let is_pack = arguments[0] == "pack";
        // What stands before: the other model; for a pack the other bundle, or none.
        tree.put(&models[if is_pack { wanted } else { 1 - wanted }]);
        let _ = fs::remove_file(&out);
        if random.below(2) == 0 {
            fs::write(&out, &bundles[1 - wanted]).unwrap();
        }
        let after = AFTER.mul_f64(random.below(1000) as f64 / 1000.0);
        // The proof and the publish of a fetch are its last line but one, and half of its time.
        let lines = (is_pack || random.below(2) == 0).then(|| random.below(LINES));
        let at = killed(tree.xtask(&arguments), lines, after);
        let when = format!("kill {kill}, {} at {at}", arguments[0]);
        *moments.entry(format!("{} at {at}", arguments[0])).or_insert(0) += 1;

        let found = tree.whole(&when);
        assert!(models.iter().any(|model| sha256(model) == found), "{when}: {found} is neither model");
        if let Ok(bytes) = fs::read(&out) {
            assert!(bundles.contains(&bytes), "{when}: half a bundle of {} bytes", bytes.len());
        }
        let (code, text) = tree.run(&arguments);
        assert_eq!(code, 0, "{when}, again: {text}");
        assert_eq!(tree.whole(&when), sha256(&models[wanted]), "{when}, again");
        tree.tidy(&when);
        if is_pack {
            assert!(fs::read(&out).unwrap() == bundles[wanted], "{when}, again: another bundle");
            assert_eq!(names(out.parent().unwrap()), ["tiny.tar.gz"], "{when}");
        }
    }
    println!("{moments:#?}");
    assert!(moments.len() >= 8, "the kills met too few moments: {moments:?}");
}

/// The model as `pack` itself packs it.
fn packed(tree: &Tree, model: &Files) -> Vec<u8> {
    tree.put(model);
    let path = tree.path("packed.tar.gz");
    let (code, text) = tree.run(&["pack", "tiny", "--out", path.to_str().unwrap()]);
    assert_eq!(code, 0, "{text}");
    let bundle = fs::read(path).unwrap();
    assert!(bundle == bundled(tree::unbundled(&bundle)));
    bundle
}
