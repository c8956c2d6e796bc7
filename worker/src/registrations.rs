//! Serving what is registered while the worker runs, and taking leave of what was removed.
//!
//! Guarantee: a registered, changed or paused platform is served so within a second of what Redis says; what this process
//! was started with is served from the beginning, and through any outage. A removed platform keeps its lane until nothing
//! of it is queued and no replica can add anything, since removal began long enough ago for all of them to know; only
//! then is its record removed, by one worker. Its dead letters stay. Secrets are opened for forwarding only; without
//! `SECRETS_KEY` everything else works.

use std::sync::Arc;
use std::time::Duration;

use shared::event::Millis;
use shared::platform::PlatformName;
use shared::platform::registry::Registry;
use shared::queue::Fault;
use shared::registration::Live;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::consumer::{chain, reader};
use crate::worker::Worker;

/// How long a start waits for what is registered while Redis answers everything else.
const KNOWN_WITHIN: Duration = Duration::from_secs(5);
/// How often it is looked whether a removed platform has drained.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long a removed platform drains at least, in ms: by then every ingress replica refuses it, and what it had in hand
/// when it learned of that is queued.
const DRAINS_AT_LEAST_MS: Millis = 10_000;

/// Serves what is registered until the worker is to stop.
pub async fn follow(worker: Arc<Worker>, live: Live) {
    let mut snapshots = live.subscribe();
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        if let Some(snapshot) = snapshot {
            adopt(&worker, &snapshot.registry).await;
            worker.forwarding.follow(&snapshot);
        }
        match worker.stop.run_until_cancelled(snapshots.changed()).await {
            Some(Ok(())) => {}
            _ => return,
        }
    }
}

async fn adopt(worker: &Worker, registry: &Registry) {
    let (before, lanes) = (worker.lanes.all(), worker.lanes.of(registry, &worker.queue));
    for lane in lanes.iter().filter(|lane| before.iter().all(|known| known.name() != lane.name())) {
        tracing::info!(platform = %lane.name(), "serving a registered platform");
        // What fails here is repaired by the reader.
        if reader::ensure_group(worker, lane).await.is_err() {
            break;
        }
    }
    for gone in before.iter().filter(|known| lanes.iter().all(|lane| lane.name() != known.name())) {
        tracing::info!(platform = %gone.name(), "a registered platform is gone");
    }
    worker.lanes.replace(lanes);
    worker.rescheduled.notify_one();
}

/// Waits until what is registered, and what is paused, has been read: what is paused must not be touched by a worker
/// that has just started. Not for ever, if it cannot be read although Redis answers: the other platforms need a worker.
pub async fn known(worker: &Worker) {
    let mut changes = worker.lanes.changes();
    loop {
        let within = timeout(KNOWN_WITHIN, changes.complete());
        match worker.stop.run_until_cancelled(within).await {
            Some(Err(_)) if worker.redis.borrow().up => {
                tracing::error!("what is registered cannot be read; serving what is configured");
                return;
            }
            Some(Err(_)) => {}
            Some(Ok(())) | None => return,
        }
    }
}

/// Removes the records of platforms that have drained, until the worker is to stop.
pub async fn retire(worker: Arc<Worker>, live: Live) {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while worker.stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let Some(snapshot) = live.current() else { continue };
        let since = live.now().saturating_sub(DRAINS_AT_LEAST_MS);
        for name in &snapshot.draining {
            let record = snapshot.records.get(name);
            if record.and_then(|record| record.draining_since).is_none_or(|at| at < since) {
                retire_one(&worker, &live, name, since).await;
            }
        }
    }
}

async fn retire_one(worker: &Worker, live: &Live, name: &PlatformName, since: Millis) {
    let queue = &worker.queue;
    // What was processed is on its way to destinations only once it has left the outbox; without any it stays there.
    let nobody = worker.forwarding.all().is_empty();
    let outbox = queue.layout().outbox(name);
    let depths = async { Ok::<_, Fault>((queue.depth(&queue.keys(name)).await?, queue.depth(&outbox).await?)) };
    match depths.await {
        Ok((depth, outbox)) if depth.length == 0 && depth.retrying == 0 && (outbox.length == 0 || nobody) => {}
        Ok(_) => return,
        Err(fault) => {
            tracing::debug!(platform = %name, error = chain(&fault), "not known whether it has drained");
            return;
        }
    }
    match live.remove_drained(name, since).await {
        Ok(true) => {
            tracing::info!(platform = %name, "nothing of it is queued any more; its registration is removed")
        }
        // Another worker was first, or it was registered again.
        Ok(false) => {}
        Err(refused) => {
            tracing::warn!(platform = %name, error = chain(&refused), "its registration was not removed")
        }
    }
}
