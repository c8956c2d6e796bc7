//! Connection to one server.
//!
//! # Guarantees
//!
//! - It connects on first use, so a process may start before Redis
//!   (`connection_may_be_created_before_redis_starts`).
//! - After a failure every later call reconnects, at most once per [`FAILURE_PAUSE`] for all
//!   callers together. A call that could not connect returns [`CallError::NotRun`]
//!   (`calls_without_redis_fail_fast`).
//! - A refusal while connecting is not final (`connection_recovers_after_a_refused_connect`).
//!
//! # Design
//!
//! `ConnectionManager` of redis-rs is not used: it reconnects after I/O errors only, so one refusal
//! while connecting (`max number of clients reached`, a wrong password) would be its last answer.
//! It also cannot distinguish a call that was never sent from one whose reply was lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, Pipeline, RedisError, Value};
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use super::super::CallError;
use super::{CONNECT_TIMEOUT, FAILURE_PAUSE};

/// Commands that may be buffered before callers have to wait.
const PIPELINE_BUFFER: usize = 4096;

/// Settings of a connection.
#[derive(Clone, Debug)]
pub(super) struct NodeConfig {
    /// Timeout of a command.
    pub(super) response_timeout: Duration,
    /// Consecutive timeouts after which the connection is replaced: a silent peer never closes it.
    pub(super) max_timeouts: u32,
    /// Runtime that drives the sockets: the one that `connect` was called on.
    pub(super) runtime: Handle,
    /// Number of connections established by all nodes that share this counter.
    pub(super) connection_epoch: Arc<AtomicU64>,
}

impl NodeConfig {
    pub(super) fn new(response_timeout: Duration, max_timeouts: u32) -> Self {
        Self {
            response_timeout,
            max_timeouts,
            runtime: Handle::current(),
            connection_epoch: Arc::default(),
        }
    }
}

/// Connection to one server: shared, multiplexed, reconnecting, cheap to clone.
#[derive(Clone)]
pub(super) struct NodeConnection {
    shared: Arc<NodeInner>,
}

/// Socket and its generation.
pub(super) type LiveConnection = (MultiplexedConnection, u64);

struct NodeInner {
    client: Client,
    config: NodeConfig,
    slot: Mutex<ConnectionSlot>,
    timeouts: AtomicU32,
}

#[derive(Default)]
struct ConnectionSlot {
    live: Option<MultiplexedConnection>,
    /// Number of this connection, so that a late failure of an old one does not end the new one.
    generation: u64,
    failure: Option<(Instant, RedisError)>,
}

impl std::fmt::Debug for NodeConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NodeConnection({})", self.address())
    }
}

impl NodeConnection {
    pub(super) fn new(client: Client, config: NodeConfig) -> Self {
        let (slot, timeouts) = (Mutex::default(), AtomicU32::new(0));
        Self { shared: Arc::new(NodeInner { client, config, slot, timeouts }) }
    }

    /// Address as `host:port`.
    pub(super) fn address(&self) -> String {
        self.client().get_connection_info().addr().to_string()
    }

    pub(super) fn client(&self) -> &Client {
        &self.shared.client
    }

    /// Number of connections established by all nodes that share the counter.
    pub(super) fn connection_epoch(&self) -> u64 {
        self.shared.config.connection_epoch.load(Ordering::Relaxed)
    }

    /// Drops the connection. The next call opens a new one, which may lead to another server.
    pub(super) async fn replace(&self) {
        self.shared.slot.lock().await.live = None;
    }

    /// Runs one command.
    pub(super) async fn run(&self, command: &Cmd) -> Result<Value, CallError> {
        let mut live = self.live().await?;
        self.send(&mut live, command).await
    }

    /// Runs one command on a slot that is being moved to this node.
    pub(super) async fn run_asking(&self, command: &Cmd) -> Result<Value, CallError> {
        let (mut live, generation) = self.live().await?;
        let mut both = redis::pipe();
        both.cmd("ASKING");
        both.add_command(command.clone());
        let reply = live.send_packed_commands(&both, 1, 1).await;
        let reply = reply
            .and_then(|replies| replies.into_iter().next().unwrap_or(Value::Nil).extract_error());
        self.observe(reply, generation).await
    }

    /// Runs several commands in one round trip and parses their replies as `T`.
    pub(super) async fn pipeline<T: FromRedisValue>(
        &self,
        commands: &Pipeline,
    ) -> Result<T, CallError> {
        let (mut live, generation) = self.live().await?;
        let result = commands.query_async(&mut live).await;
        self.observe(result, generation).await
    }

    /// Runs several commands in one round trip.
    pub(super) async fn run_all(
        &self,
        commands: &Pipeline,
        offset: usize,
        count: usize,
    ) -> Result<Vec<Value>, CallError> {
        let (mut live, generation) = self.live().await?;
        let result = live.send_packed_commands(commands, offset, count).await;
        self.observe(result, generation).await
    }

    /// Sends one command over this socket.
    pub(super) async fn send(
        &self,
        (live, generation): &mut LiveConnection,
        command: &Cmd,
    ) -> Result<Value, CallError> {
        let result = live.send_packed_command(command).await.and_then(Value::extract_error);
        self.observe(result, *generation).await
    }

    /// Returns the current socket, or opens a new one.
    pub(super) async fn live(&self) -> Result<LiveConnection, CallError> {
        let slot = self.shared.slot.lock().await;
        if let Some(live) = &slot.live {
            return Ok((live.clone(), slot.generation));
        }
        drop(slot);
        // Runs in its own task on the runtime of the sockets, so that a cancelled caller stops no
        // other.
        let shared = Arc::clone(&self.shared);
        match self.shared.config.runtime.spawn(async move { shared.establish().await }).await {
            Ok(result) => result.map_err(CallError::NotRun),
            Err(_) => Err(CallError::NotRun(
                (redis::ErrorKind::Client, "the runtime is shutting down").into(),
            )),
        }
    }

    async fn observe<T>(
        &self,
        result: Result<T, RedisError>,
        generation: u64,
    ) -> Result<T, CallError> {
        let error = match result {
            Ok(value) => {
                self.shared.timeouts.store(0, Ordering::Relaxed);
                return Ok(value);
            }
            Err(error) => error,
        };
        let timed_out = error.is_timeout()
            && self.shared.timeouts.fetch_add(1, Ordering::Relaxed) + 1
                >= self.shared.config.max_timeouts;
        // The server was demoted, and its name may lead to the new primary by now.
        let demoted = matches!(error.code(), Some("READONLY" | "MASTERDOWN"));
        if timed_out || demoted || error.is_unrecoverable_error() {
            let mut slot = self.shared.slot.lock().await;
            if slot.generation == generation {
                slot.live = None;
                self.shared.timeouts.store(0, Ordering::Relaxed);
            }
        }
        Err(CallError::classify(error))
    }
}

impl NodeInner {
    async fn establish(&self) -> Result<LiveConnection, RedisError> {
        let mut slot = self.slot.lock().await;
        if let Some(live) = &slot.live {
            return Ok((live.clone(), slot.generation));
        }
        if let Some((at, error)) = &slot.failure
            && at.elapsed() < FAILURE_PAUSE
        {
            return Err(error.clone());
        }
        let options = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(self.config.response_timeout))
            .set_pipeline_buffer_size(PIPELINE_BUFFER);
        match self.client.get_multiplexed_async_connection_with_config(&options).await {
            Ok(live) => {
                slot.generation += 1;
                slot.live = Some(live.clone());
                slot.failure = None;
                self.config.connection_epoch.fetch_add(1, Ordering::Relaxed);
                Ok((live, slot.generation))
            }
            Err(error) => {
                slot.failure = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }
}
