//! The connection to one server.
//!
//! Guarantee: it is never stuck. It connects on first use, so a process may start while Redis is away; after a failure
//! every later call tries again, at most once per [`FAILURE_PAUSE`] for all callers together, and one that failed to
//! connect says [`CallError::NotRun`]. redis-rs's own `ConnectionManager` is not used because it reconnects after
//! input/output errors only: one `max number of clients reached` or refused password while connecting is its last
//! answer for ever, and it cannot tell a call that was never sent from one whose reply was lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, Pipeline, RedisError, Value};
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use super::super::CallError;
use super::{CONNECT_TIMEOUT, FAILURE_PAUSE};

/// Commands that may wait to be written before callers do.
const PIPELINE_BUFFER: usize = 4096;

/// How a connection behaves.
#[derive(Clone, Debug)]
pub(super) struct NodeConfig {
    /// How long a command may take.
    pub(super) response_timeout: Duration,
    /// After this many timeouts in a row the connection is replaced: a silent peer never closes it.
    pub(super) patience: u32,
    /// The runtime that drives the sockets: the one `connect` was called on, whoever uses the connection later.
    pub(super) runtime: Handle,
    /// Counts connections that were established, of all nodes together.
    pub(super) connection_epoch: Arc<AtomicU64>,
}

impl NodeConfig {
    pub(super) fn new(response_timeout: Duration, patience: u32) -> Self {
        Self {
            response_timeout,
            patience,
            runtime: Handle::current(),
            connection_epoch: Arc::default(),
        }
    }
}

/// A connection to one server: shared, multiplexed, reconnecting, cheap to clone.
#[derive(Clone)]
pub(super) struct NodeConnection {
    shared: Arc<NodeInner>,
}

/// A socket, and which one in the row.
pub(super) type LiveConnection = (MultiplexedConnection, u64);

struct NodeInner {
    client: Client,
    manner: NodeConfig,
    slot: Mutex<ConnectionSlot>,
    timeouts: AtomicU32,
}

#[derive(Default)]
struct ConnectionSlot {
    live: Option<MultiplexedConnection>,
    /// Distinguishes connections, so that a late failure of an old one does not end the new one.
    generation: u64,
    failure: Option<(Instant, RedisError)>,
}

impl std::fmt::Debug for NodeConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node({})", self.address())
    }
}

impl NodeConnection {
    pub(super) fn new(client: Client, manner: NodeConfig) -> Self {
        let (slot, timeouts) = (Mutex::default(), AtomicU32::new(0));
        Self { shared: Arc::new(NodeInner { client, manner, slot, timeouts }) }
    }

    /// `host:port`.
    pub(super) fn address(&self) -> String {
        self.client().get_connection_info().addr().to_string()
    }

    pub(super) fn client(&self) -> &Client {
        &self.shared.client
    }

    /// How many connections were established so far, by all that share this one's manner.
    pub(super) fn connection_epoch(&self) -> u64 {
        self.shared.manner.connection_epoch.load(Ordering::Relaxed)
    }

    /// Gives the connection up; the next call makes a new one, which may lead elsewhere.
    pub(super) async fn replace(&self) {
        self.shared.slot.lock().await.live = None;
    }

    /// Runs one command.
    pub(super) async fn run(&self, command: &Cmd) -> Result<Value, CallError> {
        let mut live = self.live().await?;
        self.send(&mut live, command).await
    }

    /// Runs one command on a slot that is about to move here.
    pub(super) async fn run_asking(&self, command: &Cmd) -> Result<Value, CallError> {
        let (mut live, generation) = self.live().await?;
        let mut both = redis::pipe();
        both.cmd("ASKING");
        both.add_command(command.clone());
        let answer = live.send_packed_commands(&both, 1, 1).await;
        let answer = answer
            .and_then(|answers| answers.into_iter().next().unwrap_or(Value::Nil).extract_error());
        self.observe(answer, generation).await
    }

    /// Runs several commands in one round trip and reads their replies as `T`.
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

    /// Sends one command over this very socket.
    pub(super) async fn send(
        &self,
        (live, generation): &mut LiveConnection,
        command: &Cmd,
    ) -> Result<Value, CallError> {
        let result = live.send_packed_command(command).await.and_then(Value::extract_error);
        self.observe(result, *generation).await
    }

    /// The socket in use, or a new one.
    pub(super) async fn live(&self) -> Result<LiveConnection, CallError> {
        let slot = self.shared.slot.lock().await;
        if let Some(live) = &slot.live {
            return Ok((live.clone(), slot.generation));
        }
        drop(slot);
        // In a task of its own, on the runtime that is to drive the socket, so that a caller who gives up stops nobody.
        let shared = Arc::clone(&self.shared);
        match self.shared.manner.runtime.spawn(async move { shared.establish().await }).await {
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
        let silent = error.is_timeout()
            && self.shared.timeouts.fetch_add(1, Ordering::Relaxed) + 1
                >= self.shared.manner.patience;
        // A replica that was a master: the name may lead to the new one by now.
        let demoted = matches!(error.code(), Some("READONLY" | "MASTERDOWN"));
        if silent || demoted || error.is_unrecoverable_error() {
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
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(self.manner.response_timeout))
            .set_pipeline_buffer_size(PIPELINE_BUFFER);
        match self.client.get_multiplexed_async_connection_with_config(&config).await {
            Ok(live) => {
                slot.generation += 1;
                slot.live = Some(live.clone());
                slot.failure = None;
                self.manner.connection_epoch.fetch_add(1, Ordering::Relaxed);
                Ok((live, slot.generation))
            }
            Err(error) => {
                slot.failure = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }
}
