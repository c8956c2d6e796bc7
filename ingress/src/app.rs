//! Starts ingress, runs it, and shuts it down.
//!
//! # Guarantees
//!
//! - A shutdown loses no accepted event and answers every request in progress, within
//!   `SHUTDOWN_GRACE_MS`. (`stopping_ingress_answers_requests_in_flight`)
//!
//! # Design
//!
//! The order of a shutdown: `/ready` fails, new connections are refused, requests in progress are
//! answered, the batcher drains.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use actix_web::dev::ServerHandle;
use actix_web::web::Data;
use shared::config::AdminToken;
use shared::metrics::DependencyMetrics;
use shared::ops::{self, ReadinessCheck};
use shared::outbound::client::ClientSetupError;
use shared::platform::PlatformName;
use shared::queue::{self, HealthMonitor, KeyLayout, Queue, RedisUrlError};
use shared::registration::RegistrationStore;
use shared::trace;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::connections::{self, Connections};
use crate::handlers::outbound::OutboundState;
use crate::handlers::stats::StatisticsSource;
use crate::memory_backpressure::{BackpressureQueue, MemoryBackpressure};
use crate::pipeline::{Batcher, BodyReader, Pipeline, WaiterRegistry};
use crate::redis_gate::{self, RedisGate, RedisMismatchError};
use crate::server::IngressServer;
use crate::targets::{LiveTargets, TargetDefaults};

/// Time that a start waits for Redis before it continues without it.
const STARTUP_WAIT: Duration = Duration::from_millis(500);
/// Least time for the batcher to drain after the last request, even if no grace is left.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// State that all handlers share.
pub(crate) struct AppState {
    /// Platforms by the names in paths.
    pub(crate) targets: LiveTargets,
    /// Ingest path of verified webhooks.
    pub(crate) pipeline: Pipeline,
    /// Token of the admin routes.
    pub(crate) admin_token: Option<AdminToken>,
    /// Source of the statistics routes.
    pub(crate) statistics: StatisticsSource,
    /// Destinations of processed events.
    pub(crate) outbound: OutboundState,
}

/// Reason why ingress cannot start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// `REDIS_URL` cannot be used.
    #[error("REDIS_URL: {0}")]
    Redis(#[from] RedisUrlError),
    /// This Redis must not be written to.
    #[error(transparent)]
    Mismatch(#[from] RedisMismatchError),
    /// The address cannot be bound.
    #[error("{variable}: cannot listen on {address}")]
    Bind {
        /// Variable that configured the address.
        variable: &'static str,
        /// Address to bind.
        address: SocketAddr,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The metrics recorder cannot be installed.
    #[error("metrics recorder cannot be installed")]
    Metrics(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The HTTP client for destinations cannot be built.
    #[error(transparent)]
    Outbound(#[from] ClientSetupError),
    /// The HTTP server stopped with an error.
    #[error("the HTTP server failed")]
    Server(#[source] io::Error),
    /// A task ended that must run until shutdown.
    #[error("{0} ended unexpectedly")]
    Ended(&'static str),
}

impl RunError {
    /// Returns true if the configuration has to be changed.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::Redis(_) | Self::Mismatch(_) | Self::Bind { .. })
    }
}

/// Runs ingress until `stop` is cancelled. Redis does not have to be available.
///
/// Call it once per process, on the runtime that is to drive Redis.
///
/// # Errors
/// See [`RunError`].
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), RunError> {
    let prometheus = shared::metrics::install().map_err(|error| RunError::Metrics(error.into()))?;
    // Requests in progress still need these tasks, so they are stopped last.
    let background = CancellationToken::new();
    let _ends_with_this = background.clone().drop_guard();
    shared::metrics::spawn_upkeep(prometheus.clone(), background.clone());
    let tracing = trace::start(config.common.trace.as_ref(), "tributary-ingress");

    let (url, cluster) = (&config.common.redis_url, config.common.redis_cluster);
    let queue = Queue::new(
        KeyLayout::of(cluster),
        queue::connect_confirming(url, cluster, config.confirmation)?,
    );
    let health = HealthMonitor::new(queue.clone()).spawn(background.clone());
    let pressure = MemoryBackpressure::default();
    let health_for_backpressure = health.clone();
    let gate = RedisGate::new(health, config.is_strict(), queue.connection().clone());
    let mut watching =
        tokio::spawn(redis_gate::watch(gate.clone(), queue.clone(), DependencyMetrics::new()));
    let sealer = config.common.sealer.clone();
    let live = RegistrationStore::start(
        queue.clone(),
        config.registry.clone(),
        Some(sealer),
        background.clone(),
    );
    let flush = CancellationToken::new();
    let backpressure_queue = BackpressureQueue { queue: queue.clone(), pressure: pressure.clone() };
    let (batcher, batching) = Batcher::start(backpressure_queue, flush.clone());
    let waiters = WaiterRegistry::new(queue.clone(), config.max_waiters, stop.clone());
    waiters.listen(url, cluster, background.clone())?;

    let listening = Arc::new(AtomicBool::new(false));
    let readiness = readiness(gate.clone(), live.clone(), stop.clone(), listening.clone());
    let ops = ops::serve(config.common.ops_bind, prometheus, readiness).map_err(|source| {
        RunError::Bind { variable: "OPS_BIND", address: config.common.ops_bind, source }
    })?;
    tokio::select! {
        opened = gate.wait_open(STARTUP_WAIT) => if let Err(reason) = opened {
            tracing::warn!(reason, "Redis is not ready; starting anyway and answering 503");
        },
        ended = &mut watching => return Err(watch_ended(ended)),
    }
    let mut known = live.subscribe();
    // Until registrations are read, requests for registered platforms get 503.
    let _ = timeout(STARTUP_WAIT, known.wait_for(Option::is_some)).await;
    let grace = config.common.shutdown_grace;
    let (server, serving, following, state) =
        serve(config, queue.clone(), gate, batcher, waiters, live, background.clone())?;
    let configured = move || state.targets.configured();
    tokio::spawn(pressure.follow(queue, health_for_backpressure, configured, background.clone()));
    listening.store(true, Ordering::Release);

    let mut tasks = IngressTasks { server, serving, batching, watching, following };
    let ended = tokio::select! {
        () = stop.cancelled() => Ok(()),
        failed = tasks.failed() => Err(failed),
    };
    tasks.stop(grace.saturating_sub(tracing.flush_timeout(grace)), flush).await;
    tracing.finish(grace).await;
    ops.stop().await;
    ended
}

type ServerTask = JoinHandle<io::Result<()>>;

fn serve(
    config: Config,
    queue: Queue,
    gate: RedisGate,
    batcher: Batcher,
    waiters: WaiterRegistry,
    live: RegistrationStore,
    stop: CancellationToken,
) -> Result<(ServerHandle, ServerTask, JoinHandle<()>, Data<AppState>), RunError> {
    let defaults = TargetDefaults {
        layout: queue.layout(),
        dedup_ttl: config.dedup_ttl,
        max_backlog: config.max_backlog,
        max_dead_letters: config.max_dead_letters,
    };
    let ingress = Data::new(AppState {
        targets: LiveTargets::new(&config.registry, config.keys, defaults, Some(live))
            .with_verify_tokens(config.verify_tokens),
        pipeline: Pipeline {
            body_reader: BodyReader::new(
                config.max_body,
                config.body_timeout,
                config.max_in_flight,
            ),
            gate,
            batcher,
            waiters,
        },
        admin_token: config.common.admin_token,
        outbound: OutboundState::new(queue.clone(), config.outbound, config.common.sealer.clone())?,
        statistics: StatisticsSource { queue, public: config.stats_public },
    });
    if let Some(known) = ingress.targets.live().and_then(RegistrationStore::current) {
        ingress.targets.apply(&known);
    }
    log_platforms(&ingress.targets);
    let follower = ingress.clone();
    let connections = Connections::new(
        connections::limit_to_open_files(config.max_connections),
        config.keep_alive,
    );
    let per_thread = connections::per_thread(connections.max_connections(), config.workers);
    let serving = IngressServer { ingress: ingress.clone(), connections, stop: stop.clone() };
    let following = tokio::spawn(async move { follower.targets.follow(stop).await });
    let (server, address) = serving
        .listen(config.bind, config.workers, per_thread, config.common.shutdown_grace)
        .map_err(|source| RunError::Bind {
            variable: "INGRESS_BIND",
            address: config.bind,
            source,
        })?;
    tracing::info!(role = "ingress", %address, "listening");
    Ok((server.handle(), tokio::spawn(server), following, ingress))
}

fn log_platforms(targets: &LiveTargets) {
    let platforms = targets.configured();
    let platforms: Vec<_> = platforms.iter().map(PlatformName::as_str).collect();
    match platforms.as_slice() {
        [] => tracing::warn!("no platform is configured; refusing every webhook"),
        platforms => tracing::info!(platforms = platforms.join(" "), "receiving webhooks"),
    }
}

fn readiness(
    gate: RedisGate,
    live: RegistrationStore,
    stop: CancellationToken,
    listening: Arc<AtomicBool>,
) -> ReadinessCheck {
    Arc::new(move || match gate.unready_reason() {
        _ if stop.is_cancelled() => Err("shutting down".to_owned()),
        _ if !listening.load(Ordering::Acquire) => Err("not listening yet".to_owned()),
        Some(reason) => Err(reason),
        None if live.current().is_none() => Err("registrations have not been read yet".to_owned()),
        None => Ok(()),
    })
}

fn watch_ended(ended: Result<Result<(), RedisMismatchError>, JoinError>) -> RunError {
    match ended {
        Ok(Err(mismatch)) => RunError::Mismatch(mismatch),
        Ok(Ok(())) | Err(_) => RunError::Ended("the task that watches Redis"),
    }
}

/// Tasks that run until shutdown.
struct IngressTasks {
    server: ServerHandle,
    serving: ServerTask,
    batching: JoinHandle<()>,
    watching: JoinHandle<Result<(), RedisMismatchError>>,
    following: JoinHandle<()>,
}

impl IngressTasks {
    /// Waits for a task that ends without having been asked to.
    async fn failed(&mut self) -> RunError {
        tokio::select! {
            ended = &mut self.serving => match ended {
                Ok(Err(error)) => RunError::Server(error),
                Ok(Ok(())) | Err(_) => RunError::Ended("the HTTP server"),
            },
            _ = &mut self.batching => RunError::Ended("the batcher"),
            _ = &mut self.following => RunError::Ended("the task that follows registrations"),
            ended = &mut self.watching => watch_ended(ended),
        }
    }

    async fn stop(self, grace: Duration, flush: CancellationToken) {
        let until = Instant::now() + grace;
        if timeout(grace, self.server.stop(true)).await.is_err() {
            tracing::warn!("shutdown grace expired with requests in progress; dropping them");
            drop(self.server.stop(false));
        }
        flush.cancel();
        let rest = until.saturating_duration_since(Instant::now()).max(DRAIN_TIMEOUT);
        // The batcher also ends by itself, once no sender is left.
        if !self.batching.is_finished() && timeout(rest, self.batching).await.is_err() {
            tracing::warn!(
                "shutdown grace expired with events on their way to Redis; dropping them"
            );
        }
        tracing::info!("stopped");
    }
}
