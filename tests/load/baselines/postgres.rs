//! PostgreSQL baseline: the worker's rows written by one insert and one upsert per transaction.

use std::time::Instant;

use secrecy::SecretString;
use sqlx::{Connection as _, PgConnection};
use time::OffsetDateTime;
use worker::store::{Store, StoreOptions};

use super::rows::{RawLedgerRow, RawSessionRow, RowBatch, WriteFigures, instant};
use super::sqlite::write_figures;
use crate::LoadError;
use crate::cpu::CpuSampler;

const LEDGER: &str = "INSERT INTO webhook_events (platform, event_id, event_type, room_id, \
        occurred_at, received_at, processed_at, attempts, action, origin, result) \
    SELECT 'mux', e.event_id, e.event_type, e.room_id, e.occurred_at, e.received_at, \
        e.processed_at, e.attempts, e.action, e.origin, e.result::jsonb \
    FROM UNNEST($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[], \
        $6::timestamptz[], $7::int[], $8::text[], $9::text[], $10::text[]) \
    AS e(event_id, event_type, room_id, occurred_at, received_at, processed_at, attempts, \
        action, origin, result) \
    ON CONFLICT DO NOTHING";

const SESSIONS: &str = "INSERT INTO sessions (room_id, platform, status, live_stream_id, \
        last_event_id, last_event_at, guards, updated_at) \
    SELECT s.room_id, 'mux', s.status, s.live_stream_id, s.last_event_id, s.last_event_at, \
        s.guards, s.last_event_at \
    FROM UNNEST($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::text[]) \
    AS s(room_id, status, live_stream_id, last_event_id, last_event_at, guards) \
    ON CONFLICT (room_id) DO UPDATE SET status = excluded.status, \
        live_stream_id = excluded.live_stream_id, last_event_id = excluded.last_event_id, \
        last_event_at = excluded.last_event_at, guards = excluded.guards, \
        updated_at = excluded.updated_at \
    WHERE excluded.last_event_at >= sessions.last_event_at";

/// Times of a batch, converted to the types that are sent.
struct BatchColumns<'b> {
    batch: &'b RowBatch,
    occurred: Vec<OffsetDateTime>,
    received: Vec<OffsetDateTime>,
    processed: Vec<OffsetDateTime>,
    last: Vec<OffsetDateTime>,
}

/// Writes `batches` into the new database at `url`.
pub(crate) async fn write(url: &str, batches: &[RowBatch]) -> Result<WriteFigures, LoadError> {
    drop(Store::open(&SecretString::from(url.to_owned()), &StoreOptions::default()).await?);
    let mut connection = PgConnection::connect(url).await?;
    let times = |rows: &[RawLedgerRow], of: fn(&RawLedgerRow) -> &str| {
        rows.iter().map(|row| instant(of(row))).collect()
    };
    let batches: Vec<BatchColumns<'_>> = batches
        .iter()
        .map(|batch| BatchColumns {
            batch,
            occurred: times(&batch.rows, |row| &row.occurred_at),
            received: times(&batch.rows, |row| &row.received_at),
            processed: times(&batch.rows, |row| &row.processed_at),
            last: batch.sessions.iter().map(|row| instant(&row.last_event_at)).collect(),
        })
        .collect();

    let mut sampler = CpuSampler::of(&[std::process::id()])?;
    sampler.mark();
    let begin = Instant::now();
    for batch in &batches {
        transaction(&mut connection, batch).await?;
    }
    let took = begin.elapsed();
    sampler.mark();
    let expected = batches.iter().map(|columns| columns.batch.rows.len() as u64).sum();
    let written: i64 = sqlx::query_scalar("SELECT count(*) FROM webhook_events")
        .fetch_one(&mut connection)
        .await?;
    connection.close().await?;
    write_figures(expected, written, took, sampler.used(0))
}

async fn transaction(on: &mut PgConnection, columns: &BatchColumns<'_>) -> sqlx::Result<()> {
    let RowBatch { rows, sessions } = columns.batch;
    sqlx::raw_sql("BEGIN").execute(&mut *on).await?;
    if !sessions.is_empty() {
        sqlx::query(SESSIONS)
            .bind(texts(sessions, |row: &RawSessionRow| &row.room_id))
            .bind(texts(sessions, |row| row.status))
            .bind(texts(sessions, |row| &row.live_stream_id))
            .bind(texts(sessions, |row| &row.last_event_id))
            .bind(&columns.last)
            .bind(texts(sessions, |row| &row.guards))
            .execute(&mut *on)
            .await?;
    }
    sqlx::query(LEDGER)
        .bind(texts(rows, |row: &RawLedgerRow| &row.event_id))
        .bind(texts(rows, |row| &row.event_type))
        .bind(rows.iter().map(|row| row.room_id.as_deref()).collect::<Vec<_>>())
        .bind(&columns.occurred)
        .bind(&columns.received)
        .bind(&columns.processed)
        .bind(rows.iter().map(|row| row.attempts).collect::<Vec<_>>())
        .bind(texts(rows, |row| &row.action))
        .bind(texts(rows, |row| &row.origin))
        .bind(texts(rows, |row| &row.result))
        .execute(&mut *on)
        .await?;
    sqlx::raw_sql("COMMIT").execute(on).await?;
    Ok(())
}

fn texts<R>(rows: &[R], of: fn(&R) -> &str) -> Vec<&str> {
    rows.iter().map(of).collect()
}
