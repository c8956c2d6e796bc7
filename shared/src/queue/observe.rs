//! What can be said about the queue without touching it, and what is noted about Redis as a whole.
//!
//! Guarantee: reading costs the same however long the streams are.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::{Value, cmd};

use super::codec::array;
use super::keys::{GROUP, META, PLATFORMS};
use super::{CallError, Durability, KeyLayout, PlatformKeys, Queue};
use crate::event::{Millis, StreamId, marker_digest};
use crate::platform::PlatformName;

/// How long a platform counts as announced: Redis may have been emptied, or have lost it in a failover.
const INDEX_CACHE_TTL: Duration = Duration::from_secs(30);

/// Platforms that are in the index, and when that was last seen to.
#[derive(Debug, Default)]
pub(super) struct PlatformIndexCache(Mutex<HashMap<PlatformName, Instant>>);

impl PlatformIndexCache {
    fn lock(&self) -> MutexGuard<'_, HashMap<PlatformName, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How much of a platform is where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Entries of the stream: all unfinished events.
    pub length: u64,
    /// Delivered, not finished.
    pub pending: u64,
    /// In the retry set.
    pub retrying: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Not delivered yet: length less pending and retrying, never below 0.
    pub backlog: u64,
    /// Redis's time of this look.
    pub now: Millis,
    /// When the oldest of the unfinished events was queued that wait for no retry: the first pending or the first
    /// undelivered one.
    pub oldest_received_at: Option<Millis>,
    /// When the first entry of the stream was queued, waiting for a retry or not.
    pub head_received_at: Option<Millis>,
}

impl Depth {
    /// Age of the oldest unfinished event that waits for no retry, in milliseconds.
    #[must_use]
    pub fn oldest_age_ms(&self) -> Option<u64> {
        self.oldest_received_at.map(|at| u64::try_from(self.now.saturating_sub(at)).unwrap_or(0))
    }
}

/// Where an event is that is not in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnfinishedState {
    /// Queued, and not put off so far (since it was replayed, if it was).
    Pending,
    /// Put off at least once; it may be executed at this moment.
    Retrying,
    /// Among the dead letters, under this id.
    Dead(StreamId),
}

/// A Redis of another kind than is configured: it must not be written to (rule 12).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedisLayoutError {
    /// `cluster_enabled` is not what `REDIS_CLUSTER` says.
    #[error("REDIS_CLUSTER: is {configured}, but Redis says cluster_enabled={}", !configured)]
    Cluster {
        /// What is configured.
        configured: bool,
    },
    /// It holds keys that are spelled in another way.
    #[error("REDIS_CLUSTER: the keys in this Redis are laid out for {found}, not for {configured}")]
    KeyLayout {
        /// What is configured.
        configured: &'static str,
        /// What Redis holds.
        found: String,
    },
}

impl Queue {
    /// Why this Redis is not the one that is configured, if it is not. Changes nothing.
    ///
    /// # Errors
    /// When Redis did not answer.
    pub async fn layout_error(&self) -> Result<Option<RedisLayoutError>, CallError> {
        let configured = self.layout == KeyLayout::Cluster;
        let settings = Durability::read(&self.connection).await?;
        if settings.cluster_enabled.is_some_and(|found| found != configured) {
            return Ok(Some(RedisLayoutError::Cluster { configured }));
        }
        let configured = self.layout.as_str();
        let found = self.meta("layout").await?.filter(|found| found != configured);
        Ok(found.map(|found| RedisLayoutError::KeyLayout {
            configured,
            found: found.chars().take(32).collect(),
        }))
    }

    /// Where the event `event_id` is, as far as Redis knows. `None`: it knows nothing of it, so it is finished, or never
    /// came. [`UnfinishedState::Pending`] is also said of what is finished, for as long as it is remembered as a duplicate:
    /// ask the ledger first, and once more after `None`.
    ///
    /// # Errors
    /// When Redis did not answer.
    pub async fn unfinished(
        &self,
        keys: &PlatformKeys,
        event_id: &str,
    ) -> Result<Option<UnfinishedState>, CallError> {
        let marker = keys.marker(&marker_digest(keys.platform.as_str(), event_id));
        let mut look = redis::pipe();
        look.cmd("HGET").arg(&keys.exceptions).arg(event_id);
        look.cmd("EXISTS").arg(marker);
        let (exception, marked): (Option<String>, bool) = self.connection.pipeline(&look).await?;
        let known = match exception.as_deref() {
            Some("retrying") => Some(UnfinishedState::Retrying),
            Some("pending") => Some(UnfinishedState::Pending),
            Some(other) => other
                .strip_prefix("dead:")
                .and_then(|id| id.parse().ok())
                .map(UnfinishedState::Dead),
            None => None,
        };
        Ok(known.or(marked.then_some(UnfinishedState::Pending)))
    }

    /// Looks at one platform. A missing stream or group is an empty one.
    ///
    /// # Errors
    /// When Redis did not answer, or a key holds something else.
    pub async fn depth(&self, keys: &PlatformKeys) -> Result<Depth, CallError> {
        let names = [&keys.incoming, &keys.retry, &keys.dlq];
        let mut call = self.scripts.depth.call(&names, 32);
        call.arg(GROUP);
        let reply = self.scripts.depth.run(&self.connection, &call).await?;
        let [length, pending, retrying, dead, now, oldest, head] = array(reply)?;
        let (length, pending, retrying) =
            (self.number(length)?, self.number(pending)?, self.number(retrying)?);
        Ok(Depth {
            length,
            pending,
            retrying,
            dead_letters: self.number(dead)?,
            backlog: length.saturating_sub(pending).saturating_sub(retrying),
            now: redis::from_redis_value(now).map_err(|error| CallError::Unknown(error.into()))?,
            oldest_received_at: time(oldest),
            head_received_at: time(head),
        })
    }

    /// A platform's counters: `accepted`, `duplicate`, `rate_limited`, `overloaded` (by enqueue), `processed`, `stale`
    /// (by settle), `retried`, `dead_lettered`, `replayed`, `orphaned`.
    ///
    /// # Errors
    /// When Redis did not answer.
    pub async fn counters(&self, keys: &PlatformKeys) -> Result<HashMap<String, u64>, CallError> {
        self.connection.query(cmd("HGETALL").arg(&keys.counters)).await
    }

    /// Notes that `platform` has keys. Enqueueing on a single server does it by itself.
    ///
    /// # Errors
    /// When Redis did not answer.
    pub async fn register_platform(&self, platform: &PlatformName) -> Result<(), CallError> {
        self.connection.run(cmd("SADD").arg(PLATFORMS).arg(platform.as_str())).await.map(drop)
    }

    /// Sees to it, now and then, that `platform` is in the index, which on a cluster no script of the platform's can do.
    /// A Redis that does not answer keeps no event from being queued: the next one announces its platform.
    pub(super) async fn ensure_platform_indexed(&self, platform: &PlatformName) {
        let known = |at: &Instant| at.elapsed() < INDEX_CACHE_TTL;
        if self.announced.lock().get(platform).is_some_and(known) {
            return;
        }
        match self.register_platform(platform).await {
            Ok(()) => drop(self.announced.lock().insert(platform.clone(), Instant::now())),
            Err(fault) => self.outage_log().failed("announce a platform", &fault),
        }
    }

    /// Every platform that ever got an event, sorted. Names that are none are left out.
    ///
    /// # Errors
    /// When Redis did not answer.
    pub async fn platforms(&self) -> Result<Vec<PlatformName>, CallError> {
        let names: Vec<String> = self.connection.query(cmd("SMEMBERS").arg(PLATFORMS)).await?;
        let mut names: Vec<_> =
            names.iter().filter_map(|name| PlatformName::new(name).ok()).collect();
        names.sort();
        Ok(names)
    }

    /// Notes `value` under `field` of what is known about this Redis (`layout`, `database`, `sentinel`) unless something
    /// stands there. Returns what stands there now: compare it.
    ///
    /// # Errors
    /// When Redis did not answer.
    pub async fn put_meta_if_absent(&self, field: &str, value: &str) -> Result<String, CallError> {
        self.put_field_if_absent(META, field, value).await
    }

    /// [`Self::put_meta_if_absent`], under another key.
    pub(super) async fn put_field_if_absent(
        &self,
        key: &str,
        field: &str,
        value: &str,
    ) -> Result<String, CallError> {
        let mut call = self.scripts.put_meta_if_absent.call(&[key], 64);
        call.arg(field).arg(value);
        let reply = self.scripts.put_meta_if_absent.run(&self.connection, &call).await?;
        redis::from_redis_value(reply).map_err(|error| CallError::Unknown(error.into()))
    }

    /// What stands under `field`, see [`Self::put_meta_if_absent`].
    ///
    /// # Errors
    /// When Redis did not answer.
    pub async fn meta(&self, field: &str) -> Result<Option<String>, CallError> {
        self.read_field(META, field).await
    }

    /// [`Self::meta`], under another key.
    pub(super) async fn read_field(
        &self,
        key: &str,
        field: &str,
    ) -> Result<Option<String>, CallError> {
        self.connection.query(cmd("HGET").arg(key).arg(field)).await
    }

    /// Overrides what stands under `field` (`--set_meta-database`).
    ///
    /// # Errors
    /// When Redis did not answer.
    pub async fn set_meta(&self, field: &str, value: &str) -> Result<(), CallError> {
        self.connection.run(cmd("HSET").arg(META).arg(field).arg(value)).await.map(drop)
    }

    /// Redis's time.
    ///
    /// # Errors
    /// When Redis did not answer.
    pub async fn now(&self) -> Result<Millis, CallError> {
        self.connection.redis_time().await
    }
}

/// A time that may be absent or illegible.
fn time(value: Value) -> Option<Millis> {
    match value {
        Value::BulkString(text) => std::str::from_utf8(&text).ok()?.parse().ok(),
        Value::Int(ms) => Some(ms),
        _ => None,
    }
}
