//! SQLite baseline: the worker's rows written by prepared statements in synced transactions.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, TransactionBehavior, params};
use secrecy::SecretString;
use worker::store::{Store, StoreOptions};

use super::rows::{RowBatch, WriteFigures};
use crate::LoadError;
use crate::cpu::{CpuSampler, per_event};

const SESSION: &str = "INSERT INTO sessions (room_id, platform, status, live_stream_id, \
        last_event_id, last_event_at, guards, updated_at) \
    VALUES (?1, 'mux', ?2, ?3, ?4, ?5, ?6, ?5) \
    ON CONFLICT (room_id) DO UPDATE SET status = excluded.status, \
        live_stream_id = excluded.live_stream_id, last_event_id = excluded.last_event_id, \
        last_event_at = excluded.last_event_at, guards = excluded.guards, \
        updated_at = excluded.updated_at \
    WHERE excluded.last_event_at >= sessions.last_event_at";

const LEDGER: &str = "INSERT INTO webhook_events (platform, event_id, event_type, room_id, \
        occurred_at, received_at, processed_at, attempts, action, origin, result) \
    VALUES ('mux', ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) \
    ON CONFLICT DO NOTHING";

/// Writes `batches` into a new database in `folder`. Blocks the calling thread.
pub(crate) async fn write(folder: &Path, batches: &[RowBatch]) -> Result<WriteFigures, LoadError> {
    let file = folder.join(format!("raw-{}.db", uuid::Uuid::new_v4()));
    let url = SecretString::from(format!("sqlite://{}", file.display()));
    drop(Store::open(&url, &StoreOptions::default()).await?);
    let mut connection = Connection::open(&file)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;

    let mut sampler = CpuSampler::of(&[std::process::id()])?;
    sampler.mark();
    let begin = Instant::now();
    for batch in batches {
        transaction(&mut connection, batch)?;
    }
    let took = begin.elapsed();
    sampler.mark();
    let expected = batches.iter().map(|batch| batch.rows.len() as u64).sum();
    let written: i64 =
        connection.query_row("SELECT count(*) FROM webhook_events", [], |row| row.get(0))?;
    write_figures(expected, written, took, sampler.used(0))
}

/// Returns the figures. Fails if the database does not hold every row.
pub(super) fn write_figures(
    expected: u64,
    found: i64,
    took: Duration,
    cpu: Duration,
) -> Result<WriteFigures, LoadError> {
    if u64::try_from(found).ok() != Some(expected) {
        return Err(format!("the raw writer wrote {found} rows instead of {expected}").into());
    }
    Ok(WriteFigures {
        rows_per_second: expected as f64 / took.as_secs_f64(),
        cpu_us: per_event(cpu, expected),
    })
}

fn transaction(on: &mut Connection, batch: &RowBatch) -> rusqlite::Result<()> {
    let transaction = on.transaction_with_behavior(TransactionBehavior::Immediate)?;
    {
        let mut session = transaction.prepare_cached(SESSION)?;
        for row in &batch.sessions {
            let (id, at) = (&row.last_event_id, &row.last_event_at);
            session.execute(params![
                row.room_id,
                row.status,
                row.live_stream_id,
                id,
                at,
                row.guards
            ])?;
        }
        let mut ledger = transaction.prepare_cached(LEDGER)?;
        for row in &batch.rows {
            ledger.execute(params![
                row.event_id,
                row.event_type,
                row.room_id,
                row.occurred_at,
                row.received_at,
                row.processed_at,
                row.attempts,
                row.action,
                row.origin,
                row.result
            ])?;
        }
    }
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_figures_need_every_row() {
        let second = Duration::from_secs(1);
        assert!(write_figures(10, 9, second, second).is_err());
        let all = write_figures(10, 10, second, second);
        assert!(
            all.is_ok_and(|written| written.rows_per_second == 10.0 && written.cpu_us == 100_000.0)
        );
    }
}
