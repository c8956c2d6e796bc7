//! Connections to Redis: to one server, or to a cluster.
//!
//! Guarantee: a [`RedisConnection`] is never stuck. It connects on first use, so a process may start while Redis is away;
//! after a failure every later call tries again, at most once per [`FAILURE_PAUSE`] for all callers together, and one
//! that failed to connect says [`CallError::NotRun`]. On a cluster every call goes to the node that serves its key, wherever
//! that has moved to; only a call that certainly did not run is sent again.

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

/// How long a command may take; redis-rs's own default of 500 ms is shorter than an fsync can be.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a connection may take to be established.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a blocking read may take: much longer than it blocks, and no longer than anybody should wait to learn that the
/// other side is not heard any more. What Redis may have delivered by then is pending, and is taken up after the next
/// connect.
pub const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// How long after a failed attempt to connect every call fails with the same error at once.
pub const FAILURE_PAUSE: Duration = Duration::from_millis(100);
/// After this many timeouts in a row the connection is replaced: a silent peer never closes it.
const TIMEOUTS_UNTIL_REPLACED: u32 = 3;

/// A configuration that can never connect.
#[derive(Debug, thiserror::Error)]
pub enum RedisUrlError {
    /// Not a Redis URL. The text is not shown, since it may hold a password.
    #[error(
        "must be of the form redis://[user:password@]host[:port][/database]; of a cluster, several with commas between"
    )]
    Url,
    /// A database number other than 0, which a cluster does not have.
    #[error("a Redis Cluster has no database but 0")]
    Database,
}

/// A connection for everything but blocking reads: shared, multiplexed, reconnecting, cheap to clone.
#[derive(Clone)]
pub struct RedisConnection {
    kind: ConnectionKind,
}

#[derive(Clone)]
enum ConnectionKind {
    One(NodeConnection, Option<Arc<ReplicatedConnection>>),
    Cluster(Arc<Cluster>),
}

impl std::fmt::Debug for RedisConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// Prepares a connection; nothing is sent before the first call. Must be called on the runtime that is to drive it. The
/// URL of a cluster may be several, with commas between: nodes that can be asked first.
///
/// # Errors
/// When `url` is not a Redis URL, or no cluster's although one is asked for.
pub fn connect(url: &SecretString, cluster: bool) -> Result<RedisConnection, RedisUrlError> {
    connect_confirming(url, cluster, None)
}

/// [`connect`], where what [`RedisConnection::run_confirmed`] writes must reach replicas first.
///
/// # Errors
/// As [`connect`].
pub fn connect_confirming(
    url: &SecretString,
    cluster: bool,
    confirmation: Option<ReplicaAck>,
) -> Result<RedisConnection, RedisUrlError> {
    let manner = NodeConfig::new(RESPONSE_TIMEOUT, TIMEOUTS_UNTIL_REPLACED);
    let kind = if cluster {
        ConnectionKind::Cluster(Arc::new(Cluster::new(seeds(url)?, manner, confirmation)))
    } else {
        let client = client(url)?;
        let confirmed = confirmation
            .map(|wait| Arc::new(ReplicatedConnection::new(client.clone(), &manner, wait)));
        ConnectionKind::One(NodeConnection::new(client, manner), confirmed)
    };
    Ok(RedisConnection { kind })
}

/// Prepares connections of its own for one reader: it waits [`READ_TIMEOUT`] for replies, then starts anew.
///
/// # Errors
/// As [`connect`].
pub fn blocking_connection(
    url: &SecretString,
    cluster: bool,
) -> Result<StreamReader, RedisUrlError> {
    if cluster {
        // Nothing blocks there, see the reader.
        let manner = NodeConfig::new(RESPONSE_TIMEOUT, 1);
        return Ok(StreamReader::of_cluster(Arc::new(Cluster::new(seeds(url)?, manner, None))));
    }
    Ok(StreamReader::of_one(BlockingConnection::new(client(url)?)))
}

/// What can be connected to for something else than commands, see [`SubscriptionTargets::clients`].
#[derive(Clone)]
pub(super) enum SubscriptionTargets {
    One(Client),
    Cluster(Arc<Cluster>),
}

impl SubscriptionTargets {
    pub(super) fn new(url: &SecretString, cluster: bool) -> Result<Self, RedisUrlError> {
        if cluster {
            let manner = NodeConfig::new(RESPONSE_TIMEOUT, TIMEOUTS_UNTIL_REPLACED);
            return Ok(Self::Cluster(Arc::new(Cluster::new(seeds(url)?, manner, None))));
        }
        Ok(Self::One(client(url)?))
    }

    /// Clients, any of which will do; never none.
    pub(super) async fn clients(&self) -> Vec<Client> {
        match self {
            Self::One(client) => vec![client.clone()],
            Self::Cluster(cluster) => cluster.clients().await,
        }
    }

    /// Lets what is known about a cluster be asked for again.
    pub(super) fn refresh(&self) {
        if let Self::Cluster(cluster) = self {
            cluster.refresh_current_map();
        }
    }
}

impl std::fmt::Debug for SubscriptionTargets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Targets").finish_non_exhaustive()
    }
}

/// Whether `url` can be connected to at all, were Redis there.
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
    // Replies are read by their RESP2 shapes, whatever the URL asks for.
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP2);
    Ok(info.set_redis_settings(settings).set_tcp_settings(tcp))
}

impl RedisConnection {
    /// How many connections were established so far: a change tells of a reconnect.
    #[must_use]
    pub fn connection_epoch(&self) -> u64 {
        match &self.kind {
            ConnectionKind::One(node, _) => node.connection_epoch(),
            ConnectionKind::Cluster(cluster) => cluster.connection_epoch(),
        }
    }

    /// Gives the connection up; the next call makes a new one, which may lead elsewhere.
    pub(super) async fn replace(&self) {
        match &self.kind {
            ConnectionKind::One(node, _) => node.replace().await,
            ConnectionKind::Cluster(cluster) => cluster.refresh_current_map(),
        }
    }

    /// Runs one command.
    ///
    /// # Errors
    /// [`CallError::NotRun`] when it certainly changed nothing, else [`CallError::Unknown`].
    pub async fn run(&self, command: &Cmd) -> Result<Value, CallError> {
        match &self.kind {
            ConnectionKind::One(node, _) => node.run(command).await,
            ConnectionKind::Cluster(cluster) => cluster.run(command, None, false).await,
        }
    }

    /// Runs one command and, where [`connect_confirming`] was told to, waits until replicas have what it wrote, or what
    /// made it write nothing.
    ///
    /// # Errors
    /// As [`Self::run`]; [`CallError::Unknown`] also where it ran and the replicas did not confirm it in time.
    pub async fn run_confirmed(&self, command: &Cmd) -> Result<Value, CallError> {
        match &self.kind {
            ConnectionKind::One(_, Some(confirmed)) => confirmed.run(command).await,
            ConnectionKind::One(node, None) => node.run(command).await,
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
            ConnectionKind::One(node, _) => node.run(command).await,
            ConnectionKind::Cluster(cluster) => cluster.run(command, Some(like), false).await,
        }
    }

    /// Runs one command and reads its reply as `T`.
    ///
    /// # Errors
    /// As [`Self::run`]; a reply that is no `T` is [`CallError::Unknown`].
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
            ConnectionKind::One(node, _) => node.pipeline(commands).await,
            ConnectionKind::Cluster(cluster) => {
                let all = cluster.run_all(commands).await?;
                T::from_redis_value(Value::Array(all))
                    .map_err(|error| CallError::Unknown(error.into()))
            }
        }
    }

    /// Whether `key` is where `server` is, as far as is known.
    pub(super) fn key_is_on(&self, server: &RedisNode, key: &str) -> bool {
        match &self.kind {
            ConnectionKind::One(..) => true,
            ConnectionKind::Cluster(cluster) => {
                cluster.primary_for_key(key).is_some_and(|name| name == server.name)
            }
        }
    }

    /// Every server that takes writes, with a name for it and, on a cluster, a slot that it serves.
    pub(super) async fn servers(&self) -> Result<Vec<RedisNode>, CallError> {
        match &self.kind {
            ConnectionKind::One(node, _) => {
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

/// One server, asked by itself.
pub(super) struct RedisNode {
    /// Its address on a cluster.
    pub(super) name: String,
    /// The lowest slot that it serves.
    pub(super) slot: Option<u16>,
    node: NodeConnection,
}

impl RedisNode {
    pub(super) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, CallError> {
        let value = self.node.run(command).await?;
        T::from_redis_value(value).map_err(|error| CallError::Unknown(error.into()))
    }
}

/// A hash tag that leads to `slot`.
pub(super) fn hash_tag_for_slot(slot: u16) -> u32 {
    (0..)
        .find(|tag: &u32| slots::slot_of_key(tag.to_string().as_bytes()) == slot)
        .unwrap_or_default()
}

/// So that redis-rs's own commands can be used where this crate has no method.
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
                ConnectionKind::One(node, _) => {
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
            ConnectionKind::One(node, _) => {
                node.client().get_connection_info().redis_settings().db()
            }
            ConnectionKind::Cluster(_) => 0,
        }
    }
}
