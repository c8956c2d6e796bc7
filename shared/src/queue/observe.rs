//! Statistics of the queue, the index of platforms, and facts stored about this Redis.
//!
//! # Guarantees
//!
//! - Reading the statistics changes nothing (`statistics_change_nothing`).
//! - The backlog is the length less pending and retrying entries, and never below 0
//!   (`depth_parts_add_up`, `backlog_is_never_below_zero`).
//! - A stored fact is never overwritten by accident: the first value stays
//!   (`meta_field_keeps_its_first_value`).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::{Value, cmd};

use super::codec::array;
use super::keys::{GROUP, META, PLATFORMS};
use super::{CallError, Durability, KeyLayout, PlatformKeys, Queue};
use crate::event::{Millis, StreamId, marker_digest};
use crate::platform::PlatformName;

/// Time for which a platform counts as indexed. Redis may have lost its entry in the meantime, for
/// example by a failover.
const INDEX_CACHE_TTL: Duration = Duration::from_secs(30);

/// Platforms that this process has put into the index, with the time of the last write.
#[derive(Debug, Default)]
pub(super) struct PlatformIndexCache(Mutex<HashMap<PlatformName, Instant>>);

impl PlatformIndexCache {
    fn lock(&self) -> MutexGuard<'_, HashMap<PlatformName, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Numbers of a platform's events by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Entries of the stream: all unfinished events.
    pub length: u64,
    /// Entries that were delivered and are not finished.
    pub pending: u64,
    /// Entries in the retry set.
    pub retrying: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Entries not delivered yet: length less pending and retrying, never below 0.
    pub backlog: u64,
    /// Redis's time of this reading.
    pub now: Millis,
    /// Arrival of the oldest unfinished event that waits for no retry: the first pending or the
    /// first undelivered entry.
    pub oldest_received_at: Option<Millis>,
    /// Arrival of the stream's first entry, whether or not it waits for a retry.
    pub head_received_at: Option<Millis>,
}

impl Depth {
    /// Age of the oldest unfinished event that waits for no retry, in milliseconds.
    #[must_use]
    pub fn oldest_age_ms(&self) -> Option<u64> {
        self.oldest_received_at.map(|at| u64::try_from(self.now.saturating_sub(at)).unwrap_or(0))
    }
}

/// State of an event that is not in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnfinishedState {
    /// Queued, and not rescheduled since it was queued or replayed.
    Pending,
    /// Rescheduled at least once; it may be in execution now.
    Retrying,
    /// Dead letter with this id.
    Dead(StreamId),
}

/// Mismatch between this Redis and the configuration. Such a Redis must not be written to, see the
/// invariant platform-shares-a-slot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedisLayoutError {
    /// `cluster_enabled` contradicts `REDIS_CLUSTER`.
    #[error("REDIS_CLUSTER: is {configured}, but Redis says cluster_enabled={}", !configured)]
    Cluster {
        /// Configured value.
        configured: bool,
    },
    /// The keys in Redis are spelled for the other layout.
    #[error("REDIS_CLUSTER: the keys in this Redis are laid out for {found}, not for {configured}")]
    KeyLayout {
        /// Configured layout.
        configured: &'static str,
        /// Layout stored in Redis.
        found: String,
    },
}

impl Queue {
    /// Compares this Redis with the configuration and returns the mismatch, if any. Changes
    /// nothing.
    ///
    /// # Errors
    /// If Redis does not answer.
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

    /// Returns the state of the event `event_id` as far as Redis knows it. `None`: it is finished,
    /// or never arrived.
    ///
    /// While its dedup marker lives, a finished event is reported as [`UnfinishedState::Pending`]
    /// too. Callers therefore read the ledger first, and once more after `None`.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn unfinished(
        &self,
        keys: &PlatformKeys,
        event_id: &str,
    ) -> Result<Option<UnfinishedState>, CallError> {
        let marker = keys.marker(&marker_digest(keys.platform.as_str(), event_id));
        let mut commands = redis::pipe();
        commands.cmd("HGET").arg(&keys.exceptions).arg(event_id);
        commands.cmd("EXISTS").arg(marker);
        let (exception, marked): (Option<String>, bool) =
            self.connection.pipeline(&commands).await?;
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

    /// Reads the numbers of one platform. A missing stream or group counts as an empty one.
    ///
    /// # Errors
    /// If Redis does not answer, or a key has another type.
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

    /// Counters of a platform: `accepted`, `duplicate`, `rate_limited`, `overloaded` (from
    /// enqueue), `processed`, `stale` (from settle), `retried`, `dead_lettered`, `replayed`,
    /// `orphaned`.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn counters(&self, keys: &PlatformKeys) -> Result<HashMap<String, u64>, CallError> {
        self.connection.query(cmd("HGETALL").arg(&keys.counters)).await
    }

    /// Adds `platform` to the index. On a single server, enqueueing does so itself.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn register_platform(&self, platform: &PlatformName) -> Result<(), CallError> {
        self.connection.run(cmd("SADD").arg(PLATFORMS).arg(platform.as_str())).await.map(drop)
    }

    /// Adds `platform` to the index unless that was done recently. On a cluster the index is in
    /// another slot, so no script of the platform can write it.
    ///
    /// A failure does not keep the event from being queued; the next event tries again.
    pub(super) async fn ensure_platform_indexed(&self, platform: &PlatformName) {
        let known = |at: &Instant| at.elapsed() < INDEX_CACHE_TTL;
        if self.index_cache.lock().get(platform).is_some_and(known) {
            return;
        }
        match self.register_platform(platform).await {
            Ok(()) => drop(self.index_cache.lock().insert(platform.clone(), Instant::now())),
            Err(fault) => self.outage_log().failed("add a platform to the index", &fault),
        }
    }

    /// Every platform that ever got an event, sorted. Invalid names are left out.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn platforms(&self) -> Result<Vec<PlatformName>, CallError> {
        let names: Vec<String> = self.connection.query(cmd("SMEMBERS").arg(PLATFORMS)).await?;
        let mut names: Vec<_> =
            names.iter().filter_map(|name| PlatformName::new(name).ok()).collect();
        names.sort();
        Ok(names)
    }

    /// Stores `value` under `field` of the facts about this Redis (`layout`, `database`,
    /// `sentinel`) if the field is absent. Returns the stored value, for comparison.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn put_meta_if_absent(&self, field: &str, value: &str) -> Result<String, CallError> {
        self.put_field_if_absent(META, field, value).await
    }

    /// Like [`Self::put_meta_if_absent`], under another key.
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

    /// Value stored under `field`, see [`Self::put_meta_if_absent`].
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn meta(&self, field: &str) -> Result<Option<String>, CallError> {
        self.read_field(META, field).await
    }

    /// Like [`Self::meta`], under another key.
    pub(super) async fn read_field(
        &self,
        key: &str,
        field: &str,
    ) -> Result<Option<String>, CallError> {
        self.connection.query(cmd("HGET").arg(key).arg(field)).await
    }

    /// Overwrites the value stored under `field` (`--adopt-database`).
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn set_meta(&self, field: &str, value: &str) -> Result<(), CallError> {
        self.connection.run(cmd("HSET").arg(META).arg(field).arg(value)).await.map(drop)
    }

    /// Redis's time.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn now(&self) -> Result<Millis, CallError> {
        self.connection.redis_time().await
    }
}

/// Reads a time that may be absent or unreadable.
fn time(value: Value) -> Option<Millis> {
    match value {
        Value::BulkString(text) => std::str::from_utf8(&text).ok()?.parse().ok(),
        Value::Int(ms) => Some(ms),
        _ => None,
    }
}
