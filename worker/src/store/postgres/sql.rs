//! SQL of the statements. Each column is one array parameter, so that a statement's text does not
//! depend on the number of rows.

// Keys are looked up one by one, behind an optimization fence: `OFFSET 0` or a row lock. With `=
// ANY`, a planner without statistics reads all ledger rows of a platform. The fence also makes rows
// be locked in the order of the keys.

pub(super) const LEDGER: &str = "SELECT e.event_id, e.origin, e.result::text \
    FROM UNNEST($2::text[]) AS k(id) \
    CROSS JOIN LATERAL \
        (SELECT * FROM webhook_events WHERE platform = $1 AND event_id = k.id OFFSET 0) e";

/// NO KEY lets applications insert rows that refer to `sessions` meanwhile.
pub(super) const SESSIONS_BY_ROOM: &str = "SELECT s.room_id, s.platform, s.scope, s.status, \
        s.live_stream_id, s.config #>> '{egress,live_stream_id}', s.guards, \
        CASE WHEN isfinite(s.created_at) \
            THEN floor(extract(epoch FROM s.created_at) * 1000)::bigint ELSE 0 END \
    FROM UNNEST($1::text[]) AS k(id) \
    CROSS JOIN LATERAL (SELECT * FROM sessions WHERE room_id = k.id FOR NO KEY UPDATE) s";

/// COLLATE "C" is the order in which this program sorts rooms.
pub(super) const SESSIONS_BY_EITHER: &str = "SELECT s.room_id, s.platform, s.scope, s.status, \
        s.live_stream_id, s.config #>> '{egress,live_stream_id}', s.guards, \
        CASE WHEN isfinite(s.created_at) \
            THEN floor(extract(epoch FROM s.created_at) * 1000)::bigint ELSE 0 END \
    FROM (SELECT id FROM (SELECT id FROM UNNEST($1::text[]) AS r(id) \
        UNION SELECT f.room_id FROM UNNEST($2::text[]) AS l(id) CROSS JOIN LATERAL ( \
            SELECT room_id FROM sessions WHERE live_stream_id = l.id \
            UNION ALL SELECT room_id FROM sessions \
                WHERE config #>> '{egress,live_stream_id}' = l.id OFFSET 0) f) AS either \
        ORDER BY id COLLATE \"C\") AS k \
    CROSS JOIN LATERAL (SELECT * FROM sessions WHERE room_id = k.id FOR NO KEY UPDATE) s";

pub(super) const RECORDINGS: &str = "SELECT r.recording_id, r.room_id, r.state, r.url, \
        r.duration_seconds, r.size_bytes, r.guards \
    FROM UNNEST($2::text[]) AS k(id) CROSS JOIN LATERAL \
        (SELECT * FROM recordings WHERE platform = $1 AND recording_id = k.id \
        FOR NO KEY UPDATE) r";

pub(super) const CONTENTS: &str = "SELECT c.content_id, c.title, c.content_type, c.state, c.guards \
    FROM UNNEST($2::text[]) AS k(id) CROSS JOIN LATERAL \
        (SELECT * FROM contents WHERE platform = $1 AND content_id = k.id FOR NO KEY UPDATE) c";

pub(super) const JOBS: &str = "SELECT j.job_id, j.status, j.progress, j.current_step, \
        j.video_url, j.error, j.retry_count, j.guards \
    FROM UNNEST($2::text[]) AS k(id) CROSS JOIN LATERAL \
        (SELECT * FROM jobs WHERE platform = $1 AND job_id = k.id FOR NO KEY UPDATE) j";

pub(super) const CHATS: &str = "SELECT c.message_id, c.room_id, c.user_id, c.user_name, \
        c.message, c.sent_at, c.guards \
    FROM UNNEST($2::text[]) AS k(id) CROSS JOIN LATERAL \
        (SELECT * FROM chat_messages WHERE platform = $1 AND message_id = k.id \
        FOR NO KEY UPDATE) c";

/// The numbers are the bits of [`crate::effects::bit`].
pub(super) const UPDATE_SESSIONS: &str = "UPDATE sessions AS s \
    SET status = CASE WHEN u.mask & 1 <> 0 THEN u.status ELSE s.status END, \
    live_stream_id = CASE WHEN u.mask & 2 <> 0 THEN u.live_stream_id ELSE s.live_stream_id END, \
    config = CASE WHEN u.mask & 4 <> 0 THEN u.config::jsonb ELSE s.config END, \
    title = CASE WHEN u.mask & 8 <> 0 THEN u.title ELSE s.title END, \
    streamer_id = CASE WHEN u.mask & 16 <> 0 THEN u.streamer_id ELSE s.streamer_id END, \
    app_id = CASE WHEN u.mask & 32 <> 0 THEN u.app_id ELSE s.app_id END, \
    peak_viewers = CASE WHEN u.mask & 64 <> 0 THEN u.peak_viewers ELSE s.peak_viewers END, \
    duration_seconds = CASE WHEN u.mask & 128 <> 0 THEN u.duration_seconds ELSE \
        s.duration_seconds END, \
    error_code = CASE WHEN u.mask & 256 <> 0 THEN u.error_code ELSE s.error_code END, \
    error_message = CASE WHEN u.mask & 512 <> 0 THEN u.error_message ELSE s.error_message END, \
    started_at = CASE WHEN u.mask & 1024 <> 0 THEN u.started_at ELSE s.started_at END, \
    ended_at = CASE WHEN u.mask & 2048 <> 0 THEN u.ended_at ELSE s.ended_at END, \
    last_event_id = CASE WHEN u.mask & 4096 <> 0 THEN u.last_event_id ELSE s.last_event_id END, \
    last_event_at = CASE WHEN u.mask & 4096 <> 0 THEN u.last_event_at ELSE s.last_event_at END, \
    platform = CASE WHEN u.mask & 8192 <> 0 THEN u.platform ELSE s.platform END, \
    created_at = CASE WHEN u.mask & 8192 <> 0 THEN u.created_at ELSE s.created_at END, \
    viewer_count = CASE WHEN u.mask & 16384 <> 0 THEN u.viewer_count ELSE s.viewer_count END, \
    data = CASE WHEN u.mask & 32768 <> 0 THEN (CASE WHEN jsonb_typeof(s.data) = 'object' THEN \
        s.data ELSE '{}' END) || u.data::jsonb ELSE s.data END, \
    guards = u.guards, updated_at = $23 \
    FROM UNNEST($1::text[], $2::text[], $3::text[], $4::int[], $5::text[], $6::text[], \
        $7::text[], $8::text[], $9::text[], $10::text[], $11::bigint[], $12::float8[], \
        $13::text[], $14::text[], $15::timestamptz[], $16::timestamptz[], $17::text[], \
        $18::timestamptz[], $19::timestamptz[], $20::text[], $21::bigint[], $22::text[]) \
    AS u(room_id, platform, scope, mask, status, live_stream_id, config, title, streamer_id, \
        app_id, peak_viewers, duration_seconds, error_code, error_message, started_at, ended_at, \
        last_event_id, last_event_at, created_at, guards, viewer_count, data) \
    WHERE s.room_id = u.room_id";

pub(super) const INSERT_SESSIONS: &str = "INSERT INTO sessions (room_id, platform, scope, status, \
        live_stream_id, config, title, streamer_id, app_id, peak_viewers, duration_seconds, \
        error_code, error_message, started_at, ended_at, last_event_id, last_event_at, \
        created_at, guards, viewer_count, data, updated_at) \
    SELECT room_id, platform, scope, coalesce(status, 'ready'), live_stream_id, config::jsonb, \
        title, streamer_id, app_id, peak_viewers, duration_seconds, error_code, error_message, \
        started_at, ended_at, last_event_id, last_event_at, created_at, guards, viewer_count, \
        data::jsonb, $23 \
    FROM UNNEST($1::text[], $2::text[], $3::text[], $4::int[], $5::text[], $6::text[], \
        $7::text[], $8::text[], $9::text[], $10::text[], $11::bigint[], $12::float8[], \
        $13::text[], $14::text[], $15::timestamptz[], $16::timestamptz[], $17::text[], \
        $18::timestamptz[], $19::timestamptz[], $20::text[], $21::bigint[], $22::text[]) \
    AS u(room_id, platform, scope, mask, status, live_stream_id, config, title, streamer_id, \
        app_id, peak_viewers, duration_seconds, error_code, error_message, started_at, ended_at, \
        last_event_id, last_event_at, created_at, guards, viewer_count, data) \
    ON CONFLICT (room_id) DO NOTHING";

pub(super) const UPDATE_RECORDINGS: &str = "UPDATE recordings AS r \
    SET room_id = u.room_id, state = coalesce(u.state, r.state), url = u.url, \
        duration_seconds = u.duration_seconds, size_bytes = u.size_bytes, guards = u.guards, \
        updated_at = $9 \
    FROM UNNEST($2::text[], $3::text[], $4::text[], $5::text[], $6::float8[], $7::bigint[], \
        $8::text[]) \
    AS u(recording_id, room_id, state, url, duration_seconds, size_bytes, guards) \
    WHERE r.platform = $1 AND r.recording_id = u.recording_id";

pub(super) const INSERT_RECORDINGS: &str = "INSERT INTO recordings (platform, recording_id, \
        room_id, state, url, duration_seconds, size_bytes, guards, updated_at) \
    SELECT $1, recording_id, room_id, state, url, duration_seconds, size_bytes, guards, $9 \
    FROM UNNEST($2::text[], $3::text[], $4::text[], $5::text[], $6::float8[], $7::bigint[], \
        $8::text[]) \
    AS u(recording_id, room_id, state, url, duration_seconds, size_bytes, guards) \
    ON CONFLICT (platform, recording_id) DO NOTHING";

pub(super) const UPDATE_CONTENTS: &str = "UPDATE contents AS c \
    SET title = u.title, content_type = u.content_type, state = coalesce(u.state, c.state), \
        data = coalesce(u.data::jsonb, c.data), guards = u.guards, updated_at = $8 \
    FROM UNNEST($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[]) \
    AS u(content_id, title, content_type, state, data, guards) \
    WHERE c.platform = $1 AND c.content_id = u.content_id";

pub(super) const INSERT_CONTENTS: &str = "INSERT INTO contents (platform, content_id, title, \
        content_type, state, data, guards, updated_at) \
    SELECT $1, content_id, title, content_type, state, data::jsonb, guards, $8 \
    FROM UNNEST($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[]) \
    AS u(content_id, title, content_type, state, data, guards) \
    ON CONFLICT (platform, content_id) DO NOTHING";

pub(super) const UPDATE_JOBS: &str = "UPDATE jobs AS j \
    SET status = u.status, progress = u.progress, current_step = u.current_step, \
        video_url = u.video_url, error = u.error, retry_count = u.retry_count, \
        data = coalesce(u.data::jsonb, j.data), guards = u.guards, updated_at = $11 \
    FROM UNNEST($2::text[], $3::text[], $4::float8[], $5::text[], $6::text[], $7::text[], \
        $8::bigint[], $9::text[], $10::text[]) \
    AS u(job_id, status, progress, current_step, video_url, error, retry_count, data, guards) \
    WHERE j.platform = $1 AND j.job_id = u.job_id";

pub(super) const INSERT_JOBS: &str = "INSERT INTO jobs (platform, job_id, status, progress, \
        current_step, video_url, error, retry_count, data, guards, updated_at) \
    SELECT $1, job_id, status, progress, current_step, video_url, error, retry_count, \
        data::jsonb, guards, $11 \
    FROM UNNEST($2::text[], $3::text[], $4::float8[], $5::text[], $6::text[], $7::text[], \
        $8::bigint[], $9::text[], $10::text[]) \
    AS u(job_id, status, progress, current_step, video_url, error, retry_count, data, guards) \
    ON CONFLICT (platform, job_id) DO NOTHING";

pub(super) const UPDATE_CHATS: &str = "UPDATE chat_messages AS c \
    SET room_id = u.room_id, user_id = u.user_id, user_name = u.user_name, message = u.message, \
        sent_at = u.sent_at, guards = u.guards \
    FROM UNNEST($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[], \
        $8::text[]) \
    AS u(message_id, room_id, user_id, user_name, message, sent_at, guards) \
    WHERE c.platform = $1 AND c.message_id = u.message_id";

pub(super) const INSERT_CHATS: &str = "INSERT INTO chat_messages (platform, message_id, room_id, \
        user_id, user_name, message, sent_at, guards) \
    SELECT $1, message_id, room_id, user_id, user_name, message, sent_at, guards \
    FROM UNNEST($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[], \
        $8::text[]) \
    AS u(message_id, room_id, user_id, user_name, message, sent_at, guards) \
    ON CONFLICT (platform, message_id) DO NOTHING";

macro_rules! insert_ledger {
    ($on_conflict:literal) => {
        concat!(
            "INSERT INTO webhook_events (platform, event_id, event_type, room_id, occurred_at, \
                    received_at, attempts, action, origin, result, processed_at) \
                SELECT $1, unnest($2::text[]), unnest($3::text[]), unnest($4::text[]), \
                    unnest($5::timestamptz[]), unnest($6::timestamptz[]), unnest($7::int[]), \
                    unnest($8::text[]), unnest($9::text[]), unnest($10::text[])::jsonb, $11",
            $on_conflict
        )
    };
}

/// For events that were queried in the ledger. A lost race must not be an error, which would blame
/// an event.
pub(super) const INSERT_LEDGER: &str =
    insert_ledger!(" ON CONFLICT (platform, event_id) DO NOTHING");

/// For events that are assumed to be new, so that an existing row is an error. ON CONFLICT looks
/// for each row first, which costs a third of the insertion.
pub(super) const INSERT_NEW_LEDGER: &str = insert_ledger!("");

pub(super) const PROBE: &str = "INSERT INTO tributary_meta (key, value) VALUES ('probed_at', $1) \
    ON CONFLICT (key) DO UPDATE SET value = excluded.value";

// These return true if a row is missing after an insertion that wrote too few rows. If none is,
// another worker was faster. A row that row-level security hides from updates also counts as
// missing, because no later update finds it either.

macro_rules! missing {
    ($table:literal, $key:literal, $keys:literal) => {
        concat!(
            "SELECT EXISTS (SELECT 1 FROM UNNEST(",
            $keys,
            "::text[]) AS k(id) WHERE CASE WHEN row_security_active('",
            $table,
            "') THEN NOT EXISTS (SELECT 1 FROM ",
            $table,
            " WHERE ",
            $key,
            " = k.id FOR NO KEY UPDATE) ELSE NOT EXISTS (SELECT 1 FROM ",
            $table,
            " WHERE ",
            $key,
            " = k.id) END)"
        )
    };
}

pub(super) const MISSING_SESSIONS: &str = missing!("sessions", "room_id", "$1");
pub(super) const MISSING_RECORDINGS: &str =
    missing!("recordings", "platform = $1 AND recording_id", "$2");
pub(super) const MISSING_CONTENTS: &str =
    missing!("contents", "platform = $1 AND content_id", "$2");
pub(super) const MISSING_JOBS: &str = missing!("jobs", "platform = $1 AND job_id", "$2");
pub(super) const MISSING_CHATS: &str =
    missing!("chat_messages", "platform = $1 AND message_id", "$2");
/// Ledger rows are never updated, so a visible row is enough.
pub(super) const MISSING_LEDGER: &str = "SELECT EXISTS (SELECT 1 FROM UNNEST($2::text[]) AS k(id) \
    WHERE NOT EXISTS (SELECT 1 FROM webhook_events WHERE platform = $1 AND event_id = k.id))";

// These return existing rows that another transaction keeps locked.

/// Selects the same sessions as [`SESSIONS_BY_EITHER`].
pub(super) const LOCKED_SESSIONS: &str = "SELECT s.room_id, s.live_stream_id, \
        s.config #>> '{egress,live_stream_id}' \
    FROM (SELECT id FROM UNNEST($1::text[]) AS r(id) \
        UNION SELECT f.room_id FROM UNNEST($2::text[]) AS l(id) CROSS JOIN LATERAL ( \
            SELECT room_id FROM sessions WHERE live_stream_id = l.id \
            UNION ALL SELECT room_id FROM sessions \
                WHERE config #>> '{egress,live_stream_id}' = l.id OFFSET 0) f) AS k \
    CROSS JOIN LATERAL (SELECT * FROM sessions WHERE room_id = k.id OFFSET 0) s \
    LEFT JOIN LATERAL \
        (SELECT 1 AS free FROM sessions WHERE room_id = k.id FOR NO KEY UPDATE SKIP LOCKED) mine \
        ON true \
    WHERE mine.free IS NULL";

macro_rules! locked {
    ($row:literal) => {
        concat!(
            "SELECT k.id FROM UNNEST($2::text[]) AS k(id) \
             CROSS JOIN LATERAL (SELECT 1 FROM ",
            $row,
            " = k.id OFFSET 0) there LEFT JOIN LATERAL (SELECT 1 AS free FROM ",
            $row,
            " = k.id FOR NO KEY UPDATE SKIP LOCKED) mine ON true WHERE mine.free IS NULL"
        )
    };
}

pub(super) const LOCKED_RECORDINGS: &str =
    locked!("recordings WHERE platform = $1 AND recording_id");
pub(super) const LOCKED_CONTENTS: &str = locked!("contents WHERE platform = $1 AND content_id");
pub(super) const LOCKED_JOBS: &str = locked!("jobs WHERE platform = $1 AND job_id");
pub(super) const LOCKED_CHATS: &str = locked!("chat_messages WHERE platform = $1 AND message_id");
