//! Hostile input: ingress keeps answering valid senders quickly, queues nothing hostile and keeps
//! its memory within bounds.

mod decompression;
mod framing;
mod json;
mod path_forms;
mod slow_clients;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tests::sender::{ACME_SECRET, content_event, now_ms, unique};
use tests::sign::{self, SignedWebhook};
use tests::stack::{ServerProcess, Stack};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// Longest time for an answer to a valid sender on a busy machine.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

fn event() -> SignedWebhook {
    let body = content_event("content_added", &unique("c"), "t", now_ms()).to_string();
    sign::generic("acme", ACME_SECRET, body.as_bytes())
}

fn address(stack: &Stack) -> SocketAddr {
    stack.ingresses[0].url.trim_start_matches("http://").parse().unwrap()
}

/// Opens a connection from `127.0.0.from`.
async fn connect(to: SocketAddr, from: u8) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, from], 0)))?;
    socket.connect(to).await
}

/// Request line and headers. The last header line is not terminated.
fn head(signed: &SignedWebhook, more: &str) -> String {
    let signature = signed.value("x-webhook-signature");
    format!(
        "POST {} HTTP/1.1\r\nhost: x\r\nx-webhook-signature: {signature}\r\n{more}",
        signed.path
    )
}

/// Sends `bytes` and reads until the peer closes the connection or sends nothing for `patience`.
/// Returns the received text, and whether the peer closed the connection.
async fn exchange(to: SocketAddr, bytes: &[u8], patience: Duration) -> (String, bool) {
    let mut stream = connect(to, 1).await.unwrap();
    let (mut read, mut write) = stream.split();
    let sending = async {
        let _ = write.write_all(bytes).await;
        std::future::pending::<()>().await;
    };
    let mut received = Vec::new();
    let receiving = async {
        let mut buffer = [0; 4096];
        loop {
            match timeout(patience, read.read(&mut buffer)).await {
                Ok(Ok(length @ 1..)) => received.extend_from_slice(&buffer[..length]),
                Ok(Ok(0) | Err(_)) => return true,
                Err(_) => return false,
            }
        }
    };
    let closed = tokio::select! {
        closed = receiving => closed,
        () = sending => false,
    };
    (String::from_utf8_lossy(&received).into_owned(), closed)
}

/// Statuses of all answers in `received`.
fn statuses(received: &str) -> Vec<&str> {
    received.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect()
}

/// Sends valid events, each on a new connection, one after the other until `done`. Returns their
/// number. Panics if one is refused or answered late.
async fn served_meanwhile(role: &ServerProcess, done: &AtomicBool) -> usize {
    let mut served = 0;
    let mut slowest = Duration::ZERO;
    while !done.load(Ordering::Relaxed) || served < 3 {
        let started_at = Instant::now();
        role.sender().send(&event()).await.expect(202, "accepted");
        slowest = slowest.max(started_at.elapsed());
        assert!(
            started_at.elapsed() < ANSWER_LIMIT,
            "event {served} was answered after {:?}",
            started_at.elapsed()
        );
        served += 1;
    }
    eprintln!("{served} valid events meanwhile, the slowest answered after {slowest:?}");
    served
}

/// Runs `attack` while valid events are sent. Returns the number of valid events.
async fn while_serving(stack: &Stack, attack: impl Future<Output = ()>) -> usize {
    let done = AtomicBool::new(false);
    let attack = async {
        attack.await;
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(served_meanwhile(&stack.ingresses[0], &done), attack).0
}

/// Checks the peak memory of ingress.
#[track_caller]
fn check_memory(stack: &Stack, most_mib: u64) {
    let process = &stack.ingresses[0].process;
    assert!(process.is_running(), "{}", process.tail());
    assert!(!process.log().contains("panicked"), "{}", process.tail());
    let Some(peak) = process.peak_memory() else { return };
    eprintln!("ingress held {} MiB at most", peak >> 20);
    assert!(peak >> 20 <= most_mib, "{} MiB", peak >> 20);
}
