//! Looks at the environment of every process that a command starts, while it runs.
#![allow(dead_code, clippy::unwrap_used, clippy::allow_attributes, reason = "helpers of several tests")]

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// Inherited by whatever the command starts, however deep: that is how its children are known.
const MARK: &str = "PROOFMARK_TEST_MARK";
/// What no child of these commands needs.
const SECRETS: [&str; 9] = [
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "PROOFMARK_SIGNING_KEY",
    "GITHUB_TOKEN",
    "CARGO_REGISTRY_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "SOME_PASSWORD",
    "GIT_DIR",
    "PYTHONPATH",
];

/// Programs that were seen, each with the secrets that its environment had.
pub(crate) type Seen = BTreeMap<String, Vec<String>>;

/// Runs a command with secrets in its environment; answers with its exit code, what it said, and what was seen.
pub(crate) fn watched(command: &mut Command) -> (i32, String, Seen) {
    let mark = format!("{}-{:?}", std::process::id(), std::thread::current().id());
    for name in SECRETS {
        if command.get_envs().all(|(key, _)| key != name) {
            command.env(name, format!("secret-of-{name}"));
        }
    }
    command.env(MARK, &mark).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    // Until it has executed another program, a child has its parent's environment: only the program itself may have that.
    let own = fs::canonicalize(command.get_program()).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let watch: JoinHandle<Seen> = {
        let over = Arc::clone(&over);
        std::thread::spawn(move || {
            let mut seen = Seen::new();
            while !over.load(Ordering::Relaxed) {
                look(&mark, &own, &mut seen);
                std::thread::sleep(Duration::from_millis(1));
            }
            seen
        })
    };
    let output = child.wait_with_output().unwrap();
    over.store(true, Ordering::Relaxed);
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.code().unwrap_or(-1), text, watch.join().unwrap())
}

fn look(mark: &str, own: &Path, seen: &mut Seen) {
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let place = entry.path();
        let (Ok(environment), Ok(program)) =
            (fs::read(place.join("environ")), fs::read_link(place.join("exe")))
        else {
            continue;
        };
        let variables: Vec<_> = environment.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        if program == own || !variables.iter().any(|it| it.strip_prefix(MARK) == Some(&format!("={mark}"))) {
            continue;
        }
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let secrets = seen.entry(name).or_default();
        for variable in variables {
            let key = variable.split('=').next().unwrap_or_default();
            if SECRETS.contains(&key) && !secrets.iter().any(|known| known == key) {
                secrets.push(key.to_owned());
            }
        }
    }
}

/// Fails if a child had a secret, or if one of the programs that must have run was not seen.
pub(crate) fn none_had_a_secret(seen: &Seen, programs: &[&str]) {
    for program in programs {
        assert!(seen.keys().any(|name| name.starts_with(program)), "{program} was not seen: {seen:?}");
    }
    let told: Vec<_> = seen.iter().filter(|(_, secrets)| !secrets.is_empty()).collect();
    assert!(told.is_empty(), "{told:?}");
}
