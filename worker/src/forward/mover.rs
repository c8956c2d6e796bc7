//! From the outbox to the destinations' queues.
//!
//! Guarantee: an outbox entry is let go of only after every destination of it has its delivery. A mover that is killed
//! leaves its entries pending; another one claims them, and what it had queued already is not queued again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::backoff::Backoff;
use shared::event::{Millis, StreamId};
use shared::metrics::{DeliveryMetrics, DeliveryOutcome};
use shared::outbound::DestinationName;
use shared::outbound::payload::{Parts, delivery_id, payload};
use shared::platform::PlatformName;
use shared::queue::{
    DestinationKeys, Entry, Fault, Forwarded, NewDelivery, PlatformKeys, Reader, SettleOutcome, Settled, decode,
};

use crate::consumer::chain;
use crate::worker::Worker;

/// How long a read waits for something new.
const BLOCK: Duration = Duration::from_millis(1_000);
/// Entries of one outbox per read.
const COUNT: usize = 64;
/// Pauses after failures.
const FAILED_MIN: Duration = Duration::from_millis(50);
const FAILED_MAX: Duration = Duration::from_secs(1);

/// Moves until the worker is to stop.
pub(super) async fn run(worker: Arc<Worker>, mut reader: Reader) {
    let backoff = Backoff::new(FAILED_MIN, FAILED_MAX);
    let mut failures = 0_u32;
    let mut cursors: HashMap<PlatformName, StreamId> = HashMap::new();
    let (mut looked, mut own_done) = (Instant::now(), false);
    let mut changes = worker.forwarding.current.subscribe();
    while !worker.stop.is_cancelled() {
        if worker.forwarding.all().is_empty() {
            // What waits in an outbox waits for a destination.
            let _ = worker.stop.run_until_cancelled(changes.changed()).await;
            continue;
        }
        let keys: Vec<PlatformKeys> =
            worker.lanes.all().iter().map(|lane| worker.queue.layout().outbox(lane.name())).collect();
        let round = async {
            if !own_done {
                for one in &keys {
                    own(&worker, one).await?;
                }
                own_done = true;
            }
            if looked.elapsed() >= worker.claim_idle / 2 {
                looked = Instant::now();
                for one in &keys {
                    claim(&worker, one, cursors.entry(one.platform.clone()).or_default()).await?;
                }
            }
            let names: Vec<&PlatformKeys> = keys.iter().collect();
            for (position, entries) in
                worker.queue.read_new(&mut reader, &names, &worker.consumer, COUNT, BLOCK).await?
            {
                if let Some(keys) = keys.get(position) {
                    move_on(&worker, keys, entries).await?;
                }
            }
            Ok::<(), Fault>(())
        };
        match round.await {
            Ok(()) => failures = 0,
            Err(fault) => {
                failures = failures.saturating_add(1);
                if fault.is_no_group() {
                    for one in &keys {
                        let _ = worker.queue.create_group(one).await;
                    }
                } else {
                    tracing::warn!(error = chain(&fault), "forwarding waits; trying again");
                }
                // What was read and not moved is this mover's own, and taken up again.
                own_done = false;
                let pause = backoff.delay(failures, &mut rand::rng());
                let _ = worker.stop.run_until_cancelled(tokio::time::sleep(pause)).await;
            }
        }
    }
}

/// What this mover had taken and not moved.
async fn own(worker: &Worker, keys: &PlatformKeys) -> Result<(), Fault> {
    loop {
        let entries = worker.queue.read_own_pending(keys, &worker.consumer, StreamId::default(), COUNT).await?;
        if entries.is_empty() {
            return Ok(());
        }
        move_on(worker, keys, entries).await?;
    }
}

/// What others had taken and left.
async fn claim(worker: &Worker, keys: &PlatformKeys, cursor: &mut StreamId) -> Result<(), Fault> {
    let claimed = worker.queue.claim(keys, &worker.consumer, worker.claim_idle, *cursor, COUNT).await?;
    *cursor = claimed.cursor;
    move_on(worker, keys, claimed.entries.into_iter().map(|(entry, _)| entry).collect()).await
}

async fn move_on(worker: &Worker, keys: &PlatformKeys, entries: Vec<Entry>) -> Result<(), Fault> {
    let mut deliveries: BTreeMap<String, Vec<NewDelivery>> = BTreeMap::new();
    let ids: Vec<StreamId> = entries.iter().map(|entry| entry.id).collect();
    for entry in entries {
        add(worker, &keys.platform, entry, &mut deliveries);
    }
    for (name, deliveries) in deliveries {
        queue_up(worker, &name, &deliveries).await?;
    }
    let settled: Vec<_> = ids.into_iter().map(|id| Settled::new(id, SettleOutcome::Duplicate)).collect();
    worker.queue.settle(keys, &settled).await.map(drop)
}

/// The deliveries of one outbox entry.
fn add(
    worker: &Worker,
    platform: &PlatformName,
    entry: Entry,
    deliveries: &mut BTreeMap<String, Vec<NewDelivery>>,
) {
    let id = entry.id;
    let text = |name: &str| {
        let fields = entry.fields.as_ref()?;
        let (_, value) = fields.iter().find(|(field, _)| field == name.as_bytes())?;
        std::str::from_utf8(value).ok().map(str::to_owned)
    };
    let (destinations, result, at) = (text("destinations"), text("result"), text("forwarded_at"));
    let at: Option<Millis> = at.and_then(|at| at.parse().ok());
    let (Ok(event), Some(destinations), Some(at)) = (decode(entry), destinations, at) else {
        // Only settling writes here, so somebody else did.
        tracing::error!(%platform, %id, "an outbox entry is no processed event; it is dropped");
        return;
    };
    for name in destinations.split(',') {
        let destination = worker.forwarding.find(name);
        let source = destination.as_ref().map_or(worker.forwarding.defaults.source(), |one| &one.source);
        let parts = Parts {
            event: &event.event_type,
            body: &event.body,
            at,
            webhook_id: name,
            source: source.as_str(),
            platform: platform.as_str(),
            event_id: &event.event_id,
            result: result.as_deref().filter(|result| !result.is_empty()),
        };
        deliveries.entry(name.to_owned()).or_default().push(NewDelivery {
            id: delivery_id(platform.as_str(), &event.event_id, name).to_string(),
            event_type: event.event_type.clone(),
            occurred_at: event.occurred_at,
            origin: event.origin,
            body: payload(&parts),
            hops: event.hops,
            traceparent: event.traceparent.clone(),
        });
    }
}

async fn queue_up(worker: &Worker, name: &str, deliveries: &[NewDelivery]) -> Result<(), Fault> {
    let Ok(name) = DestinationName::new(name) else {
        // Only settling writes names here, so somebody else did.
        tracing::error!(deliveries = deliveries.len(), "an outbox entry names no destination; it is dropped");
        return Ok(());
    };
    let bound = worker
        .forwarding
        .find(name.as_str())
        .map_or(worker.forwarding.defaults.max_backlog(), |one| one.max_backlog);
    let keys: DestinationKeys = worker.queue.layout().destination(&name);
    let outcomes = worker.queue.forward(&keys, deliveries, bound, worker.dlq_max_len).await?;
    let count = |which| outcomes.iter().filter(|outcome| **outcome == which).count();
    let (dead, lost) = (count(Forwarded::DeadLettered), count(Forwarded::Overflowed));
    if dead > 0 {
        tracing::warn!(destination = %name, deliveries = dead, "its queue is full; deliveries became dead letters");
    }
    if lost > 0 {
        tracing::error!(destination = %name, deliveries = lost,
            "its queue and its dead letters are full; deliveries were dropped and counted");
    }
    let metrics = DeliveryMetrics::new(&name);
    metrics.delivery(DeliveryOutcome::Overflow, u64::try_from(dead).unwrap_or(0));
    metrics.delivery(DeliveryOutcome::Lost, u64::try_from(lost).unwrap_or(0));
    Ok(())
}
