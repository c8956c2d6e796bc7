//! Starts and stops a worker.
//!
//! # Guarantees
//! - A worker starts while Redis or the database is unavailable. It reports so at `/ready` and
//!   begins once both answer (`ingress_and_worker_start_during_a_redis_outage`,
//!   `worker_waits_for_the_database_at_start`).
//! - A stopping worker takes no new entries, finishes what it holds within the grace period, and
//!   hands back the rest (`stopping_worker_finishes_or_hands_back_its_entries`).

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
use shared::registration::RegistrationStore;
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

/// Batches that may wait for the consume loop. The in-flight set bounds what they hold.
const BATCH_CHANNEL_CAPACITY: usize = 256;
/// Part of the grace period that is reserved for handing back entries.
const HAND_BACK_TIMEOUT: Duration = Duration::from_secs(3);
/// Part of [`HAND_BACK_TIMEOUT`] in which the side tasks end.
const SIDE_TASKS_TIMEOUT: Duration = Duration::from_secs(1);

/// Reason why a worker did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A setting that cannot work, so that a retry cannot help. Exit status 2.
    #[error("{0}")]
    Configuration(String),
    /// A part of the process that failed.
    #[error("{what}")]
    Failed {
        /// Attempted action.
        what: &'static str,
        /// Cause of the failure.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl WorkerError {
    fn failed(what: &'static str) -> impl FnOnce(Box<dyn std::error::Error + Send + Sync>) -> Self {
        move |source| Self::Failed { what, source }
    }
}

/// Runs a worker until `stop` is cancelled.
///
/// # Errors
/// If the worker cannot start, or if one of its loops ends before `stop`.
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
    // The worker holds no entries before the start is complete, so each wait may be cancelled.
    let started_parts =
        match stop.run_until_cancelled(start(&config, &platforms, &startup_status, &stop)).await {
            Some(started_parts) => started_parts?,
            None => None,
        };
    let result = match started_parts {
        Some((worker, redis, lease)) => {
            let _ = started.set(Arc::clone(&worker));
            // Workers verify no requests, so they decrypt no secrets.
            let live =
                RegistrationStore::start(worker.queue.clone(), platforms, None, stop.clone());
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

/// Connects, and prepares everything up to the first read. Returns `None` if the worker is stopped
/// before that.
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

    // Reported as down from the start, so that a worker that waits for its database raises an
    // alert.
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
        // Closing applies the write-ahead log, so that none stays beside the refused database.
        store.close().await;
        return agreed.map(|_| None);
    };
    let Some(lease) = identity::acquire_name(&config.name, &queue, stop).await? else {
        return Ok(None);
    };

    let forwarding = Forwarding::new(&config.outbound, config.common.sealer.clone());
    let Some(()) = bind_destinations(&forwarding, &queue, stop).await else { return Ok(None) };

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
        // The reader creates the group later if this fails.
        let _ = reader::ensure_group(&worker, platform_queue).await;
    }
    tracing::info!(consumer = worker.consumer, platforms = worker.platforms.all().len(), "working");
    Ok(Some((worker, reader, lease)))
}

/// Finds the queues of all destinations, which settling needs. Returns `None` if the worker is
/// stopped.
async fn bind_destinations(
    forwarding: &Forwarding,
    queue: &Queue,
    stop: &CancellationToken,
) -> Option<()> {
    let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    for attempt in 1.. {
        match forwarding.bind(queue).await {
            Ok(_) => break,
            Err(fault) => {
                tracing::warn!(
                    key = DESTINATION_URLS,
                    error = consumer::error_chain(&fault),
                    "cannot find the queues of destinations; retrying"
                );
            }
        }
        stop.run_until_cancelled(tokio::time::sleep(backoff.delay(attempt, &mut rand::rng())))
            .await?;
    }
    Some(())
}

/// Returns true if commits survive a power loss. Waits until the database answers.
async fn is_durable(
    store: &Store,
    startup_status: &StartupStatus,
    stop: &CancellationToken,
) -> bool {
    loop {
        match store.is_durable().await {
            Ok(durable) => return durable,
            Err(error) => startup_status.note_database(consumer::error_chain(error.cause())),
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
                startup_status.note_database(consumer::error_chain(error.cause()))
            }
            Err(error) => return Err(WorkerError::Configuration(consumer::error_chain(&error))),
        }
        let pause = backoff.delay(attempt, &mut rand::rng());
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            break;
        }
    }
    Ok(None)
}

/// Runs all loops until the worker is stopped, then shuts down.
async fn run_loops(
    worker: Arc<WorkerContext>,
    redis: StreamReader,
    lease: NameLease,
    live: RegistrationStore,
    target: forward::RedisTarget,
    grace: Duration,
) -> Result<(), WorkerError> {
    let (batches, received) = mpsc::channel(BATCH_CHANNEL_CAPACITY);
    let finished = CancellationToken::new();
    let mut side = JoinSet::new();
    side.spawn(claimer::extend_claims(Arc::clone(&worker), finished.clone()));
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
    // The worker touches no platform before it knows which ones are paused.
    let (registrations_known, mut await_registrations) = watch::channel(false);
    side.spawn({
        let worker = Arc::clone(&worker);
        async move {
            let _ = await_registrations.wait_for(|done| *done).await;
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
                tracing::error!(
                    error = consumer::error_chain(&error),
                    "forwarding failed; no delivery is sent"
                );
                // Sessions do not need destinations. A task that panicked ends the worker, as
                // everywhere.
                if !matches!(error, forward::ForwardError::Task(_)) {
                    stop.cancelled().await;
                }
            }
        }
    });
    loops.spawn(consumer::run(Arc::clone(&worker), received));
    // Entries that an earlier process of this name left come before new ones.
    let (own_recovered, await_own) = watch::channel(false);
    loops.spawn({
        let (worker, batches, mut await_own) = (Arc::clone(&worker), batches.clone(), await_own);
        async move {
            let _ = await_own.wait_for(|done| *done).await;
            claimer::run(worker, batches).await;
        }
    });
    loops.spawn({
        let worker = Arc::clone(&worker);
        async move {
            registrations::wait_for_registrations(&worker).await;
            registrations_known.send_replace(true);
            claimer::recover_own_pending(&worker, &batches).await;
            own_recovered.send_replace(true);
            reader::run(worker, redis, batches).await;
        }
    });

    // No loop may end before the worker is stopped. A loop that panics over an event must take the
    // process with it, so that the event's delivery count rises.
    let broken = tokio::select! {
        // First, because loops return after a stop as well.
        biased;
        () = worker.stop.cancelled() => None,
        Some(ended) = loops.join_next() => Some(ended),
        Some(ended) = side.join_next() => Some(ended),
    };
    if let Some(ended) = broken {
        let source = ended.err().map_or_else(|| "it returned".into(), Into::into);
        return Err(WorkerError::failed("a loop of the worker ended unexpectedly")(source));
    }
    let drain = async { while loops.join_next().await.is_some() {} };
    if tokio::time::timeout(grace.saturating_sub(HAND_BACK_TIMEOUT), drain).await.is_err() {
        tracing::warn!("the grace period is over; handing back unfinished entries");
        loops.shutdown().await;
    }
    // A claim that is extended after the hand-back would undo it.
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
