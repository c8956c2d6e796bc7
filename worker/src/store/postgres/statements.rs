//! Runs the statements of a transaction: begin, read, commit, and the query for locked rows.

use std::collections::HashSet;

use shared::event::Millis;
use shared::platform::SessionScope;
use sqlx::{Connection as _, PgConnection};
use time::OffsetDateTime;

use super::sql::{
    CHATS, CONTENTS, JOBS, LEDGER, LOCKED_CHATS, LOCKED_CONTENTS, LOCKED_JOBS, LOCKED_RECORDINGS,
    LOCKED_SESSIONS, PROBE, RECORDINGS, SESSIONS_BY_EITHER, SESSIONS_BY_ROOM,
};
use super::writes::write;
use crate::effects::{
    ChatRow, ContentRow, JobRow, Reach, RecordingRow, RowKeys, SessionRow, VersionGuards,
    WrittenColumns,
};
use crate::store::batch::{LoadedRows, RowChanges, RowQuery, StoredLedgerRow, Transact};
use crate::store::error::BackendError;
use crate::store::locked_rows::{LockedRow, PlatformTable};
use crate::store::migrate::DATABASE_ID;

type SessionColumns = (String, String, String, String, Option<String>, Option<String>, String, i64);
type RecordingColumns =
    (String, Option<String>, String, Option<String>, Option<f64>, Option<i64>, String);
type ContentColumns = (String, Option<String>, Option<String>, String, String);
type JobColumns = (
    String,
    String,
    Option<f64>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<i64>,
    String,
);
type ChatColumns = (
    String,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    OffsetDateTime,
    String,
);

impl Transact for PgConnection {
    async fn is_alive(&mut self) -> bool {
        self.ping().await.is_ok()
    }

    async fn begin(&mut self, first: &RowQuery<'_>) -> Result<LoadedRows, BackendError> {
        sqlx::raw_sql("BEGIN").execute(&mut *self).await?;
        load(self, first, lock_first_sessions).await
    }

    async fn write_then_read(
        &mut self,
        changes: &RowChanges<'_>,
        next: &RowQuery<'_>,
    ) -> Result<Option<LoadedRows>, BackendError> {
        if write(self, changes).await? {
            load(self, next, lock_next_sessions).await.map(Some)
        } else {
            Ok(None)
        }
    }

    async fn commit(&mut self, changes: &RowChanges<'_>) -> Result<bool, BackendError> {
        let all = write(self, changes).await?;
        if all {
            sqlx::raw_sql("COMMIT").execute(self).await?;
        }
        Ok(all)
    }

    /// Outside a transaction, the server would log a warning.
    async fn rollback(&mut self, begun: bool) -> Result<(), BackendError> {
        if begun {
            sqlx::raw_sql("ROLLBACK").execute(self).await?;
        }
        Ok(())
    }

    async fn probe(&mut self, now: Millis) -> Result<(), BackendError> {
        sqlx::query(PROBE).bind(shared::clock::rfc3339(now)).execute(&mut *self).await?;
        super::check_schema(self).await
    }

    async fn clear_statements(&mut self) -> Result<(), BackendError> {
        Ok(self.clear_cached_statements().await?)
    }

    async fn close(self) {
        let _ = sqlx::Connection::close(self).await;
    }

    async fn read_database_id(&mut self) -> Result<String, BackendError> {
        Ok(sqlx::query_scalar(DATABASE_ID).fetch_one(self).await?)
    }

    async fn locked_rows(
        &mut self,
        RowQuery { platform, row_keys, .. }: &RowQuery<'_>,
    ) -> Result<Vec<LockedRow>, BackendError> {
        let mut locked = Vec::new();
        if !row_keys.rooms.is_empty() || !row_keys.live_streams.is_empty() {
            let streams: Vec<&str> =
                row_keys.live_streams.iter().map(|(stream, _)| *stream).collect();
            let sessions = sqlx::query_as(LOCKED_SESSIONS).bind(&row_keys.rooms).bind(streams);
            let rows: Vec<(String, Option<String>, Option<String>)> =
                sessions.fetch_all(&mut *self).await?;
            for (room, live, egress) in rows {
                locked.push(LockedRow::Room(room));
                locked.extend([live, egress].into_iter().flatten().map(LockedRow::LiveStream));
            }
        }
        for (table, statement, keys) in [
            (PlatformTable::Recordings, LOCKED_RECORDINGS, &row_keys.recordings),
            (PlatformTable::Contents, LOCKED_CONTENTS, &row_keys.contents),
            (PlatformTable::Jobs, LOCKED_JOBS, &row_keys.jobs),
            (PlatformTable::Chats, LOCKED_CHATS, &row_keys.chats),
        ] {
            if keys.is_empty() {
                continue;
            }
            let ids: Vec<String> = sqlx::query_scalar(statement)
                .bind(platform)
                .bind(keys)
                .fetch_all(&mut *self)
                .await?;
            locked.extend(
                ids.into_iter().map(|id| LockedRow::OfPlatform(table, (*platform).to_owned(), id)),
            );
        }
        Ok(locked)
    }
}

/// Reads all rows of a part. `sessions` reads the sessions, if any are needed.
async fn load(
    connection: &mut PgConnection,
    RowQuery { platform, ids, row_keys, scope }: &RowQuery<'_>,
    sessions: impl AsyncFnOnce(
        &mut PgConnection,
        &RowKeys<'_>,
        Reach<'_>,
    ) -> Result<Vec<SessionColumns>, BackendError>,
) -> Result<LoadedRows, BackendError> {
    let mut loaded =
        LoadedRows { ledger: ledger(connection, platform, ids).await?, ..LoadedRows::default() };
    if !row_keys.rooms.is_empty() || !row_keys.live_streams.is_empty() {
        loaded.sessions = sessions(connection, row_keys, Reach { platform, scope: *scope })
            .await?
            .into_iter()
            .map(session_row)
            .collect();
    }
    if !row_keys.recordings.is_empty() {
        loaded.recordings = recordings(connection, platform, &row_keys.recordings).await?;
    }
    if !row_keys.contents.is_empty() {
        loaded.contents = contents(connection, platform, &row_keys.contents).await?;
    }
    if !row_keys.jobs.is_empty() {
        loaded.jobs = jobs(connection, platform, &row_keys.jobs).await?;
    }
    if !row_keys.chats.is_empty() {
        loaded.chats = chats(connection, platform, &row_keys.chats).await?;
    }
    Ok(loaded)
}

async fn ledger(
    connection: &mut PgConnection,
    platform: &str,
    ids: &[&str],
) -> Result<Vec<StoredLedgerRow>, BackendError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<(String, String, String)> =
        sqlx::query_as(LEDGER).bind(platform).bind(ids).fetch_all(connection).await?;
    Ok(rows
        .into_iter()
        .map(|(event_id, origin, result)| StoredLedgerRow { event_id, origin, result })
        .collect())
}

/// Locks the sessions of a transaction's first part. Locks by room if that is enough. Otherwise
/// releases these locks and takes all of them again in their order, which is safe because the
/// transaction has read nothing else.
async fn lock_first_sessions(
    connection: &mut PgConnection,
    row_keys: &RowKeys<'_>,
    reach: Reach<'_>,
) -> Result<Vec<SessionColumns>, BackendError> {
    let by_stream_alone = row_keys.live_streams.iter().any(|(_, room)| room.is_none());
    if by_stream_alone {
        return sessions_by_either(connection, row_keys).await;
    }
    let rows: Vec<SessionColumns> =
        sqlx::query_as(SESSIONS_BY_ROOM).bind(&row_keys.rooms).fetch_all(&mut *connection).await?;
    let reached = rows.iter().filter(|row| reach.includes(&row.1, read_scope(&row.2)));
    let found: HashSet<&str> = reached.map(|row| row.0.as_str()).collect();
    if row_keys.live_streams.iter().all(|(_, room)| room.is_some_and(|room| found.contains(room))) {
        return Ok(rows);
    }
    sqlx::raw_sql("ROLLBACK; BEGIN").execute(&mut *connection).await?;
    sessions_by_either(connection, row_keys).await
}

/// Locks the sessions of a later part in one statement. The locks and writes of earlier parts stay.
async fn lock_next_sessions(
    connection: &mut PgConnection,
    row_keys: &RowKeys<'_>,
    _: Reach<'_>,
) -> Result<Vec<SessionColumns>, BackendError> {
    if row_keys.live_streams.is_empty() {
        return Ok(sqlx::query_as(SESSIONS_BY_ROOM)
            .bind(&row_keys.rooms)
            .fetch_all(connection)
            .await?);
    }
    sessions_by_either(connection, row_keys).await
}

async fn sessions_by_either(
    connection: &mut PgConnection,
    row_keys: &RowKeys<'_>,
) -> Result<Vec<SessionColumns>, BackendError> {
    let mut streams: Vec<&str> = row_keys.live_streams.iter().map(|(stream, _)| *stream).collect();
    streams.dedup();
    Ok(sqlx::query_as(SESSIONS_BY_EITHER)
        .bind(&row_keys.rooms)
        .bind(&streams)
        .fetch_all(connection)
        .await?)
}

fn session_row(columns: SessionColumns) -> SessionRow {
    let (room_id, platform, scope, status, live, egress, guards, created_at) = columns;
    SessionRow {
        room_id,
        platform,
        scope: read_scope(&scope),
        status: status.parse().ok(),
        live_stream_id: live,
        egress_live_stream_id: egress,
        created_at,
        guards: VersionGuards::parse(&guards),
        written: WrittenColumns::default(),
    }
}

async fn recordings(
    connection: &mut PgConnection,
    platform: &str,
    ids: &[&str],
) -> Result<Vec<RecordingRow>, BackendError> {
    let rows: Vec<RecordingColumns> =
        sqlx::query_as(RECORDINGS).bind(platform).bind(ids).fetch_all(connection).await?;
    let row = |(recording_id, room_id, state, url, duration_seconds, size_bytes,
        guards): RecordingColumns| {
        let (state, guards) = (state.parse().ok(), VersionGuards::parse(&guards));
        RecordingRow { recording_id, room_id, state, url, duration_seconds, size_bytes, guards }
    };
    Ok(rows.into_iter().map(row).collect())
}

async fn contents(
    connection: &mut PgConnection,
    platform: &str,
    ids: &[&str],
) -> Result<Vec<ContentRow>, BackendError> {
    let rows: Vec<ContentColumns> =
        sqlx::query_as(CONTENTS).bind(platform).bind(ids).fetch_all(connection).await?;
    let row = |(content_id, title, content_type, state, guards): ContentColumns| {
        let (state, guards) = (state.parse().ok(), VersionGuards::parse(&guards));
        ContentRow { content_id, title, content_type, state, data: None, guards }
    };
    Ok(rows.into_iter().map(row).collect())
}

async fn jobs(
    connection: &mut PgConnection,
    platform: &str,
    ids: &[&str],
) -> Result<Vec<JobRow>, BackendError> {
    let rows: Vec<JobColumns> =
        sqlx::query_as(JOBS).bind(platform).bind(ids).fetch_all(connection).await?;
    let row = |columns: JobColumns| {
        let (job_id, status, progress, current_step, video_url, error, retry_count, guards) =
            columns;
        let guards = VersionGuards::parse(&guards);
        JobRow {
            job_id,
            status,
            progress,
            current_step,
            video_url,
            error,
            retry_count,
            data: None,
            guards,
        }
    };
    Ok(rows.into_iter().map(row).collect())
}

async fn chats(
    connection: &mut PgConnection,
    platform: &str,
    ids: &[&str],
) -> Result<Vec<ChatRow>, BackendError> {
    let rows: Vec<ChatColumns> =
        sqlx::query_as(CHATS).bind(platform).bind(ids).fetch_all(connection).await?;
    let row = |(message_id, room_id, user_id, user_name, message, sent_at, guards): ChatColumns| {
        let sent_at =
            i64::try_from(sent_at.unix_timestamp_nanos().div_euclid(1_000_000)).unwrap_or(0);
        ChatRow {
            message_id,
            room_id,
            user_id,
            user_name,
            message,
            sent_at,
            guards: VersionGuards::parse(&guards),
        }
    };
    Ok(rows.into_iter().map(row).collect())
}

fn read_scope(text: &str) -> SessionScope {
    if text == "own" { SessionScope::Own } else { SessionScope::Shared }
}
