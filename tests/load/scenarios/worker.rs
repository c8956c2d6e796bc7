//! Measures one round of a worker on a backlog, on each database, beside raw batched writes of the
//! same rows.

use ::tests::database::Database;
use ::tests::process;
use ::tests::stack::{DatabaseKind, Stack};

use super::{announce, drain, fill, finished, names, stack};
use crate::LoadError;
use crate::baselines::rows::{self, RawLedgerRow, RowBatch, WriteFigures};
use crate::baselines::{postgres, sqlite};
use crate::figures::{Figures, ratio};
use crate::options::LoadOptions;
use crate::targets::Goal;

const SECTION: &str = "worker on a backlog, beside raw batched writes";
/// Rows per transaction of the raw writes.
const BATCH: usize = 500;
const EVENTS: usize = 300_000;

/// Figures of a worker on a backlog, and its rows per transaction.
struct WorkerFigures {
    per_second: f64,
    cpu_us: f64,
    batch: usize,
}

/// Measures both databases once.
pub(crate) async fn round(options: &LoadOptions, figures: &mut Figures) -> Result<(), LoadError> {
    let events = if options.quick { EVENTS / 5 } else { EVENTS };
    eprintln!("load:   {events} events to SQLite: worker, then raw");
    let (stack, drain) = backlog(DatabaseKind::Sqlite, events, "SQLite", figures).await?;
    let Database::Sqlite(file) = &stack.database else { return Err("not SQLite".into()) };
    let rows = rows::read(file)?;
    drop(stack);
    let folder = process::folder();
    let baseline = fastest(&rows, drain.batch, "SQLite", figures, async |batches| {
        sqlite::write(folder.path(), batches).await
    })
    .await?;
    judge(&drain, &baseline, (Goal::SqliteAgainstRaw, Goal::SqliteCpuBeyondRaw), "SQLite", figures);

    eprintln!("load:   {events} events to PostgreSQL: worker, then raw");
    let (stack, drain) = backlog(DatabaseKind::OwnPostgres, events, "PostgreSQL", figures).await?;
    let server = stack.postgres.as_ref().ok_or("no server")?;
    let baseline =
        fastest(&rows, drain.batch, "PostgreSQL", figures, async |batches: &[RowBatch]| {
            postgres::write(&server.database().await, batches).await
        })
        .await?;
    judge(
        &drain,
        &baseline,
        (Goal::PostgresAgainstRaw, Goal::PostgresCpuBeyondRaw),
        "PostgreSQL",
        figures,
    );
    Ok(())
}

/// Queues `events` and lets a worker finish them.
async fn backlog(
    kind: DatabaseKind,
    events: usize,
    column: &str,
    figures: &mut Figures,
) -> Result<(Stack, WorkerFigures), LoadError> {
    let mut stack = stack("always", 0).database(kind).start().await;
    announce(&stack).await;
    fill::events(&stack.redis, events, true).await?;
    let drained = drain::drain(&mut stack, &names(0), u64::MAX).await?;
    drain::stop(&mut stack).await;
    let (finished, dead) = (finished(&stack, 0).await, stack.dead("mux").await);
    if finished != events as u64 || dead > 0 {
        figures
            .fault(format!("{column}: {events} events queued, {finished} finished, {dead} dead"));
    }
    // Rows of one transaction share their `processed_at`.
    let sql = "SELECT count(DISTINCT processed_at) AS n FROM webhook_events WHERE platform = 'mux'";
    let transactions = stack.database.rows(sql, &[]).await;
    let transactions = transactions.first().and_then(|row| row["n"].as_u64()).unwrap_or(0).max(1);
    let batch = (finished as f64 / transactions as f64).ceil() as usize;
    figures.add(SECTION, "worker, events/s", column, drained.per_second);
    figures.add(SECTION, "worker CPU µs/event", column, drained.worker_cpu_us);
    figures.add(SECTION, "Redis CPU µs/event", column, drained.redis_cpu_us);
    figures.add(SECTION, "worker, events per transaction", column, batch as f64);
    Ok((
        stack,
        WorkerFigures { per_second: drained.per_second, cpu_us: drained.worker_cpu_us, batch },
    ))
}

/// Measures raw writes at 500 rows per transaction and at the worker's size. The faster one counts.
async fn fastest(
    rows: &[RawLedgerRow],
    batch: usize,
    column: &str,
    figures: &mut Figures,
    write: impl AsyncFn(&[RowBatch]) -> Result<WriteFigures, LoadError>,
) -> Result<WriteFigures, LoadError> {
    let fixed = write(&rows::batches(rows, BATCH)).await?;
    figures.add(SECTION, "raw at 500 rows a transaction, rows/s", column, fixed.rows_per_second);
    figures.add(SECTION, "raw at 500 rows a transaction, CPU µs/row", column, fixed.cpu_us);
    let own = write(&rows::batches(rows, batch)).await?;
    figures.add(SECTION, "raw at the worker's size, rows/s", column, own.rows_per_second);
    figures.add(SECTION, "raw at the worker's size, CPU µs/row", column, own.cpu_us);
    Ok(faster(fixed, own))
}

fn faster(a: WriteFigures, b: WriteFigures) -> WriteFigures {
    if a.rows_per_second >= b.rows_per_second { a } else { b }
}

fn judge(
    drain: &WorkerFigures,
    baseline: &WriteFigures,
    goals: (Goal, Goal),
    column: &str,
    figures: &mut Figures,
) {
    let against = ratio(drain.per_second, baseline.rows_per_second);
    let beyond = drain.cpu_us - baseline.cpu_us;
    figures.add(SECTION, "worker / faster raw, per second", column, against);
    figures.add(SECTION, "worker CPU beyond it, µs/event", column, beyond);
    figures.goal(goals.0, against);
    figures.goal(goals.1, beyond);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faster_baseline_counts() {
        let written = |rows_per_second| WriteFigures { rows_per_second, cpu_us: 1.0 };
        let mut figures = Figures::default();
        let baseline = faster(written(10.0), written(20.0));
        let drain = WorkerFigures { per_second: 15.0, cpu_us: 9.0, batch: 1 };
        judge(
            &drain,
            &baseline,
            (Goal::SqliteAgainstRaw, Goal::SqliteCpuBeyondRaw),
            "SQLite",
            &mut figures,
        );
        assert_eq!(figures.goal_value(Goal::SqliteAgainstRaw), Some(0.75));
        assert_eq!(figures.goal_value(Goal::SqliteCpuBeyondRaw), Some(8.0));
    }
}
