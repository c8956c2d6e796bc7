//! The statements of a batch: one array per column, so that a text is the same for any number of rows.

use shared::event::Millis;
use shared::platform::SessionScope;
use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::effects::{ContentRow, Guards, Needs, RecordingRow, SessionRow, Written};
use crate::store::batch::{Changes, Effective, LedgerRow, Loaded, Transact};
use crate::store::error::Cause;

// Keys are looked up one by one, behind the fence of `OFFSET 0` or of a row lock: with `= ANY` the planner takes the
// ledger's rows of a whole platform where it knows no statistics yet. So it also locks in the order of the keys.

const LEDGER: &str = "SELECT e.event_id, e.origin, e.result::text FROM UNNEST($2::text[]) AS k(id) \
    CROSS JOIN LATERAL (SELECT * FROM webhook_events WHERE platform = $1 AND event_id = k.id OFFSET 0) e";

/// NO KEY: an application's tables may refer to `sessions`, and adding such rows is not to wait.
const SESSIONS_BY_ROOM: &str = "SELECT s.room_id, s.platform, s.scope, s.status, s.live_stream_id, \
        s.config #>> '{egress,live_stream_id}', s.guards, \
        CASE WHEN isfinite(s.created_at) THEN floor(extract(epoch FROM s.created_at) * 1000)::bigint ELSE 0 END \
    FROM UNNEST($1::text[]) AS k(id) \
    CROSS JOIN LATERAL (SELECT * FROM sessions WHERE room_id = k.id FOR NO KEY UPDATE) s";

/// COLLATE "C": the order that this program sorts rooms by.
const SESSIONS_BY_EITHER: &str = "SELECT s.room_id, s.platform, s.scope, s.status, s.live_stream_id, \
        s.config #>> '{egress,live_stream_id}', s.guards, \
        CASE WHEN isfinite(s.created_at) THEN floor(extract(epoch FROM s.created_at) * 1000)::bigint ELSE 0 END \
    FROM (SELECT id FROM (SELECT id FROM UNNEST($1::text[]) AS r(id) \
        UNION SELECT f.room_id FROM UNNEST($2::text[]) AS l(id) CROSS JOIN LATERAL ( \
            SELECT room_id FROM sessions WHERE live_stream_id = l.id \
            UNION ALL SELECT room_id FROM sessions WHERE config #>> '{egress,live_stream_id}' = l.id OFFSET 0) f) AS either \
        ORDER BY id COLLATE \"C\") AS k \
    CROSS JOIN LATERAL (SELECT * FROM sessions WHERE room_id = k.id FOR NO KEY UPDATE) s";

const RECORDINGS: &str = "SELECT r.recording_id, r.room_id, r.state, r.url, r.duration_seconds, r.size_bytes, r.guards \
    FROM UNNEST($2::text[]) AS k(id) CROSS JOIN LATERAL \
        (SELECT * FROM recordings WHERE platform = $1 AND recording_id = k.id FOR NO KEY UPDATE) r";

const CONTENTS: &str = "SELECT c.content_id, c.title, c.content_type, c.state, c.guards \
    FROM UNNEST($2::text[]) AS k(id) CROSS JOIN LATERAL \
        (SELECT * FROM contents WHERE platform = $1 AND content_id = k.id FOR NO KEY UPDATE) c";

/// The numbers are those of [`crate::effects::bit`].
const UPDATE_SESSIONS: &str = "UPDATE sessions AS s SET \
    status = CASE WHEN u.mask & 1 <> 0 THEN u.status ELSE s.status END, \
    live_stream_id = CASE WHEN u.mask & 2 <> 0 THEN u.live_stream_id ELSE s.live_stream_id END, \
    config = CASE WHEN u.mask & 4 <> 0 THEN u.config::jsonb ELSE s.config END, \
    title = CASE WHEN u.mask & 8 <> 0 THEN u.title ELSE s.title END, \
    streamer_id = CASE WHEN u.mask & 16 <> 0 THEN u.streamer_id ELSE s.streamer_id END, \
    app_id = CASE WHEN u.mask & 32 <> 0 THEN u.app_id ELSE s.app_id END, \
    peak_viewers = CASE WHEN u.mask & 64 <> 0 THEN u.peak_viewers ELSE s.peak_viewers END, \
    duration_seconds = CASE WHEN u.mask & 128 <> 0 THEN u.duration_seconds ELSE s.duration_seconds END, \
    error_code = CASE WHEN u.mask & 256 <> 0 THEN u.error_code ELSE s.error_code END, \
    error_message = CASE WHEN u.mask & 512 <> 0 THEN u.error_message ELSE s.error_message END, \
    started_at = CASE WHEN u.mask & 1024 <> 0 THEN u.started_at ELSE s.started_at END, \
    ended_at = CASE WHEN u.mask & 2048 <> 0 THEN u.ended_at ELSE s.ended_at END, \
    last_event_id = CASE WHEN u.mask & 4096 <> 0 THEN u.last_event_id ELSE s.last_event_id END, \
    last_event_at = CASE WHEN u.mask & 4096 <> 0 THEN u.last_event_at ELSE s.last_event_at END, \
    platform = CASE WHEN u.mask & 8192 <> 0 THEN u.platform ELSE s.platform END, \
    created_at = CASE WHEN u.mask & 8192 <> 0 THEN u.created_at ELSE s.created_at END, \
    guards = u.guards, updated_at = $21 \
    FROM UNNEST($1::text[], $2::text[], $3::text[], $4::int[], $5::text[], $6::text[], $7::text[], $8::text[], \
        $9::text[], $10::text[], $11::bigint[], $12::float8[], $13::text[], $14::text[], $15::timestamptz[], \
        $16::timestamptz[], $17::text[], $18::timestamptz[], $19::timestamptz[], $20::text[]) \
    AS u(room_id, platform, scope, mask, status, live_stream_id, config, title, streamer_id, app_id, peak_viewers, \
        duration_seconds, error_code, error_message, started_at, ended_at, last_event_id, last_event_at, created_at, \
        guards) \
    WHERE s.room_id = u.room_id";

const INSERT_SESSIONS: &str = "INSERT INTO sessions (room_id, platform, scope, status, live_stream_id, config, title, \
        streamer_id, app_id, peak_viewers, duration_seconds, error_code, error_message, started_at, ended_at, \
        last_event_id, last_event_at, created_at, guards, updated_at) \
    SELECT room_id, platform, scope, coalesce(status, 'ready'), live_stream_id, config::jsonb, title, streamer_id, \
        app_id, peak_viewers, duration_seconds, error_code, error_message, started_at, ended_at, last_event_id, \
        last_event_at, created_at, guards, $21 \
    FROM UNNEST($1::text[], $2::text[], $3::text[], $4::int[], $5::text[], $6::text[], $7::text[], $8::text[], \
        $9::text[], $10::text[], $11::bigint[], $12::float8[], $13::text[], $14::text[], $15::timestamptz[], \
        $16::timestamptz[], $17::text[], $18::timestamptz[], $19::timestamptz[], $20::text[]) \
    AS u(room_id, platform, scope, mask, status, live_stream_id, config, title, streamer_id, app_id, peak_viewers, \
        duration_seconds, error_code, error_message, started_at, ended_at, last_event_id, last_event_at, created_at, \
        guards) \
    ON CONFLICT (room_id) DO NOTHING";

const UPDATE_RECORDINGS: &str = "UPDATE recordings AS r SET room_id = u.room_id, state = coalesce(u.state, r.state), \
        url = u.url, duration_seconds = u.duration_seconds, size_bytes = u.size_bytes, guards = u.guards, \
        updated_at = $9 \
    FROM UNNEST($2::text[], $3::text[], $4::text[], $5::text[], $6::float8[], $7::bigint[], $8::text[]) \
        AS u(recording_id, room_id, state, url, duration_seconds, size_bytes, guards) \
    WHERE r.platform = $1 AND r.recording_id = u.recording_id";

const INSERT_RECORDINGS: &str = "INSERT INTO recordings (platform, recording_id, room_id, state, url, \
        duration_seconds, size_bytes, guards, updated_at) \
    SELECT $1, recording_id, room_id, state, url, duration_seconds, size_bytes, guards, $9 \
    FROM UNNEST($2::text[], $3::text[], $4::text[], $5::text[], $6::float8[], $7::bigint[], $8::text[]) \
        AS u(recording_id, room_id, state, url, duration_seconds, size_bytes, guards) \
    ON CONFLICT (platform, recording_id) DO NOTHING";

const UPDATE_CONTENTS: &str = "UPDATE contents AS c SET title = u.title, content_type = u.content_type, \
        state = coalesce(u.state, c.state), data = coalesce(u.data::jsonb, c.data), guards = u.guards, \
        updated_at = $8 \
    FROM UNNEST($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[]) \
        AS u(content_id, title, content_type, state, data, guards) \
    WHERE c.platform = $1 AND c.content_id = u.content_id";

const INSERT_CONTENTS: &str = "INSERT INTO contents (platform, content_id, title, content_type, state, data, guards, \
        updated_at) \
    SELECT $1, content_id, title, content_type, state, data::jsonb, guards, $8 \
    FROM UNNEST($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[]) \
        AS u(content_id, title, content_type, state, data, guards) \
    ON CONFLICT (platform, content_id) DO NOTHING";

const INSERT_LEDGER: &str = "INSERT INTO webhook_events (platform, event_id, event_type, room_id, occurred_at, \
        received_at, attempts, action, origin, result, processed_at) \
    SELECT $1, event_id, event_type, room_id, occurred_at, received_at, attempts, action, origin, result::jsonb, $11 \
    FROM UNNEST($2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[], $7::int[], $8::text[], \
        $9::text[], $10::text[]) \
        AS u(event_id, event_type, room_id, occurred_at, received_at, attempts, action, origin, result) \
    ON CONFLICT (platform, event_id) DO NOTHING";

const PROBE: &str = "INSERT INTO tributary_meta (key, value) VALUES ('probed_at', $1) \
    ON CONFLICT (key) DO UPDATE SET value = excluded.value";

type SessionColumns = (String, String, String, String, Option<String>, Option<String>, String, i64);
type RecordingColumns = (String, Option<String>, String, Option<String>, Option<f64>, Option<i64>, String);
type ContentColumns = (String, Option<String>, Option<String>, String, String);

impl Transact for PgConnection {
    async fn begin(&mut self, platform: &str, ids: &[&str], needs: &Needs<'_>) -> Result<Loaded, Cause> {
        sqlx::raw_sql("BEGIN").execute(&mut *self).await?;
        let mut loaded = Loaded { ledger: ledger(self, platform, ids).await?, ..Loaded::default() };
        if !needs.rooms.is_empty() || !needs.live_stream_ids.is_empty() {
            loaded.sessions = sessions(self, &needs.rooms, &needs.live_stream_ids).await?;
        }
        if !needs.recordings.is_empty() {
            loaded.recordings = recordings(self, platform, &needs.recordings).await?;
        }
        if !needs.contents.is_empty() {
            loaded.contents = contents(self, platform, &needs.contents).await?;
        }
        Ok(loaded)
    }

    async fn commit(&mut self, changes: &Changes<'_>) -> Result<bool, Cause> {
        let Changes { platform, now, sessions, recordings, contents, ledger } = changes;
        let all = write_sessions(self, UPDATE_SESSIONS, &sessions.known, *now).await?
            && write_recordings(self, UPDATE_RECORDINGS, platform, &recordings.known, *now).await?
            && write_contents(self, UPDATE_CONTENTS, platform, &contents.known, *now).await?
            && write_sessions(self, INSERT_SESSIONS, &sessions.new, *now).await?
            && write_recordings(self, INSERT_RECORDINGS, platform, &recordings.new, *now).await?
            && write_contents(self, INSERT_CONTENTS, platform, &contents.new, *now).await?
            && write_ledger(self, platform, ledger, *now).await?;
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
        sqlx::query(PROBE).bind(shared::clock::rfc3339(now)).execute(self).await?;
        Ok(())
    }
}

async fn ledger(on: &mut PgConnection, platform: &str, ids: &[&str]) -> Result<Vec<LedgerRow>, Cause> {
    let rows: Vec<(String, String, String)> = sqlx::query_as(LEDGER).bind(platform).bind(ids).fetch_all(on).await?;
    Ok(rows.into_iter().map(|(event_id, origin, result)| LedgerRow { event_id, origin, result }).collect())
}

async fn sessions(on: &mut PgConnection, rooms: &[&str], streams: &[&str]) -> Result<Vec<SessionRow>, Cause> {
    let rows: Vec<SessionColumns> = if streams.is_empty() {
        sqlx::query_as(SESSIONS_BY_ROOM).bind(rooms).fetch_all(on).await?
    } else {
        sqlx::query_as(SESSIONS_BY_EITHER).bind(rooms).bind(streams).fetch_all(on).await?
    };
    let row = |(room_id, platform, scope, status, live, egress, guards, created_at): SessionColumns| SessionRow {
        room_id,
        platform,
        scope: read_scope(&scope),
        status: status.parse().ok(),
        live_stream_id: live,
        egress_live_stream_id: egress,
        created_at,
        guards: Guards::parse(&guards),
        written: Written::default(),
    };
    Ok(rows.into_iter().map(row).collect())
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

// Each write answers whether every row was written; the rows that it updates are locked, so only an insertion can meet
// another worker's.

async fn write_ledger(
    on: &mut PgConnection,
    platform: &str,
    rows: &[Effective<'_>],
    now: Millis,
) -> Result<bool, Cause> {
    if rows.is_empty() {
        return Ok(true);
    }
    let done = sqlx::query(INSERT_LEDGER)
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
