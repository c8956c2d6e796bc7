//! Reads the rows of a batch, each by its key.

use rusqlite::{Connection, Row};
use shared::event::Millis;
use shared::platform::SessionScope;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, PrimitiveDateTime};

use crate::effects::{
    ChatRow, ContentRow, JobRow, Reach, RecordingRow, SessionRow, VersionGuards, WrittenColumns,
};
use crate::store::batch::{LoadedRows, RowQuery, StoredLedgerRow};
use crate::store::error::BackendError;

const LEDGER: &str =
    "SELECT event_id, origin, result FROM webhook_events WHERE platform = ?1 AND event_id = ?2";

/// SELECT with the columns of a session, in the order of [`session_row`].
macro_rules! session {
    ($of:literal) => {
        concat!(
            "SELECT room_id, platform, scope, status, live_stream_id, \
                    CAST(config ->> '$.egress.live_stream_id' AS TEXT), created_at, guards \
                FROM sessions \
                WHERE ",
            $of
        )
    };
}

const SESSION: &str = session!("room_id = ?1");
const SESSIONS_OF_STREAM: [&str; 2] = [
    session!("live_stream_id = ?1"),
    session!("CAST(config ->> '$.egress.live_stream_id' AS TEXT) = ?1"),
];

const RECORDING: &str = "SELECT recording_id, room_id, state, url, duration_seconds, size_bytes, \
        guards \
    FROM recordings \
    WHERE platform = ?1 AND recording_id = ?2";

const CONTENT: &str = "SELECT content_id, title, content_type, state, guards \
    FROM contents \
    WHERE platform = ?1 AND content_id = ?2";

const JOB: &str = "SELECT job_id, status, progress, current_step, video_url, error, retry_count, \
        guards \
    FROM jobs WHERE platform = ?1 AND job_id = ?2";

const CHAT: &str = "SELECT message_id, room_id, user_id, user_name, message, sent_at, guards \
    FROM chat_messages \
    WHERE platform = ?1 AND message_id = ?2";

/// Keys of a part, owned, for the thread that reads.
pub(super) struct OwnedRowQuery {
    platform: String,
    scope: SessionScope,
    ids: Vec<String>,
    rooms: Vec<String>,
    /// Stream ids, each with the room whose session makes its look-up unnecessary.
    live_streams: Vec<(String, Option<String>)>,
    recordings: Vec<String>,
    contents: Vec<String>,
    jobs: Vec<String>,
    chats: Vec<String>,
}

impl OwnedRowQuery {
    pub(super) fn new(RowQuery { platform, scope, ids, row_keys }: &RowQuery<'_>) -> Self {
        let own = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect();
        let stream =
            |(stream, room): &(&str, Option<&str>)| ((*stream).to_owned(), room.map(str::to_owned));
        Self {
            platform: (*platform).to_owned(),
            scope: *scope,
            ids: own(ids),
            rooms: own(&row_keys.rooms),
            live_streams: row_keys.live_streams.iter().map(stream).collect(),
            recordings: own(&row_keys.recordings),
            contents: own(&row_keys.contents),
            jobs: own(&row_keys.jobs),
            chats: own(&row_keys.chats),
        }
    }
}

/// Reads all rows that `asked` names.
pub(super) fn all(
    connection: &Connection,
    asked: &OwnedRowQuery,
) -> Result<LoadedRows, BackendError> {
    let platform = Some(asked.platform.as_str());
    Ok(LoadedRows {
        ledger: Keyed { connection, statement: LEDGER, platform }.rows(&asked.ids, ledger_row)?,
        sessions: sessions(connection, asked)?,
        recordings: Keyed { connection, statement: RECORDING, platform }
            .rows(&asked.recordings, recording_row)?,
        contents: Keyed { connection, statement: CONTENT, platform }
            .rows(&asked.contents, content_row)?,
        jobs: Keyed { connection, statement: JOB, platform }.rows(&asked.jobs, job_row)?,
        chats: Keyed { connection, statement: CHAT, platform }.rows(&asked.chats, chat_row)?,
    })
}

/// Reads sessions by room, and by live stream id if no room leads to a usable session.
fn sessions(
    connection: &Connection,
    asked: &OwnedRowQuery,
) -> Result<Vec<SessionRow>, BackendError> {
    let by = |statement, keys: &[String]| {
        Keyed { connection, statement, platform: None }.rows(keys, session_row)
    };
    let mut found = by(SESSION, &asked.rooms)?;
    // Rooms were read in their order, so the rows are sorted.
    let reach = Reach { platform: &asked.platform, scope: asked.scope };
    let named = |room: &String| {
        found.binary_search_by(|row| row.room_id.cmp(room)).ok().and_then(|at| found.get(at))
    };
    let known =
        |room: &String| named(room).is_some_and(|row| reach.includes(&row.platform, row.scope));
    let needed = asked.live_streams.iter().filter(|(_, room)| !room.as_ref().is_some_and(known));
    let mut streams: Vec<String> = needed.map(|(stream, _)| stream.clone()).collect();
    streams.dedup();
    if streams.is_empty() {
        return Ok(found);
    }
    for statement in SESSIONS_OF_STREAM {
        found.extend(by(statement, &streams)?);
    }
    found.sort_unstable_by(|a, b| a.room_id.cmp(&b.room_id));
    found.dedup_by(|a, b| a.room_id == b.room_id);
    Ok(found)
}

/// Statement that runs once for each key.
struct Keyed<'a> {
    connection: &'a Connection,
    statement: &'static str,
    /// First parameter, if the key is not the only one.
    platform: Option<&'a str>,
}

impl Keyed<'_> {
    fn rows<R>(
        self,
        keys: &[String],
        read: impl Fn(&Row<'_>) -> Result<R, rusqlite::Error>,
    ) -> Result<Vec<R>, BackendError> {
        let mut found = Vec::new();
        if keys.is_empty() {
            return Ok(found);
        }
        let mut statement = self.connection.prepare_cached(self.statement)?;
        let mut place = 1;
        if let Some(platform) = self.platform {
            statement.raw_bind_parameter(place, platform)?;
            place += 1;
        }
        for key in keys {
            statement.raw_bind_parameter(place, key)?;
            let mut rows = statement.raw_query();
            while let Some(row) = rows.next()? {
                found.push(read(row)?);
            }
        }
        Ok(found)
    }
}

fn ledger_row(row: &Row<'_>) -> Result<StoredLedgerRow, rusqlite::Error> {
    Ok(StoredLedgerRow { event_id: row.get(0)?, origin: row.get(1)?, result: row.get(2)? })
}

fn session_row(row: &Row<'_>) -> Result<SessionRow, rusqlite::Error> {
    Ok(SessionRow {
        room_id: row.get(0)?,
        platform: row.get(1)?,
        scope: if text(row, 2)? == "own" { SessionScope::Own } else { SessionScope::Shared },
        status: text(row, 3)?.parse().ok(),
        live_stream_id: row.get(4)?,
        egress_live_stream_id: row.get(5)?,
        created_at: read_time(text(row, 6)?),
        guards: VersionGuards::parse(text(row, 7)?),
        written: WrittenColumns::default(),
    })
}

fn recording_row(row: &Row<'_>) -> Result<RecordingRow, rusqlite::Error> {
    Ok(RecordingRow {
        recording_id: row.get(0)?,
        room_id: row.get(1)?,
        state: text(row, 2)?.parse().ok(),
        url: row.get(3)?,
        duration_seconds: row.get(4)?,
        size_bytes: row.get(5)?,
        guards: VersionGuards::parse(text(row, 6)?),
    })
}

fn content_row(row: &Row<'_>) -> Result<ContentRow, rusqlite::Error> {
    Ok(ContentRow {
        content_id: row.get(0)?,
        title: row.get(1)?,
        content_type: row.get(2)?,
        state: text(row, 3)?.parse().ok(),
        data: None,
        guards: VersionGuards::parse(text(row, 4)?),
    })
}

fn job_row(row: &Row<'_>) -> Result<JobRow, rusqlite::Error> {
    Ok(JobRow {
        job_id: row.get(0)?,
        status: row.get(1)?,
        progress: row.get(2)?,
        current_step: row.get(3)?,
        video_url: row.get(4)?,
        error: row.get(5)?,
        retry_count: row.get(6)?,
        data: None,
        guards: VersionGuards::parse(text(row, 7)?),
    })
}

fn chat_row(row: &Row<'_>) -> Result<ChatRow, rusqlite::Error> {
    Ok(ChatRow {
        message_id: row.get(0)?,
        room_id: row.get(1)?,
        user_id: row.get(2)?,
        user_name: row.get(3)?,
        message: row.get(4)?,
        sent_at: read_time(text(row, 5)?),
        guards: VersionGuards::parse(text(row, 6)?),
    })
}

fn text<'r>(row: &'r Row<'_>, place: usize) -> Result<&'r str, rusqlite::Error> {
    Ok(row.get_ref(place)?.as_str()?)
}

/// Parses RFC 3339, or SQLite's `2026-01-31 23:59:59[.123]`, which an application may write. Any
/// other text counts as long ago.
fn read_time(text: &str) -> Millis {
    let own = || {
        let own =
            PrimitiveDateTime::parse(&format!("{}Z", text.replacen(' ', "T", 1)), &Rfc3339).ok()?;
        Some(own.assume_utc())
    };
    let at = OffsetDateTime::parse(text, &Rfc3339)
        .ok()
        .or_else(own)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH);
    i64::try_from(at.unix_timestamp_nanos().div_euclid(1_000_000)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn times_written_by_an_application_are_read() {
        for text in
            ["2026-01-31T23:59:59.123Z", "2026-02-01T00:59:59.123+01:00", "2026-01-31 23:59:59.123"]
        {
            assert_eq!(read_time(text), 1_769_903_999_123, "{text}");
        }
        assert_eq!(read_time("2026-01-31 23:59:59"), 1_769_903_999_000);
        assert_eq!(read_time("yesterday"), 0);
    }
}
