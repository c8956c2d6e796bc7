//! Connections to Redis.
//!
//! Guarantee: a [`Connection`] is never stuck. It connects on first use, so a process may start while Redis is away;
//! after a failure every later call tries again, at most once per [`FAILURE_PAUSE`] for all callers together, and one
//! that failed to connect says [`Fault::NotRun`]. redis-rs's own `ConnectionManager` is not used because it reconnects
//! after input/output errors only: one `max number of clients reached` or refused password while connecting is its last
//! answer for ever, and it cannot tell a call that was never sent from one whose reply was lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    AsyncConnectionConfig, Client, Cmd, FromRedisValue, IntoConnectionInfo, Pipeline, ProtocolVersion, RedisError,
    Value,
};
use secrecy::{ExposeSecret, SecretString};
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use super::Fault;

/// How long a command may take; redis-rs's own default of 500 ms is shorter than an fsync can be.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a connection may take to be established.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a blocking read may take: far longer than it blocks, and no longer than anybody should wait to learn that the
/// other side is gone. What Redis may have delivered by then is pending, and is claimed like anything else that is.
pub const READ_TIMEOUT: Duration = Duration::from_secs(15);
/// How long after a failed attempt to connect every call fails with the same error at once.
pub const FAILURE_PAUSE: Duration = Duration::from_millis(100);
/// After this many timeouts in a row the connection is replaced: a silent peer never closes it.
const TIMEOUTS_UNTIL_REPLACED: u32 = 3;
/// Commands that may wait to be written before callers do.
const PIPELINE_BUFFER: usize = 4096;

/// A configuration that can never connect.
#[derive(Debug, thiserror::Error)]
pub enum InvalidTarget {
    /// Not a Redis URL. The text is not shown, since it may hold a password.
    #[error("not a Redis URL (redis://[user:password@]host[:port][/db])")]
    Url,
    /// Redis Cluster.
    #[error("Redis Cluster is not available in this version")]
    Cluster,
}

/// A connection for everything but blocking reads: shared, multiplexed, reconnecting, cheap to clone.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    response_timeout: Duration,
    /// After this many timeouts in a row the connection is replaced.
    patience: u32,
    /// The runtime that drives the sockets: the one `connect` was called on, whoever uses the connection later.
    runtime: Handle,
    slot: Mutex<Slot>,
    timeouts: AtomicU32,
    established: AtomicU64,
}

#[derive(Default)]
struct Slot {
    live: Option<MultiplexedConnection>,
    /// Distinguishes connections, so that a late failure of an old one does not end the new one.
    generation: u64,
    failure: Option<(Instant, RedisError)>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// Prepares a connection; nothing is sent before the first call. Must be called on the runtime that is to drive it.
///
/// # Errors
/// When `url` is not a Redis URL, or a cluster is asked for.
pub fn connect(url: &SecretString, cluster: bool) -> Result<Connection, InvalidTarget> {
    Ok(Connection::new(client(url, cluster)?, RESPONSE_TIMEOUT, TIMEOUTS_UNTIL_REPLACED))
}

/// Prepares a connection of its own for one blocking reader: it waits [`READ_TIMEOUT`] for replies, then starts anew.
///
/// # Errors
/// As [`connect`].
pub fn blocking_connection(url: &SecretString, cluster: bool) -> Result<Reader, InvalidTarget> {
    Ok(Reader { connection: Connection::new(client(url, cluster)?, READ_TIMEOUT, 1) })
}

pub(super) fn client(url: &SecretString, cluster: bool) -> Result<Client, InvalidTarget> {
    if cluster {
        return Err(InvalidTarget::Cluster);
    }
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(10))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    let tcp =
        TcpSettings::default().set_nodelay(true).set_keepalive(keepalive).set_user_timeout(Duration::from_secs(10));
    let info = url.expose_secret().into_connection_info().map_err(|_| InvalidTarget::Url)?;
    // Replies are read by their RESP2 shapes, whatever the URL asks for.
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP2);
    let info = info.set_redis_settings(settings);
    Client::open(info.set_tcp_settings(tcp)).map_err(|_| InvalidTarget::Url)
}

impl Connection {
    fn new(client: Client, response_timeout: Duration, patience: u32) -> Self {
        Self {
            shared: Arc::new(Shared {
                client,
                response_timeout,
                patience,
                runtime: Handle::current(),
                slot: Mutex::default(),
                timeouts: AtomicU32::new(0),
                established: AtomicU64::new(0),
            }),
        }
    }

    /// How many connections were established so far: a change tells of a reconnect.
    #[must_use]
    pub fn established(&self) -> u64 {
        self.shared.established.load(Ordering::Relaxed)
    }

    /// Gives the connection up; the next call makes a new one, which may lead elsewhere.
    pub(super) async fn replace(&self) {
        self.shared.slot.lock().await.live = None;
    }

    /// Runs one command.
    ///
    /// # Errors
    /// [`Fault::NotRun`] when it certainly changed nothing, else [`Fault::Unknown`].
    pub async fn run(&self, command: &Cmd) -> Result<Value, Fault> {
        let (mut live, generation) = self.live().await?;
        let result = live.send_packed_command(command).await.and_then(Value::extract_error);
        self.observe(result, generation).await
    }

    /// Runs one command and reads its reply as `T`.
    ///
    /// # Errors
    /// As [`Self::run`]; a reply that is no `T` is [`Fault::Unknown`].
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Fault> {
        let value = self.run(command).await?;
        T::from_redis_value(value).map_err(|error| Fault::Unknown(error.into()))
    }

    /// Runs several commands in one round trip.
    ///
    /// # Errors
    /// As [`Self::query`].
    pub async fn pipeline<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, Fault> {
        let (mut live, generation) = self.live().await?;
        let result = commands.query_async(&mut live).await;
        self.observe(result, generation).await
    }

    async fn live(&self) -> Result<(MultiplexedConnection, u64), Fault> {
        let slot = self.shared.slot.lock().await;
        if let Some(live) = &slot.live {
            return Ok((live.clone(), slot.generation));
        }
        drop(slot);
        // In a task of its own, on the runtime that is to drive the socket, so that a caller who gives up stops nobody.
        let shared = Arc::clone(&self.shared);
        match self.shared.runtime.spawn(async move { shared.establish().await }).await {
            Ok(result) => result.map_err(Fault::NotRun),
            Err(_) => Err(Fault::NotRun((redis::ErrorKind::Client, "the runtime is shutting down").into())),
        }
    }

    async fn observe<T>(&self, result: Result<T, RedisError>, generation: u64) -> Result<T, Fault> {
        let error = match result {
            Ok(value) => {
                self.shared.timeouts.store(0, Ordering::Relaxed);
                return Ok(value);
            }
            Err(error) => error,
        };
        let silent =
            error.is_timeout() && self.shared.timeouts.fetch_add(1, Ordering::Relaxed) + 1 >= self.shared.patience;
        // A replica that was a master: the name may lead to the new one by now.
        let demoted = matches!(error.code(), Some("READONLY" | "MASTERDOWN"));
        if silent || demoted || error.is_unrecoverable_error() {
            let mut slot = self.shared.slot.lock().await;
            if slot.generation == generation {
                slot.live = None;
                self.shared.timeouts.store(0, Ordering::Relaxed);
            }
        }
        Err(Fault::classify(error))
    }
}

impl Shared {
    async fn establish(&self) -> Result<(MultiplexedConnection, u64), RedisError> {
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
            .set_response_timeout(Some(self.response_timeout))
            .set_pipeline_buffer_size(PIPELINE_BUFFER);
        match self.client.get_multiplexed_async_connection_with_config(&config).await {
            Ok(live) => {
                slot.generation += 1;
                slot.live = Some(live.clone());
                slot.failure = None;
                self.established.fetch_add(1, Ordering::Relaxed);
                Ok((live, slot.generation))
            }
            Err(error) => {
                slot.failure = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }
}

/// So that redis-rs's own commands can be used where this crate has no method.
impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> redis::RedisFuture<'a, Value> {
        Box::pin(async move { self.run(cmd).await.map_err(Fault::into_error) })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        cmd: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> redis::RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let (mut live, generation) = self.live().await.map_err(Fault::into_error)?;
            let result = live.send_packed_commands(cmd, offset, count).await;
            self.observe(result, generation).await.map_err(Fault::into_error)
        })
    }

    fn get_db(&self) -> i64 {
        self.shared.client.get_connection_info().redis_settings().db()
    }
}

/// The connection of one blocking reader.
///
/// A read must never be cancelled (`select!`, `timeout`, abort): the server would still hand the next entry to this
/// consumer, and nobody would see it until the consumer reads its own pending entries again. Use short blocks, and look
/// for a shutdown between two reads.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
}

impl Reader {
    pub(crate) async fn run(&mut self, command: &Cmd) -> Result<Value, Fault> {
        self.connection.run(command).await
    }
}
