//! Who is refused first when Redis's memory is nearly used up.
//!
//! Guarantee: above 80 % of `maxmemory`, new events are refused of those platforms whose waiting events take more than their
//! share of it (80 %, divided by the number of configured platforms), so that what is left is for the others; everybody else
//! is refused only when Redis is full. A platform that is alone has it all. Duplicates are told as such all the same. What
//! is decided per event costs no command: memory is looked at once a second, and streams only under pressure.

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

/// How often it is looked at.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);
/// Used memory above which there is pressure, in thousandths of `maxmemory`.
const HIGH_PERMILLE: u64 = 800;

/// The platforms that are refused; cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct MemoryBackpressure(Arc<ArcSwap<BTreeSet<PlatformName>>>);

/// A queue that refuses those.
pub(crate) struct BackpressureQueue {
    /// The queue.
    pub(crate) queue: Queue,
    /// Who is refused.
    pub(crate) pressure: MemoryBackpressure,
}

impl MemoryBackpressure {
    /// Whether new events of `platform` are refused now.
    pub(crate) fn refuses(&self, platform: &PlatformName) -> bool {
        let refused = self.0.load();
        !refused.is_empty() && refused.contains(platform)
    }

    /// Follows Redis's memory until `stop`; `platforms` are those that are configured.
    pub(crate) async fn follow(
        self,
        queue: Queue,
        health: watch::Receiver<RedisHealth>,
        platforms: impl Fn() -> Vec<PlatformName>,
        stop: CancellationToken,
    ) {
        // The nodes of a cluster have memory of their own, and platforms their nodes.
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
                // Whoever has to be refused is refused by Redis itself; the health watch tells of it.
                Err(error) => {
                    tracing::debug!(error = %error.error(), "memory could not be looked at")
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
            tracing::error!(platform = %name, "Redis's memory is nearly used up, and this platform takes more than its share: its new events are refused");
        }
        for name in before.difference(&refused) {
            tracing::info!(platform = %name, "new events are taken again");
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

/// Those of `names` whose streams, `memory.streams` in the same order, are too large while memory is short.
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
        assert_eq!(refused(990, &[400, 401]), ["p1"], "exactly the share is not over it");
        assert_eq!(
            refused(990, &[10, 20, 30]),
            Vec::<String>::new(),
            "it is not events that fill it"
        );
        assert_eq!(refused(990, &[900]), Vec::<String>::new(), "nobody is there to be protected");
    }
}
