//! What a worker does on the side: watching the database, showing depths, putting orphans back, tidying up.
//!
//! Guarantee: none of it is needed for an event to be processed, and none of it ends before the worker is to stop.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use shared::event::StreamId;
use shared::metrics::{DependencyMetrics, QueueMetrics};
use shared::platform::PlatformName;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::context::{PlatformQueue, WorkerContext};
use crate::identity;

/// How often a database that commits is asked whether it still does.
const DATABASE_PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// How often depths are read.
const DEPTHS_INTERVAL: Duration = Duration::from_secs(5);
/// How often platforms without a definition are looked for.
const UNHANDLED_INTERVAL: Duration = Duration::from_secs(30);
/// How soon a platform that was registered is known here.
const REGISTRATION_DELAY: Duration = Duration::from_secs(2);
/// How often a few entries per platform are looked at for orphans.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
/// How often, and from which idle time on, consumers with nothing pending are forgotten.
const REAP_INTERVAL: Duration = Duration::from_secs(600);
const REAP_IDLE: Duration = Duration::from_secs(3600);

/// Watches the database until the worker is to stop. The consume loop notes outages too; this also works when idle.
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

/// Passes on what the monitor of Redis finds. Returns early, which ends the worker, when Redis was replaced by one that
/// belongs to another session database.
pub async fn watch_redis(worker: Arc<WorkerContext>, metrics: DependencyMetrics) {
    let mut redis = worker.redis.clone();
    let (mut data_lost, mut was_up, mut jumps) = (0, false, 0);
    loop {
        let health = redis.borrow_and_update().clone();
        // Whoever waits has not waited for as long as the clock was set ahead.
        let jumped = health.clock_steps > std::mem::replace(&mut jumps, health.clock_steps);
        if jumped {
            tracing::warn!(skew_ms = health.skew_ms, "Redis's clock was set");
        }
        if jumped || health.up && !std::mem::replace(&mut was_up, health.up) {
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
            tracing::error!(
                "Redis was emptied or replaced: events that were accepted before may be lost"
            );
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

/// Shows how full every platform is.
pub async fn publish_depths(worker: Arc<WorkerContext>) {
    let mut shown: HashMap<PlatformName, QueueMetrics> = HashMap::new();
    let mut ticks = interval(DEPTHS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while worker.stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let platforms = worker.platforms.all();
        // What is gone shows nothing any more, instead of what it was last.
        shown.retain(|name, depth| {
            let there = platforms.iter().any(|platform_queue| platform_queue.name() == name);
            if !there {
                depth.clear();
            }
            there
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

/// Looks for platforms that have unfinished events and no definition here: they are reported and never acked. Begins when
/// registrations have been read, since those that were registered are not among them.
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
        // One that was registered a moment ago is known by then.
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
                    "events of a platform that this worker has no definition for; add it to PLATFORMS_FILE, or register it");
            }
        }
        worker.database_metrics.unhandled_platforms(unhandled);
    }
}

/// Puts orphans back and forgets consumers that are gone.
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
                tracing::debug!(platform = %platform_queue.name(), error = %fault, "consumers not looked through");
            }
        }
        if reap {
            reaped = Some(Instant::now());
        }
    }
}

/// Looks at a few entries after `cursor`; says where to go on.
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
                tracing::error!(platform = %platform_queue.name(), entries = swept.rescheduled, "orphans were put back");
            }
            swept.cursor
        }
        Err(fault) => {
            tracing::debug!(platform = %platform_queue.name(), error = %fault, "orphans not looked for");
            cursor
        }
    }
}
