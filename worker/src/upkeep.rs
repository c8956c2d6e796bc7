//! Runs background tasks: probes the database, publishes depths, reschedules orphans, and deletes
//! idle consumers.
//!
//! # Guarantees
//! - An orphan is found and rescheduled (`orphaned_entry_is_requeued`).
//! - Entries of a platform without a definition are reported and never acknowledged
//!   (`entries_of_an_unknown_platform_are_left_alone`).
//! - A worker ends when its Redis is bound to another session database
//!   (`worker_exits_when_redis_was_bound_to_another_database`).
//!
//! # Design
//! No event needs these tasks in order to be processed. None of them ends before the worker is
//! stopped.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use shared::event::StreamId;
use shared::metrics::{DependencyMetrics, QueueMetrics};
use shared::platform::PlatformName;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::context::{PlatformQueue, WorkerContext};
use crate::identity;

/// Interval between two probes of a database that commits.
const DATABASE_PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// Interval between two reads of the depths.
const DEPTHS_INTERVAL: Duration = Duration::from_secs(5);
/// Interval between two searches for platforms without a definition.
const UNHANDLED_INTERVAL: Duration = Duration::from_secs(30);
/// Time after which a registered platform is known here.
const REGISTRATION_DELAY: Duration = Duration::from_secs(2);
/// Interval between two sweeps, which check a few entries per platform for orphans.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
/// Interval between two deletions of consumers, and the idle time after which one without pending
/// entries is deleted.
const REAP_INTERVAL: Duration = Duration::from_secs(600);
const REAP_IDLE: Duration = Duration::from_secs(3600);

/// Probes the database until the worker is stopped. The consume loop notices outages too, but not
/// while it is idle.
pub async fn watch_database(worker: Arc<WorkerContext>) {
    let mut asked: Option<Instant> = None;
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while worker.stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let due = asked.is_none_or(|at| at.elapsed() >= DATABASE_PROBE_INTERVAL);
        if due || !worker.database_up() {
            worker.note_probe(worker.store.probe().await.as_ref().copied());
            worker.database_metrics.sqlite_wal_bytes(worker.store.wal_bytes());
            asked = Some(Instant::now());
        } else if worker.store.check_identity().await.is_err() {
            worker.note_database(false);
        }
    }
}

/// Publishes the state of Redis. Returns early if Redis is bound to another session database, which
/// ends the worker.
pub async fn watch_redis(worker: Arc<WorkerContext>, metrics: DependencyMetrics) {
    let mut redis = worker.redis.clone();
    let (mut data_lost, mut was_up, mut clock_steps) = (0, false, 0);
    loop {
        let health = redis.borrow_and_update().clone();
        // A forward step of the clock must not count as waiting time.
        let stepped = health.clock_steps > std::mem::replace(&mut clock_steps, health.clock_steps);
        if stepped {
            tracing::warn!(
                skew_ms = health.skew_ms,
                "Redis's clock was set; waiting times start again"
            );
        }
        if stepped || health.up && !std::mem::replace(&mut was_up, health.up) {
            worker.note_recovery();
        }
        was_up = health.up;
        metrics.redis_up(health.up);
        metrics.redis_durable(health.strict_ok());
        if let Some(skew) = health.skew_ms {
            metrics.clock_skew_ms(skew);
        }
        if health.data_lost > data_lost {
            data_lost = health.data_lost;
            metrics.data_lost();
            tracing::error!("Redis was emptied or replaced; accepted events may be lost");
            let refused = match identity::check_layout(&worker.queue, &worker.stop).await {
                Ok(_) => {
                    identity::check_database(&worker.queue, &worker.store, false, &worker.stop)
                        .await
                        .err()
                }
                Err(error) => Some(error),
            };
            if let Some(error) = refused {
                tracing::error!("{error}");
                return;
            }
        }
        match worker.stop.run_until_cancelled(redis.changed()).await {
            Some(Ok(())) => {}
            _ => return,
        }
    }
}

/// Publishes the queue depths of all platforms.
pub async fn publish_depths(worker: Arc<WorkerContext>) {
    let mut shown: HashMap<PlatformName, QueueMetrics> = HashMap::new();
    let mut ticks = interval(DEPTHS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while worker.stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let platforms = worker.platforms.all();
        // A removed platform shows no gauges, instead of its last values.
        shown.retain(|name, depth| {
            let is_served = platforms.iter().any(|platform_queue| platform_queue.name() == name);
            if !is_served {
                depth.clear();
            }
            is_served
        });
        for platform_queue in platforms.iter() {
            shown
                .entry(platform_queue.name().clone())
                .or_insert_with(|| platform_queue.depth.clone());
            let Ok(depth) = worker.queue.depth(&platform_queue.keys).await else { continue };
            platform_queue.depth.depth(
                depth.backlog,
                depth.pending,
                depth.retrying,
                depth.dead_letters,
            );
            let age = if platform_queue.is_paused() { None } else { depth.oldest_age_ms() };
            platform_queue.depth.oldest_age(Duration::from_millis(age.unwrap_or(0)));
            if depth.dead_letters < worker.dlq_max_len {
                platform_queue.note_dead_letters_full(false);
            }
        }
    }
}

/// Reports platforms that have unfinished events but no definition here. Their entries are never
/// acknowledged. Starts after registrations have been read, since registered platforms have a
/// definition.
pub async fn report_unhandled_platforms(worker: Arc<WorkerContext>) {
    if worker.stop.run_until_cancelled(worker.platforms.changes().complete()).await.is_none() {
        return;
    }
    let mut ticks = interval(UNHANDLED_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while worker.stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let Ok(index) = worker.queue.platforms().await else { continue };
        let known = |name: &PlatformName| {
            worker.platforms.all().iter().any(|platform_queue| platform_queue.name() == name)
        };
        let mut unknown: Vec<_> = index.into_iter().filter(|name| !known(name)).collect();
        // A platform that was just registered is known after this pause.
        if !unknown.is_empty()
            && worker
                .stop
                .run_until_cancelled(tokio::time::sleep(REGISTRATION_DELAY))
                .await
                .is_none()
        {
            return;
        }
        unknown.retain(|name| !known(name));
        let mut unhandled = 0;
        for name in &unknown {
            let depth = worker.queue.depth(&worker.queue.keys(name)).await.unwrap_or_default();
            if depth.length > 0 {
                unhandled += 1;
                tracing::error!(platform = %name, events = depth.length,
                    "events of a platform that this worker has no definition for; add it to \
                    PLATFORMS_FILE, or register it");
            }
        }
        worker.database_metrics.unhandled_platforms(unhandled);
    }
}

/// Reschedules orphans, and deletes idle consumers.
pub async fn sweep_and_reap(worker: Arc<WorkerContext>) {
    let mut cursors: HashMap<PlatformName, StreamId> = HashMap::new();
    let mut reaped: Option<Instant> = None;
    let mut ticks = interval(SWEEP_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while worker.stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let reap = reaped.is_none_or(|at| at.elapsed() >= REAP_INTERVAL);
        let platforms = worker.platforms.all();
        cursors
            .retain(|name, _| platforms.iter().any(|platform_queue| platform_queue.name() == name));
        for platform_queue in platforms.iter() {
            match sweep(&worker, platform_queue, cursors.get(platform_queue.name()).copied()).await
            {
                Some(cursor) => cursors.insert(platform_queue.name().clone(), cursor),
                None => cursors.remove(platform_queue.name()),
            };
            if reap
                && let Err(fault) =
                    worker.queue.reap_consumers(&platform_queue.keys, REAP_IDLE).await
            {
                tracing::debug!(platform = %platform_queue.name(), error = %fault,
                    "cannot delete idle consumers; retrying");
            }
        }
        if reap {
            reaped = Some(Instant::now());
        }
    }
}

/// Checks a few entries after `cursor`. Returns the next cursor.
async fn sweep(
    worker: &WorkerContext,
    platform_queue: &PlatformQueue,
    cursor: Option<StreamId>,
) -> Option<StreamId> {
    match worker.queue.sweep_orphans(&platform_queue.keys, cursor).await {
        Ok(swept) => {
            if swept.rescheduled > 0 {
                platform_queue.metrics.orphans(swept.rescheduled);
                platform_queue.rescheduled.store(true, std::sync::atomic::Ordering::Relaxed);
                worker.rescheduled.notify_one();
                tracing::error!(platform = %platform_queue.name(), entries = swept.rescheduled,
                    "orphans found and rescheduled");
            }
            swept.cursor
        }
        Err(fault) => {
            tracing::debug!(platform = %platform_queue.name(), error = %fault,
                "cannot sweep for orphans; retrying");
            cursor
        }
    }
}
