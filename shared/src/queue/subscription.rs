//! Subscription to a pub/sub channel of Redis.
//!
//! # Guarantees
//!
//! - A subscription reconnects for as long as it is wanted (`subscription_reconnects`).
//!
//! # Design
//!
//! A peer that closes, or that does not answer a ping within [`RESPONSE_TIMEOUT`], is left.
//! Messages published while the subscription is down reach no subscriber, so every start of
//! listening is reported.
//!
//! On a cluster every node forwards messages published at any node. The subscription uses one node,
//! and another one after each failure.

use std::time::Duration;

use futures_util::StreamExt;
use redis::{ErrorKind, RedisError, Value};
use secrecy::SecretString;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::connection::{
    CONNECT_TIMEOUT, FAILURE_PAUSE, RESPONSE_TIMEOUT, RedisUrlError, SubscriptionTargets,
};
use crate::backoff::Backoff;

/// Time between two pings.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// Longest pause between two attempts to connect.
const MAX_RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// Event of a subscription.
#[derive(Debug)]
pub enum SubscriptionEvent {
    /// Listening has begun: no message is missed until the connection fails. Earlier messages may
    /// have been missed.
    Listening,
    /// Published message.
    Message(Vec<u8>),
}

/// Subscription to one channel, on a connection of its own.
#[derive(Debug)]
pub struct ChannelSubscription {
    targets: SubscriptionTargets,
    channel: String,
}

impl ChannelSubscription {
    /// Prepares a subscription; sends nothing before [`Self::run`].
    ///
    /// # Errors
    /// As [`super::connect`].
    pub fn new(url: &SecretString, cluster: bool, channel: String) -> Result<Self, RedisUrlError> {
        Ok(Self { targets: SubscriptionTargets::new(url, cluster)?, channel })
    }

    /// Listens until `stop` and passes events to `on_event`, which must not block.
    pub async fn run(self, stop: CancellationToken, mut on_event: impl FnMut(SubscriptionEvent)) {
        let backoff = Backoff::new(FAILURE_PAUSE, MAX_RECONNECT_PAUSE);
        let (mut failures, mut turn) = (0, rand::random_range(0..usize::from(u16::MAX)));
        loop {
            let mut listening = false;
            let observe = |event| {
                listening |= matches!(event, SubscriptionEvent::Listening);
                on_event(event);
            };
            let Some(error) = stop.run_until_cancelled(self.listen(turn, observe)).await else {
                return;
            };
            self.targets.refresh();
            turn += 1;
            if listening {
                failures = 0;
            }
            failures += 1;
            // Only the first failure and the end of an outage are worth a line, not every retry.
            if listening || failures == 2 {
                tracing::warn!(%error, "result subscription is down; reconnecting");
            }
            let pause = backoff.delay(failures, &mut rand::rng());
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// Listens until the connection fails. `turn` selects the node of a cluster.
    async fn listen(&self, turn: usize, mut on_event: impl FnMut(SubscriptionEvent)) -> RedisError {
        let clients = self.targets.clients().await;
        let Some(client) = clients.get(turn % clients.len().max(1)) else {
            return connection_error("no node to connect to");
        };
        let subscribe = async {
            let mut connection = client.get_async_pubsub().await?;
            connection.subscribe(&self.channel).await?;
            Ok(connection)
        };
        let connection = match timeout(CONNECT_TIMEOUT + RESPONSE_TIMEOUT, subscribe).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return error,
            Err(_) => return connection_error("subscribing timed out"),
        };
        on_event(SubscriptionEvent::Listening);
        let (mut sink, mut messages) = connection.split();
        let mut pings = interval(PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = messages.next() => match message {
                    Some(message) => {
                        let payload = message.get_payload_bytes().to_vec();
                        on_event(SubscriptionEvent::Message(payload));
                    }
                    None => return connection_error("the connection was closed"),
                },
                _ = pings.tick() => match timeout(RESPONSE_TIMEOUT, sink.ping::<Value>()).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => return error,
                    Err(_) => return connection_error("a ping was not answered"),
                },
            }
        }
    }
}

fn connection_error(reason: &'static str) -> RedisError {
    (ErrorKind::Io, reason).into()
}
