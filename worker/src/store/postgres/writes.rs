//! Writes the rows of a batch, with one array for each column.

use shared::event::Millis;
use shared::platform::SessionScope;
use sqlx::PgConnection;
use sqlx::postgres::PgQueryResult;
use time::OffsetDateTime;

use super::sql::{
    INSERT_CHATS, INSERT_CONTENTS, INSERT_JOBS, INSERT_LEDGER, INSERT_NEW_LEDGER,
    INSERT_RECORDINGS, INSERT_SESSIONS, MISSING_CHATS, MISSING_CONTENTS, MISSING_JOBS,
    MISSING_LEDGER, MISSING_RECORDINGS, MISSING_SESSIONS, UPDATE_CHATS, UPDATE_CONTENTS,
    UPDATE_JOBS, UPDATE_RECORDINGS, UPDATE_SESSIONS,
};
use crate::effects::{ChatRow, ContentRow, JobRow, RecordingRow, SessionRow};
use crate::store::batch::{EffectiveEvent, LedgerCheck, RowChanges};
use crate::store::error::BackendError;

/// Write of rows of one table.
#[derive(Clone, Copy)]
struct PostgresWrite {
    /// Name of the write in error texts.
    what: &'static str,
    statement: &'static str,
    /// Query for a missing row, as opposed to one that another worker has inserted first. `None`
    /// for an update, whose rows are locked.
    missing: Option<&'static str>,
}

const fn update(what: &'static str, statement: &'static str) -> PostgresWrite {
    PostgresWrite { what, statement, missing: None }
}

const fn insert(
    what: &'static str,
    statement: &'static str,
    missing: &'static str,
) -> PostgresWrite {
    PostgresWrite { what, statement, missing: Some(missing) }
}

const KNOWN_SESSIONS: PostgresWrite = update("update of sessions", UPDATE_SESSIONS);
const KNOWN_RECORDINGS: PostgresWrite = update("update of recordings", UPDATE_RECORDINGS);
const KNOWN_CONTENTS: PostgresWrite = update("update of contents", UPDATE_CONTENTS);
const KNOWN_JOBS: PostgresWrite = update("update of jobs", UPDATE_JOBS);
const KNOWN_CHATS: PostgresWrite = update("update of chat_messages", UPDATE_CHATS);
const NEW_SESSIONS: PostgresWrite =
    insert("insert into sessions", INSERT_SESSIONS, MISSING_SESSIONS);
const NEW_RECORDINGS: PostgresWrite =
    insert("insert into recordings", INSERT_RECORDINGS, MISSING_RECORDINGS);
const NEW_CONTENTS: PostgresWrite =
    insert("insert into contents", INSERT_CONTENTS, MISSING_CONTENTS);
const NEW_JOBS: PostgresWrite = insert("insert into jobs", INSERT_JOBS, MISSING_JOBS);
const NEW_CHATS: PostgresWrite = insert("insert into chat_messages", INSERT_CHATS, MISSING_CHATS);
const ASKED_LEDGER: PostgresWrite =
    insert("insert into webhook_events", INSERT_LEDGER, MISSING_LEDGER);
const ASSUMED_LEDGER: PostgresWrite =
    insert("insert into webhook_events", INSERT_NEW_LEDGER, MISSING_LEDGER);

/// Writes all rows. Returns false if another worker has inserted one first.
pub(super) async fn write(
    connection: &mut PgConnection,
    changes: &RowChanges<'_>,
) -> Result<bool, BackendError> {
    let RowChanges {
        platform,
        now,
        sessions,
        recordings,
        contents,
        jobs,
        chats,
        ledger,
        ledger_check,
    } = changes;
    let new_ledger = match ledger_check {
        LedgerCheck::Query => ASKED_LEDGER,
        LedgerCheck::AssumeNew => ASSUMED_LEDGER,
    };
    Ok(write_sessions(connection, KNOWN_SESSIONS, &sessions.known, *now).await?
        && write_recordings(connection, KNOWN_RECORDINGS, platform, &recordings.known, *now)
            .await?
        && write_contents(connection, KNOWN_CONTENTS, platform, &contents.known, *now).await?
        && write_jobs(connection, KNOWN_JOBS, platform, &jobs.known, *now).await?
        && write_chats(connection, KNOWN_CHATS, platform, &chats.known).await?
        && write_sessions(connection, NEW_SESSIONS, &sessions.new, *now).await?
        && write_recordings(connection, NEW_RECORDINGS, platform, &recordings.new, *now).await?
        && write_contents(connection, NEW_CONTENTS, platform, &contents.new, *now).await?
        && write_jobs(connection, NEW_JOBS, platform, &jobs.new, *now).await?
        && write_chats(connection, NEW_CHATS, platform, &chats.new).await?
        && write_ledger(connection, new_ledger, platform, ledger, *now).await?)
}

/// Checks that `done` wrote the rows of `keys`. Returns false if another worker has inserted one
/// first.
async fn written(
    connection: &mut PgConnection,
    write: PostgresWrite,
    platform: Option<&str>,
    keys: &[&str],
    done: &PgQueryResult,
) -> Result<bool, BackendError> {
    if done.rows_affected() >= keys.len() as u64 {
        return Ok(true);
    }
    let Some(missing) = write.missing else { return Err(BackendError::Suppressed(write.what)) };
    let query = sqlx::query_scalar(missing);
    let query = if let Some(platform) = platform { query.bind(platform) } else { query };
    if query.bind(keys).fetch_one(connection).await? {
        Err(BackendError::Suppressed(write.what))
    } else {
        Ok(false)
    }
}

// Each of these returns what `written` returns.

async fn write_ledger(
    connection: &mut PgConnection,
    write: PostgresWrite,
    platform: &str,
    rows: &[EffectiveEvent<'_>],
    now: Millis,
) -> Result<bool, BackendError> {
    if rows.is_empty() {
        return Ok(true);
    }
    let keys = column(rows, |(event, _)| event.event_id.as_str());
    let done = sqlx::query(write.statement)
        .bind(platform)
        .bind(&keys)
        .bind(column(rows, |(event, _)| event.event_type.as_str()))
        .bind(column(rows, |(_, result)| result.room_id.as_deref()))
        .bind(column(rows, |(event, _)| instant(event.occurred_at)))
        .bind(column(rows, |(event, _)| instant(event.received_at)))
        .bind(column(rows, |(event, _)| i32::try_from(event.attempt).unwrap_or(i32::MAX)))
        .bind(column(rows, |(_, result)| result.action.as_str()))
        .bind(column(rows, |(event, _)| event.order.origin.to_string()))
        .bind(column(rows, |(_, result)| result.to_json()))
        .bind(instant(now))
        .execute(&mut *connection)
        .await?;
    written(connection, write, Some(platform), &keys, &done).await
}

async fn write_sessions(
    connection: &mut PgConnection,
    write: PostgresWrite,
    rows: &[&SessionRow],
    now: Millis,
) -> Result<bool, BackendError> {
    if rows.is_empty() {
        return Ok(true);
    }
    let keys = column(rows, |row| row.room_id.as_str());
    let done = sqlx::query(write.statement)
        .bind(&keys)
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
        .execute(&mut *connection)
        .await?;
    written(connection, write, None, &keys, &done).await
}

async fn write_recordings(
    connection: &mut PgConnection,
    write: PostgresWrite,
    platform: &str,
    rows: &[&RecordingRow],
    now: Millis,
) -> Result<bool, BackendError> {
    if rows.is_empty() {
        return Ok(true);
    }
    let keys = column(rows, |row| row.recording_id.as_str());
    let done = sqlx::query(write.statement)
        .bind(platform)
        .bind(&keys)
        .bind(column(rows, |row| row.room_id.as_deref()))
        .bind(column(rows, |row| row.state.map(shared::platform::RecordingState::as_str)))
        .bind(column(rows, |row| row.url.as_deref()))
        .bind(column(rows, |row| row.duration_seconds))
        .bind(column(rows, |row| row.size_bytes))
        .bind(column(rows, |row| row.guards.to_text()))
        .bind(instant(now))
        .execute(&mut *connection)
        .await?;
    written(connection, write, Some(platform), &keys, &done).await
}

async fn write_contents(
    connection: &mut PgConnection,
    write: PostgresWrite,
    platform: &str,
    rows: &[&ContentRow],
    now: Millis,
) -> Result<bool, BackendError> {
    if rows.is_empty() {
        return Ok(true);
    }
    let keys = column(rows, |row| row.content_id.as_str());
    let done = sqlx::query(write.statement)
        .bind(platform)
        .bind(&keys)
        .bind(column(rows, |row| row.title.as_deref()))
        .bind(column(rows, |row| row.content_type.as_deref()))
        .bind(column(rows, |row| row.state.map(shared::platform::ContentState::as_str)))
        .bind(column(rows, |row| row.data.as_deref()))
        .bind(column(rows, |row| row.guards.to_text()))
        .bind(instant(now))
        .execute(&mut *connection)
        .await?;
    written(connection, write, Some(platform), &keys, &done).await
}

async fn write_jobs(
    connection: &mut PgConnection,
    write: PostgresWrite,
    platform: &str,
    rows: &[&JobRow],
    now: Millis,
) -> Result<bool, BackendError> {
    if rows.is_empty() {
        return Ok(true);
    }
    let keys = column(rows, |row| row.job_id.as_str());
    let done = sqlx::query(write.statement)
        .bind(platform)
        .bind(&keys)
        .bind(column(rows, |row| row.status.as_str()))
        .bind(column(rows, |row| row.progress))
        .bind(column(rows, |row| row.current_step.as_deref()))
        .bind(column(rows, |row| row.video_url.as_deref()))
        .bind(column(rows, |row| row.error.as_deref()))
        .bind(column(rows, |row| row.retry_count))
        .bind(column(rows, |row| row.data.as_deref()))
        .bind(column(rows, |row| row.guards.to_text()))
        .bind(instant(now))
        .execute(&mut *connection)
        .await?;
    written(connection, write, Some(platform), &keys, &done).await
}

async fn write_chats(
    connection: &mut PgConnection,
    write: PostgresWrite,
    platform: &str,
    rows: &[&ChatRow],
) -> Result<bool, BackendError> {
    if rows.is_empty() {
        return Ok(true);
    }
    let keys = column(rows, |row| row.message_id.as_str());
    let done = sqlx::query(write.statement)
        .bind(platform)
        .bind(&keys)
        .bind(column(rows, |row| row.room_id.as_deref()))
        .bind(column(rows, |row| row.user_id.as_deref()))
        .bind(column(rows, |row| row.user_name.as_deref()))
        .bind(column(rows, |row| row.message.as_deref()))
        .bind(column(rows, |row| instant(row.sent_at)))
        .bind(column(rows, |row| row.guards.to_text()))
        .execute(&mut *connection)
        .await?;
    written(connection, write, Some(platform), &keys, &done).await
}

fn column<'r, R, T>(rows: &'r [R], value: impl Fn(&'r R) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}

/// Planning has rejected instants that are out of range.
fn instant(at: Millis) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at) * 1_000_000)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

const fn scope_text(scope: SessionScope) -> &'static str {
    match scope {
        SessionScope::Own => "own",
        SessionScope::Shared => "shared",
    }
}
