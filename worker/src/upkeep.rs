//! What a worker does on the side: watching the database, showing depths, putting orphans back, tidying up.
//!
//! Guarantee: none of it is needed for an event to be processed, and none of it ends before the worker is to stop.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use shared::event::StreamId;
use shared::metrics::DependencyMetrics;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::identity;
use crate::worker::{Lane, Worker};

/// How often a database that commits is asked whether it still does.
const DATABASE_UP_EVERY: Duration = Duration::from_secs(10);
/// How often depths are read.
const DEPTHS_EVERY: Duration = Duration::from_secs(5);
/// How often platforms without a definition are looked for.
const INDEX_EVERY: Duration = Duration::from_secs(30);
/// How often a few entries per platform are looked at for orphans.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// How often, and from which idle time on, consumers with nothing pending are forgotten.
const REAP_EVERY: Duration = Duration::from_secs(600);
const REAP_IDLE: Duration = Duration::from_secs(3600);

/// Watches the database until the worker is to stop. The consume loop notes outages too; this also works when idle.
pub async fn watch_database(worker: Arc<Worker>) {
    let mut asked: Option<Instant> = None;
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while worker.stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let due = asked.is_none_or(|at| at.elapsed() >= DATABASE_UP_EVERY);
        if due || !worker.database_up() {
            worker.note_database(worker.store.probe().await.is_ok());
            asked = Some(Instant::now());
        }
    }
}

/// Passes on what the monitor of Redis finds. Returns early, which ends the worker, when Redis was replaced by one that
/// belongs to another session database.
pub async fn watch_redis(worker: Arc<Worker>, metrics: DependencyMetrics) {
    let mut redis = worker.redis.clone();
    let (mut data_lost, mut was_up) = (0, false);
    loop {
        let health = redis.borrow_and_update().clone();
        if health.up && !std::mem::replace(&mut was_up, health.up) {
            worker.note_back();
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
            tracing::error!("Redis was emptied or replaced: events that were accepted before may be lost");
            if let Err(error) = identity::agree(&worker.queue, &worker.store, false, &worker.stop).await {
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
pub async fn show_depths(worker: Arc<Worker>) {
    let mut ticks = interval(DEPTHS_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while worker.stop.run_until_cancelled(ticks.tick()).await.is_some() {
        for lane in &worker.lanes {
            let Ok(depth) = worker.queue.depth(&lane.keys).await else { continue };
            lane.depth.depth(depth.backlog, depth.pending, depth.retrying, depth.dead_letters);
            let age = if lane.platform.paused { None } else { depth.oldest_age_ms() };
            lane.depth.oldest_age(Duration::from_millis(age.unwrap_or(0)));
            if depth.dead_letters < worker.dlq_max_len {
                lane.depth.dead_letters_full(false);
            }
        }
    }
}

/// Looks for platforms that have unfinished events and no definition here: they are reported and never acked.
pub async fn find_unhandled(worker: Arc<Worker>) {
    let known: HashSet<_> = worker.lanes.iter().map(|lane| lane.name().clone()).collect();
    let mut ticks = interval(INDEX_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while worker.stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let Ok(index) = worker.queue.platforms().await else { continue };
        let mut unhandled = 0;
        for name in index.iter().filter(|name| !known.contains(*name)) {
            let depth = worker.queue.depth(&worker.queue.keys(name)).await.unwrap_or_default();
            if depth.length > 0 {
                unhandled += 1;
                tracing::error!(platform = %name, events = depth.length,
                    "events of a platform that this worker has no definition for; add it to PLATFORMS_FILE");
            }
        }
        worker.database_metrics.unhandled_platforms(unhandled);
    }
}

/// Puts orphans back and forgets consumers that are gone.
pub async fn tidy(worker: Arc<Worker>) {
    let mut cursors: Vec<Option<StreamId>> = vec![None; worker.lanes.len()];
    let mut reaped: Option<Instant> = None;
    let mut ticks = interval(SWEEP_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while worker.stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let reap = reaped.is_none_or(|at| at.elapsed() >= REAP_EVERY);
        for (lane, cursor) in worker.lanes.iter().zip(&mut cursors) {
            sweep(&worker, lane, cursor).await;
            if reap && let Err(fault) = worker.queue.reap_consumers(&lane.keys, REAP_IDLE).await {
                tracing::debug!(platform = %lane.name(), error = %fault, "consumers not looked through");
            }
        }
        if reap {
            reaped = Some(Instant::now());
        }
    }
}

async fn sweep(worker: &Worker, lane: &Lane, cursor: &mut Option<StreamId>) {
    match worker.queue.sweep_orphans(&lane.keys, *cursor).await {
        Ok(swept) => {
            *cursor = swept.cursor;
            if swept.rescheduled > 0 {
                lane.metrics.orphans(swept.rescheduled);
                lane.rescheduled.store(true, std::sync::atomic::Ordering::Relaxed);
                worker.rescheduled.notify_one();
                tracing::error!(platform = %lane.name(), entries = swept.rescheduled, "orphans were put back");
            }
        }
        Err(fault) => tracing::debug!(platform = %lane.name(), error = %fault, "orphans not looked for"),
    }
}
