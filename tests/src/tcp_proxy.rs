//! TCP proxy with a stable port, which can cut, delay or swallow traffic.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::ports;

/// Effect on all connections, existing and new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyMode {
    /// Forwards everything.
    Pass,
    /// Closes every connection, and each new one at once.
    Cut,
    /// Delays each piece of data by this time, in both directions.
    Delay(Duration),
    /// Half-open: connections stay open, but carry nothing.
    Silent,
    /// Forwards requests and swallows answers.
    SwallowAnswers,
}

/// A running proxy. Its connections end on drop.
#[derive(Debug)]
pub struct TcpProxy {
    port: u16,
    mode: watch::Sender<ProxyMode>,
    accepting: JoinHandle<()>,
}

impl TcpProxy {
    /// Listens on a free loopback port for `upstream` (`127.0.0.1:PORT`), which may start later.
    ///
    /// # Panics
    /// If the port cannot be bound.
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

    /// Returns `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Changes the effect on all connections, existing and new.
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
            // Swallowed bytes must never be delivered later, since the stream would be corrupt. The
            // connection stays dead.
            ProxyMode::Silent => std::future::pending().await,
            ProxyMode::SwallowAnswers if answers => std::future::pending().await,
            ProxyMode::Pass | ProxyMode::Cut | ProxyMode::SwallowAnswers => {}
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
