//! The C surface, from C: the library is built as a host would link it, and a program in C talks to the real model.
#![expect(clippy::unwrap_used, reason = "a test ends at what it does not foresee")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Mutex, PoisonError},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    output
}

/// Both libraries are built to one place, and a test must not take the other's.
static PLACE: Mutex<()> = Mutex::new(());

/// Builds `libapp` for hosts, with a feature, and answers where a copy of it is, in a folder of its own.
fn library(feature: &str, folder: &Path) -> PathBuf {
    let _alone = PLACE.lock().unwrap_or_else(PoisonError::into_inner);
    let arguments = ["rustc", "--package", "app", "--lib", "--crate-type", "cdylib", "--features", feature];
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
    let built = paths.find(ends).expect("cargo names the library");
    let copy = folder.join("lib").join(built.file_name().unwrap());
    std::fs::create_dir(copy.parent().unwrap()).unwrap();
    std::fs::copy(built, &copy).unwrap();
    copy
}

#[test]
fn a_host_in_c_chats_with_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let library = library("capi", folder.path());
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

#[cfg(feature = "jvm")]
#[test]
fn a_host_on_the_java_virtual_machine_chats_with_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let library = library("jvm", folder.path());
    let classes = folder.path().join("classes");
    let mut compiler = Command::new("javac");
    compiler.args(["-Xlint:all", "-Werror", "-d"]).arg(&classes);
    compiler.arg(Path::new(ROOT).join("include/org/proofmark/Core.java"));
    compiler.arg(Path::new(ROOT).join("tests/Host.java"));
    run(&mut compiler);
    let mut host = Command::new("java");
    host.arg(format!("-Djava.library.path={}", library.parent().unwrap().display()));
    host.arg("-cp").arg(&classes).arg("Host").arg(folder.path());
    assert_eq!(String::from_utf8_lossy(&run(&mut host).stdout), "ok\n");
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
    assert_eq!(count, 8);
    let version = app::capi::PROOFMARK_ABI_VERSION;
    assert!(header.contains(&format!("#define PROOFMARK_ABI_VERSION {version}\n")));
    let class = std::fs::read_to_string(Path::new(ROOT).join("include/org/proofmark/Core.java")).unwrap();
    assert!(class.contains(&format!("int ABI_VERSION = {version};")));
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
