//! Connection of a reader to a single server.
//!
//! # Guarantees
//!
//! - A read that failed to connect returns [`CallError::NotRun`]; later reads reconnect at most
//!   once per [`FAILURE_PAUSE`] (`reader_bounds_its_connection_attempts`).
//! - A reply is never matched to another read: the connection is dropped after a timeout, a
//!   malformed reply or a cancelled read (`reader_matches_no_late_reply_to_the_next_read`).
//! - A server that became a replica is left (`reader_reconnects_when_its_server_became_a_replica`).
//!
//! # Design
//!
//! The connection of redis-rs is not used because of its cost per reply, see [`super::resp`].

use std::io;
use std::time::Instant;

use redis::io::tcp::socket2::SockRef;
use redis::{Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, RedisError, Value};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::super::CallError;
use super::resp::ReplyScanner;
use super::{CONNECT_TIMEOUT, FAILURE_PAUSE, READ_TIMEOUT};

/// Buffer space reserved before each read.
const READ_CHUNK_BYTES: usize = 64 * 1024;
/// Buffer capacity kept for the next reply; a larger buffer is freed after use.
const MAX_IDLE_BUFFER_BYTES: usize = 2 * 1024 * 1024;

trait ByteStream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> ByteStream for S {}

type BoxedStream = Box<dyn ByteStream>;

/// Connection that runs one call at a time.
pub(super) struct BlockingConnection {
    client: Client,
    live: Option<BoxedStream>,
    failure: Option<(Instant, RedisError)>,
    reply: Vec<u8>,
}

impl std::fmt::Debug for BlockingConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlockingConnection({})", self.client.get_connection_info().addr())
    }
}

impl BlockingConnection {
    pub(super) fn new(client: Client) -> Self {
        Self { client, live: None, failure: None, reply: Vec::new() }
    }

    /// Runs one command and returns the raw reply, which is not an error reply.
    pub(super) async fn run(&mut self, command: &Cmd) -> Result<&[u8], CallError> {
        // Taken out, so that a cancelled call drops the connection.
        let mut live = match self.live.take() {
            Some(live) => live,
            None => self.establish().await?,
        };
        let command = command.get_packed_command();
        let exchange = exchange(&mut live, &command, &mut self.reply);
        timeout(READ_TIMEOUT, exchange).await.unwrap_or_else(|_| Err(timed_out()))?;
        let refused = refusal(&self.reply);
        // The server was demoted, and its name may lead to the new primary by now.
        if !matches!(refused.as_ref().and_then(RedisError::code), Some("READONLY" | "MASTERDOWN")) {
            self.live = Some(live);
        }
        refused.map_or(Ok(&self.reply), |error| Err(CallError::classify(error)))
    }

    /// Frees the buffer of an unusually large reply. Call it after the reply was used.
    pub(super) fn shrink_buffer(&mut self) {
        if self.reply.capacity() > MAX_IDLE_BUFFER_BYTES {
            self.reply = Vec::new();
        }
    }

    async fn establish(&mut self) -> Result<BoxedStream, CallError> {
        if let Some((at, error)) = &self.failure
            && at.elapsed() < FAILURE_PAUSE
        {
            return Err(CallError::NotRun(error.clone()));
        }
        let connected = timeout(CONNECT_TIMEOUT, connect(self.client.get_connection_info()));
        match connected.await.unwrap_or_else(|_| Err(timed_out())) {
            Ok(live) => {
                self.failure = None;
                Ok(live)
            }
            Err(fault) => {
                let error = fault.into_error();
                self.failure = Some((Instant::now(), error.clone()));
                Err(CallError::NotRun(error))
            }
        }
    }
}

async fn connect(info: &ConnectionInfo) -> Result<BoxedStream, CallError> {
    let mut live: BoxedStream = match info.addr() {
        ConnectionAddr::Tcp(host, port) => {
            Box::new(tcp(info, host, *port).await.map_err(io_error)?)
        }
        ConnectionAddr::Unix(path) => Box::new(UnixStream::connect(path).await.map_err(io_error)?),
        _ => {
            return Err(CallError::NotRun(
                (ErrorKind::InvalidClientConfig, "unsupported kind of address").into(),
            ));
        }
    };
    let mut reply = Vec::new();
    for (command, required) in handshake_commands(info) {
        exchange(&mut live, &command.get_packed_command(), &mut reply).await?;
        match refusal(&reply) {
            Some(error) if required || error.code() != Some("NOPERM") => {
                return Err(CallError::classify(error));
            }
            _ => {}
        }
    }
    Ok(live)
}

/// First commands of a connection, and whether each must be permitted. PING detects a server that
/// accepts no more clients.
fn handshake_commands(info: &ConnectionInfo) -> Vec<(Cmd, bool)> {
    let (settings, mut commands) = (info.redis_settings(), Vec::new());
    if let Some(password) = settings.password() {
        let mut auth = redis::cmd("AUTH");
        auth.arg(settings.username()).arg(password);
        commands.push((auth, true));
    }
    if settings.db() != 0 {
        let mut select = redis::cmd("SELECT");
        select.arg(settings.db());
        commands.push((select, true));
    }
    commands.push((redis::cmd("PING"), false));
    commands
}

async fn tcp(info: &ConnectionInfo, host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    let settings = info.tcp_settings();
    stream.set_nodelay(settings.nodelay())?;
    let socket = SockRef::from(&stream);
    if let Some(keepalive) = settings.keepalive() {
        socket.set_tcp_keepalive(keepalive)?;
    }
    socket.set_tcp_user_timeout(settings.user_timeout())?;
    Ok(stream)
}

/// Sends a command and reads its reply.
async fn exchange(
    live: &mut BoxedStream,
    command: &[u8],
    reply: &mut Vec<u8>,
) -> Result<(), CallError> {
    reply.clear();
    live.write_all(command).await.map_err(io_error)?;
    let mut scanner = ReplyScanner::new();
    loop {
        reply.reserve(READ_CHUNK_BYTES);
        if live.read_buf(reply).await.map_err(io_error)? == 0 {
            return Err(io_error(io::ErrorKind::UnexpectedEof.into()));
        }
        if scanner.scan(reply)? {
            return Ok(());
        }
    }
}

fn refusal(reply: &[u8]) -> Option<RedisError> {
    if reply.first() != Some(&b'-') {
        return None;
    }
    redis::parse_redis_value(reply).and_then(Value::extract_error).err()
}

fn io_error(error: io::Error) -> CallError {
    CallError::classify(error.into())
}

fn timed_out() -> CallError {
    io_error(io::ErrorKind::TimedOut.into())
}
