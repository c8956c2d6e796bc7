//! The statements of a batch, with what goes into them and what comes out.

use std::collections::HashSet;

use shared::event::Millis;
use shared::platform::SessionScope;
use sqlx::{Connection as _, PgConnection};
use time::OffsetDateTime;

use super::texts::{
    CHATS, CONTENTS, INSERT_CHATS, INSERT_CONTENTS, INSERT_JOBS, INSERT_LEDGER, INSERT_NEW_LEDGER,
    INSERT_RECORDINGS, INSERT_SESSIONS, JOBS, LEDGER, PROBE, RECORDINGS, SESSIONS_BY_EITHER, SESSIONS_BY_ROOM,
    UPDATE_CHATS, UPDATE_CONTENTS, UPDATE_JOBS, UPDATE_RECORDINGS, UPDATE_SESSIONS,
};
use crate::effects::{ChatRow, ContentRow, Guards, JobRow, Needs, RecordingRow, SessionRow, Written};
use crate::store::batch::{Changes, Effective, Ledger, LedgerRow, Loaded, Transact, Wanted};
use crate::store::error::Cause;

type SessionColumns = (String, String, String, String, Option<String>, Option<String>, String, i64);
type RecordingColumns = (String, Option<String>, String, Option<String>, Option<f64>, Option<i64>, String);
type ContentColumns = (String, Option<String>, Option<String>, String, String);
type JobColumns =
    (String, String, Option<f64>, Option<String>, Option<String>, Option<String>, Option<i64>, String);
type ChatColumns = (String, String, Option<String>, Option<String>, Option<String>, OffsetDateTime, String);

impl Transact for PgConnection {
    async fn is_alive(&mut self) -> bool {
        self.ping().await.is_ok()
    }

    async fn begin(&mut self, first: &Wanted<'_>) -> Result<Loaded, Cause> {
        sqlx::raw_sql("BEGIN").execute(&mut *self).await?;
        load(self, first, sessions_anew).await
    }

    async fn go_on(&mut self, changes: &Changes<'_>, next: &Wanted<'_>) -> Result<Option<Loaded>, Cause> {
        if write(self, changes).await? { load(self, next, sessions_at_once).await.map(Some) } else { Ok(None) }
    }

    async fn commit(&mut self, changes: &Changes<'_>) -> Result<bool, Cause> {
        let all = write(self, changes).await?;
        if all {
            sqlx::raw_sql("COMMIT").execute(self).await?;
        }
        Ok(all)
    }

    async fn rollback(&mut self) -> Result<(), Cause> {
        sqlx::raw_sql("ROLLBACK").execute(self).await?;
        Ok(())
    }

    async fn probe(&mut self, now: Millis) -> Result<(), Cause> {
        sqlx::query(PROBE).bind(shared::clock::rfc3339(now)).execute(&mut *self).await?;
        super::complete(self).await
    }
}

/// `sessions` reads them, if any are needed.
async fn load(
    on: &mut PgConnection,
    Wanted { platform, ids, needs }: &Wanted<'_>,
    sessions: impl AsyncFnOnce(&mut PgConnection, &Needs<'_>) -> Result<Vec<SessionColumns>, Cause>,
) -> Result<Loaded, Cause> {
    let mut loaded = Loaded { ledger: ledger(on, platform, ids).await?, ..Loaded::default() };
    if !needs.rooms.is_empty() || !needs.live_streams.is_empty() {
        loaded.sessions = sessions(on, needs).await?.into_iter().map(session_row).collect();
    }
    if !needs.recordings.is_empty() {
        loaded.recordings = recordings(on, platform, &needs.recordings).await?;
    }
    if !needs.contents.is_empty() {
        loaded.contents = contents(on, platform, &needs.contents).await?;
    }
    if !needs.jobs.is_empty() {
        loaded.jobs = jobs(on, platform, &needs.jobs).await?;
    }
    if !needs.chats.is_empty() {
        loaded.chats = chats(on, platform, &needs.chats).await?;
    }
    Ok(loaded)
}

/// Whether every row was written.
async fn write(on: &mut PgConnection, changes: &Changes<'_>) -> Result<bool, Cause> {
    let Changes { platform, now, sessions, recordings, contents, jobs, chats, ledger, asked } = changes;
    let insert_ledger = match asked {
        Ledger::Read => INSERT_LEDGER,
        Ledger::Unread => INSERT_NEW_LEDGER,
    };
    Ok(write_sessions(on, UPDATE_SESSIONS, &sessions.known, *now).await?
        && write_recordings(on, UPDATE_RECORDINGS, platform, &recordings.known, *now).await?
        && write_contents(on, UPDATE_CONTENTS, platform, &contents.known, *now).await?
        && write_jobs(on, UPDATE_JOBS, platform, &jobs.known, *now).await?
        && write_chats(on, UPDATE_CHATS, platform, &chats.known).await?
        && write_sessions(on, INSERT_SESSIONS, &sessions.new, *now).await?
        && write_recordings(on, INSERT_RECORDINGS, platform, &recordings.new, *now).await?
        && write_contents(on, INSERT_CONTENTS, platform, &contents.new, *now).await?
        && write_jobs(on, INSERT_JOBS, platform, &jobs.new, *now).await?
        && write_chats(on, INSERT_CHATS, platform, &chats.new).await?
        && write_ledger(on, insert_ledger, platform, ledger, *now).await?)
}

async fn ledger(on: &mut PgConnection, platform: &str, ids: &[&str]) -> Result<Vec<LedgerRow>, Cause> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<(String, String, String)> = sqlx::query_as(LEDGER).bind(platform).bind(ids).fetch_all(on).await?;
    Ok(rows.into_iter().map(|(event_id, origin, result)| LedgerRow { event_id, origin, result }).collect())
}

/// By room alone as long as that is enough. Where it is not, the locks are given up and taken anew, all in their order:
/// for a transaction that has nothing else yet.
async fn sessions_anew(on: &mut PgConnection, needs: &Needs<'_>) -> Result<Vec<SessionColumns>, Cause> {
    let by_stream_alone = needs.live_streams.iter().any(|(_, room)| room.is_none());
    if by_stream_alone {
        return sessions_by_either(on, needs).await;
    }
    let rows: Vec<SessionColumns> = sqlx::query_as(SESSIONS_BY_ROOM).bind(&needs.rooms).fetch_all(&mut *on).await?;
    let found: HashSet<&str> = rows.iter().map(|row| row.0.as_str()).collect();
    if needs.live_streams.iter().all(|(_, room)| room.is_some_and(|room| found.contains(room))) {
        return Ok(rows);
    }
    sqlx::raw_sql("ROLLBACK; BEGIN").execute(&mut *on).await?;
    sessions_by_either(on, needs).await
}

/// All locks in one statement: what earlier parts have written and locked stays.
async fn sessions_at_once(on: &mut PgConnection, needs: &Needs<'_>) -> Result<Vec<SessionColumns>, Cause> {
    if needs.live_streams.is_empty() {
        return Ok(sqlx::query_as(SESSIONS_BY_ROOM).bind(&needs.rooms).fetch_all(on).await?);
    }
    sessions_by_either(on, needs).await
}

async fn sessions_by_either(on: &mut PgConnection, needs: &Needs<'_>) -> Result<Vec<SessionColumns>, Cause> {
    let mut streams: Vec<&str> = needs.live_streams.iter().map(|(stream, _)| *stream).collect();
    streams.dedup();
    Ok(sqlx::query_as(SESSIONS_BY_EITHER).bind(&needs.rooms).bind(&streams).fetch_all(on).await?)
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
        guards: Guards::parse(&guards),
        written: Written::default(),
    }
}

async fn recordings(on: &mut PgConnection, platform: &str, ids: &[&str]) -> Result<Vec<RecordingRow>, Cause> {
    let rows: Vec<RecordingColumns> = sqlx::query_as(RECORDINGS).bind(platform).bind(ids).fetch_all(on).await?;
    let row = |(recording_id, room_id, state, url, duration_seconds, size_bytes, guards): RecordingColumns| {
        let (state, guards) = (state.parse().ok(), Guards::parse(&guards));
        RecordingRow { recording_id, room_id, state, url, duration_seconds, size_bytes, guards }
    };
    Ok(rows.into_iter().map(row).collect())
}

async fn contents(on: &mut PgConnection, platform: &str, ids: &[&str]) -> Result<Vec<ContentRow>, Cause> {
    let rows: Vec<ContentColumns> = sqlx::query_as(CONTENTS).bind(platform).bind(ids).fetch_all(on).await?;
    let row = |(content_id, title, content_type, state, guards): ContentColumns| {
        let (state, guards) = (state.parse().ok(), Guards::parse(&guards));
        ContentRow { content_id, title, content_type, state, data: None, guards }
    };
    Ok(rows.into_iter().map(row).collect())
}

async fn jobs(on: &mut PgConnection, platform: &str, ids: &[&str]) -> Result<Vec<JobRow>, Cause> {
    let rows: Vec<JobColumns> = sqlx::query_as(JOBS).bind(platform).bind(ids).fetch_all(on).await?;
    let row = |columns: JobColumns| {
        let (job_id, status, progress, current_step, video_url, error, retry_count, guards) = columns;
        let guards = Guards::parse(&guards);
        JobRow { job_id, status, progress, current_step, video_url, error, retry_count, data: None, guards }
    };
    Ok(rows.into_iter().map(row).collect())
}

async fn chats(on: &mut PgConnection, platform: &str, ids: &[&str]) -> Result<Vec<ChatRow>, Cause> {
    let rows: Vec<ChatColumns> = sqlx::query_as(CHATS).bind(platform).bind(ids).fetch_all(on).await?;
    let row = |(message_id, room_id, user_id, user_name, message, sent_at, guards): ChatColumns| {
        let sent_at = i64::try_from(sent_at.unix_timestamp_nanos().div_euclid(1_000_000)).unwrap_or(0);
        ChatRow { message_id, room_id, user_id, user_name, message, sent_at, guards: Guards::parse(&guards) }
    };
    Ok(rows.into_iter().map(row).collect())
}

// Each write answers whether every row was written; the rows that it updates are locked, so only an insertion can meet
// another worker's.

async fn write_ledger(
    on: &mut PgConnection,
    statement: &'static str,
    platform: &str,
    rows: &[Effective<'_>],
    now: Millis,
) -> Result<bool, Cause> {
    if rows.is_empty() {
        return Ok(true);
    }
    let done = sqlx::query(statement)
        .bind(platform)
        .bind(column(rows, |(event, _)| event.event_id.as_str()))
        .bind(column(rows, |(event, _)| event.event_type.as_str()))
        .bind(column(rows, |(_, result)| result.room_id.as_deref()))
        .bind(column(rows, |(event, _)| instant(event.occurred_at)))
        .bind(column(rows, |(event, _)| instant(event.received_at)))
        .bind(column(rows, |(event, _)| i32::try_from(event.attempt).unwrap_or(i32::MAX)))
        .bind(column(rows, |(_, result)| result.action.as_str()))
        .bind(column(rows, |(event, _)| event.order.origin.to_string()))
        .bind(column(rows, |(_, result)| result.to_json()))
        .bind(instant(now))
        .execute(on)
        .await?;
    Ok(done.rows_affected() == rows.len() as u64)
}

async fn write_sessions(
    on: &mut PgConnection,
    statement: &'static str,
    rows: &[&SessionRow],
    now: Millis,
) -> Result<bool, Cause> {
    if rows.is_empty() {
        return Ok(true);
    }
    let done = sqlx::query(statement)
        .bind(column(rows, |row| row.room_id.as_str()))
        .bind(column(rows, |row| row.platform.as_str()))
        .bind(column(rows, |row| scope_text(row.scope)))
        .bind(column(rows, |row| row.written.mask))
        .bind(column(rows, |row| row.status.map(shared::platform::SessionStatus::as_str)))
        .bind(column(rows, |row| row.live_stream_id.as_deref()))
        .bind(column(rows, |row| row.written.config.as_deref()))
        .bind(column(rows, |row| row.written.title.as_deref()))
        .bind(column(rows, |row| row.written.streamer_id.as_deref()))
        .bind(column(rows, |row| row.written.app_id.as_deref()))
        .bind(column(rows, |row| row.written.peak_viewers))
        .bind(column(rows, |row| row.written.duration_seconds))
        .bind(column(rows, |row| row.written.error_code.as_deref()))
        .bind(column(rows, |row| row.written.error_message.as_deref()))
        .bind(column(rows, |row| row.written.started_at.map(instant)))
        .bind(column(rows, |row| row.written.ended_at.map(instant)))
        .bind(column(rows, |row| row.written.last_event_id.as_deref()))
        .bind(column(rows, |row| row.written.last_event_at.map(instant)))
        .bind(column(rows, |row| instant(row.created_at)))
        .bind(column(rows, |row| row.guards.to_text()))
        .bind(column(rows, |row| row.written.viewer_count))
        .bind(column(rows, |row| row.written.data_json()))
        .bind(instant(now))
        .execute(on)
        .await?;
    Ok(done.rows_affected() == rows.len() as u64)
}

async fn write_recordings(
    on: &mut PgConnection,
    statement: &'static str,
    platform: &str,
    rows: &[&RecordingRow],
    now: Millis,
) -> Result<bool, Cause> {
    if rows.is_empty() {
        return Ok(true);
    }
    let done = sqlx::query(statement)
        .bind(platform)
        .bind(column(rows, |row| row.recording_id.as_str()))
        .bind(column(rows, |row| row.room_id.as_deref()))
        .bind(column(rows, |row| row.state.map(shared::platform::RecordingState::as_str)))
        .bind(column(rows, |row| row.url.as_deref()))
        .bind(column(rows, |row| row.duration_seconds))
        .bind(column(rows, |row| row.size_bytes))
        .bind(column(rows, |row| row.guards.to_text()))
        .bind(instant(now))
        .execute(on)
        .await?;
    Ok(done.rows_affected() == rows.len() as u64)
}

async fn write_contents(
    on: &mut PgConnection,
    statement: &'static str,
    platform: &str,
    rows: &[&ContentRow],
    now: Millis,
) -> Result<bool, Cause> {
    if rows.is_empty() {
        return Ok(true);
    }
    let done = sqlx::query(statement)
        .bind(platform)
        .bind(column(rows, |row| row.content_id.as_str()))
        .bind(column(rows, |row| row.title.as_deref()))
        .bind(column(rows, |row| row.content_type.as_deref()))
        .bind(column(rows, |row| row.state.map(shared::platform::ContentState::as_str)))
        .bind(column(rows, |row| row.data.as_deref()))
        .bind(column(rows, |row| row.guards.to_text()))
        .bind(instant(now))
        .execute(on)
        .await?;
    Ok(done.rows_affected() == rows.len() as u64)
}

async fn write_jobs(
    on: &mut PgConnection,
    statement: &'static str,
    platform: &str,
    rows: &[&JobRow],
    now: Millis,
) -> Result<bool, Cause> {
    if rows.is_empty() {
        return Ok(true);
    }
    let done = sqlx::query(statement)
        .bind(platform)
        .bind(column(rows, |row| row.job_id.as_str()))
        .bind(column(rows, |row| row.status.as_str()))
        .bind(column(rows, |row| row.progress))
        .bind(column(rows, |row| row.current_step.as_deref()))
        .bind(column(rows, |row| row.video_url.as_deref()))
        .bind(column(rows, |row| row.error.as_deref()))
        .bind(column(rows, |row| row.retry_count))
        .bind(column(rows, |row| row.data.as_deref()))
        .bind(column(rows, |row| row.guards.to_text()))
        .bind(instant(now))
        .execute(on)
        .await?;
    Ok(done.rows_affected() == rows.len() as u64)
}

async fn write_chats(
    on: &mut PgConnection,
    statement: &'static str,
    platform: &str,
    rows: &[&ChatRow],
) -> Result<bool, Cause> {
    if rows.is_empty() {
        return Ok(true);
    }
    let done = sqlx::query(statement)
        .bind(platform)
        .bind(column(rows, |row| row.message_id.as_str()))
        .bind(column(rows, |row| row.room_id.as_str()))
        .bind(column(rows, |row| row.user_id.as_deref()))
        .bind(column(rows, |row| row.user_name.as_deref()))
        .bind(column(rows, |row| row.message.as_deref()))
        .bind(column(rows, |row| instant(row.sent_at)))
        .bind(column(rows, |row| row.guards.to_text()))
        .execute(on)
        .await?;
    Ok(done.rows_affected() == rows.len() as u64)
}

fn column<'r, R, T>(rows: &'r [R], value: impl Fn(&'r R) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}

/// Planning has refused what is out of range.
fn instant(at: Millis) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at) * 1_000_000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn read_scope(text: &str) -> SessionScope {
    if text == "own" { SessionScope::Own } else { SessionScope::Shared }
}

const fn scope_text(scope: SessionScope) -> &'static str {
    match scope {
        SessionScope::Own => "own",
        SessionScope::Shared => "shared",
    }
}
