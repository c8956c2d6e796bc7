//! From the outbox to the destinations' queues.
//!
//! Guarantee: an outbox entry is let go of only after every destination of it has its delivery, or has it counted as
//! overflow. A mover that is killed leaves its entries pending; another one claims them, and what it had queued already is
//! not queued again. One damaged outbox does not keep the others from being read.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::backoff::Backoff;
use shared::event::{Envelope, Millis, StreamId};
use shared::metrics::{DeliveryMetrics, DeliveryOutcome};
use shared::outbound::DestinationName;
use shared::outbound::payload::{Parts, delivery_id, payload};
use shared::platform::PlatformName;
use shared::queue::{
    DestinationKeys, Entry, Fault, Forwarded, GroupState, NewDelivery, PlatformKeys, Reader, SettleOutcome,
    Settled, Undecodable, decode,
};

use super::share::Shares;
use crate::consumer::chain;
use crate::consumer::inflight::Weight;
use crate::worker::Worker;

/// How long a read waits for something new.
const BLOCK: Duration = Duration::from_millis(1_000);
/// Entries of one outbox per read, and about how many bytes of all.
const COUNT: usize = 64;
const READ_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of entries that are moved together: what is held of them is this, and once more for one destination at a time.
const MOVE_BYTES: usize = 4 * 1024 * 1024;
/// How long an outbox that cannot be read is left alone.
const SET_ASIDE: Duration = Duration::from_secs(30);
/// Pauses after failures.
const FAILED_MIN: Duration = Duration::from_millis(50);
const FAILED_MAX: Duration = Duration::from_secs(1);

/// Moves until the worker is to stop.
pub(super) async fn run(worker: Arc<Worker>, mut reader: Reader) {
    let backoff = Backoff::new(FAILED_MIN, FAILED_MAX);
    let mut failures = 0_u32;
    let mut changes = worker.forwarding.subscribe();
    let mut mover = Mover {
        worker: Arc::clone(&worker),
        cursors: HashMap::new(),
        aside: HashMap::new(),
        queued: HashSet::new(),
        shares: Shares::default(),
        claimed: Instant::now(),
        own_done: false,
    };
    while !worker.stop.is_cancelled() {
        if worker.forwarding.all().is_empty() {
            // What waits in an outbox waits for a destination.
            let _ = worker.stop.run_until_cancelled(changes.changed()).await;
            continue;
        }
        let outboxes = mover.outboxes();
        match mover.round(&outboxes, &mut reader).await {
            Ok(()) => failures = 0,
            Err(fault) => {
                failures = failures.saturating_add(1);
                if fault.is_no_group() || fault.is_wrong_type() {
                    mover.repair(&outboxes).await;
                } else {
                    worker.queue.outage_log().failed("forward processed events", &fault);
                }
                // What was read and not moved is this mover's own, and taken up again.
                mover.own_done = false;
                let pause = backoff.delay(failures, &mut rand::rng());
                let _ = worker.stop.run_until_cancelled(tokio::time::sleep(pause)).await;
            }
        }
    }
}

struct Mover {
    worker: Arc<Worker>,
    cursors: HashMap<PlatformName, StreamId>,
    /// Outboxes that are no streams, and until when they are left alone.
    aside: HashMap<PlatformName, Instant>,
    /// Deliveries that are queued and whose entries are not settled yet, because something failed in between: however
    /// long that lasts, they are not queued again from here.
    queued: HashSet<String>,
    shares: Shares,
    claimed: Instant,
    own_done: bool,
}

impl Mover {
    /// The outboxes that can be read.
    fn outboxes(&mut self) -> Vec<Outbox> {
        let now = Instant::now();
        self.aside.retain(|_, until| *until > now);
        let lanes = self.worker.lanes.all();
        let readable = lanes.iter().filter(|lane| !self.aside.contains_key(lane.name()));
        let outbox = |keys, weight: &Arc<Weight>| Outbox { keys, weight: Arc::clone(weight) };
        readable.map(|lane| outbox(self.worker.queue.layout().outbox(lane.name()), &lane.weight)).collect()
    }

    async fn round(&mut self, outboxes: &[Outbox], reader: &mut Reader) -> Result<(), Fault> {
        let worker = Arc::clone(&self.worker);
        if outboxes.is_empty() {
            let _ = worker.stop.run_until_cancelled(tokio::time::sleep(BLOCK)).await;
            return Ok(());
        }
        if !self.own_done {
            for one in outboxes {
                self.own(one).await?;
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
        let heaviest: usize = outboxes.iter().map(|one| one.weight.estimate()).sum();
        let count = (READ_BYTES / heaviest.max(1)).clamp(1, COUNT);
        for (position, entries) in worker.queue.read_new(reader, &keys, &worker.consumer, count, BLOCK).await? {
            if let Some(outbox) = outboxes.get(position) {
                self.move_on(outbox, entries).await?;
            }
        }
        Ok(())
    }

    /// Makes missing groups again, and sets aside what is no stream: the others are not to wait for it.
    async fn repair(&mut self, outboxes: &[Outbox]) {
        for Outbox { keys, .. } in outboxes {
            match self.worker.queue.create_group(keys).await {
                Ok(GroupState::Created | GroupState::Existed) => {}
                Ok(GroupState::WrongType) => {
                    tracing::error!(platform = %keys.platform, key = keys.incoming,
                        "this key is no stream; what was processed is forwarded when somebody has removed it");
                    self.aside.insert(keys.platform.clone(), Instant::now() + SET_ASIDE);
                }
                Err(fault) => tracing::warn!(platform = %keys.platform, error = chain(&fault), "repair failed"),
            }
        }
    }

    /// What this mover had taken and not moved.
    async fn own(&mut self, outbox: &Outbox) -> Result<(), Fault> {
        let (worker, mut after) = (Arc::clone(&self.worker), StreamId::default());
        loop {
            let count = outbox.count();
            let entries = worker.queue.read_own_pending(&outbox.keys, &worker.consumer, after, count).await?;
            let Some(last) = entries.last() else { return Ok(()) };
            after = last.id;
            self.move_on(outbox, entries).await?;
        }
    }

    /// What others had taken and left.
    async fn claim(&mut self, outbox: &Outbox) -> Result<(), Fault> {
        let (queue, consumer, idle) = (&self.worker.queue, &self.worker.consumer, self.worker.claim_idle);
        let cursor = self.cursors.entry(outbox.keys.platform.clone()).or_default();
        let claimed = queue.claim(&outbox.keys, consumer, idle, *cursor, outbox.count()).await?;
        *cursor = claimed.cursor;
        self.move_on(outbox, claimed.entries.into_iter().map(|(entry, _)| entry).collect()).await
    }

    async fn move_on(&mut self, outbox: &Outbox, entries: Vec<Entry>) -> Result<(), Fault> {
        let (mut few, mut bytes) = (Vec::new(), 0);
        for entry in entries {
            let size = entry.weight();
            outbox.weight.note(size);
            if bytes + size > MOVE_BYTES && !few.is_empty() {
                self.move_few(&outbox.keys, std::mem::take(&mut few)).await?;
                bytes = 0;
            }
            bytes += size;
            few.push(entry);
        }
        self.move_few(&outbox.keys, few).await
    }

    async fn move_few(&mut self, keys: &PlatformKeys, entries: Vec<Entry>) -> Result<(), Fault> {
        if entries.is_empty() {
            return Ok(());
        }
        let (mut settled, mut events, mut queued) = (Vec::with_capacity(entries.len()), Vec::new(), Vec::new());
        for entry in entries {
            let id = entry.id;
            match Processed::read(&keys.platform, entry) {
                Taken::Event(event) => events.push(event),
                Taken::Nothing => {}
                Taken::Later => continue,
            }
            settled.push(Settled::new(id, SettleOutcome::Duplicate));
        }
        let bytes = events.iter().map(|event| event.event.body.len() * event.destinations.len()).sum();
        let worker = Arc::clone(&self.worker);
        self.shares.look(&worker, bytes).await;
        let names: BTreeSet<String> = events.iter().flat_map(|event| event.destinations.iter().cloned()).collect();
        for name in names {
            let wanted = events.iter().filter(|event| event.destinations.contains(&name));
            let mut deliveries: Vec<NewDelivery> =
                wanted.map(|event| event.delivery(&self.worker, &keys.platform, &name)).collect();
            queued.extend(deliveries.iter().map(|delivery| delivery.id.clone()));
            deliveries.retain(|delivery| !self.queued.contains(&delivery.id));
            queue_up(&self.worker, &self.shares, &name, &deliveries).await?;
            self.queued.extend(deliveries.into_iter().map(|delivery| delivery.id));
        }
        self.worker.queue.settle(keys, &settled).await?;
        for id in &queued {
            self.queued.remove(id);
        }
        Ok(())
    }
}

/// A platform's outbox, and what its entries weigh.
struct Outbox {
    keys: PlatformKeys,
    weight: Arc<Weight>,
}

impl Outbox {
    /// Entries to ask of it alone.
    fn count(&self) -> usize {
        self.weight.fit(READ_BYTES).min(COUNT)
    }
}

/// A processed event on its way to destinations.
struct Processed {
    event: Envelope,
    /// Queues of the destinations that want it.
    destinations: Vec<String>,
    result: Option<String>,
    at: Millis,
}

/// What an outbox entry is.
enum Taken {
    Event(Box<Processed>),
    /// Nothing that could be forwarded.
    Nothing,
    /// It is to stay, for a worker of a later release.
    Later,
}

impl Processed {
    fn read(platform: &PlatformName, entry: Entry) -> Taken {
        let id = entry.id;
        let text = |name: &str| {
            let fields = entry.fields.as_ref()?;
            let (_, value) = fields.iter().find(|(field, _)| *field == name.as_bytes())?;
            std::str::from_utf8(value).ok().map(str::to_owned)
        };
        let (destinations, result, at) = (text("destinations"), text("result"), text("forwarded_at"));
        let at: Option<Millis> = at.and_then(|at| at.parse().ok());
        match (decode(entry), destinations, at) {
            (Ok(event), Some(destinations), Some(at)) => Taken::Event(Box::new(Self {
                event,
                destinations: destinations.split(',').map(str::to_owned).collect(),
                result: result.filter(|result| !result.is_empty()),
                at,
            })),
            (Err(Undecodable::UnsupportedVersion { version, .. }), ..) => {
                tracing::warn!(%platform, %id, version, "an outbox entry of a later release; it waits for a worker of that");
                Taken::Later
            }
            _ => {
                // Only settling writes here, so somebody else did.
                tracing::error!(%platform, %id, "an outbox entry is no processed event; it is dropped");
                Taken::Nothing
            }
        }
    }

    fn delivery(&self, worker: &Worker, platform: &PlatformName, queue: &str) -> NewDelivery {
        let destination = worker.forwarding.find(queue);
        let source = destination.as_ref().map_or(worker.forwarding.defaults().source(), |one| &one.source);
        // A worker that lacks the destination knows the one that the queue was made for.
        let made_for = DestinationName::new(queue).ok();
        let known = destination.as_ref().map(|one| one.name.as_str());
        let name = known.or_else(|| Some(made_for.as_ref()?.first_owner())).unwrap_or(queue);
        let event = &self.event;
        let parts = Parts {
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

async fn queue_up(worker: &Worker, shares: &Shares, name: &str, deliveries: &[NewDelivery]) -> Result<(), Fault> {
    let Ok(name) = DestinationName::new(name) else {
        // Only settling writes names here, so somebody else did.
        tracing::error!(deliveries = deliveries.len(), "an outbox entry names no destination; it is dropped");
        return Ok(());
    };
    let destination = worker.forwarding.find(name.as_str());
    let bound = destination.as_ref().map_or(worker.forwarding.defaults().max_backlog(), |one| one.max_backlog);
    let keys: DestinationKeys = worker.queue.layout().destination(&name);
    // Said when it began.
    let exceeds = shares.exceeds(&name);
    let (bound, most_dead) = if exceeds { (0, 0) } else { (bound, worker.dlq_max_len) };
    let outcomes = worker.queue.forward(&keys, deliveries, bound, most_dead).await?;
    let count = |which| outcomes.iter().filter(|outcome| **outcome == which).count();
    let (dead, lost) = (count(Forwarded::DeadLettered), count(Forwarded::Overflowed));
    if dead > 0 {
        tracing::warn!(destination = %name, deliveries = dead, "its queue is full; deliveries became dead letters");
    }
    if lost > 0 && !exceeds {
        tracing::error!(destination = %name, deliveries = lost,
            "its queue and its dead letters are full; deliveries were dropped and counted");
    }
    let metrics = DeliveryMetrics::new(destination.as_ref().map_or(&name, |one| &one.name));
    metrics.delivery(DeliveryOutcome::Overflow, u64::try_from(dead).unwrap_or(0));
    metrics.delivery(DeliveryOutcome::Lost, u64::try_from(lost).unwrap_or(0));
    Ok(())
}
