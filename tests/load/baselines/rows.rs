//! Rows that a worker wrote, read back and split into transactions for the raw writers.
//!
//! The raw writers compute nothing, so that only the database is measured.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::LoadError;

/// Row of the ledger.
#[derive(Clone, Debug)]
pub(crate) struct RawLedgerRow {
    pub(crate) event_id: String,
    pub(crate) event_type: String,
    pub(crate) room_id: Option<String>,
    pub(crate) occurred_at: String,
    pub(crate) received_at: String,
    pub(crate) processed_at: String,
    pub(crate) attempts: i32,
    pub(crate) action: String,
    pub(crate) origin: String,
    pub(crate) result: String,
}

/// Session row as an event leaves it.
#[derive(Clone, Debug)]
pub(crate) struct RawSessionRow {
    pub(crate) room_id: String,
    pub(crate) status: &'static str,
    pub(crate) live_stream_id: String,
    pub(crate) last_event_id: String,
    pub(crate) last_event_at: String,
    pub(crate) guards: String,
}

/// Rows of one transaction: its events, and the last state of each session that they touch.
#[derive(Debug)]
pub(crate) struct RowBatch {
    pub(crate) rows: Vec<RawLedgerRow>,
    pub(crate) sessions: Vec<RawSessionRow>,
}

/// Figures of a raw writer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WriteFigures {
    pub(crate) rows_per_second: f64,
    /// CPU of the writing process per row, in µs.
    pub(crate) cpu_us: f64,
}

/// Reads all `mux` rows of the ledger in `file`, in the order of writing.
pub(crate) fn read(file: &Path) -> Result<Vec<RawLedgerRow>, LoadError> {
    let connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let sql = "SELECT event_id, event_type, room_id, occurred_at, received_at, processed_at, \
        attempts, action, origin, result \
        FROM webhook_events WHERE platform = 'mux' ORDER BY rowid";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |row| {
        Ok(RawLedgerRow {
            event_id: row.get(0)?,
            event_type: row.get(1)?,
            room_id: row.get(2)?,
            occurred_at: row.get(3)?,
            received_at: row.get(4)?,
            processed_at: row.get(5)?,
            attempts: row.get(6)?,
            action: row.get(7)?,
            origin: row.get(8)?,
            result: row.get(9)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Splits `rows` into transactions of `size` rows.
pub(crate) fn batches(rows: &[RawLedgerRow], size: usize) -> Vec<RowBatch> {
    rows.chunks(size.max(1))
        .map(|rows| {
            let last: BTreeMap<&str, &RawLedgerRow> =
                rows.iter().filter_map(|row| Some((row.room_id.as_deref()?, row))).collect();
            RowBatch {
                rows: rows.to_vec(),
                sessions: last.into_iter().map(|(room, row)| session(room, row)).collect(),
            }
        })
        .collect()
}

fn session(room: &str, row: &RawLedgerRow) -> RawSessionRow {
    let status = match row.event_type.rsplit('.').next() {
        Some("active") => "live",
        Some("idle") => "idle",
        _ => "ended",
    };
    RawSessionRow {
        room_id: room.to_owned(),
        status,
        live_stream_id: format!("ls-{room}"),
        last_event_id: row.event_id.clone(),
        last_event_at: row.occurred_at.clone(),
        guards: format!(
            r#"{{"status":"1770000000000:{0}","last":"1770000000000:{0}"}}"#,
            row.origin
        ),
    }
}

/// Parses a stored time for PostgreSQL.
pub(crate) fn instant(text: &str) -> OffsetDateTime {
    OffsetDateTime::parse(text, &Rfc3339).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(i: usize, room: &str) -> RawLedgerRow {
        RawLedgerRow {
            event_id: format!("e{i}"),
            event_type: "video.live_stream.active".to_owned(),
            room_id: Some(room.to_owned()),
            occurred_at: "2026-01-01T00:00:00.000Z".to_owned(),
            received_at: "2026-01-01T00:00:00.000Z".to_owned(),
            processed_at: "2026-01-01T00:00:00.000Z".to_owned(),
            attempts: 1,
            action: "logged".to_owned(),
            origin: format!("{i}-0"),
            result: "{}".to_owned(),
        }
    }

    #[test]
    fn batch_writes_each_session_once_with_its_last_event() {
        let rows: Vec<RawLedgerRow> = (0..7).map(|i| row(i, ["a", "b"][i % 2])).collect();
        let batches = batches(&rows, 5);
        let sizes: Vec<_> =
            batches.iter().map(|batch| (batch.rows.len(), batch.sessions.len())).collect();
        assert_eq!(sizes, [(5, 2), (2, 2)]);
        assert_eq!(
            (batches[0].sessions[0].last_event_id.as_str(), batches[0].sessions[0].status),
            ("e4", "live")
        );
    }
}
