//! Session database: SQLite or PostgreSQL behind one interface.
//!
//! # Guarantees
//! - [`Store::apply_together`] runs one transaction. Each event with the outcome [`Applied::Done`]
//!   has a ledger row and its effect, both committed and synced. Every other event has neither
//!   (`worker_killed_in_mid_batch_loses_nothing`).
//! - Only the unique key of the ledger decides whether an event took effect. So redeliveries, claim
//!   races and replays change nothing (`second_delivery_is_known_and_changes_nothing`,
//!   `event_in_two_workers_at_once_takes_effect_once`).

mod batch;
mod duplicate_hint;
mod error;
mod ledger_retention;
mod locked_rows;
mod migrate;
mod postgres;
mod schema;
mod sqlite;
mod transaction_scope;
mod writer;

use std::time::Duration;

pub use batch::PlatformEvents;
pub use error::{BackendError, OpenError, StoreError};
pub use ledger_retention::{LedgerKey, LedgerPage};
pub use postgres::Postgres;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::value::RawValue;
use shared::platform::Platform;
pub use sqlite::{DisplacedFileError, Sqlite};
pub use transaction_scope::TransactionScope;

use crate::effects::{Applied, EventResult, PlannedEvent};

/// Limits of the store. The defaults are for production.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Time that SQLite waits for another writer.
    pub busy_timeout: Duration,
    /// PostgreSQL `statement_timeout`.
    pub statement_timeout: Duration,
    /// PostgreSQL `lock_timeout`.
    pub lock_timeout: Duration,
    /// PostgreSQL `idle_in_transaction_session_timeout`: the time for which a worker that froze in
    /// a transaction can hold its locks.
    pub idle_timeout: Duration,
    /// Longest time to connect.
    pub connect_timeout: Duration,
    /// Longest time for one [`Store::apply_together`].
    pub deadline: Duration,
    /// Creates a missing SQLite file. Otherwise opening it fails with [`OpenError::NoFile`].
    pub create_file: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            busy_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(10),
            // Delays other events when a locked row is met first. Transactions of other workers
            // take less.
            lock_timeout: Duration::from_millis(400),
            idle_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            deadline: Duration::from_secs(20),
            create_file: true,
        }
    }
}

/// Session database.
#[derive(Debug)]
pub enum Store {
    /// Embedded database.
    Sqlite(Box<Sqlite>),
    /// Database server.
    Postgres(Box<Postgres>),
}

impl Store {
    /// Connects, migrates under a lock, and checks the version of SQLite (3.51.3 or later) and that
    /// the database is a file.
    ///
    /// # Errors
    /// [`OpenError::Configuration`] and [`OpenError::Migration`] if a retry cannot help,
    /// [`OpenError::Unavailable`] if it may.
    pub async fn open(url: &SecretString, options: &StoreOptions) -> Result<Self, OpenError> {
        let url = url.expose_secret();
        match url.split_once(':').map(|(scheme, _)| scheme) {
            Some("sqlite") => Ok(Self::Sqlite(Box::new(Sqlite::open(url, options).await?))),
            Some("postgres" | "postgresql") => {
                Ok(Self::Postgres(Box::new(Postgres::open(url, options).await?)))
            }
            _ => {
                Err(OpenError::Configuration("must begin with sqlite:// or postgres://".to_owned()))
            }
        }
    }

    /// Returns the UUID of the database, which its first migration wrote. Two databases would be
    /// two ledgers.
    #[must_use]
    pub fn database_id(&self) -> &str {
        match self {
            Self::Sqlite(store) => &store.database_id,
            Self::Postgres(store) => &store.database_id,
        }
    }

    /// Commits a write of its own, and checks that no table, column or privilege is missing.
    ///
    /// # Errors
    /// Nearly always [`StoreError::Outage`].
    pub async fn probe(&self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(store) => store.writer.probe().await,
            Self::Postgres(store) => store.writer.probe().await,
        }
    }

    /// Checks that the open database is the one that was opened first, and that SQLite's files are
    /// in place.
    ///
    /// # Errors
    /// [`StoreError::Outage`] if it is not.
    pub async fn check_identity(&self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(store) => store.writer.check_identity().await,
            Self::Postgres(_) => Ok(()),
        }
    }

    /// Closes all connections. The last one of a SQLite database applies its write-ahead log and
    /// removes it. A displaced database leaves no log behind that SQLite would apply to another
    /// file.
    pub async fn close(&self) {
        let _ = self.check_identity().await;
        match self {
            Self::Sqlite(store) => {
                store.close_readers().await;
                store.writer.close().await;
            }
            Self::Postgres(store) => store.writer.close().await,
        }
    }

    /// Returns why nothing is committed until an operator acts: the open database is not the
    /// session database.
    #[must_use]
    pub fn wrong_database(&self) -> Option<String> {
        match self {
            Self::Sqlite(store) => store.writer.wrong_database(),
            Self::Postgres(store) => store.writer.wrong_database(),
        }
    }

    /// Returns the bytes of SQLite's write-ahead log, which grows during long reads. Returns 0 with
    /// PostgreSQL.
    #[must_use]
    pub fn wal_bytes(&self) -> u64 {
        match self {
            Self::Sqlite(store) => store.wal_bytes(),
            Self::Postgres(_) => 0,
        }
    }

    /// Returns true if a commit survives a power loss, as far as the disk obeys a sync. SQLite
    /// always does. PostgreSQL does by its settings `fsync` and `full_page_writes`.
    ///
    /// # Errors
    /// If the server cannot be queried.
    pub async fn is_durable(&self) -> Result<bool, StoreError> {
        match self {
            Self::Sqlite(_) => Ok(true),
            Self::Postgres(store) => store.is_durable().await,
        }
    }

    /// Returns which platforms may share a transaction. [`Self::apply_together`] gets any other
    /// platform alone.
    #[must_use]
    pub const fn transaction_scope(&self) -> TransactionScope {
        match self {
            Self::Sqlite(store) => store.writer.transaction_scope(),
            Self::Postgres(store) => store.writer.transaction_scope(),
        }
    }

    /// Applies the events of one platform with [`Self::apply_together`]. Their ids are distinct.
    ///
    /// # Errors
    /// As for [`Self::apply_together`].
    pub async fn apply(
        &self,
        platform: &Platform,
        batch: &[PlannedEvent],
    ) -> Result<Vec<Applied>, StoreError> {
        let applied = self.apply_together(&[PlatformEvents { platform, events: batch }]).await?;
        Ok(applied.into_iter().flatten().collect())
    }

    /// Applies the parts, in order of platform name, in one transaction. Returns an outcome for
    /// each event of each part. Safe to drop at any point. Calls run one after the other.
    ///
    /// # Errors
    /// No part took effect, or the result of a commit is unknown and the next call finds it out.
    /// [`StoreError::Outage`] if no event is to blame, [`StoreError::Rejected`] if an event of some
    /// part may be.
    pub async fn apply_together(
        &self,
        parts: &[PlatformEvents<'_>],
    ) -> Result<Vec<Vec<Applied>>, StoreError> {
        match self {
            Self::Sqlite(store) => store.writer.apply(parts).await,
            Self::Postgres(store) => store.writer.apply(parts).await,
        }
    }

    /// Returns the ledger's result of an event.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn result(
        &self,
        platform: &str,
        event_id: &str,
    ) -> Result<Option<EventResult>, StoreError> {
        if [platform, event_id].iter().any(|text| text.contains('\0')) {
            return Ok(None);
        }
        let text = match self {
            Self::Sqlite(store) => store.result(platform, event_id).await?,
            Self::Postgres(store) => store.result(platform, event_id).await?,
        };
        let result = text.map(|text| serde_json::from_str(&text)).transpose();
        result.map_err(|_| BackendError::Unreadable("result").into())
    }

    /// Returns a session's row as a JSON object with all documented columns. Times are RFC 3339
    /// with milliseconds.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn session(&self, room_id: &str) -> Result<Option<Box<RawValue>>, StoreError> {
        if room_id.contains('\0') {
            return Ok(None);
        }
        let text = match self {
            Self::Sqlite(store) => store.session(room_id).await?,
            Self::Postgres(store) => store.session(room_id).await?,
        };
        text.map(RawValue::from_string)
            .transpose()
            .map_err(|_| BackendError::Unreadable("session").into())
    }
}
