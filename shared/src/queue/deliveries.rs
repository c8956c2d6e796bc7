//! Deliveries: enqueueing to destinations, rate limits, and the state that all workers share.
//!
//! # Guarantees
//!
//! - An enqueued delivery is in the destination's queue, a dead letter, or counted as overflow
//!   (`delivery_beyond_the_bound_is_dead_lettered_then_counted`).
//! - Enqueueing a delivery again within [`DELIVERY_MARK_TTL`], after a lost reply or a crash,
//!   creates no second one (`delivery_is_queued_once_like_an_event`).
//! - A destination's rate limit holds across all workers (`delivery_limit_is_exact`).
//! - A busy destination is left alone by all workers
//!   (`busy_destination_gets_no_permit_from_any_worker`).
//! - A damaged key of one destination delays no other
//!   (`destination_queue_of_wrong_type_fails_no_other`).

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

/// Lifetime of a delivery's mark: many times the idle time after which an event's holder counts as
/// dead.
pub const DELIVERY_MARK_TTL: Duration = Duration::from_secs(600);
/// Maximum number of deliveries in a call. With [`MAX_BATCH_BYTES`] this bounds the call, so that
/// Redis is not blocked and answers before the timeout; otherwise the call would be repeated
/// forever.
const MAX_DELIVERIES_PER_CALL: usize = 64;
/// Shortest pause of a busy destination.
const MIN_BUSY_PAUSE: Duration = Duration::from_millis(250);
/// First pause of a busy destination that names none; it doubles with each further pause.
const FIRST_BUSY_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause of a busy destination that names none.
const MAX_DEFAULT_BUSY_PAUSE: Duration = Duration::from_secs(60);
/// Fields of the state that describe a busy destination.
const BUSY_FIELDS: [&str; 3] = ["busy_since", "busy_until", "busy_rounds"];
/// Maximum length of the last error, in characters.
const MAX_ERROR_CHARS: usize = 500;

/// Delivery to enqueue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDelivery {
    /// Id, a UUID.
    pub id: String,
    /// Type of the event.
    pub event_type: String,
    /// Time of the event.
    pub occurred_at: Millis,
    /// Origin of the event.
    pub origin: StreamId,
    /// Standard payload.
    pub body: String,
    /// Number of Tributary instances that the event has passed before.
    pub hops: u32,
    /// W3C trace context of the event's request, if any.
    pub traceparent: Option<String>,
}

/// Outcome of enqueueing a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnqueuedDelivery {
    /// The delivery is queued.
    Queued,
    /// The delivery was queued before.
    AlreadyQueued,
    /// The queue is at its bound, so the delivery is a dead letter.
    DeadLettered,
    /// Queue and dead letters are at their bounds, so the delivery is only counted.
    Overflowed,
}

/// Permission to make one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryPermit {
    /// The delivery may be made now.
    Now,
    /// Time to wait because of the rate limit.
    Limited(Duration),
    /// Time to wait because the destination is busy.
    Busy(Duration),
    /// An operator paused the destination.
    Paused,
    /// The destination answered 410, so the delivery is abandoned.
    Gone,
}

/// Pause of a busy destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusyPause {
    /// Time from now during which nothing is sent.
    pub pause: Duration,
    /// Time since the first busy answer after the last success.
    pub busy: Duration,
    /// True if the destination was not paused before.
    pub begins: bool,
}

/// State of a destination, shared by workers and operators.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DestinationState {
    /// Pause set by an operator, which overrides the definition.
    pub paused: Option<bool>,
    /// True if the destination answered 410; nothing is sent until an operator resumes it.
    pub gone: bool,
    /// `open`, `half-open` or `closed`, as last noted by a worker.
    pub circuit: Option<String>,
    /// Last error.
    pub last_error: Option<String>,
    /// Time of the last error, by Redis's clock.
    pub last_error_at: Option<Millis>,
    /// End of the pause that the destination requested, by Redis's clock.
    pub busy_until: Option<Millis>,
    /// Time of the first busy answer since the last success.
    pub busy_since: Option<Millis>,
    /// Deliveries lost because queue and dead letters were full.
    pub overflow: u64,
    /// Id of the first of them.
    pub overflow_first: Option<String>,
    /// Id of the last of them.
    pub overflow_last: Option<String>,
}

impl Queue {
    /// Enqueues deliveries to one destination. At most `bound` may wait, and at most `max_dead` may
    /// be dead letters.
    ///
    /// # Errors
    /// If Redis does not answer or is full. Enqueue all of them again.
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

    /// Requests permission for one delivery.
    ///
    /// # Errors
    /// If Redis does not answer.
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
        let [outcome, wait] = array(reply)?;
        let wait = Duration::from_millis(self.number(wait)?);
        Ok(match self.number(outcome)? {
            0 => DeliveryPermit::Now,
            1 => DeliveryPermit::Limited(wait),
            2 => DeliveryPermit::Busy(wait),
            3 => DeliveryPermit::Paused,
            4 => DeliveryPermit::Gone,
            _ => return Err(CallError::unexpected_reply("a delivery permit expected")),
        })
    }

    /// Records that the destination is busy, and the pause that it requested.
    ///
    /// # Errors
    /// If Redis does not answer. Calling again is safe.
    pub async fn hold_destination(
        &self,
        keys: &DestinationKeys,
        requested: Option<Duration>,
    ) -> Result<BusyPause, CallError> {
        let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let script = &self.scripts.hold_destination;
        let mut call = script.call(&[&keys.state], 64);
        optional(&mut call, requested.map(ms));
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

    /// Records that a busy destination accepted a delivery. A running pause is not cut short.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn note_not_busy(&self, keys: &DestinationKeys) -> Result<(), CallError> {
        let mut forget = cmd("HDEL");
        forget.arg(&keys.state).arg(&["busy_since", "busy_rounds"]);
        self.connection.run(&forget).await.map(drop)
    }

    /// Fetches the state of a destination.
    ///
    /// # Errors
    /// If Redis does not answer.
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

    /// Pauses or resumes a destination. Resuming also ends a 410 and a busy pause, and clears the
    /// overflow, which the operator has seen by then.
    ///
    /// # Errors
    /// If Redis does not answer.
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

    /// Clears the count of lost deliveries, after an operator has seen it.
    ///
    /// # Errors
    /// If Redis does not answer. Calling again is safe.
    pub async fn forget_overflow(&self, keys: &DestinationKeys) -> Result<(), CallError> {
        let mut forget = cmd("HDEL");
        forget.arg(&keys.state).arg(&["overflow", "overflow_first", "overflow_last"]);
        self.connection.run(&forget).await.map(drop)
    }

    /// Records that the destination answered 410.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn note_gone(&self, keys: &DestinationKeys) -> Result<(), CallError> {
        self.set_state(keys, &[("gone", "1")]).await
    }

    /// Records the state of the circuit breaker in this worker.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn note_circuit(
        &self,
        keys: &DestinationKeys,
        circuit: &str,
    ) -> Result<(), CallError> {
        self.set_state(keys, &[("circuit", circuit)]).await
    }

    /// Records the last error, cut to 500 characters.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn note_error(
        &self,
        keys: &DestinationKeys,
        error: &str,
        at: Millis,
    ) -> Result<(), CallError> {
        let error: String = error.chars().take(MAX_ERROR_CHARS).collect();
        self.set_state(keys, &[("last_error", &error), ("last_error_at", &at.to_string())]).await
    }

    /// Adds the queue `out:<name>` to the set of destinations' queues.
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

    /// Every queue that ever held an entry: those of platforms and those of destinations (`out:…`).
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn queues(&self) -> Result<Vec<PlatformName>, CallError> {
        let mut queues = self.platforms().await?;
        let destinations = self.destination_queues().await?;
        let destinations = destinations.into_iter().map(|name| name.queue().clone());
        queues.extend(destinations);
        Ok(queues)
    }

    /// Number of unfinished entries in a queue; 0 if its key is not a stream.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn waiting(&self, keys: &PlatformKeys) -> Result<u64, CallError> {
        match self.depth(keys).await {
            Ok(depth) => Ok(depth.length),
            Err(fault) if fault.is_wrong_type() => Ok(0),
            Err(fault) => Err(fault),
        }
    }

    /// Queues that ever held a delivery, sorted by name.
    ///
    /// # Errors
    /// If Redis does not answer.
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

/// Number of `deliveries` that go into the next call; at least one.
fn call_size(deliveries: &[NewDelivery]) -> usize {
    let mut bytes = 0_usize;
    let fits = |delivery: &&NewDelivery| {
        bytes += delivery.body.len();
        bytes <= MAX_BATCH_BYTES
    };
    deliveries.iter().take(MAX_DELIVERIES_PER_CALL).take_while(fits).count().max(1)
}
