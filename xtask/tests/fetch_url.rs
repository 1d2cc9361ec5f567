//! `cargo xtask fetch URL` and `fetch RUN`: servers that misbehave, and a token that must not go anywhere. Every run's output
//! and every file that it leaves is searched for it. (`fetch FILE` is in `bundle.rs`, the hub in `weights`.)
#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

#[path = "hub/mod.rs"]
mod hub;
mod tree;

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use hub::{Answer, Asked, Hub, Pace, REPO, REVISION};
use model_assets::digest::Digest;
use tree::{Files, Tree, bundled, said, sha256, two_models};

const TOKEN: &str = "hf_ThisTokenMustNeverBeSeenAnywhere";
const NAME: &str = "tiny.tar.gz";

struct Stage {
    tree: Tree,
    models: [Files; 2],
    bundle: Vec<u8>,
}

impl Stage {
    /// The second model is published, and the first one is in the bundle.
    fn new() -> Self {
        let (tree, models) = (Tree::new(), two_models());
        tree.put(&models[1]);
        let bundle = bundled(models[0].clone());
        Self { tree, models, bundle }
    }

    fn hub(&self, bend: impl Fn(&Asked, Answer) -> Answer + Send + Sync + 'static) -> Hub {
        Hub::start(hub::Files::checkpoint(1).with(NAME, self.bundle.clone()), bend)
    }

    /// Fetches with a token in the environment: it must be nowhere, and no server must have seen it.
    fn fetch(&self, hub: &Hub, url: &str, more: &[&str]) -> (i32, String) {
        let mut command = self.tree.xtask(&["fetch", url, "--stall-timeout", "1", "--attempts", "3"]);
        command.args(more).env("HF_TOKEN", TOKEN).env("RUST_LOG", "trace");
        let (code, text) = said(&mut command);
        assert!(!text.contains(TOKEN), "the output shows the token:\n{text}");
        assert!(!text.contains("signed-address"), "the output shows a signed address:\n{text}");
        assert!(!text.contains('\u{1b}'), "an escape reached the terminal:\n{text}");
        for asked in hub.asked() {
            assert!(!format!("{asked:?}").contains(TOKEN), "the token was sent: {asked:?}");
            assert!(!asked.headers.contains_key("authorization"), "{asked:?}");
        }
        for entry in walkdir::WalkDir::new(self.tree.path("")).into_iter().flatten() {
            if entry.file_type().is_file() {
                let bytes = fs::read(entry.path()).unwrap();
                let found = bytes.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes());
                assert!(!found, "{} holds the token", entry.path().display());
            }
        }
        (code, text)
    }
}

fn url(hub: &Hub) -> String {
    format!("{}/{REPO}/resolve/{REVISION}/{NAME}?Signature=signed-address", hub.url)
}

type Bend = Arc<dyn Fn(&Asked, Answer) -> Answer + Send + Sync>;

/// Name (also its row in `docs/bundle.md`), exit code, what is said, how the server behaves.
fn cases() -> Vec<(&'static str, i32, &'static str, Bend)> {
    fn case(
        name: &'static str,
        code: i32,
        says: &'static str,
        bend: impl Fn(&Asked, Answer) -> Answer + Send + Sync + 'static,
    ) -> (&'static str, i32, &'static str, Bend) {
        (name, code, says, Arc::new(bend))
    }
    let first = |asked: &Asked| asked.nth == 0;
    vec![
        case("an honest server", 0, "published", |_, answer| answer),
        case("a cut connection", 0, "tried again", move |asked, answer| {
            if first(asked) { answer.paced(Pace::Cut(1 << 20)) } else { answer }
        }),
        case("a file that changes while it is fetched", 0, "starting over", move |asked, answer| {
            if first(asked) {
                answer.paced(Pace::Cut(1 << 20))
            } else if asked.headers.contains_key("range") {
                answer.with("ETag", "\"another\"")
            } else {
                answer
            }
        }),
        case("a range of another file", 0, "got content range", move |asked, answer| {
            if first(asked) {
                answer.paced(Pace::Cut(1 << 20))
            } else if asked.headers.contains_key("range") {
                answer.with("Content-Range", "bytes 0-9/10")
            } else {
                answer
            }
        }),
        case("no content length", 0, "published", |_, answer| Answer { chunked: true, ..answer }),
        case("busy, retry after", 0, "got status 429", move |asked, answer| {
            if first(asked) { Answer::new(429, "").with("Retry-After", 1) } else { answer }
        }),
        case("a redirect to another path", 0, "published", |asked, answer| {
            let path = asked.path.split('?').next().unwrap_or_default();
            if asked.path.contains('?') { Answer::new(302, "").with("Location", path) } else { answer }
        }),
        case("no such file", 20, "correct the address", |_, _| Answer::new(404, "")),
        case("a login wanted", 20, "no login or token is sent", |_, _| Answer::new(401, "")),
        case("a page instead of a bundle", 5, "gzip header", |_, _| Answer::new(200, "<html>sign in</html>")),
        case("another archive", 5, "gzip header", |_, mut answer| {
            answer.body[8] ^= 4;
            answer
        }),
        case("a body cut short and called whole", 5, "hint: get the bundle again", |_, mut answer| {
            answer.body.truncate(1 << 20);
            answer
        }),
        case("a flipped bit", 5, "hint: ", |_, mut answer| {
            let at = answer.body.len() / 3;
            answer.body[at] ^= 1;
            answer
        }),
        case("an empty body", 20, "got content length 0", |_, _| Answer::new(200, "")),
        case("more than a bundle may have", 20, "got content length 12000000000", |_, answer| {
            answer.with("Content-Length", 12_000_000_000_u64)
        }),
        case("a compressed body", 20, "got content encoding", |_, answer| {
            answer.with("Content-Encoding", "gzip")
        }),
        case("an unasked partial answer", 20, "got status 206", |_, answer| Answer { status: 206, ..answer }),
        case("a server error for ever", 20, "gave up after 3 attempts", |_, _| Answer::new(500, "")),
        case("silence", 20, "gave up after 3 attempts", |_, answer| answer.paced(Pace::Silent)),
        case("slow loris", 20, "stalled: got", |_, answer| answer.paced(Pace::DripBody)),
        case("a redirect to plain http elsewhere", 20, "redirect to `http://192.0.2.1/x`", |_, _| {
            Answer::new(302, "").with("Location", "http://192.0.2.1/x?Signature=signed-address")
        }),
        case("a redirect to a file", 20, "redirect to `file:///etc/passwd`", |_, _| {
            Answer::new(302, "").with("Location", "file:///etc/passwd")
        }),
        case("a redirect with a user name", 20, "without a user name", |_, _| {
            Answer::new(302, "").with("Location", "https://user:pass@192.0.2.1/")
        }),
        case("a redirect loop", 20, "more than 5 redirects", |asked, _| {
            Answer::new(307, "").with("Location", &asked.path)
        }),
        case("terminal escapes in a header", 20, "invalid header value", |_, _| {
            Answer::new(400, "").with("X-Error-Message", "\u{1b}[31mred")
        }),
    ]
}

#[test]
fn a_server_that_misbehaves() {
    let cases = cases();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        // Most of a case is waiting.
        for _ in 0..6 {
            scope.spawn(|| {
                let stage = Stage::new();
                while let Some((name, code, says, bend)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    misbehaves(&stage, name, *code, says, Arc::clone(bend));
                }
            });
        }
    });
}

fn misbehaves(stage: &Stage, name: &str, code: i32, says: &str, bend: Bend) {
    stage.tree.put(&stage.models[1]);
    let hub = stage.hub(move |asked, answer| bend(asked, answer));
    let (got, text) = stage.fetch(&hub, &url(&hub), &[]);
    assert_eq!(got, code, "{name}: {text}");
    assert!(
        text.contains(says) && (code == 0 || text.contains("hint: ")),
        "{name}: `{says}` is not in:\n{text}"
    );
    assert_eq!(stage.tree.whole(name), sha256(&stage.models[usize::from(code != 0)]), "{name}");
    // A partial file may stay for the next attempt; here another server has the next word.
    let _ = fs::remove_dir_all(stage.tree.path(".proofmark/fetch/download"));
    stage.tree.tidy(name);
}

/// Every case has its row in the documentation.
#[test]
fn the_documented_table_is_this_one() {
    let table = include_str!("../../docs/bundle.md");
    for (name, code, ..) in cases() {
        let row = table.lines().find(|line| line.starts_with(&format!("| {name} |")));
        let row = row.unwrap_or_else(|| panic!("`{name}` has no row"));
        let wanted = if code == 0 { "goes on".to_owned() } else { format!("exit {code}") };
        assert!(row.contains(&wanted), "{row}: expected {wanted}");
    }
}

#[test]
fn a_digest_decides_and_what_was_fetched_is_not_fetched_again() {
    let stage = Stage::new();
    let (hub, digest) = (stage.hub(|_, answer| answer), Digest::of(&stage.bundle).to_string());
    let (code, text) = stage.fetch(&hub, &url(&hub), &["--sha256", &"0".repeat(64)]);
    assert!(code == 20 && text.contains("expected --sha256 0000"), "{text}");
    assert_eq!(stage.tree.whole("wrong digest"), sha256(&stage.models[1]));
    let (code, text) = stage.fetch(&hub, &url(&hub), &["--sha256", "main"]);
    assert!(code == 2 && text.contains("expected 64 lower-case hex digits"), "{text}");

    // Fetched, but not published: an export holds the model.
    for more in [&[][..], &["--sha256", &digest]] {
        let hub = stage.hub(|asked, answer| {
            let range = asked.headers.get("range").cloned().unwrap_or_default();
            if answer.status == 200 && !range.is_empty() && asked.headers.contains_key("if-range") {
                // As RFC 9110 has it for a range behind the last byte.
                let length = answer.body.len();
                return Answer::new(416, "").with("Content-Range", format!("bytes */{length}"));
            }
            answer
        });
        stage.tree.put(&stage.models[1]);
        let lock = fs::File::create(stage.tree.path(".proofmark/locks/tiny")).unwrap();
        lock.lock().unwrap();
        let (code, text) = stage.fetch(&hub, &url(&hub), more);
        assert!(code == 4 && text.contains("another export or fetch of `tiny`"), "{text}");
        drop(lock);
        let (code, text) = stage.fetch(&hub, &url(&hub), more);
        assert_eq!(code, 0, "{text}");
        let whole = hub.asked().iter().filter(|asked| !asked.headers.contains_key("range")).count();
        assert_eq!(whole, 1, "it was fetched twice: {:?}", hub.asked());
        assert_eq!(stage.tree.whole("fetched once"), sha256(&stage.models[0]));
        stage.tree.tidy("fetched once");
    }
}

#[test]
fn addresses_that_are_none() {
    let stage = Stage::new();
    let hub = stage.hub(|_, answer| answer);
    let long = format!("https://192.0.2.1/{}", "a".repeat(9000));
    for bad in [
        "http://192.0.2.1/x.tar.gz",
        "ftp://192.0.2.1/x.tar.gz",
        "file:///etc/passwd",
        "https://user:secret-word@192.0.2.1/x",
        "https:///x",
        "http://127.0.0.1.evil.example/x",
        &long,
    ] {
        let (code, text) = stage.fetch(&hub, bad, &[]);
        assert!(code == 20 && text.contains("expected https://HOST/PATH"), "{bad}: {text}");
        assert!(!text.contains("secret-word") && text.len() < 1000, "{text}");
    }
    assert!(hub.asked().is_empty());
    assert_eq!(stage.tree.whole("addresses"), sha256(&stage.models[1]));
}

#[test]
fn one_fetch_at_a_time() {
    let stage = Stage::new();
    let hub = stage.hub(|_, answer| answer);
    fs::create_dir_all(stage.tree.path(".proofmark/locks")).unwrap();
    let lock = fs::File::create(stage.tree.path(".proofmark/locks/.fetch")).unwrap();
    lock.lock().unwrap();
    let (code, text) = stage.fetch(&hub, &url(&hub), &[]);
    assert!(code == 1 && text.contains("another fetch is running"), "{text}");
    assert!(hub.asked().is_empty());
}

#[test]
fn a_run_has_no_digest() {
    let stage = Stage::new();
    let hub = stage.hub(|_, answer| answer);
    let (code, text) = stage.fetch(&hub, "7", &["--sha256", &"0".repeat(64)]);
    assert!(
        code == 1 && text.contains("which a run does not have") && text.contains("ci fetch 7 --attested"),
        "{text}"
    );
}
