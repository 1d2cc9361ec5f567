//! A forged manifest in a release build, and the commands as a person runs them: the real binary on a copy of the models.
//!
//! Needs `cargo xtask export` first, as `cargo xtask test` does; a missing model fails these tests.
#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, SystemTime},
};

use model_assets::{
    check::{Profile, validate},
    digest::Digest,
    dir::ModelDir,
    manifest::Manifest,
};

const PTE: &str = "tiny/tiny-int8-seq512.pte";

struct Models(tempfile::TempDir);

impl Models {
    /// The proven models, with a list of signers that excuses nobody.
    fn strict() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let from = root().join("model-assets/models");
        fs::create_dir_all(folder.path().join("repo/model-assets/models/tiny")).unwrap();
        let names = ["recipe.toml", "manifest.json", "tokenizer.json", "chat_template.jinja"];
        let names = names.map(|name| format!("tiny/{name}"));
        let more = ["policy.toml", PTE, "tiny/tiny-int8-seq512.reference"].map(str::to_owned);
        for name in names.iter().chain(&more) {
            fs::copy(from.join(name), folder.path().join("repo/model-assets/models").join(name)).unwrap();
        }
        fs::write(folder.path().join("repo/model-assets/models/signers.toml"), "schema = 1\n").unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join("repo/model-assets/models").join(name)
    }

    fn xtask(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.args(["--root", "repo"]).args(arguments).current_dir(self.0.path());
        command.env_remove("PROOFMARK_SIGNING_KEY").output().unwrap()
    }

    /// Makes a key and lets it sign.
    fn trust(&self, name: &str) -> String {
        let output = self.xtask(&["sign", "--new-key", name]);
        let text = said(&output);
        assert!(output.status.success(), "{text}");
        let entry = text.get(text.find("[[keys]]").unwrap()..).unwrap();
        let list = fs::read_to_string(self.path("signers.toml")).unwrap();
        fs::write(self.path("signers.toml"), format!("{list}{entry}")).unwrap();
        fs::read_to_string(self.0.path().join(name)).unwrap()
    }

    /// A release build of the app: whether it passed, and what it said.
    fn release(&self) -> (bool, String) {
        self.cargo(&["build", "--package", "app", "--release"])
    }

    /// What the built app says of its signature.
    fn signature(&self) -> String {
        let (_, text) =
            self.cargo(&["run", "--quiet", "--package", "app", "--release", "--", "--provenance"]);
        let line = text.lines().find(|line| line.contains("\"signature\": "));
        line.unwrap_or(&text).trim().to_owned()
    }

    fn cargo(&self, arguments: &[&str]) -> (bool, String) {
        let output = Command::new(env!("CARGO"))
            .args(arguments)
            .current_dir(root())
            .env("PROOFMARK_MODELS_DIR", self.path(""))
            // What the gate demands depends on the profile's name, not on how well its code is optimized.
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
            .env_remove("PROOFMARK_MODEL")
            .output()
            .unwrap();
        (output.status.success(), said(&output))
    }

    /// Other weights, with every digest put right and the honest model's evidence: all that can be forged without a key.
    fn forge(&self) {
        let dir = ModelDir::new(camino::Utf8PathBuf::from_path_buf(self.path("")).unwrap(), "tiny");
        let (claim, _) = dir.open().unwrap();
        let bytes = fs::read(self.path(PTE)).unwrap();
        let first = usize::try_from(claim.manifest.structure.program_bytes).unwrap();
        let forged = (first..bytes.len()).step_by(4096).find_map(|index| {
            let mut other = bytes.clone();
            other[index] ^= 1;
            let mut claim = claim.clone();
            forge_manifest(&mut claim.manifest, Digest::of(&other));
            validate(other.clone(), &claim, Profile::Release).is_ok().then_some((other, claim.manifest))
        });
        let (bytes, manifest) = forged.expect("a byte that only the digest guards");
        fs::write(self.path(PTE), bytes).unwrap();
        fs::write(self.path("tiny/manifest.json"), manifest.to_bytes()).unwrap();
    }
}

fn forge_manifest(manifest: &mut Manifest, sha256: Digest) {
    manifest.sha256 = sha256;
    let evidence = manifest.evidence.as_mut().unwrap();
    evidence.bound.pte = sha256;
    evidence.benchmark.as_mut().unwrap().pte_sha256 = sha256.to_string();
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn said(output: &Output) -> String {
    String::from_utf8([output.stdout.clone(), output.stderr.clone()].concat()).unwrap()
}

fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "expected `{part}` in:\n{text}");
    }
}

/// One test: builds share `target/`.
#[test]
fn a_forgery_fails_a_release_build_once_a_signature_is_demanded() {
    let models = Models::strict();
    let (passed, text) = models.release();
    assert!(!passed);
    contains(
        &text,
        &["signature-missing: model.sig", "signers.toml, which has none", "run: cargo xtask sign tiny"],
    );

    let secret = models.trust("release.pem");
    let output = models.xtask(&["sign", "--key", "release.pem"]);
    assert!(output.status.success(), "{}", said(&output));
    let (passed, text) = models.release();
    assert!(passed, "{text}");
    assert_eq!(models.signature(), "\"signature\": \"signed by release\",");
    let output = models.xtask(&["sign", "--check"]);
    assert!(output.status.success(), "{}", said(&output));
    contains(&said(&output), &["5 files signed by `release`"]);
    assert!(!said(&output).contains(secret.lines().nth(1).unwrap()));

    // Written in place and under an old time stamp, which Cargo does not see: a release runs the gate all the same.
    let (good, path) = (fs::read(models.path(PTE)).unwrap(), models.path(PTE));
    let mut other = good.clone();
    *other.last_mut().unwrap() ^= 1;
    for (bytes, passes) in [(&other, false), (&good, true)] {
        let mut file = fs::File::options().write(true).open(&path).unwrap();
        file.write_all(bytes).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
        let (passed, text) = models.release();
        assert_eq!(passed, passes, "{text}");
        assert!(passes || text.contains("sha256: manifest.json: got "), "{text}");
    }

    models.forge();
    let (passed, text) = models.release();
    assert!(!passed, "a re-hashed forgery passed");
    contains(
        &text,
        &["signature-digest: manifest.json: got ", "signature-digest: tiny-int8-seq512.pte: got ", "forgery"],
    );
    assert_eq!(models.xtask(&["sign", "--check"]).status.code(), Some(25));
    // With no list at all nothing is excused.
    let list = fs::read(models.path("signers.toml")).unwrap();
    fs::remove_file(models.path("signers.toml")).unwrap();
    let (passed, text) = models.release();
    assert!(!passed);
    contains(&text, &["signers.toml: no such file, expected the list of signers"]);
    // The gap that a signature closes: without the demand, every digest of the forgery fits.
    fs::write(models.path("signers.toml"), [b"unsigned = [\"tiny\"]\n", list.as_slice()].concat()).unwrap();
    let (passed, text) = models.release();
    assert!(passed, "{text}");
    assert_eq!(models.signature(), "\"signature\": \"unsigned: signers.toml names tiny as such\",");
    // A licence that is not this repository's own, without its text.
    fs::write(models.path("signers.toml"), list).unwrap();
    let recipe = fs::read_to_string(models.path("tiny/recipe.toml")).unwrap();
    fs::write(models.path("tiny/recipe.toml"), recipe.replace("\"Apache-2.0\"", "\"MIT License\"")).unwrap();
    let (claim_digest, path) = (recipe_digest(&models), models.path("tiny/manifest.json"));
    let mut manifest = Manifest::parse(&fs::read(&path).unwrap()).unwrap();
    manifest.bound.recipe = claim_digest;
    manifest.evidence.as_mut().unwrap().bound.bound.recipe = claim_digest;
    fs::write(path, manifest.to_bytes()).unwrap();
    let (passed, text) = models.release();
    assert!(!passed);
    contains(&text, &["licence-agreement: recipe.toml: got none", "`licence.agreement`"]);
}

fn recipe_digest(models: &Models) -> Digest {
    let recipe = fs::read_to_string(models.path("tiny/recipe.toml")).unwrap();
    model_assets::recipe::Recipe::parse(&recipe).unwrap().digest()
}

#[test]
fn a_key_comes_from_a_file_or_from_the_environment_and_is_never_shown() {
    let models = Models::strict();
    let secret = models.trust("release.pem");
    let secret_line = secret.lines().nth(1).unwrap();
    let output = models.xtask(&["sign"]);
    assert_eq!(output.status.code(), Some(1));
    contains(
        &said(&output),
        &["got neither --key nor PROOFMARK_SIGNING_KEY", "hint: run: cargo xtask sign tiny --key"],
    );
    let with_variable = |text: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command
            .args(["--root", "repo", "sign"])
            .current_dir(models.0.path())
            .env("PROOFMARK_SIGNING_KEY", text);
        command.output().unwrap()
    };
    let output = with_variable(&secret);
    assert!(output.status.success(), "{}", said(&output));
    assert!(
        !said(&output).contains("warning: /") && !said(&output).contains(secret_line),
        "{}",
        said(&output)
    );
    // A spoiled key is not shown either.
    let output = with_variable(&secret.replace("END PRIVATE", "END"));
    assert_eq!(output.status.code(), Some(1));
    assert!(!said(&output).contains(secret_line));
    contains(&said(&output), &["PROOFMARK_SIGNING_KEY: key: got no such text"]);
    // A key that the list does not know signs, with a warning.
    let output = models.xtask(&["sign", "--new-key", "other.pem"]);
    assert!(output.status.success(), "{}", said(&output));
    let output = models.xtask(&["sign", "--key", "other.pem"]);
    assert!(output.status.success(), "{}", said(&output));
    contains(&said(&output), &["does not accept this key today"]);
    let output = models.xtask(&["sign", "--check"]);
    assert_eq!(output.status.code(), Some(25));
    contains(
        &said(&output),
        &["signature-key: model.sig: got key ", "expected a signature by `release`", "hint: "],
    );
    // On the command line a key is a file's name, and nothing else is read.
    assert_eq!(models.xtask(&["sign", "--key", "a.pem", "--check"]).status.code(), Some(2));
}

#[test]
fn a_bill_of_materials_is_the_same_twice() {
    let models = Models::strict();
    let bill = |name: &str| {
        let output = models.xtask(&["sbom", "--out", name]);
        assert!(output.status.success(), "{}", said(&output));
        fs::read(models.0.path().join(name)).unwrap()
    };
    assert_eq!(bill("a.json"), bill("b.json"));
}
