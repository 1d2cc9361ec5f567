//! kill -9 of the real export at spread moments: what is published stays whole, and no worker outlives its supervisor.
//!
//! `PROOFMARK_KILLS` sets how often (each takes up to an export's time); moments inside a publish are covered by 60
//! more kills beside the publish code.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use model_assets::{
    check::{Profile, validate},
    dir::ModelDir,
};

const KILLS_DEFAULT: u32 = 3;
/// Moments are spread over this, about the time of an export.
const SPREAD: Duration = Duration::from_secs(24);
/// The golden ratio's fraction: its multiples modulo 1 fill any interval evenly, in no order.
const STEP: f64 = 0.618_033_988_75;

#[test]
fn a_killed_export_leaves_the_proven_model_and_no_process() {
    let kills = std::env::var("PROOFMARK_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(KILLS_DEFAULT);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the root");
    let models = root.join("model-assets/models");
    for kill in 1..=kills {
        let moment = SPREAD.mul_f64(f64::from(kill) * STEP % 1.0);
        let mut export = Command::new(env!("CARGO_BIN_EXE_xtask"))
            .args(["export", "tiny", "--force", "--json"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("xtask starts");
        std::thread::sleep(moment);
        export.kill().expect("it can be killed");
        export.wait().expect("it ends");

        let dir = ModelDir::new(models.to_str().expect("a UTF-8 path"), "tiny");
        let (claim, _) = dir.open().unwrap_or_else(|error| panic!("killed after {moment:?}: {error}"));
        let (path, pte) = dir.open_pte(&claim.manifest).expect("the model is there");
        validate(pte, &claim, Profile::Release)
            .unwrap_or_else(|refusal| panic!("killed after {moment:?}: {path}: {refusal}"));
        wait_until_no_worker_is_left(root);
    }
}

/// Waits for the worker to notice that its supervisor is gone; never ends if it does not.
#[cfg(target_os = "linux")]
fn wait_until_no_worker_is_left(root: &Path) {
    let request = root.join(".proofmark/work/tiny/request.json");
    let is_worker = |pid: std::path::PathBuf| {
        let line = std::fs::read(pid.join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(request.to_str().expect("a UTF-8 path"))
    };
    while std::fs::read_dir("/proc").expect("/proc").flatten().any(|entry| is_worker(entry.path())) {
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[cfg(not(target_os = "linux"))]
fn wait_until_no_worker_is_left(_root: &Path) {}
