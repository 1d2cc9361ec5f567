//! What a build holds: the proven bytes, whatever time stamps say, and a linked model that is proved again when it is loaded.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use object::{Object as _, ObjectSection as _};

use crate::models::{BUILDING, Models, PTE, flip, root};

/// A swap that no time stamp shows: cargo does not run the gate again, and the binary must hold the proven bytes.
#[test]
fn an_older_mtime_swap_after_a_clean_build() {
    let _one = BUILDING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let models = Models::proven();
    let proven = models.manifest().sha256.to_string();
    let built = models.build(&[]);
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));

    models.edit(&format!("tiny/{PTE}"), |bytes| {
        let index = bytes.len() - 1000;
        flip(bytes, index)
    });
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let file = fs::File::options().write(true).open(models.path("tiny").join(PTE)).unwrap();
    file.set_modified(long_ago).unwrap();
    let main = root().join("app/src/model.rs");
    fs::File::options().append(true).open(main).unwrap().set_modified(SystemTime::now()).unwrap();

    let app = models.built_app();
    let output = Command::new(&app).arg("--provenance").output().unwrap();
    let provenance: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(provenance["embedded_sha256"], proven.as_str());
    assert_eq!(provenance["intact"], true);
    inspected(&app, &proven);
    altered(&app);

    // Put in its place by a rename, as most tools do, it brings an old time stamp along; the folder has a new one.
    let (path, other) = (models.path("tiny").join(PTE), models.path("other"));
    fs::rename(&path, &other).unwrap();
    fs::rename(&other, &path).unwrap();
    let output = models.build(&[]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("sha256: manifest.json: got "), "{text}");
}

/// A binary whose block is another one than its code was built with: as when the one of two files in the build's cache is
/// changed. It says so and runs nothing.
fn altered(app: &str) {
    let bytes = fs::read(app).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    let section = file.section_by_name("proofmark").or_else(|| file.section_by_name("__proofmark"));
    let block = usize::try_from(section.unwrap().file_range().unwrap().0).unwrap();
    // Beside the app, where its libraries are found.
    let beside = PathBuf::from(format!("{app}-altered"));
    for (index, part) in [(block + 200, "texts"), (block + 1_500_000, "model")] {
        fs::copy(app, &beside).unwrap();
        fs::write(&beside, flip(bytes.clone(), index)).unwrap();
        let expected = format!("the app itself was altered: {part}: got sha256 ");
        for arguments in [&["--prompt", "hello"][..], &["--provenance"]] {
            let output = Command::new(&beside).args(arguments).output().unwrap();
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
            assert!(text.contains(&expected), "{arguments:?}: {text}");
        }
    }
    fs::remove_file(beside).unwrap();
}

#[test]
fn a_build_with_nothing_changed_does_not_hash_again() {
    let _one = BUILDING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let models = Models::proven();
    assert!(models.build(&[]).status.success());
    let again = models.build(&["--verbose"]);
    let text = String::from_utf8_lossy(&again.stderr);
    assert!(text.lines().any(|line| line.trim_start().starts_with("Fresh app v")), "{text}");
}

/// Anyone can ask of the binary what is inside; a changed byte is found.
fn inspected(app: &str, proven: &str) {
    let inspect = |path: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.args(["inspect", "--json"]).arg(path).output().unwrap()
    };
    let output = inspect(Path::new(app));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["models"].as_array().unwrap().len(), 1);
    assert_eq!(report["models"][0]["manifest"]["sha256"], proven);
    assert_eq!(report["models"][0]["proved_for_release"], true);

    let bytes = fs::read(app).unwrap();
    let block = usize::try_from(report["models"][0]["offset"].as_u64().unwrap()).unwrap();
    // A section of that name is where any other tool finds it.
    let file = object::File::parse(&*bytes).unwrap();
    let section = file.section_by_name("proofmark").or_else(|| file.section_by_name("__proofmark"));
    assert_eq!(section.unwrap().file_range().unwrap().0, block as u64);

    let folder = tempfile::tempdir().unwrap();
    let tampered = folder.path().join("app");
    // Past the texts and the program: a weight.
    fs::write(&tampered, flip(bytes, block + 1_500_000)).unwrap();
    let output = inspect(&tampered);
    assert_eq!(output.status.code(), Some(5));
    assert!(String::from_utf8_lossy(&output.stderr).contains("sha256: manifest.json: got "));
}

/// A linked model is no part of the binary: the app proves the file again before it loads it.
#[test]
fn a_linked_model_is_proved_again_when_it_is_loaded() {
    let _one = BUILDING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let models = Models::proven();
    models.replace("tiny/recipe.toml", "delivery = \"embed\"", "delivery = \"link\"");
    let recipe = fs::read_to_string(models.path("tiny/recipe.toml")).unwrap();
    let digest = model_assets::recipe::Recipe::parse(&recipe).unwrap().digest();
    models.edit_manifest(|manifest| {
        manifest.bound.recipe = digest;
        manifest.evidence.as_mut().unwrap().bound.bound.recipe = digest;
    });
    let app = models.built_app();
    let provenance = Command::new(&app).arg("--provenance").output().unwrap();
    let provenance: serde_json::Value = serde_json::from_slice(&provenance.stdout).unwrap();
    assert_eq!(provenance["place"], "linked");

    let cache = tempfile::tempdir().unwrap();
    // A development build finds it where it was published.
    let say_hello = || {
        let mut command = Command::new(&app);
        command.args(["--prompt", "hello"]).env("XDG_CACHE_HOME", cache.path());
        command.output().unwrap()
    };
    for run in ["hashed at install", "known by its stamp"] {
        let output = say_hello();
        assert!(output.status.success(), "{run}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(!output.stdout.is_empty(), "{run}");
    }
    // The packed weights were kept; changed ones are made again, with a warning, and the answer is the same.
    let good = say_hello().stdout;
    let mut kept =
        fs::read_dir(cache.path().join("proofmark/packed/tiny")).unwrap().flatten().map(|entry| entry.path());
    let packed: PathBuf = kept.find(|path| path.extension().is_some_and(|end| end == "bin")).unwrap();
    let spoiled = flip(fs::read(&packed).unwrap(), 1000);
    fs::remove_file(&packed).unwrap();
    fs::write(&packed, spoiled).unwrap();
    let again = say_hello();
    assert!(String::from_utf8_lossy(&again.stderr).contains("packed weights were made again"), "{again:?}");
    assert_eq!(again.stdout, good);
    models.edit(&format!("tiny/{PTE}"), |bytes| {
        let index = bytes.len() - 1000;
        flip(bytes, index)
    });
    let refused = say_hello();
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("is not proved") && text.contains("sha256: manifest.json: got "), "{text}");
    fs::remove_file(models.path("tiny").join(PTE)).unwrap();
    let text = String::from_utf8_lossy(&say_hello().stderr).into_owned();
    assert!(text.contains("hint: run: cargo xtask export tiny"), "{text}");
}
