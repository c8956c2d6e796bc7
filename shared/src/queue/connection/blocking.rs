//! The connection of a reader to one server.
//!
//! Guarantee: it is never stuck. It connects on first use; after a failure every later read tries again, at most once per
//! [`FAILURE_PAUSE`], and one that failed to connect says [`CallError::NotRun`]. It ends with a read that is not answered
//! within [`READ_TIMEOUT`], whose answer is none, or that is given up, so that no answer is taken for that to another read.
//!
//! It is not redis-rs's because of what reading a reply costs there, see [`super::resp`].

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

/// Room for what comes next.
const READ_CHUNK_BYTES: usize = 64 * 1024;
/// Memory that is kept for the next reply; what is needed only now and then is given back.
const MAX_IDLE_BUFFER_BYTES: usize = 2 * 1024 * 1024;

trait ByteStream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> ByteStream for S {}

type BoxedStream = Box<dyn ByteStream>;

/// A connection of whose calls each waits for the one before.
pub(super) struct BlockingConnection {
    client: Client,
    live: Option<BoxedStream>,
    failure: Option<(Instant, RedisError)>,
    reply: Vec<u8>,
}

impl std::fmt::Debug for BlockingConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Socket({})", self.client.get_connection_info().addr())
    }
}

impl BlockingConnection {
    pub(super) fn new(client: Client) -> Self {
        Self { client, live: None, failure: None, reply: Vec::new() }
    }

    /// Runs one command; the reply as it came, which is no error.
    pub(super) async fn run(&mut self, command: &Cmd) -> Result<&[u8], CallError> {
        // Whoever gives up closes it.
        let mut live = match self.live.take() {
            Some(live) => live,
            None => self.establish().await?,
        };
        let command = command.get_packed_command();
        let exchange = exchange(&mut live, &command, &mut self.reply);
        timeout(READ_TIMEOUT, exchange).await.unwrap_or_else(|_| Err(silent()))?;
        let refused = refusal(&self.reply);
        // A replica that was a master: the name may lead to the new one by now.
        if !matches!(refused.as_ref().and_then(RedisError::code), Some("READONLY" | "MASTERDOWN")) {
            self.live = Some(live);
        }
        refused.map_or(Ok(&self.reply), |error| Err(CallError::classify(error)))
    }

    /// To be called when a reply was used: gives back what only a large one needs.
    pub(super) fn forget(&mut self) {
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
        match connected.await.unwrap_or_else(|_| Err(silent())) {
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
        ConnectionAddr::Tcp(host, port) => Box::new(tcp(info, host, *port).await.map_err(lost)?),
        ConnectionAddr::Unix(path) => Box::new(UnixStream::connect(path).await.map_err(lost)?),
        _ => {
            return Err(CallError::NotRun(
                (ErrorKind::InvalidClientConfig, "an address of another kind").into(),
            ));
        }
    };
    let mut reply = Vec::new();
    for (command, must) in handshake_commands(info) {
        exchange(&mut live, &command.get_packed_command(), &mut reply).await?;
        match refusal(&reply) {
            Some(error) if must || error.code() != Some("NOPERM") => {
                return Err(CallError::classify(error));
            }
            _ => {}
        }
    }
    Ok(live)
}

/// What is said first, and whether it must be allowed. A server that is full says so to whatever comes.
fn handshake_commands(info: &ConnectionInfo) -> Vec<(Cmd, bool)> {
    let (settings, mut greetings) = (info.redis_settings(), Vec::new());
    if let Some(password) = settings.password() {
        let mut auth = redis::cmd("AUTH");
        auth.arg(settings.username()).arg(password);
        greetings.push((auth, true));
    }
    if settings.db() != 0 {
        let mut select = redis::cmd("SELECT");
        select.arg(settings.db());
        greetings.push((select, true));
    }
    greetings.push((redis::cmd("PING"), false));
    greetings
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

/// Sends a command and reads what is answered.
async fn exchange(
    live: &mut BoxedStream,
    command: &[u8],
    reply: &mut Vec<u8>,
) -> Result<(), CallError> {
    reply.clear();
    live.write_all(command).await.map_err(lost)?;
    let mut progress = ReplyScanner::new();
    loop {
        reply.reserve(READ_CHUNK_BYTES);
        if live.read_buf(reply).await.map_err(lost)? == 0 {
            return Err(lost(io::ErrorKind::UnexpectedEof.into()));
        }
        if progress.scan(reply)? {
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

fn lost(error: io::Error) -> CallError {
    CallError::classify(error.into())
}

fn silent() -> CallError {
    lost(io::ErrorKind::TimedOut.into())
}
