//! Listening to a channel of Redis.
//!
//! Guarantee: a [`ChannelSubscription`] is never stuck and never gives up: a peer that closes, or that has not answered a ping
//! for [`RESPONSE_TIMEOUT`], is left, and it connects anew, for as long as it is wanted. It says whenever it begins to
//! listen, since what is published while it does not reaches nobody. In a cluster every node passes on what is published at
//! any, so one of them is listened to, another one after each failure.

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

/// Pause between two pings.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// Longest pause between two tries to connect.
const MAX_RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// What a listener hears.
#[derive(Debug)]
pub enum SubscriptionEvent {
    /// From now on nothing is missed until the connection fails; what was published before may have been.
    Listening,
    /// Something was published.
    Message(Vec<u8>),
}

/// A channel to listen to, on a connection of its own.
#[derive(Debug)]
pub struct ChannelSubscription {
    targets: SubscriptionTargets,
    channel: String,
}

impl ChannelSubscription {
    /// Prepares to listen; nothing is sent before [`Self::run`].
    ///
    /// # Errors
    /// As [`super::connect`].
    pub fn new(url: &SecretString, cluster: bool, channel: String) -> Result<Self, RedisUrlError> {
        Ok(Self { targets: SubscriptionTargets::new(url, cluster)?, channel })
    }

    /// Listens until `stop`. `heard` must not block.
    pub async fn run(self, stop: CancellationToken, mut heard: impl FnMut(SubscriptionEvent)) {
        let backoff = Backoff::new(FAILURE_PAUSE, MAX_RECONNECT_PAUSE);
        let (mut failures, mut turn) = (0, rand::random_range(0..usize::from(u16::MAX)));
        loop {
            let mut listening = false;
            let told = |what| {
                listening |= matches!(what, SubscriptionEvent::Listening);
                heard(what);
            };
            let Some(error) = stop.run_until_cancelled(self.listen(turn, told)).await else {
                return;
            };
            self.targets.refresh();
            turn += 1;
            if listening {
                failures = 0;
            }
            failures += 1;
            // Every retry while Redis is away would be one line too many.
            if listening || failures == 2 {
                tracing::warn!(%error, "not listening for results; trying again");
            }
            let pause = backoff.delay(failures, &mut rand::rng());
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// Listens until the connection fails; to which node of a cluster is decided by `turn`.
    async fn listen(&self, turn: usize, mut heard: impl FnMut(SubscriptionEvent)) -> RedisError {
        let clients = self.targets.clients().await;
        let Some(client) = clients.get(turn % clients.len().max(1)) else {
            return lost("there is no node");
        };
        let subscribe = async {
            let mut connection = client.get_async_pubsub().await?;
            connection.subscribe(&self.channel).await?;
            Ok(connection)
        };
        let connection = match timeout(CONNECT_TIMEOUT + RESPONSE_TIMEOUT, subscribe).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return error,
            Err(_) => return lost("it took too long to subscribe"),
        };
        heard(SubscriptionEvent::Listening);
        let (mut sink, mut messages) = connection.split();
        let mut pings = interval(PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = messages.next() => match message {
                    Some(message) => heard(SubscriptionEvent::Message(message.get_payload_bytes().to_vec())),
                    None => return lost("the connection was closed"),
                },
                _ = pings.tick() => match timeout(RESPONSE_TIMEOUT, sink.ping::<Value>()).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => return error,
                    Err(_) => return lost("a ping was not answered"),
                },
            }
        }
    }
}

fn lost(why: &'static str) -> RedisError {
    (ErrorKind::Io, why).into()
}
