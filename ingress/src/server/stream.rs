//! Detects the protocol of a connection by its first bytes, and keeps them.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::dev::Extensions;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::connection_close::CloseFlag;
use crate::connections::{ConnectionGuard, Connections};

/// First bytes of HTTP/2 with prior knowledge (RFC 9113, section 3.4).
const PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Version of HTTP on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// Connection with its first bytes and its registration.
pub(super) struct ServerStream {
    io: TcpStream,
    guard: Option<Rc<ConnectionGuard>>,
    /// Set while bytes between two requests begin a head. In HTTP/2 they may be anything.
    tracks_heads: bool,
    prefix: [u8; PREFACE.len()],
    /// Number of bytes of `prefix` that were read, and that were handed on.
    read: usize,
    consumed: usize,
}

impl ServerStream {
    /// Registers a new connection.
    pub(super) fn new(io: TcpStream, connections: &Connections) -> Self {
        // Answers are small, so Nagle's algorithm would only delay them.
        let _ = io.set_nodelay(true);
        let guard = connections.register(&io).map(Rc::new);
        Self { io, guard, tracks_heads: true, prefix: [0; PREFACE.len()], read: 0, consumed: 0 }
    }

    /// Reads until the protocol is known. Cancel safe: bytes that were read are kept.
    ///
    /// # Errors
    /// The connection is broken.
    pub(super) async fn protocol(&mut self) -> io::Result<Protocol> {
        while self.read < PREFACE.len() {
            let read = self.io.read(self.prefix.get_mut(self.read..).unwrap_or_default()).await?;
            if read == 0 {
                return Ok(Protocol::Http1);
            }
            self.note_bytes();
            self.read += read;
            if !self.prefix.get(..self.read).is_some_and(|begun| PREFACE.starts_with(begun)) {
                return Ok(Protocol::Http1);
            }
        }
        self.tracks_heads = false;
        Ok(Protocol::Http2)
    }

    /// Attaches the close flag and the registration to requests of this connection.
    pub(super) fn connect(&self, data: &mut Extensions) {
        data.insert(CloseFlag::default());
        if let Some(guard) = &self.guard {
            data.insert(Rc::clone(guard));
        }
    }

    /// Returns the registration. `None`: the connection could not be registered.
    pub(super) fn guard(&self) -> Option<Rc<ConnectionGuard>> {
        self.guard.clone()
    }

    /// Returns the peer's address.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.io.peer_addr().ok()
    }

    fn note_bytes(&self) {
        if self.tracks_heads
            && let Some(guard) = &self.guard
        {
            guard.note_bytes();
        }
    }
}

impl AsyncRead for ServerStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let prefix = this.prefix.get(this.consumed..this.read).unwrap_or_default();
        if !prefix.is_empty() {
            let part = prefix.get(..into.remaining()).unwrap_or(prefix);
            into.put_slice(part);
            this.consumed += part.len();
            return Poll::Ready(Ok(()));
        }
        let before = into.filled().len();
        let read = Pin::new(&mut this.io).poll_read(context, into);
        if into.filled().len() > before {
            this.note_bytes();
        }
        read
    }
}

impl AsyncWrite for ServerStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }
}
