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

use crate::worker::{Lane, Worker};

/// Entries moved per call; between two calls the others get their turn.
const LIMIT: usize = 100;
/// How often every platform is looked at, whoever scheduled its retries.
const LOOK_AT_ALL: Duration = Duration::from_secs(5);
/// The shortest sleep: a retry may come this much late.
const RESOLUTION: Duration = Duration::from_millis(20);
/// How far beyond the longest delay a due time may lie before it counts as due: Redis's clock was set back since.
const CLOCK_SLACK: Duration = Duration::from_secs(1);

/// Promotes until the worker is to stop.
pub async fn run(worker: Arc<Worker>) {
    let mut due: HashMap<PlatformName, Instant> = HashMap::new();
    let mut all_seen: Option<Instant> = None;
    loop {
        let look_at_all = all_seen.is_none_or(|at| at.elapsed() >= LOOK_AT_ALL);
        let lanes = worker.lanes.all();
        due.retain(|name, _| lanes.iter().any(|lane| lane.name() == name && !lane.is_paused()));
        for lane in lanes.iter().filter(|lane| !lane.is_paused()) {
            let hinted = lane.rescheduled.swap(false, Ordering::Relaxed);
            if look_at_all || hinted || due.get(lane.name()).is_some_and(|at| *at <= Instant::now()) {
                match promote(&worker, lane).await {
                    Some(in_time) => due.insert(lane.name().clone(), Instant::now() + in_time),
                    None => due.remove(lane.name()),
                };
            }
        }
        if look_at_all {
            all_seen = Some(Instant::now());
        }
        let next = due.values().min().map_or(LOOK_AT_ALL, |at| at.saturating_duration_since(Instant::now()));
        tokio::select! {
            () = worker.stop.cancelled() => return,
            () = worker.rescheduled.notified() => {}
            () = tokio::time::sleep(next.clamp(RESOLUTION, LOOK_AT_ALL)) => {}
        }
    }
}

/// One round for one platform; says when the next entry is due.
async fn promote(worker: &Worker, lane: &Lane) -> Option<Duration> {
    let longest = worker.policy.backoff.max() + CLOCK_SLACK;
    let longest_ms = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
    match worker.queue.promote_due(&lane.keys, longest_ms, LIMIT).await {
        Ok(promoted) => {
            if promoted.vanished > 0 {
                tracing::error!(platform = %lane.name(), entries = promoted.vanished,
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
