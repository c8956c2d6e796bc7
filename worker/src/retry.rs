//! Moves due retries back into their streams.
//!
//! Guarantee: the loop ends only when the worker is to stop; whatever fails is logged and tried again. Any number of
//! workers may run it: each move is one script. A retry is promoted when it is due by Redis's clock; those that another
//! worker scheduled and left behind are found by looking at every platform now and then. Those of a paused platform stay
//! until it is resumed.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use shared::platform::PlatformName;

use crate::context::{PlatformQueue, WorkerContext};

/// Entries moved per call; between two calls the others get their turn.
const MAX_PROMOTED: usize = 100;
/// How often every platform is looked at, whoever scheduled its retries.
const FULL_SCAN_INTERVAL: Duration = Duration::from_secs(5);
/// The shortest sleep: a retry may come this much late.
const MIN_SLEEP: Duration = Duration::from_millis(20);
/// How far beyond the longest delay a due time may lie before it counts as due: Redis's clock was set back since.
const CLOCK_SLACK: Duration = Duration::from_secs(1);

/// Promotes until the worker is to stop.
pub async fn run(worker: Arc<WorkerContext>) {
    let mut due: HashMap<PlatformName, Instant> = HashMap::new();
    let mut all_seen: Option<Instant> = None;
    loop {
        let is_full_scan = all_seen.is_none_or(|at| at.elapsed() >= FULL_SCAN_INTERVAL);
        let platforms = worker.platforms.all();
        due.retain(|name, _| {
            platforms
                .iter()
                .any(|platform_queue| platform_queue.name() == name && !platform_queue.is_paused())
        });
        for platform_queue in platforms.iter().filter(|platform_queue| !platform_queue.is_paused())
        {
            let hinted = platform_queue.rescheduled.swap(false, Ordering::Relaxed);
            if is_full_scan
                || hinted
                || due.get(platform_queue.name()).is_some_and(|at| *at <= Instant::now())
            {
                match promote(&worker, platform_queue).await {
                    Some(in_time) => {
                        due.insert(platform_queue.name().clone(), Instant::now() + in_time)
                    }
                    None => due.remove(platform_queue.name()),
                };
            }
        }
        if is_full_scan {
            all_seen = Some(Instant::now());
        }
        let next = due
            .values()
            .min()
            .map_or(FULL_SCAN_INTERVAL, |at| at.saturating_duration_since(Instant::now()));
        tokio::select! {
            () = worker.stop.cancelled() => return,
            () = worker.rescheduled.notified() => {}
            () = tokio::time::sleep(next.clamp(MIN_SLEEP, FULL_SCAN_INTERVAL)) => {}
        }
    }
}

/// One round for one platform; says when the next entry is due.
async fn promote(worker: &WorkerContext, platform_queue: &PlatformQueue) -> Option<Duration> {
    let longest = worker.policy.backoff.max() + CLOCK_SLACK;
    let longest_ms = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
    match worker.queue.promote_due(&platform_queue.keys, longest_ms, MAX_PROMOTED).await {
        Ok(promoted) => {
            if promoted.vanished > 0 {
                tracing::error!(platform = %platform_queue.name(), entries = promoted.vanished,
                    "scheduled entries were deleted by somebody else");
            }
            promoted.next_due
        }
        Err(fault) => {
            worker.queue.outage_log().failed("move due retries", &fault);
            Some(Duration::from_secs(1))
        }
    }
}
