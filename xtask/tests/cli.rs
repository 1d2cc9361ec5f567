//! The real binary: what it prints, and its exit codes.
#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

/// Runs xtask; paths of this checkout and sizes of this machine are replaced before anything is compared.
fn xtask(arguments: &[&str]) -> (i32, String) {
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_xtask")).args(arguments).env("COLUMNS", "100").output().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_str().unwrap();
    let text = [stdout, stderr].concat();
    (status.code().unwrap(), String::from_utf8(text).unwrap().replace(root, "[root]"))
}

#[test]
fn help() {
    let (code, text) = xtask(&["--help"]);
    assert_eq!(code, 0);
    insta::assert_snapshot!(text);
}

#[test]
fn help_of_dev() {
    let (code, text) = xtask(&["dev", "--help"]);
    assert_eq!(code, 0);
    insta::assert_snapshot!(text);
}

#[test]
fn help_of_export() {
    let (code, text) = xtask(&["export", "--help"]);
    assert_eq!(code, 0);
    insta::assert_snapshot!(text);
}

#[test]
fn a_reader_that_has_had_enough_ends_a_command_quietly() {
    for arguments in
        [&["doctor", "--json"][..], &["clean", "--dry-run"], &["export", "llama3.2-1b", "--dry-run"]]
    {
        let mut child = Command::new(env!("CARGO_BIN_EXE_xtask"))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert!(ended.status.success() && said.is_empty(), "{arguments:?}: {:?}: {said}", ended.status);
    }
}

#[test]
fn a_command_works_on_the_work_tree_that_it_is_called_in() {
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().canonicalize().unwrap();
    for made in ["xtask", "model-assets/models/nonsense"] {
        std::fs::create_dir_all(other.join(made)).unwrap();
    }
    std::fs::write(other.join("xtask/Cargo.toml"), "").unwrap();
    let said = |package: Option<&Path>, folder: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.args(["verify", "nonsense"]).current_dir(folder).env_remove("CARGO_MANIFEST_DIR");
        command.envs(package.map(|package| ("CARGO_MANIFEST_DIR", package)));
        String::from_utf8(command.output().unwrap().stderr).unwrap()
    };
    let path = other.join("model-assets/models/nonsense");
    for text in [said(None, &path), said(Some(&other.join("xtask")), Path::new("/"))] {
        assert!(text.contains(path.to_str().unwrap()), "{text}");
    }
}

/// Digests are of bytes: nobody's settings of git may change them.
#[test]
fn a_checkout_has_the_line_ends_that_were_committed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let attributes = std::fs::read_to_string(root.join(".gitattributes")).unwrap();
    assert!(attributes.lines().any(|line| line == "* text=auto eol=lf"), "{attributes}");
    let models = root.join("model-assets/models");
    for entry in walkdir::WalkDir::new(&models).into_iter().map(Result::unwrap) {
        let is_text = |extension| ["toml", "json", "jinja", "jsonl"].contains(&extension);
        if entry.path().extension().and_then(std::ffi::OsStr::to_str).is_some_and(is_text) {
            let bytes = std::fs::read(entry.path()).unwrap();
            assert!(!bytes.windows(2).any(|pair| pair == b"\r\n"), "{}", entry.path().display());
        }
    }
}

#[test]
fn a_wrong_command_line() {
    assert_eq!(xtask(&["exprot"]).0, 2);
}

#[test]
fn a_model_that_does_not_exist() {
    let (code, text) = xtask(&["verify", "nonsense"]);
    insta::assert_snapshot!(format!("exit code {code}\n{text}"));
}

#[test]
fn a_dry_run_of_a_hub_model_plans_the_fetch() {
    let (code, text) = xtask(&["export", "llama3.2-1b", "--dry-run"]);
    assert_eq!(code, 0, "{text}");
    let plan: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(plan["fetch"], "meta-llama/Llama-3.2-1B-Instruct@9213176726f574b556790deb65791e0c5aa438b6");
    assert_eq!(plan["have"], false);
}

#[test]
fn offline_a_hub_model_needs_its_checkpoint() {
    let (code, text) = xtask(&["export", "llama3.2-1b", "--offline"]);
    insta::assert_snapshot!(format!("exit code {code}\n{text}"));
}

#[test]
fn a_dry_run_prints_the_request_and_does_nothing() {
    let plan = || {
        let (code, text) = xtask(&["export", "llama3.2-1b", "--rehearse", "--dry-run"]);
        assert_eq!(code, 0, "{text}");
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    let request = plan();
    assert_eq!(request["architecture"]["dim"], 2048);
    assert_eq!(request["source"]["kind"], "random");
    // An interrupted rehearsal may have left one there.
    let work = request["work_dir"].as_str().unwrap().replace("[root]", "..");
    let written =
        || std::fs::metadata(Path::new(&work).join("request.json")).and_then(|it| it.modified()).ok();
    let before = written();
    plan();
    assert_eq!(written(), before, "a dry run wrote {work}");
}

#[test]
fn a_dry_run_of_a_model_that_is_up_to_date_prints_the_request_too() {
    let (code, text) = xtask(&["export", "tiny", "--dry-run"]);
    assert_eq!(code, 0, "{text}");
    let request: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(request["architecture"]["dim"], 192);
}

#[test]
fn a_flag_of_verify_that_has_no_meaning_is_refused_and_not_ignored() {
    for (arguments, expected) in [
        (&["verify", "tiny", "--structure"], "--structure is about a `.pte` file; tiny is a model"),
        (&["verify", "tiny", "--json"], "--json is about a `.pte` file; tiny is a model"),
        (&["verify", "a.pte", "--check"], "--check is about a model; a.pte is a file"),
        (&["verify", "a.pte", "--level=dev"], "--level is about a model; a.pte is a file"),
    ] {
        let (code, text) = xtask(arguments);
        assert!(code == 2 && text.contains(expected), "{arguments:?}: {code}: {text}");
    }
}

#[test]
fn a_models_name_leads_nowhere_else() {
    for name in ["../models/tiny", "tiny/../tiny", "tiny\ncargo::warning=x"] {
        let (code, text) = xtask(&["verify", name]);
        let expected = format!("model name: got {name:?}, expected letters, digits, `.`, `-` and `_`");
        assert!(code == 5 && text.contains(&expected), "{code}: {text}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_pipe_or_a_device_in_place_of_a_file_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe.pte");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let zeros = folder.path().join("zeros.pte");
    std::os::unix::fs::symlink("/dev/zero", &zeros).unwrap();
    let [pipe, zeros] = [pipe, zeros].map(|path| path.to_str().unwrap().to_owned());
    for (arguments, got) in [
        (&["verify", &pipe][..], "a named pipe"),
        (&["verify", &zeros], "a device"),
        (&["inspect", &pipe], "a named pipe"),
        (&["diff", &zeros, &pipe], "a device"),
        (&["bench", &pipe], "a named pipe"),
        (&["dev", "mutate", &pipe], "a named pipe"),
        (&["weights", "smollm2-135m", "--from-gguf", &pipe], "a named pipe"),
    ] {
        let (code, text) = xtask(arguments);
        let expected = format!("got {got}, expected a regular file");
        assert!(code != 0 && text.contains(&expected), "{arguments:?}: {code}: {text}");
    }
}

#[test]
fn a_dry_run_of_the_reserve_says_what_would_be_written() {
    let (code, text) = xtask(&["export", "llama3.2-1b", "--rehearse", "--runtime", "llamacpp", "--dry-run"]);
    assert_eq!(code, 0, "{text}");
    let plan: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(plan["file"], "llama3.2-1b-q8_0-seq512.gguf");
    // 34 bytes for 32 weights of 1 235 746 816, and 67 616 single-precision numbers.
    assert_eq!(plan["weight_bytes"], 1_313_251_456_u64);
    assert_eq!(plan["tensors"], 147);
}

#[test]
fn garbage_is_refused_with_the_check_that_found_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("garbage.pte");
    std::fs::write(&path, vec![0x41; 4096]).unwrap();
    let (code, text) = xtask(&["verify", path.to_str().unwrap()]);
    assert_eq!(code, 5, "{text}");
    insta::assert_snapshot!(text.replace(path.to_str().unwrap(), "[garbage.pte]"));
}

#[test]
fn an_empty_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("empty.pte");
    std::fs::write(&path, b"").unwrap();
    assert_eq!(xtask(&["verify", path.to_str().unwrap()]).0, 5);
}

#[test]
fn too_little_memory_stops_an_export_before_it_starts() {
    let (code, text) = xtask(&["export", "--force", "--memory-max", "1000"]);
    assert_eq!(code, 4, "{text}");
    assert!(text.contains("--memory-max: got 1000 bytes, expected at least"), "{text}");
    assert!(text.contains("hint: run: cargo xtask doctor tiny"), "{text}");
}

#[test]
fn flags_that_mean_nothing_for_the_reserve_are_a_wrong_command_line() {
    for (flag, value) in [("--memory-max", "1000000000"), ("--stall-timeout", "10")] {
        let (code, text) = xtask(&["export", "tiny", "--runtime", "llamacpp", flag, value]);
        assert_eq!(code, 2, "{text}");
        assert!(text.contains(&format!("error: {flag} bounds the Python worker")), "{text}");
    }
}

#[test]
fn flags_that_mean_nothing_against_another_tool_are_a_wrong_command_line() {
    for (arguments, expected) in [
        (&["--against", "python", "--out", "figures"][..], "'--out <DIR>'"),
        (&["--against", "llamacpp", "--out", "figures"], "'--out <DIR>'"),
        (&["--against", "export-llm", "--out", "figures"], "'--out <DIR>'"),
        (&["--against", "export-llm", "--repeats", "2"], "error: --repeats means nothing"),
        (&["--against", "export-llm", "--threads", "2"], "error: --threads means nothing"),
        (&["--against", "export-llm", "--rehearsed"], "error: --rehearsed means nothing"),
        (&["x.pte", "--against", "export-llm"], "needs a model's name"),
        (&["x.pte", "--against", "llamacpp"], "needs a model's name"),
    ] {
        let (code, text) = xtask(&[&["bench"], arguments].concat());
        assert_eq!(code, 2, "{arguments:?}: {text}");
        assert!(text.contains(expected), "{arguments:?}: {text}");
    }
}

#[test]
fn help_of_bench() {
    let (code, text) = xtask(&["bench", "--help"]);
    assert_eq!(code, 0);
    insta::assert_snapshot!(text);
}

#[test]
fn doctor_as_json_has_a_fix_for_every_row_that_is_not_ok_and_shows_no_token() {
    let secret = "hf_thisisnotarealtoken";
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["doctor", "--json", "--mobile"])
        .env("HF_TOKEN", secret)
        .output()
        .unwrap();
    let text = String::from_utf8([output.stdout.clone(), output.stderr].concat()).unwrap();
    assert!(!text.contains(secret));
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<_> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"memory") && names.contains(&"hub token"), "{names:?}");
    for row in &rows {
        let (status, fix) = (row["status"].as_str().unwrap(), row["fix"].as_str().unwrap());
        assert_eq!(status == "ok", fix.is_empty(), "{row}");
    }
    let missing = rows.iter().any(|row| row["status"] == "missing");
    assert_eq!(output.status.code(), Some(if missing { 7 } else { 0 }));
}
