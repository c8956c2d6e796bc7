//! Implements [`Store::ledger_page`](super::super::Store::ledger_page) and
//! [`Store::delete_from_ledger`](super::super::Store::delete_from_ledger) on the connections for
//! readers. A deletion waits for the writer's transaction, as any other writer does.

use shared::clock::rfc3339;
use shared::event::Millis;

use super::Sqlite;
use crate::store::StoreError;
use crate::store::error::BackendError;

const PAGE: &str = "SELECT platform, event_id, processed_at < ?3 FROM webhook_events \
    WHERE (platform, event_id) > (?1, ?2) ORDER BY platform, event_id LIMIT ?4";

const FORGET: &str = "DELETE FROM webhook_events WHERE platform = ?1 \
    AND event_id IN (SELECT value FROM json_each(?2)) AND processed_at < ?3";

impl Sqlite {
    pub(in crate::store) async fn ledger_page(
        &self,
        platform: &str,
        event_id: &str,
        before: Millis,
        limit: i64,
    ) -> Result<Vec<(String, String, bool)>, StoreError> {
        let page =
            sqlx::query_as(PAGE).bind(platform).bind(event_id).bind(rfc3339(before)).bind(limit);
        Ok(page.fetch_all(self.readers()?).await?)
    }

    pub(in crate::store) async fn delete_from_ledger(
        &self,
        platform: &str,
        event_ids: &[String],
        before: Millis,
    ) -> Result<u64, StoreError> {
        let ids =
            serde_json::to_string(event_ids).map_err(|_| BackendError::Unreadable("event id"))?;
        let forget = sqlx::query(FORGET).bind(platform).bind(ids).bind(rfc3339(before));
        Ok(forget.execute(self.readers()?).await?.rows_affected())
    }
}
