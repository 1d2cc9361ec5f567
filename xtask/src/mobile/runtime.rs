//! The ExecuTorch runtime for a phone, from its source: static libraries that become part of the app's own.
//!
//! **Invariant:** the source is the commit that the wheel of the export was built from; every path given to CMake is
//! absolute.

use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{digest::Digest, manifest::RUNTIME_VERSION};

use super::plan::{Step, unfinished};

const REPOSITORY: &str = "https://github.com/pytorch/executorch";
/// What `version.py` of the wheel names.
const COMMIT: &str = "3b60683923245cf472b7323426920e15623ba361";

/// Of a digest, in a name.
const KEY_DIGITS: usize = 12;

/// Parts of the runtime that the engine uses, and what its own code is compiled to match (the event tracer changes the
/// layout of the runtime's types).
const OPTIONS: [&str; 14] = [
    "-DCMAKE_BUILD_TYPE=Release",
    "-DCMAKE_POSITION_INDEPENDENT_CODE=ON",
    "-DBUILD_TESTING=OFF",
    "-DEXECUTORCH_BUILD_EXECUTOR_RUNNER=OFF",
    "-DEXECUTORCH_BUILD_EXTENSION_DATA_LOADER=ON",
    "-DEXECUTORCH_BUILD_EXTENSION_FLAT_TENSOR=ON",
    "-DEXECUTORCH_BUILD_EXTENSION_MODULE=ON",
    "-DEXECUTORCH_BUILD_EXTENSION_NAMED_DATA_MAP=ON",
    "-DEXECUTORCH_BUILD_EXTENSION_TENSOR=ON",
    "-DEXECUTORCH_BUILD_KERNELS_OPTIMIZED=ON",
    "-DEXECUTORCH_BUILD_KERNELS_QUANTIZED=ON",
    "-DEXECUTORCH_BUILD_XNNPACK=ON",
    "-DEXECUTORCH_ENABLE_EVENT_TRACER=ON",
    "-DEXECUTORCH_XNNPACK_ENABLE_WEIGHT_CACHE=ON",
];

/// Where a runtime for `target` is made.
pub(super) struct Places {
    source: Utf8PathBuf,
    build: Utf8PathBuf,
    pub(super) sdk: Utf8PathBuf,
}

impl Places {
    /// Named after what it is built with: other options are another runtime, and no archive of the old one stays.
    pub(super) fn new(state: &Utf8Path, target: &str, options: &[String]) -> Self {
        let root = state.join("mobile");
        let all: Vec<_> = OPTIONS.into_iter().chain(options.iter().map(String::as_str)).collect();
        let digest = Digest::of(all.join("\n").as_bytes()).to_string();
        let key = digest.get(..KEY_DIGITS).unwrap_or(&digest);
        Self {
            build: root.join(target).join(format!("executorch-build-{key}")),
            sdk: root.join(target).join(format!("executorch-{RUNTIME_VERSION}-{key}")),
            source: source_place(state),
        }
    }
}

fn source_place(state: &Utf8Path) -> Utf8PathBuf {
    state.join("mobile").join(format!("executorch-{RUNTIME_VERSION}-source"))
}

/// The source, once for every target, proved to be the commit.
pub(super) fn source(state: &Utf8Path) -> Vec<Step> {
    let place = source_place(state);
    let (tag, fresh) = (format!("v{RUNTIME_VERSION}"), unfinished(&place));
    let clone = [
        "git",
        "clone",
        "--quiet",
        "--depth",
        "1",
        "--branch",
        &tag,
        "--recurse-submodules",
        "--shallow-submodules",
        REPOSITORY,
        fresh.as_str(),
    ];
    // In a clone of depth 1 only the commit itself is its own ancestor.
    let check = ["git", "-C", place.as_str(), "merge-base", "--is-ancestor", COMMIT, "HEAD"];
    vec![
        Step::new("the runtime's source, by its tag", &clone).output(place.clone()),
        Step::new("it is the commit that the export's wheel was built from", &check),
    ]
}

/// Configures, builds and installs it with a target's own options.
pub(super) fn build(places: &Places, python: &Utf8Path, options: &[String]) -> Vec<Step> {
    let (source, build, fresh) = (places.source.as_str(), places.build.as_str(), unfinished(&places.sdk));
    let prefix = format!("-DCMAKE_INSTALL_PREFIX={fresh}");
    let python = format!("-DPYTHON_EXECUTABLE={python}");
    let mut configure = vec!["cmake", "-G", "Ninja", "-S", source, "-B", build, &prefix, &python];
    configure.extend(OPTIONS);
    configure.extend(options.iter().map(String::as_str));
    let compile = ["cmake", "--build", build, "--parallel"];
    let install = ["cmake", "--install", build];
    let (version, place) = (places.source.join("version.txt"), places.sdk.join("version.txt"));
    vec![
        Step::new("the runtime's build is configured", &configure),
        Step::new("the runtime is built", &compile),
        Step::new("the runtime's headers and libraries", &install).output(places.sdk.clone()),
        Step::new("which runtime it is", &["cmake", "-E", "copy", version.as_str(), place.as_str()]),
    ]
}
