//! Classifies database errors: an outage pauses the consume loop, a rejection may dead-letter an
//! event. A doubtful error counts as an outage.
//!
//! # Guarantees
//! - An error that would occur without the event too is never [`StoreError::Rejected`]. Such are
//!   lost connections, unknown commits, timeouts, locks, a full or read-only database, and a
//!   missing table (`postgres_outages_blame_no_event`, `sqlite_outages_blame_no_event`).
//! - Only errors about *values* may blame an event: data exceptions, constraints, limits, an
//!   application's trigger (`refusal_by_trigger_or_policy_is_no_outage`).

use std::error::Error as _;
use std::path::PathBuf;
use std::time::Duration;

use sqlx::postgres::PgDatabaseError;

use super::sqlite::DisplacedFileError;

/// Reason why a transaction did not commit, or may not have.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No event is to blame. The caller retries.
    #[error("the session database is unavailable")]
    Outage(#[source] BackendError),
    /// An event of the batch may be to blame. Nothing was committed.
    #[error("the session database rejected the batch")]
    Rejected(#[source] BackendError),
}

/// Source of a [`StoreError`].
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// Error of the database. Its text may quote values, so it is for logs only, never for a
    /// response.
    #[error("{}", describe(.0))]
    Database(sqlx::Error),
    /// A table, column or privilege is missing. The text names it.
    #[error("the schema is not complete: {0}")]
    Schema(String),
    /// Error of the SQLite connection that writes.
    #[error(transparent)]
    Rusqlite(#[from] rusqlite::Error),
    /// The thread that writes to SQLite has ended.
    #[error("the SQLite thread has ended")]
    ThreadEnded,
    /// A stored value cannot be parsed.
    #[error("a stored {0} cannot be read")]
    Unreadable(&'static str),
    /// The deadline of a call passed. The commit may have happened.
    #[error("no answer within {0:?}")]
    Deadline(Duration),
    /// Other workers were faster several times in a row.
    #[error("lost {0} races against other workers")]
    Contended(u32),
    /// A write changed no row and raised no error.
    #[error("the {0} changed no row; a trigger, rule or row-level security may have suppressed it")]
    Suppressed(&'static str),
    /// The open SQLite file is not the file at its path.
    #[error(transparent)]
    Displaced(#[from] DisplacedFileError),
    /// The database is not the one that was opened first.
    #[error("this is session database {found}, no longer {expected}")]
    OtherDatabase {
        /// UUID of the first database.
        expected: String,
        /// UUID of this database.
        found: String,
    },
}

/// Reason why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A retry cannot help. The text never holds the URL, which may hold a password.
    #[error("DATABASE_URL: {0}")]
    Configuration(String),
    /// The SQLite file is missing or empty, and [`super::StoreOptions::create_file`] is off.
    #[error("DATABASE_URL: the file {} does not exist or is empty", .0.display())]
    NoFile(PathBuf),
    /// The migrations in the database are not those of this program. A retry cannot help.
    #[error("the session database's migrations do not fit this version: {0}")]
    Migration(String),
    /// A retry may help.
    #[error(transparent)]
    Unavailable(#[from] StoreError),
}

impl StoreError {
    /// Returns the source of the error.
    #[must_use]
    pub const fn cause(&self) -> &BackendError {
        match self {
            Self::Outage(cause) | Self::Rejected(cause) => cause,
        }
    }

    /// Returns true if a part of the schema is missing. Only [`super::Store::probe`] finds out when
    /// it is there again.
    #[must_use]
    pub const fn is_schema_error(&self) -> bool {
        matches!(self.cause(), BackendError::Schema(_))
    }

    /// Returns true if a lock of another transaction was in the way.
    #[must_use]
    pub fn is_lock_timeout(&self) -> bool {
        matches!(self, Self::Outage(cause) if cause.is_lock_timeout())
    }
}

impl From<BackendError> for StoreError {
    fn from(cause: BackendError) -> Self {
        if cause.may_be_caused_by_event() { Self::Rejected(cause) } else { Self::Outage(cause) }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        BackendError::from(error).into()
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        BackendError::from(error).into()
    }
}

impl From<sqlx::migrate::MigrateError> for OpenError {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        use sqlx::migrate::MigrateError;
        match error {
            MigrateError::Execute(error) => Self::Unavailable(error.into()),
            MigrateError::ExecuteMigration(error, version) if blames_statement(&error) => {
                Self::Migration(format!("migration {version}: {}", describe(&error)))
            }
            MigrateError::ExecuteMigration(error, _) => Self::Unavailable(error.into()),
            other => Self::Migration(other.to_string()),
        }
    }
}

impl From<sqlx::Error> for BackendError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

/// Formats the error with its sources, but without the place in PostgreSQL's source code.
fn describe(error: &sqlx::Error) -> String {
    if let sqlx::Error::Database(error) = error {
        let code = error.code().unwrap_or_default();
        let kind = error.try_downcast_ref::<PgDatabaseError>().map_or("code", |_| "SQLSTATE");
        let raised =
            error.try_downcast_ref::<PgDatabaseError>().and_then(raised_in).unwrap_or_default();
        return format!("{} ({kind} {code}){raised}", error.message());
    }
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.map(ToString::to_string).fold(error.to_string(), |text, cause| {
        if text.ends_with(&cause) { text } else { format!("{text}: {cause}") }
    })
}

/// Returns the application's function that raised the error, unless its context may quote values.
fn raised_in(error: &PgDatabaseError) -> Option<String> {
    let is_of_a_function =
        error.routine() == Some("exec_stmt_raise") || fails_within_function(error.code());
    let outermost = error.r#where().filter(|_| is_of_a_function)?.lines().last()?;
    Some(format!(" in {outermost}"))
}

/// Returns true if a statement of a migration can never run here. That is class 42 of PostgreSQL
/// except for a missing privilege, which may be granted, and ERROR of SQLite.
fn blames_statement(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else { return false };
    let code = error.code().unwrap_or_default();
    match error.try_downcast_ref::<PgDatabaseError>() {
        Some(_) => code.starts_with("42") && code != "42501",
        None => code == "1",
    }
}

impl BackendError {
    pub(super) fn may_be_caused_by_event(&self) -> bool {
        match self {
            Self::Database(sqlx::Error::Database(error)) => {
                let code = error.code().unwrap_or_default();
                if let Some(error) = error.try_downcast_ref::<PgDatabaseError>() {
                    postgres_blames_values(&code)
                        || postgres_refuses_row(&code, error.routine())
                        || (error.r#where().is_some() && fails_within_function(&code))
                } else {
                    code.parse().is_ok_and(sqlite_blames_values)
                }
            }
            // An application may have written a value that cannot be read. Only the events of that
            // session must suffer.
            Self::Database(
                sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::Encode(_),
            )
            | Self::Unreadable(_)
            | Self::Suppressed(_) => true,
            Self::Rusqlite(rusqlite::Error::SqliteFailure(failure, _)) => {
                sqlite_blames_values(failure.extended_code)
            }
            Self::Rusqlite(
                rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::Utf8Error(..),
            ) => true,
            Self::Database(_)
            | Self::Rusqlite(_)
            | Self::ThreadEnded
            | Self::Deadline(_)
            | Self::Contended(_)
            | Self::Schema(_)
            | Self::Displaced(_)
            | Self::OtherDatabase { .. } => false,
        }
    }

    /// Returns what an operator has to do if the database is not the one that was opened first.
    pub(super) const fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Displaced(_) => Some(
                "put the file back, or stop all workers, restore it as docs/operate/backup.md says, \
                 and start them",
            ),
            Self::OtherDatabase { .. } => Some(
                "point DATABASE_URL at the former database, or restart one worker with \
                 --adopt-database",
            ),
            _ => None,
        }
    }

    /// Returns true if statements prepared before a change of the schema may be the cause. Their
    /// result has another type, they are gone, or a dropped rule left them an empty plan.
    pub(super) fn may_be_stale_statement(&self) -> bool {
        match self {
            Self::Database(sqlx::Error::Database(error)) => {
                error.try_downcast_ref::<PgDatabaseError>().is_some()
                    && matches!(error.code().as_deref(), Some("0A000" | "26000"))
            }
            Self::Suppressed(_) => true,
            _ => false,
        }
    }

    /// Returns true if the lock timeout has passed.
    pub(super) fn is_lock_timeout(&self) -> bool {
        matches!(self,
            Self::Database(sqlx::Error::Database(error)) if error.code().as_deref() == Some(
                "55P03"))
    }

    /// Returns true if the database aborted this transaction in favor of another one, so that it
    /// may run again at once.
    pub(super) fn is_lost_race(&self) -> bool {
        match self {
            Self::Database(sqlx::Error::Database(error)) => {
                error.try_downcast_ref::<PgDatabaseError>().is_some()
                    && matches!(error.code().as_deref(), Some("40001" | "40P01"))
            }
            _ => false,
        }
    }
}

/// Returns true for an SQLSTATE class about values: cardinality, data exception, integrity,
/// triggered data change, check option, program limit. Also for those that an application's trigger
/// raises, and for errors in its code.
fn postgres_blames_values(sqlstate: &str) -> bool {
    const CLASSES: [&str; 10] = ["21", "22", "23", "27", "2F", "38", "39", "44", "54", "P0"];
    sqlstate.get(..2).is_some_and(|class| CLASSES.contains(&class))
}

/// Returns true for an SQLSTATE of an error with a context, if an application's trigger cannot run
/// its own statements. Statements of this program have no context. [`super::Store::probe`] reports
/// what they miss.
fn fails_within_function(sqlstate: &str) -> bool {
    const CLASSES: [&str; 8] = ["0A", "24", "26", "2D", "34", "3B", "3F", "42"];
    sqlstate == "55000" || sqlstate.get(..2).is_some_and(|class| CLASSES.contains(&class))
}

/// Decides by the server's function that raised the error. `RAISE` in a trigger may have any
/// SQLSTATE. A row-level security policy has the SQLSTATE of a missing privilege. Class 40 asks for
/// another run, which a trigger has had by then: see [`BackendError::is_lost_race`].
fn postgres_refuses_row(sqlstate: &str, routine: Option<&str>) -> bool {
    const OUTAGES: [&str; 3] = ["53", "55", "57"];
    let outage = sqlstate.get(..2).is_some_and(|class| OUTAGES.contains(&class));
    match routine {
        Some("exec_stmt_raise") => !outage,
        Some("ExecWithCheckOptions") => true,
        _ => false,
    }
}

/// Returns true for a primary result code about values: TOOBIG, CONSTRAINT, MISMATCH, RANGE.
fn sqlite_blames_values(code: i32) -> bool {
    matches!(code & 0xff, 18 | 19 | 20 | 25)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn postgres_outages_blame_no_event() {
        let outages = [
            "08006", "08P01", "25006", "25P03", "28P01", "3D000", "40001", "40P01", "42501",
            "42P01", "53100", "53200", "53300", "55P03", "57014", "57P01", "57P03", "58030",
            "XX000", "XX001", "",
        ];
        for code in outages {
            assert!(!postgres_blames_values(code), "{code}");
        }
        for code in ["22001", "22021", "22P05", "23502", "23505", "54000", "P0001"] {
            assert!(postgres_blames_values(code), "{code}");
        }
    }

    #[test]
    fn refusal_by_trigger_or_policy_is_no_outage() {
        for (code, routine, refused) in [
            ("42501", "ExecWithCheckOptions", true),
            ("42501", "aclcheck_error", false),
            ("MYAPP", "exec_stmt_raise", true),
            ("40001", "exec_stmt_raise", true),
            ("40001", "ExecUpdate", false),
            ("55P03", "exec_stmt_raise", false),
            ("42P01", "parserOpenTable", false),
        ] {
            assert_eq!(postgres_refuses_row(code, Some(routine)), refused, "{code} {routine}");
        }
        assert!(!postgres_refuses_row("42501", None));
    }

    #[test]
    fn sqlite_outages_blame_no_event() {
        // ERROR, PERM, BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, CORRUPT, FULL, CANTOPEN,
        // PROTOCOL, SCHEMA, NOTADB; BUSY_RECOVERY, BUSY_SNAPSHOT, IOERR_FSYNC, READONLY_DBMOVED.
        for code in [1, 3, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 17, 26, 261, 517, 1034, 1032] {
            assert!(!sqlite_blames_values(code), "{code}");
        }
        // TOOBIG, CONSTRAINT, MISMATCH; CONSTRAINT_CHECK, CONSTRAINT_DATATYPE, CONSTRAINT_TRIGGER.
        for code in [18, 19, 20, 275, 3091, 1811] {
            assert!(sqlite_blames_values(code), "{code}");
        }
    }

    #[test]
    fn failure_before_the_database_is_an_outage() {
        for error in
            [sqlx::Error::PoolTimedOut, sqlx::Error::PoolClosed, sqlx::Error::WorkerCrashed]
        {
            assert!(matches!(StoreError::from(error), StoreError::Outage(_)));
        }
        let lost = sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        assert!(matches!(StoreError::from(lost), StoreError::Outage(_)));
        assert!(matches!(
            StoreError::from(BackendError::Deadline(Duration::ZERO)),
            StoreError::Outage(_)
        ));
    }
}
