//! Forgetting rows of the ledger, a few at a time.
//!
//! Guarantee: a page is read by key, so it costs the same however long the ledger is; what is deleted is deleted by one
//! statement, which is its own transaction, and only where it is still as old as the caller has seen.

use shared::event::Millis;

use super::{Store, StoreError};

/// The key of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerKey {
    /// Whose event.
    pub platform: String,
    /// Which.
    pub event_id: String,
}

/// Some rows of the ledger, in order of key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LedgerPage {
    /// Their keys.
    pub keys: Vec<LedgerKey>,
    /// Whether each was processed before the time that was asked about.
    pub old: Vec<bool>,
}

impl Store {
    /// Up to `most` rows behind `after`, and which of them were processed before `before`.
    ///
    /// # Errors
    /// As the database's.
    pub async fn ledger_page(
        &self,
        after: Option<&LedgerKey>,
        before: Millis,
        most: usize,
    ) -> Result<LedgerPage, StoreError> {
        let (platform, event_id) = after.map_or(("", ""), |key| (&key.platform, &key.event_id));
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let rows: Vec<(String, String, bool)> = match self {
            Self::Sqlite(store) => store.ledger_page(platform, event_id, before, most).await?,
            Self::Postgres(store) => store.ledger_page(platform, event_id, before, most).await?,
        };
        let mut page = LedgerPage::default();
        for (platform, event_id, old) in rows {
            page.keys.push(LedgerKey { platform, event_id });
            page.old.push(old);
        }
        Ok(page)
    }

    /// Deletes those rows of `platform` that were processed before `before`; how many.
    ///
    /// # Errors
    /// As the database's; then none was deleted, or all were.
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
