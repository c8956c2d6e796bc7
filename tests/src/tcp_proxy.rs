//! A TCP proxy with a stable port, which can do to a connection what networks do: cut it, slow it down, swallow it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::ports;

/// What the proxy does to its connections, old and new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyMode {
    /// Passes everything on.
    Pass,
    /// Closes every connection, and each new one at once.
    Cut,
    /// Holds every piece back for so long, in both directions.
    Delay(Duration),
    /// Half-open: connections stand, nothing gets through, nobody is told.
    Silent,
    /// What the client says gets through, the answers do not.
    SwallowAnswers,
}

/// A running proxy; its connections end when it is dropped.
#[derive(Debug)]
pub struct TcpProxy {
    port: u16,
    mode: watch::Sender<ProxyMode>,
    accepting: JoinHandle<()>,
}

impl TcpProxy {
    /// Listens on a free loopback port for `upstream` (`127.0.0.1:PORT`), which need not be there yet.
    ///
    /// # Panics
    /// When the port cannot be bound.
    pub async fn start(upstream: &str) -> Self {
        let upstream: SocketAddr = upstream.parse().expect("an address");
        let port = ports::free();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.expect("a free port");
        let (mode, watched) = watch::channel(ProxyMode::Pass);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connection(client, upstream, watched.clone()));
            }
        });
        Self { port, mode, accepting }
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Changes what is done, to the connections that exist too.
    pub fn set(&self, mode: ProxyMode) {
        self.mode.send_replace(mode);
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.mode.send_replace(ProxyMode::Cut);
    }
}

async fn connection(client: TcpStream, upstream: SocketAddr, mut mode: watch::Receiver<ProxyMode>) {
    let pumps = mode.clone();
    let relay = async move {
        let Ok(server) = TcpStream::connect(upstream).await else { return };
        let (_, _) = (client.set_nodelay(true), server.set_nodelay(true));
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::select! {
            () = pump(from_client, to_server, pumps.clone(), false) => {}
            () = pump(from_server, to_client, pumps.clone(), true) => {}
        }
    };
    tokio::select! {
        () = relay => {}
        _ = mode.wait_for(|now| *now == ProxyMode::Cut) => {}
    }
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut mode: watch::Receiver<ProxyMode>,
    answers: bool,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else { return };
        let now = *mode.borrow_and_update();
        match now {
            ProxyMode::Delay(pause) => tokio::time::sleep(pause).await,
            // What was swallowed must never come out later: the stream would be torn. The connection is dead from here on.
            ProxyMode::Silent => std::future::pending().await,
            ProxyMode::SwallowAnswers if answers => std::future::pending().await,
            ProxyMode::Pass | ProxyMode::Cut | ProxyMode::SwallowAnswers => {}
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
