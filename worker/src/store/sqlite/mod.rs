//! Embedded SQLite session database: one file, any number of worker processes on one host.
//!
//! # Guarantees
//! - Every commit is synced before it is confirmed: WAL with `synchronous = FULL`
//!   (`sqlite_log_or_index_removed_loses_no_commit`).
//! - A transaction takes the write lock when it begins, so that it waits for other writers instead
//!   of failing later (`workers_starting_at_once_share_one_fresh_database`).
//!
//! # Design
//! SQLite has no timeout for a process that froze in a transaction. Such a process blocks all other
//! writers until it goes on or ends.

mod connection;
mod files;
mod ledger_retention;
mod read;
mod table;
mod write;

use std::fs::TryLockError;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Connection as _, SqliteConnection};

use super::StoreOptions;
use super::batch::Transact as _;
use super::error::{BackendError, OpenError, StoreError};
use super::migrate::{self, DATABASE_ID, SQLITE};
use super::schema;
use super::writer::{Backend as _, Writer};
use connection::SqliteFile;
pub use files::DisplacedFileError;
use files::OriginalFile;

/// In earlier versions, two connections that write could corrupt a WAL database
/// (sqlite.org/wal.html#walresetbug).
const MIN_SQLITE_VERSION: (u32, u32, u32) = (3, 51, 3);

const RESULT: &str = "SELECT result FROM webhook_events WHERE platform = ?1 AND event_id = ?2";

const SESSION: &str = "SELECT json_object(\
    'room_id', room_id, 'platform', platform, 'status', status, 'live_stream_id', live_stream_id, \
    'config', json(config), 'title', title, 'streamer_id', streamer_id, 'app_id', app_id, \
    'viewer_count', viewer_count, 'peak_viewers', peak_viewers, \
    'duration_seconds', duration_seconds, 'error_code', error_code, \
    'error_message', error_message, 'started_at', started_at, 'ended_at', ended_at, \
    'data', json(data), 'last_event_id', last_event_id, 'last_event_at', last_event_at, \
    'created_at', created_at, 'updated_at', updated_at) \
    FROM sessions WHERE room_id = ?1";

/// Connections for the routes that show rows.
const READER_CONNECTIONS: u32 = 2;

/// SQLite session database.
#[derive(Debug)]
pub struct Sqlite {
    pub(super) writer: Writer<SqliteFile>,
    readers: SqlitePool,
    original: OriginalFile,
    wal: PathBuf,
    pub(super) database_id: String,
}

impl Sqlite {
    pub(super) async fn open(url: &str, options: &StoreOptions) -> Result<Self, OpenError> {
        let connect: SqliteConnectOptions = url.parse().map_err(|_| {
            OpenError::Configuration("is not a valid SQLite URL (use sqlite://PATH)".to_owned())
        })?;
        let path = database_file(&connect)?;
        check_presence(&path, options.create_file)?;
        let connect = connect
            .create_if_missing(options.create_file)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(options.busy_timeout)
            .foreign_keys(false);
        let database_id = migrate(&connect, &path).await?;
        let absolute =
            std::path::absolute(&path).map_err(|error| StoreError::from(sqlx::Error::Io(error)))?;
        let original = OriginalFile::new(absolute.clone());
        let file = SqliteFile {
            path: absolute,
            vfs: vfs(url),
            busy_timeout: options.busy_timeout,
            original: original.clone(),
        };
        let mut connection = file.connect().await.map_err(StoreError::from)?;
        connection.probe(shared::clock::now_ms()).await.map_err(StoreError::from)?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READER_CONNECTIONS)
            .acquire_timeout(options.connect_timeout)
            .connect_lazy_with(connect.create_if_missing(false));
        let writer = Writer::new(file, connection, &database_id, options.deadline);
        writer.check_identity().await?;
        Ok(Self { writer, readers, original, wal: wal_of(&path), database_id })
    }

    /// Returns the connections for readers, unless they would open another file.
    fn readers(&self) -> Result<&SqlitePool, BackendError> {
        self.original.confirm()?;
        Ok(&self.readers)
    }

    /// Closes the connections for readers. The writer's connection closes last, because only it
    /// knows whether the write-ahead log may still be applied.
    pub(super) async fn close_readers(&self) {
        self.readers.close().await;
    }

    /// Returns the size of the write-ahead log, or 0 if there is none.
    pub(super) fn wal_bytes(&self) -> u64 {
        std::fs::metadata(&self.wal).map_or(0, |found| found.len())
    }

    pub(super) async fn result(
        &self,
        platform: &str,
        event_id: &str,
    ) -> Result<Option<String>, StoreError> {
        Ok(sqlx::query_scalar(RESULT)
            .bind(platform)
            .bind(event_id)
            .fetch_optional(self.readers()?)
            .await?)
    }

    pub(super) async fn session(&self, room_id: &str) -> Result<Option<String>, StoreError> {
        Ok(sqlx::query_scalar(SESSION).bind(room_id).fetch_optional(self.readers()?).await?)
    }
}

/// Returns the path of the write-ahead log, which SQLite keeps beside the file itself, not beside a
/// link to it.
fn wal_of(file: &Path) -> PathBuf {
    files::with_suffix(&files::resolve_links(file), "-wal")
}

/// Returns the file of the URL. Refuses a database in memory, which would lose acknowledged events.
fn database_file(connect: &SqliteConnectOptions) -> Result<PathBuf, OpenError> {
    let file = connect.get_filename();
    let name = file.to_string_lossy();
    if name.is_empty() || name.contains(":memory:") || name.starts_with("file:sqlx-in-memory") {
        return Err(OpenError::Configuration(
            "names no file (a database in memory would lose events)".to_owned(),
        ));
    }
    let folder =
        file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return Err(OpenError::Configuration(format!(
            "the folder {} does not exist",
            folder.display()
        )));
    }
    Ok(file.to_owned())
}

/// Checks that opening `file` loses nothing. SQLite discards the write-ahead log of a file that it
/// creates, or that is empty.
fn check_presence(file: &Path, may_create: bool) -> Result<(), OpenError> {
    let log = files::with_suffix(&files::resolve_links(file), "-wal");
    // Checked first, since another worker may create both.
    let log_exists = log.exists();
    if file.metadata().is_ok_and(|found| found.len() > 0) {
        return Ok(());
    }
    if log_exists {
        return Err(OpenError::Configuration(format!(
            "{} exists, but its database file {} does not or is empty; restore the file, or move \
             the log away: it holds events of the missing database",
            log.display(),
            file.display()
        )));
    }
    if may_create { Ok(()) } else { Err(OpenError::NoFile(file.to_owned())) }
}

async fn migrate(connect: &SqliteConnectOptions, file: &Path) -> Result<String, OpenError> {
    let lock = lock_beside(file).await?;
    let mut connection = SqliteConnection::connect_with(connect).await.map_err(StoreError::from)?;
    let version: String = sqlx::query_scalar("SELECT sqlite_version()")
        .fetch_one(&mut connection)
        .await
        .map_err(StoreError::from)?;
    if !is_supported_version(&version) {
        return Err(OpenError::Configuration(format!(
            "SQLite {version} can corrupt a database that two workers write; 3.51.3 is the oldest \
                supported"
        )));
    }
    check_is_file(&mut connection).await?;
    check_unclaimed(&mut connection).await?;
    migrate::migrator(&SQLITE).run_direct(None, &mut connection, false).await?;
    sqlx::query(
        "INSERT INTO tributary_meta (key, value) \
        VALUES ('database_id', ?1) \
        ON CONFLICT (key) DO NOTHING",
    )
    .bind(migrate::new_database_id())
    .execute(&mut connection)
    .await
    .map_err(StoreError::from)?;
    let id = sqlx::query_scalar(DATABASE_ID)
        .fetch_one(&mut connection)
        .await
        .map_err(StoreError::from)?;
    connection.close().await.map_err(StoreError::from)?;
    drop(lock);
    Ok(id)
}

/// Refuses a file in which an application has tables of the same names.
async fn check_unclaimed(connection: &mut SqliteConnection) -> Result<(), OpenError> {
    let ours = schema::tables().map_err(StoreError::from)?;
    let found = sqlx::query_scalar(
        "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') ORDER BY name",
    );
    let mut found: Vec<String> = found.fetch_all(connection).await.map_err(StoreError::from)?;
    found.retain(|table| ours.contains(table));
    schema::check_unclaimed(&found, "name another file, for example sqlite://tributary.db")
}

/// Checks that SQLite opened a file with a write-ahead log, despite the URL's parameters
/// (`mode=memory`, another VFS).
async fn check_is_file(connection: &mut SqliteConnection) -> Result<(), OpenError> {
    let journal: String = sqlx::query_scalar("PRAGMA journal_mode")
        .fetch_one(&mut *connection)
        .await
        .map_err(StoreError::from)?;
    let file: String =
        sqlx::query_scalar("SELECT file FROM pragma_database_list WHERE name = 'main'")
            .fetch_one(connection)
            .await
            .map_err(StoreError::from)?;
    if journal != "wal" || !Path::new(&file).is_file() {
        return Err(OpenError::Configuration(
            "opens no file (a database in memory would lose events)".to_owned(),
        ));
    }
    Ok(())
}

/// Locks a file beside the database until the returned file is dropped or the process ends. The
/// lock file itself stays, since removing it would let two workers hold a lock.
async fn lock_beside(file: &Path) -> Result<std::fs::File, OpenError> {
    const PAUSE: Duration = Duration::from_millis(20);
    let io = |error| StoreError::from(sqlx::Error::Io(error));
    let lock = std::fs::File::create(files::with_suffix(file, ".migrate-lock")).map_err(io)?;
    let began = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) if began.elapsed() < migrate::MIGRATION_TIMEOUT => {
                tokio::time::sleep(PAUSE).await
            }
            Err(TryLockError::WouldBlock) => {
                return Err(io(std::io::ErrorKind::TimedOut.into()).into());
            }
            Err(TryLockError::Error(error)) => return Err(io(error).into()),
        }
    }
}

/// Returns a parameter of a URL that was parsed before.
fn vfs(url: &str) -> Option<String> {
    let (_, parameters) = url.split_once('?')?;
    parameters.split('&').find_map(|parameter| parameter.strip_prefix("vfs=")).map(str::to_owned)
}

fn is_supported_version(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    (next(), next(), next()) >= MIN_SQLITE_VERSION
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn versions_with_the_wal_reset_bug_are_refused() {
        for old in ["3.46.0", "3.50.7", "3.51.2", "2.99.99", ""] {
            assert!(!is_supported_version(old), "{old}");
        }
        for good in ["3.51.3", "3.51.10", "3.52.0", "4.0.0"] {
            assert!(is_supported_version(good), "{good}");
        }
    }

    #[test]
    fn database_url_must_name_a_file() {
        let named = |url: &str| database_file(&url.parse().unwrap());
        assert_eq!(named("sqlite://tributary.db").unwrap(), Path::new("tributary.db"));
        assert!(matches!(named("sqlite::memory:"), Err(OpenError::Configuration(_))));
        assert!(matches!(named("sqlite:///no/such/folder/x.db"), Err(OpenError::Configuration(_))));
    }
}
