//! Runs suspects: events that may crash the worker.
//!
//! # Guarantees
//! - An event that ends the process ends it alone, and at most [`MAX_ISOLATED_RUNS`] times
//!   (`event_that_kills_workers_is_dead_lettered_as_crash_loop`).
//! - A high delivery count alone dead-letters no event, since outages and restarts raise it too. A
//!   counter of isolated runs decides. It is raised before each run and cleared by every orderly
//!   outcome (`high_delivery_count_alone_is_not_poison`,
//!   `suspect_is_counted_until_an_orderly_outcome`).

use uuid::Uuid;

use super::outcome::EntryTransition;
use super::settle::{self, Settlement, retry_until_answered};
use super::{ConsumerInterruptedError, claimer, consume};
use crate::context::{EntryBatch, WorkerContext};

/// Delivery count from which an entry runs alone.
pub const SUSPECT_DELIVERIES: u64 = 3;
/// Isolated runs without an orderly outcome after which an event is dead-lettered.
pub const MAX_ISOLATED_RUNS: u64 = 3;

/// Consumes the entries of `batch` one by one.
pub(super) async fn consume_alone(
    worker: &WorkerContext,
    batch: EntryBatch,
) -> Result<(), ConsumerInterruptedError> {
    let EntryBatch { platform_queue, entries, taken_at, .. } = batch;
    if platform_queue.is_paused() {
        claimer::hand_back_entries(
            worker,
            &platform_queue,
            entries.iter().map(|entry| entry.id).collect(),
        )
        .await;
        return Ok(());
    }
    let platform_queue = &platform_queue;
    for entry in entries {
        let id = entry.id;
        let run = Uuid::new_v4();
        let runs = retry_until_answered(worker, platform_queue, || {
            worker.queue.count_isolated_run(&platform_queue.keys, id, run)
        })
        .await?;
        match runs {
            Some(0) | None => worker.inflight.release(platform_queue.name(), [id]),
            Some(runs) if runs > MAX_ISOLATED_RUNS => {
                let mut settlement = Settlement::new(taken_at, 1);
                let executions = u32::try_from(MAX_ISOLATED_RUNS).unwrap_or(u32::MAX);
                settlement.add_raw(id, executions, &EntryTransition::crash_loop(MAX_ISOLATED_RUNS));
                settle::run(worker, platform_queue, settlement).await?;
            }
            Some(runs) => {
                tracing::info!(platform = %platform_queue.name(), %id, runs,
                    "running a suspect alone");
                consume(worker, platform_queue, vec![entry], taken_at).await?;
            }
        }
    }
    Ok(())
}
