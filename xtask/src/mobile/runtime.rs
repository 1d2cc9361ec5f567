//! The ExecuTorch runtime for a phone, from its source: static libraries that become part of the app's own.
//!
//! **Invariant:** the source is the commit that the wheel of the export was built from, and nothing in it was changed since;
//! every path given to CMake is absolute.

use camino::{Utf8Path, Utf8PathBuf};
use model_assets::{digest::Digest, manifest::RUNTIME_VERSION};

use super::plan::{Need, Step, find_program, unfinished};

const REPOSITORY: &str = "https://github.com/pytorch/executorch";
/// What `version.py` of the wheel names.
const COMMIT: &str = "3b60683923245cf472b7323426920e15623ba361";

/// Of a digest, in a name.
const KEY_DIGITS: usize = 12;
/// The first CMake that knows `$<BUILD_LOCAL_INTERFACE:…>`, which `kernels/optimized/CMakeLists.txt` uses although the
/// project says 3.24.
const CMAKE_MIN: (u32, u32) = (3, 26);

/// Parts of the runtime that the engine uses, and what its own code is compiled to match (the event tracer changes the
/// layout of the runtime's types, and is not to be had without the developers' tools). As in the wheel, and off in upstream's
/// release builds: the check of a program before it runs, and the log, by which the engine learns that weights could not be
/// packed into their file. Not as in the wheel: no kernels for SME, which compute nonsense under the one processor that could be
/// tried, an emulated one (docs/mobile.md).
const OPTIONS: [&str; 19] = [
    "-DCMAKE_BUILD_TYPE=Release",
    "-DCMAKE_POSITION_INDEPENDENT_CODE=ON",
    "-DBUILD_TESTING=OFF",
    "-DEXECUTORCH_BUILD_DEVTOOLS=ON",
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
    "-DEXECUTORCH_ENABLE_LOGGING=ON",
    "-DEXECUTORCH_ENABLE_PROGRAM_VERIFICATION=ON",
    "-DEXECUTORCH_XNNPACK_ENABLE_WEIGHT_CACHE=ON",
    "-DXNNPACK_ENABLE_ARM_SME=OFF",
    "-DXNNPACK_ENABLE_ARM_SME2=OFF",
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

/// Its own build refuses a folder of any other name than `executorch` (pytorch/executorch#6475).
fn source_place(state: &Utf8Path) -> Utf8PathBuf {
    state.join("mobile").join(format!("source-{RUNTIME_VERSION}")).join("executorch")
}

/// CMake, new enough, and Ninja; `install` gets both.
pub(super) fn needs(install: &str) -> [Need; 2] {
    let (major, minor) = CMAKE_MIN;
    let cmake = find_program("cmake").filter(|path| cmake_version(path).is_some_and(|got| got >= CMAKE_MIN));
    let fix = format!("{install}; where that is older than {major}.{minor}: pip install cmake");
    [
        Need::new(&format!("cmake {major}.{minor} or newer"), cmake.map(Utf8PathBuf::into_string), &fix),
        Need::program("ninja", install),
    ]
}

fn cmake_version(program: &Utf8Path) -> Option<(u32, u32)> {
    let asked = crate::child::command(program).arg("--version").output().ok()?;
    parse_cmake_version(&String::from_utf8_lossy(&asked.stdout))
}

/// Major and minor of what `cmake --version` says.
fn parse_cmake_version(said: &str) -> Option<(u32, u32)> {
    let mut parts = said.lines().next()?.strip_prefix("cmake version ")?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
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
    // Its build leaves files of its own beside those of its submodules.
    let clean =
        ["git", "-C", place.as_str(), "diff", "--quiet", "--ignore-submodules=untracked", COMMIT, "--"];
    vec![
        Step::new("the runtime's source, by its tag", &clone).output(place.clone()),
        Step::new("it is the commit that the export's wheel was built from", &check),
        Step::new("nothing in it was changed", &clean),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_lies_where_its_build_accepts_it() {
        let steps = source(Utf8Path::new("/state"));
        let place = steps[0].output.as_ref().unwrap();
        assert_eq!(place.file_name(), Some("executorch"));
        // Git makes the unfinished folder, and the rename gives it the name.
        assert_eq!(steps[0].argv.last().unwrap(), unfinished(place).as_str());
    }

    #[test]
    fn an_option_that_another_one_demands_is_there() {
        // ExecuTorch's tools/cmake/preset/default.cmake, `check_required_options_on`.
        for (option, demands) in [
            ("EXECUTORCH_ENABLE_EVENT_TRACER", "EXECUTORCH_BUILD_DEVTOOLS"),
            ("EXECUTORCH_BUILD_EXTENSION_FLAT_TENSOR", "EXECUTORCH_BUILD_EXTENSION_DATA_LOADER"),
            ("EXECUTORCH_BUILD_EXTENSION_MODULE", "EXECUTORCH_BUILD_EXTENSION_FLAT_TENSOR"),
            ("EXECUTORCH_BUILD_EXTENSION_MODULE", "EXECUTORCH_BUILD_EXTENSION_NAMED_DATA_MAP"),
        ] {
            let on = |name: &str| OPTIONS.contains(&format!("-D{name}=ON").as_str());
            assert!(!on(option) || on(demands), "{option} demands {demands}");
        }
    }

    #[test]
    fn an_old_cmake_is_told_from_a_new_one() {
        let said = "cmake version 3.25.1\n\nCMake suite maintained and supported by Kitware.\n";
        assert!(parse_cmake_version(said).unwrap() < CMAKE_MIN);
        assert!(parse_cmake_version("cmake version 4.0.3-dirty\n").unwrap() >= CMAKE_MIN);
        assert_eq!(parse_cmake_version("make 4"), None);
    }
}
