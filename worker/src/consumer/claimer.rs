//! Takes over what nobody is working on any more, and keeps hold of what this worker has.
//!
//! Guarantee: an entry whose holder died is executed again after `CLAIM_IDLE_MS`; one whose holder lives is not, since
//! holders renew three times in that span. Nothing is claimed while the database is away: claiming would only raise
//! delivery counts. Nothing is claimed of a paused platform; what was held of it was handed back, and is claimed at once
//! when it is resumed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::event::StreamId;
use shared::platform::PlatformName;
use shared::queue::{Entry, Fault};
use tokio::sync::mpsc;

use super::Ready;
use super::execute::chain;
use super::reader::hold;
use super::suspects::SUSPECT_DELIVERIES;
use crate::worker::{Batch, Lane, Worker};

/// Entries per page.
const PAGE: usize = 128;
/// Bytes per page: what arrives well within the bound of a call.
const PAGE_BYTES: usize = 4 * 1024 * 1024;
/// Suspects per batch: few, so that good events get their turn soon.
const SUSPECTS_PER_BATCH: usize = 4;
/// How often to look for entries to take over.
const LOOK_MIN: Duration = Duration::from_millis(250);
const LOOK_MAX: Duration = Duration::from_secs(10);

/// Takes up what an earlier process of this name left pending.
pub async fn own_pending(worker: &Worker, batches: &mpsc::Sender<Batch>) {
    for lane in worker.lanes.all().iter().filter(|lane| !lane.is_paused()) {
        let mut after = StreamId::default();
        while worker.may_take().await {
            let count = lane.weight.fit(PAGE_BYTES).min(PAGE);
            let page = match worker.queue.read_own_pending(&lane.keys, &worker.consumer, after, count).await {
                Ok(page) => page,
                Err(fault) => {
                    // The claimer finds them too, only later.
                    worker.queue.outage_log().failed("read what an earlier process held", &fault);
                    break;
                }
            };
            let Some(last) = page.last().map(|entry| entry.id) else { break };
            after = last;
            let ids: Vec<StreamId> = page.iter().map(|entry| entry.id).collect();
            let counts = worker.queue.delivery_counts(&lane.keys, &worker.consumer, &ids).await.unwrap_or_default();
            let counts = counts.into_iter().chain(std::iter::repeat(0));
            if sort_out(worker, lane, page.into_iter().zip(counts).collect(), batches).await.is_err() {
                return;
            }
        }
    }
}

/// Takes up what was delivered to this worker and never arrived here, because the answer to a read was lost. Without it
/// such an entry would wait until `CLAIM_IDLE_MS` have passed. What is held is left alone.
///
/// # Errors
/// When Redis does not answer: try again.
pub(super) async fn undelivered(worker: &Worker, batches: &mpsc::Sender<Batch>) -> Result<(), Fault> {
    for lane in worker.lanes.all().iter().filter(|lane| !lane.is_paused()) {
        let mut after = StreamId::default();
        while worker.may_take().await {
            let ids = match worker.queue.own_pending_ids(&lane.keys, &worker.consumer, after, PAGE).await {
                // The reader repairs groups; what was pending is delivered anew then.
                Err(fault) if fault.is_no_group() || fault.is_wrong_type() => break,
                ids => ids?,
            };
            let Some(last) = ids.last() else { break };
            after = *last;
            let held: HashSet<StreamId> = worker.inflight.of(lane.name()).into_iter().collect();
            for unseen in ids.split(|id| held.contains(id)).filter(|run| !run.is_empty()) {
                take_up(worker, lane, unseen, batches).await?;
            }
        }
    }
    Ok(())
}

/// Reads entries that are pending for this worker, one after the other in its pending list.
async fn take_up(
    worker: &Worker,
    lane: &Arc<Lane>,
    ids: &[StreamId],
    batches: &mpsc::Sender<Batch>,
) -> Result<(), Fault> {
    for ids in ids.chunks(lane.weight.fit(PAGE_BYTES).min(PAGE)) {
        let Some(first) = ids.first() else { break };
        let page = worker.queue.read_own_pending(&lane.keys, &worker.consumer, first.before(), ids.len()).await?;
        tracing::info!(platform = %lane.name(), entries = page.len(), "taking up entries whose delivery was lost");
        let read: Vec<StreamId> = page.iter().map(|entry| entry.id).collect();
        let counts = worker.queue.delivery_counts(&lane.keys, &worker.consumer, &read).await.unwrap_or_default();
        let counts = counts.into_iter().chain(std::iter::repeat(0));
        if sort_out(worker, lane, page.into_iter().zip(counts).collect(), batches).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Makes entries claimable that a clock which was set back has put out of reach, once at the start and after each jump.
async fn reach(worker: &Worker, lanes: &[Arc<Lane>]) -> Result<(), Fault> {
    for lane in lanes {
        match worker.queue.reset_idle(&lane.keys).await {
            Err(fault) if fault.is_no_group() || fault.is_wrong_type() => {}
            done => done?,
        }
    }
    Ok(())
}

/// Claims until the worker is to stop.
pub async fn run(worker: Arc<Worker>, batches: mpsc::Sender<Batch>) {
    let pause = (worker.claim_idle / 4).clamp(LOOK_MIN, LOOK_MAX);
    let mut cursors: HashMap<PlatformName, StreamId> = HashMap::new();
    let mut changes = worker.lanes.changes();
    let mut reached: Option<u64> = None;
    loop {
        // A platform that was resumed may have entries that were handed back.
        let next = async {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = changes.next() => {}
            }
        };
        if worker.stop.run_until_cancelled(next).await.is_none() {
            return;
        }
        let lanes = worker.lanes.all();
        let jumps = worker.redis.borrow().clock_jumps;
        if reached != Some(jumps) {
            match reach(&worker, &lanes).await {
                Ok(()) => reached = Some(jumps),
                Err(fault) => worker.queue.outage_log().failed("read idle times", &fault),
            }
        }
        cursors.retain(|name, _| lanes.iter().any(|lane| lane.name() == name));
        for lane in lanes.iter() {
            let cursor = cursors.entry(lane.name().clone()).or_default();
            // Page after page while there is something to take: a dead worker may have held thousands.
            while !lane.is_paused() {
                if !worker.may_take().await {
                    return;
                }
                let page = lane.weight.fit(PAGE_BYTES).min(PAGE);
                let claim = worker.queue.claim(&lane.keys, &worker.consumer, worker.claim_idle, *cursor, page);
                match claim.await {
                    Ok(claimed) => {
                        *cursor = claimed.cursor;
                        let through = claimed.cursor == StreamId::default();
                        if !claimed.deleted.is_empty() {
                            tracing::error!(platform = %lane.name(), entries = claimed.deleted.len(),
                            "pending entries were deleted by somebody else");
                        }
                        if sort_out(&worker, lane, claimed.entries, &batches).await.is_err() {
                            return;
                        }
                        if through {
                            break;
                        }
                    }
                    // The reader repairs groups, and says so.
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

/// Passes entries on: those delivered often apart from the others.
async fn sort_out(
    worker: &Worker,
    lane: &Arc<Lane>,
    entries: Vec<(Entry, u64)>,
    batches: &mpsc::Sender<Batch>,
) -> Result<(), mpsc::error::SendError<Batch>> {
    let (suspects, others): (Vec<_>, Vec<_>) =
        entries.into_iter().partition(|(_, deliveries)| *deliveries >= SUSPECT_DELIVERIES);
    let bare = |list: Vec<(Entry, u64)>| list.into_iter().map(|(entry, _)| entry).collect();
    let others = hold(worker, lane, bare(others));
    let suspects = hold(worker, lane, bare(suspects));
    for batch in in_batches(lane, others, suspects) {
        batches.send(batch).await?;
    }
    Ok(())
}

/// Good events first and together, then suspects, a few at a time.
fn in_batches(lane: &Arc<Lane>, others: Vec<Entry>, mut suspects: Vec<Entry>) -> Vec<Batch> {
    let batch = |entries, suspect| Batch { lane: Arc::clone(lane), entries, suspect, taken: Instant::now() };
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

/// Renews what is held until `done` is cancelled: after the order to stop too, while work in hand is finished.
pub async fn renew(worker: Arc<Worker>, done: tokio_util::sync::CancellationToken) {
    while done.run_until_cancelled(tokio::time::sleep(worker.claim_idle / 3)).await.is_some() {
        for (platform, ids) in worker.inflight.all() {
            let keys = worker.queue.keys(&platform);
            if let Err(fault) = worker.queue.renew(&keys, &worker.consumer, &ids).await {
                worker.queue.outage_log().failed("extend claims", &fault);
            }
        }
    }
}

/// Gives back those batches whose platform was paused after they were read.
pub(super) async fn unpaused(worker: &Worker, turn: Vec<Ready>) -> Vec<Ready> {
    let (paused, others): (Vec<_>, Vec<_>) = turn.into_iter().partition(|ready| ready.lane.is_paused());
    for ready in paused {
        put_back(worker, &ready.lane, ready.ids).await;
    }
    others
}

/// Gives back entries of a platform that was paused after they were read. Nothing is lost by a Redis that does not answer:
/// they are claimable by time then.
pub(super) async fn put_back(worker: &Worker, lane: &Lane, ids: Vec<StreamId>) {
    match worker.queue.hand_back(&lane.keys, &worker.consumer, &ids).await {
        Ok(_) => tracing::info!(platform = %lane.name(), entries = ids.len(), "paused; handed back"),
        Err(fault) => tracing::warn!(platform = %lane.name(), error = chain(&fault), "not handed back"),
    }
    worker.inflight.release(lane.name(), ids);
}

/// Gives back what is still held, so that another worker may claim it at once.
pub async fn hand_back(worker: &Worker) {
    for (platform, ids) in worker.inflight.all() {
        let keys = worker.queue.keys(&platform);
        // Not finished is not crashed.
        if let Err(fault) = worker.queue.clear_suspects(&keys, &ids).await {
            tracing::warn!(%platform, error = chain(&fault), "suspects not cleared");
        }
        match worker.queue.hand_back(&keys, &worker.consumer, &ids).await {
            Ok(_) => tracing::info!(%platform, entries = ids.len(), "handed back"),
            Err(fault) => tracing::warn!(%platform, error = chain(&fault), "not handed back; claimable by time"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use secrecy::SecretString;
    use shared::platform::registry::Registry;
    use shared::queue::{Layout, Queue, connect};

    use super::*;

    #[tokio::test]
    async fn suspects_come_last_and_a_few_at_a_time() {
        let url = SecretString::from("redis://127.0.0.1:1".to_owned());
        let queue = Queue::new(Layout::Single, connect(&url, false).unwrap());
        let registry = Registry::load(None).unwrap();
        let lane = Arc::new(Lane::new(Arc::clone(registry.get("mux").unwrap()), &queue));
        let entries = |ids: std::ops::Range<u64>| -> Vec<Entry> {
            ids.map(|ms| Entry { id: StreamId { ms, seq: 0 }, fields: None }).collect()
        };
        let batches = in_batches(&lane, entries(0..100), entries(100..110));
        let seen: Vec<_> = batches.iter().map(|batch| (batch.suspect, batch.entries.len())).collect();
        assert_eq!(seen, [(false, 100), (true, 4), (true, 4), (true, 2)]);
        let ids = batches.iter().flat_map(|batch| &batch.entries).map(|entry| entry.id.ms);
        assert!(ids.eq(0..110), "none is missing");
        assert!(in_batches(&lane, Vec::new(), Vec::new()).is_empty());
    }
}
