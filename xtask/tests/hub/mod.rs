//! A server on loopback that speaks the hub's endpoints: the list of files, `resolve` with its redirect to storage on
//! another origin, ranges. A test bends its answers.
#![allow(dead_code, clippy::unwrap_used, clippy::allow_attributes, reason = "helpers of several tests")]

use std::{
    collections::{BTreeMap, HashMap},
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

use model_assets::digest::Digest;
use sha1::{Digest as _, Sha1};

pub(crate) const REPO: &str = "acme/tiny-llama";
pub(crate) const REVISION: &str = "0123456789abcdef0123456789abcdef01234567";

/// A request, as it came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// Whether it reached the storage's origin and not the hub's.
    pub(crate) storage: bool,
    /// Path and query.
    pub(crate) path: String,
    /// Headers, names in lower case.
    pub(crate) headers: HashMap<String, String>,
    /// How many requests of the same path came before.
    pub(crate) nth: usize,
}

impl Asked {
    /// A request for a file's bytes, not for a redirect to them.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.storage && self.path.split('?').next() == Some(&format!("/blob/{name}"))
    }

    /// A request for the list of files.
    pub(crate) fn wants_list(&self) -> bool {
        self.path.starts_with("/api/models/")
    }
}

/// How a body is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    Whole,
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// One byte at a time, from the first byte of the head or of the body on.
    DripHead,
    DripBody,
    /// No answer at all until the client has gone.
    Silent,
    /// Like `Whole`, but a little at a time, so that a kill can come in between.
    Slow,
}

#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) pace: Pace,
    pub(crate) chunked: bool,
}

impl Answer {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), pace: Pace::Whole, chunked: false }
    }

    /// With a header, in place of one of the same name.
    pub(crate) fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub(crate) fn paced(self, pace: Pace) -> Self {
        Self { pace, ..self }
    }
}

/// Bends the honest answer to a request.
pub(crate) type Bend = dyn Fn(&Asked, Answer) -> Answer + Send + Sync;

/// What the hub has.
#[derive(Clone)]
pub(crate) struct Files(pub(crate) BTreeMap<String, Vec<u8>>);

impl Files {
    /// A small checkpoint; the bytes of the weights are noise.
    pub(crate) fn checkpoint(weights_bytes: usize) -> Self {
        let mut state = 0x9e37_79b9_u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let weights = (0..weights_bytes).map(|_| noise()).collect();
        let files = [
            ("config.json", include_bytes!("../../../model-assets/models/tiny/config.json").to_vec()),
            ("tokenizer.json", include_bytes!("../../../model-assets/models/tiny/tokenizer.json").to_vec()),
            ("model.safetensors", weights),
            ("README.md", b"not needed".to_vec()),
        ];
        Self(files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect())
    }

    pub(crate) fn with(mut self, name: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.0.insert(name.to_owned(), bytes.into());
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.0.remove(name);
        self
    }

    /// The entries of the tree API.
    pub(crate) fn list(&self) -> serde_json::Value {
        let entry = |(name, bytes): (&String, &Vec<u8>)| {
            let blob = Sha1::digest([format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat());
            let oid: String = blob.iter().map(|byte| format!("{byte:02x}")).collect();
            let mut entry =
                serde_json::json!({"type": "file", "path": name, "oid": oid, "size": bytes.len()});
            if name.ends_with(".safetensors") {
                entry["lfs"] =
                    serde_json::json!({"oid": Digest::of(bytes), "size": bytes.len(), "pointerSize": 135});
            }
            entry
        };
        let folder = serde_json::json!({"type": "directory", "path": "original", "oid": "0", "size": 0});
        self.0.iter().map(entry).chain([folder]).collect()
    }
}

/// A running server; it ends with the test's process.
pub(crate) struct Hub {
    pub(crate) url: String,
    pub(crate) log: Arc<Mutex<Vec<Asked>>>,
}

impl Hub {
    pub(crate) fn start(
        files: Files,
        bend: impl Fn(&Asked, Answer) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [url, storage] = [0, 1].map(|i| format!("http://{}", listeners[i].local_addr().unwrap()));
        let log = Arc::new(Mutex::new(Vec::new()));
        let shared: Arc<(Files, Box<Bend>, String)> = Arc::new((files, Box::new(bend), storage));
        for (index, listener) in listeners.into_iter().enumerate() {
            let (log, shared) = (Arc::clone(&log), Arc::clone(&shared));
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let (log, shared) = (Arc::clone(&log), Arc::clone(&shared));
                    std::thread::spawn(move || serve(&stream, index == 1, &log, &shared));
                }
            });
        }
        Self { url, log }
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.log.lock().unwrap().clone()
    }
}

fn serve(stream: &TcpStream, storage: bool, log: &Mutex<Vec<Asked>>, shared: &(Files, Box<Bend>, String)) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let pairs = lines.take_while(|line| !line.is_empty());
    let headers = pairs
        .filter_map(|line| line.split_once(": ").map(|(k, v)| (k.to_lowercase(), v.to_owned())))
        .collect();
    let asked = {
        let mut log = log.lock().unwrap();
        let nth = log.iter().filter(|asked: &&Asked| asked.storage == storage && asked.path == path).count();
        let asked = Asked { storage, path, headers, nth };
        log.push(asked.clone());
        asked
    };
    let answer = (shared.1)(&asked, honest(&asked, &shared.0, &shared.2));
    // The client may well have gone: that is what half of the tests are about.
    let _ = send(stream, answer);
}

/// What the hub says.
fn honest(asked: &Asked, files: &Files, storage: &str) -> Answer {
    let path = asked.path.split('?').next().unwrap_or_default();
    if path == format!("/api/models/{REPO}/tree/{REVISION}") {
        return Answer::new(200, files.list().to_string()).with("X-Repo-Commit", REVISION);
    }
    let card = format!("/api/models/{REPO}/revision/");
    if path.strip_prefix(&card).is_some_and(|it| it == "main" || it == REVISION) {
        let card = serde_json::json!({"id": REPO, "sha": REVISION, "cardData": {"license": "apache-2.0"}});
        return Answer::new(200, card.to_string()).with("X-Repo-Commit", REVISION);
    }
    let resolved = path.strip_prefix(&format!("/{REPO}/resolve/{REVISION}/"));
    let Some(name) = resolved.or_else(|| path.strip_prefix("/blob/").filter(|_| asked.storage)) else {
        return Answer::new(404, "").with("X-Error-Code", "RepoNotFound");
    };
    let Some(bytes) = files.0.get(name) else {
        return Answer::new(404, "").with("X-Error-Code", "EntryNotFound");
    };
    if resolved.is_some() && name.ends_with(".safetensors") {
        let place = format!("{storage}/blob/{name}?Signature=signed-address");
        return Answer::new(302, "").with("Location", place).with("X-Repo-Commit", REVISION);
    }
    let etag = format!("\"{}\"", Digest::of(bytes));
    let same = asked.headers.get("if-range").is_none_or(|tag| *tag == etag);
    let start = asked
        .headers
        .get("range")
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    match start.filter(|start: &usize| same && *start < bytes.len()) {
        None => Answer::new(200, bytes.clone()).with("ETag", etag),
        Some(start) => {
            let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
            Answer::new(206, bytes[start..].to_vec()).with("ETag", etag).with("Content-Range", range)
        }
    }
}

fn send(mut stream: &TcpStream, answer: Answer) -> std::io::Result<()> {
    let Answer { status, headers, body, pace, chunked } = answer;
    let mut head = format!("HTTP/1.1 {status} Told\r\nConnection: close\r\n");
    for (name, value) in &headers {
        head += &format!("{name}: {value}\r\n");
    }
    if chunked {
        head += "Transfer-Encoding: chunked\r\n";
    } else if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    head += "\r\n";
    let body = if chunked {
        let chunks = body
            .chunks(65_536)
            .map(|part| [format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat());
        chunks.chain([b"0\r\n\r\n".to_vec()]).collect::<Vec<_>>().concat()
    } else {
        body
    };
    let drip = |mut stream: &TcpStream, bytes: &[u8], pause: Duration, step: usize| {
        bytes.chunks(step).try_for_each(|part| {
            std::thread::sleep(pause);
            stream.write_all(part)
        })
    };
    const PAUSE: Duration = Duration::from_millis(40);
    match pace {
        Pace::Silent => std::io::copy(&mut stream, &mut std::io::sink()).map(drop),
        Pace::DripHead => drip(stream, head.as_bytes(), PAUSE, 1),
        Pace::DripBody => stream.write_all(head.as_bytes()).and_then(|()| drip(stream, &body, PAUSE, 1)),
        Pace::Slow => stream
            .write_all(head.as_bytes())
            .and_then(|()| drip(stream, &body, Duration::from_millis(2), 32_768)),
        Pace::Whole => stream.write_all(&[head.as_bytes(), &body].concat()),
        Pace::Cut(after) => {
            stream.write_all(head.as_bytes())?;
            stream.write_all(&body[..after.min(body.len())])
        }
    }
}
