//! Conversations on a real disk.

use super::*;

fn folder() -> (tempfile::TempDir, Utf8PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = Utf8PathBuf::try_from(folder.path().join("data")).unwrap();
    (folder, path)
}

#[test]
fn a_conversation_is_there_after_the_store_was_opened_again() {
    let (_guard, path) = folder();
    let mut store = Store::open(Some(&path)).unwrap();
    let id = store.keep_message(None, "hello  there\nfriend", "ab").unwrap();
    store.keep_reply(id, "hi", "stop", false).unwrap();
    store.keep_message(Some(id), "العربية 🙂", "ab").unwrap();
    store.keep_settings(&Settings { temperature: 0.5, ..Settings::default() }).unwrap();
    drop(store);

    let store = Store::open(Some(&path)).unwrap();
    let kept = store.conversation(id).unwrap();
    assert_eq!((kept.title.as_str(), kept.model.as_str()), ("hello there friend", "ab"));
    let texts: Vec<_> = kept.messages.iter().map(|message| message.content.as_str()).collect();
    assert_eq!(texts, ["hello  there\nfriend", "hi", "العربية 🙂"]);
    assert_eq!(store.list().unwrap().first().unwrap().messages, 3);
    assert_eq!(store.settings().unwrap().unwrap().temperature, 0.5);
}

#[test]
fn a_regenerated_reply_takes_the_place_of_the_last_one() {
    let mut store = Store::open(None).unwrap();
    let id = store.keep_message(None, "hello", "").unwrap();
    store.keep_reply(id, "one", "stop", false).unwrap();
    store.keep_reply(id, "two", "stop", true).unwrap();
    let texts: Vec<_> =
        store.conversation(id).unwrap().messages.into_iter().map(|message| message.content).collect();
    assert_eq!(texts, ["hello", "two"]);
    // Interrupted before its first token: the old one stays.
    store.keep_reply(id, "", "interrupted", true).unwrap();
    assert_eq!(store.conversation(id).unwrap().messages.len(), 2);
}

#[test]
fn what_could_not_be_replied_to_is_taken_back() {
    let mut store = Store::open(None).unwrap();
    let id = store.keep_message(None, "too long", "").unwrap();
    store.take_back(id).unwrap();
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn what_is_deleted_is_gone_from_the_disk() {
    let (_guard, path) = folder();
    let mut store = Store::open(Some(&path)).unwrap();
    let secret = "my heart belongs to quince jam";
    let id = store.keep_message(None, secret, "").unwrap();
    let other = store.keep_message(None, "weather", "").unwrap();
    let on_disk = || {
        let files = fs::read_dir(&path).unwrap().flatten();
        let bytes: Vec<u8> = files.flat_map(|file| fs::read(file.path()).unwrap()).collect();
        bytes.windows(secret.len()).any(|window| window == secret.as_bytes())
    };
    assert!(on_disk());
    store.delete(id).unwrap();
    assert!(!on_disk());
    assert!(store.conversation(id).is_err() && store.delete(id).is_err());
    assert!(store.conversation(other).is_ok());
}

#[test]
fn a_file_of_a_newer_app_or_of_another_is_refused_and_left_alone() {
    for (pragma, expected) in
        [("user_version", "expected 1: update the app"), ("application_id", "another app")]
    {
        let (_guard, path) = folder();
        drop(Store::open(Some(&path)).unwrap());
        let file = path.join("conversations.sqlite");
        Connection::open(&file).unwrap().pragma_update(None, pragma, 7).unwrap();
        let before = fs::read(&file).unwrap();
        let error = format!("{:#}", Store::open(Some(&path)).unwrap_err());
        assert!(error.contains(expected) && error.contains("conversations.sqlite"), "{error}");
        assert_eq!(fs::read(&file).unwrap(), before);
    }
}

#[test]
fn a_file_of_another_app_without_a_mark_is_left_alone_to_the_byte() {
    for mode in ["delete", "wal"] {
        let (_guard, path) = folder();
        fs::create_dir_all(&path).unwrap();
        let file = path.join(FILE);
        let other = Connection::open(&file).unwrap();
        other.pragma_update_and_check(None, "journal_mode", mode, |_| Ok(())).unwrap();
        other.execute_batch("CREATE TABLE theirs (a); INSERT INTO theirs VALUES (7)").unwrap();
        // As a kill leaves it: the log of the second one is not empty.
        let bytes: Vec<_> = files(&path).into_iter().map(|file| (fs::read(&file).unwrap(), file)).collect();
        drop(other);
        bytes.iter().for_each(|(bytes, file)| fs::write(file, bytes).unwrap());
        let error = format!("{:#}", Store::open(Some(&path)).unwrap_err());
        assert!(error.contains("a file of another app"), "{error}");
        for (bytes, file) in bytes.iter().filter(|(_, file)| !file.as_str().ends_with("-shm")) {
            assert!(fs::read(file).unwrap() == *bytes, "{mode}: {file} was changed");
        }
    }
}

fn files(folder: &Utf8Path) -> Vec<Utf8PathBuf> {
    folder.read_dir_utf8().unwrap().map(|entry| entry.unwrap().into_path()).collect()
}

#[test]
fn garbage_is_an_error() {
    let (_guard, path) = folder();
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("conversations.sqlite"), vec![0x5a; 8192]).unwrap();
    let error = Store::open(Some(&path)).unwrap_err();
    assert!(format!("{error:#}").contains("cannot be used"));
    let hint = hint(&error, Some(&path));
    assert!(hint.contains("conversations.sqlite") && !hint.contains("install"), "{hint}");
}

#[cfg(unix)]
#[test]
fn nobody_else_may_read_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let (_guard, path) = folder();
    let mode = |path: &Utf8Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    drop(Store::open(Some(&path)).unwrap());
    assert_eq!(mode(&path), 0o700);
    // In a folder that was there, whatever its mode; what an earlier app left readable is closed, too.
    for left in [None, Some(0o644)] {
        let (_guard, path) = folder();
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        if let Some(left) = left {
            drop(Store::open(Some(&path)).unwrap());
            fs::set_permissions(path.join(FILE), fs::Permissions::from_mode(left)).unwrap();
        }
        let mut store = Store::open(Some(&path)).unwrap();
        store.keep_message(None, "hello", "").unwrap();
        assert!(files(&path).len() > 1, "the log is a file of its own");
        files(&path).iter().for_each(|file| assert_eq!(mode(file), 0o600, "{file}"));
        assert_eq!(mode(&path), 0o755);
    }
}

#[test]
fn a_title_is_short_and_on_one_line() {
    assert_eq!(title("a\n b"), "a b");
    let long = title(&"é".repeat(200));
    assert_eq!(long.chars().count(), TITLE_CHARS_MAX + 1);
}
