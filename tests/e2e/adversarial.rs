//! Input that is meant to do harm: whatever a stranger sends, and however slowly, those who send as one does are answered
//! soon, nothing of it is queued, and memory stays within its bound.

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

/// The longest that a good sender may wait for its answer on a machine that is busy.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

fn event() -> SignedWebhook {
    let body = content_event("content_added", &unique("c"), "t", now_ms()).to_string();
    sign::generic("acme", ACME_SECRET, body.as_bytes())
}

fn address(stack: &Stack) -> SocketAddr {
    stack.ingresses[0].url.trim_start_matches("http://").parse().unwrap()
}

/// A connection from `127.0.0.from`.
async fn connect(to: SocketAddr, from: u8) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, from], 0)))?;
    socket.connect(to).await
}

/// A request's line and headers, the last line not ended.
fn head(signed: &SignedWebhook, more: &str) -> String {
    let signature = signed.value("x-webhook-signature");
    format!(
        "POST {} HTTP/1.1\r\nhost: x\r\nx-webhook-signature: {signature}\r\n{more}",
        signed.path
    )
}

/// Sends `bytes` and reads until the other side closes or is silent for `patience`: what came, and whether it closed.
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

/// The status of every answer in `received`.
fn statuses(received: &str) -> Vec<&str> {
    received.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect()
}

/// Good events, each on a connection of its own, one after the other until `done`: how many there were. Each is accepted,
/// and soon.
async fn served_meanwhile(role: &ServerProcess, done: &AtomicBool) -> usize {
    let mut served = 0;
    let mut slowest = Duration::ZERO;
    while !done.load(Ordering::Relaxed) || served < 3 {
        let begun = Instant::now();
        role.sender().send(&event()).await.expect(202, "accepted");
        slowest = slowest.max(begun.elapsed());
        assert!(
            begun.elapsed() < ANSWER_LIMIT,
            "event {served} was answered after {:?}",
            begun.elapsed()
        );
        served += 1;
    }
    eprintln!("{served} good events meanwhile, the slowest answered after {slowest:?}");
    served
}

/// Runs `attack` while good events are sent, and gives how many those were.
async fn while_serving(stack: &Stack, attack: impl Future<Output = ()>) -> usize {
    let done = AtomicBool::new(false);
    let attack = async {
        attack.await;
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(served_meanwhile(&stack.ingresses[0], &done), attack).0
}

/// Checks the most memory that ingress ever held.
#[track_caller]
fn check_memory(stack: &Stack, most_mib: u64) {
    let process = &stack.ingresses[0].process;
    assert!(process.is_running(), "{}", process.tail());
    assert!(!process.log().contains("panicked"), "{}", process.tail());
    let Some(peak) = process.peak_memory() else { return };
    eprintln!("ingress held {} MiB at most", peak >> 20);
    assert!(peak >> 20 <= most_mib, "{} MiB", peak >> 20);
}
