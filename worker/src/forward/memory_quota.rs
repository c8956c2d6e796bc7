//! Stops queueing deliveries for destinations that take too much of Redis's memory.
//!
//! # Guarantees
//! - Waiting deliveries never fill Redis. Long before it is full, destinations over their quota get
//!   no more deliveries. These are counted as overflow (`dead_destination_does_not_fill_redis`).
//! - The quota holds only while memory is short (`quota_applies_only_when_memory_is_short`).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use shared::outbound::DestinationName;
use shared::queue::{MemoryUsage, PlatformKeys};

use crate::consumer::error_chain;
use crate::context::WorkerContext;

/// Bounds of the interval between two checks, in time and in queued bytes.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
const CHECK_BYTES: usize = 4 * 1024 * 1024;
/// Use of memory above which the quota holds, in thousandths of `maxmemory`. It is below the mark
/// at which ingress starts to refuse platforms over their share.
const HIGH_PERMILLE: u64 = 700;
/// Quota of all destinations together, in thousandths of `maxmemory`.
const QUOTA_PERMILLE: u64 = 350;

/// Destinations over their quota.
#[derive(Default)]
pub(super) struct MemoryQuota {
    checked_at: Option<Instant>,
    bytes: usize,
    over: BTreeSet<DestinationName>,
}

impl MemoryQuota {
    /// Returns true if no more deliveries are to be queued for `name`.
    pub(super) fn exceeds(&self, name: &DestinationName) -> bool {
        self.over.contains(name)
    }

    /// Checks again if it is due. `bytes` are about to be queued.
    pub(super) async fn refresh(&mut self, worker: &WorkerContext, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes < CHECK_BYTES
            && self.checked_at.is_some_and(|at| at.elapsed() < CHECK_INTERVAL)
        {
            return;
        }
        (self.checked_at, self.bytes) = (Some(Instant::now()), 0);
        // Without `maxmemory` there is no quota.
        let bound = worker.redis.borrow().memory_permille.is_some();
        let over = if bound { self.measure(worker).await } else { BTreeSet::new() };
        for name in over.difference(&self.over) {
            tracing::error!(destination = %name,
                "Redis memory is short and the destination takes more than its share; queueing no \
                more deliveries for it");
        }
        for name in self.over.difference(&over) {
            tracing::info!(destination = %name,
                "the destination is within its share again; queueing deliveries");
        }
        self.over = over;
    }

    async fn measure(&self, worker: &WorkerContext) -> BTreeSet<DestinationName> {
        match worker.queue.memory([]).await {
            Ok(Some(memory)) if is_short(&memory) => {}
            Ok(_) => return BTreeSet::new(),
            Err(_) => return self.over.clone(),
        }
        let names: Vec<DestinationName> =
            worker.forwarding.all().iter().map(|one| one.queue.clone()).collect();
        let queue_and_dead_letters = |name: &DestinationName| {
            let queue = worker.queue.layout().destination(name).queue;
            let dead_letters = PlatformKeys { incoming: queue.dlq.clone(), ..queue.clone() };
            [queue, dead_letters]
        };
        let keys: Vec<PlatformKeys> = names.iter().flat_map(queue_and_dead_letters).collect();
        match worker.queue.memory(&keys).await {
            Ok(memory) => memory.map_or_else(BTreeSet::new, |memory| over_quota(names, &memory)),
            Err(fault) => {
                tracing::debug!(
                    error = error_chain(&fault),
                    "cannot read memory usage; keeping the last result"
                );
                self.over.clone()
            }
        }
    }
}

fn thousandths(memory: &MemoryUsage, part: u64) -> u128 {
    u128::from(memory.bound) * u128::from(part) / 1000
}

fn is_short(memory: &MemoryUsage) -> bool {
    u128::from(memory.used) > thousandths(memory, HIGH_PERMILLE)
}

/// Returns the `names` over their quota. `memory.streams` holds two sizes for each: the queue and
/// its dead letters.
fn over_quota(names: Vec<DestinationName>, memory: &MemoryUsage) -> BTreeSet<DestinationName> {
    if !is_short(memory) {
        return BTreeSet::new();
    }
    let quota = thousandths(memory, QUOTA_PERMILLE) / names.len().max(1) as u128;
    let total_bytes = |streams: &[u64]| streams.iter().copied().map(u128::from).sum::<u128>();
    let usage = names.into_iter().zip(memory.streams.chunks(2));
    usage.filter(|(_, streams)| total_bytes(streams) > quota).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn over(used: u64, streams: &[u64]) -> Vec<String> {
        let names = (0..streams.len() / 2)
            .map(|at| DestinationName::new(&format!("d{at}")).unwrap())
            .collect();
        let memory = MemoryUsage { used, bound: 1000, streams: streams.to_vec() };
        over_quota(names, &memory).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn quota_applies_only_when_memory_is_short() {
        assert_eq!(over(700, &[600, 0, 0, 0]), Vec::<String>::new(), "memory is not short");
        assert_eq!(over(701, &[600, 0, 10, 10]), ["d0"]);
        assert_eq!(
            over(701, &[100, 75, 100, 76]),
            ["d1"],
            "dead letters count, and the exact quota is allowed"
        );
        assert_eq!(over(990, &[10, 10]), Vec::<String>::new(), "deliveries do not fill Redis");
        assert_eq!(over(990, &[351, 0]), ["d0"], "a single destination is bounded, too");
    }
}
