use std::os::unix::fs::symlink;

use super::*;

/// A models directory with `tiny`'s recipe and template, and a checkpoint elsewhere that is `tiny`'s.
struct Scratch {
    _folder: tempfile::TempDir,
    dir: ModelDir,
    checkpoint: Utf8PathBuf,
}

const FILES: [&str; 3] = ["config.json", "model.safetensors", "tokenizer.json"];

fn repository() -> Utf8PathBuf {
    Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../model-assets/models")
}

impl Scratch {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(folder.path()).unwrap();
        let (dir, checkpoint) = (ModelDir::new(root.join("models"), "tiny"), root.join("checkpoint"));
        fs::create_dir_all(dir.path()).unwrap();
        fs::create_dir(&checkpoint).unwrap();
        for name in ["recipe.toml", "chat_template.jinja"] {
            fs::copy(repository().join("tiny").join(name), dir.path().join(name)).unwrap();
        }
        for name in FILES {
            fs::copy(repository().join("tiny").join(name), checkpoint.join(name)).unwrap();
        }
        Self { _folder: folder, dir, checkpoint }
    }

    fn read(&self, folder: &Utf8Path) -> anyhow::Result<Inputs> {
        Inputs::read(&self.dir, &self.dir.recipe().unwrap(), folder, &Console::Plain)
    }

    fn refused(&self) -> String {
        format!("{:#}", self.read(&self.checkpoint).err().expect("a refusal"))
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut serde_json::Value)) {
        let path = self.checkpoint.join(name);
        let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        fs::write(path, value.to_string()).unwrap();
    }

    fn digest(&self, folder: &Utf8Path) -> Digest {
        let (recipe, workspace) = (self.dir.recipe().unwrap(), Workspace::find(None).unwrap());
        let inputs = self.read(folder).unwrap();
        inputs_digest(Some(&inputs), &recipe, &recipe.source, &workspace).unwrap()
    }
}

#[test]
fn what_a_link_leads_to_is_what_counts() {
    let it = Scratch::new();
    // As a hub's cache lays a snapshot out: links to blobs, through another link here.
    let snapshot = it.checkpoint.with_file_name("snapshot");
    let moved = it.checkpoint.with_file_name("link");
    symlink(&it.checkpoint, &moved).unwrap();
    fs::create_dir(&snapshot).unwrap();
    for name in FILES {
        symlink(moved.join(name), snapshot.join(name)).unwrap();
    }
    let (plain, linked) = (it.read(&it.checkpoint).unwrap(), it.read(&snapshot).unwrap());
    assert_eq!(plain.files, linked.files);
    let names: Vec<_> = plain.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, FILES);
    let before = it.digest(&snapshot);
    assert_eq!(before, it.digest(&it.checkpoint), "the names of places do not count");
    for name in FILES {
        let (path, old) = (it.checkpoint.join(name), fs::read(it.checkpoint.join(name)).unwrap());
        let mut bytes = old.clone();
        // A bit of the last weight, or a space that JSON does not mind.
        if name.ends_with(".safetensors") {
            *bytes.last_mut().unwrap() ^= 1
        } else {
            bytes.push(b' ')
        }
        fs::write(&path, bytes).unwrap();
        assert_ne!(it.digest(&snapshot), before, "{name}");
        fs::write(&path, old).unwrap();
    }
    fs::write(it.checkpoint.join("generation_config.json"), "{}").unwrap();
    assert_eq!(it.digest(&snapshot), before, "nothing of the snapshot's");
    assert_ne!(it.digest(&it.checkpoint), before);
}

#[test]
fn what_is_no_file_is_refused_by_its_name() {
    for name in FILES {
        let it = Scratch::new();
        let path = it.checkpoint.join(name);
        let refused = |what: &str| {
            let error = it.refused();
            assert!(error.contains(path.as_str()) && error.contains(what), "{name}: {error}");
            fs::remove_file(&path).or_else(|_| fs::remove_dir(&path)).unwrap();
        };
        fs::remove_file(&path).unwrap();
        symlink(&path, &path).unwrap();
        refused("cannot be read");
        symlink("nowhere", &path).unwrap();
        refused("cannot be read");
        fs::create_dir(&path).unwrap();
        refused("got a directory, expected a regular file");
        symlink(it.dir.path(), &path).unwrap();
        refused("got a directory, expected a regular file");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path.as_std_path(),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        refused("got a named pipe, expected a regular file");
    }
}

#[test]
fn a_missing_file_is_named() {
    let it = Scratch::new();
    fs::remove_file(it.checkpoint.join("tokenizer.json")).unwrap();
    let error = it.refused();
    let beside = it.dir.path().join("tokenizer.json");
    assert!(
        error.contains(beside.as_str()) && error.contains("checkpoint/tokenizer.json: no such file"),
        "{error}"
    );
    fs::copy(repository().join("tiny/tokenizer.json"), &beside).unwrap();
    it.read(&it.checkpoint).unwrap();
    fs::remove_file(it.dir.path().join("chat_template.jinja")).unwrap();
    let error = it.refused();
    assert!(error.contains("models/tiny/chat_template.jinja: cannot be read"), "{error}");
}

#[test]
fn a_tokenizer_is_never_taken_from_one_checkpoint_for_another() {
    let it = Scratch::new();
    let beside = it.dir.path().join("tokenizer.json");
    // Another one lies beside the recipe: the checkpoint's own counts.
    fs::write(&beside, "{}").unwrap();
    let own = fs::read(it.checkpoint.join("tokenizer.json")).unwrap();
    let inputs = it.read(&it.checkpoint).unwrap();
    assert_eq!(inputs.words.tokenizer, own);
    fs::write(&beside, &inputs.words.tokenizer).unwrap();
    assert_eq!(fs::read(&beside).unwrap(), own);
    // It came with the weights that are published; others that bring none do not get it.
    let mut manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(repository().join("tiny/manifest.json")).unwrap()).unwrap();
    manifest["source"]["files"] = serde_json::to_value(&inputs.files).unwrap();
    fs::write(it.dir.manifest_path(), manifest.to_string()).unwrap();
    fs::remove_file(it.checkpoint.join("tokenizer.json")).unwrap();
    assert_eq!(it.read(&it.checkpoint).unwrap().words.tokenizer, own);
    let weights = it.checkpoint.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, bytes).unwrap();
    let error = it.refused();
    assert!(error.contains("came with other weights"), "{error}");
}

#[test]
fn a_tokenizer_may_have_fewer_ids_than_the_model_and_never_more() {
    let it = Scratch::new();
    it.change("tokenizer.json", |tokenizer| {
        tokenizer["added_tokens"][0]["id"] = 1024.into();
        tokenizer["added_tokens"][0]["content"] = "<|one more|>".into();
    });
    let error = it.refused();
    assert!(error.contains("got tokens up to 1024, expected ids below the model's 1024"), "{error}");
    it.change("tokenizer.json", |tokenizer| {
        tokenizer["model"]["vocab"] = serde_json::json!({"a": 0});
        tokenizer["added_tokens"] = serde_json::json!([]);
    });
    let error = it.refused();
    assert!(error.contains("got 1 ids, expected the recipe's token 1 among them"), "{error}");
}

#[test]
fn a_template_that_cannot_be_rendered_is_refused_with_its_line() {
    let it = Scratch::new();
    let place = it.dir.path().join("chat_template.jinja");
    for (source, why) in [
        ("\n{% include 'x' %}", "line 2: got the tag `include`"),
        ("{{ messages[0].nosuch.deeper }}", "line 1: nosuch is undefined"),
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "more work than 4000000 steps",
        ),
    ] {
        fs::write(&place, source).unwrap();
        let error = it.refused();
        assert!(error.contains(place.as_str()) && error.contains(why), "{error}");
    }
}

#[test]
fn a_tokenizer_whose_steps_grow_is_refused() {
    let it = Scratch::new();
    it.change("tokenizer.json", |tokenizer| {
        let step = serde_json::json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaa"});
        tokenizer["normalizer"] =
            serde_json::json!({"type": "Sequence", "normalizers": [step.clone(), step]});
    });
    let error = it.refused();
    assert!(error.contains("tokenizer.json: normalizer") && error.contains("expected at most 33"), "{error}");
}
