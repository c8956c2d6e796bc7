//! Lets requests wait for the result of their event.
//!
//! # Guarantees
//!
//! - A request waits at most as long as it asked for, and at most [`MAX_RESULT_WAIT`].
//!   (`wait_timeout_is_answered_as_queued`)
//! - Waiters are bounded and hold no body. (`waiting_request_holds_no_body`)
//! - A waiter is registered before its event is queued, so no result comes too early. It is removed
//!   with its request. (`result_before_the_wait_is_not_missed`)
//! - A result that was published without a subscription is read later.
//!   (`result_published_without_a_subscriber_is_read`)
//! - A shutdown ends all waits at once. (`shutdown_ends_all_waits`)
//!
//! # Design
//!
//! One subscription serves all waiters of a replica, and nothing is polled. After a reconnect,
//! stored results are read. Each waiter reads once more when its time is up.

mod prefer;

pub use prefer::wait as preferred_wait;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_web::http::header::HeaderMap;
use futures_util::{StreamExt, stream};
use secrecy::SecretString;
use shared::metrics::WaiterMetrics;
use shared::platform::MAX_RESULT_WAIT;
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

/// Timeout of a waiter's final read.
const FINAL_READ_TIMEOUT: Duration = Duration::from_millis(500);
/// Timeout of a read after a reconnect.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(10);
/// Concurrent reads after a reconnect.
const MAX_CONCURRENT_READS: usize = 64;

/// All waiters of this replica; cheap to clone.
#[derive(Clone)]
pub(crate) struct WaiterRegistry {
    registry: Arc<WaiterRegistryInner>,
}

struct WaiterRegistryInner {
    channel: String,
    bound: usize,
    queue: Queue,
    stop: CancellationToken,
    slots: Mutex<WaiterSlots>,
    metrics: WaiterMetrics,
}

#[derive(Default)]
struct WaiterSlots {
    /// Waiters by platform and event. Several only while one is not yet known to be a duplicate.
    by_event: HashMap<String, Vec<WaiterSlot>>,
    count: usize,
    next_number: u64,
}

struct WaiterSlot {
    number: u64,
    target: Arc<IngestTarget>,
    /// `None` once the result was delivered.
    deliver: Option<oneshot::Sender<ReplyOutcome>>,
}

/// Registration of a waiting request; removed when dropped.
pub(crate) struct ResultWaiter {
    registry: Arc<WaiterRegistryInner>,
    target: Arc<IngestTarget>,
    event_id: String,
    number: u64,
    receiver: oneshot::Receiver<ReplyOutcome>,
    until: Instant,
    wait: Duration,
}

/// Names of platforms contain no colon.
fn key(platform: &str, event_id: &str) -> String {
    format!("{platform}:{event_id}")
}

impl WaiterRegistry {
    /// Creates a registry for at most `bound` waiters, until `stop`. Results arrive only after
    /// [`Self::listen`].
    pub(crate) fn new(queue: Queue, bound: usize, stop: CancellationToken) -> Self {
        let channel = reply_channel(Uuid::new_v4());
        let (slots, metrics) = (Mutex::default(), WaiterMetrics::new());
        Self {
            registry: Arc::new(WaiterRegistryInner { channel, bound, queue, stop, slots, metrics }),
        }
    }

    /// Subscribes to results until `stop`, on this runtime.
    ///
    /// # Errors
    /// `url` cannot be used.
    pub(crate) fn listen(
        &self,
        url: &SecretString,
        cluster: bool,
        stop: CancellationToken,
    ) -> Result<(), RedisUrlError> {
        let subscription = ChannelSubscription::new(url, cluster, self.registry.channel.clone())?;
        let registry = Arc::clone(&self.registry);
        tokio::spawn(subscription.run(stop, move |event| match event {
            SubscriptionEvent::Listening => drop(tokio::spawn(Arc::clone(&registry).catch_up())),
            SubscriptionEvent::Message(text) => match EventReply::decode(&text) {
                Ok(reply) => registry.deliver(reply),
                Err(error) => {
                    tracing::warn!(%error, "published message is not a result; ignoring it")
                }
            },
        }));
        Ok(())
    }

    /// Registers a waiter for the result of `events` if the sender or the definition asks for it,
    /// and marks the event. Otherwise returns `None`, also for a batch, for a paused platform, at
    /// the bound, and during a shutdown.
    pub(crate) fn register(
        &self,
        target: &Arc<IngestTarget>,
        headers: &HeaderMap,
        events: &mut Identified,
    ) -> Option<ResultWaiter> {
        let wait = match prefer::wait(headers) {
            Some(seconds) => Duration::from_secs(seconds).min(MAX_RESULT_WAIT),
            None => target.platform.wait?,
        };
        let Identified::One(event) = events else { return None };
        if wait.is_zero() || target.platform.paused || self.registry.stop.is_cancelled() {
            return None;
        }
        let waiter = self.registry.take_slot(target, &event.event_id, wait)?;
        event.reply_to = Some(self.registry.channel.clone());
        Some(waiter)
    }

    /// Delivers a result as if it had been published.
    #[cfg(test)]
    pub(crate) fn deliver(&self, reply: EventReply) {
        self.registry.deliver(reply);
    }

    /// Returns the number of waiters.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.registry.slots().count
    }
}

impl WaiterRegistryInner {
    fn slots(&self) -> MutexGuard<'_, WaiterSlots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_slot(
        self: &Arc<Self>,
        target: &Arc<IngestTarget>,
        event_id: &str,
        wait: Duration,
    ) -> Option<ResultWaiter> {
        let (deliver, receiver) = oneshot::channel();
        let mut slots = self.slots();
        if slots.count >= self.bound {
            return None;
        }
        slots.count += 1;
        slots.next_number += 1;
        let number = slots.next_number;
        let slot = WaiterSlot { number, target: Arc::clone(target), deliver: Some(deliver) };
        slots.by_event.entry(key(target.platform.name.as_str(), event_id)).or_default().push(slot);
        drop(slots);
        self.metrics.entered();
        Some(ResultWaiter {
            registry: Arc::clone(self),
            target: Arc::clone(target),
            event_id: event_id.to_owned(),
            number,
            receiver,
            until: Instant::now() + wait,
            wait,
        })
    }

    /// Delivers a result to all waiters of its event. They remove themselves.
    fn deliver(&self, reply: EventReply) {
        let mut slots = self.slots();
        let Some(waiting) = slots.by_event.get_mut(&key(&reply.platform, &reply.event_id)) else {
            return;
        };
        for deliver in waiting.iter_mut().filter_map(|slot| slot.deliver.take()) {
            // The waiter may be gone.
            let _ = deliver.send(reply.outcome.clone());
        }
    }

    fn leave(&self, platform: &str, event_id: &str, number: u64) {
        let key = key(platform, event_id);
        let mut slots = self.slots();
        if let Some(waiting) = slots.by_event.get_mut(&key) {
            waiting.retain(|slot| slot.number != number);
            if waiting.is_empty() {
                slots.by_event.remove(&key);
            }
            slots.count -= 1;
            self.metrics.left();
        }
    }

    /// Returns the stored result of an event, if any. Retries until Redis answers: after a restart,
    /// the old connection fails once.
    async fn stored(&self, target: &IngestTarget, event_id: &str) -> Option<EventReply> {
        loop {
            match self.queue.stored_reply(&target.queue, event_id).await {
                Ok(stored) => return stored,
                Err(fault) => {
                    tracing::debug!(
                        platform = %target.platform.name,
                        error = %fault.error(),
                        "cannot read the stored result; retrying"
                    );
                }
            }
            sleep(FAILURE_PAUSE).await;
        }
    }

    /// Reads results that were published without a subscription.
    async fn catch_up(self: Arc<Self>) {
        let waiting: Vec<(Arc<IngestTarget>, String)> = {
            let slots = self.slots();
            let event_id = |key: &str| {
                key.split_once(':').map_or(String::new(), |(_, event_id)| event_id.to_owned())
            };
            slots
                .by_event
                .iter()
                .filter_map(|(key, waiting)| {
                    Some((Arc::clone(&waiting.first()?.target), event_id(key)))
                })
                .collect()
        };
        let registry = &self;
        stream::iter(waiting)
            .for_each_concurrent(MAX_CONCURRENT_READS, async |(target, event_id)| {
                if let Ok(Some(reply)) =
                    timeout(CATCH_UP_TIMEOUT, registry.stored(&target, &event_id)).await
                {
                    registry.deliver(reply);
                }
            })
            .await;
    }
}

impl ResultWaiter {
    /// Returns the applied preference: `wait=N` in whole seconds.
    pub(crate) fn applied(&self) -> String {
        format!("wait={}", self.wait.as_millis().div_ceil(1000))
    }

    /// Waits for the result. `None`: it did not come in time, or this replica shuts down.
    pub(crate) async fn outcome(&mut self) -> Option<ReplyOutcome> {
        tokio::select! {
            biased;
            result = &mut self.receiver => result.ok(),
            () = self.registry.stop.cancelled() => None,
            () = sleep_until(self.until) => self.stored().await,
        }
    }

    /// Returns the stored result of the event, if any.
    pub(crate) async fn stored(&self) -> Option<ReplyOutcome> {
        let stored = self.registry.stored(&self.target, &self.event_id);
        timeout(FINAL_READ_TIMEOUT, stored).await.ok().flatten().map(|reply| reply.outcome)
    }
}

impl Drop for ResultWaiter {
    fn drop(&mut self) {
        self.registry.leave(self.target.platform.name.as_str(), &self.event_id, self.number);
    }
}

#[cfg(test)]
mod tests;
