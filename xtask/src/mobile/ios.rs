//! `cargo xtask mobile ios`: the runtime, the app's library as an xcframework, the model as a resource, and the app.
//!
//! **Invariant:** the runtime is part of the app's own static library: there is no library to load, and nothing but the
//! app to sign.

use camino::Utf8PathBuf;

use super::{
    Build, android,
    plan::{Need, Plan, Step},
    runtime,
};
use crate::{Outcome, inspect, workspace::Workspace};

const TRIPLE: &str = "aarch64-apple-ios";
/// As in `app/ios/project.yml`.
const DEPLOYMENT: &str = "17.0";

pub(crate) fn run(workspace: &Workspace, args: &Build) -> Outcome {
    let linked = android::linked(workspace, &args.model)?;
    let plan = plan(workspace, args, needs(), linked.as_ref());
    if args.dry_run {
        println!("{}", serde_json::to_string_pretty(&plan)?);
        return Ok(());
    }
    plan.check_needs()?;
    plan.run(workspace.root())?;
    inspect::run(&inspect::Args::of(app(workspace)))
}

fn needs() -> Vec<Need> {
    let xcode = "Xcode 16 from the App Store, then: sudo xcode-select --switch /Applications/Xcode.app";
    vec![
        Need::program("xcodebuild", xcode),
        Need::program("xcodegen", "brew install xcodegen"),
        Need::program("git", "xcode-select --install"),
        Need::program("cmake", "brew install cmake ninja"),
        Need::program("ninja", "brew install ninja"),
        Need::new(
            "Rust's library for iOS",
            super::rust_target(TRIPLE),
            &format!("rustup target add {TRIPLE}"),
        ),
    ]
}

fn archive(workspace: &Workspace) -> Utf8PathBuf {
    workspace.state().join("mobile/ios/Proofmark.xcarchive")
}

fn app(workspace: &Workspace) -> Utf8PathBuf {
    archive(workspace).join("Products/Applications/Proofmark.app")
}

fn plan(workspace: &Workspace, args: &Build, mut needs: Vec<Need>, linked: Option<&Utf8PathBuf>) -> Plan {
    needs.push(super::python_need(workspace));
    let places = runtime::Places::new(&workspace.state(), "ios");
    let options = [
        "-DCMAKE_SYSTEM_NAME=iOS".to_owned(),
        "-DCMAKE_OSX_SYSROOT=iphoneos".to_owned(),
        "-DCMAKE_OSX_ARCHITECTURES=arm64".to_owned(),
        format!("-DCMAKE_OSX_DEPLOYMENT_TARGET={DEPLOYMENT}"),
        "-DEXECUTORCH_PAL_DEFAULT=posix".to_owned(),
    ];
    let mut steps = runtime::source(&places);
    steps.extend(runtime::build(&places, &workspace.python(), &options));
    let target = workspace.state().join("mobile/ios/target");
    steps.push(library(args, &places, &target));
    steps.extend(collect(workspace, args, &target, linked));
    steps.extend(xcode(workspace, args));
    Plan { target: "ios".to_owned(), needs, steps }
}

fn library(args: &Build, places: &runtime::Places, target: &Utf8PathBuf) -> Step {
    let mut argv = vec![
        "cargo",
        "rustc",
        "--locked",
        "--package",
        "app",
        "--lib",
        "--features",
        "capi",
        "--crate-type",
        "staticlib",
        "--target",
        TRIPLE,
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
    target: &Utf8PathBuf,
    linked: Option<&Utf8PathBuf>,
) -> Vec<Step> {
    let project = workspace.root().join("app/ios");
    let (framework, model) = (project.join("Proofmark.xcframework"), project.join("Model"));
    let profile = if args.release { "release" } else { "debug" };
    let library = target.join(TRIPLE).join(profile).join("libapp.a");
    let headers = workspace.root().join("app/include");
    let pack = [
        "xcodebuild",
        "-create-xcframework",
        "-library",
        library.as_str(),
        "-headers",
        headers.as_str(),
        "-output",
        framework.as_str(),
    ];
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
fn xcode(workspace: &Workspace, args: &Build) -> Vec<Step> {
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
    if !args.release {
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

    fn plan_of(release: bool, linked: Option<&str>) -> Plan {
        let workspace = Workspace::find(None).unwrap();
        let args = Build { model: "tiny".to_owned(), release, dry_run: true };
        plan(
            &workspace,
            &args,
            vec![Need::new("xcodebuild", None, "Xcode")],
            linked.map(Utf8PathBuf::from).as_ref(),
        )
    }

    #[test]
    fn a_release_is_signed_and_a_linked_model_is_a_resource() {
        let said =
            |plan: &Plan, word: &str| plan.steps.iter().any(|step| step.argv.iter().any(|arg| arg == word));
        let release = plan_of(true, Some("/models/big.pte"));
        assert!(said(&release, "--release") && said(&release, "/models/big.pte"));
        assert!(!said(&release, "CODE_SIGNING_ALLOWED=NO"));
        assert!(said(&plan_of(false, None), "CODE_SIGNING_ALLOWED=NO"));
    }

    #[test]
    fn without_xcode_it_says_what_to_install() {
        let failure = plan_of(false, None).check_needs().unwrap_err();
        assert_eq!(failure.code, crate::EXIT_MOBILE_TOOLS);
        assert!(failure.hint.unwrap().contains("xcodebuild: Xcode"));
    }

    #[test]
    fn the_project_asks_for_memory_keeps_every_kernel_and_names_the_same_system() {
        let project = include_str!("../../../app/ios/project.yml");
        assert!(project.contains("increased-memory-limit: true"));
        assert!(project.contains("-force_load"));
        assert!(project.contains(&format!("iOS: \"{DEPLOYMENT}\"")));
    }
}
