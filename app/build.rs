//! The gate. Every build of the app goes through it, and no byte of a model reaches the binary by another way.
//!
//! Ladder: which model → read the claim → read the `.pte` once → `model_assets::check::validate` → for a release, licence
//! and signature → write those very bytes (or, for a linked model, their digest) to `OUT_DIR`.
//!
//! **Invariant:** no network, no Python, no other process than the assembler. Every variable is registered for
//! rebuilds as it is read, every file before it is read. There is no variable that turns a check off. Files are regular
//! ones, so that nothing here waits for anybody, and no variable can end the line of a directive.
//!
//! Cargo decides by time stamps whether this runs. A release build does not believe them: there the gate runs in every build.
//! In a dev build it runs when an input or the model's folder is newer than its last run; what is missed is no unproved
//! byte but a model that stays the one that was proved before.

use std::{
    fs, io,
    io::Read as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::SystemTime,
};

use model_assets::{
    check::{self, Profile, Validated},
    claim::Claim,
    digest::Digest,
    dir::{ClaimFiles, GateError, ModelDir},
    licence, provenance,
    recipe::Delivery,
    regular,
};

const MODEL_DEFAULT: &str = "tiny";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            for line in message.lines() {
                println!("cargo::error={}", one_line(line));
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
    let models = match registered("PROOFMARK_MODELS_DIR")? {
        Some(models) => {
            println!("cargo::warning=models and policy are taken from PROOFMARK_MODELS_DIR={models}");
            models
        }
        None => format!("{}/../model-assets/models", required("CARGO_MANIFEST_DIR")?),
    };
    let name = registered("PROOFMARK_MODEL")?.unwrap_or_else(|| MODEL_DEFAULT.to_owned());
    // Called before each read: a file that is missing now wakes the script when it appears.
    let dir = ModelDir::new(models, name).watched_by(|path| println!("cargo::rerun-if-changed={path}"));
    link_runtime()?;
    if profile == Profile::Release {
        // A file that is never there: Cargo runs the script again for it, whatever the time stamps of the others say.
        println!("cargo::rerun-if-changed={}", out.join("run-in-every-release-build").display());
    }
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
    let (claim, files) = dir.open()?;
    let (path, mut pte) = dir.open_pte(&claim.manifest)?;
    let io = |error| GateError::Io { path: path.clone(), error };
    let emitted = |error| GateError::Io { path: out.to_string_lossy().into_owned().into(), error };

    let embed = claim.delivery(claim.manifest.file_bytes) == Delivery::Embed;
    let found = if embed {
        let mut buffer = Vec::new();
        let limit = claim.recipe.limits.file_bytes_max;
        pte.by_ref().take(limit + 1).read_to_end(&mut buffer).map_err(io)?;
        let validated = check::validate(buffer, &claim, profile)?;
        let found = Found::of(&validated, release_rules(dir, &claim, &files, profile, &validated)?);
        warn(&validated);
        fs::write(out.join(PTE.1), validated.into_source()).map_err(emitted)?;
        found
    } else {
        let before = regular::stamp(&pte).map_err(io)?;
        let validated = check::validate(pte, &claim, profile)?;
        let found = Found::of(&validated, release_rules(dir, &claim, &files, profile, &validated)?);
        if regular::stamp(validated.source()).map_err(io)? != before {
            return Err(io(io::Error::other("got a file that changes, expected one that nobody writes to")));
        }
        warn(&validated);
        fs::write(out.join(PTE.1), []).map_err(emitted)?;
        found
    };
    let texts = [
        files.recipe.as_bytes(),
        files.policy.as_bytes(),
        files.manifest.as_slice(),
        claim.tokenizer.as_deref().unwrap_or_default(),
        claim.chat_template.as_deref().unwrap_or_default().as_bytes(),
    ];
    for ((_, file), text) in TEXTS.iter().zip(texts) {
        fs::write(out.join(file), text).map_err(emitted)?;
    }
    let licence = licence_texts(dir, &claim, out).map_err(emitted)?;
    let named = licence.iter().flat_map(|(name, text)| [name.as_bytes(), text.as_bytes()]);
    let texts_sha256 = Digest::of_parts(texts.into_iter().chain(named));
    let [recipe, policy, manifest, tokenizer, template] = texts.map(|text| text.len() as u64);
    let lengths = [recipe, policy, manifest, tokenizer, template, if embed { found.file_bytes } else { 0 }];
    assemble(out, lengths).map_err(emitted)?;
    // A file that waits for its name has it by the time the app is run.
    let place = fs::canonicalize(dir.path()).map_err(emitted)?.join(&claim.manifest.file);
    let published = (profile == Profile::Dev && !embed).then(|| place.to_string_lossy().into_owned());
    let generated = generate(lengths, &found, texts_sha256, profile, published, &licence);
    fs::write(out.join("model.rs"), generated).map_err(emitted)
}

/// What the gate found of the model that it let through.
struct Found {
    sha256: Digest,
    file_bytes: u64,
    /// How many checks it passed.
    checks: usize,
    signature: String,
}

impl Found {
    fn of<S>(validated: &Validated<S>, signature: String) -> Self {
        let (sha256, file_bytes) = (validated.sha256(), validated.file_bytes());
        Self { sha256, file_bytes, checks: validated.checks().len(), signature }
    }
}

/// What may ship and is still worth a look.
fn warn<S>(validated: &Validated<S>) {
    validated.warnings().iter().for_each(|it| println!("cargo::warning={}", one_line(&it.to_string())));
}

/// What a file says may hold anything; a directive ends with its line.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
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
    if profile != Profile::Release {
        // Cargo runs the script again and again for a file that is missing, which this one may be in a dev build.
        let there = dir.signers_path().is_file();
        return Ok(match there.then(|| dir.signers()) {
            Some(Ok(signers)) if !signers.demands(name) => unsigned(),
            _ => "not looked at: this is a dev build".to_owned(),
        });
    }
    licence::check(dir, &claim.recipe)?;
    let signers = dir.signers()?;
    if !signers.demands(name) {
        return Ok(unsigned());
    }
    let (signature, now) = (dir.signature(&files.manifest)?, SystemTime::now());
    let signed = check::signed_by(validated, claim, &files.manifest, &signers, signature.as_deref(), now)?;
    Ok(format!("signed by {}", signed.key))
}

/// Copies the licence's own texts, which go where the model goes, and returns their names and texts in the order of the
/// copies. A dev build may lack them; for a release `licence::check` was there before.
fn licence_texts(dir: &ModelDir, claim: &Claim, out: &Path) -> io::Result<Vec<(String, String)>> {
    let mut texts = Vec::new();
    for name in claim.recipe.licence.files() {
        if !dir.path().join(name).is_file() {
            continue;
        }
        let Ok(text) = dir.licence_text(name) else { continue };
        fs::write(out.join(format!("licence-{}.txt", texts.len())), &text)?;
        texts.push((name.to_owned(), text));
    }
    Ok(texts)
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
    found: &Found,
    texts_sha256: Digest,
    profile: Profile,
    published: Option<String>,
    licence: &[(String, String)],
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
    for (index, (name, _)) in licence.iter().enumerate() {
        code += &format!(
            "        ({name:?}, include_str!(concat!(env!(\"OUT_DIR\"), \"/licence-{index}.txt\"))),\n"
        );
    }
    code += "    ],\n";
    let (profile, Found { sha256, file_bytes, checks, signature }) = (profile.as_str(), found);
    code + &format!(
        "    file_bytes: {file_bytes},\n    sha256: \"{sha256}\",\n    texts_sha256: \"{texts_sha256}\",\n    \
         checks: {checks},\n    proved_for: \"{profile}\",\n    published: {published:?},\n    \
         signature: {signature:?},\n}};\n"
    )
}

/// Puts the block into an object file: `include_bytes!` of a large model costs the compiler 17 times its size in
/// memory. The section has a name of its own in the finished binary, which no linker merges with others; that it is large
/// (`l`) keeps code and data within reach of each other on x86-64.
fn assemble(out: &Path, lengths: [u64; 6]) -> io::Result<()> {
    let target = |key: &str| std::env::var(format!("CARGO_CFG_TARGET_{key}")).unwrap_or_default();
    let (section, prefix) = match (target("VENDOR").as_str(), target("ARCH").as_str()) {
        ("apple", _) => (".section __DATA,__proofmark", "_"),
        (_, "x86_64") => (".section proofmark,\"al\",@progbits", ""),
        _ => (".section proofmark,\"a\",%progbits", ""),
    };
    let (header, _) = provenance::header(lengths);
    fs::write(out.join("header.bin"), header)?;
    let align = provenance::PTE_ALIGN_BYTES.trailing_zeros();
    let bytes_of = |file: &str| format!(".incbin {}\n", quoted(&out.join(file)));
    let mut source = format!("{section}\n.p2align {align}\n{}", bytes_of("header.bin"));
    for (symbol, file) in TEXTS {
        source += &format!(".globl {prefix}{symbol}\n{prefix}{symbol}:\n{}", bytes_of(file));
    }
    let (symbol, file) = PTE;
    source += &format!(".p2align {align}\n.globl {prefix}{symbol}\n{prefix}{symbol}:\n{}", bytes_of(file));
    source += &format!(".p2align {align}\n");
    if target("OS") == "linux" {
        source += ".section .note.GNU-stack,\"\",%progbits\n";
    }
    let path = out.join("model.S");
    fs::write(&path, source)?;
    cc::Build::new().file(&path).cargo_warnings(true).try_compile("proofmark_model").map_err(io::Error::other)
}

/// A path as an assembler's string.
fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display().to_string().replace('\\', "\\\\").replace('"', "\\\""))
}

/// Link arguments of the engine crate do not reach a binary that depends on it: its metadata does.
fn link_runtime() -> Result<(), String> {
    if let Some(rpath) = registered("DEP_EXECUTORCH_RPATH")? {
        println!("cargo::rustc-link-arg-bins=-Wl,-rpath,{rpath}");
    }
    Ok(())
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

/// The one way in for variables: what they hold is printed in directives, which end with their line.
fn value(name: &str) -> Result<Option<String>, String> {
    let Some(value) = std::env::var_os(name).filter(|value| !value.is_empty()) else { return Ok(None) };
    match value.into_string() {
        Ok(value) if !value.contains(char::is_control) => Ok(Some(value)),
        Ok(value) => {
            Err(format!("environment variable {name}: got {value:?}, expected no control characters"))
        }
        Err(value) => Err(format!("environment variable {name}: got {value:?}, expected UTF-8")),
    }
}
