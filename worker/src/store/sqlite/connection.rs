//! Runs the connection that writes on a thread of its own, because SQLite blocks.
//!
//! # Guarantees
//! - Steps run in the order of their calls. Dropping the [`WriterThread`] closes the connection
//!   after its current step, which rolls back an open transaction
//!   (`events_in_any_order_end_in_the_same_rows_on_sqlite`).
//!
//! # Design
//! SQLite handles a row in less time than a hand-over to another thread takes. So a whole step of a
//! transaction is one hand-over, with one prepared statement for each kind of row.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use shared::clock::rfc3339;
use shared::event::Millis;
use tokio::sync::oneshot;

use super::files::{DisplacedFileError, OpenFiles, OriginalFile};
use super::read::{self, OwnedRowQuery};
use super::write;
use crate::store::batch::{LoadedRows, RowChanges, RowQuery, Transact};
use crate::store::error::BackendError;
use crate::store::migrate::DATABASE_ID;
use crate::store::schema;
use crate::store::transaction_scope::TransactionScope;
use crate::store::writer::Backend;

/// More than the number of statements in [`mod@read`] and [`mod@write`].
const STATEMENT_CACHE_CAPACITY: usize = 48;

const PROBE: &str = "INSERT INTO tributary_meta (key, value) VALUES ('probed_at', ?1) \
    ON CONFLICT (key) DO UPDATE SET value = excluded.value";

/// Path of the database file, and how to open it.
#[derive(Clone, Debug)]
pub(in crate::store) struct SqliteFile {
    /// Absolute, so that SQLite does not read it as a URI.
    pub(super) path: PathBuf,
    /// SQLite VFS, if the URL names one.
    pub(super) vfs: Option<String>,
    pub(super) busy_timeout: Duration,
    pub(super) original: OriginalFile,
}

/// A connection and its files.
struct OpenDatabase {
    connection: Connection,
    files: OpenFiles,
}

type ThreadJob = Box<dyn FnOnce(&OpenDatabase) + Send>;

/// Handle of the thread that owns the connection.
#[derive(Debug)]
pub(in crate::store) struct WriterThread {
    jobs: mpsc::Sender<ThreadJob>,
    /// Fails once the connection is closed.
    closed: oneshot::Receiver<()>,
}

impl Backend for SqliteFile {
    type Connection = WriterThread;
    const TRANSACTION_SCOPE: TransactionScope = TransactionScope::Any;

    async fn connect(&self) -> Result<WriterThread, BackendError> {
        let (jobs, asked) = mpsc::channel::<ThreadJob>();
        let (opened, answer) = oneshot::channel();
        let (open_until, closed) = oneshot::channel::<()>();
        let file = self.clone();
        let run = move || {
            let open = match file.open() {
                Ok(open) => open,
                Err(error) => {
                    let _ = opened.send(Err(error));
                    return;
                }
            };
            if opened.send(Ok(())).is_ok() {
                asked.into_iter().for_each(|job| job(&open));
            }
            drop(open);
            drop(open_until);
        };
        std::thread::Builder::new()
            .name("sqlite".to_owned())
            .spawn(run)
            .map_err(sqlx::Error::Io)?;
        answer.await.map_err(|_| BackendError::ThreadEnded)??;
        Ok(WriterThread { jobs, closed })
    }
}

impl SqliteFile {
    fn open(&self) -> Result<OpenDatabase, BackendError> {
        // SQLite would apply the present write-ahead log to another file.
        self.original.confirm()?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_EXRESCODE;
        let connection = match &self.vfs {
            Some(vfs) => Connection::open_with_flags_and_vfs(&self.path, flags, vfs.as_str())?,
            None => Connection::open_with_flags(&self.path, flags)?,
        };
        connection.busy_timeout(self.busy_timeout)?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = OFF",
        )?;
        connection.set_prepared_statement_cache_capacity(STATEMENT_CACHE_CAPACITY);
        // The first read opens the write-ahead log.
        database_id(&connection)?;
        let files = OpenFiles::record(&self.original)?;
        Ok(OpenDatabase { connection, files })
    }
}

impl WriterThread {
    /// Runs `work` on the thread. A panic in it panics the caller.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&OpenDatabase) -> Result<T, BackendError> + Send + 'static,
    ) -> Result<T, BackendError> {
        let (done, answer) = oneshot::channel();
        let job = move |open: &OpenDatabase| {
            let _ = done.send(catch_unwind(AssertUnwindSafe(|| work(open))));
        };
        self.jobs.send(Box::new(job)).map_err(|_| BackendError::ThreadEnded)?;
        match answer.await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_) => Err(BackendError::ThreadEnded),
        }
    }
}

impl Transact for WriterThread {
    /// A file needs no check.
    async fn is_alive(&mut self) -> bool {
        true
    }

    async fn begin(&mut self, first: &RowQuery<'_>) -> Result<LoadedRows, BackendError> {
        let asked = OwnedRowQuery::new(first);
        // `IMMEDIATE`, because a transaction that reads first and asks for the write lock later
        // fails instead of waiting.
        self.run(move |open| {
            open.explain_log()?;
            execute(&open.connection, "BEGIN IMMEDIATE")?;
            read::all(&open.connection, &asked)
        })
        .await
    }

    /// No other process can have written since [`Self::begin`]. So an insertion that meets a row is
    /// an error: a fault, or a ledger row that was not queried.
    async fn write_then_read(
        &mut self,
        changes: &RowChanges<'_>,
        next: &RowQuery<'_>,
    ) -> Result<Option<LoadedRows>, BackendError> {
        let (tables, asked) = (write::tables(changes), OwnedRowQuery::new(next));
        self.run(move |OpenDatabase { connection, .. }| {
            tables.iter().try_for_each(|table| table.write(connection))?;
            read::all(connection, &asked).map(Some)
        })
        .await
    }

    async fn commit(&mut self, changes: &RowChanges<'_>) -> Result<bool, BackendError> {
        let tables = write::tables(changes);
        self.run(move |OpenDatabase { connection, files }| {
            tables.iter().try_for_each(|table| table.write(connection))?;
            files.check()?;
            execute(connection, "COMMIT")?;
            // A file that was removed since the first check took the commit with it.
            Ok(files.check()?)
        })
        .await?;
        Ok(true)
    }

    async fn rollback(&mut self, _: bool) -> Result<(), BackendError> {
        self.run(|open| {
            if !open.connection.is_autocommit() {
                execute(&open.connection, "ROLLBACK")?;
            }
            open.leave_no_log();
            Ok(())
        })
        .await
    }

    async fn probe(&mut self, now: Millis) -> Result<(), BackendError> {
        let now = rfc3339(now);
        self.run(move |open| {
            open.explain_log()?;
            let OpenDatabase { connection, files } = open;
            files.check()?;
            connection.prepare_cached(PROBE)?.execute([now])?;
            check_schema(connection)?;
            Ok(files.check()?)
        })
        .await
    }

    async fn close(self) {
        let Self { jobs, closed } = self;
        drop(jobs);
        let _ = closed.await;
    }

    async fn read_database_id(&mut self) -> Result<String, BackendError> {
        self.run(|open| {
            open.explain_log()?;
            open.files.check()?;
            database_id(&open.connection)
        })
        .await
    }
}

impl OpenDatabase {
    /// Accepts a shorter log that still has all frames SQLite expects, as after a checkpoint. Only
    /// for use outside a transaction.
    fn explain_log(&self) -> Result<(), BackendError> {
        /// Bytes of the header of a log and of a frame (sqlite.org/fileformat.html, 4.1).
        const HEADERS: (u64, u64) = (32, 24);
        let Some(bytes) = self.files.shorter_log() else { return Ok(()) };
        let frames = |row: &rusqlite::Row<'_>| row.get::<_, i64>(1);
        let frames = self.connection.query_row("PRAGMA wal_checkpoint(NOOP)", [], frames)?;
        let page = self.connection.query_row("PRAGMA page_size", [], |row| row.get::<_, i64>(0))?;
        let (frames, page) = (u64::try_from(frames).unwrap_or(0), u64::try_from(page).unwrap_or(0));
        if frames == 0 || bytes >= HEADERS.0 + frames * (HEADERS.1 + page) {
            self.files.accept_log();
        }
        Ok(())
    }

    /// Keeps SQLite from applying the write-ahead log of a displaced database to the file that
    /// takes its place. Writes the log into the displaced database. If that was overwritten,
    /// renames the log instead.
    fn leave_no_log(&self) {
        let left = match self.files.newly_displaced() {
            None => return,
            Some(DisplacedFileError::Overwritten(_)) => self.set_log_aside(),
            Some(_) => self
                .connection
                .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
                .map_err(BackendError::from),
        };
        if let Err(error) = left {
            tracing::warn!(%error,
                "cannot remove the write-ahead log of the displaced database; remove it before a \
                restore");
        }
    }

    fn set_log_aside(&self) -> Result<(), BackendError> {
        self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        self.files.set_log_aside().map_err(|error| sqlx::Error::Io(error).into())
    }
}

fn database_id(connection: &Connection) -> Result<String, BackendError> {
    Ok(connection.prepare_cached(DATABASE_ID)?.query_row([], |row| row.get(0))?)
}

/// Checks that no table or column is missing.
fn check_schema(connection: &Connection) -> Result<(), BackendError> {
    let (needed, found) = (schema::required()?, schema::columns(connection)?);
    let has = |table: &str, column: &str| found.iter().any(|(t, c)| t == table && c == column);
    let is_table = |table: &str| found.iter().any(|(t, _)| t == table);
    let pairs = needed.tables.iter().zip(&needed.columns);
    let missing = pairs.filter(|(table, column)| !has(table, column));
    let missing =
        missing.map(|(table, column)| (table.clone(), is_table(table).then(|| column.clone())));
    schema::check_schema(missing.collect())
}

fn execute(connection: &Connection, statement: &str) -> Result<(), BackendError> {
    connection.prepare_cached(statement)?.execute([])?;
    Ok(())
}
