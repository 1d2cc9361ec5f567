//! A full disk at any stage loses nothing: what is published stays whole, what is fetched is gone on with, and the same
//! command succeeds once there is room.
//!
//! On Linux the disk is a small file system in a mount namespace of its own, with bytes and inodes running out in turn: real
//! ENOSPC. Where no mount is permitted the test says so; the tests with a limit on the size of files (EFBIG) run everywhere.
#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

#[path = "hub/mod.rs"]
mod hub;
mod tree;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
};

use hub::{Hub, REPO, REVISION};
use model_assets::digest::Digest;
use tree::{PTE, REFERENCE, Tree, bundled, names, repository, said, sha256, two_models};

/// Names the mount point to the child that has it.
const CHILD: &str = "PROOFMARK_TEST_DISK";
const WEIGHTS: &str = "model.safetensors";
const WEIGHTS_BYTES: usize = 8 << 20;
const FULL: &str = "No space left on device";

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let wrappers: [&[&str]; 2] = [&["unshare", "--mount"], &["unshare", "--map-root-user", "--mount"]];
    let permitted = |wrapper: &&&[&str]| {
        let mut probe = Command::new(wrapper[0]);
        probe.args(&wrapper[1..]).args(["mount", "-t", "tmpfs", "tmpfs"]).arg(folder.path());
        probe.output().is_ok_and(|output| output.status.success())
    };
    let Some(wrapper) = wrappers.iter().find(permitted) else {
        println!("no mount is permitted here: only limits on the size of files were used (EFBIG)");
        return;
    };
    let mut child = Command::new(wrapper[0]);
    child.args(&wrapper[1..]).arg(std::env::current_exe().unwrap());
    child.args(["--exact", "on_a_small_disk", "--nocapture"]).env(CHILD, folder.path());
    let (code, text) = said(&mut child);
    assert!(code == 0 && text.contains("1 passed"), "{text}");
    println!("{text}");
}

/// Run as a child by the test above, in a mount namespace of its own.
#[test]
#[cfg(target_os = "linux")]
fn on_a_small_disk() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let options = "size=340m,nr_inodes=1000";
    assert!(
        Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs", &path])
            .status()
            .unwrap()
            .success()
    );
    let disk = Disk(PathBuf::from(path));
    pack_on(&disk);
    fetch_on(&disk);
    weights_on(&disk);
    fetch_url_on(&disk);
}

struct Disk(PathBuf);

#[cfg(target_os = "linux")]
impl Disk {
    /// Fills the disk up to so many bytes.
    fn leave_bytes(&self, bytes: u64) {
        self.relieve();
        let file = fs::File::create(self.0.join("ballast")).unwrap();
        // Another process may write meanwhile: then there is less to take.
        loop {
            let stat = rustix::fs::statvfs(&self.0).unwrap();
            let taken = (stat.f_bavail * stat.f_frsize).saturating_sub(bytes);
            let flags = rustix::fs::FallocateFlags::empty();
            if taken == 0 || rustix::fs::fallocate(&file, flags, 0, taken).is_ok() {
                return;
            }
        }
    }

    /// Leaves room for so many more files and folders.
    fn leave_inodes(&self, count: u64) {
        self.relieve();
        fs::create_dir(self.0.join("files")).unwrap();
        let free = rustix::fs::statvfs(&self.0).unwrap().f_favail;
        (count..free)
            .for_each(|index| drop(fs::File::create(self.0.join(format!("files/{index}"))).unwrap()));
    }

    fn relieve(&self) {
        let _ = fs::remove_file(self.0.join("ballast"));
        let _ = fs::remove_dir_all(self.0.join("files"));
    }
}

/// Runs a command with less and less in its way until it succeeds; `stands` is asked after every failure. Returns how often
/// the disk itself was full.
#[cfg(target_os = "linux")]
fn until_it_succeeds(
    disk: &Disk,
    levels: impl Iterator<Item = u64>,
    leave: impl Fn(&Disk, u64),
    run: impl Fn() -> (i32, String),
    stands: impl Fn(&str),
) -> u32 {
    let mut full = 0;
    for level in levels {
        leave(disk, level);
        let (code, text) = run();
        disk.relieve();
        if code == 0 {
            return full;
        }
        assert!(text.contains(FULL) || text.contains("bytes of free disk"), "level {level}: {text}");
        assert!(
            [1, 20].contains(&code) && text.contains("hint: "),
            "level {level}: exit code {code}: {text}"
        );
        full += u32::from(text.contains(FULL));
        stands(&format!("level {level}"));
    }
    panic!("it never succeeded");
}

#[cfg(target_os = "linux")]
fn pack_on(disk: &Disk) {
    let (tree, [model, _]) = (Tree::at(&disk.0.join("pack")), two_models());
    tree.put(&model);
    let out = tree.path("out/tiny.tar.gz");
    fs::create_dir_all(out.parent().unwrap()).unwrap();
    let arguments = ["pack", "tiny", "--out", out.to_str().unwrap()];
    for sweep in ["bytes", "inodes"] {
        fs::write(&out, "the old bundle").unwrap();
        let stands = |when: &str| {
            assert_eq!(fs::read(&out).unwrap(), b"the old bundle", "{sweep}, {when}");
            assert_eq!(names(out.parent().unwrap()), ["tiny.tar.gz"], "{sweep}, {when}");
            tree.whole(when);
        };
        let run = || tree.run(&arguments);
        let full = if sweep == "bytes" {
            until_it_succeeds(disk, (0..).map(|level| level * (512 << 10)), Disk::leave_bytes, run, stands)
        } else {
            until_it_succeeds(disk, 0.., Disk::leave_inodes, run, stands)
        };
        assert!(full > 0, "{sweep}: never full");
        println!("pack, {sweep}: full {full} times");
        assert!(tree::unbundled(&fs::read(&out).unwrap()).contains_key(PTE));
    }
    fs::remove_dir_all(tree.path("")).unwrap();
}

#[cfg(target_os = "linux")]
fn fetch_on(disk: &Disk) {
    let (tree, models) = (Tree::at(&disk.0.join("fetch")), two_models());
    tree.put(&models[0]);
    fs::write(tree.path("1.tar.gz"), bundled(models[1].clone())).unwrap();
    let bundle = tree.path("1.tar.gz");
    let needed = (models[1][PTE].len() + models[1][REFERENCE].len()) as u64;
    let run = || tree.run(&["fetch", bundle.to_str().unwrap()]);
    let stands = |when: &str| assert_eq!(tree.whole(when), sha256(&models[0]), "{when}");
    // Below what the manifest asks for it is not begun; above it the small files and the publish run out.
    let levels = [0, needed / 2].into_iter().chain((0..).map(|step| needed + step * 12_288));
    let full = until_it_succeeds(disk, levels, Disk::leave_bytes, run, stands);
    assert!(full > 0, "bytes: never full");
    println!("fetch and publish, bytes: full {full} times");
    assert_eq!(tree.whole("bytes"), sha256(&models[1]));
    tree.tidy("bytes");
    tree.put(&models[0]);
    let full = until_it_succeeds(disk, 0.., Disk::leave_inodes, run, stands);
    assert!(full > 5, "inodes: full {full} times only");
    println!("fetch and publish, inodes: full {full} times");
    assert_eq!(tree.whole("inodes"), sha256(&models[1]));
    tree.tidy("inodes");
    fs::remove_dir_all(tree.path("")).unwrap();
}

/// A tree whose `tiny` comes from the hub.
fn hub_tree(root: &Path) -> Tree {
    let tree = Tree::at(root);
    let recipe = fs::read_to_string(tree.model("recipe.toml")).unwrap();
    let source = format!("kind = \"hub\"\nrepo = \"{REPO}\"\nrevision = \"{REVISION}\"\n");
    let changed = recipe.replace("kind = \"path\"\npath = \".\"\n", &source);
    assert_ne!(recipe, changed);
    fs::write(tree.model("recipe.toml"), changed).unwrap();
    tree
}

fn weights(tree: &Tree, hub: &Hub) -> Command {
    let mut command = tree.xtask(&["weights", "tiny", "--stall-timeout", "5", "--attempts", "2"]);
    command.env("HF_ENDPOINT", &hub.url);
    command
}

fn checkpoint_is_whole(tree: &Tree, files: &hub::Files) {
    let folder = tree.path(".proofmark/weights").join(REPO).join(REVISION);
    assert!(fs::read(folder.join(WEIGHTS)).unwrap() == files.0[WEIGHTS]);
    assert!(folder.join(".proofmark-receipt.json").exists());
    assert!(names(&folder).iter().all(|name| !name.contains(".incomplete")));
}

/// Whether a download was gone on with.
fn resumed(hub: &Hub) -> bool {
    hub.asked().iter().any(|asked| asked.headers.contains_key("range"))
}

/// A hub that fills the disk, once, as soon as the first bytes of this file are on it, and word of when it has: a command may
/// find the disk full while the last of it is still being taken.
#[cfg(target_os = "linux")]
fn filling(disk: &Disk, files: hub::Files, name: &'static str) -> (Hub, mpsc::Receiver<()>) {
    let (path, armed) = (disk.0.clone(), AtomicBool::new(true));
    let (done, filled) = mpsc::channel();
    let hub = Hub::start(files, move |asked, answer| {
        if !asked.path.split('?').next().is_some_and(|path| path.ends_with(name)) {
            return answer;
        }
        if armed.swap(false, Ordering::Relaxed) {
            let (disk, done) = (Disk(path.clone()), done.clone());
            std::thread::spawn(move || {
                let begun = |entry: walkdir::DirEntry| {
                    let partial = entry.path().extension().is_some_and(|extension| extension == "incomplete");
                    partial && entry.metadata().is_ok_and(|data| data.len() > 0)
                };
                while !walkdir::WalkDir::new(&disk.0).into_iter().flatten().any(begun) {
                    std::thread::yield_now();
                }
                disk.leave_bytes(64 << 10);
                done.send(())
            });
        }
        answer.paced(hub::Pace::Slow)
    });
    (hub, filled)
}

#[cfg(target_os = "linux")]
fn weights_on(disk: &Disk) {
    let files = hub::Files::checkpoint(WEIGHTS_BYTES);
    let hub = Hub::start(files.clone(), |_, answer| answer);
    let tree = hub_tree(&disk.0.join("weights"));
    let receipt = tree.path(".proofmark/weights").join(REPO).join(REVISION).join(".proofmark-receipt.json");
    let stands = |when: &str| assert!(!receipt.exists(), "{when}");
    let run = || said(&mut weights(&tree, &hub));
    let full = until_it_succeeds(disk, 0.., Disk::leave_inodes, run, stands);
    assert!(full > 3, "inodes: full {full} times only");
    println!("weights, inodes: full {full} times");
    checkpoint_is_whole(&tree, &files);
    fs::remove_dir_all(tree.path("")).unwrap();

    // Too little for what is listed: not a byte of it is asked for.
    let tree = hub_tree(&disk.0.join("weights"));
    disk.leave_bytes(100 << 20);
    let (code, text) = said(&mut weights(&tree, &Hub::start(files.clone(), |_, answer| answer)));
    disk.relieve();
    assert!(code == 20 && text.contains("bytes of free disk") && text.contains("hint: free space"), "{text}");

    // Room when it was looked at, and none in the middle of the file.
    let (hub, filled) = filling(disk, files.clone(), WEIGHTS);
    fs::remove_dir_all(tree.path(".proofmark")).unwrap();
    let folder = tree.path(".proofmark/weights").join(REPO).join(REVISION);
    let (code, text) = said(&mut weights(&tree, &hub));
    assert!(code == 20 && text.contains(FULL) && text.contains("hint: free space"), "{text}");
    filled.recv().unwrap();
    disk.relieve();
    assert!(!folder.join(WEIGHTS).exists() && !folder.join(".proofmark-receipt.json").exists());
    let (code, text) = said(&mut weights(&tree, &hub));
    assert_eq!(code, 0, "{text}");
    checkpoint_is_whole(&tree, &files);
    assert!(resumed(&hub), "what had arrived was thrown away");
    fs::remove_dir_all(tree.path("")).unwrap();
}

#[cfg(target_os = "linux")]
fn fetch_url_on(disk: &Disk) {
    let (tree, models) = (Tree::at(&disk.0.join("url")), two_models());
    tree.put(&models[0]);
    let files = hub::Files::checkpoint(1).with("tiny.tar.gz", bundled(models[1].clone()));
    let (hub, filled) = filling(disk, files, "tiny.tar.gz");
    let url = format!("{}/{REPO}/resolve/{REVISION}/tiny.tar.gz", hub.url);
    let (code, text) = tree.run(&["fetch", &url]);
    assert!(code == 20 && text.contains(FULL) && text.contains("hint: free space"), "{text}");
    assert_eq!(tree.whole("full"), sha256(&models[0]));
    filled.recv().unwrap();
    disk.relieve();
    let (code, text) = tree.run(&["fetch", &url]);
    assert_eq!(code, 0, "{text}");
    assert!(resumed(&hub), "what had arrived was thrown away");
    assert_eq!(tree.whole("room again"), sha256(&models[1]));
    tree.tidy("room again");
}

/// The command, with files that may not grow beyond so many bytes.
fn limited(command: &Command, bytes: u64) -> (i32, String) {
    let mut shell = Command::new("sh");
    // By default the signal would kill it, which other tests are about.
    shell.args(["-c", "trap '' XFSZ; ulimit -f \"$0\"; exec \"$@\""]).arg((bytes / 512).to_string());
    shell.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    said(&mut shell)
}

const TOO_LARGE: &str = "File too large";

#[test]
fn a_file_that_may_not_grow_loses_no_model() {
    let (tree, models) = (Tree::new(), two_models());
    tree.put(&models[0]);
    let bundle = tree.path("1.tar.gz");
    fs::write(&bundle, bundled(models[1].clone())).unwrap();
    let out = tree.path("out.tar.gz");
    fs::write(&out, "the old bundle").unwrap();
    for bytes in [0, 4 << 10, 1 << 20] {
        let (code, text) = limited(&tree.xtask(&["pack", "tiny", "--out", out.to_str().unwrap()]), bytes);
        assert!(code == 1 && text.contains(TOO_LARGE), "{bytes}: {text}");
        assert_eq!(fs::read(&out).unwrap(), b"the old bundle");
    }
    // In the manifest, at two places in the model, which is larger than its reference.
    for bytes in [4 << 10, 1 << 20, 2 << 20] {
        let (code, text) = limited(&tree.xtask(&["fetch", bundle.to_str().unwrap()]), bytes);
        assert!(code == 1 && text.contains(TOO_LARGE) && text.contains("hint: "), "{bytes}: {text}");
        assert_eq!(tree.whole("limited"), sha256(&models[0]));
        tree.tidy("limited");
    }
    assert_eq!(tree.run(&["fetch", bundle.to_str().unwrap()]).0, 0);
    assert_eq!(tree.whole("without a limit"), sha256(&models[1]));
    assert_eq!(tree.run(&["pack", "tiny", "--out", out.to_str().unwrap()]).0, 0);
}

#[test]
fn a_file_that_may_not_grow_loses_no_download() {
    let files = hub::Files::checkpoint(WEIGHTS_BYTES);
    let hub = Hub::start(files.clone(), |_, answer| answer);
    let folder = tempfile::tempdir().unwrap();
    let tree = hub_tree(folder.path());
    let (code, text) = limited(&weights(&tree, &hub), 1 << 20);
    assert!(code == 20 && text.contains(TOO_LARGE) && text.contains("hint: free space"), "{text}");
    let (code, text) = said(&mut weights(&tree, &hub));
    assert_eq!(code, 0, "{text}");
    checkpoint_is_whole(&tree, &files);
    assert!(resumed(&hub), "what had arrived was thrown away");

    let (tree, models) = (Tree::new(), two_models());
    tree.put(&models[0]);
    let hub =
        Hub::start(hub::Files::checkpoint(1).with("x.tar.gz", bundled(models[1].clone())), |_, answer| {
            answer
        });
    let url = format!("{}/{REPO}/resolve/{REVISION}/x.tar.gz", hub.url);
    let (code, text) = limited(&tree.xtask(&["fetch", &url]), 1 << 20);
    assert!(code == 20 && text.contains(TOO_LARGE) && text.contains("hint: free space"), "{text}");
    assert_eq!(tree.whole("limited"), sha256(&models[0]));
    let (code, text) = tree.run(&["fetch", &url]);
    assert_eq!(code, 0, "{text}");
    assert!(resumed(&hub), "what had arrived was thrown away");
    assert_eq!(tree.whole("without a limit"), sha256(&models[1]));
    tree.tidy("without a limit");
}

/// The real export, in the repository: the worker and what follows it have no room for the model.
#[test]
fn an_export_without_room_leaves_the_published_model() {
    let published =
        || [PTE, REFERENCE, "manifest.json"].map(|name| Digest::of(&fs::read(repository(name)).unwrap()));
    let before = published();
    let mut export = Command::new(env!("CARGO_BIN_EXE_xtask"));
    export.args(["export", "tiny", "--force", "--json"]);
    // Enough for the request and the log, and for no weights.
    let (code, text) = limited(&export, 32 << 10);
    assert_eq!(code, 4, "{text}");
    assert!(text.contains("nothing was published") && text.contains(TOO_LARGE), "{text}");
    assert_eq!(published(), before);
}
