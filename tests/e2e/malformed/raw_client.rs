//! Client that sends one request byte for byte on a new connection.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::requests::MalformedRequest;

/// Longest wait for an answer. Longer than every timeout of ingress.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Reaction to a request.
#[derive(Debug)]
pub(super) enum RawReply {
    /// Complete answer.
    Answer {
        /// HTTP status.
        status: u16,
        /// Body as text.
        body: String,
        /// Body as JSON, or null if it is not JSON.
        json: Value,
    },
    /// Connection closed without an answer.
    Closed,
    /// No answer and no close within the timeout.
    Silent,
}

/// Sends `case` and returns the reaction.
pub(super) async fn send(address: &str, case: &MalformedRequest) -> RawReply {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let (mut read, mut write) = stream.split();
    let sending = async {
        // A peer that refuses early also closes early.
        if write.write_all(&case.bytes).await.is_ok() && case.ends {
            let _ = write.shutdown().await;
        }
        std::future::pending::<()>().await;
    };
    let receiving = async {
        let mut received = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            if let Some(reply) = parse(&received) {
                return reply;
            }
            match read.read(&mut buffer).await {
                Ok(length @ 1..) => received.extend_from_slice(&buffer[..length]),
                Ok(0) | Err(_) => return RawReply::Closed,
            }
        }
    };
    let reply = async {
        tokio::select! {
            reply = receiving => reply,
            () = sending => RawReply::Silent,
        }
    };
    timeout(TIMEOUT, reply).await.unwrap_or(RawReply::Silent)
}

/// Parses the first complete answer in `received`.
fn parse(received: &[u8]) -> Option<RawReply> {
    let end = received.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&received[..end]).to_lowercase();
    let status: u16 = head.split(' ').nth(1)?.parse().ok()?;
    if status < 200 {
        return parse(&received[end + 4..]);
    }
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .and_then(|n| n.parse().ok());
    let body = received.get(end + 4..end + 4 + length.unwrap_or(0))?;
    let body = String::from_utf8_lossy(body).into_owned();
    Some(RawReply::Answer { status, json: serde_json::from_str(&body).unwrap_or_default(), body })
}
