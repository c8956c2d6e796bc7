//! Running what may be poison.
//!
//! Guarantee: an event that ends the process ends it alone, and at most [`MAX_RUNS`] times. Redis's delivery counter
//! only makes an entry suspect, since outages and restarts raise it too; a counter of its own, raised before each lonely
//! run and cleared by every orderly outcome, decides.

use uuid::Uuid;

use super::outcome::Next;
use super::settle::{self, Settlement, until_answered};
use super::{Interrupted, claimer, consume};
use crate::worker::{Batch, Worker};

/// Deliveries from which an entry runs alone.
pub const SUSPECT_DELIVERIES: u64 = 3;
/// Lonely runs without an orderly outcome after which an entry is given up.
pub const MAX_RUNS: u64 = 3;

/// Takes each entry of `batch` to its end by itself.
pub(super) async fn consume_alone(worker: &Worker, batch: Batch) -> Result<(), Interrupted> {
    let Batch { lane, entries, taken, .. } = batch;
    if lane.is_paused() {
        claimer::put_back(worker, &lane, entries.iter().map(|entry| entry.id).collect()).await;
        return Ok(());
    }
    let lane = &lane;
    for entry in entries {
        let id = entry.id;
        let run = Uuid::new_v4();
        let runs = until_answered(worker, lane, || worker.queue.suspect(&lane.keys, id, run)).await?;
        match runs {
            Some(0) | None => worker.inflight.release(lane.name(), [id]),
            Some(runs) if runs > MAX_RUNS => {
                let mut settlement = Settlement::new(taken, 1);
                let executions = u32::try_from(MAX_RUNS).unwrap_or(u32::MAX);
                settlement.add_raw(id, executions, &Next::crash_loop(MAX_RUNS));
                settle::run(worker, lane, settlement).await?;
            }
            Some(runs) => {
                tracing::info!(platform = %lane.name(), %id, runs, "running an entry alone that was delivered often");
                consume(worker, lane, vec![entry], taken).await?;
            }
        }
    }
    Ok(())
}
