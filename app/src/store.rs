//! Conversations on disk: one SQLite file.
//!
//! **Invariant:** a message is on disk before the next thing happens: what a person said before the model starts to
//! reply, a reply when it ended. So a kill at any moment costs at most the reply that was being written.
//!
//! Write-ahead log, because readers then never wait for the writer and a kill leaves the last commit whole.
//! `synchronous` is FULL, not NORMAL: NORMAL survives a kill but may lose the last commits with the power, and a phone
//! loses that more often; it is one flush per message, some milliseconds beside a reply of seconds. Deleting overwrites
//! (`secure_delete`), and the log is emptied after it: what a person deletes is gone.

use std::{
    fs,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, bail};
use camino::Utf8Path;
use engine::chat::Role;
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, params};
use serde::Serialize;

use crate::settings::Settings;

/// Version of the tables, kept in `user_version`.
const SCHEMA: i64 = 1;
/// `PMRK`: marks the file as ours.
const APPLICATION_ID: i64 = 0x504d_524b;
/// Name of the file.
const FILE: &str = "conversations.sqlite";
/// Longest title, characters.
const TITLE_CHARS_MAX: usize = 60;
/// How long another process of this app may hold the file.
const BUSY_MAX: Duration = Duration::from_secs(5);

const TABLES: &str = "
    CREATE TABLE conversation (
        id      INTEGER PRIMARY KEY AUTOINCREMENT,
        title   TEXT NOT NULL,
        model   TEXT NOT NULL,
        created INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE message (
        id           INTEGER PRIMARY KEY AUTOINCREMENT,
        conversation INTEGER NOT NULL REFERENCES conversation ON DELETE CASCADE,
        role         TEXT NOT NULL CHECK (role IN ('user', 'assistant')),
        content      TEXT NOT NULL,
        finish       TEXT,
        created      INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX message_of ON message (conversation, id);
    CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
";

/// The store.
#[derive(Debug)]
pub(crate) struct Store {
    db: Connection,
}

/// A conversation in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Its number.
    pub id: i64,
    /// The first words that were said.
    pub title: String,
    /// When it began, seconds since 1970.
    pub created: i64,
    /// Messages in it.
    pub messages: u32,
}

/// A message that was kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// Who said it.
    pub role: Role,
    /// What was said.
    pub content: String,
    /// Why a reply ended.
    pub finish: Option<String>,
    /// When, seconds since 1970.
    pub created: i64,
}

/// A whole conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Conversation {
    /// Its number.
    pub id: i64,
    /// The first words that were said.
    pub title: String,
    /// SHA-256 of the model that it was begun with.
    pub model: String,
    /// When it began, seconds since 1970.
    pub created: i64,
    /// Messages, oldest first.
    pub messages: Vec<Kept>,
}

impl Store {
    /// Opens the file in a folder, making both when they are not there; without a folder, a store that is forgotten.
    ///
    /// # Errors
    /// The file cannot be used, or is of a newer app.
    pub(crate) fn open(folder: Option<&Utf8Path>) -> anyhow::Result<Self> {
        let Some(folder) = folder else { return Self::prepare(Connection::open_in_memory()?) };
        make_private(folder).with_context(|| format!("{folder}: cannot be made"))?;
        let path = folder.join(FILE);
        let db = Connection::open(&path).with_context(|| format!("{path}: cannot be opened"))?;
        Self::prepare(db).with_context(|| format!("{path}: cannot be used"))
    }

    fn prepare(mut db: Connection) -> anyhow::Result<Self> {
        db.busy_timeout(BUSY_MAX)?;
        db.pragma_update(None, "foreign_keys", true)?;
        // A file that was tampered with must not run functions or write to the schema's own table.
        db.pragma_update(None, "trusted_schema", false)?;
        db.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
        db.pragma_update(None, "synchronous", "full")?;
        db.pragma_update(None, "secure_delete", true)?;
        // Apple's fsync leaves data in the drive's cache.
        db.pragma_update(None, "fullfsync", true)?;
        // One writer at a time: two processes that start at once must not both make the tables.
        let transaction = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
        let owner: i64 = transaction.pragma_query_value(None, "application_id", |row| row.get(0))?;
        match (version, owner) {
            (0, 0) => {
                transaction.execute_batch(TABLES)?;
                transaction.pragma_update(None, "user_version", SCHEMA)?;
                transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
            }
            (SCHEMA, APPLICATION_ID) => {}
            (_, APPLICATION_ID) => bail!("got schema version {version}, expected {SCHEMA}: update the app"),
            _ => bail!("got application id {owner:#x}, expected {APPLICATION_ID:#x}: a file of another app"),
        }
        transaction.commit()?;
        Ok(Self { db })
    }

    /// What was set last; the defaults when nothing was, or when it was by an app with other settings.
    pub(crate) fn settings(&self) -> anyhow::Result<Option<Settings>> {
        let text: Option<String> = self
            .db
            .query_row("SELECT value FROM setting WHERE name = 'chat'", [], |row| row.get(0))
            .optional()?;
        let settings = text.and_then(|text| serde_json::from_str(&text).ok());
        Ok(settings.filter(|settings: &Settings| settings.check().is_ok()))
    }

    /// Keeps settings.
    pub(crate) fn keep_settings(&self, settings: &Settings) -> anyhow::Result<()> {
        let text = serde_json::to_string(settings)?;
        self.db.execute("INSERT OR REPLACE INTO setting VALUES ('chat', ?1)", [text])?;
        Ok(())
    }

    /// Keeps what a person said; begins a conversation when there is none yet. Answers its number.
    pub(crate) fn said(&mut self, id: Option<i64>, text: &str, model: &str) -> anyhow::Result<i64> {
        let transaction = self.db.transaction()?;
        let id = match id {
            Some(id) => id,
            None => {
                let sql = "INSERT INTO conversation (title, model, created) VALUES (?1, ?2, ?3)";
                transaction.execute(sql, params![title(text), model, now()])?;
                transaction.last_insert_rowid()
            }
        };
        insert(&transaction, id, Role::User, text, None)?;
        transaction.commit()?;
        Ok(id)
    }

    /// Keeps a reply, unless it is empty; `instead` of the last one when it was regenerated.
    pub(crate) fn replied(&mut self, id: i64, text: &str, finish: &str, instead: bool) -> anyhow::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let transaction = self.db.transaction()?;
        if instead {
            let sql = "DELETE FROM message WHERE role = 'assistant' AND id =
                       (SELECT max(id) FROM message WHERE conversation = ?1)";
            transaction.execute(sql, [id])?;
        }
        insert(&transaction, id, Role::Assistant, text, Some(finish))?;
        Ok(transaction.commit()?)
    }

    /// Takes back what a person said last: the model could not reply to it.
    pub(crate) fn take_back(&mut self, id: i64) -> anyhow::Result<()> {
        let transaction = self.db.transaction()?;
        let sql = "DELETE FROM message WHERE role = 'user' AND id =
                   (SELECT max(id) FROM message WHERE conversation = ?1)";
        transaction.execute(sql, [id])?;
        let sql = "DELETE FROM conversation WHERE id = ?1 AND
                   NOT EXISTS (SELECT 1 FROM message WHERE conversation = ?1)";
        transaction.execute(sql, [id])?;
        Ok(transaction.commit()?)
    }

    /// Every conversation, the newest first.
    pub(crate) fn list(&self) -> anyhow::Result<Vec<Summary>> {
        let sql = "SELECT id, title, created,
                   (SELECT count(*) FROM message WHERE conversation = conversation.id)
                   FROM conversation ORDER BY id DESC";
        let mut statement = self.db.prepare(sql)?;
        let rows = statement.query_map([], |row| {
            Ok(Summary { id: row.get(0)?, title: row.get(1)?, created: row.get(2)?, messages: row.get(3)? })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// One conversation with its messages.
    ///
    /// # Errors
    /// There is none of that number.
    pub(crate) fn conversation(&self, id: i64) -> anyhow::Result<Conversation> {
        let sql = "SELECT title, model, created FROM conversation WHERE id = ?1";
        let row =
            self.db.query_row(sql, [id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
        let (title, model, created) =
            row.with_context(|| format!("got conversation {id}, expected one of those listed"))?;
        let sql = "SELECT role, content, finish, created FROM message WHERE conversation = ?1 ORDER BY id";
        let mut statement = self.db.prepare(sql)?;
        let rows = statement.query_map([id], |row| {
            let role: String = row.get(0)?;
            let role = if role == "user" { Role::User } else { Role::Assistant };
            Ok(Kept { role, content: row.get(1)?, finish: row.get(2)?, created: row.get(3)? })
        })?;
        let messages = rows.collect::<Result<_, _>>()?;
        Ok(Conversation { id, title, model, created, messages })
    }

    /// Deletes a conversation and leaves no trace of it in the file or its log.
    ///
    /// # Errors
    /// There is none of that number.
    pub(crate) fn delete(&self, id: i64) -> anyhow::Result<()> {
        let deleted = self.db.execute("DELETE FROM conversation WHERE id = ?1", [id])?;
        if deleted == 0 {
            bail!("got conversation {id}, expected one of those listed");
        }
        // The log still holds pages of it. Another process that reads keeps it from being emptied: its own closing will.
        self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        Ok(())
    }
}

fn insert(db: &Connection, id: i64, role: Role, text: &str, finish: Option<&str>) -> anyhow::Result<()> {
    let role = if role == Role::User { "user" } else { "assistant" };
    let sql =
        "INSERT INTO message (conversation, role, content, finish, created) VALUES (?1, ?2, ?3, ?4, ?5)";
    db.execute(sql, params![id, role, text, finish, now()])?;
    Ok(())
}

/// What to do when the store in a folder cannot be used. Never to install the app again: what is kept would be lost.
pub(crate) fn hint(error: &anyhow::Error, folder: Option<&Utf8Path>) -> String {
    let file = folder.map_or_else(|| FILE.into(), |folder| folder.join(FILE));
    let code = error.chain().find_map(|cause| match cause.downcast_ref() {
        Some(rusqlite::Error::SqliteFailure(failure, _)) => Some(failure.code),
        _ => None,
    });
    match code {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            format!("end what else uses {file}, then start the app again")
        }
        Some(ErrorCode::DiskFull) => "free some space on the disk, then start the app again".to_owned(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            format!("put a copy that is whole in the place of {file}, or move it away to begin anew")
        }
        _ if error.chain().any(|cause| cause.to_string().contains("update the app")) => {
            format!("update the app; {file} is as it was")
        }
        _ => format!("let this app read and write {file} and its folder, then start it again"),
    }
}

/// The first words of a message, on one line.
fn title(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(TITLE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// What people say is nobody else's business on a machine with several users.
fn make_private(folder: &Utf8Path) -> std::io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use camino::Utf8PathBuf;

    fn folder() -> (tempfile::TempDir, Utf8PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::try_from(folder.path().join("data")).unwrap();
        (folder, path)
    }

    #[test]
    fn a_conversation_is_there_after_the_store_was_opened_again() {
        let (_guard, path) = folder();
        let mut store = Store::open(Some(&path)).unwrap();
        let id = store.said(None, "hello  there\nfriend", "ab").unwrap();
        store.replied(id, "hi", "stop", false).unwrap();
        store.said(Some(id), "العربية 🙂", "ab").unwrap();
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
        let id = store.said(None, "hello", "").unwrap();
        store.replied(id, "one", "stop", false).unwrap();
        store.replied(id, "two", "stop", true).unwrap();
        let texts: Vec<_> =
            store.conversation(id).unwrap().messages.into_iter().map(|message| message.content).collect();
        assert_eq!(texts, ["hello", "two"]);
        // Interrupted before its first token: the old one stays.
        store.replied(id, "", "interrupted", true).unwrap();
        assert_eq!(store.conversation(id).unwrap().messages.len(), 2);
    }

    #[test]
    fn what_could_not_be_replied_to_is_taken_back() {
        let mut store = Store::open(None).unwrap();
        let id = store.said(None, "too long", "").unwrap();
        store.take_back(id).unwrap();
        assert!(store.list().unwrap().is_empty());
    }

    #[test]
    fn what_is_deleted_is_gone_from_the_disk() {
        let (_guard, path) = folder();
        let mut store = Store::open(Some(&path)).unwrap();
        let secret = "my heart belongs to quince jam";
        let id = store.said(None, secret, "").unwrap();
        let other = store.said(None, "weather", "").unwrap();
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
        drop(Store::open(Some(&path)).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0);
    }

    #[test]
    fn a_title_is_short_and_on_one_line() {
        assert_eq!(title("a\n b"), "a b");
        let long = title(&"é".repeat(200));
        assert_eq!(long.chars().count(), TITLE_CHARS_MAX + 1);
    }
}
