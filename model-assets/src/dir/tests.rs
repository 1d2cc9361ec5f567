use std::cell::RefCell;

use super::*;

thread_local! {
    static WATCHED: RefCell<Vec<Utf8PathBuf>> = const { RefCell::new(Vec::new()) };
}

/// The directory of `tiny` below `models`, and the names of what was watched since the last call.
fn watched_tiny(models: &Utf8Path) -> (ModelDir, impl Fn() -> Vec<String>) {
    let dir = ModelDir::new(models, "tiny")
        .watched_by(|path| WATCHED.with_borrow_mut(|watched| watched.push(path.to_owned())));
    let names = || {
        let paths = WATCHED.take();
        paths.iter().map(|path| path.file_name().unwrap().to_owned()).collect()
    };
    (dir, names)
}

#[test]
fn each_text_is_read_once_and_named_before() {
    let real = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let folder = tempfile::tempdir().unwrap();
    let models = Utf8Path::from_path(folder.path()).unwrap();
    let (dir, watched) = watched_tiny(models);
    // The folder is not there: a path that never was would wake a build script for ever.
    assert!(matches!(dir.open(), Err(GateError::Missing { .. })));
    assert_eq!(watched(), ["manifest.json"]);
    fs::create_dir(dir.path()).unwrap();
    let steps = [
        ("tiny/manifest.json", &["tiny", "manifest.json", "recipe.toml"][..]),
        ("tiny/recipe.toml", &["tiny", "manifest.json", "recipe.toml", "policy.toml"]),
        ("policy.toml", &["tiny", "manifest.json", "recipe.toml", "policy.toml", "tokenizer.json"]),
    ];
    let texts =
        ["tiny", "manifest.json", "recipe.toml", "policy.toml", "tokenizer.json", "chat_template.jinja"];
    for (name, names) in steps {
        fs::copy(real.join(name), models.join(name)).unwrap();
        assert!(matches!(dir.open(), Err(GateError::Missing { .. })), "{name}");
        assert_eq!(watched(), names);
    }
    for name in ["tiny/tokenizer.json", "tiny/chat_template.jinja"] {
        fs::copy(real.join(name), models.join(name)).unwrap();
    }
    let (claim, files) = dir.open().unwrap();
    assert_eq!(watched(), texts);
    assert_eq!(claim.bound(), claim.manifest.bound);
    assert_eq!(Manifest::parse(&files.manifest).unwrap(), claim.manifest);
    assert!(matches!(dir.open_pte(&claim.manifest), Err(GateError::Missing { .. })));
    assert_eq!(watched(), [claim.manifest.file.as_str()]);
    // A published file that waits for its name is the one that is read.
    let waiting = pending_name(&claim.manifest.file, claim.manifest.sha256);
    fs::write(dir.path().join(&waiting), b"").unwrap();
    dir.open_pte(&claim.manifest).unwrap();
    assert_eq!(watched(), [waiting]);
}

#[test]
fn nothing_is_watched_of_a_name_that_leads_elsewhere() {
    let hostile = ModelDir::new("models", "../tiny\ncargo::error=x").watched_by(|path| panic!("{path}"));
    assert!(matches!(hostile.open(), Err(GateError::Name { .. })));
}
