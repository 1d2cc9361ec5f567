//! `cargo xtask mobile arm64-linux`: engine and app for ARM64 Linux, from this machine's cross compiler and the runtime of
//! the aarch64 wheel, and the proof that they compute what they compute here. With `--from-source` the runtime is built and
//! linked as for a phone: the same source, options and static libraries.
//!
//! **Invariant:** the wheel is the one whose digest is in the lock; loader and C library under the emulator come from one
//! package.

use anyhow::{Context as _, anyhow, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{dir::ModelDir, manifest::RUNTIME_VERSION};

use super::{
    compare,
    plan::{BuildPlan, Need, Step, find_program, unfinished},
    runtime,
};
use crate::{
    engine,
    exit::{Exit, Failure, Outcome},
    inspect, setup,
    workspace::Workspace,
};

const TRIPLE: &str = "aarch64-unknown-linux-gnu";
const COMPILER: &str = "aarch64-linux-gnu-g++";
const C_COMPILER: &str = "aarch64-linux-gnu-gcc";
const EMULATOR: &str = "qemu-aarch64-static";
/// Everything that the emulator knows, SME too: the runtime from source has no kernels for it.
const CPU: &str = "max";
/// Without SME: with it, qemu 7.2 and the wheel's runtime together give nonsense; which of the two is wrong only a processor
/// that has it can tell (docs/mobile.md).
const CPU_OF_WHEEL: &str = "max,sme=off";
/// Where Debian's cross packages put the C library of the target.
const SYSROOT: &str = "/usr/aarch64-linux-gnu";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model inside
    #[arg(default_value = "tiny")]
    model: String,
    /// Run it under emulation and compare tokens and logits
    #[arg(long)]
    run: bool,
    /// Build the runtime from source, as for a phone
    #[arg(long)]
    from_source: bool,
    /// Print the plan as JSON and do nothing
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Outcome {
    let places = Places::new(workspace, args.from_source);
    let plan = plan(workspace, &places, &args.model, args.run);
    if args.dry_run {
        println!("{}", serde_json::to_string_pretty(&plan)?);
        return Ok(());
    }
    plan.check_needs()?;
    std::fs::create_dir_all(&places.root)?;
    std::fs::write(&places.lock, wheel_lock()?)?;
    plan.run(workspace.root())?;
    let app = places.binary("app");
    inspect::run(&inspect::Args::of(app, true))?;
    if args.run { compare(workspace, &places, &args.model) } else { Ok(()) }
}

/// Everything that is made, below the state folder.
struct Places {
    root: Utf8PathBuf,
    lock: Utf8PathBuf,
    wheel: Utf8PathBuf,
    unpacked: Utf8PathBuf,
    target: Utf8PathBuf,
    /// The runtime that is built here; the wheel's otherwise.
    source: Option<runtime::Places>,
}

impl Places {
    fn new(workspace: &Workspace, from_source: bool) -> Self {
        let root = workspace.state().join("mobile/arm64-linux");
        let source = || runtime::Places::new(&workspace.state(), "arm64-linux", &source_options());
        let place = |name: &str| root.join(name);
        Self {
            lock: place("wheel.lock"),
            wheel: place(&format!("wheel-{RUNTIME_VERSION}")),
            unpacked: place(&format!("executorch-{RUNTIME_VERSION}")),
            target: place(if from_source { "target-from-source" } else { "target" }),
            source: from_source.then(source),
            root,
        }
    }

    fn sdk(&self) -> Utf8PathBuf {
        self.source.as_ref().map_or_else(|| self.unpacked.join("executorch"), |source| source.sdk.clone())
    }

    fn binary(&self, name: &str) -> Utf8PathBuf {
        self.target.join(TRIPLE).join("release").join(name)
    }
}

/// What the target adds to the options of every runtime from source. GCC 12 breaks off (an internal error) where it vectorizes
/// one of KleidiAI's files, `kai_lhs_quant_pack_qai8dxp_bf16_neon.c`; the kernels that count are written with intrinsics.
fn source_options() -> [String; 5] {
    [
        "-DCMAKE_C_FLAGS=-fno-tree-vectorize".to_owned(),
        "-DCMAKE_SYSTEM_NAME=Linux".to_owned(),
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64".to_owned(),
        format!("-DCMAKE_C_COMPILER={C_COMPILER}"),
        format!("-DCMAKE_CXX_COMPILER={COMPILER}"),
    ]
}

/// The lock's lines about the runtime: pip checks the wheel against its digests.
fn wheel_lock() -> anyhow::Result<String> {
    let lock = setup::requirements();
    let mut lines = lock.lines().skip_while(|line| !line.starts_with("executorch==")).peekable();
    let first = lines.next().context("the lock names no executorch")?;
    let hashes = lines.take_while(|line| line.starts_with("    --hash="));
    Ok([first]
        .into_iter()
        .chain(hashes)
        .map(|line| format!("{line}\n"))
        .collect::<String>()
        .trim_end_matches([' ', '\\', '\n'])
        .to_owned()
        + "\n")
}

fn plan(workspace: &Workspace, places: &Places, model: &str, run: bool) -> BuildPlan {
    let toolchain = Toolchain::find();
    let packages = "apt-get install g++-aarch64-linux-gnu qemu-user-static";
    let std = "rustup target add aarch64-unknown-linux-gnu, or: dpkg --add-architecture arm64 && apt-get update && \
               apt-get install rustc-web cargo-web libstd-rust-web-dev:arm64";
    let mut needs = vec![
        Need::program(COMPILER, packages),
        Need::new(
            "Rust's library for ARM64 Linux",
            toolchain.as_ref().map(|found| found.std.to_string()),
            std,
        ),
        Need::new("Python venv", exists(&workspace.python()), "cargo xtask setup"),
    ];
    if run {
        needs.push(Need::program(EMULATOR, packages));
        needs.push(Need::new("C library for ARM64", exists(Utf8Path::new(SYSROOT)), packages));
    }
    let mut steps = match &places.source {
        Some(source) => {
            needs.push(Need::program("git", "apt-get install git"));
            needs.extend(runtime::needs("apt-get install cmake ninja-build"));
            let mut steps = runtime::source(&workspace.state());
            steps.extend(runtime::build(source, &workspace.python(), &source_options()));
            steps
        }
        None => wheel(workspace, places),
    };
    steps.push(build(places, model, toolchain.as_ref()));
    BuildPlan { target: "arm64-linux".to_owned(), needs, steps }
}

/// The wheel's shared libraries, by the digests of the lock.
fn wheel(workspace: &Workspace, places: &Places) -> Vec<Step> {
    let python = workspace.python();
    let wheel = format!("executorch-{RUNTIME_VERSION}-cp311-cp311-manylinux_2_28_aarch64.whl");
    let (downloaded, unpacked) = (unfinished(&places.wheel), unfinished(&places.unpacked));
    let download = [
        python.as_str(),
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--require-hashes",
        "--platform",
        "manylinux_2_28_aarch64",
        "--python-version",
        "3.11",
        "--dest",
        downloaded.as_str(),
        "-r",
        places.lock.as_str(),
    ];
    let wheel = places.wheel.join(wheel);
    let unpack = [python.as_str(), "-m", "zipfile", "-e", wheel.as_str(), unpacked.as_str()];
    vec![
        Step::new("the runtime's ARM64 wheel, by the digests of the lock", &download)
            .output(places.wheel.clone()),
        Step::new("its headers and libraries", &unpack).output(places.unpacked.clone()),
    ]
}

fn exists(path: &Utf8Path) -> Option<String> {
    path.exists().then(|| path.to_string())
}

/// The release profile: the gate demands all evidence.
fn build(places: &Places, model: &str, toolchain: Option<&Toolchain>) -> Step {
    let cargo = toolchain.map_or("cargo", |found| found.cargo.as_str());
    let argv = [
        cargo,
        "build",
        "--locked",
        "--release",
        "--package",
        "engine",
        "--package",
        "app",
        "--bins",
        "--target",
        TRIPLE,
        "--target-dir",
        places.target.as_str(),
    ];
    let step = Step::new("engine and app, with the gate at release level", &argv).env(&[
        ("EXECUTORCH_SDK_DIR", places.sdk().as_str()),
        ("PROOFMARK_MODEL", model),
        ("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", COMPILER),
        ("CC_aarch64_unknown_linux_gnu", C_COMPILER),
        ("CXX_aarch64_unknown_linux_gnu", COMPILER),
    ]);
    match toolchain.and_then(|found| found.rustc.as_ref()) {
        Some(rustc) => step.env(&[("RUSTC", rustc.as_str())]),
        None => step,
    }
}

/// A Rust that has the target's library.
struct Toolchain {
    cargo: String,
    /// Named only where cargo would take another.
    rustc: Option<String>,
    std: Utf8PathBuf,
}

impl Toolchain {
    fn find() -> Option<Self> {
        let library = |sysroot: &str| {
            let path = Utf8PathBuf::from(sysroot.trim()).join("lib/rustlib").join(TRIPLE).join("lib");
            path.is_dir().then_some(path)
        };
        let asked = crate::child::command("rustc").args(["--print", "sysroot"]).output().ok()?;
        if let Some(std) = library(&String::from_utf8_lossy(&asked.stdout)) {
            return Some(Self { cargo: "cargo".to_owned(), rustc: None, std });
        }
        let (cargo, rustc) = ("/usr/bin/cargo", "/usr/bin/rustc");
        let there = find_program("cargo").is_some()
            && [cargo, rustc].iter().all(|path| Utf8Path::new(path).is_file());
        let std = library("/usr").filter(|_| there)?;
        Some(Self { cargo: cargo.to_owned(), rustc: Some(rustc.to_owned()), std })
    }
}

/// The emulator's command line. The C library is named: where Debian's own ARM64 packages are installed too, the loader of
/// the cross packages would find theirs, and threads made by one build with the tables of another never start.
fn emulator(places: &Places) -> Vec<String> {
    let library = format!("LD_LIBRARY_PATH={SYSROOT}/lib");
    let cpu = if places.source.is_some() { CPU } else { CPU_OF_WHEEL };
    [EMULATOR, "-cpu", cpu, "-L", SYSROOT, "-E", &library].map(str::to_owned).to_vec()
}

fn compare(workspace: &Workspace, places: &Places, model: &str) -> Outcome {
    let dir = ModelDir::new(workspace.models(), model);
    let (claim, _) = dir.open()?;
    let files = engine::Files::of(&dir, &claim, dir.path().join(&claim.manifest.file));
    let here = engine::build(workspace, engine::Profile::Dev, None)?;
    let here = compare::Machine::new("here", vec![here.into_string()]);
    let mut there = emulator(places);
    there.push(places.binary("engine").into_string());
    let there = compare::Machine::new("arm64", there);
    let report = compare::prompts(&here, &there, &files, &places.root)?;
    print!("{}", report.text());
    provenance(places, &claim.manifest.sha256.to_string())?;
    report.check().map_err(|error| {
        let hint = "read docs/mobile.md; a difference in the last bits is expected, another token is not";
        Failure::new(Exit::MobileRun, error, hint)
    })
}

/// The app itself starts there, says what it carries, and talks.
fn provenance(places: &Places, sha256: &str) -> anyhow::Result<()> {
    let app = |arguments: &[&str]| {
        let mut argv = emulator(places);
        argv.push(places.binary("app").into_string());
        argv.extend(arguments.iter().map(|&word| word.to_owned()));
        compare::output(&argv)
    };
    let text = app(&["--provenance"])?;
    let value: serde_json::Value =
        serde_json::from_str(&text).context("the app's provenance cannot be read")?;
    let got = value.get("sha256").and_then(serde_json::Value::as_str).unwrap_or_default();
    ensure!(got == sha256, "app --provenance: got sha256 {got}, expected {sha256}");
    let embedded = value.get("place").and_then(serde_json::Value::as_str) == Some("embedded");
    if !embedded {
        println!("app: carries the digest of a linked model");
        return Ok(());
    }
    let reply = app(&["--threads", "1", "--prompt", "Hello"])?;
    if reply.trim().is_empty() {
        return Err(anyhow!("app --prompt: got no reply, expected one"));
    }
    println!("app: carries the proved model, and replies: {}", reply.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_of_the_wheel_is_one_requirement_with_digests() {
        let lock = wheel_lock().unwrap();
        let mut lines = lock.lines();
        assert_eq!(lines.next(), Some(format!("executorch=={RUNTIME_VERSION} \\").as_str()));
        let hashes: Vec<_> = lines.collect();
        assert!(
            hashes.len() > 2 && hashes.iter().all(|line| line.trim_start().starts_with("--hash=sha256:"))
        );
        assert!(!lock.trim_end().ends_with('\\'));
    }

    #[test]
    fn the_release_profile_meets_the_gate() {
        let workspace = Workspace::find(None).unwrap();
        let plan = plan(&workspace, &Places::new(&workspace, false), "tiny", true);
        let build = plan.steps.last().unwrap();
        assert!(build.argv.contains(&"--release".to_owned()) && build.argv.contains(&"--locked".to_owned()));
        assert_eq!(build.env["PROOFMARK_MODEL"], "tiny");
        assert!(plan.needs.iter().any(|need| need.what == EMULATOR));
    }

    #[test]
    fn from_source_it_is_linked_as_for_a_phone() {
        let workspace = Workspace::find(None).unwrap();
        let places = Places::new(&workspace, true);
        let plan = plan(&workspace, &places, "tiny", false);
        let build = plan.steps.last().unwrap();
        let configure = plan.steps.iter().find(|step| step.argv.contains(&"-S".to_owned())).unwrap();
        assert!(configure.argv.contains(&"-DEXECUTORCH_ENABLE_PROGRAM_VERIFICATION=ON".to_owned()));
        assert_eq!(build.env["EXECUTORCH_SDK_DIR"], places.sdk().as_str());
        assert!(!plan.steps.iter().any(|step| step.argv.contains(&"pip".to_owned())));
    }
}
