//! Reads and deletes old rows of the ledger, a page at a time.
//!
//! # Guarantees
//! - One statement deletes the rows, in a transaction of its own. It deletes only rows that are
//!   still as old as the caller has read (`ledger_rows_expire_unless_something_needs_them`).
//!
//! # Design
//! A page is read by key, so its cost does not depend on the length of the ledger.

use shared::event::Millis;

use super::{Store, StoreError};

/// Key of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerKey {
    /// Platform of the event.
    pub platform: String,
    /// Id of the event.
    pub event_id: String,
}

/// Rows of the ledger, in order of key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LedgerPage {
    /// Keys of the rows.
    pub keys: Vec<LedgerKey>,
    /// For each row, whether it was processed before the requested time.
    pub old: Vec<bool>,
}

impl Store {
    /// Returns up to `limit` rows after `after`, and which of them were processed before `before`.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn ledger_page(
        &self,
        after: Option<&LedgerKey>,
        before: Millis,
        limit: usize,
    ) -> Result<LedgerPage, StoreError> {
        let (platform, event_id) = after.map_or(("", ""), |key| (&key.platform, &key.event_id));
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows: Vec<(String, String, bool)> = match self {
            Self::Sqlite(store) => store.ledger_page(platform, event_id, before, limit).await?,
            Self::Postgres(store) => store.ledger_page(platform, event_id, before, limit).await?,
        };
        let mut page = LedgerPage::default();
        for (platform, event_id, old) in rows {
            page.keys.push(LedgerKey { platform, event_id });
            page.old.push(old);
        }
        Ok(page)
    }

    /// Deletes the rows of `platform` and `event_ids` that were processed before `before`. Returns
    /// their number.
    ///
    /// # Errors
    /// If the database cannot be written. All rows or none were deleted.
    pub async fn delete_from_ledger(
        &self,
        platform: &str,
        event_ids: &[String],
        before: Millis,
    ) -> Result<u64, StoreError> {
        match self {
            Self::Sqlite(store) => store.delete_from_ledger(platform, event_ids, before).await,
            Self::Postgres(store) => store.delete_from_ledger(platform, event_ids, before).await,
        }
    }
}
