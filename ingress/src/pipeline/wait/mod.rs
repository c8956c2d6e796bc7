//! Requests that wait for what becomes of their event.
//!
//! Guarantee: a request waits no longer than it was allowed to, at most [`LONGEST_WAIT`], and nobody's waiting is felt
//! by others: there is one subscription for all of a replica, nothing is polled, waiters are bounded, and they hold no
//! body. A waiter has its seat before its event is queued, so that no result is too early for it, and gives it up with
//! the request. Results that were published while the subscription was down are read when it is back, and each waiter
//! reads once more when its time is up. A stop ends all waiting at once.

mod prefer;

pub use prefer::wait as preferred_wait;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_web::http::header::HeaderMap;
use futures_util::{StreamExt, stream};
use secrecy::SecretString;
use shared::metrics::WaiterMetrics;
use shared::platform::LONGEST_WAIT;
use shared::queue::keys::reply_channel;
use shared::queue::{
    ChannelSubscription, EventReply, FAILURE_PAUSE, Queue, RedisUrlError, ReplyOutcome,
    SubscriptionEvent,
};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::identify::Identified;
use crate::targets::IngestTarget;

/// How long a waiter's last look may take.
const FINAL_READ_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a look may take when the subscription is back.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(10);
/// Results that are read at the same time when the subscription is back.
const MAX_CONCURRENT_READS: usize = 64;

/// Everybody who waits at this replica; cheap to clone.
#[derive(Clone)]
pub(crate) struct WaiterRegistry {
    room: Arc<WaiterRegistryInner>,
}

struct WaiterRegistryInner {
    channel: String,
    most: usize,
    queue: Queue,
    stop: CancellationToken,
    seats: Mutex<WaiterSlots>,
    metrics: WaiterMetrics,
}

#[derive(Default)]
struct WaiterSlots {
    /// By platform and event. Several only while one of them does not know yet that it is a duplicate.
    by_event: HashMap<String, Vec<WaiterSlot>>,
    taken: usize,
    numbers: u64,
}

struct WaiterSlot {
    number: u64,
    target: Arc<IngestTarget>,
    /// Nothing once it was told.
    tell: Option<oneshot::Sender<ReplyOutcome>>,
}

/// A request's place among those who wait, given up when it is dropped.
pub(crate) struct ResultWaiter {
    room: Arc<WaiterRegistryInner>,
    target: Arc<IngestTarget>,
    event_id: String,
    number: u64,
    told: oneshot::Receiver<ReplyOutcome>,
    until: Instant,
    wait: Duration,
}

/// No platform's name holds a colon.
fn key(platform: &str, event_id: &str) -> String {
    format!("{platform}:{event_id}")
}

impl WaiterRegistry {
    /// Seats for `most`, until `stop`. Nobody is told anything before [`Self::listen`].
    pub(crate) fn new(queue: Queue, most: usize, stop: CancellationToken) -> Self {
        let channel = reply_channel(Uuid::new_v4());
        let (seats, metrics) = (Mutex::default(), WaiterMetrics::new());
        Self { room: Arc::new(WaiterRegistryInner { channel, most, queue, stop, seats, metrics }) }
    }

    /// Listens for results until `stop`, on this runtime.
    ///
    /// # Errors
    /// When `url` can never connect.
    pub(crate) fn listen(
        &self,
        url: &SecretString,
        cluster: bool,
        stop: CancellationToken,
    ) -> Result<(), RedisUrlError> {
        let subscription = ChannelSubscription::new(url, cluster, self.room.channel.clone())?;
        let room = Arc::clone(&self.room);
        tokio::spawn(subscription.run(stop, move |heard| match heard {
            SubscriptionEvent::Listening => drop(tokio::spawn(Arc::clone(&room).catch_up())),
            SubscriptionEvent::Message(text) => match EventReply::decode(&text) {
                Ok(reply) => room.tell(reply),
                Err(error) => tracing::warn!(%error, "something else than a result was published to this replica"),
            },
        }));
        Ok(())
    }

    /// Takes a seat for the result of `events`, if the sender or the definition wants one, and says so in the event.
    /// `None`: nobody waits: not asked for, a batch, a paused platform, no seat left, or a stop.
    pub(crate) fn register(
        &self,
        target: &Arc<IngestTarget>,
        headers: &HeaderMap,
        events: &mut Identified,
    ) -> Option<ResultWaiter> {
        let wait = match prefer::wait(headers) {
            Some(seconds) => Duration::from_secs(seconds).min(LONGEST_WAIT),
            None => target.platform.wait?,
        };
        let Identified::One(event) = events else { return None };
        if wait.is_zero() || target.platform.paused || self.room.stop.is_cancelled() {
            return None;
        }
        let waiter = self.room.seat(target, &event.event_id, wait)?;
        event.reply_to = Some(self.room.channel.clone());
        Some(waiter)
    }

    /// What would have been published.
    #[cfg(test)]
    pub(crate) fn tell(&self, reply: EventReply) {
        self.room.tell(reply);
    }

    /// How many wait.
    #[cfg(test)]
    pub(crate) fn taken(&self) -> usize {
        self.room.seats().taken
    }
}

impl WaiterRegistryInner {
    fn seats(&self) -> MutexGuard<'_, WaiterSlots> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seat(
        self: &Arc<Self>,
        target: &Arc<IngestTarget>,
        event_id: &str,
        wait: Duration,
    ) -> Option<ResultWaiter> {
        let (tell, told) = oneshot::channel();
        let mut seats = self.seats();
        if seats.taken >= self.most {
            return None;
        }
        seats.taken += 1;
        seats.numbers += 1;
        let number = seats.numbers;
        let seat = WaiterSlot { number, target: Arc::clone(target), tell: Some(tell) };
        seats.by_event.entry(key(target.platform.name.as_str(), event_id)).or_default().push(seat);
        drop(seats);
        self.metrics.entered();
        Some(ResultWaiter {
            room: Arc::clone(self),
            target: Arc::clone(target),
            event_id: event_id.to_owned(),
            number,
            told,
            until: Instant::now() + wait,
            wait,
        })
    }

    /// Tells everybody who waits for this event. They leave their seats themselves.
    fn tell(&self, reply: EventReply) {
        let mut seats = self.seats();
        let Some(waiting) = seats.by_event.get_mut(&key(&reply.platform, &reply.event_id)) else {
            return;
        };
        for tell in waiting.iter_mut().filter_map(|seat| seat.tell.take()) {
            // Who has left meanwhile does not want to know.
            let _ = tell.send(reply.outcome.clone());
        }
    }

    fn leave(&self, platform: &str, event_id: &str, number: u64) {
        let key = key(platform, event_id);
        let mut seats = self.seats();
        if let Some(waiting) = seats.by_event.get_mut(&key) {
            waiting.retain(|seat| seat.number != number);
            if waiting.is_empty() {
                seats.by_event.remove(&key);
            }
            seats.taken -= 1;
            self.metrics.left();
        }
    }

    /// The result of an event, if one is kept. Asks until Redis answers: a connection that Redis's restart has left
    /// behind fails once before there is a new one.
    async fn stored(&self, target: &IngestTarget, event_id: &str) -> Option<EventReply> {
        loop {
            match self.queue.stored_reply(&target.queue, event_id).await {
                Ok(stored) => return stored,
                Err(fault) => {
                    tracing::debug!(platform = %target.platform.name, error = %fault.error(), "no result read");
                }
            }
            sleep(FAILURE_PAUSE).await;
        }
    }

    /// Reads what may have been published while nobody listened.
    async fn catch_up(self: Arc<Self>) {
        let waiting: Vec<(Arc<IngestTarget>, String)> = {
            let seats = self.seats();
            let event_id = |key: &str| {
                key.split_once(':').map_or(String::new(), |(_, event_id)| event_id.to_owned())
            };
            seats
                .by_event
                .iter()
                .filter_map(|(key, waiting)| {
                    Some((Arc::clone(&waiting.first()?.target), event_id(key)))
                })
                .collect()
        };
        let room = &self;
        stream::iter(waiting)
            .for_each_concurrent(MAX_CONCURRENT_READS, async |(target, event_id)| {
                if let Ok(Some(reply)) =
                    timeout(CATCH_UP_TIMEOUT, room.stored(&target, &event_id)).await
                {
                    room.tell(reply);
                }
            })
            .await;
    }
}

impl ResultWaiter {
    /// What is said to have been done: `wait=N`, in whole seconds.
    pub(crate) fn applied(&self) -> String {
        format!("wait={}", self.wait.as_millis().div_ceil(1000))
    }

    /// Waits for what becomes of the event. `None`: it is not known in time, or this replica stops.
    pub(crate) async fn outcome(&mut self) -> Option<ReplyOutcome> {
        tokio::select! {
            biased;
            told = &mut self.told => told.ok(),
            () = self.room.stop.cancelled() => None,
            () = sleep_until(self.until) => self.stored().await,
        }
    }

    /// What became of the event, if it was waited for before and is still kept.
    pub(crate) async fn stored(&self) -> Option<ReplyOutcome> {
        let look = self.room.stored(&self.target, &self.event_id);
        timeout(FINAL_READ_TIMEOUT, look).await.ok().flatten().map(|reply| reply.outcome)
    }
}

impl Drop for ResultWaiter {
    fn drop(&mut self) {
        self.room.leave(self.target.platform.name.as_str(), &self.event_id, self.number);
    }
}

#[cfg(test)]
mod tests;
