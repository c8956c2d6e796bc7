//! Serves registered platforms while the worker runs, and removes drained ones.
//!
//! # Guarantees
//! - A registered, changed or paused platform is served so within two seconds. Configured platforms
//!   are served from the start and through any outage
//!   (`registered_platform_is_known_everywhere_in_two_seconds`).
//! - A removed platform is served until its queue is empty and all replicas refuse it
//!   (`removed_platform_drains_first`).
//! - Its destination stays for at most a day, until it has received what waits for it
//!   (`removed_platform_still_delivers_its_accepted_events`).
//! - Without `SECRETS_KEY` only the deliveries of registered platforms wait
//!   (`worker_without_key_serves_registered_platforms`).
//!
//! # Design
//! One worker removes the record of a drained platform. Its dead letters stay. Workers decrypt
//! secrets for forwarding only.

use std::sync::Arc;
use std::time::Duration;

use shared::event::Millis;
use shared::outbound::DestinationName;
use shared::platform::PlatformName;
use shared::platform::registry::Registry;
use shared::queue::CallError;
use shared::queue::keys::DESTINATION_URLS;
use shared::registration::{RegistrationRecord, RegistrationStore, Snapshot};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::consumer::{error_chain, reader};
use crate::context::WorkerContext;

/// Longest wait for registrations at the start, while Redis answers other calls.
const REGISTRATIONS_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval between two checks whether removed platforms have drained.
const DRAIN_CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Pause between two attempts to find the queues of destinations.
const BIND_RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Shortest time that a removed platform drains, in ms. By then all ingress replicas refuse it, and
/// have queued the requests that they had accepted.
const MIN_DRAIN_MS: Millis = 10_000;
/// Longest time that the destination of a removed platform may take for its deliveries, in ms. A
/// dead destination must not keep a platform forever.
const MAX_DELIVERY_WAIT_MS: Millis = 24 * 3_600_000;

/// Serves registrations until the worker is stopped.
pub async fn follow(worker: Arc<WorkerContext>, live: RegistrationStore) {
    let mut snapshots = live.subscribe();
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        if let Some(snapshot) = snapshot {
            // Destinations come first, so that no event of a new platform is settled without its
            // destination.
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

/// Delivers to the destinations of `snapshot`. Returns false if the worker is stopped before Redis
/// answers.
async fn forward_to(worker: &WorkerContext, snapshot: &Snapshot) -> bool {
    while let Err(fault) = worker.forwarding.follow(snapshot, &worker.queue).await {
        tracing::warn!(
            key = DESTINATION_URLS,
            error = error_chain(&fault),
            "cannot find the queues of destinations; retrying"
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
        // The reader creates the group later if this fails.
        if reader::ensure_group(worker, platform_queue).await.is_err() {
            break;
        }
    }
    for removed in before.iter().filter(|known| {
        platforms.iter().all(|platform_queue| platform_queue.name() != known.name())
    }) {
        tracing::info!(platform = %removed.name(), "a registered platform was removed");
    }
    worker.platforms.replace(platforms);
    worker.rescheduled.notify_one();
}

/// Waits until registrations and pauses have been read, since a new worker must not touch a paused
/// platform. Gives up after a while if Redis answers but they cannot be read, because the other
/// platforms need a worker.
pub async fn wait_for_registrations(worker: &WorkerContext) {
    let mut changes = worker.platforms.changes();
    loop {
        let within = timeout(REGISTRATIONS_TIMEOUT, changes.complete());
        match worker.stop.run_until_cancelled(within).await {
            Some(Err(_)) if worker.redis.borrow().up => {
                tracing::error!("cannot read registrations; serving configured platforms only");
                return;
            }
            Some(Err(_)) => {}
            Some(Ok(())) | None => return,
        }
    }
}

/// Removes the records of drained platforms until the worker is stopped.
pub async fn remove_drained_platforms(worker: Arc<WorkerContext>, live: RegistrationStore) {
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
    live: &RegistrationStore,
    name: &PlatformName,
    record: &RegistrationRecord,
    since: Millis,
) {
    let delivering = match remaining_work(worker, name, record).await {
        Ok(RemainingWork { queued: 0, deliveries }) => deliveries,
        Ok(_) => return,
        Err(fault) => {
            tracing::debug!(platform = %name, error = error_chain(&fault),
                "cannot check whether the platform has drained; retrying");
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
                "platform removed with undelivered events; destination queue kept")
        }
        Ok(true) => {
            tracing::info!(platform = %name, "platform drained; registration removed")
        }
        // Another worker was first, or the platform was registered again.
        Ok(false) => {}
        Err(refused) => {
            tracing::warn!(platform = %name, error = error_chain(&refused),
                "cannot remove the platform's registration; retrying")
        }
    }
}

/// Work that is left of a platform that is being removed.
struct RemainingWork {
    /// Events in its queue and its outbox.
    queued: u64,
    /// Deliveries that wait in the queue of its own destination.
    deliveries: u64,
}

/// Reads the queues in the order in which work moves, so that nothing is missed between two reads.
async fn remaining_work(
    worker: &WorkerContext,
    name: &PlatformName,
    record: &RegistrationRecord,
) -> Result<RemainingWork, CallError> {
    let queue = &worker.queue;
    let events = queue.depth(&queue.keys(name)).await?;
    // Without a destination, nothing ever leaves the outbox.
    let outbox = match worker.forwarding.all().is_empty() {
        true => 0,
        false => queue.depth(&queue.layout().outbox(name)).await?.length,
    };
    let mut deliveries = 0;
    if let Some(destination) =
        DestinationName::for_registered_platform(name).ok().filter(|_| record.has_destination())
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
