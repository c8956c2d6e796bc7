//! Moves processed events from the outboxes to the queues of destinations.
//!
//! # Guarantees
//! - An outbox entry is settled only after each of its destinations has the delivery, or has
//!   counted it as overflow (`killed_workers_lose_no_delivery`).
//! - A killed relay leaves its entries pending, and another one claims them. Deliveries that are
//!   queued already are not queued again (`delivery_enqueued_twice_is_sent_once`).
//! - A damaged outbox does not stop the others
//!   (`damaged_key_delays_no_other_destination_or_platform`).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::backoff::Backoff;
use shared::event::{Envelope, Millis, StreamId};
use shared::metrics::{DeliveryMetrics, DeliveryOutcome};
use shared::outbound::DestinationName;
use shared::outbound::payload::{PayloadParts, delivery_id, payload};
use shared::platform::PlatformName;
use shared::queue::{
    CallError, DecodeError, DestinationKeys, EnqueuedDelivery, GroupState, NewDelivery,
    PlatformKeys, SettleOutcome, Settled, StreamEntry, StreamReader, decode,
};

use super::memory_quota::MemoryQuota;
use crate::consumer::error_chain;
use crate::consumer::inflight::EntrySizeEstimate;
use crate::context::WorkerContext;

/// Time that a read waits for new entries.
const READ_TIMEOUT: Duration = Duration::from_millis(1_000);
/// Most entries of one outbox per read, and bytes of all of them.
const MAX_ENTRIES_PER_STREAM: usize = 64;
const MAX_READ_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of entries that are relayed at once. The relay holds them once, and once more for one
/// destination at a time.
const MAX_RELAY_BYTES: usize = 4 * 1024 * 1024;
/// Time for which a damaged outbox is not read.
const BROKEN_STREAM_PAUSE: Duration = Duration::from_secs(30);
/// Bounds of the pause after a failure.
const FAILURE_PAUSE_MIN: Duration = Duration::from_millis(50);
const FAILURE_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Relays until the worker is stopped.
pub(super) async fn run(worker: Arc<WorkerContext>, mut reader: StreamReader) {
    let backoff = Backoff::new(FAILURE_PAUSE_MIN, FAILURE_PAUSE_MAX);
    let mut failures = 0_u32;
    let mut changes = worker.forwarding.subscribe();
    let mut relay = OutboxRelay {
        worker: Arc::clone(&worker),
        cursors: HashMap::new(),
        blocked: HashMap::new(),
        queued: HashSet::new(),
        memory_quota: MemoryQuota::default(),
        claimed: Instant::now(),
        own_done: false,
    };
    while !worker.stop.is_cancelled() {
        if worker.forwarding.all().is_empty() {
            // Without a destination, entries wait in the outbox.
            let _ = worker.stop.run_until_cancelled(changes.changed()).await;
            continue;
        }
        let outboxes = relay.outboxes();
        match relay.round(&outboxes, &mut reader).await {
            Ok(()) => failures = 0,
            Err(fault) => {
                failures = failures.saturating_add(1);
                if fault.is_no_group() || fault.is_wrong_type() {
                    relay.repair(&outboxes).await;
                } else {
                    worker.queue.outage_log().failed("forward processed events", &fault);
                }
                // Entries that were read and not relayed are pending for this relay, and are read
                // again.
                relay.own_done = false;
                let pause = backoff.delay(failures, &mut rand::rng());
                let _ = worker.stop.run_until_cancelled(tokio::time::sleep(pause)).await;
            }
        }
    }
}

struct OutboxRelay {
    worker: Arc<WorkerContext>,
    cursors: HashMap<PlatformName, StreamId>,
    /// Outboxes whose key is no stream, and the end of their pause.
    blocked: HashMap<PlatformName, Instant>,
    /// Ids of deliveries that are queued while a failure left their entries unsettled. They are not
    /// queued again.
    queued: HashSet<String>,
    memory_quota: MemoryQuota,
    claimed: Instant,
    own_done: bool,
}

impl OutboxRelay {
    /// Returns the outboxes that can be read.
    fn outboxes(&mut self) -> Vec<Outbox> {
        let now = Instant::now();
        self.blocked.retain(|_, until| *until > now);
        let platforms = self.worker.platforms.all();
        let readable = platforms
            .iter()
            .filter(|platform_queue| !self.blocked.contains_key(platform_queue.name()));
        let outbox = |keys, entry_size: &Arc<EntrySizeEstimate>| Outbox {
            keys,
            entry_size: Arc::clone(entry_size),
        };
        readable
            .map(|platform_queue| {
                outbox(
                    self.worker.queue.layout().outbox(platform_queue.name()),
                    &platform_queue.entry_size,
                )
            })
            .collect()
    }

    async fn round(
        &mut self,
        outboxes: &[Outbox],
        reader: &mut StreamReader,
    ) -> Result<(), CallError> {
        let worker = Arc::clone(&self.worker);
        if outboxes.is_empty() {
            let _ = worker.stop.run_until_cancelled(tokio::time::sleep(READ_TIMEOUT)).await;
            return Ok(());
        }
        if !self.own_done {
            for one in outboxes {
                self.recover_own(one).await?;
            }
            self.own_done = true;
            self.queued.clear();
        }
        if self.claimed.elapsed() >= worker.claim_idle / 2 {
            self.claimed = Instant::now();
            for one in outboxes {
                self.claim(one).await?;
            }
        }
        let keys: Vec<&PlatformKeys> = outboxes.iter().map(|one| &one.keys).collect();
        let heaviest: usize = outboxes.iter().map(|one| one.entry_size.estimate()).sum();
        let count = (MAX_READ_BYTES / heaviest.max(1)).clamp(1, MAX_ENTRIES_PER_STREAM);
        for (position, entries) in
            worker.queue.read_new(reader, &keys, &worker.consumer, count, READ_TIMEOUT).await?
        {
            if let Some(outbox) = outboxes.get(position) {
                self.relay_entries(outbox, entries).await?;
            }
        }
        Ok(())
    }

    /// Creates missing groups again, and blocks keys that are not streams.
    async fn repair(&mut self, outboxes: &[Outbox]) {
        for Outbox { keys, .. } in outboxes {
            match self.worker.queue.create_group(keys).await {
                Ok(GroupState::Created | GroupState::Existed) => {}
                Ok(GroupState::WrongType) => {
                    tracing::error!(platform = %keys.platform, key = keys.incoming,
                        "key is not a stream; the outbox is not read until the key is removed");
                    self.blocked
                        .insert(keys.platform.clone(), Instant::now() + BROKEN_STREAM_PAUSE);
                }
                Err(fault) => {
                    tracing::warn!(platform = %keys.platform, error = error_chain(&fault),
                        "cannot repair the outbox; retrying")
                }
            }
        }
    }

    /// Relays entries that this relay had read before.
    async fn recover_own(&mut self, outbox: &Outbox) -> Result<(), CallError> {
        let (worker, mut after) = (Arc::clone(&self.worker), StreamId::default());
        loop {
            let count = outbox.count();
            let entries =
                worker.queue.read_own_pending(&outbox.keys, &worker.consumer, after, count).await?;
            let Some(last) = entries.last() else { return Ok(()) };
            after = last.id;
            self.relay_entries(outbox, entries).await?;
        }
    }

    /// Relays entries of dead workers.
    async fn claim(&mut self, outbox: &Outbox) -> Result<(), CallError> {
        let (queue, consumer, idle) =
            (&self.worker.queue, &self.worker.consumer, self.worker.claim_idle);
        let cursor = self.cursors.entry(outbox.keys.platform.clone()).or_default();
        let claimed = queue.claim(&outbox.keys, consumer, idle, *cursor, outbox.count()).await?;
        *cursor = claimed.cursor;
        self.relay_entries(outbox, claimed.entries.into_iter().map(|(entry, _)| entry).collect())
            .await
    }

    async fn relay_entries(
        &mut self,
        outbox: &Outbox,
        entries: Vec<StreamEntry>,
    ) -> Result<(), CallError> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for entry in entries {
            let size = entry.weight();
            outbox.entry_size.note(size);
            if bytes + size > MAX_RELAY_BYTES && !batch.is_empty() {
                self.relay_batch(&outbox.keys, std::mem::take(&mut batch)).await?;
                bytes = 0;
            }
            bytes += size;
            batch.push(entry);
        }
        self.relay_batch(&outbox.keys, batch).await
    }

    async fn relay_batch(
        &mut self,
        keys: &PlatformKeys,
        entries: Vec<StreamEntry>,
    ) -> Result<(), CallError> {
        if entries.is_empty() {
            return Ok(());
        }
        let (mut settled, mut events, mut queued) =
            (Vec::with_capacity(entries.len()), Vec::new(), Vec::new());
        for entry in entries {
            let id = entry.id;
            match ProcessedEvent::read(&keys.platform, entry) {
                ParsedOutboxEntry::Event(event) => events.push(event),
                ParsedOutboxEntry::Nothing => {}
                ParsedOutboxEntry::Later => continue,
            }
            settled.push(Settled::new(id, SettleOutcome::Duplicate));
        }
        let bytes =
            events.iter().map(|event| event.event.body.len() * event.destinations.len()).sum();
        let worker = Arc::clone(&self.worker);
        self.memory_quota.refresh(&worker, bytes).await;
        let names: BTreeSet<String> =
            events.iter().flat_map(|event| event.destinations.iter().cloned()).collect();
        for name in names {
            let wanted = events.iter().filter(|event| event.destinations.contains(&name));
            let mut deliveries: Vec<NewDelivery> =
                wanted.map(|event| event.delivery(&self.worker, &keys.platform, &name)).collect();
            queued.extend(deliveries.iter().map(|delivery| delivery.id.clone()));
            deliveries.retain(|delivery| !self.queued.contains(&delivery.id));
            enqueue_deliveries(&self.worker, &self.memory_quota, &name, &deliveries).await?;
            self.queued.extend(deliveries.into_iter().map(|delivery| delivery.id));
        }
        self.worker.queue.settle(keys, &settled).await?;
        for id in &queued {
            self.queued.remove(id);
        }
        Ok(())
    }
}

/// Outbox of a platform, and the size estimate of its entries.
struct Outbox {
    keys: PlatformKeys,
    entry_size: Arc<EntrySizeEstimate>,
}

impl Outbox {
    /// Returns how many entries to read of this outbox alone.
    fn count(&self) -> usize {
        self.entry_size.entries_in(MAX_READ_BYTES).min(MAX_ENTRIES_PER_STREAM)
    }
}

/// Processed event on its way to destinations.
struct ProcessedEvent {
    event: Envelope,
    /// Queues of the destinations that want the event.
    destinations: Vec<String>,
    result: Option<String>,
    at: Millis,
}

/// Kind of an outbox entry.
enum ParsedOutboxEntry {
    Event(Box<ProcessedEvent>),
    /// No processed event.
    Nothing,
    /// Written by a later release. It waits for a worker of that release.
    Later,
}

impl ProcessedEvent {
    fn read(platform: &PlatformName, entry: StreamEntry) -> ParsedOutboxEntry {
        let id = entry.id;
        let text = |name: &str| {
            let fields = entry.fields.as_ref()?;
            let (_, value) = fields.iter().find(|(field, _)| *field == name.as_bytes())?;
            std::str::from_utf8(value).ok().map(str::to_owned)
        };
        let (destinations, result, at) =
            (text("destinations"), text("result"), text("forwarded_at"));
        let at: Option<Millis> = at.and_then(|at| at.parse().ok());
        match (decode(entry), destinations, at) {
            (Ok(event), Some(destinations), Some(at)) => ParsedOutboxEntry::Event(Box::new(Self {
                event,
                destinations: destinations.split(',').map(str::to_owned).collect(),
                result: result.filter(|result| !result.is_empty()),
                at,
            })),
            (Err(DecodeError::UnsupportedVersion { version, .. }), ..) => {
                tracing::warn!(%platform, %id, version,
                    "an outbox entry of a later release; leaving it for a worker of that release");
                ParsedOutboxEntry::Later
            }
            _ => {
                // Only the settling script writes here, so another client wrote this entry.
                tracing::error!(%platform, %id,
                    "outbox entry is not a processed event; dropping it");
                ParsedOutboxEntry::Nothing
            }
        }
    }

    fn delivery(
        &self,
        worker: &WorkerContext,
        platform: &PlatformName,
        queue: &str,
    ) -> NewDelivery {
        let destination = worker.forwarding.find(queue);
        let source =
            destination.as_ref().map_or(worker.forwarding.defaults().source(), |one| &one.source);
        // A worker that lacks the destination uses the name that the queue was created for.
        let created_for = DestinationName::new(queue).ok();
        let known = destination.as_ref().map(|one| one.name.as_str());
        let name = known.or_else(|| Some(created_for.as_ref()?.first_owner())).unwrap_or(queue);
        let event = &self.event;
        let parts = PayloadParts {
            event: &event.event_type,
            body: &event.body,
            at: self.at,
            webhook_id: name,
            source: source.as_str(),
            platform: platform.as_str(),
            event_id: &event.event_id,
            result: self.result.as_deref(),
        };
        NewDelivery {
            // The queue stays the same when the destination's name changes.
            id: delivery_id(platform.as_str(), &event.event_id, queue).to_string(),
            event_type: event.event_type.clone(),
            occurred_at: event.occurred_at,
            origin: event.origin,
            body: payload(&parts),
            hops: event.hops,
            traceparent: event.traceparent.clone(),
        }
    }
}

async fn enqueue_deliveries(
    worker: &WorkerContext,
    memory_quota: &MemoryQuota,
    name: &str,
    deliveries: &[NewDelivery],
) -> Result<(), CallError> {
    let Ok(name) = DestinationName::new(name) else {
        // Only the settling script writes names here, so another client wrote this one.
        tracing::error!(
            deliveries = deliveries.len(),
            "outbox entry names no valid destination; dropping its deliveries"
        );
        return Ok(());
    };
    let destination = worker.forwarding.find(name.as_str());
    let bound = destination
        .as_ref()
        .map_or(worker.forwarding.defaults().max_backlog(), |one| one.max_backlog);
    let keys: DestinationKeys = worker.queue.layout().destination(&name);
    // The quota logs its own start and end.
    let exceeds = memory_quota.exceeds(&name);
    let (bound, most_dead) = if exceeds { (0, 0) } else { (bound, worker.dlq_max_len) };
    let outcomes = worker.queue.enqueue_deliveries(&keys, deliveries, bound, most_dead).await?;
    let count = |which| outcomes.iter().filter(|outcome| **outcome == which).count();
    let (dead, lost) = (count(EnqueuedDelivery::DeadLettered), count(EnqueuedDelivery::Overflowed));
    if dead > 0 {
        tracing::warn!(destination = %name, deliveries = dead,
            "the destination's queue is full; deliveries became dead letters");
    }
    if lost > 0 && !exceeds {
        tracing::error!(destination = %name, deliveries = lost,
            "the destination's queue and dead letters are full; deliveries were dropped and \
            counted");
    }
    let metrics = DeliveryMetrics::new(destination.as_ref().map_or(&name, |one| &one.name));
    metrics.delivery(DeliveryOutcome::Overflow, u64::try_from(dead).unwrap_or(0));
    metrics.delivery(DeliveryOutcome::Lost, u64::try_from(lost).unwrap_or(0));
    Ok(())
}
