//! Deliveries: from a processed event to the queues of destinations, and the state that destinations share.
//!
//! Guarantee: a delivery that was answered [`EnqueuedDelivery`] is in the destination's queue, among its dead letters, or counted
//! as overflow (rule 16); asking again, because an answer was lost or a mover was killed, puts it nowhere twice within
//! [`DELIVERY_MARK_TTL`].

use std::time::Duration;

use redis::cmd;

use super::codec::array;
use super::consume::per_id_numbers;
use super::keys::{DESTINATIONS, DestinationKeys};
use super::script::optional;
use super::{CallError, KeyLayout, MAX_BATCH_BYTES, PlatformKeys, Queue};
use crate::event::{Millis, StreamId, WIRE_VERSION};
use crate::outbound::pause::MAX_PAUSE;
use crate::outbound::{DeliveryLimit, DestinationName};
use crate::platform::PlatformName;

/// How long a queued delivery is remembered: many times the span after which an event's holder is taken for dead.
pub const DELIVERY_MARK_TTL: Duration = Duration::from_secs(600);
/// Most deliveries in one call, and so many bytes of them ([`MAX_BATCH_BYTES`]) that one never keeps Redis busy for long, or
/// takes longer than its answer is waited for: it would be made again for ever.
const MAX_DELIVERIES_PER_CALL: usize = 64;
/// Pauses of a busy destination: at least this,
const MIN_BUSY_PAUSE: Duration = Duration::from_millis(250);
/// and, where it does not say how long, from this, doubling,
const FIRST_BUSY_PAUSE: Duration = Duration::from_secs(1);
/// up to this.
const MAX_DEFAULT_BUSY_PAUSE: Duration = Duration::from_secs(60);
/// Fields of the state that tell of a busy destination.
const BUSY_FIELDS: [&str; 3] = ["busy_since", "busy_until", "busy_rounds"];
/// Longest text of a last error.
const MAX_ERROR_CHARS: usize = 500;

/// A delivery to be queued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDelivery {
    /// Its id, a UUID.
    pub id: String,
    /// The event's type.
    pub event_type: String,
    /// The event's time.
    pub occurred_at: Millis,
    /// The event's origin.
    pub origin: StreamId,
    /// The standard payload.
    pub body: String,
    /// How often the event was passed on from one Tributary to the next before.
    pub hops: u32,
    /// W3C trace context of the event's request, if any.
    pub traceparent: Option<String>,
}

/// What became of a delivery that was to be queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnqueuedDelivery {
    /// It is queued.
    Queued,
    /// It was before.
    AlreadyQueued,
    /// Too many were waiting: it is a dead letter.
    DeadLettered,
    /// Too many were waiting, and too many are dead: it is counted, and gone.
    Overflowed,
}

/// Leave to make one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryPermit {
    /// Now.
    Now,
    /// Not before this, by the rate limit.
    Limited(Duration),
    /// Not before this: the destination is busy.
    Busy(Duration),
    /// Not before an operator lets it go on.
    Paused,
    /// Never: it answered 410.
    Gone,
}

/// Pause of a busy destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusyPause {
    /// Time from now in which nothing is sent.
    pub pause: Duration,
    /// Time since the first busy answer after the last success.
    pub busy: Duration,
    /// True if it was not paused before.
    pub begins: bool,
}

/// What the workers and operators know of a destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DestinationState {
    /// An operator holds it back, or lets it go on, whatever its definition says.
    pub paused: Option<bool>,
    /// It answered 410: nothing is sent until an operator resumes it.
    pub gone: bool,
    /// `open`, `half-open` or `closed`, as the worker that noted it last saw it.
    pub circuit: Option<String>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// When, by Redis's clock.
    pub last_error_at: Option<Millis>,
    /// Time until which it asked to be left alone, by Redis's clock.
    pub busy_until: Option<Millis>,
    /// Its first busy answer since the last success.
    pub busy_since: Option<Millis>,
    /// Deliveries that were lost because queue and dead letters were full.
    pub overflow: u64,
    /// The first of them.
    pub overflow_first: Option<String>,
    /// The last.
    pub overflow_last: Option<String>,
}

impl Queue {
    /// Queues deliveries to one destination, at most `bound` waiting and at most `max_dead` dead letters.
    ///
    /// # Errors
    /// When Redis did not answer or is full. Ask again for all of them.
    pub async fn enqueue_deliveries(
        &self,
        keys: &DestinationKeys,
        deliveries: &[NewDelivery],
        bound: u64,
        max_dead: u64,
    ) -> Result<Vec<EnqueuedDelivery>, CallError> {
        let indexed = self.layout == KeyLayout::Single;
        if !indexed && let Some(name) = keys.queue.platform.destination() {
            self.note_destination_queue(name).await?;
        }
        let mut outcomes = Vec::with_capacity(deliveries.len());
        let mut rest = deliveries;
        while !rest.is_empty() {
            let (chunk, others) = rest.split_at(call_size(rest));
            rest = others;
            let queue = &keys.queue;
            let mut names = vec![
                queue.incoming.clone(),
                queue.dlq.clone(),
                keys.state.clone(),
                queue.counters.clone(),
            ];
            if indexed {
                names.push(DESTINATIONS.to_owned());
            }
            names.extend(chunk.iter().map(|delivery| keys.forwarded(&delivery.id)));
            let bytes: usize = chunk.iter().map(|delivery| delivery.body.len() + 256).sum();
            let mut call = self.scripts.enqueue_deliveries.call(&names, bytes);
            call.arg(bound).arg(max_dead).arg(WIRE_VERSION);
            optional(&mut call, indexed.then(|| queue.platform.destination()).flatten());
            call.arg(DELIVERY_MARK_TTL.as_secs());
            for delivery in chunk {
                call.arg(&delivery.id).arg(&delivery.event_type).arg(delivery.occurred_at);
                call.arg(delivery.origin.to_string()).arg(&delivery.body).arg(delivery.hops);
                optional(&mut call, delivery.traceparent.as_deref());
            }
            let reply = self.scripts.enqueue_deliveries.run(&self.connection, &call).await?;
            for code in per_id_numbers(reply, chunk.len())? {
                outcomes.push(match code {
                    0 => EnqueuedDelivery::Queued,
                    1 => EnqueuedDelivery::AlreadyQueued,
                    2 => EnqueuedDelivery::DeadLettered,
                    3 => EnqueuedDelivery::Overflowed,
                    _ => return Err(CallError::unexpected_reply("an outcome expected")),
                });
            }
        }
        Ok(outcomes)
    }

    /// Asks for leave to make one delivery.
    ///
    /// # Errors
    /// When Redis did not answer.
    pub async fn acquire_delivery_permit(
        &self,
        keys: &DestinationKeys,
        limit: DeliveryLimit,
    ) -> Result<DeliveryPermit, CallError> {
        let window_us = u64::try_from(limit.window.as_micros()).unwrap_or(u64::MAX);
        let mut call =
            self.scripts.acquire_delivery_permit.call(&[&keys.queue.limit, &keys.state], 32);
        call.arg((window_us / u64::from(limit.max.max(1))).max(1)).arg(limit.max.max(1));
        let reply = self.scripts.acquire_delivery_permit.run(&self.connection, &call).await?;
        let [what, wait] = array(reply)?;
        let wait = Duration::from_millis(self.number(wait)?);
        Ok(match self.number(what)? {
            0 => DeliveryPermit::Now,
            1 => DeliveryPermit::Limited(wait),
            2 => DeliveryPermit::Busy(wait),
            3 => DeliveryPermit::Paused,
            4 => DeliveryPermit::Gone,
            _ => return Err(CallError::unexpected_reply("a pace expected")),
        })
    }

    /// Notes that the destination is busy, and for how long it asked to be left alone.
    ///
    /// # Errors
    /// If Redis did not answer. Calling again is safe.
    pub async fn hold_destination(
        &self,
        keys: &DestinationKeys,
        asked: Option<Duration>,
    ) -> Result<BusyPause, CallError> {
        let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let script = &self.scripts.hold_destination;
        let mut call = script.call(&[&keys.state], 64);
        optional(&mut call, asked.map(ms));
        call.arg(ms(MIN_BUSY_PAUSE))
            .arg(ms(MAX_PAUSE))
            .arg(ms(FIRST_BUSY_PAUSE))
            .arg(ms(MAX_DEFAULT_BUSY_PAUSE));
        let [pause, busy, begins] = array(script.run(&self.connection, &call).await?)?;
        Ok(BusyPause {
            pause: Duration::from_millis(self.number(pause)?),
            busy: Duration::from_millis(self.number(busy)?),
            begins: self.number(begins)? == 1,
        })
    }

    /// Notes that a busy destination took a delivery. A pause goes on to its end.
    ///
    /// # Errors
    /// If Redis did not answer.
    pub async fn note_not_busy(&self, keys: &DestinationKeys) -> Result<(), CallError> {
        let mut forget = cmd("HDEL");
        forget.arg(&keys.state).arg(&["busy_since", "busy_rounds"]);
        self.connection.run(&forget).await.map(drop)
    }

    /// What is known of a destination.
    ///
    /// # Errors
    /// When Redis did not answer.
    pub async fn destination_state(
        &self,
        keys: &DestinationKeys,
    ) -> Result<DestinationState, CallError> {
        let mut get = cmd("HGETALL");
        get.arg(&keys.state);
        let fields: std::collections::HashMap<String, String> =
            redis::from_redis_value(self.connection.run(&get).await?)
                .map_err(|error| CallError::Unknown(error.into()))?;
        let text = |name: &str| fields.get(name).filter(|text| !text.is_empty()).cloned();
        let number = |name: &str| fields.get(name).and_then(|text| text.parse().ok());
        Ok(DestinationState {
            paused: text("paused").map(|paused| paused == "1"),
            gone: text("gone").is_some(),
            circuit: text("circuit"),
            last_error: text("last_error"),
            last_error_at: fields.get("last_error_at").and_then(|text| text.parse().ok()),
            busy_until: fields.get("busy_until").and_then(|text| text.parse().ok()),
            busy_since: fields.get("busy_since").and_then(|text| text.parse().ok()),
            overflow: number("overflow").unwrap_or(0),
            overflow_first: text("overflow_first"),
            overflow_last: text("overflow_last"),
        })
    }

    /// Holds a destination back, or lets it go on: also one that had answered 410 or that is busy, and whose overflow is
    /// seen by then.
    ///
    /// # Errors
    /// When Redis did not answer.
    pub async fn pause_destination(
        &self,
        keys: &DestinationKeys,
        paused: bool,
    ) -> Result<(), CallError> {
        self.set_state(keys, &[("paused", if paused { "1" } else { "0" })]).await?;
        if paused {
            return Ok(());
        }
        let mut forget = cmd("HDEL");
        forget.arg(&keys.state).arg("gone").arg(&BUSY_FIELDS);
        self.connection.run(&forget).await?;
        self.forget_overflow(keys).await
    }

    /// Forgets what was lost because a queue and its dead letters were full: an operator has seen it.
    ///
    /// # Errors
    /// If Redis did not answer. Calling again is safe.
    pub async fn forget_overflow(&self, keys: &DestinationKeys) -> Result<(), CallError> {
        let mut forget = cmd("HDEL");
        forget.arg(&keys.state).arg(&["overflow", "overflow_first", "overflow_last"]);
        self.connection.run(&forget).await.map(drop)
    }

    /// Notes that the destination answered 410.
    ///
    /// # Errors
    /// When Redis did not answer.
    pub async fn note_gone(&self, keys: &DestinationKeys) -> Result<(), CallError> {
        self.set_state(keys, &[("gone", "1")]).await
    }

    /// Notes the state of the circuit as this worker sees it.
    ///
    /// # Errors
    /// When Redis did not answer.
    pub async fn note_circuit(
        &self,
        keys: &DestinationKeys,
        circuit: &str,
    ) -> Result<(), CallError> {
        self.set_state(keys, &[("circuit", circuit)]).await
    }

    /// Notes what went wrong last; cut to 500 characters.
    ///
    /// # Errors
    /// When Redis did not answer.
    pub async fn note_error(
        &self,
        keys: &DestinationKeys,
        error: &str,
        at: Millis,
    ) -> Result<(), CallError> {
        let error: String = error.chars().take(MAX_ERROR_CHARS).collect();
        self.set_state(keys, &[("last_error", &error), ("last_error_at", &at.to_string())]).await
    }

    /// Lists the queue `out:<name>` among those that hold something.
    pub(super) async fn note_destination_queue(&self, name: &str) -> Result<(), CallError> {
        let mut add = cmd("SADD");
        add.arg(DESTINATIONS).arg(name);
        self.connection.run(&add).await.map(drop)
    }

    async fn set_state(
        &self,
        keys: &DestinationKeys,
        facts: &[(&str, &str)],
    ) -> Result<(), CallError> {
        let mut set = cmd("HSET");
        set.arg(&keys.state);
        for (field, value) in facts {
            set.arg(field).arg(value);
        }
        self.connection.run(&set).await.map(drop)
    }

    /// Every queue that ever held something: those of platforms, and those of destinations (`out:…`).
    ///
    /// # Errors
    /// When Redis did not answer.
    pub async fn queues(&self) -> Result<Vec<PlatformName>, CallError> {
        let mut queues = self.platforms().await?;
        let destinations = self.destination_queues().await?;
        let destinations = destinations.into_iter().map(|name| name.queue().clone());
        queues.extend(destinations);
        Ok(queues)
    }

    /// Unfinished entries of a queue; none if its key is no stream.
    ///
    /// # Errors
    /// If Redis did not answer.
    pub async fn waiting(&self, keys: &PlatformKeys) -> Result<u64, CallError> {
        match self.depth(keys).await {
            Ok(depth) => Ok(depth.length),
            Err(fault) if fault.is_wrong_type() => Ok(0),
            Err(fault) => Err(fault),
        }
    }

    /// Queues that ever held a delivery, in the order of their names.
    ///
    /// # Errors
    /// If Redis did not answer.
    pub async fn destination_queues(&self) -> Result<Vec<DestinationName>, CallError> {
        let mut members = cmd("SMEMBERS");
        members.arg(DESTINATIONS);
        let reply = self.connection.run(&members).await?;
        let names: Vec<String> =
            redis::from_redis_value(reply).map_err(|error| CallError::Unknown(error.into()))?;
        let mut queues: Vec<_> =
            names.iter().filter_map(|name| DestinationName::new(name).ok()).collect();
        queues.sort();
        Ok(queues)
    }
}

/// How many of the first of `deliveries` go into one call; at least one.
fn call_size(deliveries: &[NewDelivery]) -> usize {
    let mut bytes = 0_usize;
    let fits = |delivery: &&NewDelivery| {
        bytes += delivery.body.len();
        bytes <= MAX_BATCH_BYTES
    };
    deliveries.iter().take(MAX_DELIVERIES_PER_CALL).take_while(fits).count().max(1)
}
