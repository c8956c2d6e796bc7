//! Claims the entries of dead workers, and extends the claims of this one.
//!
//! # Guarantees
//! - An entry whose holder died runs again after `CLAIM_IDLE_MS`
//!   (`worker_killed_beside_another_loses_nothing`).
//! - A live holder keeps its entries, since it extends its claims three times in that span
//!   (`extended_claim_blocks_others_and_keeps_the_count`).
//! - Nothing is claimed while the database is unavailable, since a claim would only raise the
//!   delivery count (`entries_are_not_claimed_during_a_database_outage`).
//! - Nothing is claimed of a paused platform. Its held entries are handed back, and can be claimed
//!   at once after a resume (`pending_entries_of_a_paused_platform_resume_at_once`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::event::StreamId;
use shared::platform::PlatformName;
use shared::queue::{CallError, StreamEntry};
use tokio::sync::mpsc;

use super::PlannedBatch;
use super::execute::error_chain;
use super::reader::hold_entries;
use super::suspects::SUSPECT_DELIVERIES;
use crate::context::{EntryBatch, PlatformQueue, WorkerContext};

/// Most entries per page.
const MAX_PAGE_ENTRIES: usize = 128;
/// Most bytes per page, so that a reply arrives well within the timeout of a call.
const MAX_PAGE_BYTES: usize = 4 * 1024 * 1024;
/// Suspects per batch. The number is small, so that other events get their turn soon.
const SUSPECTS_PER_BATCH: usize = 4;
/// Bounds of the interval between two claims.
const CLAIM_INTERVAL_MIN: Duration = Duration::from_millis(250);
const CLAIM_INTERVAL_MAX: Duration = Duration::from_secs(10);

/// Dispatches the entries that an earlier process of this name left pending.
pub async fn recover_own_pending(worker: &WorkerContext, batches: &mpsc::Sender<EntryBatch>) {
    for platform_queue in
        worker.platforms.all().iter().filter(|platform_queue| !platform_queue.is_paused())
    {
        let mut after = StreamId::default();
        while worker.wait_until_may_take().await {
            let count = platform_queue.entry_size.entries_in(MAX_PAGE_BYTES).min(MAX_PAGE_ENTRIES);
            let page = match worker
                .queue
                .read_own_pending(&platform_queue.keys, &worker.consumer, after, count)
                .await
            {
                Ok(page) => page,
                Err(fault) => {
                    // The claimer finds these entries too, but later.
                    worker
                        .queue
                        .outage_log()
                        .failed("read pending entries of an earlier process", &fault);
                    break;
                }
            };
            let Some(last) = page.last().map(|entry| entry.id) else { break };
            after = last;
            let ids: Vec<StreamId> = page.iter().map(|entry| entry.id).collect();
            let counts = worker
                .queue
                .delivery_counts(&platform_queue.keys, &worker.consumer, &ids)
                .await
                .unwrap_or_default();
            let counts = counts.into_iter().chain(std::iter::repeat(0));
            if dispatch_recovered(
                worker,
                platform_queue,
                page.into_iter().zip(counts).collect(),
                batches,
            )
            .await
            .is_err()
            {
                return;
            }
        }
    }
}

/// Dispatches entries that were delivered to this worker in a reply that was lost. Otherwise they
/// would wait until `CLAIM_IDLE_MS` have passed. Skips entries that this worker holds.
///
/// # Errors
/// If Redis does not answer. The caller retries.
pub(super) async fn recover_lost_deliveries(
    worker: &WorkerContext,
    batches: &mpsc::Sender<EntryBatch>,
) -> Result<(), CallError> {
    for platform_queue in
        worker.platforms.all().iter().filter(|platform_queue| !platform_queue.is_paused())
    {
        let mut after = StreamId::default();
        while worker.wait_until_may_take().await {
            let ids = match worker
                .queue
                .own_pending_ids(&platform_queue.keys, &worker.consumer, after, MAX_PAGE_ENTRIES)
                .await
            {
                // The reader creates the group again, and then all pending entries are delivered
                // again.
                Err(fault) if fault.is_no_group() || fault.is_wrong_type() => break,
                ids => ids?,
            };
            let Some(last) = ids.last() else { break };
            after = *last;
            let held: HashSet<StreamId> =
                worker.inflight.of(platform_queue.name()).into_iter().collect();
            for lost in ids.split(|id| held.contains(id)).filter(|run| !run.is_empty()) {
                recover(worker, platform_queue, lost, batches).await?;
            }
        }
    }
    Ok(())
}

/// Reads and dispatches a run of entries that are adjacent in this worker's pending list.
async fn recover(
    worker: &WorkerContext,
    platform_queue: &Arc<PlatformQueue>,
    ids: &[StreamId],
    batches: &mpsc::Sender<EntryBatch>,
) -> Result<(), CallError> {
    for ids in
        ids.chunks(platform_queue.entry_size.entries_in(MAX_PAGE_BYTES).min(MAX_PAGE_ENTRIES))
    {
        let Some(first) = ids.first() else { break };
        let page = worker
            .queue
            .read_own_pending(&platform_queue.keys, &worker.consumer, first.before(), ids.len())
            .await?;
        tracing::info!(platform = %platform_queue.name(), entries = page.len(),
            "recovering entries of a lost reply");
        let read: Vec<StreamId> = page.iter().map(|entry| entry.id).collect();
        let counts = worker
            .queue
            .delivery_counts(&platform_queue.keys, &worker.consumer, &read)
            .await
            .unwrap_or_default();
        let counts = counts.into_iter().chain(std::iter::repeat(0));
        if dispatch_recovered(
            worker,
            platform_queue,
            page.into_iter().zip(counts).collect(),
            batches,
        )
        .await
        .is_err()
        {
            break;
        }
    }
    Ok(())
}

/// Resets idle times that a backward step of Redis's clock has put into the future. Runs at the
/// start and after each step.
async fn reset_idle_times(
    worker: &WorkerContext,
    platforms: &[Arc<PlatformQueue>],
) -> Result<(), CallError> {
    for platform_queue in platforms {
        match worker.queue.reset_idle(&platform_queue.keys).await {
            Err(fault) if fault.is_no_group() || fault.is_wrong_type() => {}
            done => done?,
        }
    }
    Ok(())
}

/// Claims entries until the worker is stopped.
pub async fn run(worker: Arc<WorkerContext>, batches: mpsc::Sender<EntryBatch>) {
    let pause = (worker.claim_idle / 4).clamp(CLAIM_INTERVAL_MIN, CLAIM_INTERVAL_MAX);
    let mut cursors: HashMap<PlatformName, StreamId> = HashMap::new();
    let mut changes = worker.platforms.changes();
    let mut reset_at_step: Option<u64> = None;
    loop {
        // A resumed platform may have entries that were handed back.
        let next = async {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = changes.next() => {}
            }
        };
        if worker.stop.run_until_cancelled(next).await.is_none() {
            return;
        }
        let platforms = worker.platforms.all();
        let clock_steps = worker.redis.borrow().clock_steps;
        if reset_at_step != Some(clock_steps) {
            match reset_idle_times(&worker, &platforms).await {
                Ok(()) => reset_at_step = Some(clock_steps),
                Err(fault) => worker.queue.outage_log().failed("reset idle times", &fault),
            }
        }
        cursors
            .retain(|name, _| platforms.iter().any(|platform_queue| platform_queue.name() == name));
        for platform_queue in platforms.iter() {
            let cursor = cursors.entry(platform_queue.name().clone()).or_default();
            // A dead worker may have held thousands of entries, so the loop claims page after page.
            while !platform_queue.is_paused() {
                if !worker.wait_until_may_take().await {
                    return;
                }
                let page =
                    platform_queue.entry_size.entries_in(MAX_PAGE_BYTES).min(MAX_PAGE_ENTRIES);
                let claim = worker.queue.claim(
                    &platform_queue.keys,
                    &worker.consumer,
                    worker.claim_idle,
                    *cursor,
                    page,
                );
                match claim.await {
                    Ok(claimed) => {
                        *cursor = claimed.cursor;
                        let is_last_page = claimed.cursor == StreamId::default();
                        if !claimed.deleted.is_empty() {
                            tracing::error!(platform = %platform_queue.name(),
                                entries = claimed.deleted.len(),
                                "pending entries were deleted by another client; skipping them");
                        }
                        if dispatch_recovered(&worker, platform_queue, claimed.entries, &batches)
                            .await
                            .is_err()
                        {
                            return;
                        }
                        if is_last_page {
                            break;
                        }
                    }
                    // The reader repairs the group and logs it.
                    Err(fault) if fault.is_no_group() || fault.is_wrong_type() => break,
                    Err(fault) => {
                        worker.queue.outage_log().failed("claim entries of dead workers", &fault);
                        break;
                    }
                }
            }
        }
    }
}

/// Dispatches entries. Suspects get batches of their own.
async fn dispatch_recovered(
    worker: &WorkerContext,
    platform_queue: &Arc<PlatformQueue>,
    entries: Vec<(StreamEntry, u64)>,
    batches: &mpsc::Sender<EntryBatch>,
) -> Result<(), mpsc::error::SendError<EntryBatch>> {
    let (suspects, others): (Vec<_>, Vec<_>) =
        entries.into_iter().partition(|(_, deliveries)| *deliveries >= SUSPECT_DELIVERIES);
    let without_counts =
        |list: Vec<(StreamEntry, u64)>| list.into_iter().map(|(entry, _)| entry).collect();
    let others = hold_entries(worker, platform_queue, without_counts(others));
    let suspects = hold_entries(worker, platform_queue, without_counts(suspects));
    for batch in split_into_batches(platform_queue, others, suspects) {
        batches.send(batch).await?;
    }
    Ok(())
}

/// Puts other entries first in one batch, then the suspects in small batches.
fn split_into_batches(
    platform_queue: &Arc<PlatformQueue>,
    others: Vec<StreamEntry>,
    mut suspects: Vec<StreamEntry>,
) -> Vec<EntryBatch> {
    let batch = |entries, suspect| EntryBatch {
        platform_queue: Arc::clone(platform_queue),
        entries,
        suspect,
        taken_at: Instant::now(),
    };
    let mut all = Vec::new();
    if !others.is_empty() {
        all.push(batch(others, false));
    }
    while !suspects.is_empty() {
        let rest = suspects.split_off(suspects.len().min(SUSPECTS_PER_BATCH));
        all.push(batch(std::mem::replace(&mut suspects, rest), true));
    }
    all
}

/// Extends all claims until `done` is cancelled. Goes on after a stop, while held entries are being
/// finished.
pub async fn extend_claims(worker: Arc<WorkerContext>, done: tokio_util::sync::CancellationToken) {
    while done.run_until_cancelled(tokio::time::sleep(worker.claim_idle / 3)).await.is_some() {
        for (platform, ids) in worker.inflight.all() {
            let keys = worker.queue.keys(&platform);
            if let Err(fault) = worker.queue.extend_claims(&keys, &worker.consumer, &ids).await {
                worker.queue.outage_log().failed("extend claims", &fault);
            }
        }
    }
}

/// Hands back the batches whose platform was paused after they were read. Returns the other
/// batches.
pub(super) async fn hand_back_paused(
    worker: &WorkerContext,
    batches: Vec<PlannedBatch>,
) -> Vec<PlannedBatch> {
    let (paused, others): (Vec<_>, Vec<_>) =
        batches.into_iter().partition(|planned| planned.platform_queue.is_paused());
    for planned in paused {
        hand_back_entries(worker, &planned.platform_queue, planned.ids).await;
    }
    others
}

/// Hands back entries of a platform that was paused after they were read. If Redis does not answer,
/// they can be claimed after `CLAIM_IDLE_MS`.
pub(super) async fn hand_back_entries(
    worker: &WorkerContext,
    platform_queue: &PlatformQueue,
    ids: Vec<StreamId>,
) {
    match worker.queue.hand_back(&platform_queue.keys, &worker.consumer, &ids).await {
        Ok(_) => {
            tracing::info!(platform = %platform_queue.name(), entries = ids.len(),
                "paused; handed back")
        }
        Err(fault) => {
            tracing::warn!(platform = %platform_queue.name(), error = error_chain(&fault),
                "not handed back")
        }
    }
    worker.inflight.release(platform_queue.name(), ids);
}

/// Hands back all held entries, so that another worker can claim them at once.
pub async fn hand_back(worker: &WorkerContext) {
    for (platform, ids) in worker.inflight.all() {
        let keys = worker.queue.keys(&platform);
        // An unfinished entry has not crashed the worker.
        if let Err(fault) = worker.queue.clear_suspects(&keys, &ids).await {
            tracing::warn!(%platform, error = error_chain(&fault),
                "cannot clear suspects; handing back anyway");
        }
        match worker.queue.hand_back(&keys, &worker.consumer, &ids).await {
            Ok(_) => tracing::info!(%platform, entries = ids.len(), "handed back"),
            Err(fault) => {
                tracing::warn!(%platform, error = error_chain(&fault),
                    "not handed back; other workers claim the entries after CLAIM_IDLE_MS")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use secrecy::SecretString;
    use shared::platform::registry::Registry;
    use shared::queue::{KeyLayout, Queue, connect};

    use super::*;

    #[tokio::test]
    async fn suspects_are_dispatched_last_in_small_batches() {
        let url = SecretString::from("redis://127.0.0.1:1".to_owned());
        let queue = Queue::new(KeyLayout::Single, connect(&url, false).unwrap());
        let registry = Registry::load(None).unwrap();
        let platform_queue =
            Arc::new(PlatformQueue::new(Arc::clone(registry.get("mux").unwrap()), &queue));
        let entries = |ids: std::ops::Range<u64>| -> Vec<StreamEntry> {
            ids.map(|ms| StreamEntry { id: StreamId { ms, seq: 0 }, fields: None }).collect()
        };
        let batches = split_into_batches(&platform_queue, entries(0..100), entries(100..110));
        let seen: Vec<_> =
            batches.iter().map(|batch| (batch.suspect, batch.entries.len())).collect();
        assert_eq!(seen, [(false, 100), (true, 4), (true, 4), (true, 2)]);
        let ids = batches.iter().flat_map(|batch| &batch.entries).map(|entry| entry.id.ms);
        assert!(ids.eq(0..110), "no entry is missing");
        assert!(split_into_batches(&platform_queue, Vec::new(), Vec::new()).is_empty());
    }
}
