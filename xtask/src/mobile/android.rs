//! `cargo xtask mobile android`: the runtime, the app's library, the model and the package.
//!
//! **Invariant:** Gradle packages only what the gate let through in this run; the package is inspected afterwards.

use camino::Utf8PathBuf;
use model_assets::{dir::ModelDir, recipe::Delivery};

use super::{
    Build,
    plan::{BuildPlan, Need, Step},
    runtime,
};
use crate::{exit::Outcome, inspect, workspace::Workspace};

const TRIPLE: &str = "aarch64-linux-android";
const ABI: &str = "arm64-v8a";
/// As in `app/android/app/build.gradle.kts`.
const API: u32 = 26;
const NDK: &str = "27.2.12479018";
/// What Slint's build script compiles its Java helper against, and with what it makes bytecode of it.
const PLATFORM: &str = "platforms;android-35";
const BUILD_TOOLS: &str = "build-tools;35.0.0";
/// The one that the plugin in `app/android/build.gradle.kts` was made for.
const GRADLE: &str = "8.11.1";
/// Of `gradle-8.11.1-bin.zip`, as https://gradle.org/release-checksums names it.
const GRADLE_SHA256: &str = "f397b287023acdba1e9f6fc5ea72d22dd63669d59ed4a289a29b1a76eee151c6";
/// Libraries are loaded on phones with pages of 16 KiB too.
const RUSTFLAGS: &str = "-Clink-arg=-Wl,-z,max-page-size=16384";

pub(crate) fn run(workspace: &Workspace, args: &Build) -> Outcome {
    let linked = linked(workspace, &args.model)?;
    let plan = plan(workspace, args, &Tools::find(), linked.as_ref());
    if args.dry_run {
        println!("{}", serde_json::to_string_pretty(&plan)?);
        return Ok(());
    }
    plan.check_needs()?;
    plan.run(workspace.root())?;
    inspect::run(&inspect::Args::of(package(workspace, args.release), args.release))
}

/// The file that the package must carry; none for an embedded model.
pub(super) fn linked(workspace: &Workspace, model: &str) -> anyhow::Result<Option<Utf8PathBuf>> {
    let dir = ModelDir::new(workspace.models(), model);
    let (claim, _) = dir.open()?;
    let manifest = &claim.manifest;
    let linked = claim.delivery(manifest.file_bytes) == Delivery::Link;
    Ok(linked.then(|| dir.path().join(&manifest.file)))
}

/// SDK and NDK, and what else must be there.
pub(super) struct Tools {
    sdk: Option<String>,
    ndk: Option<String>,
    needs: Vec<Need>,
}

impl Tools {
    fn find() -> Self {
        let folder =
            |name: &str| std::env::var(name).ok().filter(|path| camino::Utf8Path::new(path).is_dir());
        let target = super::rust_target(TRIPLE);
        let mut needs = vec![
            Need::program("git", "apt-get install git"),
            // A runtime alone has no compiler.
            Need::program("javac", "apt-get install openjdk-17-jdk-headless"),
            Need::program(
                "gradle",
                "any Gradle from 8.0: it only fetches the pinned one; https://gradle.org/install",
            ),
            Need::new("Rust's library for Android", target, &format!("rustup target add {TRIPLE}")),
        ];
        needs.extend(runtime::needs("apt-get install cmake ninja-build"));
        let ndk = folder("ANDROID_NDK_HOME").filter(|path| ndk_revision(path).as_deref() == Some(NDK));
        Self { sdk: folder("ANDROID_HOME"), ndk, needs }
    }
}

/// What an NDK says that it is.
fn ndk_revision(ndk: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("{ndk}/source.properties")).ok()?;
    let revision = text.lines().find_map(|line| line.strip_prefix("Pkg.Revision"))?;
    Some(revision.trim_start_matches([' ', '=']).trim_end().to_owned())
}

/// A package of the SDK, where its manager puts it.
fn in_sdk(sdk: &str, package: &str) -> Need {
    let place = Utf8PathBuf::from(sdk).join(package.replace(';', "/"));
    let found = place.is_dir().then(|| place.into_string());
    Need::new(package, found, &format!("sdkmanager '{package}'"))
}

fn package(workspace: &Workspace, release: bool) -> Utf8PathBuf {
    let outputs = workspace.root().join("app/android/app/build/outputs");
    if release {
        outputs.join("bundle/release/app-release.aab")
    } else {
        outputs.join("apk/debug/app-debug.apk")
    }
}

fn plan(workspace: &Workspace, args: &Build, tools: &Tools, linked: Option<&Utf8PathBuf>) -> BuildPlan {
    let sdk = format!(
        "the SDK's command line tools, then: sdkmanager '{PLATFORM}' '{BUILD_TOOLS}' 'ndk;{NDK}'; export ANDROID_HOME=<the SDK>"
    );
    let ndk = format!("sdkmanager 'ndk;{NDK}'; export ANDROID_NDK_HOME=$ANDROID_HOME/ndk/{NDK}");
    let mut needs = vec![
        Need::new("Android SDK (ANDROID_HOME)", tools.sdk.clone(), &sdk),
        Need::new(&format!("Android NDK {NDK} (ANDROID_NDK_HOME)"), tools.ndk.clone(), &ndk),
    ];
    if let Some(sdk) = &tools.sdk {
        needs.extend([PLATFORM, BUILD_TOOLS].map(|package| in_sdk(sdk, package)));
    }
    needs.extend(tools.needs.iter().cloned());
    needs.push(super::python_need(workspace));
    let ndk = tools.ndk.clone().unwrap_or_else(|| "$ANDROID_NDK_HOME".to_owned());
    let options = [
        format!("-DCMAKE_TOOLCHAIN_FILE={ndk}/build/cmake/android.toolchain.cmake"),
        format!("-DANDROID_ABI={ABI}"),
        format!("-DANDROID_PLATFORM=android-{API}"),
        "-DANDROID_STL=c++_shared".to_owned(),
        "-DEXECUTORCH_PAL_DEFAULT=android".to_owned(),
    ];
    let places = runtime::Places::new(&workspace.state(), "android", &options);
    let mut steps = runtime::source(&workspace.state());
    steps.extend(runtime::build(&places, &workspace.python(), &options));
    let target = workspace.state().join("mobile/android/target");
    steps.push(library(args, &places, &ndk, &target));
    steps.extend(collect(workspace, args, &ndk, &target, linked));
    steps.extend(gradle(workspace, args));
    BuildPlan { target: "android".to_owned(), needs, steps }
}

/// The app as one library, with the runtime inside.
fn library(args: &Build, places: &runtime::Places, ndk: &str, target: &Utf8PathBuf) -> Step {
    let mut argv = vec![
        "cargo",
        "rustc",
        "--locked",
        "--package",
        "app",
        "--lib",
        "--features",
        "gui",
        "--crate-type",
        "cdylib",
        "--target",
        TRIPLE,
        "--target-dir",
        target.as_str(),
    ];
    argv.extend(args.release.then_some("--release"));
    // A build server for another system would need another folder here; the NDK of macOS has this name too.
    let host = if cfg!(target_os = "macos") { "darwin-x86_64" } else { "linux-x86_64" };
    let bin = format!("{ndk}/toolchains/llvm/prebuilt/{host}/bin");
    let (cc, cxx) = (format!("{bin}/{TRIPLE}{API}-clang"), format!("{bin}/{TRIPLE}{API}-clang++"));
    Step::new("the app's library, with the gate", &argv).env(&[
        ("EXECUTORCH_SDK_DIR", places.sdk.as_str()),
        ("PROOFMARK_MODEL", &args.model),
        ("CARGO_TARGET_AARCH64_LINUX_ANDROID_LINKER", &cc),
        ("CARGO_TARGET_AARCH64_LINUX_ANDROID_RUSTFLAGS", RUSTFLAGS),
        ("CC_aarch64_linux_android", &cc),
        ("CXX_aarch64_linux_android", &cxx),
        ("AR_aarch64_linux_android", &format!("{bin}/llvm-ar")),
    ])
}

/// Puts libraries and model where Gradle packages them from, and takes away what an earlier build left there.
fn collect(
    workspace: &Workspace,
    args: &Build,
    ndk: &str,
    target: &Utf8PathBuf,
    linked: Option<&Utf8PathBuf>,
) -> Vec<Step> {
    let project = workspace.root().join("app/android");
    let (libraries, pack) = (project.join("app/src/main/jniLibs"), project.join("modelpack/src"));
    let place = libraries.join(ABI);
    let profile = if args.release { "release" } else { "debug" };
    let app = target.join(TRIPLE).join(profile).join("libapp.so");
    let host = if cfg!(target_os = "macos") { "darwin-x86_64" } else { "linux-x86_64" };
    let cxx = format!("{ndk}/toolchains/llvm/prebuilt/{host}/sysroot/usr/lib/{TRIPLE}/libc++_shared.so");
    let mut steps = vec![
        Step::new(
            "nothing of an earlier build",
            &["cmake", "-E", "rm", "-rf", libraries.as_str(), pack.as_str()],
        ),
        Step::new("the libraries' folder", &["cmake", "-E", "make_directory", place.as_str()]),
        Step::new("the libraries", &["cmake", "-E", "copy", app.as_str(), &cxx, place.as_str()]),
    ];
    if let Some(model) = linked {
        let assets = pack.join("main/assets");
        steps.push(Step::new("the model's folder", &["cmake", "-E", "make_directory", assets.as_str()]));
        steps.push(Step::new("the linked model", &["cmake", "-E", "copy", model.as_str(), assets.as_str()]));
    }
    steps
}

/// The pinned Gradle, fetched through an empty project by whichever is installed, builds the package.
fn gradle(workspace: &Workspace, args: &Build) -> Vec<Step> {
    let project = workspace.root().join("app/android");
    let (wrapper, script) = (project.join("wrapper"), project.join("wrapper/gradlew"));
    let make = [
        "gradle",
        "--no-daemon",
        "--project-dir",
        wrapper.as_str(),
        "wrapper",
        "--gradle-version",
        GRADLE,
        "--gradle-distribution-sha256-sum",
        GRADLE_SHA256,
    ];
    let task = if args.release { "bundleRelease" } else { "assembleDebug" };
    vec![
        Step::new("the pinned Gradle", &make),
        Step::new("the package", &[script.as_str(), "--no-daemon", "--project-dir", project.as_str(), task]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan_of(release: bool, linked: Option<&str>) -> BuildPlan {
        let workspace = Workspace::find(None).unwrap();
        let args = Build { model: "tiny".to_owned(), release, dry_run: true };
        let tools = Tools { sdk: None, ndk: Some("/ndk".to_owned()), needs: Vec::new() };
        plan(&workspace, &args, &tools, linked.map(Utf8PathBuf::from).as_ref())
    }

    #[test]
    fn a_release_meets_the_gate_at_release_level_and_a_linked_model_is_packed() {
        let plan = plan_of(true, Some("/models/big.pte"));
        let said = |word: &str| plan.steps.iter().any(|step| step.argv.iter().any(|arg| arg.contains(word)));
        assert!(said("--release") && said("bundleRelease") && said("/models/big.pte"));
        let library = plan.steps.iter().find(|step| step.argv.contains(&"cdylib".to_owned())).unwrap();
        assert!(library.env["CARGO_TARGET_AARCH64_LINUX_ANDROID_RUSTFLAGS"].contains("max-page-size=16384"));
    }

    #[test]
    fn what_is_missing_is_named_with_the_command_that_installs_it() {
        let failure = plan_of(false, None).check_needs().unwrap_err();
        assert_eq!(failure.code, crate::exit::Exit::MobileTools);
        let hint = failure.hint.unwrap();
        assert!(hint.contains("sdkmanager 'platforms;android-35'"), "{hint}");
    }

    #[test]
    fn another_ndk_is_not_the_one_that_is_named() {
        let ndk = tempfile::tempdir().unwrap();
        let path = ndk.path().to_str().unwrap();
        assert_eq!(ndk_revision(path), None);
        let properties = ndk.path().join("source.properties");
        std::fs::write(properties, "Pkg.Desc = Android NDK\nPkg.Revision = 26.1.10909125\n").unwrap();
        assert_eq!(ndk_revision(path).as_deref(), Some("26.1.10909125"));
    }

    #[test]
    fn every_path_given_to_cmake_is_absolute() {
        for step in plan_of(true, None).steps.iter().filter(|step| step.argv[0] == "cmake") {
            for pair in step
                .argv
                .windows(2)
                .filter(|pair| ["-S", "-B", "--install", "--build"].contains(&pair[0].as_str()))
            {
                assert!(pair[1].starts_with('/'), "{pair:?}");
            }
        }
    }

    #[test]
    fn the_versions_here_and_in_the_project_are_the_same() {
        let project = include_str!("../../../app/android/app/build.gradle.kts");
        assert!(project.contains(&format!("ndkVersion = \"{NDK}\"")));
        assert!(project.contains(&format!("minSdk = {API}\n")));
        assert!(project.contains(&format!("abiFilters += \"{ABI}\"")));
        assert!(project.contains("noCompress += \"pte\""));
    }
}
