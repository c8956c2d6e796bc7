//! The session database: SQLite or PostgreSQL behind one interface.
//!
//! Guarantee: [`Store::apply_together`] is one transaction. Of the events that it reports [`Applied::Done`], each has a ledger
//! row and its effect, both committed and synced; every other event has neither. Whether an event took effect is decided
//! by the ledger's unique key alone, so redelivery, claim races and replays change nothing.

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
pub use sqlite::{Displaced, Sqlite};
pub use transaction_scope::TransactionScope;

use crate::effects::{Applied, EventResult, PlannedEvent};

/// Bounds of the store; the defaults are for production.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// How long SQLite waits for another writer.
    pub busy_timeout: Duration,
    /// PostgreSQL `statement_timeout`.
    pub statement_timeout: Duration,
    /// PostgreSQL `lock_timeout`.
    pub lock_timeout: Duration,
    /// PostgreSQL `idle_in_transaction_session_timeout`: what a worker frozen in mid-transaction may hold up others.
    pub idle_timeout: Duration,
    /// Bound of connecting.
    pub connect_timeout: Duration,
    /// Bound of one [`Store::apply_together`], whatever the server does.
    pub deadline: Duration,
    /// Creates a SQLite file that does not exist. Else opening it is [`OpenError::NoFile`].
    pub create_file: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            busy_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(10),
            // Bounds the delay of other events when a held row is met first. Transactions of other
            // workers take less.
            lock_timeout: Duration::from_millis(400),
            idle_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            deadline: Duration::from_secs(20),
            create_file: true,
        }
    }
}

/// The session database.
#[derive(Debug)]
pub enum Store {
    /// Embedded.
    Sqlite(Box<Sqlite>),
    /// A server.
    Postgres(Box<Postgres>),
}

impl Store {
    /// Connects, migrates under a lock of our own, and checks what must hold (SQLite ≥ 3.51.3, a file).
    ///
    /// # Errors
    /// [`OpenError::Configuration`] and [`OpenError::Migration`] where trying again cannot help,
    /// [`OpenError::Unavailable`] where it can.
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

    /// The database's own UUID, written by its first migration run (two databases would mean two ledgers).
    #[must_use]
    pub fn database_id(&self) -> &str {
        match self {
            Self::Sqlite(store) => &store.database_id,
            Self::Postgres(store) => &store.database_id,
        }
    }

    /// Commits a write of its own, and checks that no table or column is missing.
    ///
    /// # Errors
    /// Practically always [`StoreError::Outage`].
    pub async fn probe(&self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(store) => store.writer.probe().await,
            Self::Postgres(store) => store.writer.probe().await,
        }
    }

    /// Checks that SQLite's files are the ones that were opened. PostgreSQL has no such files.
    ///
    /// # Errors
    /// [`StoreError::Outage`] when they are not.
    pub async fn check_identity(&self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(store) => store.writer.check_identity().await,
            Self::Postgres(_) => Ok(()),
        }
    }

    /// Closes all connections. The last one of a SQLite database applies its write-ahead log and
    /// removes it. A displaced one leaves no log behind that SQLite would apply to another file.
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

    /// Reason why nothing is committed until an operator acts: the open database is not the session
    /// database.
    #[must_use]
    pub fn wrong_database(&self) -> Option<String> {
        match self {
            Self::Sqlite(store) => store.writer.wrong_database(),
            Self::Postgres(store) => store.writer.wrong_database(),
        }
    }

    /// Bytes of SQLite's write-ahead log, which grows while somebody reads without end; 0 with PostgreSQL.
    #[must_use]
    pub fn wal_bytes(&self) -> u64 {
        match self {
            Self::Sqlite(store) => store.wal_bytes(),
            Self::Postgres(_) => 0,
        }
    }

    /// Whether a commit survives a power loss, as far as the disk honours a sync: always with SQLite, with PostgreSQL by
    /// the server's `fsync` and `full_page_writes`.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn is_durable(&self) -> Result<bool, StoreError> {
        match self {
            Self::Sqlite(_) => Ok(true),
            Self::Postgres(store) => store.is_durable().await,
        }
    }

    /// Which platforms' events may share a transaction: of others, [`Self::apply_together`] gets one part at a time.
    #[must_use]
    pub const fn transaction_scope(&self) -> TransactionScope {
        match self {
            Self::Sqlite(store) => store.writer.transaction_scope(),
            Self::Postgres(store) => store.writer.transaction_scope(),
        }
    }

    /// Applies a batch of one platform, folded by event id: [`Self::apply_together`] with one part.
    ///
    /// # Errors
    /// As there.
    pub async fn apply(
        &self,
        platform: &Platform,
        batch: &[PlannedEvent],
    ) -> Result<Vec<Applied>, StoreError> {
        let applied = self.apply_together(&[PlatformEvents { platform, events: batch }]).await?;
        Ok(applied.into_iter().flatten().collect())
    }

    /// Applies the parts, in order of platform name, in one transaction; the answer has their lengths and order. Safe to
    /// drop at any point; calls take turns.
    ///
    /// # Errors
    /// Nothing of any part took effect, or (lost commit) applying it again finds out: [`StoreError::Outage`] where no
    /// event is to blame, [`StoreError::Rejected`] where one may be, of whichever part.
    pub async fn apply_together(
        &self,
        parts: &[PlatformEvents<'_>],
    ) -> Result<Vec<Vec<Applied>>, StoreError> {
        match self {
            Self::Sqlite(store) => store.writer.apply(parts).await,
            Self::Postgres(store) => store.writer.apply(parts).await,
        }
    }

    /// What the ledger says of an event.
    ///
    /// # Errors
    /// As the database's.
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

    /// A session's row as a JSON object: every documented column, times RFC 3339 with milliseconds.
    ///
    /// # Errors
    /// As the database's.
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
