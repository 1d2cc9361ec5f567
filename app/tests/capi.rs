//! The C surface, from C: the library is built as a host would link it, and a program in C talks to the real model.
#![expect(clippy::unwrap_used, reason = "a test ends at what it does not foresee")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    output
}

/// Builds `libapp` for hosts and answers where it is.
fn library() -> PathBuf {
    let arguments = ["rustc", "--package", "app", "--lib", "--features", "capi", "--crate-type", "cdylib"];
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(arguments).arg("--message-format=json-render-diagnostics").current_dir(ROOT);
    let built = run(&mut cargo);
    let messages = String::from_utf8_lossy(&built.stdout).into_owned();
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let files = messages
        .filter(|message| message["target"]["name"] == "app")
        .flat_map(|message| message["filenames"].as_array().cloned().unwrap_or_default());
    let mut paths = files.filter_map(|file| file.as_str().map(PathBuf::from));
    let ends = |path: &PathBuf| path.extension().is_some_and(|end| end == "so" || end == "dylib");
    paths.find(ends).expect("cargo names the library")
}

#[test]
fn a_host_in_c_chats_with_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let library = library();
    let host = folder.path().join("host");
    let mut compiler = Command::new("cc");
    compiler.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&host);
    compiler.arg(Path::new(ROOT).join("tests/host.c")).arg("-I").arg(Path::new(ROOT).join("include"));
    // The runtime's libraries are on the loader's path, as cargo sets it for tests.
    compiler.arg(&library).arg("-Wl,--allow-shlib-undefined");
    compiler.arg(format!("-Wl,-rpath,{}", library.parent().unwrap().display()));
    run(&mut compiler);
    let output = run(Command::new(&host).arg(folder.path()));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ok\n");
    assert!(folder.path().join("data/conversations.sqlite").exists());
}

#[test]
fn the_header_is_c_and_names_every_function() {
    let header = std::fs::read_to_string(Path::new(ROOT).join("include/proofmark.h")).unwrap();
    let source = std::fs::read_to_string(Path::new(ROOT).join("src/capi.rs")).unwrap();
    let names = source.split("extern \"C\" fn ").skip(1).map(|rest| rest.split('(').next().unwrap());
    let mut count = 0;
    for name in names {
        assert!(header.contains(&format!("{name}(")), "{name} is not in the header");
        count += 1;
    }
    assert_eq!(count, 7);
    for (name, code) in [
        ("PROOFMARK_OK", app::capi::PROOFMARK_OK),
        ("PROOFMARK_INVALID", app::capi::PROOFMARK_INVALID),
        ("PROOFMARK_BUSY", app::capi::PROOFMARK_BUSY),
        ("PROOFMARK_GONE", app::capi::PROOFMARK_GONE),
    ] {
        let defined = header.lines().find_map(|line| line.strip_prefix(&format!("#define {name} ")));
        assert_eq!(defined.and_then(|rest| rest.split_whitespace().next()), Some(code.to_string().as_str()));
    }
    for language in ["c", "c++"] {
        let mut compiler = Command::new("cc");
        compiler.args(["-x", language, "-Wall", "-Werror", "-fsyntax-only"]);
        run(compiler.arg(Path::new(ROOT).join("include/proofmark.h")));
    }
}
