//! As much of GitHub's REST API as the real `gh` asks for here, on loopback. `gh` speaks plain http to the host
//! `github.localhost` only, and reaches this server as its http proxy.
#![allow(clippy::unwrap_used, clippy::allow_attributes, reason = "helpers of a test fail by panicking")]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};

const REPO: &str = "/repos/acme/proof";

/// What was asked, and what the answers depend on.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) head: String,
    pub(crate) artifact: Vec<u8>,
    pub(crate) asked: Vec<(String, String)>,
    pub(crate) request: String,
    pub(crate) looks: u32,
}

/// Starts the server and returns its address as a proxy.
pub(crate) fn start(state: State) -> (String, Arc<Mutex<State>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let state = Arc::new(Mutex::new(state));
    let shared = Arc::clone(&state);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            serve(&stream, &shared);
        }
    });
    (address, state)
}

fn serve(mut stream: &TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream);
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap_or_default();
        line.trim_end().to_owned()
    };
    let first = line();
    let mut length = 0;
    loop {
        let header = line().to_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length: ") {
            length = value.parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let body = String::from_utf8(body).unwrap();
    let url = first.split(' ').nth(1).unwrap_or_default();
    let path =
        url.strip_prefix("http://api.github.localhost").unwrap_or(url).split('?').next().unwrap_or_default();
    let mut state = state.lock().unwrap();
    state.asked.push((first.clone(), body.clone()));
    let (status, kind, bytes) = answer(&mut state, path, &body);
    let head = format!(
        "HTTP/1.1 {status} Told\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
        bytes.len()
    );
    let _ = stream.write_all(&[head.as_bytes(), &bytes].concat());
}

fn answer(state: &mut State, path: &str, body: &str) -> (u16, &'static str, Vec<u8>) {
    let json = |value: Value| (200, "application/json", value.to_string().into_bytes());
    let mut run = json!({"id": 7, "name": "export-llama-pte", "workflow_id": 1, "event": "workflow_dispatch", "head_branch": "main",
        "html_url": "http://github.localhost/acme/proof/actions/runs/7", "display_title": format!("export tiny ({})", state.request),
        "status": "completed", "conclusion": "success", "jobs_url": "", "url": ""});
    match path.strip_prefix(REPO) {
        Some("") => json(json!({"full_name": "acme/proof", "default_branch": "main"})),
        Some("/commits/main") => json(json!({"sha": state.head})),
        Some("/actions/secrets/public-key") => {
            // Base64 of 32 bytes: any point will do to seal a box for.
            json(json!({"key_id": "1", "key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}))
        }
        Some("/actions/secrets/HF_TOKEN") => (201, "application/json", b"{}".to_vec()),
        Some("/actions/workflows/export-llama-pte.yml") => json(
            json!({"id": 1, "name": "export-llama-pte", "path": ".github/workflows/export-llama-pte.yml", "state": "active"}),
        ),
        Some("/actions/workflows/1/dispatches" | "/actions/workflows/export-llama-pte.yml/dispatches") => {
            let inputs: Value = serde_json::from_str(body).unwrap();
            state.request = inputs["inputs"]["request"].as_str().unwrap().to_owned();
            (204, "application/json", Vec::new())
        }
        Some("/actions/workflows/export-llama-pte.yml/runs") => {
            json(json!({"total_count": 1, "workflow_runs": [run]}))
        }
        Some("/actions/runs/7") => {
            state.looks += 1;
            if state.looks < 3 {
                (run["status"], run["conclusion"]) = ("in_progress".into(), Value::Null);
            }
            json(run)
        }
        Some("/actions/runs/7/jobs") => json(
            json!({"jobs": [{"id": 1, "name": "export tiny", "status": "in_progress", "conclusion": null,
            "steps": [{"name": "Export and prove", "number": 1, "status": "in_progress", "conclusion": null}]}]}),
        ),
        Some("/actions/runs/7/artifacts") => {
            json(json!({"total_count": 1, "artifacts": [{"name": "export-tiny", "size_in_bytes": 1,
            "expired": false, "archive_download_url": format!("http://api.github.localhost{REPO}/actions/artifacts/9/zip")}]}))
        }
        Some("/actions/artifacts/9/zip") => (200, "application/zip", state.artifact.clone()),
        _ if path == "/user" => json(json!({"login": "acme"})),
        _ => (404, "application/json", br#"{"message": "Not Found"}"#.to_vec()),
    }
}

/// A zip archive of stored files, as APPNOTE.TXT has it.
pub(crate) fn zip(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in files {
        let offset = u32::try_from(archive.len()).unwrap();
        let (length, name_length) = (u32::try_from(bytes.len()).unwrap(), u16::try_from(name.len()).unwrap());
        let mut common = [20_u16, 0, 0, 0, 0x21].map(u16::to_le_bytes).concat();
        common.extend([crc32(bytes), length, length].map(u32::to_le_bytes).concat());
        common.extend([name_length, 0].map(u16::to_le_bytes).concat());
        archive.extend([b"PK\x03\x04", common.as_slice(), name.as_bytes(), bytes].concat());
        directory.extend(
            [b"PK\x01\x02\x14\x00", common.as_slice(), &[0; 10], &offset.to_le_bytes(), name.as_bytes()]
                .concat(),
        );
    }
    let (count, start) = (u16::try_from(files.len()).unwrap(), u32::try_from(archive.len()).unwrap());
    let size = u32::try_from(directory.len()).unwrap();
    archive.extend(directory);
    archive
        .extend([b"PK\x05\x06\0\0\0\0".as_slice(), &[count, count].map(u16::to_le_bytes).concat()].concat());
    archive.extend([size, start].map(u32::to_le_bytes).concat());
    archive.extend([0, 0]);
    archive
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(
            crc ^ u32::from(*byte),
            |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 },
        )
    })
}
