//! Where the engine's shared libraries are: link arguments of the engine crate do not reach a binary that depends on it.

fn main() {
    println!("cargo::rerun-if-env-changed=DEP_EXECUTORCH_RPATH");
    if let Ok(rpath) = std::env::var("DEP_EXECUTORCH_RPATH") {
        println!("cargo::rustc-link-arg-bins=-Wl,-rpath,{rpath}");
        println!("cargo::rustc-link-arg-tests=-Wl,-rpath,{rpath}");
    }
}
