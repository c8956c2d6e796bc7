//! Refuses the largest platforms first when the memory of Redis is nearly used up.
//!
//! # Guarantees
//!
//! - Above 80 % of `maxmemory`, new events of a platform are refused if its waiting events exceed
//!   its share. A share is 80 % of `maxmemory` divided by the number of configured platforms.
//!   (`quota_applies_above_80_percent_to_those_over_it`)
//! - Other platforms are refused only when Redis is full.
//!   (`platform_over_its_share_of_redis_is_refused_first`)
//! - Duplicates are still answered as duplicates.
//!   (`platform_over_its_share_of_redis_is_refused_first`)
//!
//! # Design
//!
//! An event costs no extra command. Memory is sampled once a second, and stream sizes only above
//! 80 %.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use shared::platform::PlatformName;
use shared::queue::keys::PlatformKeys;
use shared::queue::{
    self, CallError, EnqueuePolicy, Enqueued, KeyLayout, MemoryUsage, Queue, RedisHealth,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::pipeline::{Enqueue, PlatformBatch};
use crate::targets::IngestTarget;

/// Time between two samples.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);
/// Used memory above which the quota applies, in thousandths of `maxmemory`.
const HIGH_PERMILLE: u64 = 800;

/// Platforms that are refused now; cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct MemoryBackpressure(Arc<ArcSwap<BTreeSet<PlatformName>>>);

/// Queue that refuses these platforms.
pub(crate) struct BackpressureQueue {
    /// Queue behind it.
    pub(crate) queue: Queue,
    /// Platforms that are refused.
    pub(crate) pressure: MemoryBackpressure,
}

impl MemoryBackpressure {
    /// Returns true if new events of `platform` are refused now.
    pub(crate) fn refuses(&self, platform: &PlatformName) -> bool {
        let refused = self.0.load();
        !refused.is_empty() && refused.contains(platform)
    }

    /// Samples Redis's memory until `stop`. `platforms` returns the configured platforms.
    pub(crate) async fn follow(
        self,
        queue: Queue,
        health: watch::Receiver<RedisHealth>,
        platforms: impl Fn() -> Vec<PlatformName>,
        stop: CancellationToken,
    ) {
        // In a cluster, each node has its own memory and its own platforms.
        if queue.layout() == KeyLayout::Cluster {
            return;
        }
        while stop.run_until_cancelled(tokio::time::sleep(SAMPLE_INTERVAL)).await.is_some() {
            let high = health.borrow().memory_permille.is_some_and(|used| used > HIGH_PERMILLE);
            if !high {
                self.set(BTreeSet::new());
                continue;
            }
            let names = platforms();
            let keys: Vec<PlatformKeys> =
                names.iter().map(|name| queue.layout().platform(name)).collect();
            match queue.memory(&keys).await {
                Ok(memory) => {
                    self.set(memory.map_or_else(BTreeSet::new, |memory| over_quota(names, &memory)))
                }
                // A full Redis refuses by itself, and the health check reports it.
                Err(error) => {
                    tracing::debug!(
                        error = %error.error(),
                        "cannot sample Redis's memory; retrying at the next interval"
                    )
                }
            }
        }
    }

    fn set(&self, refused: BTreeSet<PlatformName>) {
        let before = self.0.load();
        if **before == refused {
            return;
        }
        for name in refused.difference(&before) {
            tracing::error!(
                platform = %name,
                "Redis's memory is nearly used up and this platform exceeds its share; refusing \
                 its new events"
            );
        }
        for name in before.difference(&refused) {
            tracing::info!(
                platform = %name,
                "this platform is within its share again; accepting its events"
            );
        }
        self.0.store(Arc::new(refused));
    }
}

impl Enqueue for BackpressureQueue {
    fn mixes_platforms(&self) -> bool {
        self.queue.mixes_platforms()
    }

    async fn enqueue(&self, shares: &[PlatformBatch<'_>]) -> Result<Vec<Enqueued>, CallError> {
        let nothing_more = |target: &IngestTarget| EnqueuePolicy {
            max_backlog: 0,
            max_dead_letters: 0,
            ..target.policy.clone()
        };
        let policy = |share: &PlatformBatch<'_>| {
            self.pressure.refuses(&share.target.platform.name).then(|| nothing_more(share.target))
        };
        let refusing: Vec<Option<EnqueuePolicy>> = shares.iter().map(policy).collect();
        let shares: Vec<_> = shares
            .iter()
            .zip(&refusing)
            .map(|(PlatformBatch { target, groups }, refusing)| {
                let policy = refusing.as_ref().unwrap_or(&target.policy);
                queue::EnqueueSection { keys: &target.queue, policy, groups }
            })
            .collect();
        self.queue.enqueue_sections(&shares).await
    }
}

/// Returns those of `names` over their share while memory is short. `memory.streams` is in the
/// order of `names`.
fn over_quota(names: Vec<PlatformName>, memory: &MemoryUsage) -> BTreeSet<PlatformName> {
    let high = u128::from(memory.bound) * u128::from(HIGH_PERMILLE) / 1000;
    if names.len() < 2 || u128::from(memory.used) <= high {
        return BTreeSet::new();
    }
    let share = high / names.len() as u128;
    let taken = names.into_iter().zip(&memory.streams);
    taken.filter(|(_, bytes)| u128::from(**bytes) > share).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn refused(used: u64, streams: &[u64]) -> Vec<String> {
        let names =
            (0..streams.len()).map(|at| PlatformName::new(&format!("p{at}")).unwrap()).collect();
        let memory = MemoryUsage { used, bound: 1000, streams: streams.to_vec() };
        over_quota(names, &memory).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn quota_applies_above_80_percent_to_those_over_it() {
        assert_eq!(refused(800, &[700, 0]), Vec::<String>::new(), "there is room");
        assert_eq!(refused(801, &[700, 50]), ["p0"]);
        assert_eq!(refused(990, &[400, 401]), ["p1"], "a platform may use exactly its share");
        assert_eq!(
            refused(990, &[10, 20, 30]),
            Vec::<String>::new(),
            "events do not use the memory"
        );
        assert_eq!(
            refused(990, &[900]),
            Vec::<String>::new(),
            "a single platform may use all memory"
        );
    }
}
