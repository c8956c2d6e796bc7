//! Who gets nothing more while Redis's memory runs out.
//!
//! Guarantee: what waits for destinations does not fill Redis. A destination that is slow or dead may have many more
//! deliveries waiting than fit; long before Redis is full, and would refuse everybody's events, those that take more than
//! their share of its memory get no more: what would be queued for them is counted as overflow (rule 16).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use shared::outbound::DestinationName;
use shared::queue::{MemoryUsage, PlatformKeys};

use crate::consumer::chain;
use crate::context::WorkerContext;

/// How often it is looked at, in time and in bytes that were put up for delivery since.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
const CHECK_BYTES: usize = 4 * 1024 * 1024;
/// Used memory above which nobody may have more than his share, in thousandths of `maxmemory`: below the mark from which
/// on ingress protects platforms from each other.
const HIGH_PERMILLE: u64 = 700;
/// What all destinations may take together then, in thousandths of `maxmemory`.
const QUOTA_PERMILLE: u64 = 350;

/// Those that have more than their share.
#[derive(Default)]
pub(super) struct MemoryQuota {
    looked: Option<Instant>,
    bytes: usize,
    over: BTreeSet<DestinationName>,
}

impl MemoryQuota {
    /// Whether nothing more is to be queued for `name`.
    pub(super) fn exceeds(&self, name: &DestinationName) -> bool {
        self.over.contains(name)
    }

    /// Looks again, if it is time to; `bytes` are about to be put up for delivery.
    pub(super) async fn refresh(&mut self, worker: &WorkerContext, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes < CHECK_BYTES && self.looked.is_some_and(|at| at.elapsed() < CHECK_INTERVAL) {
            return;
        }
        (self.looked, self.bytes) = (Some(Instant::now()), 0);
        // Without a bound there is no share.
        let bound = worker.redis.borrow().memory_permille.is_some();
        let over = if bound { self.measure(worker).await } else { BTreeSet::new() };
        for name in over.difference(&self.over) {
            tracing::error!(destination = %name, "Redis's memory is running out, and what waits for this destination takes more than its share: nothing more is queued for it");
        }
        for name in self.over.difference(&over) {
            tracing::info!(destination = %name, "deliveries are queued for it again");
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
        let both = |name: &DestinationName| {
            let queue = worker.queue.layout().destination(name).queue;
            let letters = PlatformKeys { incoming: queue.dlq.clone(), ..queue.clone() };
            [queue, letters]
        };
        let keys: Vec<PlatformKeys> = names.iter().flat_map(both).collect();
        match worker.queue.memory(&keys).await {
            Ok(memory) => memory.map_or_else(BTreeSet::new, |memory| over_quota(names, &memory)),
            Err(fault) => {
                tracing::debug!(error = chain(&fault), "memory could not be looked at");
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

/// Those of `names` that take too much; `memory.streams` has two for each: what waits, and what is dead.
fn over_quota(names: Vec<DestinationName>, memory: &MemoryUsage) -> BTreeSet<DestinationName> {
    if !is_short(memory) {
        return BTreeSet::new();
    }
    let share = thousandths(memory, QUOTA_PERMILLE) / names.len().max(1) as u128;
    let takes = |streams: &[u64]| streams.iter().copied().map(u128::from).sum::<u128>();
    let taken = names.into_iter().zip(memory.streams.chunks(2));
    taken.filter(|(_, streams)| takes(streams) > share).map(|(name, _)| name).collect()
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
        assert_eq!(over(700, &[600, 0, 0, 0]), Vec::<String>::new(), "there is room");
        assert_eq!(over(701, &[600, 0, 10, 10]), ["d0"]);
        assert_eq!(
            over(701, &[100, 75, 100, 76]),
            ["d1"],
            "dead letters count, and exactly the share is not over it"
        );
        assert_eq!(over(990, &[10, 10]), Vec::<String>::new(), "it is not deliveries that fill it");
        assert_eq!(over(990, &[351, 0]), ["d0"], "one that is alone leaves room for events, too");
    }
}
