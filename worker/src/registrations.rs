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
use shared::queue::CallError;
use shared::queue::keys::DESTINATION_URLS;
use shared::registration::{Live, Record, Snapshot};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::consumer::{chain, reader};
use crate::context::WorkerContext;

/// How long a start waits for what is registered while Redis answers everything else.
const REGISTRATIONS_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is looked whether a removed platform has drained.
const DRAIN_CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Pause between attempts at finding the queues of destinations.
const BIND_RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How long a removed platform drains at least, in ms: by then every ingress replica refuses it, and what it had in hand
/// when it learned of that is queued.
const MIN_DRAIN_MS: Millis = 10_000;
/// How long the destination of a removed platform may take to be given what waits for it, in ms. One that is dead takes
/// nothing, and is not to keep a platform for ever.
const MAX_DELIVERY_WAIT_MS: Millis = 24 * 3_600_000;

/// Serves what is registered until the worker is to stop.
pub async fn follow(worker: Arc<WorkerContext>, live: Live) {
    let mut snapshots = live.subscribe();
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        if let Some(snapshot) = snapshot {
            // Before its platform is served: no event of it is finished without its destination.
            if !forward_to(&worker, &snapshot).await {
                return;
            }
            serve_registry(&worker, &snapshot.registry).await;
        }
        match worker.stop.run_until_cancelled(snapshots.changed()).await {
            Some(Ok(())) => {}
            _ => return,
        }
    }
}

/// Delivers to the destinations of `snapshot`; false if the worker stops before Redis answers.
async fn forward_to(worker: &WorkerContext, snapshot: &Snapshot) -> bool {
    while let Err(fault) = worker.forwarding.follow(snapshot, &worker.queue).await {
        tracing::warn!(
            key = DESTINATION_URLS,
            error = chain(&fault),
            "queues of destinations cannot be found; trying again"
        );
        if worker.stop.run_until_cancelled(sleep(BIND_RETRY_PAUSE)).await.is_none() {
            return false;
        }
    }
    true
}

async fn serve_registry(worker: &WorkerContext, registry: &Registry) {
    let (before, platforms) =
        (worker.platforms.all(), worker.platforms.of(registry, &worker.queue));
    for platform_queue in platforms
        .iter()
        .filter(|platform_queue| before.iter().all(|known| known.name() != platform_queue.name()))
    {
        tracing::info!(platform = %platform_queue.name(), "serving a registered platform");
        // What fails here is repaired by the reader.
        if reader::ensure_group(worker, platform_queue).await.is_err() {
            break;
        }
    }
    for gone in before.iter().filter(|known| {
        platforms.iter().all(|platform_queue| platform_queue.name() != known.name())
    }) {
        tracing::info!(platform = %gone.name(), "a registered platform is gone");
    }
    worker.platforms.replace(platforms);
    worker.rescheduled.notify_one();
}

/// Waits until what is registered, and what is paused, has been read: what is paused must not be touched by a worker
/// that has just started. Not for ever, if it cannot be read although Redis answers: the other platforms need a worker.
pub async fn wait_for_registrations(worker: &WorkerContext) {
    let mut changes = worker.platforms.changes();
    loop {
        let within = timeout(REGISTRATIONS_TIMEOUT, changes.complete());
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
pub async fn remove_drained_platforms(worker: Arc<WorkerContext>, live: Live) {
    let mut ticks = interval(DRAIN_CHECK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while worker.stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let Some(snapshot) = live.current() else { continue };
        let since = live.now().saturating_sub(MIN_DRAIN_MS);
        for name in &snapshot.draining {
            let Some(record) = snapshot.records.get(name) else { continue };
            if record.draining_since.is_none_or(|at| at < since) {
                remove_if_drained(&worker, &live, name, record, since).await;
            }
        }
    }
}

async fn remove_if_drained(
    worker: &WorkerContext,
    live: &Live,
    name: &PlatformName,
    record: &Record,
    since: Millis,
) {
    let delivering = match remaining_work(worker, name, record).await {
        Ok(RemainingWork { queued: 0, deliveries }) => deliveries,
        Ok(_) => return,
        Err(fault) => {
            tracing::debug!(platform = %name, error = chain(&fault), "not known whether it has drained");
            return;
        }
    };
    let until = record.draining_since.map(|at| at.saturating_add(MAX_DELIVERY_WAIT_MS));
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
struct RemainingWork {
    /// Events, and what was processed and is not yet with its destinations.
    queued: u64,
    /// Deliveries that its own destination has not taken.
    deliveries: u64,
}

/// Looks in the order in which things move, so that nothing is missed between two looks.
async fn remaining_work(
    worker: &WorkerContext,
    name: &PlatformName,
    record: &Record,
) -> Result<RemainingWork, CallError> {
    let queue = &worker.queue;
    let events = queue.depth(&queue.keys(name)).await?;
    // Without any destination nothing ever leaves the outbox.
    let outbox = match worker.forwarding.all().is_empty() {
        true => 0,
        false => queue.depth(&queue.layout().outbox(name)).await?.length,
    };
    let mut deliveries = 0;
    if let Some(destination) =
        DestinationName::for_registered_platform(name).ok().filter(|_| record.delivers())
    {
        for destination_queue in
            worker.forwarding.all().iter().filter(|one| one.destination.name == destination)
        {
            deliveries += queue
                .depth(&queue.layout().destination(&destination_queue.queue).queue)
                .await?
                .length;
        }
    }
    Ok(RemainingWork { queued: events.length + events.retrying + outbox, deliveries })
}
