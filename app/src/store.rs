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
use camino::{Utf8Path, Utf8PathBuf};
use engine::chat::Role;
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, config::DbConfig, params};
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
    /// The text.
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
    /// The file cannot be used, or a newer app wrote it.
    pub(crate) fn open(folder: Option<&Utf8Path>) -> anyhow::Result<Self> {
        let Some(folder) = folder else { return Self::prepare(Connection::open_in_memory()?) };
        make_private(folder).with_context(|| format!("{folder}: cannot be made"))?;
        let path = folder.join(FILE);
        let opened = || format!("{path}: cannot be opened");
        // Made here, because SQLite would make it readable for whom the umask lets; its log takes the file's mode.
        make_private_file(&path).with_context(opened)?;
        let db = Connection::open(&path).with_context(opened)?;
        let store = Self::prepare(db).with_context(|| format!("{path}: cannot be used"))?;
        ["", "-wal", "-shm"]
            .iter()
            .for_each(|end| close_to_others(&Utf8PathBuf::from(format!("{path}{end}"))));
        Ok(store)
    }

    fn prepare(mut db: Connection) -> anyhow::Result<Self> {
        db.busy_timeout(BUSY_MAX)?;
        db.pragma_update(None, "foreign_keys", true)?;
        // A file that was tampered with must not run functions or write to the schema's own table.
        db.pragma_update(None, "trusted_schema", false)?;
        // Before anything is written, the journal's mode included: a file of another app stays as it is, its log too.
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        is_empty(&db)?;
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
        db.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
        db.pragma_update(None, "synchronous", "full")?;
        db.pragma_update(None, "secure_delete", true)?;
        // Apple's fsync leaves data in the drive's cache.
        db.pragma_update(None, "fullfsync", true)?;
        // One writer at a time: two processes that start at once must not both make the tables.
        let transaction = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        if is_empty(&transaction)? {
            transaction.execute_batch(TABLES)?;
            transaction.pragma_update(None, "user_version", SCHEMA)?;
            transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        }
        transaction.commit()?;
        Ok(Self { db })
    }

    /// The stored settings; the defaults when there are none, or when an app with other settings wrote them.
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

    /// Stores a person's message and returns the conversation's number; begins a conversation if none is open.
    pub(crate) fn keep_message(&mut self, id: Option<i64>, text: &str, model: &str) -> anyhow::Result<i64> {
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
    pub(crate) fn keep_reply(
        &mut self,
        id: i64,
        text: &str,
        finish: &str,
        instead: bool,
    ) -> anyhow::Result<()> {
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

    /// Removes the last message of the person: the model could not reply to it.
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
    /// There is no conversation of that number.
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
    /// There is no conversation of that number.
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

/// Whether the file has yet to get its tables; a file that is not ours is refused. Nothing is written.
fn is_empty(db: &Connection) -> anyhow::Result<bool> {
    let number = |sql| db.query_row::<i64, _, _>(sql, [], |row| row.get(0));
    let (version, owner) = (number("PRAGMA user_version")?, number("PRAGMA application_id")?);
    match (version, owner) {
        (SCHEMA, APPLICATION_ID) => Ok(false),
        (_, APPLICATION_ID) => bail!("got schema version {version}, expected {SCHEMA}: update the app"),
        // No mark is what most files have: ours is the one that has nothing else either.
        (0, 0) if number("SELECT count(*) FROM sqlite_schema")? == 0 => Ok(true),
        _ => bail!("got application id {owner:#x}, expected {APPLICATION_ID:#x}: a file of another app"),
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

/// Other users of the machine must not read conversations.
fn make_private(folder: &Utf8Path) -> std::io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// Makes the file, readable by its owner alone; an existing one stays as it is.
fn make_private_file(path: &Utf8Path) -> std::io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

/// Takes from others what an earlier app let them read. On a disk without modes there is nothing to take.
fn close_to_others(path: &Utf8Path) {
    #[cfg(unix)]
    let _ = fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600));
    #[cfg(not(unix))]
    let _ = path;
}

#[cfg(test)]
mod tests;
