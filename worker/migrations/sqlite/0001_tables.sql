-- Times are UTC, RFC 3339 with milliseconds and 'Z'; JSON is text. An application may read everything here and write
-- `sessions`; a row that it inserts needs its room_id only. `guards` and `scope` are Tributary's own: `guards` names, for
-- each group of columns, the event that wrote it last; `scope` says whose events may touch the session.

CREATE TABLE tributary_meta (
    key   TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

CREATE TABLE sessions (
    room_id          TEXT NOT NULL PRIMARY KEY,
    platform         TEXT NOT NULL DEFAULT 'sessions',
    scope            TEXT NOT NULL DEFAULT 'shared',
    status           TEXT NOT NULL DEFAULT 'ready',
    live_stream_id   TEXT,
    config           TEXT CHECK (config IS NULL OR json_valid(config)),
    title            TEXT,
    streamer_id      TEXT,
    app_id           TEXT,
    viewer_count     INTEGER,
    peak_viewers     INTEGER,
    duration_seconds REAL,
    error_code       TEXT,
    error_message    TEXT,
    started_at       TEXT,
    ended_at         TEXT,
    data             TEXT CHECK (data IS NULL OR json_valid(data)),
    last_event_id    TEXT,
    last_event_at    TEXT,
    created_at       TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    updated_at       TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    guards           TEXT NOT NULL DEFAULT '{}'
) STRICT;

CREATE INDEX sessions_live_stream_id ON sessions (live_stream_id) WHERE live_stream_id IS NOT NULL;
CREATE INDEX sessions_egress_live_stream_id
    ON sessions (CAST(config ->> '$.egress.live_stream_id' AS TEXT))
    WHERE CAST(config ->> '$.egress.live_stream_id' AS TEXT) IS NOT NULL;

-- The ledger: what is in here has taken effect. Its key decides, whatever Redis remembers.
CREATE TABLE webhook_events (
    platform     TEXT NOT NULL,
    event_id     TEXT NOT NULL,
    event_type   TEXT NOT NULL,
    room_id      TEXT,
    occurred_at  TEXT NOT NULL,
    received_at  TEXT NOT NULL,
    processed_at TEXT NOT NULL,
    attempts     INTEGER NOT NULL,
    action       TEXT NOT NULL,
    origin       TEXT NOT NULL,
    result       TEXT NOT NULL,
    PRIMARY KEY (platform, event_id)
) STRICT;

CREATE TABLE recordings (
    platform         TEXT NOT NULL,
    recording_id     TEXT NOT NULL,
    room_id          TEXT,
    state            TEXT NOT NULL,
    url              TEXT,
    duration_seconds REAL,
    size_bytes       INTEGER,
    updated_at       TEXT NOT NULL,
    guards           TEXT NOT NULL DEFAULT '{}',
    PRIMARY KEY (platform, recording_id)
) STRICT;

CREATE INDEX recordings_room_id ON recordings (room_id) WHERE room_id IS NOT NULL;

CREATE TABLE contents (
    platform     TEXT NOT NULL,
    content_id   TEXT NOT NULL,
    title        TEXT,
    content_type TEXT,
    state        TEXT NOT NULL,
    data         TEXT,
    updated_at   TEXT NOT NULL,
    guards       TEXT NOT NULL DEFAULT '{}',
    PRIMARY KEY (platform, content_id)
) STRICT;

CREATE TABLE jobs (
    platform     TEXT NOT NULL,
    job_id       TEXT NOT NULL,
    status       TEXT NOT NULL,
    progress     REAL,
    current_step TEXT,
    video_url    TEXT,
    error        TEXT,
    retry_count  INTEGER,
    data         TEXT,
    updated_at   TEXT NOT NULL,
    guards       TEXT NOT NULL DEFAULT '{}',
    PRIMARY KEY (platform, job_id)
) STRICT;

CREATE TABLE chat_messages (
    platform   TEXT NOT NULL,
    message_id TEXT NOT NULL,
    room_id    TEXT NOT NULL,
    user_id    TEXT,
    user_name  TEXT,
    message    TEXT,
    sent_at    TEXT NOT NULL,
    guards     TEXT NOT NULL DEFAULT '{}',
    PRIMARY KEY (platform, message_id)
) STRICT;

CREATE INDEX chat_messages_room_id ON chat_messages (room_id, sent_at);
