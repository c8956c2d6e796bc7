//! Decides whether Redis may be called now.
//!
//! # Guarantees
//!
//! - While Redis is unavailable or its layout is unchecked, requests are refused at once and
//!   nothing is written. (`gate_is_open_only_for_a_checked_redis_that_answers`)
//! - With `DURABILITY=strict`, the same holds while Redis is not known to be durable.
//!   (`strict_gate_requires_known_durability`)
//! - The gate opens by itself about a second after Redis recovers.
//!   (`redis_outage_gets_503_and_ends_within_two_seconds`)

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use shared::event::Millis;
use shared::metrics::DependencyMetrics;
use shared::queue::{
    CallError, Durability, KeyLayout, Queue, RedisConnection, RedisHealth, RedisTrouble,
};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::Error;

/// Difference between this host's clock and Redis's, in ms, above which an expired signature is in
/// doubt.
const MAX_SKEW_MS: Millis = 5000;

/// Field of the meta hash that holds the key layout.
const LAYOUT_FIELD: &str = "layout";

/// Gate in front of Redis; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct RedisGate {
    health: watch::Receiver<RedisHealth>,
    /// Set once the key layout of Redis was checked.
    layout_checked: Arc<AtomicBool>,
    strict: bool,
    /// Connection of the enqueue calls. The settings may have been read on an earlier one.
    connection: Option<RedisConnection>,
}

/// Reason for which this host's clock is not trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClockDoubt {
    /// Redis has not answered since this process started.
    NeverCompared,
    /// The two clocks differ.
    Differs {
        /// Redis's clock minus this host's, in ms.
        skew_ms: Millis,
    },
}

/// Redis that this configuration must never write to.
#[derive(Debug, thiserror::Error)]
pub enum RedisMismatchError {
    /// `cluster_enabled` of Redis contradicts `REDIS_CLUSTER`.
    #[error("REDIS_CLUSTER: is {configured}, but Redis says cluster_enabled={found}")]
    Cluster {
        /// Configured value.
        configured: bool,
        /// Value of Redis.
        found: bool,
    },
    /// The keys in Redis have another layout.
    #[error(
        "REDIS_CLUSTER: this Redis is in use with the key layout `{found}`, not `{configured}`"
    )]
    KeyLayout {
        /// Configured layout.
        configured: &'static str,
        /// Layout in Redis.
        found: String,
    },
}

impl RedisGate {
    /// Creates a gate that follows `health`. It stays closed until [`watch()`] has checked Redis.
    pub(crate) fn new(
        health: watch::Receiver<RedisHealth>,
        strict: bool,
        connection: RedisConnection,
    ) -> Self {
        Self { health, layout_checked: Arc::default(), strict, connection: Some(connection) }
    }

    /// Creates a gate whose layout check has passed.
    #[cfg(test)]
    pub(crate) fn layout_checked(health: watch::Receiver<RedisHealth>, strict: bool) -> Self {
        Self { health, layout_checked: Arc::new(AtomicBool::new(true)), strict, connection: None }
    }

    /// Returns the reason for a 503 of `/ready`. A full Redis is one, though it may still take the
    /// next request.
    pub(crate) fn unready_reason(&self) -> Option<String> {
        let trouble = self.health.borrow().trouble.as_ref().map(ToString::to_string);
        trouble.or_else(|| self.closed_reason().map(str::to_owned))
    }

    /// Checks that an event may be queued now.
    ///
    /// # Errors
    /// [`Error::QueueUnavailable`], with the reason.
    pub(crate) fn check_open(&self) -> Result<(), Error> {
        self.closed_reason().map_or(Ok(()), |reason| Err(Error::QueueUnavailable(reason)))
    }

    /// Checks that the write which Redis just confirmed is durable. With `DURABILITY=strict` it is
    /// not if it went over a new connection. Another Redis with other settings may be behind it.
    ///
    /// # Errors
    /// [`Error::ResultUnknown`]: the event may be queued, and a retry is safe.
    pub(crate) fn check_durable(&self) -> Result<(), Error> {
        if self.strict && self.reconnected(&self.health.borrow()) {
            return Err(Error::ResultUnknown(None));
        }
        Ok(())
    }

    /// Returns the reason why nothing may be queued now. `None`: it may.
    pub(crate) fn closed_reason(&self) -> Option<&'static str> {
        let health = self.health.borrow();
        if !health.up {
            let refused = health.trouble.as_ref().is_some_and(RedisTrouble::is_refusal);
            Some(if refused { "Redis refuses commands" } else { "Redis does not answer" })
        } else if self.strict && (!health.strict_ok() || self.reconnected(&health)) {
            Some("Redis is not known to be durable, as DURABILITY=strict demands")
        } else if !self.layout_checked.load(Ordering::Acquire) {
            Some("Redis has not been checked yet")
        } else {
            None
        }
    }

    /// Returns true if the settings were read on another connection than the current one.
    fn reconnected(&self, health: &RedisHealth) -> bool {
        self.connection
            .as_ref()
            .is_some_and(|connection| connection.connection_epoch() != health.connection_epoch)
    }

    /// Returns why this host's clock is not trusted: it differs too much, or was not compared yet.
    pub(crate) fn clock_in_doubt(&self) -> Option<ClockDoubt> {
        match self.health.borrow().skew_now() {
            None => Some(ClockDoubt::NeverCompared),
            Some(skew_ms) if skew_ms.abs() > MAX_SKEW_MS => Some(ClockDoubt::Differs { skew_ms }),
            Some(_) => None,
        }
    }

    /// Waits until the gate is open, at most `bound`.
    ///
    /// # Errors
    /// The reason why it is still closed.
    pub(crate) async fn wait_open(&self, bound: Duration) -> Result<(), &'static str> {
        let until = Instant::now() + bound;
        while let Some(reason) = self.closed_reason() {
            if Instant::now() >= until {
                return Err(reason);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }
}

/// Follows Redis's health until it is no longer published. Reports it in metrics and log, and opens
/// the gate after its checks.
///
/// # Errors
/// This Redis must not be written to.
pub(crate) async fn watch(
    gate: RedisGate,
    queue: Queue,
    metrics: DependencyMetrics,
) -> Result<(), RedisMismatchError> {
    let mut health = gate.health.clone();
    let mut before = RedisHealth::default();
    loop {
        let now = health.borrow_and_update().clone();
        report(&before, &now, &metrics, gate.strict);
        let replaced = !before.up || now.data_lost > before.data_lost;
        if now.up && (replaced || !gate.layout_checked.load(Ordering::Acquire)) {
            check_cluster_mode(now.durability.as_ref(), queue.layout())?;
            gate.layout_checked.store(check_layout(&queue).await?, Ordering::Release);
        }
        before = now;
        let changed = tokio::time::timeout(Duration::from_secs(1), health.changed()).await;
        if matches!(changed, Ok(Err(_))) {
            return Ok(());
        }
    }
}

fn check_cluster_mode(
    durability: Option<&Durability>,
    layout: KeyLayout,
) -> Result<(), RedisMismatchError> {
    let configured = layout == KeyLayout::Cluster;
    match durability.and_then(|durability| durability.cluster_enabled) {
        Some(found) if found != configured => {
            Err(RedisMismatchError::Cluster { configured, found })
        }
        _ => Ok(()),
    }
}

/// Returns true if the key layout of Redis is the configured one. False: Redis did not answer.
async fn check_layout(queue: &Queue) -> Result<bool, RedisMismatchError> {
    let configured = queue.layout().as_str();
    match queue.put_meta_if_absent(LAYOUT_FIELD, configured).await {
        Ok(found) if found == configured => Ok(true),
        Ok(found) => Err(RedisMismatchError::KeyLayout {
            configured,
            found: found.chars().take(32).collect(),
        }),
        Err(CallError::NotRun(error) | CallError::Unknown(error)) => {
            tracing::warn!(%error, "cannot read Redis's key layout; keeping the gate closed");
            Ok(false)
        }
    }
}

fn report(before: &RedisHealth, now: &RedisHealth, metrics: &DependencyMetrics, strict: bool) {
    metrics.redis_up(now.takes_events());
    metrics.redis_durable(now.strict_ok());
    if let Some(skew) = now.skew_ms {
        metrics.clock_skew_ms(skew);
        if skew.abs() > MAX_SKEW_MS && before.skew_ms.is_none_or(|skew| skew.abs() <= MAX_SKEW_MS) {
            tracing::error!(
                skew_ms = skew,
                "this host's clock differs from Redis's; set the clock"
            );
        }
    }
    match (before.up, now.up) {
        (false, true) => tracing::info!("Redis is available; queueing webhooks"),
        (true, false) => {
            tracing::warn!("Redis is unavailable; refusing webhooks until it recovers")
        }
        _ => {}
    }
    if now.durability != before.durability
        && let Some(durability) =
            now.durability.as_ref().filter(|durability| !durability.is_strict())
    {
        let shortcomings = durability.shortcomings().join("; ");
        if strict {
            tracing::error!(
                shortcomings,
                "Redis may lose confirmed events; refusing webhooks (DURABILITY=strict)"
            );
        } else {
            tracing::warn!(shortcomings, "Redis may lose confirmed events");
        }
    }
    if now.data_lost > before.data_lost {
        metrics.data_lost();
        tracing::error!(
            alert = "data_lost",
            "Redis was emptied or replaced: queued events and duplicate markers are gone"
        );
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use shared::clock::{ClockSample, now_ms};

    use super::*;

    fn durable() -> Durability {
        Durability {
            appendonly: Some(true),
            appendfsync: Some("always".to_owned()),
            maxmemory_policy: Some("noeviction".to_owned()),
            cluster_enabled: Some(false),
        }
    }

    fn gate(health: RedisHealth, layout_checked: bool, strict: bool) -> RedisGate {
        RedisGate {
            health: watch::channel(health).1,
            layout_checked: Arc::new(AtomicBool::new(layout_checked)),
            strict,
            connection: None,
        }
    }

    #[test]
    fn gate_is_open_only_for_a_checked_redis_that_answers() {
        let up = RedisHealth { up: true, ..RedisHealth::default() };
        assert!(gate(RedisHealth::default(), true, false).check_open().is_err());
        assert!(gate(up.clone(), false, false).check_open().is_err());
        assert!(gate(up, true, false).check_open().is_ok());
    }

    #[test]
    fn strict_gate_requires_known_durability() {
        let up = |durability| RedisHealth { up: true, durability, ..RedisHealth::default() };
        assert!(gate(up(None), true, true).check_open().is_err());
        let everysec = Durability { appendfsync: Some("everysec".to_owned()), ..durable() };
        assert!(gate(up(Some(everysec.clone())), true, true).check_open().is_err());
        assert!(gate(up(Some(everysec)), true, false).check_open().is_ok());
        assert!(gate(up(Some(durable())), true, true).check_open().is_ok());
    }

    #[test]
    fn clock_is_in_doubt_beyond_five_seconds_of_skew() {
        let at = |skew_ms| {
            gate(RedisHealth { skew_ms, ..RedisHealth::default() }, true, false).clock_in_doubt()
        };
        assert_eq!(at(None), Some(ClockDoubt::NeverCompared));
        assert_eq!(at(Some(5000)), None);
        assert_eq!(at(Some(5001)), Some(ClockDoubt::Differs { skew_ms: 5001 }));
        assert_eq!(at(Some(-5001)), Some(ClockDoubt::Differs { skew_ms: -5001 }));
    }

    #[test]
    fn clock_that_was_set_is_in_doubt_at_once() {
        let hour = 3_600_000;
        let clock = Some(ClockSample::new(now_ms() - hour, std::time::Instant::now()));
        let health = RedisHealth { skew_ms: Some(0), clock, ..RedisHealth::default() };
        let doubt = gate(health, true, false).clock_in_doubt();
        let is_an_hour = |skew_ms: Millis| (skew_ms + hour).abs() < 1_000;
        assert!(
            matches!(doubt, Some(ClockDoubt::Differs { skew_ms }) if is_an_hour(skew_ms)),
            "{doubt:?}"
        );
    }

    #[test]
    fn cluster_is_refused_as_a_single_server() {
        assert!(check_cluster_mode(Some(&durable()), KeyLayout::Single).is_ok());
        assert!(
            check_cluster_mode(None, KeyLayout::Single).is_ok(),
            "an unknown setting is accepted"
        );
        let cluster = Durability { cluster_enabled: Some(true), ..durable() };
        assert!(matches!(
            check_cluster_mode(Some(&cluster), KeyLayout::Single),
            Err(RedisMismatchError::Cluster { .. })
        ));
    }
}
