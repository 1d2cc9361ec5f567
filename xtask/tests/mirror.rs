//! A company's package mirror, told to pip alone: `setup` asks it for everything, by pip and by uv, and nobody else.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

mod tree;

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
};

use tree::{Tree, said};

/// A mirror that has no package. It remembers who asked for what.
struct Mirror {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Mirror {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, asked) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<_>>>::default());
        let seen = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = Arc::clone(&seen);
                std::thread::spawn(move || answer(stream, &seen));
            }
        });
        Self { address, asked }
    }

    /// What was asked for since the last time, as `pip /simple/uv/`.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

fn answer(mut stream: TcpStream, seen: &Mutex<Vec<String>>) {
    let lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    // To the end: an answer to a request that is not read may be lost with the connection.
    let request: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let path = request.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
    let agent = request.iter().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("user-agent").then(|| value.split('/').next().unwrap_or_default())
    });
    seen.lock().unwrap().push(format!("{} {path}", agent.unwrap_or_default()));
    let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
}

/// `setup` with the mirror in pip's words, and every other way out closed.
fn setup(tree: &Tree, mirror: &Mirror) -> Command {
    let mut command = tree.xtask(&["setup"]);
    let inherited = std::env::vars_os().map(|(name, _)| name.into_string().unwrap_or_default());
    for name in inherited.filter(|name| ["PIP_", "UV_"].iter().any(|start| name.starts_with(start))) {
        command.env_remove(name);
    }
    command
        .env("PIP_INDEX_URL", format!("http://{}/simple/", mirror.address))
        .env("PIP_TRUSTED_HOST", "127.0.0.1")
        .env("PIP_RETRIES", "0")
        .env("UV_HTTP_RETRIES", "0")
        .env("HTTPS_PROXY", "http://127.0.0.1:9")
        .env("NO_PROXY", "127.0.0.1")
        .env("PROOFMARK_TORCH_CPU_INDEX", "http://127.0.0.1:9/whl/cpu");
    command
}

/// The packages of the repository's own set-up, pip and uv among them, are found by a venv; uv does not see them there.
fn lend_packages(venv: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let packages = |venv: &Path| {
        let versions = fs::read_dir(venv.join("lib")).unwrap().flatten();
        versions.map(|it| it.path().join("site-packages")).find(|it| it.is_dir()).unwrap()
    };
    let lent = packages(&root.join(".proofmark/venv"));
    let own = packages(venv);
    fs::remove_dir_all(&own).unwrap();
    fs::create_dir(&own).unwrap();
    fs::write(own.join("lent.pth"), lent.to_str().unwrap()).unwrap();
}

#[test]
fn what_pip_was_told_of_a_mirror_is_true_of_uv_as_well() {
    let (tree, mirror) = (Tree::new(), Mirror::start());
    fs::create_dir_all(tree.path("xtask")).unwrap();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
    std::os::unix::fs::symlink(sources, tree.path("xtask/python")).unwrap();

    // The venv is new: pip asks for itself and uv, both of another version than Python brings.
    let (code, text) = said(&mut setup(&tree, &mirror));
    let asked = mirror.asked();
    assert_ne!(code, 0, "{text}");
    assert!(asked.iter().any(|it| it.starts_with("pip /simple/")), "{asked:?}\n{text}");

    // Both are there: uv asks for all else.
    lend_packages(&tree.path(".proofmark/venv"));
    let (code, text) = said(&mut setup(&tree, &mirror));
    let asked = mirror.asked();
    assert_ne!(code, 0, "{text}");
    assert!(asked.iter().any(|it| it.starts_with("uv /simple/")), "{asked:?}\n{text}");
}
