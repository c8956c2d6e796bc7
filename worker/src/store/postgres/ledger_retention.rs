//! Implements [`Store::ledger_page`](super::super::Store::ledger_page) and
//! [`Store::delete_from_ledger`](super::super::Store::delete_from_ledger).

use shared::event::Millis;
use time::OffsetDateTime;

use super::Postgres;
use crate::store::StoreError;

const PAGE: &str = "SELECT platform, event_id, processed_at < $3 FROM webhook_events \
    WHERE (platform, event_id) > ($1, $2) ORDER BY platform, event_id LIMIT $4";

const FORGET: &str =
    "DELETE FROM webhook_events WHERE platform = $1 AND event_id = ANY($2) AND processed_at < $3";

impl Postgres {
    pub(in crate::store) async fn ledger_page(
        &self,
        platform: &str,
        event_id: &str,
        before: Millis,
        limit: i64,
    ) -> Result<Vec<(String, String, bool)>, StoreError> {
        let page =
            sqlx::query_as(PAGE).bind(platform).bind(event_id).bind(instant(before)).bind(limit);
        Ok(page.fetch_all(&self.readers).await?)
    }

    pub(in crate::store) async fn delete_from_ledger(
        &self,
        platform: &str,
        event_ids: &[String],
        before: Millis,
    ) -> Result<u64, StoreError> {
        let forget = sqlx::query(FORGET).bind(platform).bind(event_ids).bind(instant(before));
        Ok(forget.execute(&self.readers).await?.rows_affected())
    }
}

fn instant(at: Millis) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at) * 1_000_000)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
