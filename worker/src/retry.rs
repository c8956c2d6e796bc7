//! Moves due retries back into their streams.
//!
//! # Guarantees
//! - A retry is promoted when it is due by Redis's clock, and not before
//!   (`retry_is_not_promoted_before_it_is_due`).
//! - Any number of workers may promote at once, since each move is one script
//!   (`forbidden_retry_or_promotion_moves_nothing`).
//! - Retries of a paused platform stay until it is resumed (`paused_platform_holds_and_resumes`).
//!
//! # Design
//! All platforms are checked at an interval, which finds retries that a dead worker scheduled.
//! Failures are logged and retried. The loop ends only when the worker is stopped.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use shared::platform::PlatformName;

use crate::context::{PlatformQueue, WorkerContext};

/// Most entries per call. Other platforms get their turn between two calls.
const MAX_PROMOTED: usize = 100;
/// Interval between two checks of all platforms, for retries that other workers scheduled.
const FULL_SCAN_INTERVAL: Duration = Duration::from_secs(5);
/// Shortest sleep. A retry may be late by this much.
const MIN_SLEEP: Duration = Duration::from_millis(20);
/// Tolerance beyond the longest delay. A due time that is later counts as due, because Redis's
/// clock was set back.
const CLOCK_SLACK: Duration = Duration::from_secs(1);

/// Promotes due retries until the worker is stopped.
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
            let was_scheduled = platform_queue.rescheduled.swap(false, Ordering::Relaxed);
            if is_full_scan
                || was_scheduled
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

/// Promotes the due retries of one platform. Returns the time until the next one is due.
async fn promote(worker: &WorkerContext, platform_queue: &PlatformQueue) -> Option<Duration> {
    let longest = worker.policy.backoff.max() + CLOCK_SLACK;
    let longest_ms = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
    match worker.queue.promote_due(&platform_queue.keys, longest_ms, MAX_PROMOTED).await {
        Ok(promoted) => {
            if promoted.vanished > 0 {
                tracing::error!(platform = %platform_queue.name(), entries = promoted.vanished,
                    "scheduled entries were deleted by another client; skipping them");
            }
            promoted.next_due
        }
        Err(fault) => {
            worker.queue.outage_log().failed("move due retries", &fault);
            Some(Duration::from_secs(1))
        }
    }
}
