//! Writes the rows of a batch: one statement for each table, run once for each row.

use shared::clock::rfc3339;
use shared::platform::SessionScope;

use super::table::{RowBuffer, SqliteWrite};
use crate::effects::{ChatRow, ContentRow, JobRow, RecordingRow, SessionRow, bit};
use crate::store::batch::{EffectiveEvent, RowChanges};

// In all statements, ?1 is the time and ?2 the platform.

/// The numbers after `&` are the bits of [`crate::effects::bit`]. Indexed columns have a statement
/// of their own, because SQLite updates the index of each column that a statement names.
const UPDATE_SESSION: &str = "UPDATE sessions \
    SET status = iif(?6 & 1, ?7, status), \
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
    guards = ?22, \
    updated_at = ?1 \
    WHERE room_id = ?3";

const UPDATE_SESSION_INDEXED: &str = "UPDATE sessions \
    SET live_stream_id = iif(?4 & 2, ?5, live_stream_id), \
    config = iif(?4 & 4, ?6, config) \
    WHERE room_id = ?3";

const INSERT_SESSION: &str = "INSERT INTO sessions (room_id, platform, scope, status, \
        live_stream_id, config, title, streamer_id, app_id, peak_viewers, duration_seconds, \
        error_code, error_message, started_at, ended_at, last_event_id, last_event_at, \
        created_at, guards, viewer_count, data, updated_at) \
    VALUES (?3, ?4, ?5, coalesce(?7, 'ready'), ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, \
        ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?1)";

const UPDATE_RECORDING: &str = "UPDATE recordings \
    SET room_id = ?4, state = coalesce(?5, state), url = ?6, duration_seconds = ?7, \
        size_bytes = ?8, guards = ?9, updated_at = ?1 \
    WHERE platform = ?2 AND recording_id = ?3";

const INSERT_RECORDING: &str = "INSERT INTO recordings (recording_id, room_id, state, url, \
        duration_seconds, size_bytes, guards, updated_at, platform) \
    VALUES (?3, ?4, ?5, ?6, ?7, ?8, ?9, ?1, ?2)";

const UPDATE_CONTENT: &str = "UPDATE contents \
    SET title = ?4, content_type = ?5, state = coalesce(?6, state), data = coalesce(?7, data), \
        guards = ?8, updated_at = ?1 \
    WHERE platform = ?2 AND content_id = ?3";

const INSERT_CONTENT: &str = "INSERT INTO contents (content_id, title, content_type, state, data, \
        guards, updated_at, platform) \
    VALUES (?3, ?4, ?5, ?6, ?7, ?8, ?1, ?2)";

const UPDATE_JOB: &str = "UPDATE jobs \
    SET status = ?4, progress = ?5, current_step = ?6, video_url = ?7, error = ?8, \
        retry_count = ?9, data = coalesce(?10, data), guards = ?11, updated_at = ?1 \
    WHERE platform = ?2 AND job_id = ?3";

const INSERT_JOB: &str = "INSERT INTO jobs (job_id, status, progress, current_step, video_url, \
        error, retry_count, data, guards, updated_at, platform) \
    VALUES (?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?1, ?2)";

const UPDATE_CHAT: &str = "UPDATE chat_messages \
    SET room_id = ?4, user_id = ?5, user_name = ?6, message = ?7, sent_at = ?8, guards = ?9 \
    WHERE platform = ?2 AND message_id = ?3";

const INSERT_CHAT: &str = "INSERT INTO chat_messages (message_id, room_id, user_id, user_name, \
        message, sent_at, guards, platform) \
    VALUES (?3, ?4, ?5, ?6, ?7, ?8, ?9, ?2)";

const INSERT_LEDGER: &str = "INSERT INTO webhook_events (event_id, event_type, room_id, \
        occurred_at, received_at, attempts, action, origin, result, processed_at, platform) \
    VALUES (?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?1, ?2)";

// These select a row as it is after its write, by the parameters of the statements above.

const SESSION_WRITTEN: &str = "SELECT 1 FROM sessions WHERE room_id = ?3 AND guards = ?22";

const SESSION_INDEXED_WRITTEN: &str = "SELECT 1 FROM sessions WHERE room_id = ?3 \
    AND iif(?4 & 2, live_stream_id IS ?5, 1) AND iif(?4 & 4, config IS ?6, 1)";

const RECORDING_WRITTEN: &str =
    "SELECT 1 FROM recordings WHERE platform = ?2 AND recording_id = ?3 AND guards = ?9";

const CONTENT_WRITTEN: &str =
    "SELECT 1 FROM contents WHERE platform = ?2 AND content_id = ?3 AND guards = ?8";

const JOB_WRITTEN: &str = "SELECT 1 FROM jobs WHERE platform = ?2 AND job_id = ?3 AND guards = ?11";

const CHAT_WRITTEN: &str =
    "SELECT 1 FROM chat_messages WHERE platform = ?2 AND message_id = ?3 AND guards = ?9";

/// Selects a row that this transaction wrote.
const LEDGER_WRITTEN: &str = "SELECT 1 FROM webhook_events \
    WHERE platform = ?2 AND event_id = ?3 AND origin = ?10 AND processed_at = ?1";

const fn write(what: &'static str, statement: &'static str, proof: &'static str) -> SqliteWrite {
    SqliteWrite { what, statement, proof }
}

/// Returns the rows of `changes`, in the order in which they are written.
pub(super) fn tables(changes: &RowChanges<'_>) -> Vec<RowBuffer> {
    let RowChanges {
        platform,
        now,
        sessions,
        recordings,
        contents,
        jobs,
        chats,
        ledger,
        ledger_check: _,
    } = changes;
    let mut into = RowBuffers { platform, now: rfc3339(*now), tables: Vec::new() };
    let indexed = |row: &&&SessionRow| row.written.mask & (bit::LIVE_STREAM_ID | bit::CONFIG) != 0;
    into.add(
        write("update of sessions", UPDATE_SESSION, SESSION_WRITTEN),
        sessions.known.iter(),
        session,
    );
    into.add(
        write("update of sessions", UPDATE_SESSION_INDEXED, SESSION_INDEXED_WRITTEN),
        sessions.known.iter().filter(indexed),
        indexed_columns,
    );
    into.add(
        write("insert into sessions", INSERT_SESSION, SESSION_WRITTEN),
        sessions.new.iter(),
        session,
    );
    into.add(
        write("update of recordings", UPDATE_RECORDING, RECORDING_WRITTEN),
        recordings.known.iter(),
        recording,
    );
    into.add(
        write("insert into recordings", INSERT_RECORDING, RECORDING_WRITTEN),
        recordings.new.iter(),
        recording,
    );
    into.add(
        write("update of contents", UPDATE_CONTENT, CONTENT_WRITTEN),
        contents.known.iter(),
        content,
    );
    into.add(
        write("insert into contents", INSERT_CONTENT, CONTENT_WRITTEN),
        contents.new.iter(),
        content,
    );
    into.add(write("update of jobs", UPDATE_JOB, JOB_WRITTEN), jobs.known.iter(), job);
    into.add(write("insert into jobs", INSERT_JOB, JOB_WRITTEN), jobs.new.iter(), job);
    into.add(write("update of chat_messages", UPDATE_CHAT, CHAT_WRITTEN), chats.known.iter(), chat);
    into.add(write("insert into chat_messages", INSERT_CHAT, CHAT_WRITTEN), chats.new.iter(), chat);
    into.add(
        write("insert into webhook_events", INSERT_LEDGER, LEDGER_WRITTEN),
        ledger.iter(),
        entry,
    );
    into.tables
}

struct RowBuffers<'p> {
    platform: &'p str,
    now: String,
    tables: Vec<RowBuffer>,
}

impl RowBuffers<'_> {
    /// Adds rows. `values` adds the values of a row, in the order of the statement's parameters
    /// from the third on.
    fn add<R>(
        &mut self,
        write: SqliteWrite,
        rows: impl Iterator<Item = R>,
        mut values: impl FnMut(&mut RowBuffer, R),
    ) {
        let mut rows = rows.peekable();
        if rows.peek().is_none() {
            return;
        }
        let mut table = RowBuffer::new(write, &self.now, self.platform);
        for row in rows {
            values(&mut table, row);
            table.end_row();
        }
        self.tables.push(table);
    }
}

fn session(to: &mut RowBuffer, row: &&SessionRow) {
    let written = &row.written;
    to.text(&row.room_id);
    to.text(&row.platform);
    to.text(match row.scope {
        SessionScope::Own => "own",
        SessionScope::Shared => "shared",
    });
    to.integer(Some(written.mask.into()));
    to.text_or_null(row.status.map(shared::platform::SessionStatus::as_str));
    to.text_or_null(row.live_stream_id.as_deref());
    to.text_or_null(written.config.as_deref());
    to.text_or_null(written.title.as_deref());
    to.text_or_null(written.streamer_id.as_deref());
    to.text_or_null(written.app_id.as_deref());
    to.integer(written.peak_viewers);
    to.real(written.duration_seconds);
    to.text_or_null(written.error_code.as_deref());
    to.text_or_null(written.error_message.as_deref());
    to.time(written.started_at);
    to.time(written.ended_at);
    to.text_or_null(written.last_event_id.as_deref());
    to.time(written.last_event_at);
    to.time(Some(row.created_at).filter(|_| written.mask & bit::CREATED != 0));
    to.text(&row.guards.to_text());
    to.integer(written.viewer_count);
    to.text_or_null(written.data_json().as_deref());
}

fn indexed_columns(to: &mut RowBuffer, row: &&SessionRow) {
    to.text(&row.room_id);
    to.integer(Some(row.written.mask.into()));
    to.text_or_null(row.live_stream_id.as_deref());
    to.text_or_null(row.written.config.as_deref());
}

fn entry(to: &mut RowBuffer, (event, result): &EffectiveEvent<'_>) {
    to.text(&event.event_id);
    to.text(&event.event_type);
    to.text_or_null(result.room_id.as_deref());
    to.time(Some(event.occurred_at));
    to.time(Some(event.received_at));
    to.integer(Some(event.attempt.into()));
    to.text(result.action.as_str());
    to.display(event.order.origin);
    to.json(*result);
}

fn recording(to: &mut RowBuffer, row: &&RecordingRow) {
    to.text(&row.recording_id);
    to.text_or_null(row.room_id.as_deref());
    to.text_or_null(row.state.map(shared::platform::RecordingState::as_str));
    to.text_or_null(row.url.as_deref());
    to.real(row.duration_seconds);
    to.integer(row.size_bytes);
    to.text(&row.guards.to_text());
}

fn content(to: &mut RowBuffer, row: &&ContentRow) {
    to.text(&row.content_id);
    to.text_or_null(row.title.as_deref());
    to.text_or_null(row.content_type.as_deref());
    to.text_or_null(row.state.map(shared::platform::ContentState::as_str));
    to.text_or_null(row.data.as_deref());
    to.text(&row.guards.to_text());
}

fn job(to: &mut RowBuffer, row: &&JobRow) {
    to.text(&row.job_id);
    to.text(&row.status);
    to.real(row.progress);
    to.text_or_null(row.current_step.as_deref());
    to.text_or_null(row.video_url.as_deref());
    to.text_or_null(row.error.as_deref());
    to.integer(row.retry_count);
    to.text_or_null(row.data.as_deref());
    to.text(&row.guards.to_text());
}

fn chat(to: &mut RowBuffer, row: &&ChatRow) {
    to.text(&row.message_id);
    to.text_or_null(row.room_id.as_deref());
    to.text_or_null(row.user_id.as_deref());
    to.text_or_null(row.user_name.as_deref());
    to.text_or_null(row.message.as_deref());
    to.time(Some(row.sent_at));
    to.text(&row.guards.to_text());
}
