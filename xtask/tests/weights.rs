//! `cargo xtask weights` against a hub that misbehaves: the real binary, a real socket. Every run's output and every file
//! that it leaves is searched for the token.
#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

mod hub;

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use hub::{Answer, Asked, Files, Hub, Pace, REPO, REVISION};
use model_assets::digest::Digest;

const TOKEN: &str = "hf_ThisTokenMustNeverBeSeenAnywhere";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const WEIGHTS_BYTES: usize = 3 << 20;
const RECIPE: &str = include_str!("../../model-assets/models/tiny/recipe.toml");

/// A scratch place with a recipe that fetches from the hub.
struct Scratch {
    folder: tempfile::TempDir,
}

impl Scratch {
    fn new(pins: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = format!("kind = \"hub\"\nrepo = \"{REPO}\"\nrevision = \"{REVISION}\"\n{pins}");
        let recipe = RECIPE.replace("kind = \"path\"\npath = \".\"\n", &source);
        assert!(recipe.contains(REVISION), "the recipe was not changed");
        std::fs::create_dir_all(folder.path().join("models/tiny")).unwrap();
        std::fs::write(folder.path().join("models/tiny/recipe.toml"), recipe).unwrap();
        Self { folder }
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache").join(REPO).join(REVISION)
    }

    fn command(&self, hub: &str, token: bool, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        let folder = self.folder.path();
        command.args(["weights", "tiny", "--models"]).arg(folder.join("models"));
        if !more.contains(&"--stall-timeout") {
            command.args(["--stall-timeout", "1"]);
        }
        command.arg("--cache").arg(folder.join("cache")).args(more);
        for name in [
            "HF_TOKEN",
            "HUGGING_FACE_HUB_TOKEN",
            "HF_TOKEN_PATH",
            "HF_HUB_OFFLINE",
            "XDG_CACHE_HOME",
            "HF_HOME",
        ] {
            command.env_remove(name);
        }
        command.env("HF_ENDPOINT", hub).env("HOME", folder).env("RUST_LOG", "trace").env("NO_PROXY", "*");
        if token {
            command.env("HF_TOKEN", TOKEN);
        }
        command
    }

    /// Runs it; the token must be nowhere.
    fn run(&self, hub: &str, token: bool, more: &[&str]) -> (i32, String) {
        let output = self.command(hub, token, more).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(!text.contains(TOKEN), "the output shows the token:\n{text}");
        assert!(!text.contains("signed-address"), "the output shows a signed address:\n{text}");
        no_token_in(self.folder.path());
        (output.status.code().unwrap_or(-1), text)
    }

    /// Every file is there, right, and nothing of a download is left.
    fn is_whole(&self, files: &Files) {
        let names = |path: &Path| -> Vec<String> {
            let entries = std::fs::read_dir(path).unwrap().flatten();
            entries
                .map(|entry| entry.file_name().into_string().unwrap())
                .filter(|name| !name.starts_with('.'))
                .collect()
        };
        for name in names(&self.cache()) {
            assert!(!name.contains(".incomplete"), "{name} was left behind");
            assert_eq!(std::fs::read(self.cache().join(&name)).unwrap(), files.0[&name], "{name}");
        }
        assert!(self.cache().join("config.json").exists());
    }
}

fn no_token_in(folder: &Path) {
    for entry in walkdir::WalkDir::new(folder) {
        let entry = entry.unwrap();
        if entry.file_type().is_file() {
            let bytes = std::fs::read(entry.path()).unwrap();
            let found = bytes.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes());
            assert!(!found, "{} holds the token", entry.path().display());
        }
    }
}

/// The token went to the hub's own origin only.
fn token_stayed_home(asked: &[Asked], sent: bool) {
    for request in asked {
        let carried = request.headers.values().any(|value| value.contains(TOKEN));
        assert!(!(carried && request.storage), "the token was sent to another origin: {request:?}");
        assert!(!sent || request.storage || carried, "the hub was asked without the token: {request:?}");
    }
}

type Bend = Arc<dyn Fn(&Asked, Answer) -> Answer + Send + Sync>;

/// One way to misbehave.
struct Case {
    /// Also its row in `docs/supply-chain-fetch.md`.
    name: &'static str,
    files: Files,
    bend: Bend,
    token: bool,
    code: i32,
    says: &'static [&'static str],
}

fn case(
    name: &'static str,
    code: i32,
    says: &'static [&'static str],
    bend: impl Fn(&Asked, Answer) -> Answer + Send + Sync + 'static,
) -> Case {
    Case { name, files: Files::checkpoint(WEIGHTS_BYTES), bend: Arc::new(bend), token: true, code, says }
}

/// Bends the answers that carry the weights.
fn weights(change: impl Fn(&Asked, Answer) -> Answer + Send + Sync + 'static) -> Bend {
    Arc::new(move |asked, answer| if asked.wants(WEIGHTS) { change(asked, answer) } else { answer })
}

fn list(change: impl Fn(serde_json::Value) -> serde_json::Value + Send + Sync + 'static) -> Bend {
    Arc::new(move |asked, answer| {
        if !asked.wants_list() {
            return answer;
        }
        Answer::new(200, change(serde_json::from_slice(&answer.body).unwrap()).to_string())
    })
}

/// Changes the list's entry of the weights.
fn entry(change: impl Fn(&mut serde_json::Value) + Send + Sync + 'static) -> Bend {
    list(move |mut entries| {
        change(entries.as_array_mut().unwrap().iter_mut().find(|entry| entry["path"] == WEIGHTS).unwrap());
        entries
    })
}

/// A first answer that is cut, and what follows it.
fn cut_then(change: impl Fn(&Asked, Answer) -> Answer + Send + Sync + 'static) -> Bend {
    weights(
        move |asked, answer| {
            if asked.nth == 0 { answer.paced(Pace::Cut(2 << 20)) } else { change(asked, answer) }
        },
    )
}

/// A hub whose weights are shards, as this index says.
fn sharded(name: &'static str, code: i32, says: &'static [&'static str], index: serde_json::Value) -> Case {
    let files = Files::checkpoint(WEIGHTS_BYTES);
    let part = files.0[WEIGHTS][..1 << 20].to_vec();
    let files = files.without(WEIGHTS).with("a-1.safetensors", part.clone()).with("a-2.safetensors", part);
    let files = files.with(INDEX, serde_json::json!({"weight_map": index}).to_string());
    Case { files, ..case(name, code, says, |_, answer| answer) }
}

fn cases() -> Vec<Case> {
    let honest = |_: &Asked, answer: Answer| answer;
    let with = |case: Case, bend: Bend| Case { bend, ..case };
    let without_token = |case: Case| Case { token: false, ..case };
    let many: serde_json::Map<_, _> =
        (0..600).map(|i| (i.to_string(), format!("{i}.safetensors").into())).collect();
    vec![
        // What passes when one has patience.
        with(case("cut connection", 0, &[], honest), cut_then(|_, answer| answer)),
        with(
            case("cut at every half", 0, &[], honest),
            weights(|_, answer| {
                // Each attempt brings a megabyte or the rest.
                answer.paced(Pace::Cut(1 << 20))
            }),
        ),
        with(
            case("changed ETag in a partial answer", 0, &["the file changed while it was fetched"], honest),
            cut_then(|asked, answer| {
                if asked.headers.contains_key("range") { answer.with("ETag", "\"another\"") } else { answer }
            }),
        ),
        with(
            case("changed ETag, whole answer", 0, &[], honest),
            cut_then(|_, answer| Answer { status: 200, ..answer.with("ETag", "\"another\"") }).map_whole(),
        ),
        with(
            case("wrong content range", 0, &["got content range"], honest),
            cut_then(|asked, answer| {
                if asked.headers.contains_key("range") {
                    answer.with("Content-Range", "bytes 0-9/10")
                } else {
                    answer
                }
            }),
        ),
        with(
            case("range not satisfiable", 0, &["got status 416"], honest),
            cut_then(
                |asked, answer| {
                    if asked.headers.contains_key("range") { Answer::new(416, "") } else { answer }
                },
            ),
        ),
        with(
            case("weak ETag", 0, &[], honest),
            cut_then(|asked, answer| {
                assert!(!asked.headers.contains_key("range"), "a weak tag says nothing about bytes");
                answer
            })
            .weak(),
        ),
        with(
            case("no content length", 0, &[], honest),
            weights(|_, answer| Answer { chunked: true, ..answer }),
        ),
        with(
            case("busy, retry after", 0, &["got status 429", "tried again after 1.0 s"], honest),
            weights(
                |asked, answer| {
                    if asked.nth == 0 { Answer::new(429, "").with("Retry-After", 1) } else { answer }
                },
            ),
        ),
        with(
            case("server error, then well", 0, &["got status 503"], honest),
            weights(|asked, answer| if asked.nth == 0 { Answer::new(503, "") } else { answer }),
        ),
        with(
            case("expired signed address", 0, &["got status 403"], honest),
            weights(|asked, answer| if asked.nth == 0 { Answer::new(403, "") } else { answer }),
        ),
        case("dropped connection, then well", 0, &[], |asked, answer| {
            if asked.nth == 0 && asked.wants_list() { answer.paced(Pace::Cut(10)) } else { answer }
        }),
        // What does not pass.
        with(
            case(
                "cut again and again",
                20,
                &["broken off after 500 bytes", "gave up after 3 attempts"],
                honest,
            ),
            weights(|_, answer| answer.paced(Pace::Cut(500))),
        ),
        with(
            case("shorter than listed", 20, &["got content length 1000, expected 3145728"], honest),
            weights(|_, answer| Answer::new(200, &answer.body[..1000])),
        ),
        with(
            case("longer than listed", 20, &["got content length 3145729"], honest),
            weights(|_, answer| Answer { body: [answer.body, vec![0]].concat(), ..answer }),
        ),
        with(
            case("endless body", 20, &["got more than 3145728 bytes"], honest),
            weights(|_, answer| Answer { body: answer.body.repeat(2), chunked: true, ..answer }),
        ),
        with(
            case("declared shorter than sent", 20, &["got content length 10,"], honest),
            weights(|_, answer| answer.with("Content-Length", 10)),
        ),
        with(
            case("unasked partial answer", 20, &["got status 206"], honest),
            weights(|_, answer| Answer { status: 206, ..answer }),
        ),
        with(
            case("other bytes of the same length", 20, &["got sha256", "expected the hub's"], honest),
            weights(|_, mut answer| {
                answer.body[77] ^= 1;
                answer
            }),
        ),
        case(
            "other bytes of a small file",
            20,
            &["config.json: got another git blob"],
            |asked, mut answer| {
                if asked.path.ends_with("/config.json") {
                    answer.body[0] ^= 1
                };
                answer
            },
        ),
        with(
            case("compressed body", 20, &["got content encoding \"gzip\""], honest),
            weights(|_, answer| answer.with("Content-Encoding", "gzip")),
        ),
        case("another commit", 20, &["got commit `main`"], |asked, answer| {
            if asked.wants_list() { answer.with("X-Repo-Commit", "main") } else { answer }
        }),
        with(
            case("slow loris in the body", 20, &["stalled: got"], honest),
            weights(|_, answer| answer.paced(Pace::DripBody)),
        ),
        with(
            case("slow loris in the head", 20, &["gave up"], honest),
            weights(|_, answer| answer.paced(Pace::DripHead)),
        ),
        with(case("silence", 20, &["gave up"], honest), weights(|_, answer| answer.paced(Pace::Silent))),
        case("flood of headers", 20, &[], |asked, answer| {
            if asked.wants_list() {
                (0..3000).fold(answer, |a, i| a.with(&format!("X-Flood-{i}"), "x".repeat(100)))
            } else {
                answer
            }
        }),
        with(
            case("retry after a day", 20, &["asks to wait 86400 s"], honest),
            weights(|_, _| Answer::new(429, "").with("Retry-After", 86_400)),
        ),
        with(
            case("server error for ever", 20, &["got status 500", "gave up"], honest),
            weights(|_, _| Answer::new(500, "")),
        ),
        with(case("teapot", 20, &["got status 418"], honest), weights(|_, _| Answer::new(418, ""))),
        // Redirects.
        with(
            case("redirect to plain http elsewhere", 20, &["redirect to `http://192.0.2.1/x`"], honest),
            weights(|_, _| {
                Answer::new(302, "").with("Location", "http://192.0.2.1/x?Signature=signed-address")
            }),
        ),
        with(
            case("redirect to a file", 20, &["redirect to `file:///etc/passwd`"], honest),
            weights(|_, _| Answer::new(302, "").with("Location", "file:///etc/passwd")),
        ),
        with(
            case("redirect with a user name", 20, &["without a user name"], honest),
            weights(|_, _| Answer::new(302, "").with("Location", "https://user:pass@192.0.2.1/")),
        ),
        with(
            case("redirect to nowhere", 20, &["redirect to ``"], honest),
            weights(|_, _| Answer::new(302, "")),
        ),
        with(
            case("redirect loop", 20, &["more than 5 redirects"], honest),
            weights(|asked, _| Answer::new(307, "").with("Location", &asked.path)),
        ),
        case("redirect to another origin", 0, &[], |_, answer| answer),
        // Access.
        without_token(case(
            "gated, no token",
            21,
            &[
                "access denied",
                "accept its licence at http://127.0.0.1",
                "/acme/tiny-llama",
                "export HF_TOKEN=...",
            ],
            |asked, answer| {
                if asked.path.contains("/resolve/") {
                    Answer::new(401, "").with("X-Error-Code", "GatedRepo")
                } else {
                    answer
                }
            },
        )),
        case(
            "gated, no grant",
            21,
            &["the token from HF_TOKEN is known", "accept the licence at http://127.0.0.1"],
            |asked, answer| {
                if asked.path.contains("/resolve/") {
                    Answer::new(403, "").with("X-Error-Code", "GatedRepo")
                } else {
                    answer
                }
            },
        ),
        case("invalid token", 21, &["not valid or has expired"], |_, _| Answer::new(401, "")),
        without_token(case("private, no token", 21, &["make a read token at http://127.0.0.1"], |_, _| {
            Answer::new(401, "")
        })),
        case("token echoed in an error", 21, &["[token]"], |_, _| {
            Answer::new(403, "").with("X-Error-Message", format!("bad token {TOKEN}"))
        }),
        with(
            case("terminal escapes in a list", 20, &["list of files: `[31mred`: its lfs oid"], honest),
            entry(|entry| {
                entry["path"] = "\u{1b}[31mred".into();
                entry["lfs"]["oid"] = "x".into();
            }),
        ),
        // The list.
        case(
            "missing revision",
            20,
            &["revision 0123456789abcdef0123456789abcdef01234567 does not exist"],
            |_, _| Answer::new(404, "").with("X-Error-Code", "RevisionNotFound"),
        ),
        case("missing repository", 20, &["no such repository"], |_, _| Answer::new(404, "")),
        case("listed but missing", 20, &["the file does not exist"], |asked, answer| {
            if asked.path.ends_with("/config.json") {
                Answer::new(404, "").with("X-Error-Code", "EntryNotFound")
            } else {
                answer
            }
        }),
        with(
            case(
                "list without weights",
                20,
                &["model.safetensors.index.json: not in the repository"],
                honest,
            ),
            list(|mut entries| {
                entries.as_array_mut().unwrap().retain(|entry| entry["path"] != WEIGHTS);
                entries
            }),
        ),
        with(
            case("list with a file twice", 20, &["twice"], honest),
            list(|mut entries| {
                let first = entries[0].clone();
                entries.as_array_mut().unwrap().push(first);
                entries
            }),
        ),
        case("list that is a page", 20, &["list of files: expected value"], |asked, answer| {
            if asked.wants_list() { Answer::new(200, "<html>sign in</html>") } else { answer }
        }),
        case("endless list", 20, &["got more than 8388608 bytes"], |asked, answer| {
            if asked.wants_list() { Answer::new(200, vec![b' '; 9 << 20]) } else { answer }
        }),
        case("endless pages", 20, &["more than 20 pages"], |asked, answer| {
            if asked.wants_list() {
                Answer::new(200, "[]").with("Link", format!("<{}>; rel=\"next\"", asked.path))
            } else {
                answer
            }
        }),
        case("next page elsewhere", 20, &["next page is on another host"], |asked, answer| {
            if asked.wants_list() {
                Answer::new(200, "[]").with("Link", "<https://192.0.2.1/steal>; rel=\"next\"")
            } else {
                answer
            }
        }),
        with(
            case("huge declared size", 20, &["declares 1000000000000 bytes, expected at most"], honest),
            entry(|entry| entry["lfs"]["size"] = 1_000_000_000_000_u64.into()),
        ),
        with(
            case("size of 2^64", 20, &["list of files"], honest),
            entry(|entry| entry["lfs"]["size"] = 18_446_744_073_709_551_616_f64.into()),
        ),
        with(
            case("empty weights", 20, &["declares 0 bytes"], honest),
            entry(|entry| entry["lfs"]["size"] = 0.into()),
        ),
        with(
            case("digest that is none", 20, &["its lfs oid is not 64 hex digits"], honest),
            entry(|entry| entry["lfs"]["oid"] = "sha256:x".into()),
        ),
        with(
            case("size larger than the file", 20, &["got content length"], honest),
            entry(|entry| entry["lfs"]["size"] = 4_000_000.into()),
        ),
        with(
            case("digest of another file", 20, &["got sha256"], honest),
            entry(|entry| entry["lfs"]["oid"] = "0".repeat(64).into()),
        ),
        // The index.
        sharded(
            "shards",
            0,
            &[],
            serde_json::json!({"a": "a-1.safetensors", "b": "a-2.safetensors", "c": "a-1.safetensors"}),
        ),
        sharded(
            "index names a path outside",
            20,
            &["names \"../../evil.safetensors\""],
            serde_json::json!({"a": "../../evil.safetensors"}),
        ),
        sharded(
            "index names an absolute path",
            20,
            &["names \"/etc/evil.safetensors\""],
            serde_json::json!({"a": "/etc/evil.safetensors"}),
        ),
        sharded(
            "index names a hidden file",
            20,
            &["names \".evil.safetensors\""],
            serde_json::json!({"a": ".evil.safetensors"}),
        ),
        sharded(
            "index names a pickle",
            20,
            &["names \"pytorch_model.bin\""],
            serde_json::json!({"a": "pytorch_model.bin"}),
        ),
        sharded(
            "index names a query",
            20,
            &["names \"a?b.safetensors\""],
            serde_json::json!({"a": "a?b.safetensors"}),
        ),
        sharded(
            "index names what is not listed",
            20,
            &["b.safetensors: not in the repository"],
            serde_json::json!({"a": "b.safetensors"}),
        ),
        sharded("index names nothing", 20, &["names no file"], serde_json::json!({})),
        sharded("index names 600 files", 20, &["names 600 files, expected at most 512"], many.into()),
        sharded("index that is none", 20, &["not an index"], serde_json::json!("x")),
    ]
}

/// Small changes to the honest storage that need the whole of it.
trait Change {
    fn map_whole(self) -> Bend;
    fn weak(self) -> Bend;
}

impl Change for Bend {
    /// The second answer is the whole file although a range was asked for.
    fn map_whole(self) -> Bend {
        Arc::new(move |asked, answer| {
            if asked.wants(WEIGHTS) && asked.headers.contains_key("range") {
                let body = Files::checkpoint(WEIGHTS_BYTES).0[WEIGHTS].clone();
                return Answer::new(200, body).with("ETag", "\"another\"");
            }
            self(asked, answer)
        })
    }

    fn weak(self) -> Bend {
        Arc::new(move |asked, answer| {
            let answer = self(asked, answer);
            if asked.wants(WEIGHTS) { answer.with("ETag", "W/\"weak\"") } else { answer }
        })
    }
}

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
    let table = include_str!("../../docs/supply-chain-fetch.md");
    for case in cases() {
        let wanted = if case.code == 0 { "goes on".to_owned() } else { format!("exit {}", case.code) };
        let row = table.lines().find(|line| line.starts_with(&format!("| {} |", case.name)));
        let row = row.unwrap_or_else(|| panic!("`{}` has no row", case.name));
        assert!(row.contains(&wanted), "{row}: expected {wanted}");
    }
}

fn honest(_: &Asked, answer: Answer) -> Answer {
    answer
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
    let kills: u32 = std::env::var("PROOFMARK_FETCH_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(25);
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
