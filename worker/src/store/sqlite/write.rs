//! What a batch writes: for each table one statement, run once for each of its rows.

use rusqlite::Connection;
use rusqlite::types::Value;
use shared::clock::rfc3339;
use shared::event::Millis;
use shared::platform::SessionScope;

use crate::effects::{ChatRow, ContentRow, JobRow, RecordingRow, SessionRow, bit};
use crate::store::batch::{Changes, Effective};
use crate::store::error::Cause;

// In all of them ?1 is the time and ?2 the platform.

/// The numbers by `&` are those of [`crate::effects::bit`]. The columns that are indexed are apart, since naming them
/// costs every row its index entries.
const UPDATE_SESSION: &str = "UPDATE sessions SET \
        status = iif(?6 & 1, ?7, status), \
        title = iif(?6 & 8, ?10, title), \
        streamer_id = iif(?6 & 16, ?11, streamer_id), \
        app_id = iif(?6 & 32, ?12, app_id), \
        peak_viewers = iif(?6 & 64, ?13, peak_viewers), \
        duration_seconds = iif(?6 & 128, ?14, duration_seconds), \
        error_code = iif(?6 & 256, ?15, error_code), \
        error_message = iif(?6 & 512, ?16, error_message), \
        started_at = iif(?6 & 1024, ?17, started_at), \
        ended_at = iif(?6 & 2048, ?18, ended_at), \
        last_event_id = iif(?6 & 4096, ?19, last_event_id), \
        last_event_at = iif(?6 & 4096, ?20, last_event_at), \
        platform = iif(?6 & 8192, ?4, platform), \
        created_at = iif(?6 & 8192, ?21, created_at), \
        viewer_count = iif(?6 & 16384, ?23, viewer_count), \
        data = iif(?6 & 32768, json_patch(iif(json_type(data) = 'object', data, '{}'), ?24), data), \
        guards = ?22, updated_at = ?1 \
    WHERE room_id = ?3";

const UPDATE_SESSION_INDEXED: &str = "UPDATE sessions SET live_stream_id = iif(?4 & 2, ?5, live_stream_id), \
    config = iif(?4 & 4, ?6, config) WHERE room_id = ?3";

const INSERT_SESSION: &str = "INSERT INTO sessions (room_id, platform, scope, status, live_stream_id, config, title, \
        streamer_id, app_id, peak_viewers, duration_seconds, error_code, error_message, started_at, ended_at, \
        last_event_id, last_event_at, created_at, guards, viewer_count, data, updated_at) \
    VALUES (?3, ?4, ?5, coalesce(?7, 'ready'), ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, \
        ?23, ?24, ?1)";

const UPDATE_RECORDING: &str = "UPDATE recordings SET room_id = ?4, state = coalesce(?5, state), url = ?6, \
    duration_seconds = ?7, size_bytes = ?8, guards = ?9, updated_at = ?1 WHERE platform = ?2 AND recording_id = ?3";

const INSERT_RECORDING: &str = "INSERT INTO recordings (recording_id, room_id, state, url, duration_seconds, size_bytes, \
    guards, updated_at, platform) VALUES (?3, ?4, ?5, ?6, ?7, ?8, ?9, ?1, ?2)";

const UPDATE_CONTENT: &str = "UPDATE contents SET title = ?4, content_type = ?5, state = coalesce(?6, state), \
    data = coalesce(?7, data), guards = ?8, updated_at = ?1 WHERE platform = ?2 AND content_id = ?3";

const INSERT_CONTENT: &str = "INSERT INTO contents (content_id, title, content_type, state, data, guards, updated_at, \
    platform) VALUES (?3, ?4, ?5, ?6, ?7, ?8, ?1, ?2)";

const UPDATE_JOB: &str = "UPDATE jobs SET status = ?4, progress = ?5, current_step = ?6, video_url = ?7, error = ?8, \
    retry_count = ?9, data = coalesce(?10, data), guards = ?11, updated_at = ?1 WHERE platform = ?2 AND job_id = ?3";

const INSERT_JOB: &str = "INSERT INTO jobs (job_id, status, progress, current_step, video_url, error, retry_count, data, \
    guards, updated_at, platform) VALUES (?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?1, ?2)";

const UPDATE_CHAT: &str = "UPDATE chat_messages SET room_id = ?4, user_id = ?5, user_name = ?6, message = ?7, \
    sent_at = ?8, guards = ?9 WHERE platform = ?2 AND message_id = ?3";

const INSERT_CHAT: &str = "INSERT INTO chat_messages (message_id, room_id, user_id, user_name, message, sent_at, guards, \
    platform) VALUES (?3, ?4, ?5, ?6, ?7, ?8, ?9, ?2)";

const INSERT_LEDGER: &str = "INSERT INTO webhook_events (event_id, event_type, room_id, occurred_at, received_at, \
    attempts, action, origin, result, processed_at, platform) \
    VALUES (?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?1, ?2)";

/// Parameters of a statement that are the same for all of its rows, and stay bound.
const COMMON: usize = 2;

/// Rows of one table, to be sent to the thread that writes.
pub(super) struct Table {
    statement: &'static str,
    now: String,
    platform: String,
    /// Of one row.
    width: usize,
    /// Row after row.
    values: Vec<Value>,
}

impl Table {
    /// Runs the statement for each row.
    pub(super) fn write(&self, connection: &Connection) -> Result<(), Cause> {
        let mut statement = connection.prepare_cached(self.statement)?;
        statement.raw_bind_parameter(1, &self.now)?;
        statement.raw_bind_parameter(2, &self.platform)?;
        for row in self.values.chunks_exact(self.width) {
            for (place, value) in row.iter().enumerate() {
                statement.raw_bind_parameter(COMMON + place + 1, value)?;
            }
            statement.raw_execute()?;
        }
        Ok(())
    }
}

/// Everything that `changes` says, in the order in which it is to be written.
pub(super) fn tables(changes: &Changes<'_>) -> Vec<Table> {
    let Changes { platform, now, sessions, recordings, contents, jobs, chats, ledger } = changes;
    let mut into = Tables { platform, now: rfc3339(*now), tables: Vec::new() };
    let indexed = |row: &&&SessionRow| row.written.mask & (bit::LIVE_STREAM_ID | bit::CONFIG) != 0;
    into.add(UPDATE_SESSION, sessions.known.iter(), |row| session(row));
    into.add(UPDATE_SESSION_INDEXED, sessions.known.iter().filter(indexed), |row| indexed_columns(row));
    into.add(INSERT_SESSION, sessions.new.iter(), |row| session(row));
    into.add(UPDATE_RECORDING, recordings.known.iter(), |row| recording(row));
    into.add(INSERT_RECORDING, recordings.new.iter(), |row| recording(row));
    into.add(UPDATE_CONTENT, contents.known.iter(), |row| content(row));
    into.add(INSERT_CONTENT, contents.new.iter(), |row| content(row));
    into.add(UPDATE_JOB, jobs.known.iter(), |row| job(row));
    into.add(INSERT_JOB, jobs.new.iter(), |row| job(row));
    into.add(UPDATE_CHAT, chats.known.iter(), |row| chat(row));
    into.add(INSERT_CHAT, chats.new.iter(), |row| chat(row));
    into.add(INSERT_LEDGER, ledger.iter(), entry);
    into.tables
}

struct Tables<'p> {
    platform: &'p str,
    now: String,
    tables: Vec<Table>,
}

impl Tables<'_> {
    fn add<R, const N: usize>(
        &mut self,
        statement: &'static str,
        rows: impl Iterator<Item = R>,
        values: impl Fn(R) -> [Value; N],
    ) {
        let values: Vec<Value> = rows.flat_map(values).collect();
        if !values.is_empty() {
            let (now, platform) = (self.now.clone(), self.platform.to_owned());
            self.tables.push(Table { statement, now, platform, width: N, values });
        }
    }
}

fn session(row: &SessionRow) -> [Value; 22] {
    let written = &row.written;
    let scope = match row.scope {
        SessionScope::Own => "own",
        SessionScope::Shared => "shared",
    };
    [
        text(&row.room_id),
        text(&row.platform),
        text(scope),
        Value::from(written.mask),
        maybe(row.status.map(shared::platform::SessionStatus::as_str)),
        maybe(row.live_stream_id.as_deref()),
        maybe(written.config.as_deref()),
        maybe(written.title.as_deref()),
        maybe(written.streamer_id.as_deref()),
        maybe(written.app_id.as_deref()),
        Value::from(written.peak_viewers),
        Value::from(written.duration_seconds),
        maybe(written.error_code.as_deref()),
        maybe(written.error_message.as_deref()),
        time(written.started_at),
        time(written.ended_at),
        maybe(written.last_event_id.as_deref()),
        time(written.last_event_at),
        time(Some(row.created_at).filter(|_| written.mask & bit::CREATED != 0)),
        Value::from(row.guards.to_text()),
        Value::from(written.viewer_count),
        Value::from(written.data_json()),
    ]
}

fn indexed_columns(row: &SessionRow) -> [Value; 4] {
    let written = &row.written;
    let stream = maybe(row.live_stream_id.as_deref());
    [text(&row.room_id), Value::from(written.mask), stream, maybe(written.config.as_deref())]
}

fn entry((event, result): &Effective<'_>) -> [Value; 9] {
    [
        text(&event.event_id),
        text(&event.event_type),
        maybe(result.room_id.as_deref()),
        time(Some(event.occurred_at)),
        time(Some(event.received_at)),
        Value::from(i64::from(event.attempt)),
        text(result.action.as_str()),
        Value::from(event.order.origin.to_string()),
        Value::from(result.to_json()),
    ]
}

fn recording(row: &RecordingRow) -> [Value; 7] {
    [
        text(&row.recording_id),
        maybe(row.room_id.as_deref()),
        maybe(row.state.map(shared::platform::RecordingState::as_str)),
        maybe(row.url.as_deref()),
        Value::from(row.duration_seconds),
        Value::from(row.size_bytes),
        Value::from(row.guards.to_text()),
    ]
}

fn content(row: &ContentRow) -> [Value; 6] {
    [
        text(&row.content_id),
        maybe(row.title.as_deref()),
        maybe(row.content_type.as_deref()),
        maybe(row.state.map(shared::platform::ContentState::as_str)),
        maybe(row.data.as_deref()),
        Value::from(row.guards.to_text()),
    ]
}

fn job(row: &JobRow) -> [Value; 9] {
    [
        text(&row.job_id),
        text(&row.status),
        Value::from(row.progress),
        maybe(row.current_step.as_deref()),
        maybe(row.video_url.as_deref()),
        maybe(row.error.as_deref()),
        Value::from(row.retry_count),
        maybe(row.data.as_deref()),
        Value::from(row.guards.to_text()),
    ]
}

fn chat(row: &ChatRow) -> [Value; 7] {
    [
        text(&row.message_id),
        text(&row.room_id),
        maybe(row.user_id.as_deref()),
        maybe(row.user_name.as_deref()),
        maybe(row.message.as_deref()),
        time(Some(row.sent_at)),
        Value::from(row.guards.to_text()),
    ]
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn maybe(given: Option<&str>) -> Value {
    given.map_or(Value::Null, text)
}

fn time(at: Option<Millis>) -> Value {
    at.map_or(Value::Null, |at| Value::Text(rfc3339(at)))
}
