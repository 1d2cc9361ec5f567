//! `cargo xtask mobile ios`: the runtime, the app's library as an xcframework, the model as a resource, and the app.
//!
//! **Invariant:** the runtime is part of the app's own static library: there is no library to load, and nothing but the
//! app to sign.

use camino::Utf8PathBuf;

use super::{
    Build, android,
    plan::{BuildPlan, Need, Step},
    runtime,
};
use crate::{exit::Outcome, inspect, workspace::Workspace};

/// What the library is built for.
struct Slice {
    triple: &'static str,
    sysroot: &'static str,
    /// Its folder among those of the runtimes.
    name: &'static str,
}

const DEVICE: Slice = Slice { triple: "aarch64-apple-ios", sysroot: "iphoneos", name: "ios" };
/// For Macs of Apple's own processors.
const SIMULATOR: Slice =
    Slice { triple: "aarch64-apple-ios-sim", sysroot: "iphonesimulator", name: "ios-simulator" };
/// As in `app/ios/project.yml`.
const DEPLOYMENT: &str = "17.0";
/// Whose certificate signs a release. The Xcode project is made anew each time, so it cannot be chosen there.
const TEAM: &str = "PROOFMARK_IOS_TEAM";

pub(crate) fn run(workspace: &Workspace, args: &Build) -> Outcome {
    let linked = android::linked(workspace, &args.model)?;
    let team = std::env::var(TEAM).ok().filter(|team| !team.is_empty());
    let needs = needs(args.release, team.as_ref());
    let plan = plan(workspace, args, needs, team.as_deref(), linked.as_ref());
    if args.dry_run {
        println!("{}", serde_json::to_string_pretty(&plan)?);
        return Ok(());
    }
    plan.check_needs()?;
    plan.run(workspace.root())?;
    inspect::run(&inspect::Args::of(app(workspace), args.release))
}

/// What reaches users runs on phones alone, and a runtime more takes long to build.
fn slices(release: bool) -> &'static [Slice] {
    if release { &[DEVICE] } else { &[DEVICE, SIMULATOR] }
}

fn needs(release: bool, team: Option<&String>) -> Vec<Need> {
    let xcode = "Xcode 16 from the App Store, then: sudo xcode-select --switch /Applications/Xcode.app";
    let mut needs = vec![
        Need::program("xcodebuild", xcode),
        Need::program("xcodegen", "brew install xcodegen"),
        Need::program("git", "xcode-select --install"),
    ];
    needs.extend(runtime::needs("brew install cmake ninja"));
    if release {
        let fix = format!("export {TEAM}=<the ten characters at https://developer.apple.com/account>");
        needs.push(Need::new(&format!("Apple developer team ({TEAM})"), team.cloned(), &fix));
    }
    needs.extend(slices(release).iter().map(|Slice { triple, .. }| {
        let fix = format!("rustup target add {triple}");
        Need::new(&format!("Rust's library for {triple}"), super::rust_target(triple), &fix)
    }));
    needs
}

fn archive(workspace: &Workspace) -> Utf8PathBuf {
    workspace.state().join("mobile/ios/Proofmark.xcarchive")
}

fn app(workspace: &Workspace) -> Utf8PathBuf {
    archive(workspace).join("Products/Applications/Proofmark.app")
}

fn plan(
    workspace: &Workspace,
    args: &Build,
    mut needs: Vec<Need>,
    team: Option<&str>,
    linked: Option<&Utf8PathBuf>,
) -> BuildPlan {
    needs.push(super::python_need(workspace));
    let (state, slices) = (workspace.state(), slices(args.release));
    let target = state.join("mobile/ios/target");
    let mut steps = runtime::source(&state);
    for slice in slices {
        let options = [
            "-DCMAKE_SYSTEM_NAME=iOS".to_owned(),
            format!("-DCMAKE_OSX_SYSROOT={}", slice.sysroot),
            "-DCMAKE_OSX_ARCHITECTURES=arm64".to_owned(),
            format!("-DCMAKE_OSX_DEPLOYMENT_TARGET={DEPLOYMENT}"),
            "-DEXECUTORCH_PAL_DEFAULT=posix".to_owned(),
        ];
        let places = runtime::Places::new(&state, slice.name, &options);
        steps.extend(runtime::build(&places, &workspace.python(), &options));
        steps.push(library(args, slice, &places, &target));
    }
    steps.extend(collect(workspace, args, slices, &target, linked));
    steps.extend(xcode(workspace, args, team));
    BuildPlan { target: "ios".to_owned(), needs, steps }
}

fn library(args: &Build, slice: &Slice, places: &runtime::Places, target: &Utf8PathBuf) -> Step {
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
        "staticlib",
        "--target",
        slice.triple,
        "--target-dir",
        target.as_str(),
    ];
    argv.extend(args.release.then_some("--release"));
    Step::new("the app's library, with the gate", &argv).env(&[
        ("EXECUTORCH_SDK_DIR", places.sdk.as_str()),
        ("PROOFMARK_MODEL", &args.model),
        ("IPHONEOS_DEPLOYMENT_TARGET", DEPLOYMENT),
    ])
}

/// The xcframework and the model, where the project definition looks for them.
fn collect(
    workspace: &Workspace,
    args: &Build,
    slices: &[Slice],
    target: &Utf8PathBuf,
    linked: Option<&Utf8PathBuf>,
) -> Vec<Step> {
    let project = workspace.root().join("app/ios");
    let (framework, model) = (project.join("Proofmark.xcframework"), project.join("Model"));
    let profile = if args.release { "release" } else { "debug" };
    let libraries: Vec<_> =
        slices.iter().map(|slice| target.join(slice.triple).join(profile).join("libapp.a")).collect();
    let mut pack = vec!["xcodebuild", "-create-xcframework"];
    for library in &libraries {
        pack.extend(["-library", library.as_str()]);
    }
    pack.extend(["-output", framework.as_str()]);
    let mut steps = vec![
        Step::new(
            "nothing of an earlier build",
            &["cmake", "-E", "rm", "-rf", framework.as_str(), model.as_str()],
        ),
        Step::new("the model's folder", &["cmake", "-E", "make_directory", model.as_str()]),
        Step::new("the library as an xcframework", &pack),
    ];
    if let Some(file) = linked {
        steps.push(Step::new("the linked model", &["cmake", "-E", "copy", file.as_str(), model.as_str()]));
    }
    steps
}

/// The project, and the archive: signed by Xcode for a release, unsigned for a look at it.
fn xcode(workspace: &Workspace, args: &Build, team: Option<&str>) -> Vec<Step> {
    let folder = workspace.root().join("app/ios");
    let archive = archive(workspace);
    let configuration = if args.release { "Release" } else { "Debug" };
    let mut build = vec![
        "xcodebuild",
        "-project",
        "Proofmark.xcodeproj",
        "-scheme",
        "Proofmark",
        "-configuration",
        configuration,
        "-destination",
        "generic/platform=iOS",
        "-archivePath",
        archive.as_str(),
        "archive",
    ];
    let team = format!("DEVELOPMENT_TEAM={}", team.map_or(format!("${TEAM}"), str::to_owned));
    if args.release {
        build.extend(["-allowProvisioningUpdates", "CODE_SIGN_STYLE=Automatic", &team]);
    } else {
        build.extend(["CODE_SIGNING_ALLOWED=NO"]);
    }
    vec![
        Step::new("the Xcode project", &["xcodegen", "generate", "--spec", "project.yml"])
            .folder(folder.clone()),
        Step::new("the app", &build).folder(folder),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan_of(release: bool, linked: Option<&str>) -> BuildPlan {
        let workspace = Workspace::find(None).unwrap();
        let args = Build { model: "tiny".to_owned(), release, dry_run: true };
        let needs = vec![Need::new("xcodebuild", None, "Xcode")];
        plan(&workspace, &args, needs, Some("TEAM123456"), linked.map(Utf8PathBuf::from).as_ref())
    }

    #[test]
    fn a_release_is_signed_and_a_linked_model_is_a_resource() {
        let said = |plan: &BuildPlan, word: &str| {
            plan.steps.iter().any(|step| step.argv.iter().any(|arg| arg == word))
        };
        let release = plan_of(true, Some("/models/big.pte"));
        assert!(said(&release, "--release") && said(&release, "/models/big.pte"));
        assert!(said(&release, "DEVELOPMENT_TEAM=TEAM123456") && said(&release, "-allowProvisioningUpdates"));
        assert!(!said(&release, "CODE_SIGNING_ALLOWED=NO"));
        assert!(said(&plan_of(false, None), "CODE_SIGNING_ALLOWED=NO"));
    }

    #[test]
    fn only_a_debug_build_has_a_library_for_the_simulator() {
        for (release, libraries) in [(true, 1), (false, 2)] {
            let plan = plan_of(release, None);
            let pack = plan.steps.iter().find(|step| step.argv.contains(&"-create-xcframework".to_owned()));
            let packed: Vec<_> =
                pack.unwrap().argv.iter().filter(|word| word.ends_with("/libapp.a")).collect();
            assert_eq!(packed.len(), libraries, "{packed:?}");
            let simulated = |step: &Step| step.argv.contains(&SIMULATOR.triple.to_owned());
            let built: Vec<_> = plan.steps.iter().filter(|step| simulated(step)).collect();
            assert_eq!(built.len(), libraries - 1);
            // Its runtime is the simulator's own: the linker takes no code of another platform.
            assert!(built.iter().all(|step| step.env["EXECUTORCH_SDK_DIR"].contains("/ios-simulator/")));
        }
    }

    #[test]
    fn a_release_asks_whose_certificate_signs_it() {
        let team = "TEAM123456".to_owned();
        let missing = |release, team| {
            let needs = needs(release, team);
            needs.iter().any(|need| need.what.contains(TEAM) && need.found.is_none())
        };
        assert!(missing(true, None));
        assert!(!missing(true, Some(&team)) && !missing(false, None));
    }

    #[test]
    fn without_xcode_it_says_what_to_install() {
        let failure = plan_of(false, None).check_needs().unwrap_err();
        assert_eq!(failure.code, crate::exit::Exit::MobileTools);
        assert!(failure.hint.unwrap().contains("xcodebuild: Xcode"));
    }

    #[test]
    fn the_project_asks_for_memory_keeps_every_kernel_and_names_the_same_system() {
        let project = include_str!("../../../app/ios/project.yml");
        let asked = include_str!("../../../app/ios/Proofmark.entitlements");
        assert!(asked.contains("increased-memory-limit"));
        assert!(project.contains("- -force_load\n"));
        // Xcode hands every element of the list to the linker as one word.
        let flags = project.split_once("OTHER_LDFLAGS:\n").unwrap().1;
        let words = flags.lines().filter_map(|line| line.trim().strip_prefix("- "));
        assert!(words.clone().count() > 1 && words.clone().all(|word| !word.contains(' ')), "{flags}");
        assert!(project.contains(&format!("iOS: \"{DEPLOYMENT}\"")));
    }
}
