-- Times are UTC. An application may read everything here and write `sessions`; a row that it inserts needs its room_id
-- only. `guards` and `scope` are Tributary's own: `guards` names, for each group of columns, the event that wrote it last
-- (JSON as text); `scope` says whose events may touch the session.

CREATE TABLE tributary_meta (
    key   text NOT NULL PRIMARY KEY,
    value text NOT NULL
);

-- Rows are updated much more often than made: room for updates that touch no index.
CREATE TABLE sessions (
    room_id          text NOT NULL PRIMARY KEY,
    platform         text NOT NULL DEFAULT 'sessions',
    scope            text NOT NULL DEFAULT 'shared',
    status           text NOT NULL DEFAULT 'ready',
    live_stream_id   text,
    config           jsonb,
    title            text,
    streamer_id      text,
    app_id           text,
    viewer_count     bigint,
    peak_viewers     bigint,
    duration_seconds double precision,
    error_code       text,
    error_message    text,
    started_at       timestamptz,
    ended_at         timestamptz,
    data             jsonb,
    last_event_id    text,
    last_event_at    timestamptz,
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    guards           text NOT NULL DEFAULT '{}'
) WITH (fillfactor = 80);

CREATE INDEX sessions_live_stream_id ON sessions (live_stream_id) WHERE live_stream_id IS NOT NULL;
CREATE INDEX sessions_egress_live_stream_id
    ON sessions ((config #>> '{egress,live_stream_id}'))
    WHERE config #>> '{egress,live_stream_id}' IS NOT NULL;

-- The ledger: what is in here has taken effect. Its key decides, whatever Redis remembers.
CREATE TABLE webhook_events (
    platform     text NOT NULL,
    event_id     text NOT NULL,
    event_type   text NOT NULL,
    room_id      text,
    occurred_at  timestamptz NOT NULL,
    received_at  timestamptz NOT NULL,
    processed_at timestamptz NOT NULL,
    attempts     integer NOT NULL,
    action       text NOT NULL,
    origin       text NOT NULL,
    result       jsonb NOT NULL,
    PRIMARY KEY (platform, event_id)
);

CREATE TABLE recordings (
    platform         text NOT NULL,
    recording_id     text NOT NULL,
    room_id          text,
    state            text NOT NULL,
    url              text,
    duration_seconds double precision,
    size_bytes       bigint,
    updated_at       timestamptz NOT NULL,
    guards           text NOT NULL DEFAULT '{}',
    PRIMARY KEY (platform, recording_id)
);

CREATE INDEX recordings_room_id ON recordings (room_id) WHERE room_id IS NOT NULL;

CREATE TABLE contents (
    platform     text NOT NULL,
    content_id   text NOT NULL,
    title        text,
    content_type text,
    state        text NOT NULL,
    data         jsonb,
    updated_at   timestamptz NOT NULL,
    guards       text NOT NULL DEFAULT '{}',
    PRIMARY KEY (platform, content_id)
);

CREATE TABLE jobs (
    platform     text NOT NULL,
    job_id       text NOT NULL,
    status       text NOT NULL,
    progress     double precision,
    current_step text,
    video_url    text,
    error        text,
    retry_count  bigint,
    data         jsonb,
    updated_at   timestamptz NOT NULL,
    guards       text NOT NULL DEFAULT '{}',
    PRIMARY KEY (platform, job_id)
);

CREATE TABLE chat_messages (
    platform   text NOT NULL,
    message_id text NOT NULL,
    room_id    text NOT NULL,
    user_id    text,
    user_name  text,
    message    text,
    sent_at    timestamptz NOT NULL,
    guards     text NOT NULL DEFAULT '{}',
    PRIMARY KEY (platform, message_id)
);

CREATE INDEX chat_messages_room_id ON chat_messages (room_id, sent_at);
