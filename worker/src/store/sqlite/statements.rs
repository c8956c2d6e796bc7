//! The statements of a batch: one text to begin and read, one to write and commit, since the driver pays two thread
//! switches for every call and every row. Rows travel as one JSON text, an array of arrays, so that the texts are the same
//! for any number of rows.

use serde::Serialize;
use serde::ser::SerializeTuple as _;
use shared::clock::rfc3339;
use shared::event::Millis;
use shared::platform::SessionScope;
use sqlx::SqliteConnection;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, PrimitiveDateTime};

use crate::effects::{ChatRow, ContentRow, Guards, JobRow, Needs, RecordingRow, SessionRow, Written, bit};
use crate::store::batch::{Changes, Effective, LedgerRow, Loaded, Transact};
use crate::store::error::Cause;

/// `IMMEDIATE`: a transaction that reads first and asks for the write lock later fails instead of waiting.
const BEGIN: &str = "BEGIN IMMEDIATE; SELECT \
    (SELECT json_group_array(json_array(event_id, origin, result)) FROM webhook_events \
        WHERE platform = ?1 AND event_id IN (SELECT value FROM json_each(?2))), \
    (SELECT json_group_array(json_array(room_id, platform, scope, status, live_stream_id, \
            CAST(config ->> '$.egress.live_stream_id' AS TEXT), created_at, guards)) FROM sessions \
        WHERE rowid IN (SELECT rowid FROM sessions WHERE room_id IN (SELECT value FROM json_each(?3)) \
            UNION SELECT rowid FROM sessions WHERE live_stream_id IN (SELECT value FROM json_each(?4)) \
            UNION SELECT rowid FROM sessions \
                WHERE CAST(config ->> '$.egress.live_stream_id' AS TEXT) IN (SELECT value FROM json_each(?4)))), \
    (SELECT json_group_array(json_array(recording_id, room_id, state, url, duration_seconds, size_bytes, guards)) \
        FROM recordings WHERE platform = ?1 AND recording_id IN (SELECT value FROM json_each(?5))), \
    (SELECT json_group_array(json_array(content_id, title, content_type, state, guards)) \
        FROM contents WHERE platform = ?1 AND content_id IN (SELECT value FROM json_each(?6))), \
    (SELECT json_group_array(json_array(job_id, status, progress, current_step, video_url, error, retry_count, guards)) \
        FROM jobs WHERE platform = ?1 AND job_id IN (SELECT value FROM json_each(?7))), \
    (SELECT json_group_array(json_array(message_id, room_id, user_id, user_name, message, sent_at, guards)) \
        FROM chat_messages WHERE platform = ?1 AND message_id IN (SELECT value FROM json_each(?8)))";

/// Parameters are counted through all statements (the driver cannot do numbered ones here). A line is rendered each time
/// that it is named, hence MATERIALIZED. The numbers by `&` are those of [`crate::effects::bit`]. The columns of a session
/// that are indexed are apart, since naming them costs every row its index entries. Nobody else can have written since
/// [`BEGIN`], so an insertion that meets a row is a fault.
const COMMIT: &str = "\
    WITH u(v, m) AS MATERIALIZED (SELECT value, value ->> 3 FROM json_each(?)) UPDATE sessions SET \
        status = iif(m & 1, v ->> 4, status), \
        title = iif(m & 8, v ->> 7, title), \
        streamer_id = iif(m & 16, v ->> 8, streamer_id), \
        app_id = iif(m & 32, v ->> 9, app_id), \
        peak_viewers = iif(m & 64, v ->> 10, peak_viewers), \
        duration_seconds = iif(m & 128, v ->> 11, duration_seconds), \
        error_code = iif(m & 256, v ->> 12, error_code), \
        error_message = iif(m & 512, v ->> 13, error_message), \
        started_at = iif(m & 1024, v ->> 14, started_at), \
        ended_at = iif(m & 2048, v ->> 15, ended_at), \
        last_event_id = iif(m & 4096, v ->> 16, last_event_id), \
        last_event_at = iif(m & 4096, v ->> 17, last_event_at), \
        platform = iif(m & 8192, v ->> 1, platform), \
        created_at = iif(m & 8192, v ->> 18, created_at), \
        viewer_count = iif(m & 16384, v ->> 20, viewer_count), \
        data = iif(m & 32768, json_patch(iif(json_type(data) = 'object', data, '{}'), v ->> 21), data), \
        guards = v ->> 19, updated_at = ? \
        FROM u WHERE room_id = v ->> 0; \
    WITH u(v, m) AS MATERIALIZED (SELECT value, value ->> 3 FROM json_each(?)) UPDATE sessions SET \
        live_stream_id = iif(m & 2, v ->> 5, live_stream_id), config = iif(m & 4, v ->> 6, config) \
        FROM u WHERE room_id = v ->> 0; \
    WITH u(v) AS MATERIALIZED (SELECT value FROM json_each(?)) \
        INSERT INTO sessions (room_id, platform, scope, status, live_stream_id, config, title, streamer_id, app_id, \
            peak_viewers, duration_seconds, error_code, error_message, started_at, ended_at, last_event_id, \
            last_event_at, created_at, guards, viewer_count, data, updated_at) \
        SELECT v ->> 0, v ->> 1, v ->> 2, coalesce(v ->> 4, 'ready'), v ->> 5, v ->> 6, v ->> 7, v ->> 8, v ->> 9, \
            v ->> 10, v ->> 11, v ->> 12, v ->> 13, v ->> 14, v ->> 15, v ->> 16, v ->> 17, v ->> 18, v ->> 19, \
            v ->> 20, v ->> 21, ? FROM u; \
    WITH u(v) AS MATERIALIZED (SELECT value FROM json_each(?)) UPDATE recordings SET room_id = v ->> 1, \
        state = coalesce(v ->> 2, state), url = v ->> 3, duration_seconds = v ->> 4, size_bytes = v ->> 5, \
        guards = v ->> 6, updated_at = ? FROM u WHERE platform = ? AND recording_id = v ->> 0; \
    WITH u(v) AS MATERIALIZED (SELECT value FROM json_each(?)) \
        INSERT INTO recordings (recording_id, room_id, state, url, duration_seconds, size_bytes, guards, updated_at, \
            platform) \
        SELECT v ->> 0, v ->> 1, v ->> 2, v ->> 3, v ->> 4, v ->> 5, v ->> 6, ?, ? FROM u; \
    WITH u(v) AS MATERIALIZED (SELECT value FROM json_each(?)) UPDATE contents SET title = v ->> 1, \
        content_type = v ->> 2, state = coalesce(v ->> 3, state), data = coalesce(v ->> 4, data), guards = v ->> 5, \
        updated_at = ? FROM u WHERE platform = ? AND content_id = v ->> 0; \
    WITH u(v) AS MATERIALIZED (SELECT value FROM json_each(?)) \
        INSERT INTO contents (content_id, title, content_type, state, data, guards, updated_at, platform) \
        SELECT v ->> 0, v ->> 1, v ->> 2, v ->> 3, v ->> 4, v ->> 5, ?, ? FROM u; \
    WITH u(v) AS MATERIALIZED (SELECT value FROM json_each(?)) UPDATE jobs SET status = v ->> 1, progress = v ->> 2, \
        current_step = v ->> 3, video_url = v ->> 4, error = v ->> 5, retry_count = v ->> 6, \
        data = coalesce(v ->> 7, data), guards = v ->> 8, updated_at = ? \
        FROM u WHERE platform = ? AND job_id = v ->> 0; \
    WITH u(v) AS MATERIALIZED (SELECT value FROM json_each(?)) \
        INSERT INTO jobs (job_id, status, progress, current_step, video_url, error, retry_count, data, guards, \
            updated_at, platform) \
        SELECT v ->> 0, v ->> 1, v ->> 2, v ->> 3, v ->> 4, v ->> 5, v ->> 6, v ->> 7, v ->> 8, ?, ? FROM u; \
    WITH u(v) AS MATERIALIZED (SELECT value FROM json_each(?)) UPDATE chat_messages SET room_id = v ->> 1, \
        user_id = v ->> 2, user_name = v ->> 3, message = v ->> 4, sent_at = v ->> 5, guards = v ->> 6 \
        FROM u WHERE platform = ? AND message_id = v ->> 0; \
    WITH u(v) AS MATERIALIZED (SELECT value FROM json_each(?)) \
        INSERT INTO chat_messages (message_id, room_id, user_id, user_name, message, sent_at, guards, platform) \
        SELECT v ->> 0, v ->> 1, v ->> 2, v ->> 3, v ->> 4, v ->> 5, v ->> 6, ? FROM u; \
    WITH u(v) AS MATERIALIZED (SELECT value FROM json_each(?)) \
        INSERT INTO webhook_events (event_id, event_type, room_id, occurred_at, received_at, attempts, action, origin, \
            result, processed_at, platform) \
        SELECT v ->> 0, v ->> 1, v ->> 2, v ->> 3, v ->> 4, v ->> 5, v ->> 6, v ->> 7, v ->> 8, ?, ? FROM u; \
    COMMIT";

const PROBE: &str = "INSERT INTO tributary_meta (key, value) VALUES ('probed_at', ?1) \
    ON CONFLICT (key) DO UPDATE SET value = excluded.value";

type SessionColumns = (String, String, String, String, Option<String>, Option<String>, String, String);
type RecordingColumns = (String, Option<String>, String, Option<String>, Option<f64>, Option<i64>, String);
type ContentColumns = (String, Option<String>, Option<String>, String, String);
type JobColumns =
    (String, String, Option<f64>, Option<String>, Option<String>, Option<String>, Option<i64>, String);
type ChatColumns = (String, String, Option<String>, Option<String>, Option<String>, String, String);
/// One text a table, in the order of [`BEGIN`].
type Texts = (String, String, String, String, String, String);

impl Transact for SqliteConnection {
    async fn begin(&mut self, platform: &str, ids: &[&str], needs: &Needs<'_>) -> Result<Loaded, Cause> {
        let (ledger, sessions, recordings, contents, jobs, chats): Texts = sqlx::query_as(BEGIN)
            .bind(platform)
            .bind(json(ids)?)
            .bind(json(&needs.rooms)?)
            .bind(json(&needs.live_stream_ids)?)
            .bind(json(&needs.recordings)?)
            .bind(json(&needs.contents)?)
            .bind(json(&needs.jobs)?)
            .bind(json(&needs.chats)?)
            .fetch_one(self)
            .await?;
        let ledger: Vec<(String, String, String)> = read(&ledger, "ledger row")?;
        let sessions: Vec<SessionColumns> = read(&sessions, "session")?;
        let recordings: Vec<RecordingColumns> = read(&recordings, "recording")?;
        let contents: Vec<ContentColumns> = read(&contents, "content")?;
        let jobs: Vec<JobColumns> = read(&jobs, "job")?;
        let chats: Vec<ChatColumns> = read(&chats, "chat message")?;
        let entry = |(event_id, origin, result)| LedgerRow { event_id, origin, result };
        Ok(Loaded {
            ledger: ledger.into_iter().map(entry).collect(),
            sessions: sessions.into_iter().map(session_row).collect(),
            recordings: recordings.into_iter().map(recording_row).collect(),
            contents: contents.into_iter().map(content_row).collect(),
            jobs: jobs.into_iter().map(job_row).collect(),
            chats: chats.into_iter().map(chat_row).collect(),
        })
    }

    async fn commit(&mut self, changes: &Changes<'_>) -> Result<bool, Cause> {
        let Changes { platform, now, sessions, recordings, contents, jobs, chats, ledger } = changes;
        let indexed = |row: &&&SessionRow| row.written.mask & (bit::LIVE_STREAM_ID | bit::CONFIG) != 0;
        let now = rfc3339(*now);
        sqlx::query(COMMIT)
            .bind(lines(&sessions.known, |row| Line(row))?)
            .bind(&now)
            .bind(lines(sessions.known.iter().filter(indexed), |row| Line(row))?)
            .bind(lines(&sessions.new, |row| Line(row))?)
            .bind(&now)
            .bind(lines(&recordings.known, |row| recording_line(row))?)
            .bind(&now)
            .bind(*platform)
            .bind(lines(&recordings.new, |row| recording_line(row))?)
            .bind(&now)
            .bind(*platform)
            .bind(lines(&contents.known, |row| content_line(row))?)
            .bind(&now)
            .bind(*platform)
            .bind(lines(&contents.new, |row| content_line(row))?)
            .bind(&now)
            .bind(*platform)
            .bind(lines(&jobs.known, |row| job_line(row))?)
            .bind(&now)
            .bind(*platform)
            .bind(lines(&jobs.new, |row| job_line(row))?)
            .bind(&now)
            .bind(*platform)
            .bind(lines(&chats.known, |row| chat_line(row))?)
            .bind(*platform)
            .bind(lines(&chats.new, |row| chat_line(row))?)
            .bind(*platform)
            .bind(lines(ledger, ledger_line)?)
            .bind(&now)
            .bind(*platform)
            .execute(self)
            .await?;
        Ok(true)
    }

    async fn rollback(&mut self) -> Result<(), Cause> {
        sqlx::raw_sql("ROLLBACK").execute(self).await?;
        Ok(())
    }

    async fn probe(&mut self, now: Millis) -> Result<(), Cause> {
        sqlx::query(PROBE).bind(rfc3339(now)).execute(self).await?;
        Ok(())
    }
}

fn read<T: serde::de::DeserializeOwned>(text: &str, what: &'static str) -> Result<T, Cause> {
    serde_json::from_str(text).map_err(|_| Cause::Unreadable(what))
}

fn session_row((room_id, platform, scope, status, live, egress, created_at, guards): SessionColumns) -> SessionRow {
    SessionRow {
        room_id,
        platform,
        scope: if scope == "own" { SessionScope::Own } else { SessionScope::Shared },
        status: status.parse().ok(),
        live_stream_id: live,
        egress_live_stream_id: egress,
        created_at: read_time(&created_at),
        guards: Guards::parse(&guards),
        written: Written::default(),
    }
}

fn recording_row(columns: RecordingColumns) -> RecordingRow {
    let (recording_id, room_id, state, url, duration_seconds, size_bytes, guards) = columns;
    let (state, guards) = (state.parse().ok(), Guards::parse(&guards));
    RecordingRow { recording_id, room_id, state, url, duration_seconds, size_bytes, guards }
}

fn content_row((content_id, title, content_type, state, guards): ContentColumns) -> ContentRow {
    let (state, guards) = (state.parse().ok(), Guards::parse(&guards));
    ContentRow { content_id, title, content_type, state, data: None, guards }
}

fn job_row(columns: JobColumns) -> JobRow {
    let (job_id, status, progress, current_step, video_url, error, retry_count, guards) = columns;
    let guards = Guards::parse(&guards);
    JobRow { job_id, status, progress, current_step, video_url, error, retry_count, data: None, guards }
}

fn chat_row((message_id, room_id, user_id, user_name, message, sent_at, guards): ChatColumns) -> ChatRow {
    let (sent_at, guards) = (read_time(&sent_at), Guards::parse(&guards));
    ChatRow { message_id, room_id, user_id, user_name, message, sent_at, guards }
}

/// A session as an array; the statements know the places.
struct Line<'r>(&'r SessionRow);

impl Serialize for Line<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (row, written) = (self.0, &self.0.written);
        let scope = match row.scope {
            SessionScope::Own => "own",
            SessionScope::Shared => "shared",
        };
        let mut line = serializer.serialize_tuple(22)?;
        line.serialize_element(&row.room_id)?;
        line.serialize_element(&row.platform)?;
        line.serialize_element(scope)?;
        line.serialize_element(&written.mask)?;
        line.serialize_element(&row.status)?;
        line.serialize_element(&row.live_stream_id)?;
        line.serialize_element(&written.config)?;
        line.serialize_element(&written.title)?;
        line.serialize_element(&written.streamer_id)?;
        line.serialize_element(&written.app_id)?;
        line.serialize_element(&written.peak_viewers)?;
        line.serialize_element(&written.duration_seconds)?;
        line.serialize_element(&written.error_code)?;
        line.serialize_element(&written.error_message)?;
        line.serialize_element(&written.started_at.map(rfc3339))?;
        line.serialize_element(&written.ended_at.map(rfc3339))?;
        line.serialize_element(&written.last_event_id)?;
        line.serialize_element(&written.last_event_at.map(rfc3339))?;
        line.serialize_element(&rfc3339(row.created_at))?;
        line.serialize_element(&row.guards.to_text())?;
        line.serialize_element(&written.viewer_count)?;
        line.serialize_element(&written.data_json())?;
        line.end()
    }
}

fn ledger_line<'r>((event, result): &'r Effective<'_>) -> impl Serialize + 'r {
    let (occurred, received) = (rfc3339(event.occurred_at), rfc3339(event.received_at));
    let (id, kind, room) = (&event.event_id, &event.event_type, &result.room_id);
    (id, kind, room, occurred, received, event.attempt, result.action, event.order.origin, result.to_json())
}

fn recording_line(row: &RecordingRow) -> impl Serialize + '_ {
    let (id, room, url) = (&row.recording_id, &row.room_id, &row.url);
    (id, room, row.state, url, row.duration_seconds, row.size_bytes, row.guards.to_text())
}

fn content_line(row: &ContentRow) -> impl Serialize + '_ {
    (&row.content_id, &row.title, &row.content_type, row.state, &row.data, row.guards.to_text())
}

fn job_line(row: &JobRow) -> impl Serialize + '_ {
    let (id, step, url) = (&row.job_id, &row.current_step, &row.video_url);
    let guards = row.guards.to_text();
    (id, &row.status, row.progress, step, url, &row.error, row.retry_count, &row.data, guards)
}

fn chat_line(row: &ChatRow) -> impl Serialize + '_ {
    let (id, room, user, name) = (&row.message_id, &row.room_id, &row.user_id, &row.user_name);
    (id, room, user, name, &row.message, rfc3339(row.sent_at), row.guards.to_text())
}

fn lines<'r, R: 'r, L: Serialize>(
    rows: impl IntoIterator<Item = &'r R>,
    line: impl Fn(&'r R) -> L,
) -> Result<String, Cause> {
    json(&rows.into_iter().map(line).collect::<Vec<_>>())
}

fn json<T: Serialize + ?Sized>(value: &T) -> Result<String, Cause> {
    serde_json::to_string(value).map_err(|error| Cause::Database(sqlx::Error::Encode(error.into())))
}

/// RFC 3339, or SQLite's own `2026-01-31 23:59:59[.123]`, which an application may write. What is neither was long ago.
fn read_time(text: &str) -> Millis {
    let own = || {
        let own = PrimitiveDateTime::parse(&format!("{}Z", text.replacen(' ', "T", 1)), &Rfc3339).ok()?;
        Some(own.assume_utc())
    };
    let at = OffsetDateTime::parse(text, &Rfc3339).ok().or_else(own).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    i64::try_from(at.unix_timestamp_nanos().div_euclid(1_000_000)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn times_are_read_as_an_application_may_write_them() {
        for text in ["2026-01-31T23:59:59.123Z", "2026-02-01T00:59:59.123+01:00", "2026-01-31 23:59:59.123"] {
            assert_eq!(read_time(text), 1_769_903_999_123, "{text}");
        }
        assert_eq!(read_time("2026-01-31 23:59:59"), 1_769_903_999_000);
        assert_eq!(read_time("yesterday"), 0);
    }
}
