//! Interoperation with the public `model_signing` tool, both ways, and what `sign --check` says about each lie.
//!
//! Needs `cargo xtask export` first, as `cargo xtask test` does; a missing model fails these tests.

use std::{fs, process::Command, time::Duration};

use model_assets::{digest::Digest, dir::pending_name, manifest::Manifest, signature::PrivateKey, signers};

use super::*;
use crate::pinned_venv;

const PTE: &str = "tiny-int8-seq512.pte";

/// A copy of the published model with its own key and list of signers.
struct Models {
    folder: tempfile::TempDir,
    dir: ModelDir,
    key: PrivateKey,
}

impl Models {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let models = Utf8PathBuf::from_path_buf(folder.path().join("models")).unwrap();
        let real = Workspace::find(None).unwrap().models();
        fs::create_dir_all(models.join("tiny")).unwrap();
        fs::copy(real.join("policy.toml"), models.join("policy.toml")).unwrap();
        for entry in real.join("tiny").read_dir_utf8().unwrap().flatten() {
            // What an export leaves while it runs is none of the model.
            if entry.file_type().unwrap().is_file() && entry.file_name() != SIGNATURE_FILE {
                fs::copy(entry.path(), models.join("tiny").join(entry.file_name())).unwrap();
            }
        }
        let it = Self { folder, dir: ModelDir::new(models, "tiny"), key: PrivateKey::generate().unwrap() };
        it.signers(&signers::entry("release", &it.key.public(), SystemTime::now()));
        it
    }

    fn signers(&self, entries: &str) {
        fs::write(self.dir.signers_path(), format!("schema = 1\n{entries}")).unwrap();
    }

    fn edit(&self, name: &str, edit: impl FnOnce(&mut Vec<u8>)) {
        let path = self.dir.path().join(name);
        let mut bytes = fs::read(&path).unwrap();
        edit(&mut bytes);
        fs::write(path, bytes).unwrap();
    }

    /// The private and the public key as files.
    fn key_files(&self) -> [Utf8PathBuf; 2] {
        let place = |name: &str| Utf8PathBuf::from_path_buf(self.folder.path().join(name)).unwrap();
        let (private, public) = (place("key.pem"), place("key.pub"));
        fs::write(&private, self.key.to_pem().unwrap().as_bytes()).unwrap();
        fs::write(&public, self.key.public().to_pem()).unwrap();
        [private, public]
    }

    fn sign(&self) {
        sign(&self.dir, &self.key).unwrap();
    }

    fn check(&self) -> Outcome {
        prove(&self.dir, SystemTime::now())
    }

    /// The check fails with the code of signatures, this rule and a hint.
    fn refused(&self, reason: &str) {
        refused(self.check(), reason);
    }

    /// Runs the public tool; whether it was content, and what it said.
    fn public_tool(&self, verb: &str, key: &[&str], more: &[&str]) -> (bool, String) {
        let mut command = Command::new(pinned_venv::interop().join("bin/model_signing"));
        command.args([
            verb,
            "key",
            self.dir.path().as_str(),
            "--signature",
            self.dir.signature_path().as_str(),
        ]);
        let output = command.args(key).args(more).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        // A tool that cannot be loaded must not pass for one that refuses.
        assert!(!text.contains("Traceback"), "{text}");
        (output.status.success(), text)
    }

    fn public_tool_verifies(&self) -> (bool, String) {
        let [_, public] = self.key_files();
        self.public_tool("verify", &["--public_key", public.as_str()], &[])
    }
}

fn refused(outcome: Outcome, reason: &str) {
    let Failure { code, error, hint } = outcome.expect_err("it should be refused");
    let text = format!("{error:#}");
    assert!(text.contains(reason), "expected `{reason}` in: {text}");
    assert!(!hint.unwrap_or_default().is_empty(), "{text}");
    assert_eq!(code, Exit::Signature, "{text}");
}

#[test]
fn the_public_tool_verifies_ours_and_finds_the_same_lies() {
    let models = Models::new();
    models.sign();
    let first = fs::read(models.dir.signature_path()).unwrap();
    models.check().unwrap();
    let (good, text) = models.public_tool_verifies();
    assert!(good, "{text}");
    models.sign();
    assert_eq!(fs::read(models.dir.signature_path()).unwrap(), first, "the same files, the same signature");

    let stranger = models.dir.path().join("stranger.bin");
    fs::write(&stranger, "x").unwrap();
    models.refused("signature-extra: stranger.bin: got a file that was not signed");
    assert!(!models.public_tool_verifies().0);
    fs::remove_file(stranger).unwrap();
    // What is passed over may change: the log of another export.
    models.edit("export_pte_log.txt", |bytes| bytes.push(b'x'));
    models.check().unwrap();
    assert!(models.public_tool_verifies().0);
    models.edit("tiny-int8-seq512.reference", |bytes| bytes.push(b'x'));
    models.refused("signature-digest: tiny-int8-seq512.reference: got ");
    assert!(!models.public_tool_verifies().0);
    fs::remove_file(models.dir.path().join("tiny-int8-seq512.reference")).unwrap();
    models.refused("signature-digest: tiny-int8-seq512.reference: got no such file");
    assert!(!models.public_tool_verifies().0);
}

#[test]
fn we_verify_what_the_public_tool_signs() {
    let models = Models::new();
    let [private, _] = models.key_files();
    let (good, text) = models.public_tool("sign", &["--private_key", private.as_str()], &[]);
    assert!(good, "{text}");
    models.check().unwrap();
    // It signs every file, so each of them counts.
    models.edit("recipe.toml", |bytes| bytes.extend(b"# another comment\n"));
    models.refused("signature-digest: recipe.toml: got ");
    let models = Models::new();
    let [private, _] = models.key_files();
    let hide = models.dir.path().join(PTE);
    let arguments = ["--ignore-paths", hide.as_str()];
    assert!(models.public_tool("sign", &["--private_key", private.as_str()], &arguments).0);
    assert!(models.public_tool_verifies().0, "the public tool passes over what was hidden");
    models.refused(&format!("signature-coverage: {PTE}: got a file that was not signed"));
    fs::write(models.folder.path().join("x"), "").unwrap();
    fs::remove_file(models.dir.signature_path()).unwrap();
    let ours = Models { key: PrivateKey::generate().unwrap(), ..Models::new() };
    let [private, _] = ours.key_files();
    assert!(ours.public_tool("sign", &["--private_key", private.as_str()], &[]).0);
    ours.refused("signature-key: model.sig: got key ");
}

#[test]
fn each_lie_has_its_own_error() {
    let models = Models::new();
    models.refused("signature-missing: model.sig: got no such file, expected a signature by `release`");
    models.sign();
    models.edit(SIGNATURE_FILE, |bytes| bytes.truncate(40));
    models.refused("signature-malformed: model.sig: got bundle: ");
    models.sign();
    let text = String::from_utf8(fs::read(models.dir.signature_path()).unwrap()).unwrap();
    let at = text.find("\"payload\":\"").unwrap() + 20;
    models.edit(SIGNATURE_FILE, |bytes| bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' });
    models.refused("signature-forged: model.sig: got a signature that does not fit");
    models.sign();
    let days = |days: u64| Duration::from_secs(days * 86_400);
    refused(
        prove(&models.dir, SystemTime::now() + days(400)),
        "signature-date: model.sig: got key `release`, valid from",
    );
    refused(
        prove(&models.dir, SystemTime::now() - days(2)),
        "signature-date: model.sig: got key `release`, valid from",
    );
    let entry = signers::entry("release", &models.key.public(), SystemTime::now());
    models.signers(&format!("{entry}revoked = \"laptop lost\"\n"));
    models.refused("signature-revoked: model.sig: got key `release`, revoked: laptop lost");
    models.signers("");
    models.refused("expected a key for `tiny` in signers.toml, which has none");
    // Two keys while one is handed over to the other.
    let new = signers::entry("new", &PrivateKey::generate().unwrap().public(), SystemTime::now());
    models.signers(&format!("{new}{entry}"));
    models.check().unwrap();
    // The manifest is what everything else hangs on.
    models.edit("manifest.json", |bytes| {
        let mut manifest = Manifest::parse(bytes).unwrap();
        manifest.published = "2027-01-01T00:00:00Z".to_owned();
        *bytes = manifest.to_bytes();
    });
    models.refused("signature-digest: manifest.json: got ");
}

#[test]
fn a_rehearsal_and_a_directory_with_links_are_not_signed() {
    let models = Models::new();
    std::os::unix::fs::symlink("/etc/passwd", models.dir.path().join("link")).unwrap();
    let failure = sign(&models.dir, &models.key).unwrap_err();
    assert!(format!("{:#}", failure.error).contains("got a link or a special file"), "{:#}", failure.error);
    assert!(!models.dir.signature_path().exists());
}

#[test]
fn keys_are_made_once_are_private_and_stay_out_of_the_repository() {
    use std::os::unix::fs::PermissionsExt as _;
    let workspace = Workspace::find(None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = Utf8PathBuf::from_path_buf(folder.path().join("release.pem")).unwrap();
    key::make(&workspace, &path).unwrap();
    let pem = fs::read_to_string(&path).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let read = key::read(Some(&path), "tiny").unwrap();
    assert_eq!(read.public().to_pem(), fs::read_to_string(path.with_extension("pub")).unwrap());
    // Never over a key that is there.
    assert!(key::make(&workspace, &path).is_err());
    fs::remove_file(path.with_extension("pub")).unwrap();
    assert!(key::make(&workspace, &path).is_err());
    assert_eq!(fs::read_to_string(&path).unwrap(), pem);
    for inside in ["key.pem", "model-assets/models/tiny/key.pem", "xtask/../key.pem"] {
        let inside = workspace.root().join(inside);
        let failure = key::make(&workspace, &inside).unwrap_err();
        assert!(format!("{:#}", failure.error).contains("expected one outside of it"));
        assert!(!inside.exists());
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let failure = key::read(Some(&path), "tiny").unwrap_err();
    assert!(format!("{:#}", failure.error).contains("got mode 644"), "{:#}", failure.error);
}

#[test]
fn a_bundle_takes_the_signature_along() {
    let (from, to) = (Models::new(), Models::new());
    from.sign();
    let recipe = from.dir.recipe().unwrap();
    let model = Published::read(from.dir.clone()).unwrap();
    let claim = &model.claim;
    let companions = companions(&from.dir, &recipe, &model.files.manifest);
    let names: Vec<_> = companions.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, [SIGNATURE_FILE]);
    let proof = model.prove().unwrap();
    let proved = proof.judge(claim, Profile::Dev).unwrap();
    let bring = |to: &Models| brought(&to.dir, &from.dir.path(), claim, &proved);
    let signature = fs::read(from.dir.signature_path()).unwrap();
    // A key that the other side does not know is its release's business.
    assert_eq!(bring(&to).unwrap().as_ref(), Some(&signature));
    let lie = |bytes: &[u8], reason: &str| {
        fs::write(from.dir.signature_path(), bytes).unwrap();
        refused(bring(&from).map(drop), reason);
    };
    lie(b"{}", "signature-malformed: model.sig: got bundle: ");
    let mut statement = Signature::parse(&signature).unwrap().verify(&from.key.public()).unwrap();
    statement.resources.retain(|resource| resource.name != PTE);
    lie(&from.key.sign(&statement).unwrap(), "signature-coverage: tiny-int8-seq512.pte: got ");
    fs::remove_file(from.dir.signature_path()).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", from.dir.signature_path()).unwrap();
    assert!(bring(&to).is_err());
}

/// A kill inside `sign` leaves a temporary beside the old pair; one behind the commit point of a publish leaves the new
/// signature waiting for its name.
#[test]
fn what_a_killed_command_left_is_put_right_by_the_next() {
    let models = Models::new();
    models.sign();
    let (_, texts) = models.dir.open().unwrap();
    let waiting = pending_name(SIGNATURE_FILE, Digest::of(&texts.manifest));
    let place = |name: &str| models.dir.path().join(name);
    fs::rename(models.dir.signature_path(), place(&waiting)).unwrap();
    fs::write(models.dir.signature_path(), "the old model's").unwrap();
    // It counts where it waits.
    let signature = models.dir.signature(&texts.manifest).unwrap().unwrap();
    assert_eq!(signature, fs::read(place(&waiting)).unwrap());
    let left = [
        ".model.sig.new",
        ".manifest.json.new",
        "model.sig.0123456789abcdef",
        ".eq-transcript.json.0123456789abcdef.new",
    ];
    left.iter().for_each(|name| fs::write(place(name), "half").unwrap());
    models.refused("signature-extra: .model.sig.new: got a file that was not signed");
    let found = export::settle(&models.dir).unwrap();
    assert!(
        left.iter().chain([&waiting.as_str()]).all(|name| found.iter().any(|it| it == name)),
        "{found:?}"
    );
    assert!(!left.iter().any(|name| place(name).exists()) && !place(&waiting).exists());
    assert_eq!(fs::read(models.dir.signature_path()).unwrap(), signature);
    models.check().unwrap();
    assert!(models.public_tool_verifies().0);
    assert!(export::settle(&models.dir).unwrap().is_empty());
}
