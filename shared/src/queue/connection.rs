//! Connections to Redis, to a single server or a cluster.
//!
//! # Guarantees
//!
//! - A process may start before Redis: a [`RedisConnection`] connects on first use
//!   (`connection_may_be_created_before_redis_starts`).
//! - After a failure every later call reconnects, at most once per [`FAILURE_PAUSE`] for all
//!   callers together. A call that could not connect returns [`CallError::NotRun`]
//!   (`calls_without_redis_fail_fast`).
//! - Only a call that certainly did not run is sent again
//!   (`call_that_may_have_run_is_not_repeated`).
//! - On a cluster every call goes to the node that serves its key, also after the slot has moved
//!   (`slot_migration_under_load_loses_nothing`).

mod blocking;
mod cluster;
mod confirm;
mod node;
mod reader;
mod resp;
mod slots;

use std::sync::Arc;
use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    Client, Cmd, ConnectionInfo, FromRedisValue, IntoConnectionInfo, Pipeline, ProtocolVersion,
    Value,
};
use secrecy::{ExposeSecret, SecretString};

pub use confirm::ReplicaAck;
pub use reader::StreamReader;
pub(super) use reader::pages;

use super::CallError;
use blocking::BlockingConnection;
use cluster::{Cluster, Primary};
use confirm::ReplicatedConnection;
use node::{NodeConfig, NodeConnection};

/// Timeout of a command. The default of redis-rs, 500 ms, is shorter than an fsync can take.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Timeout for establishing a connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Timeout of a blocking read: much longer than a read blocks, and short enough to notice a lost
/// peer. Entries that Redis delivered by then are pending, and are read after the next connect.
pub const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Time after a failed connect during which every call fails at once with the same error.
pub const FAILURE_PAUSE: Duration = Duration::from_millis(100);
/// Consecutive timeouts after which the connection is replaced: a silent peer never closes it.
const TIMEOUTS_UNTIL_REPLACED: u32 = 3;

/// Redis URL that can never be connected to.
#[derive(Debug, thiserror::Error)]
pub enum RedisUrlError {
    /// Not a Redis URL. The text is not shown, because it may hold a password.
    #[error(
        "must be of the form redis://[user:password@]host[:port][/database]; of a cluster, several \
         with commas between"
    )]
    Url,
    /// A database other than 0, which a cluster does not have.
    #[error("a Redis Cluster has no database but 0")]
    Database,
}

/// Connection for everything but blocking reads: shared, multiplexed, reconnecting, cheap to clone.
#[derive(Clone)]
pub struct RedisConnection {
    kind: ConnectionKind,
}

#[derive(Clone)]
enum ConnectionKind {
    Single(NodeConnection, Option<Arc<ReplicatedConnection>>),
    Cluster(Arc<Cluster>),
}

impl std::fmt::Debug for RedisConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisConnection").finish_non_exhaustive()
    }
}

/// Prepares a connection and sends nothing before the first call. Must be called on the runtime
/// that is to drive the sockets. For a cluster, `url` may list several nodes, separated by commas.
///
/// # Errors
/// If `url` is not a Redis URL, or cannot be one of a cluster although `cluster` is set.
pub fn connect(url: &SecretString, cluster: bool) -> Result<RedisConnection, RedisUrlError> {
    connect_confirming(url, cluster, None)
}

/// Like [`connect`], with the replicas that must confirm the calls of
/// [`RedisConnection::run_confirmed`].
///
/// # Errors
/// As [`connect`].
pub fn connect_confirming(
    url: &SecretString,
    cluster: bool,
    confirmation: Option<ReplicaAck>,
) -> Result<RedisConnection, RedisUrlError> {
    let config = NodeConfig::new(RESPONSE_TIMEOUT, TIMEOUTS_UNTIL_REPLACED);
    let kind = if cluster {
        ConnectionKind::Cluster(Arc::new(Cluster::new(seeds(url)?, config, confirmation)))
    } else {
        let client = client(url)?;
        let confirmed = confirmation
            .map(|wait| Arc::new(ReplicatedConnection::new(client.clone(), &config, wait)));
        ConnectionKind::Single(NodeConnection::new(client, config), confirmed)
    };
    Ok(RedisConnection { kind })
}

/// Prepares connections for one reader, with [`READ_TIMEOUT`] as the timeout of a read.
///
/// # Errors
/// As [`connect`].
pub fn blocking_connection(
    url: &SecretString,
    cluster: bool,
) -> Result<StreamReader, RedisUrlError> {
    if cluster {
        // No read blocks on a cluster, see `StreamReader`.
        let config = NodeConfig::new(RESPONSE_TIMEOUT, 1);
        return Ok(StreamReader::of_cluster(Arc::new(Cluster::new(seeds(url)?, config, None))));
    }
    Ok(StreamReader::of_single(BlockingConnection::new(client(url)?)))
}

/// Servers that a subscription can connect to.
#[derive(Clone)]
pub(super) enum SubscriptionTargets {
    Single(Client),
    Cluster(Arc<Cluster>),
}

impl SubscriptionTargets {
    pub(super) fn new(url: &SecretString, cluster: bool) -> Result<Self, RedisUrlError> {
        if cluster {
            let config = NodeConfig::new(RESPONSE_TIMEOUT, TIMEOUTS_UNTIL_REPLACED);
            return Ok(Self::Cluster(Arc::new(Cluster::new(seeds(url)?, config, None))));
        }
        Ok(Self::Single(client(url)?))
    }

    /// Returns clients in order of preference; never empty.
    pub(super) async fn clients(&self) -> Vec<Client> {
        match self {
            Self::Single(client) => vec![client.clone()],
            Self::Cluster(cluster) => cluster.clients().await,
        }
    }

    /// Starts a refresh of the cluster's map.
    pub(super) fn refresh(&self) {
        if let Self::Cluster(cluster) = self {
            cluster.refresh_current_map();
        }
    }
}

impl std::fmt::Debug for SubscriptionTargets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SubscriptionTargets").finish_non_exhaustive()
    }
}

/// Checks the form of `url` without connecting.
///
/// # Errors
/// As [`connect`].
pub fn check_redis_url(url: &SecretString, cluster: bool) -> Result<(), RedisUrlError> {
    if cluster { seeds(url).map(drop) } else { client(url).map(drop) }
}

fn client(url: &SecretString) -> Result<Client, RedisUrlError> {
    Client::open(info(url.expose_secret())?).map_err(|_| RedisUrlError::Url)
}

fn seeds(url: &SecretString) -> Result<Vec<ConnectionInfo>, RedisUrlError> {
    let seeds: Vec<_> =
        url.expose_secret().split(',').map(|url| info(url.trim())).collect::<Result<_, _>>()?;
    cluster::reachable(&seeds)?;
    if seeds.iter().any(|seed| seed.redis_settings().db() != 0) {
        return Err(RedisUrlError::Database);
    }
    Ok(seeds)
}

fn info(url: &str) -> Result<ConnectionInfo, RedisUrlError> {
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(10))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    let tcp = TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(keepalive)
        .set_user_timeout(Duration::from_secs(10));
    let info = url.into_connection_info().map_err(|_| RedisUrlError::Url)?;
    // The parsers of this crate expect RESP2, so the URL cannot choose another protocol.
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP2);
    Ok(info.set_redis_settings(settings).set_tcp_settings(tcp))
}

impl RedisConnection {
    /// Number of connections established so far; it changes with every reconnect.
    #[must_use]
    pub fn connection_epoch(&self) -> u64 {
        match &self.kind {
            ConnectionKind::Single(node, _) => node.connection_epoch(),
            ConnectionKind::Cluster(cluster) => cluster.connection_epoch(),
        }
    }

    /// Drops the connection. The next call opens a new one, which may lead to another server.
    pub(super) async fn replace(&self) {
        match &self.kind {
            ConnectionKind::Single(node, _) => node.replace().await,
            ConnectionKind::Cluster(cluster) => cluster.refresh_current_map(),
        }
    }

    /// Runs one command.
    ///
    /// # Errors
    /// [`CallError::NotRun`] if the command certainly changed nothing, else [`CallError::Unknown`].
    pub async fn run(&self, command: &Cmd) -> Result<Value, CallError> {
        match &self.kind {
            ConnectionKind::Single(node, _) => node.run(command).await,
            ConnectionKind::Cluster(cluster) => cluster.run(command, None, false).await,
        }
    }

    /// Runs one command and waits for the replicas of [`connect_confirming`], if it named any. They
    /// then have everything that the reply is based on, also if the command wrote nothing.
    ///
    /// # Errors
    /// As [`Self::run`]. Also [`CallError::Unknown`] if the replicas did not confirm in time.
    pub async fn run_confirmed(&self, command: &Cmd) -> Result<Value, CallError> {
        match &self.kind {
            ConnectionKind::Single(_, Some(confirmed)) => confirmed.run(command).await,
            ConnectionKind::Single(node, None) => node.run(command).await,
            ConnectionKind::Cluster(cluster) => cluster.run(command, None, true).await,
        }
    }

    /// Runs `command` on the server that would run `like`.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub(super) async fn run_on_same_node(
        &self,
        like: &Cmd,
        command: &Cmd,
    ) -> Result<Value, CallError> {
        match &self.kind {
            ConnectionKind::Single(node, _) => node.run(command).await,
            ConnectionKind::Cluster(cluster) => cluster.run(command, Some(like), false).await,
        }
    }

    /// Runs one command and parses its reply as `T`.
    ///
    /// # Errors
    /// As [`Self::run`]; [`CallError::Unknown`] if the reply is not a `T`.
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, CallError> {
        let value = self.run(command).await?;
        T::from_redis_value(value).map_err(|error| CallError::Unknown(error.into()))
    }

    /// Runs several commands that write nothing, in one round trip.
    ///
    /// # Errors
    /// As [`Self::query`].
    pub async fn pipeline<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, CallError> {
        match &self.kind {
            ConnectionKind::Single(node, _) => node.pipeline(commands).await,
            ConnectionKind::Cluster(cluster) => {
                let all = cluster.run_all(commands).await?;
                T::from_redis_value(Value::Array(all))
                    .map_err(|error| CallError::Unknown(error.into()))
            }
        }
    }

    /// Returns true if `key` is on `server` according to the current map.
    pub(super) fn key_is_on(&self, server: &RedisNode, key: &str) -> bool {
        match &self.kind {
            ConnectionKind::Single(..) => true,
            ConnectionKind::Cluster(cluster) => {
                cluster.primary_for_key(key).is_some_and(|name| name == server.name)
            }
        }
    }

    /// All servers that accept writes. On a cluster each has its address and its lowest slot.
    pub(super) async fn servers(&self) -> Result<Vec<RedisNode>, CallError> {
        match &self.kind {
            ConnectionKind::Single(node, _) => {
                Ok(vec![RedisNode { name: String::new(), slot: None, node: node.clone() }])
            }
            ConnectionKind::Cluster(cluster) => {
                let server = |primary: Arc<Primary>| RedisNode {
                    name: primary.node.address(),
                    slot: cluster.first_slot_of(&primary),
                    node: primary.node.clone(),
                };
                Ok(cluster.primaries().await?.into_iter().map(server).collect())
            }
        }
    }
}

/// Single server, addressed directly.
pub(super) struct RedisNode {
    /// Address on a cluster; empty on a single server.
    pub(super) name: String,
    /// Lowest slot that it serves.
    pub(super) slot: Option<u16>,
    node: NodeConnection,
}

impl RedisNode {
    pub(super) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, CallError> {
        let value = self.node.run(command).await?;
        T::from_redis_value(value).map_err(|error| CallError::Unknown(error.into()))
    }
}

/// Finds a hash tag that hashes to `slot`.
pub(super) fn hash_tag_for_slot(slot: u16) -> u32 {
    (0..)
        .find(|tag: &u32| slots::slot_of_key(tag.to_string().as_bytes()) == slot)
        .unwrap_or_default()
}

/// Allows the use of redis-rs's own commands where this crate has no method.
impl ConnectionLike for RedisConnection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> redis::RedisFuture<'a, Value> {
        Box::pin(async move { self.run(cmd).await.map_err(CallError::into_error) })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        cmd: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> redis::RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            match &self.kind {
                ConnectionKind::Single(node, _) => {
                    node.run_all(cmd, offset, count).await.map_err(CallError::into_error)
                }
                ConnectionKind::Cluster(cluster) => {
                    cluster.run_all(cmd).await.map_err(CallError::into_error)
                }
            }
        })
    }

    fn get_db(&self) -> i64 {
        match &self.kind {
            ConnectionKind::Single(node, _) => {
                node.client().get_connection_info().redis_settings().db()
            }
            ConnectionKind::Cluster(_) => 0,
        }
    }
}
