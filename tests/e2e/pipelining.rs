//! HTTP pipelining: several requests in one write.

use std::time::Duration;

use tests::sender::{ACME_SECRET, content_event, now_ms, unique};
use tests::sign::{self, SignedWebhook};
use tests::stack::Stack;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn event() -> SignedWebhook {
    let body = content_event("content_added", &unique("c"), "t", now_ms()).to_string();
    sign::generic("acme", ACME_SECRET, body.as_bytes())
}

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

/// Statuses of all answers until the peer closes the connection.
async fn answers(stack: &Stack, bytes: &[u8]) -> Vec<String> {
    let mut stream =
        TcpStream::connect(stack.ingresses[0].url.trim_start_matches("http://")).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut received = Vec::new();
    let ended =
        tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut received)).await;
    let text = String::from_utf8_lossy(&received).into_owned();
    ended.unwrap_or_else(|_| panic!("not closed after {text}")).unwrap();
    text.split("HTTP/1.1 ").skip(1).map(|answer| answer[..3].to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_requests_are_served_in_order() {
    let stack = Stack::builder().workers(0).start().await;
    let (one, two) = (event(), event());
    let bytes =
        [request(&one, ""), request(&two, ""), request(&one, "connection: close\r\n")].concat();
    assert_eq!(answers(&stack, &bytes).await, ["202", "202", "200"]);
    assert_eq!(stack.unfinished("acme").await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_request_after_connection_close_has_no_effect() {
    let stack = Stack::builder().workers(0).ingress_env("BODY_TIMEOUT_MS", "300").start().await;
    let close = "connection: close\r\n";
    let bytes = [
        request(&event(), ""),
        request(&event(), close),
        request(&event(), ""),
        request(&event(), ""),
    ]
    .concat();
    let seen = answers(&stack, &bytes).await;
    assert_eq!(seen[..2], ["202", "202"]);
    assert!(seen[2..].iter().all(|status| status == "503"), "{seen:?}");
    assert_eq!(stack.unfinished("acme").await, 2);
    // A new connection works.
    assert_eq!(answers(&stack, &request(&event(), close)).await, ["202"]);
}
