//! Connections to ingress: idle time, announced closes, upgrades and HTTP/2.

use std::time::Duration;

use hyper::Request;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tests::poll;
use tests::sender::{ACME_SECRET, content_event, now_ms, unique};
use tests::sign::{self, SignedWebhook};
use tests::stack::{ServerProcess, Stack};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::WAIT_LIMIT;

fn event() -> SignedWebhook {
    let body = content_event("content_added", &unique("c"), "t", now_ms()).to_string();
    sign::generic("acme", ACME_SECRET, body.as_bytes())
}

/// A request with a content length and the headers `more`, each with its line end.
fn request(signed: &SignedWebhook, more: &str) -> Vec<u8> {
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: x\r\nx-webhook-signature: {}\r\ncontent-length: {}\r\n\
        {more}\r\n",
        signed.path,
        signed.value("x-webhook-signature"),
        signed.body.len()
    );
    [head.as_bytes(), &signed.body].concat()
}

async fn connect(role: &ServerProcess) -> TcpStream {
    TcpStream::connect(role.url.trim_start_matches("http://")).await.unwrap()
}

/// Reads one answer with a content length. Returns it in lower case.
async fn answer(stream: &mut TcpStream) -> String {
    let mut received = Vec::new();
    let complete = |received: &[u8]| {
        let text = String::from_utf8_lossy(received).to_lowercase();
        let (head, body) = text.split_once("\r\n\r\n")?;
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))?
            .parse::<usize>()
            .ok()?;
        (body.len() >= length).then(|| text.clone())
    };
    loop {
        if let Some(answer) = complete(&received) {
            return answer;
        }
        let mut part = [0; 4096];
        let read = tokio::time::timeout(WAIT_LIMIT, stream.read(&mut part))
            .await
            .expect("an answer in time")
            .unwrap();
        assert!(read > 0, "closed after {}", String::from_utf8_lossy(&received));
        received.extend_from_slice(&part[..read]);
    }
}

/// Upgrade offers of `java.net.http.HttpClient` by default, of proxies, and of explicit clients.
const UPGRADE_OFFERS: [&str; 5] = [
    "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: \
    AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n",
    "Connection: upgrade\r\n",
    "Connection: keep-alive, Upgrade\r\nUpgrade: TLS/1.2\r\n",
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
    "Upgrade: websocket\r\n",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrade_is_declined_and_the_close_is_announced() {
    let stack = Stack::builder().workers(0).start().await;
    for offer in UPGRADE_OFFERS {
        let mut stream = connect(&stack.ingresses[0]).await;
        stream.write_all(&request(&event(), offer)).await.unwrap();
        let answer_text = answer(&mut stream).await;
        assert!(answer_text.starts_with("http/1.1 202 "), "{offer}: {answer_text}");
        assert!(
            answer_text.contains("\r\nconnection: close\r\n") && !answer_text.contains("upgrade"),
            "{offer}: {answer_text}"
        );
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(WAIT_LIMIT, stream.read_to_end(&mut rest)).await;
        assert!(matches!(ended, Ok(Ok(0) | Err(_))), "{offer}: {ended:?}");
    }
    // A refused request gets its usual status, and the close is announced as well.
    let mut stream = connect(&stack.ingresses[0]).await;
    stream.write_all(&request(&event().to("/webhooks/nobody"), UPGRADE_OFFERS[0])).await.unwrap();
    let answer_text = answer(&mut stream).await;
    assert!(
        answer_text.starts_with("http/1.1 404 ")
            && answer_text.contains("\r\nconnection: close\r\n"),
        "{answer_text}"
    );
    assert_eq!(stack.unfinished("acme").await, UPGRADE_OFFERS.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connection_is_kept_for_the_configured_time() {
    let kept = Stack::builder().workers(0).start().await;
    let brief = Stack::builder().workers(0).ingress_env("KEEP_ALIVE_MS", "2000").start().await;
    let (mut long, mut short) =
        (connect(&kept.ingresses[0]).await, connect(&brief.ingresses[0]).await);
    for stream in [&mut long, &mut short] {
        stream.write_all(&request(&event(), "")).await.unwrap();
        assert!(answer(stream).await.starts_with("http/1.1 202 "));
    }
    // Longer than the timeout of a request head.
    tokio::time::sleep(Duration::from_secs(13)).await;
    long.write_all(&request(&event(), "")).await.unwrap();
    assert!(answer(&mut long).await.starts_with("http/1.1 202 "));
    let ended =
        tokio::time::timeout(WAIT_LIMIT, short.read(&mut [0])).await.expect("closed by ingress");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
}

/// Opens an HTTP/2 connection with prior knowledge.
async fn http2(role: &ServerProcess) -> SendRequest<String> {
    let (sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(connect(role).await)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn asked(method: &str, signed: &SignedWebhook) -> Request<String> {
    let request =
        Request::builder().method(method).uri(format!("http://ingress.example{}", signed.path));
    let request =
        signed.headers.iter().fold(request, |request, (name, value)| request.header(name, value));
    request.body(String::from_utf8(signed.body.clone()).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_with_prior_knowledge_is_served() {
    let stack = Stack::builder().workers(0).ingress_env("MAX_BODY_BYTES", "300000").start().await;
    let mut sender = http2(&stack.ingresses[0]).await;
    let many = (0..150).map(|_| sender.send_request(asked("POST", &event())));
    let many = futures_util::future::join_all(many.collect::<Vec<_>>()).await;
    assert!(many.iter().all(|answer| answer.as_ref().unwrap().status() == 202), "{many:?}");
    // Larger than the flow-control window.
    let large =
        content_event("content_added", &unique("c"), &"t".repeat(250_000), now_ms()).to_string();
    let large = sign::generic("acme", ACME_SECRET, large.as_bytes()).to("/webhooks/acme/");
    assert_eq!(sender.send_request(asked("POST", &large)).await.unwrap().status(), 202);
    assert_eq!(stack.unfinished("acme").await, 151);
    let too_large = SignedWebhook { body: vec![b' '; 300_001], ..event() };
    assert_eq!(sender.send_request(asked("POST", &too_large)).await.unwrap().status(), 413);
    let probe =
        SignedWebhook { path: "/webhooks/acme".to_owned(), headers: Vec::new(), body: Vec::new() };
    for (method, status) in [("HEAD", 200), ("OPTIONS", 204), ("GET", 405), ("POST", 401)] {
        assert_eq!(
            sender.send_request(asked(method, &probe)).await.unwrap().status(),
            status,
            "{method}"
        );
    }
    let headers = SignedWebhook { headers: vec![("x".to_owned(), "y".repeat(100_000))], ..probe };
    let refused = sender.send_request(asked("POST", &headers)).await;
    assert!(refused.is_err() || refused.is_ok_and(|refused| refused.status() == 431));
    // A new connection still works.
    let mut sender = http2(&stack.ingresses[0]).await;
    assert_eq!(sender.send_request(asked("POST", &event())).await.unwrap().status(), 202);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_requests_in_progress_survive_a_shutdown() {
    let stack = Stack::builder().workers(0).start().await;
    let mut sender = http2(&stack.ingresses[0]).await;
    let mut idle = http2(&stack.ingresses[0]).await;
    assert_eq!(idle.send_request(asked("POST", &event())).await.unwrap().status(), 202);
    let silent = connect(&stack.ingresses[0]).await;
    // No worker runs, so the answer comes at the end of the wait or at shutdown.
    let waiting = sender.send_request(asked("POST", &event().header("prefer", "wait=3")));
    let waiting = tokio::spawn(waiting);
    poll::until("the event is queued", WAIT_LIMIT, async || match stack.unfinished("acme").await {
        2 => Ok(()),
        seen => Err(seen),
    })
    .await;
    stack.ingresses[0].process.terminate();
    assert_eq!(waiting.await.unwrap().unwrap().status(), 202);
    // Well before SHUTDOWN_GRACE_MS: shutdown waits neither for idle connections nor for
    // connections that have sent nothing.
    stack.ingresses[0].process.wait_until_ended(Duration::from_secs(15)).await;
    assert!(sender.is_closed() && idle.is_closed());
    drop(silent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_http2_connection_gets_goaway_before_it_ends() {
    let stack = Stack::builder().workers(0).ingress_env("KEEP_ALIVE_MS", "1000").start().await;
    let (mut sender, connection) = http2::handshake::<_, _, String>(
        TokioExecutor::new(),
        TokioIo::new(connect(&stack.ingresses[0]).await),
    )
    .await
    .unwrap();
    let connection = tokio::spawn(connection);
    assert_eq!(sender.send_request(asked("POST", &event())).await.unwrap().status(), 202);
    // GOAWAY without an error ends the connection cleanly for the client. A cut connection is an
    // error.
    let ended =
        tokio::time::timeout(WAIT_LIMIT, connection).await.expect("the connection ends").unwrap();
    assert!(ended.is_ok(), "{ended:?}");
}
