//! The gate. Every build of the app goes through it, and no byte of a model reaches the binary by another way.
//!
//! Ladder: which model → read the claim → read the `.pte` once → `model_assets::check::validate` → write those very
//! bytes (or, for a linked model, their digest) to `OUT_DIR`.
//!
//! **Invariant:** no network, no Python, no other process than the assembler. Every variable is registered for
//! rebuilds as it is read, every file before it is read. There is no variable that turns a check off.

use std::{
    fmt::Write as _,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use model_assets::{
    check::{self, Profile},
    dir::{GateError, ModelDir},
    recipe::Delivery,
};

const MODEL_DEFAULT: &str = "tiny";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            for line in message.lines() {
                println!("cargo::error={line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let out = PathBuf::from(required("OUT_DIR")?);
    let profile = match required("PROFILE")?.as_str() {
        "release" => Profile::Release,
        _ => Profile::Dev,
    };
    let models = match registered("PROOFMARK_MODELS_DIR") {
        Some(models) => {
            println!("cargo::warning=models and policy are taken from PROOFMARK_MODELS_DIR={models}");
            models
        }
        None => format!("{}/../model-assets/models", required("CARGO_MANIFEST_DIR")?),
    };
    let name = registered("PROOFMARK_MODEL").unwrap_or_else(|| MODEL_DEFAULT.to_owned());
    let dir = ModelDir::new(models, name);
    link_runtime();
    gate(&dir, profile, &out).map_err(|error| format!("{error}\nhint: {}", error.hint()))
}

fn gate(dir: &ModelDir, profile: Profile, out: &Path) -> Result<(), GateError> {
    // Registered before they are read: a file that is missing now must wake the script when it appears.
    watch(dir, None);
    let (claim, files) = dir.claim()?;
    watch(dir, Some(&claim));
    let (path, mut pte) = dir.open_pte(&claim.manifest)?;
    let io = |error| GateError::Io { path: path.clone(), error };
    let emitted = |error| GateError::Io { path: out.to_string_lossy().into_owned().into(), error };

    let embed = claim.delivery(claim.manifest.file_bytes) == Delivery::Embed;
    let (sha256, bytes) = if embed {
        let mut buffer = Vec::new();
        let limit = claim.recipe.limits.file_bytes_max;
        pte.by_ref().take(limit + 1).read_to_end(&mut buffer).map_err(io)?;
        let validated = check::validate(buffer, &claim, profile)?;
        let (sha256, bytes) = (validated.sha256(), validated.file_bytes());
        fs::write(out.join("model.pte"), validated.into_source()).map_err(emitted)?;
        assemble(out).map_err(emitted)?;
        (sha256, bytes)
    } else {
        let validated = check::validate(pte, &claim, profile)?;
        (validated.sha256(), validated.file_bytes())
    };

    for (name, text) in [
        ("recipe.toml", files.recipe.as_bytes()),
        ("policy.toml", files.policy.as_bytes()),
        ("manifest.json", files.manifest.as_slice()),
        ("tokenizer.json", files.tokenizer.as_deref().unwrap_or_default()),
        ("chat_template.jinja", files.chat_template.as_deref().unwrap_or_default().as_bytes()),
    ] {
        fs::write(out.join(name), text).map_err(emitted)?;
    }
    let generated = generate(embed, bytes, &sha256.to_string(), profile, files.tokenizer.is_some());
    fs::write(out.join("model.rs"), generated).map_err(emitted)
}

/// The Rust side of what was proved: included by `src/model.rs`.
fn generate(embed: bool, bytes: u64, sha256: &str, profile: Profile, tokenizer: bool) -> String {
    let mut code = String::new();
    let mut line = |text: String| writeln!(code, "{text}").unwrap_or_default();
    if embed {
        line("unsafe extern \"C\" {".to_owned());
        line("    // SAFETY: the symbol is the start of exactly this many read-only bytes; see the build script.".to_owned());
        line(format!("    safe static PROOFMARK_MODEL_PTE: [u8; {bytes}];"));
        line("}".to_owned());
    }
    let embedded = if embed { "Some(&PROOFMARK_MODEL_PTE)" } else { "None" };
    let (tokenizer, template) = if tokenizer {
        (file("tokenizer.json", "bytes"), file("chat_template.jinja", "str"))
    } else {
        ("None".to_owned(), "None".to_owned())
    };
    line("/// The model that this build proved.".to_owned());
    line("pub(crate) static MODEL: Model = Model {".to_owned());
    line(format!("    embedded: {embedded},"));
    line(format!("    file_bytes: {bytes},"));
    line(format!("    sha256: \"{sha256}\","));
    line(format!("    proved_for: \"{}\",", profile.as_str()));
    line("    recipe: include_str!(concat!(env!(\"OUT_DIR\"), \"/recipe.toml\")),".to_owned());
    line("    policy: include_str!(concat!(env!(\"OUT_DIR\"), \"/policy.toml\")),".to_owned());
    line("    manifest: include_bytes!(concat!(env!(\"OUT_DIR\"), \"/manifest.json\")),".to_owned());
    line(format!("    tokenizer: {tokenizer},"));
    line(format!("    chat_template: {template},"));
    line("};".to_owned());
    code
}

fn file(name: &str, kind: &str) -> String {
    format!("Some(include_{kind}!(concat!(env!(\"OUT_DIR\"), \"/{name}\")))")
}

/// Puts the proved bytes into an object file: `include_bytes!` of a large model costs the compiler 17 times its size
/// in memory. Large-model sections (`.lrodata`) keep code and data within reach of each other on x86-64.
fn assemble(out: &Path) -> std::io::Result<()> {
    let target = |key: &str| std::env::var(format!("CARGO_CFG_TARGET_{key}")).unwrap_or_default();
    let (section, symbol) = match (target("VENDOR").as_str(), target("ARCH").as_str()) {
        ("apple", _) => (".section __DATA,__const", "_PROOFMARK_MODEL_PTE"),
        (_, "x86_64") => (".section .lrodata.proofmark,\"al\",@progbits", "PROOFMARK_MODEL_PTE"),
        _ => (".section .rodata.proofmark,\"a\",%progbits", "PROOFMARK_MODEL_PTE"),
    };
    let note = if target("OS") == "linux" { ".section .note.GNU-stack,\"\",%progbits\n" } else { "" };
    let pte = out.join("model.pte");
    // 16 KiB pages: the runtime needs 16-byte alignment, and releasing pages needs whole ones.
    let source = format!(
        "{section}\n.globl {symbol}\n.p2align 14\n{symbol}:\n.incbin \"{}\"\n.p2align 14\n{note}",
        pte.display()
    );
    let path = out.join("model.S");
    fs::write(&path, source)?;
    cc::Build::new()
        .file(&path)
        .cargo_warnings(true)
        .try_compile("proofmark_model")
        .map_err(std::io::Error::other)
}

/// Link arguments of the engine crate do not reach a binary that depends on it: its metadata does.
fn link_runtime() {
    let Some(rpath) = registered("DEP_EXECUTORCH_RPATH") else { return };
    println!("cargo::rustc-link-arg-bins=-Wl,-rpath,{rpath}");
}

fn watch(dir: &ModelDir, claim: Option<&model_assets::claim::Claim>) {
    let recipe = dir.recipe().ok();
    for path in dir.inputs(recipe.as_ref(), claim.map(|claim| &claim.manifest)) {
        println!("cargo::rerun-if-changed={path}");
    }
}

/// A variable that Cargo always sets for build scripts.
fn required(name: &str) -> Result<String, String> {
    std::env::var(name)
        .map_err(|_| format!("environment variable {name}: got nothing, expected Cargo to set it"))
}

/// A variable of ours: registered as it is read.
fn registered(name: &str) -> Option<String> {
    println!("cargo::rerun-if-env-changed={name}");
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
