//! Finds the ExecuTorch C++ SDK, compiles the shim against it and links the runtime: the five shared libraries of the
//! wheel, or, for a phone, the static ones of a build from source.
//!
//! The ladder, each rung a function: find the SDK → check its version → compile → copy the libraries → link.
//! A rung that fails says what was looked for and the command that repairs it.
//!
//! **Invariant:** every variable and file that decides the outcome is registered for rebuilds as it is
//! read, and nothing is written outside `OUT_DIR`; so an unchanged tree never re-runs this script.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The one version of the runtime that this crate is written for.
const RUNTIME_VERSION: &str = "1.5.1";

/// Link order matters to nobody here; `executorch` first because the others need it.
const LIBRARIES: [&str; 5] = [
    "executorch",
    "executorch_kernels_optimized",
    "executorch_kernels_quantized",
    "executorch_backend_xnnpack",
    "executorch_threadpool",
];

/// Static libraries of which nothing is named by anybody: operators and backends that register themselves.
const REGISTERING: [&str; 4] =
    ["executorch", "optimized_native_cpu_ops_lib", "quantized_ops_lib", "xnnpack_backend"];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("cargo::error={message}; run: cargo xtask setup");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let out = PathBuf::from(required("OUT_DIR")?);
    let sdk = find_sdk()?;
    check_version(&sdk)?;
    compile_shim(&sdk)?;
    if sdk.join("lib/libexecutorch.a").is_file() {
        return link_static(&sdk.join("lib"));
    }
    let lib_dir = copy_libraries(&sdk, &out)?;
    link(&out, &lib_dir)
}

/// A variable that Cargo always sets for build scripts.
fn required(name: &str) -> Result<String, String> {
    value(name)?.ok_or_else(|| format!("environment variable {name}: got nothing, expected Cargo to set it"))
}

/// A variable of ours: registered as it is read.
fn registered(name: &str) -> Result<Option<String>, String> {
    println!("cargo::rerun-if-env-changed={name}");
    value(name)
}

/// What a variable holds is printed in directives, which end with their line.
fn value(name: &str) -> Result<Option<String>, String> {
    let Ok(value) = env::var(name) else { return Ok(None) };
    if value.contains(char::is_control) {
        return Err(format!("environment variable {name}: got {value:?}, expected no control characters"));
    }
    Ok(Some(value).filter(|value| !value.is_empty()))
}

/// Reading a named pipe would wait for whoever writes to it, and a device may not end.
fn regular(path: &Path) -> io::Result<&Path> {
    if fs::metadata(path)?.is_file() {
        return Ok(path);
    }
    Err(io::Error::other("got no regular file"))
}

/// Reads a file that decides the build: registered as it is read.
fn registered_file(path: &Path) -> Result<String, String> {
    println!("cargo::rerun-if-changed={}", path.display());
    regular(path)
        .and_then(fs::read_to_string)
        .map_err(|e| format!("{}: {e}, expected a staged ExecuTorch SDK", path.display()))
}

fn find_sdk() -> Result<PathBuf, String> {
    if let Some(dir) = registered("EXECUTORCH_SDK_DIR")? {
        let dir = PathBuf::from(dir);
        return if dir.is_dir() {
            Ok(dir)
        } else {
            Err(format!(
                "EXECUTORCH_SDK_DIR={}: got no such folder, expected include/ and lib/ in it",
                dir.display()
            ))
        };
    }
    let target = required("TARGET")?;
    let manifest = PathBuf::from(required("CARGO_MANIFEST_DIR")?);
    let root =
        manifest.ancestors().nth(2).ok_or("engine lies outside a workspace, expected <root>/app/engine")?;
    let dir = root.join(".proofmark/sdk").join(format!("executorch-{RUNTIME_VERSION}-{target}"));
    if dir.is_dir() {
        return Ok(dir);
    }
    // The folder does not exist yet: watching it makes Cargo run this script again once it does.
    println!("cargo::rerun-if-changed={}", dir.display());
    Err(format!(
        "{}: got no such folder, expected the ExecuTorch {RUNTIME_VERSION} SDK for {target} \
         (or its place in EXECUTORCH_SDK_DIR)",
        dir.display()
    ))
}

/// The wheel names its version in the CMake package file, the source in a file of its own; the libraries do not.
fn check_version(sdk: &Path) -> Result<(), String> {
    let (source, wheel) =
        (sdk.join("version.txt"), sdk.join("lib/cmake/executorch/executorch-config-version.cmake"));
    let path = if source.is_file() { source } else { wheel };
    let text = registered_file(&path)?;
    let got = if path.ends_with("version.txt") {
        text.trim()
    } else {
        text.lines()
            .find_map(|line| line.trim().strip_prefix("set(PACKAGE_VERSION \"")?.strip_suffix("\")"))
            .unwrap_or("no PACKAGE_VERSION")
    };
    if got != RUNTIME_VERSION {
        return Err(format!("{}: got version {got}, expected {RUNTIME_VERSION}", path.display()));
    }
    println!("cargo::rustc-env=ENGINE_RUNTIME_VERSION={RUNTIME_VERSION}");
    Ok(())
}

/// Compiles the shim, the operators, and the attention inner loops once per instruction set.
fn compile_shim(sdk: &Path) -> Result<(), String> {
    for name in [
        "attention.cpp",
        "attention.h",
        "call.cpp",
        "call.h",
        "lanes.h",
        "llama_ops.cpp",
        "llama_ops.h",
        "probe.h",
        "profile.cpp",
        "profile.h",
        "shim.cpp",
        "shim.h",
        "tracer.h",
    ] {
        println!("cargo::rerun-if-changed=cpp/{name}");
    }
    let x86_64 = required("CARGO_CFG_TARGET_ARCH")? == "x86_64";

    let include = sdk.join("include");
    let mut shim = cc::Build::new();
    shim.cpp(true)
        .std("c++17")
        .opt_level(3)
        .files(["cpp/shim.cpp", "cpp/call.cpp", "cpp/llama_ops.cpp", "cpp/profile.cpp"])
        .define("C10_USING_CUSTOM_GENERATED_MACROS", None)
        .define("ET_EVENT_TRACER_ENABLED", None)
        .define("ET_USE_THREADPOOL", None)
        // The SDK's headers are not ours to warn about; our own files are.
        .flag(format!("-isystem{}", include.display()))
        .flag(format!("-isystem{}", include.join("executorch/runtime/core/portable_type/c10").display()));
    if x86_64 {
        shim.define("ENGINE_X86_64", None);
    }
    shim.try_compile("engine_shim").map_err(|e| format!("cpp/shim.cpp: {e}"))?;

    // After the shim: a linker reads archives in order, and the shim is what needs these.
    attention("portable", &[])?;
    if x86_64 {
        attention("avx2", &["-mavx2", "-mfma"])?;
        attention("avx512", &["-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mfma", "-mavx2"])?;
    }
    Ok(())
}

/// One object per instruction set. They share no inline function with any other object (attention.cpp
/// includes no C++ header), so no AVX-512 code can leak into a function that older CPUs run.
fn attention(variant: &str, flags: &[&str]) -> Result<(), String> {
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .opt_level(3)
        .file("cpp/attention.cpp")
        .define("ENGINE_ATTENTION", Some(format!("engine_attention_{variant}").as_str()))
        // Fused multiply-add where the target has it: ISO mode turns contraction off.
        .flag("-ffp-contract=fast")
        .flag("-fno-math-errno");
    for flag in flags {
        build.flag(flag);
    }
    build.try_compile(&format!("engine_attention_{variant}")).map_err(|e| format!("cpp/attention.cpp: {e}"))
}

/// Copies the libraries into `OUT_DIR/lib`: Cargo adds search paths under `target/` to the loader's path for
/// `cargo run` and `cargo test`, and a packager finds all five in one folder.
fn copy_libraries(sdk: &Path, out: &Path) -> Result<PathBuf, String> {
    let extension = if required("CARGO_CFG_TARGET_VENDOR")? == "apple" { "dylib" } else { "so" };
    let folder = out.join("lib");
    fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    for library in LIBRARIES {
        let name = format!("lib{library}.{extension}");
        let from = sdk.join("lib").join(&name);
        println!("cargo::rerun-if-changed={}", from.display());
        regular(&from)
            .and_then(|from| fs::copy(from, folder.join(&name)))
            .map_err(|e| format!("{}: {e}, expected a library of the ExecuTorch SDK", from.display()))?;
    }
    Ok(folder)
}

/// Links every static library of the SDK, whole: some only register themselves, and those that are named by others are named by
/// ones that come after them, which a linker that reads each archive once does not see. What nothing uses the linker drops.
fn link_static(lib_dir: &Path) -> Result<(), String> {
    println!("cargo::rustc-link-search=native={}", lib_dir.display());
    println!("cargo::rerun-if-changed={}", lib_dir.display());
    let wrong = |e: io::Error| format!("{}: {e}", lib_dir.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(lib_dir).map_err(wrong)? {
        let name = entry.map_err(wrong)?.file_name();
        let library = name.to_str().and_then(|name| name.strip_prefix("lib")?.strip_suffix(".a"));
        names.extend(library.map(str::to_owned));
    }
    names.sort();
    names.retain(|name| !is_double(name));
    for name in REGISTERING {
        if !names.iter().any(|library| library == name) {
            return Err(format!("{}: got no lib{name}.a, expected one", lib_dir.display()));
        }
    }
    for name in &names {
        println!("cargo::rustc-link-lib=static:+whole-archive={name}");
    }
    println!("cargo::metadata=version={RUNTIME_VERSION}");
    Ok(())
}

/// Libraries that hold what another one holds: their objects collide, and operators that register themselves twice end the
/// process at its start. (`optimized_native_cpu_ops_lib` registers what is in `optimized_kernels` and
/// `optimized_portable_kernels`: ExecuTorch's `configurations/CMakeLists.txt`; the last holds `kernels_util_all_deps`, too.)
fn is_double(library: &str) -> bool {
    let registers = library.ends_with("_ops_lib") && !REGISTERING.contains(&library);
    registers || ["extension_module_static", "kernels_util_all_deps", "portable_kernels"].contains(&library)
}

fn link(out: &Path, lib_dir: &Path) -> Result<(), String> {
    println!("cargo::rustc-link-search=native={}", lib_dir.display());
    for library in LIBRARIES {
        println!("cargo::rustc-link-lib=dylib={library}");
    }
    // Read by dependents as DEP_EXECUTORCH_LIB_DIR, DEP_EXECUTORCH_RPATH and DEP_EXECUTORCH_VERSION.
    println!("cargo::metadata=lib_dir={}", lib_dir.display());
    println!("cargo::metadata=version={RUNTIME_VERSION}");
    let rpath = rpath(out)?;
    println!("cargo::metadata=rpath={rpath}");
    println!("cargo::rustc-link-arg=-Wl,-rpath,{rpath}");
    Ok(())
}

/// `$ORIGIN/lib` for an installed binary; then, relative to `target/<profile>` and its `deps`, the copies
/// made above, so that a freshly built binary runs without Cargo. No path of the machine gets in.
fn rpath(out: &Path) -> Result<String, String> {
    let origin = if required("CARGO_CFG_TARGET_VENDOR")? == "apple" { "@loader_path" } else { "$ORIGIN" };
    let mut places = vec![format!("{origin}/lib")];
    // OUT_DIR is <target>/<profile>/build/engine-<hash>/out.
    let tail: Vec<_> = out.components().rev().take(3).filter_map(|c| c.as_os_str().to_str()).collect();
    if let ["out", package, "build"] = tail[..] {
        places.push(format!("{origin}/build/{package}/out/lib"));
        places.push(format!("{origin}/../build/{package}/out/lib"));
    }
    Ok(places.join(":"))
}
