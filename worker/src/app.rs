//! Starting a worker and stopping it.
//!
//! Guarantee: it starts while Redis or the database is away, says so at `/ready`, and begins when they are there. When it
//! is told to stop it takes nothing new, finishes what it holds within the grace period, and hands back the rest.

use std::sync::atomic::AtomicI64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use shared::backoff::Backoff;
use shared::config::DurabilityMode;
use shared::metrics::{self, DatabaseMetrics, DependencyMetrics};
use shared::ops;
use shared::platform::registry::Registry;
use shared::queue::keys::DESTINATION_URLS;
use shared::queue::{
    HealthMonitor, KeyLayout, Queue, RedisConnection, StreamReader, blocking_connection, connect,
};
use shared::registration::Live;
use shared::trace;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::WorkerConfig;
use crate::consumer::{self, claimer, inflight::InFlight, reader};
use crate::context::{LastDatabaseOutage, WorkerContext};
use crate::forward::{self, Forwarding};
use crate::identity::NameLease;
use crate::platforms::PlatformQueues;
use crate::routes;
use crate::startup_status::StartupStatus;
use crate::store::{OpenError, Store, StoreOptions};
use crate::{identity, registrations, retention, retry, upkeep};

/// Batches that may wait for the consume loop; what is held is bounded by the in-flight set.
const BATCH_CHANNEL_CAPACITY: usize = 256;
/// Part of the grace period that is kept for handing back.
const HAND_BACK_TIMEOUT: Duration = Duration::from_secs(3);
/// Part of that in which renewals come to their end.
const SIDE_TASKS_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a worker did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// What the operator set cannot work; trying again cannot help. Exit status 2.
    #[error("{0}")]
    Configuration(String),
    /// A part of the process failed.
    #[error("{what}")]
    Failed {
        /// What was attempted.
        what: &'static str,
        /// What came of it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl WorkerError {
    fn failed(what: &'static str) -> impl FnOnce(Box<dyn std::error::Error + Send + Sync>) -> Self {
        move |source| Self::Failed { what, source }
    }
}

/// Runs a worker until `stop`.
///
/// # Errors
/// When it cannot start, or when one of its loops ends before it was told to stop.
pub async fn run(
    config: WorkerConfig,
    platforms: Registry,
    stop: CancellationToken,
) -> Result<(), WorkerError> {
    let recorder =
        metrics::install().map_err(|error| WorkerError::failed("metrics")(error.into()))?;
    let done = CancellationToken::new();
    metrics::spawn_upkeep(recorder.clone(), done.clone());
    let started: routes::StartedWorker = Arc::new(OnceLock::new());
    let startup_status = Arc::new(StartupStatus::default());
    let ops = serve_ops(&config, recorder, &started, &startup_status)?;

    let tracing = trace::start(config.common.trace.as_ref(), "tributary-worker");
    let grace = config.common.shutdown_grace;
    // Nothing is in hand until the start is complete, so that every wait in it may be cut off.
    let begun =
        match stop.run_until_cancelled(start(&config, &platforms, &startup_status, &stop)).await {
            Some(begun) => begun?,
            None => None,
        };
    let result = match begun {
        Some((worker, redis, lease)) => {
            let _ = started.set(Arc::clone(&worker));
            // Workers verify nothing, so they open no secret.
            let live = Live::start(worker.queue.clone(), platforms, None, stop.clone());
            let target = forward::RedisTarget {
                url: config.common.redis_url.clone(),
                cluster: config.common.redis_cluster,
            };
            run_loops(
                worker,
                redis,
                lease,
                live,
                target,
                grace.saturating_sub(tracing.flush_timeout(grace)),
            )
            .await
        }
        None => Ok(()),
    };
    done.cancel();
    tracing.finish(grace).await;
    ops.stop().await;
    result
}

fn serve_ops(
    config: &WorkerConfig,
    recorder: metrics_exporter_prometheus::PrometheusHandle,
    started: &routes::StartedWorker,
    startup_status: &Arc<StartupStatus>,
) -> Result<ops::OpsServer, WorkerError> {
    let (ready, startup_status) = (Arc::clone(started), Arc::clone(startup_status));
    let readiness: ops::ReadinessCheck = Arc::new(move || {
        ready.get().map_or_else(|| Err(startup_status.reason()), |worker| worker.readiness())
    });
    let (started, token) = (Arc::clone(started), config.common.admin_token.clone());
    let routes = move |service: &mut actix_web::web::ServiceConfig| {
        routes::configure(service, Arc::clone(&started), token.clone());
    };
    ops::serve_with(config.common.ops_bind, recorder, readiness, routes).map_err(|error| {
        WorkerError::Configuration(format!(
            "OPS_BIND: cannot listen on {}: {error}",
            config.common.ops_bind
        ))
    })
}

/// Everything up to the first read; `None`: told to stop before it was through.
async fn start(
    config: &WorkerConfig,
    platforms: &Registry,
    startup_status: &StartupStatus,
    stop: &CancellationToken,
) -> Result<Option<(Arc<WorkerContext>, StreamReader, NameLease)>, WorkerError> {
    let url = &config.common.redis_url;
    let unusable =
        |error: &dyn std::fmt::Display| WorkerError::Configuration(format!("REDIS_URL: {error}"));
    let connection: RedisConnection =
        connect(url, config.common.redis_cluster).map_err(|error| unusable(&error))?;
    let reader =
        blocking_connection(url, config.common.redis_cluster).map_err(|error| unusable(&error))?;
    let queue = Queue::new(KeyLayout::of(config.common.redis_cluster), connection);
    let redis = HealthMonitor::new(queue.clone()).spawn(stop.clone());
    startup_status.watch(redis.clone());
    let strict = config.common.durability == DurabilityMode::Strict;

    // Shown as down from the start, or a worker that waits for its database would raise no alert.
    let database_metrics = DatabaseMetrics::new();
    let Some(()) = identity::check_layout(&queue, stop).await? else { return Ok(None) };
    let Some(store) = open_store(config, &queue, startup_status, stop).await? else {
        return Ok(None);
    };
    database_metrics.database_up(true);
    if strict && !is_durable(&store, startup_status, stop).await {
        return Err(WorkerError::Configuration(
            "DATABASE_URL: DURABILITY=strict needs a database with fsync on".to_owned(),
        ));
    }
    let agreed = identity::check_database(&queue, &store, config.adopt_database, stop).await;
    let Ok(Some(())) = agreed else {
        // A refused database keeps no log that belongs to it.
        store.close().await;
        return agreed.map(|_| None);
    };
    let Some(lease) = identity::acquire_name(&config.name, &queue, stop).await? else {
        return Ok(None);
    };

    let forwarding = Forwarding::new(&config.outbound, config.common.sealer.clone());
    let Some(()) = bind(&forwarding, &queue, stop).await else { return Ok(None) };

    let recovered_at = AtomicI64::new(redis.borrow().now_ms());
    let worker = Arc::new(WorkerContext {
        platforms: PlatformQueues::new(platforms, &queue),
        queue,
        forwarding,
        store,
        rescheduled: Notify::new(),
        inflight: InFlight::default(),
        policy: config.policy,
        consumer: lease.name.clone(),
        dlq_max_len: config.dlq_max_len,
        retention: config.retention.clone(),
        claim_idle: config.claim_idle,
        strict,
        redis,
        database: watch::Sender::new(true),
        database_outage: LastDatabaseOutage::default(),
        recovered_at,
        database_metrics,
        stop: stop.clone(),
    });
    for platform_queue in worker.platforms.all().iter() {
        // A failure here is repaired by the reader.
        let _ = reader::ensure_group(&worker, platform_queue).await;
    }
    tracing::info!(consumer = worker.consumer, platforms = worker.platforms.all().len(), "working");
    Ok(Some((worker, reader, lease)))
}

/// Finds the queues of all destinations: no event is settled before. `None`: told to stop.
async fn bind(forwarding: &Forwarding, queue: &Queue, stop: &CancellationToken) -> Option<()> {
    let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    for attempt in 1.. {
        match forwarding.bind(queue).await {
            Ok(_) => break,
            Err(fault) => {
                tracing::warn!(
                    key = DESTINATION_URLS,
                    error = consumer::chain(&fault),
                    "queues of destinations cannot be found; trying again"
                );
            }
        }
        stop.run_until_cancelled(tokio::time::sleep(backoff.delay(attempt, &mut rand::rng())))
            .await?;
    }
    Some(())
}

/// Whether the database keeps what it commits; waits until it says so.
async fn is_durable(
    store: &Store,
    startup_status: &StartupStatus,
    stop: &CancellationToken,
) -> bool {
    loop {
        match store.is_durable().await {
            Ok(durable) => return durable,
            Err(error) => startup_status.note_database(consumer::chain(error.cause())),
        }
        if stop.run_until_cancelled(tokio::time::sleep(Duration::from_secs(1))).await.is_none() {
            return true;
        }
    }
}

async fn open_store(
    config: &WorkerConfig,
    queue: &Queue,
    startup_status: &StartupStatus,
    stop: &CancellationToken,
) -> Result<Option<Store>, WorkerError> {
    let mut options = StoreOptions { create_file: false, ..StoreOptions::default() };
    let backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    for attempt in 1.. {
        match Store::open(&config.database_url, &options).await {
            Ok(store) => {
                startup_status.note_database_ready();
                return Ok(Some(store));
            }
            Err(OpenError::NoFile(_)) => {
                let Some(()) =
                    identity::check_may_create(queue, config.adopt_database, stop).await?
                else {
                    return Ok(None);
                };
                options.create_file = true;
                continue;
            }
            Err(OpenError::Unavailable(error)) => {
                startup_status.note_database(consumer::chain(error.cause()))
            }
            Err(error) => return Err(WorkerError::Configuration(consumer::chain(&error))),
        }
        let pause = backoff.delay(attempt, &mut rand::rng());
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            break;
        }
    }
    Ok(None)
}

/// Runs every loop until the worker is to stop, then winds down.
async fn run_loops(
    worker: Arc<WorkerContext>,
    redis: StreamReader,
    lease: NameLease,
    live: Live,
    target: forward::RedisTarget,
    grace: Duration,
) -> Result<(), WorkerError> {
    let (batches, received) = mpsc::channel(BATCH_CHANNEL_CAPACITY);
    let finished = CancellationToken::new();
    let mut side = JoinSet::new();
    side.spawn(claimer::renew(Arc::clone(&worker), finished.clone()));
    side.spawn(identity::renew_name(worker.queue.clone(), lease.clone(), finished.clone()));
    side.spawn(upkeep::watch_database(Arc::clone(&worker)));
    side.spawn(upkeep::watch_redis(Arc::clone(&worker), DependencyMetrics::new()));
    side.spawn(upkeep::publish_depths(Arc::clone(&worker)));
    side.spawn(upkeep::report_unhandled_platforms(Arc::clone(&worker)));
    side.spawn(upkeep::sweep_and_reap(Arc::clone(&worker)));
    side.spawn(forward::parked::watch(Arc::clone(&worker)));
    side.spawn(retention::run(Arc::clone(&worker)));
    side.spawn(registrations::follow(Arc::clone(&worker), live.clone()));
    side.spawn(registrations::remove_drained_platforms(Arc::clone(&worker), live));
    // Nothing is touched before it is known what is paused.
    let (known_done, mut known_seen) = watch::channel(false);
    side.spawn({
        let worker = Arc::clone(&worker);
        async move {
            let _ = known_seen.wait_for(|done| *done).await;
            retry::run(worker).await;
        }
    });

    let mut loops = JoinSet::new();
    loops.spawn({
        let worker = Arc::clone(&worker);
        async move {
            let grace = grace.saturating_sub(HAND_BACK_TIMEOUT + SIDE_TASKS_TIMEOUT);
            let stop = worker.stop.clone();
            if let Err(error) = forward::run(worker, target, grace).await {
                tracing::error!(error = consumer::chain(&error), "nothing can be forwarded");
                // Sessions do not need destinations. A task that panicked ends the worker, as
                // everywhere.
                if !matches!(error, forward::ForwardError::Task(_)) {
                    stop.cancelled().await;
                }
            }
        }
    });
    loops.spawn(consumer::run(Arc::clone(&worker), received));
    // What an earlier process of this name left comes before anything new.
    let (own_done, own_seen) = watch::channel(false);
    loops.spawn({
        let (worker, batches, mut own_seen) = (Arc::clone(&worker), batches.clone(), own_seen);
        async move {
            let _ = own_seen.wait_for(|done| *done).await;
            claimer::run(worker, batches).await;
        }
    });
    loops.spawn({
        let worker = Arc::clone(&worker);
        async move {
            registrations::wait_for_registrations(&worker).await;
            known_done.send_replace(true);
            claimer::recover_own_pending(&worker, &batches).await;
            own_done.send_replace(true);
            reader::run(worker, redis, batches).await;
        }
    });

    // Until told to stop, no loop may end: one that panicked over an event must take the process with it, so that the
    // event is found by its delivery count.
    let broken = tokio::select! {
        // First, since the order to stop makes loops return, too.
        biased;
        () = worker.stop.cancelled() => None,
        Some(ended) = loops.join_next() => Some(ended),
        Some(ended) = side.join_next() => Some(ended),
    };
    if let Some(ended) = broken {
        let source = ended.err().map_or_else(|| "it returned".into(), Into::into);
        return Err(WorkerError::failed("a loop of the worker ended before its time")(source));
    }
    let drain = async { while loops.join_next().await.is_some() {} };
    if tokio::time::timeout(grace.saturating_sub(HAND_BACK_TIMEOUT), drain).await.is_err() {
        tracing::warn!("the grace period is over; handing back what is not finished");
        loops.shutdown().await;
    }
    // A renewal that came after it would undo the handing back.
    finished.cancel();
    let shutdown_tasks = async {
        let _ = tokio::time::timeout(SIDE_TASKS_TIMEOUT, async {
            while side.join_next().await.is_some() {}
        })
        .await;
        claimer::hand_back(&worker).await;
        worker.store.close().await;
        let _ = worker.queue.release_lease(&lease.name, &lease.token).await;
    };
    let _ = tokio::time::timeout(HAND_BACK_TIMEOUT, shutdown_tasks).await;
    tracing::info!("stopped");
    Ok(())
}
