//! The gate. Every build of the app goes through it, and no byte of a model reaches the binary by another way.
//!
//! Ladder: which model → read the claim → read the `.pte` once → `model_assets::check::validate` → for a release, licence
//! and signature → write those very bytes (or, for a linked model, their digest) to `OUT_DIR`.
//!
//! **Invariant:** no network, no Python, no other process than the assembler. Every variable is registered for
//! rebuilds as it is read, every file before it is read. There is no variable that turns a check off.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::SystemTime,
};

use model_assets::{
    check::{self, Profile, Validated},
    claim::Claim,
    dir::{ClaimFiles, GateError, ModelDir},
    licence, provenance,
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
    gate(&dir, profile, &out).map_err(|error| format!("{error}\nhint: {}", error.hint()))?;
    #[cfg(feature = "gui")]
    compile_interface()?;
    Ok(())
}

/// The screens of the graphical front, into Rust. Names of elements are for the test alone.
#[cfg(feature = "gui")]
fn compile_interface() -> Result<(), String> {
    let config = slint_build::CompilerConfiguration::new()
        .with_style("fluent".to_owned())
        .with_debug_info(cfg!(feature = "gui-test"));
    slint_build::compile_with_config("ui/app.slint", config).map_err(|error| error.to_string())
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
    let (sha256, file_bytes, signature) = if embed {
        let mut buffer = Vec::new();
        let limit = claim.recipe.limits.file_bytes_max;
        pte.by_ref().take(limit + 1).read_to_end(&mut buffer).map_err(io)?;
        let validated = check::validate(buffer, &claim, profile)?;
        let (sha256, bytes) = (validated.sha256(), validated.file_bytes());
        let signature = release_rules(dir, &claim, &files, profile, &validated)?;
        tell(&validated);
        fs::write(out.join(PTE.1), validated.into_source()).map_err(emitted)?;
        (sha256, bytes, signature)
    } else {
        let validated = check::validate(pte, &claim, profile)?;
        let signature = release_rules(dir, &claim, &files, profile, &validated)?;
        tell(&validated);
        fs::write(out.join(PTE.1), []).map_err(emitted)?;
        (validated.sha256(), validated.file_bytes(), signature)
    };
    let texts = [
        files.recipe.as_bytes(),
        files.policy.as_bytes(),
        files.manifest.as_slice(),
        files.tokenizer.as_deref().unwrap_or_default(),
        files.chat_template.as_deref().unwrap_or_default().as_bytes(),
    ];
    for ((_, file), text) in TEXTS.iter().zip(texts) {
        fs::write(out.join(file), text).map_err(emitted)?;
    }
    let licence = licence_texts(dir, &claim, out).map_err(emitted)?;
    let [recipe, policy, manifest, tokenizer, template] = texts.map(|text| text.len() as u64);
    let lengths = [recipe, policy, manifest, tokenizer, template, if embed { file_bytes } else { 0 }];
    assemble(out, lengths).map_err(emitted)?;
    // A file that waits for its name has it by the time the app is run.
    let place = fs::canonicalize(dir.path()).map_err(emitted)?.join(&claim.manifest.file);
    let published = (profile == Profile::Dev && !embed).then(|| place.to_string_lossy().into_owned());
    let generated =
        generate(lengths, file_bytes, &sha256.to_string(), profile, published, &signature, &licence);
    fs::write(out.join("model.rs"), generated).map_err(emitted)
}

/// What may ship and is still worth a look.
fn tell<S>(validated: &Validated<S>) {
    validated.warnings().iter().for_each(|warning| println!("cargo::warning={warning}"));
}

/// What a release demands beside the proof of the bytes: the licence's files, and a signature by a key that `signers.toml`
/// accepts by this machine's clock. Returns what the app says of the signature; a dev build looks at none.
fn release_rules<S>(
    dir: &ModelDir,
    claim: &Claim,
    files: &ClaimFiles,
    profile: Profile,
    validated: &Validated<S>,
) -> Result<String, GateError> {
    let name = dir.name();
    let unsigned = || format!("unsigned: signers.toml names {name} as such");
    // Registered here and not with the inputs of every build: Cargo runs the script again and again for a file that is
    // missing, which a dev build may well lack.
    let watch = |path| println!("cargo::rerun-if-changed={path}");
    if profile != Profile::Release {
        return Ok(match dir.signers() {
            Ok(signers) if !signers.demands(name) => {
                watch(dir.signers_path());
                unsigned()
            }
            _ => "not looked at: this is a dev build".to_owned(),
        });
    }
    claim.recipe.licence.files().for_each(|name| watch(dir.path().join(name)));
    licence::check(dir, &claim.recipe)?;
    watch(dir.signers_path());
    let signers = dir.signers()?;
    if !signers.demands(name) {
        return Ok(unsigned());
    }
    watch(dir.signature_of(&files.manifest));
    let (signature, now) = (dir.signature(&files.manifest)?, SystemTime::now());
    let signed = check::signed_by(validated, claim, &files.manifest, &signers, signature.as_deref(), now)?;
    Ok(format!("signed by {}", signed.key))
}

/// Copies the licence's own texts, which go where the model goes, and returns their names in the order of the copies. A dev
/// build may lack them; for a release `licence::check` was there before.
fn licence_texts(dir: &ModelDir, claim: &Claim, out: &Path) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for name in claim.recipe.licence.files() {
        let Ok(text) = dir.licence_text(name) else { continue };
        println!("cargo::rerun-if-changed={}", dir.path().join(name));
        fs::write(out.join(format!("licence-{}.txt", names.len())), text)?;
        names.push(name.to_owned());
    }
    Ok(names)
}

/// Symbol and file of each text in the block, in the order of [`provenance::header`].
const TEXTS: [(&str, &str); 5] = [
    ("PROOFMARK_RECIPE", "recipe.toml"),
    ("PROOFMARK_POLICY", "policy.toml"),
    ("PROOFMARK_MANIFEST", "manifest.json"),
    ("PROOFMARK_TOKENIZER", "tokenizer.json"),
    ("PROOFMARK_CHAT_TEMPLATE", "chat_template.jinja"),
];
/// Symbol and file of the `.pte`.
const PTE: (&str, &str) = ("PROOFMARK_PTE", "model.pte");

/// The Rust side of the block: included by `src/model.rs`.
fn generate(
    lengths: [u64; 6],
    file_bytes: u64,
    sha256: &str,
    profile: Profile,
    published: Option<String>,
    signature: &str,
    licence: &[String],
) -> String {
    let symbols = TEXTS.iter().chain([&PTE]).zip(lengths);
    let mut code = "unsafe extern \"C\" {\n".to_owned();
    for ((symbol, _), length) in symbols.clone() {
        // `safe`: the symbol is the start of exactly this many read-only bytes.
        code += &format!("    safe static {symbol}: [u8; {length}];\n");
    }
    code += "}\n/// The model that this build proved.\npub(crate) static MODEL: Model = Model {\n";
    let fields = ["recipe", "policy", "manifest", "tokenizer", "chat_template", "pte"];
    for (((symbol, _), _), field) in symbols.zip(fields) {
        code += &format!("    {field}: &{symbol},\n");
    }
    code += "    licence_texts: &[\n";
    for (index, name) in licence.iter().enumerate() {
        code += &format!(
            "        ({name:?}, include_str!(concat!(env!(\"OUT_DIR\"), \"/licence-{index}.txt\"))),\n"
        );
    }
    code += "    ],\n";
    let profile = profile.as_str();
    code + &format!(
        "    file_bytes: {file_bytes},\n    sha256: \"{sha256}\",\n    proved_for: \"{profile}\",\n    \
         published: {published:?},\n    signature: {signature:?},\n}};\n"
    )
}

/// Puts the block into an object file: `include_bytes!` of a large model costs the compiler 17 times its size in
/// memory. The section has a name of its own in the finished binary, which no linker merges with others; that it is large
/// (`l`) keeps code and data within reach of each other on x86-64.
fn assemble(out: &Path, lengths: [u64; 6]) -> std::io::Result<()> {
    let target = |key: &str| std::env::var(format!("CARGO_CFG_TARGET_{key}")).unwrap_or_default();
    let (section, prefix) = match (target("VENDOR").as_str(), target("ARCH").as_str()) {
        ("apple", _) => (".section __DATA,__proofmark", "_"),
        (_, "x86_64") => (".section proofmark,\"al\",@progbits", ""),
        _ => (".section proofmark,\"a\",%progbits", ""),
    };
    let (header, _) = provenance::header(lengths);
    fs::write(out.join("header.bin"), header)?;
    let align = provenance::PTE_ALIGN_BYTES.trailing_zeros();
    let mut source =
        format!("{section}\n.p2align {align}\n.incbin \"{}\"\n", out.join("header.bin").display());
    for (symbol, file) in TEXTS {
        source += &format!(
            ".globl {prefix}{symbol}\n{prefix}{symbol}:\n.incbin \"{}\"\n",
            out.join(file).display()
        );
    }
    let (symbol, file) = PTE;
    source += &format!(".p2align {align}\n.globl {prefix}{symbol}\n{prefix}{symbol}:\n");
    source += &format!(".incbin \"{}\"\n.p2align {align}\n", out.join(file).display());
    if target("OS") == "linux" {
        source += ".section .note.GNU-stack,\"\",%progbits\n";
    }
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

fn watch(dir: &ModelDir, claim: Option<&Claim>) {
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
