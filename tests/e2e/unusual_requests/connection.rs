//! Cases that need their own connection.

use std::fmt::Write;
use std::time::Duration;

use tests::stack::Stack;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::case::CaseRequest;

const TIMEOUT: Duration = Duration::from_secs(10);

async fn connect(stack: &Stack) -> TcpStream {
    TcpStream::connect(stack.ingresses[0].url.trim_start_matches("http://"))
        .await
        .expect("a connection")
}

/// Sends the requests in sequence on one connection. Each must get 202, and no answer may end the
/// connection without announcing it.
pub(super) async fn both_are_answered(stack: &Stack, requests: &[CaseRequest]) {
    let mut stream = connect(stack).await;
    for request in requests {
        let signed = request.signed();
        let mut head = format!("{} {} HTTP/1.1\r\nhost: x\r\n", request.method(), signed.path);
        for (name, value) in &signed.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        let _ = write!(head, "content-length: {}\r\n\r\n", signed.body.len());
        stream.write_all(&[head.as_bytes(), &signed.body].concat()).await.expect("a write");
        let answer = answer(&mut stream).await.to_ascii_lowercase();
        assert!(answer.starts_with("http/1.1 202"), "{answer}");
        assert!(!answer.contains("connection: upgrade"), "{answer}");
        if answer.contains("connection: close") {
            return;
        }
    }
}

/// Keeps a connection idle for `span` and then uses it again.
pub(super) async fn outlives_idleness(stack: &Stack, span: Duration) {
    let mut stream = connect(stack).await;
    for pause in [Duration::ZERO, span] {
        let mut byte = [0];
        // Without a request, only the end of the connection can be read.
        let read = tokio::time::timeout(pause, stream.read(&mut byte)).await;
        assert!(read.is_err(), "the connection ended: {read:?}");
        let head = "GET /api/openapi.json HTTP/1.1\r\nhost: x\r\n\r\n";
        stream.write_all(head.as_bytes()).await.expect("a write");
        assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200"));
    }
}

/// Reads the next answer and returns its head.
async fn answer(stream: &mut TcpStream) -> String {
    let mut received = Vec::new();
    let read = async {
        while !received.ends_with(b"\r\n\r\n") {
            received.push(stream.read_u8().await.expect("an answer"));
        }
    };
    tokio::time::timeout(TIMEOUT, read).await.expect("an answer in time");
    let head = String::from_utf8(received).expect("a text");
    let length = head.lines().find_map(|line| {
        line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned)
    });
    let mut body = vec![0; length.map_or(0, |length| length.parse().expect("a number"))];
    stream.read_exact(&mut body).await.expect("a body");
    head
}
