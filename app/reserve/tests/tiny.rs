//! The reserve on the exported default model, beside the engine. Run by `cargo xtask test --reserve`.
#![expect(clippy::unwrap_used, reason = "a test ends at what it does not foresee")]

use std::process::Command;

use camino::{Utf8Path, Utf8PathBuf};
use engine::{
    Decoder, LoadOptions, Model, ModelBytes,
    chat::{ChatTemplate, Message, Role},
    generate::{Limits, generate},
    measure::parity::Comparison,
    sample::{Sampler, Settings},
    text::Tokenizer,
};
use model_assets::{
    dir::ModelDir,
    reserve::{RESERVE_RUNTIME, ReserveClaim},
};

fn models() -> Utf8PathBuf {
    Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../../model-assets/models")
}

fn gguf() -> (ReserveClaim, Utf8PathBuf, std::fs::File) {
    let dir = ModelDir::new(models(), "tiny");
    let claim = dir.reserve_claim().expect("run: cargo xtask export --runtime llamacpp");
    let (path, file) = dir.open_gguf(&claim.manifest).expect("run: cargo xtask export --runtime llamacpp");
    (claim, path, file)
}

/// llama.cpp starts once in a process, and tests run side by side: one test holds all that needs it.
#[test]
fn the_reserve_computes_what_the_engine_does() {
    let (claim, path, file) = gguf();
    let runtime = reserve::Runtime::start().unwrap();
    assert!(reserve::Runtime::start().is_err());
    let model = reserve::Model::load(&runtime, file, &path).unwrap();
    assert_eq!((model.window(), model.vocab()), (512, 1024));
    assert_eq!((model.bos(), model.eos()), (Some(0), Some(1)));
    let mut session = reserve::Session::new(&runtime, &model, 1).unwrap();
    feeding_is_checked_and_the_cache_is_what_was_fed(&mut session);
    greedy_replies_are_the_engine_s(&mut session, &claim);
    let quality = claim.manifest.evidence.as_ref().and_then(|evidence| evidence.quality.as_ref());
    assert!(quality.is_some(), "run: cargo xtask export --runtime llamacpp --force");
    a_file_that_is_no_gguf_is_an_error(&runtime);
}

fn feeding_is_checked_and_the_cache_is_what_was_fed(session: &mut reserve::Session<'_>) {
    assert!(matches!(session.prefill(&[]), Err(engine::Error::NoTokens)));
    assert!(matches!(session.decode(1024), Err(engine::Error::Token { token: 1024, .. })));
    assert!(matches!(session.prefill(&[7; 513]), Err(engine::Error::WindowFull { .. })));
    assert!(session.tokens().is_empty());
    let tokens: Vec<u32> = (10..310).collect();
    let whole = session.prefill(&tokens).unwrap().to_vec();
    assert_eq!(session.tokens(), tokens);
    // Forgetting the end and feeding it again gives the same, up to the shape of the batches.
    session.truncate(200);
    assert_eq!(session.remaining(), 312);
    let again = session.extend_to(&tokens).unwrap().to_vec();
    let kl = |other: &[f32]| {
        let mut comparison = Comparison::new();
        comparison.add(&whole, other);
        comparison.finish().mean_kl
    };
    // Measured: 1.1e-3 on these meaningless tokens. What one token of another history does is the scale for it.
    let other = session.extend_to(&[&tokens[..299], &[500]].concat()).unwrap().to_vec();
    assert!(kl(&again) < 0.01 && kl(&other) > 10.0 * kl(&again), "{} and {}", kl(&again), kl(&other));
    // The window can be filled to its last place.
    session.reset();
    session.prefill(&[7; 512]).unwrap();
    assert!(matches!(session.decode(7), Err(engine::Error::WindowFull { .. })));
    session.reset();
}

fn greedy_replies_are_the_engine_s(session: &mut reserve::Session<'_>, claim: &ReserveClaim) {
    let pte = ModelBytes::open(&models().join("tiny/tiny-int8-seq512.pte")).unwrap();
    let mut engine = engine::Session::new(Model::load(pte, &LoadOptions::default()).unwrap());
    let tokenizer = Tokenizer::from_bytes(claim.tokenizer.as_ref().unwrap(), 1024).unwrap();
    let template = ChatTemplate::new(claim.chat_template.as_ref().unwrap(), "<|begin|>", "<|end|>").unwrap();
    let limits = Limits { tokens_max: Some(32), stop: claim.recipe.tokens.eos.clone() };
    let says = ["Hello!", "I am sad today.", "I lost my job.", "Thank you, that helps.", "What can I do?"];
    let mut same = 0;
    for said in says {
        let prompt = template.render(&[Message::new(Role::User, said)], true).unwrap();
        let reply = |decoder: &mut dyn Decoder| {
            let mut sampler = Sampler::new(Settings::default()).unwrap();
            let on_piece = &mut |_: engine::generate::Piece<'_>| std::ops::ControlFlow::Continue(());
            generate(decoder, &tokenizer, &mut sampler, &prompt, &limits, on_piece).unwrap()
        };
        let (ours, theirs) = (reply(&mut engine), reply(session));
        let agree = ours.tokens.iter().zip(&theirs.tokens).take_while(|(a, b)| a == b).count();
        println!("{said}: {agree} of {} tokens; {:?} | {:?}", ours.tokens.len(), ours.text, theirs.text);
        same += usize::from(ours.tokens == theirs.tokens);
        assert!(!theirs.text.is_empty() && agree > 0, "{said}");
    }
    // Two quantizations of one model: where two words are equally good they may part.
    assert!(same * 2 > says.len(), "{same} of {} replies are the same", says.len());
}

fn a_file_that_is_no_gguf_is_an_error(runtime: &reserve::Runtime) {
    let path = models().join("tiny/tokenizer.json");
    let error = reserve::Model::load(runtime, std::fs::File::open(&path).unwrap(), &path).unwrap_err();
    assert!(error.to_string().contains("load the GGUF"), "{error}");
}

#[test]
fn the_chat_loads_what_was_proved_and_nothing_else() {
    let chat = |models: &Utf8Path| {
        let output = Command::new(env!("CARGO_BIN_EXE_reserve"))
            .args(["chat", "--models", models.as_str(), "tiny", "--prompt", "Hello!", "--max-tokens", "16"])
            .output()
            .unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.success(), text)
    };
    let (done, text) = chat(&models());
    assert!(done && text.trim().len() > 1, "{text}");
    // The same model with one bit of a weight changed.
    let folder = tempfile::tempdir().unwrap();
    let other = Utf8Path::from_path(folder.path()).unwrap();
    std::fs::create_dir(other.join("tiny")).unwrap();
    std::fs::copy(models().join("policy.toml"), other.join("policy.toml")).unwrap();
    let (claim, path, _) = gguf();
    for name in ["recipe.toml", "tokenizer.json", "chat_template.jinja", "reserve.json"] {
        std::fs::copy(models().join("tiny").join(name), other.join("tiny").join(name)).unwrap();
    }
    let mut bytes = std::fs::read(path).unwrap();
    let last = bytes.len() - 100;
    bytes[last] ^= 1;
    std::fs::write(other.join("tiny").join(&claim.manifest.file), bytes).unwrap();
    let (done, text) = chat(other);
    assert!(!done && text.contains("gguf-digest") && text.contains("--runtime llamacpp"), "{text}");
}

#[test]
fn the_runtime_is_the_one_that_is_locked() {
    let lock = include_str!("../../../Cargo.lock");
    let (name, version) = RESERVE_RUNTIME.split_once(' ').unwrap();
    assert!(lock.contains(&format!("name = \"{name}\"\nversion = \"{version}\"\n")), "{RESERVE_RUNTIME}");
}
