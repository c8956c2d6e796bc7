//! Serving what is registered while the worker runs, and taking leave of what was removed.
//!
//! Guarantee: a registered, changed or paused platform is served so within a second of what Redis says; what this process
//! was started with is served from the beginning, and through any outage. A removed platform keeps its lane until nothing
//! of it is queued and no replica can add anything, since removal began long enough ago for all of them to know; and its
//! destination until it has taken what waits for it, for at most a day. Only then is its record removed, by one worker.
//! Its dead letters stay. Secrets are opened for forwarding only; without `SECRETS_KEY` everything else works.

use std::sync::Arc;
use std::time::Duration;

use shared::event::Millis;
use shared::outbound::DestinationName;
use shared::platform::PlatformName;
use shared::platform::registry::Registry;
use shared::queue::Fault;
use shared::queue::keys::DESTINATION_URLS;
use shared::registration::{Live, Record, Snapshot};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::consumer::{chain, reader};
use crate::worker::Worker;

/// How long a start waits for what is registered while Redis answers everything else.
const KNOWN_WITHIN: Duration = Duration::from_secs(5);
/// How often it is looked whether a removed platform has drained.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Pause between attempts at finding the queues of destinations.
const BIND_PAUSE: Duration = Duration::from_millis(500);
/// How long a removed platform drains at least, in ms: by then every ingress replica refuses it, and what it had in hand
/// when it learned of that is queued.
const DRAINS_AT_LEAST_MS: Millis = 10_000;
/// How long the destination of a removed platform may take to be given what waits for it, in ms. One that is dead takes
/// nothing, and is not to keep a platform for ever.
const DELIVERS_AT_MOST_MS: Millis = 24 * 3_600_000;

/// Serves what is registered until the worker is to stop.
pub async fn follow(worker: Arc<Worker>, live: Live) {
    let mut snapshots = live.subscribe();
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        if let Some(snapshot) = snapshot {
            // Before its platform is served: no event of it is finished without its destination.
            if !forward_to(&worker, &snapshot).await {
                return;
            }
            adopt(&worker, &snapshot.registry).await;
        }
        match worker.stop.run_until_cancelled(snapshots.changed()).await {
            Some(Ok(())) => {}
            _ => return,
        }
    }
}

/// Delivers to the destinations of `snapshot`; false if the worker stops before Redis answers.
async fn forward_to(worker: &Worker, snapshot: &Snapshot) -> bool {
    while let Err(fault) = worker.forwarding.follow(snapshot, &worker.queue).await {
        tracing::warn!(
            key = DESTINATION_URLS,
            error = chain(&fault),
            "queues of destinations cannot be found; trying again"
        );
        if worker.stop.run_until_cancelled(sleep(BIND_PAUSE)).await.is_none() {
            return false;
        }
    }
    true
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
            let Some(record) = snapshot.records.get(name) else { continue };
            if record.draining_since.is_none_or(|at| at < since) {
                retire_one(&worker, &live, name, record, since).await;
            }
        }
    }
}

async fn retire_one(worker: &Worker, live: &Live, name: &PlatformName, record: &Record, since: Millis) {
    let delivering = match left(worker, name, record).await {
        Ok(Left { queued: 0, deliveries }) => deliveries,
        Ok(_) => return,
        Err(fault) => {
            tracing::debug!(platform = %name, error = chain(&fault), "not known whether it has drained");
            return;
        }
    };
    let until = record.draining_since.map(|at| at.saturating_add(DELIVERS_AT_MOST_MS));
    if delivering > 0 && until.is_some_and(|until| live.now() < until) {
        return;
    }
    match live.remove_drained(name, since).await {
        Ok(true) if delivering > 0 => {
            tracing::error!(platform = %name, deliveries = delivering,
                "its registration is removed; its destination has not taken what waits for it, which stays in its queue")
        }
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

/// What is left of a platform that is being removed.
struct Left {
    /// Events, and what was processed and is not yet with its destinations.
    queued: u64,
    /// Deliveries that its own destination has not taken.
    deliveries: u64,
}

/// Looks in the order in which things move, so that nothing is missed between two looks.
async fn left(worker: &Worker, name: &PlatformName, record: &Record) -> Result<Left, Fault> {
    let queue = &worker.queue;
    let events = queue.depth(&queue.keys(name)).await?;
    // Without any destination nothing ever leaves the outbox.
    let outbox = match worker.forwarding.all().is_empty() {
        true => 0,
        false => queue.depth(&queue.layout().outbox(name)).await?.length,
    };
    let mut deliveries = 0;
    if let Some(destination) = DestinationName::of_registered(name).ok().filter(|_| record.delivers()) {
        for outlet in worker.forwarding.all().iter().filter(|one| one.destination.name == destination) {
            deliveries += queue.depth(&queue.layout().destination(&outlet.queue).queue).await?.length;
        }
    }
    Ok(Left { queued: events.length + events.retrying + outbox, deliveries })
}
