//! Bounds on the size, encoding and duration of a body. Ingress checks them before it verifies the
//! body.

use std::time::{Duration, Instant};

use tests::sender::{ACME_SECRET, HttpAnswer, content_event, now_ms, unique};
use tests::sign::{self, SignedWebhook};
use tests::stack::{ServerProcess, Stack};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Sends raw bytes, with a pause between the pieces. Returns everything received until the peer
/// closed the connection or sent nothing for `patience`.
async fn raw(
    role: &ServerProcess,
    pieces: &[&[u8]],
    pause: Duration,
    patience: Duration,
) -> String {
    let mut stream = TcpStream::connect(role.url.trim_start_matches("http://")).await.unwrap();
    for piece in pieces {
        if stream.write_all(piece).await.is_err() {
            break;
        }
        tokio::time::sleep(pause).await;
    }
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(Ok(length @ 1..)) = tokio::time::timeout(patience, stream.read(&mut buffer)).await
    {
        answer.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn head(signed: &SignedWebhook, extra: &str) -> String {
    let signature = signed.value("x-webhook-signature");
    format!(
        "POST {} HTTP/1.1\r\nhost: x\r\nx-webhook-signature: {signature}\r\n{extra}\r\n",
        signed.path
    )
}

fn parsed(raw: &str) -> HttpAnswer {
    let (head, text) = raw.split_once("\r\n\r\n").unwrap_or((raw, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let headers = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    HttpAnswer {
        status,
        headers,
        text: text.to_owned(),
        json: serde_json::from_str(text).unwrap_or_default(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn body_size_is_bounded_with_and_without_content_length() {
    let stack = Stack::builder().workers(0).ingress_env("MAX_BODY_BYTES", "1000").start().await;
    let sender = stack.sender();
    let sized = |size: usize| {
        let frame = r#"{"event_type":"t","timestamp":1,"payload":{"p":""}}"#;
        let body =
            frame.replace(r#""p":"""#, &format!(r#""p":"{}""#, "x".repeat(size - frame.len())));
        assert_eq!(body.len(), size);
        sign::generic("acme", ACME_SECRET, body.as_bytes())
    };
    sender.send(&sized(1000)).await.expect(202, "accepted");
    sender.send(&sized(1001)).await.expect_error(413, "E_WEBHOOK_PAYLOAD_TOO_LARGE");
    // Ingress refuses the declared length without reading the body.
    let declared = head(&sized(1000), "content-length: 99999999\r\n");
    let started_at = Instant::now();
    let answer =
        raw(&stack.ingresses[0], &[declared.as_bytes()], Duration::ZERO, Duration::from_secs(5))
            .await;
    parsed(&answer).expect_error(413, "E_WEBHOOK_PAYLOAD_TOO_LARGE");
    assert!(started_at.elapsed() < Duration::from_secs(9));
    // Chunked, without a declared length.
    let chunked = head(&sized(1000), "transfer-encoding: chunked\r\n");
    let chunk = format!("1f4\r\n{}\r\n", "y".repeat(500));
    let pieces =
        [chunked.as_bytes(), chunk.as_bytes(), chunk.as_bytes(), chunk.as_bytes(), b"0\r\n\r\n"];
    let answer =
        raw(&stack.ingresses[0], &pieces, Duration::from_millis(20), Duration::from_secs(2)).await;
    parsed(&answer).expect_error(413, "E_WEBHOOK_PAYLOAD_TOO_LARGE");
    assert_eq!(stack.unfinished("acme").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_content_encoding_is_refused() {
    let stack = Stack::builder().workers(0).start().await;
    let sender = stack.sender();
    let body = content_event("content_added", "c", "t", now_ms()).to_string();
    let signed = sign::generic("acme", ACME_SECRET, body.as_bytes());
    for encoding in ["compress", "x-unheard-of", "gzip, compress"] {
        let encoded = sign::generic("acme", ACME_SECRET, b"\x1f\x9d no JSON")
            .header("content-encoding", encoding);
        sender.send(&encoded).await.expect_error(415, "E_WEBHOOK_UNSUPPORTED_ENCODING");
        let unsigned =
            signed.clone().without("x-webhook-signature").header("content-encoding", encoding);
        sender.send(&unsigned).await.expect_error(415, "E_WEBHOOK_UNSUPPORTED_ENCODING");
    }
    sender
        .send(&signed.clone().header("content-encoding", "identity"))
        .await
        .expect(202, "accepted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incomplete_body_times_out() {
    let toml = "[platforms.patient]\nsecrets = [\"env:ACME_SECRET\"]\nbusy_status = 503\n";
    let stack = Stack::builder()
        .workers(0)
        .platforms(toml)
        .ingress_env("BODY_TIMEOUT_MS", "700")
        .start()
        .await;
    let role = &stack.ingresses[0];
    let body = content_event("content_added", "c", "t", now_ms()).to_string();
    for (platform, status) in [("acme", 408), ("patient", 503)] {
        let signed = sign::generic(platform, ACME_SECRET, body.as_bytes());
        let head = head(&signed, &format!("content-length: {}\r\n", body.len()));
        let started_at = Instant::now();
        let pieces = [head.as_bytes(), &body.as_bytes()[..20]];
        let answer = raw(role, &pieces, Duration::from_millis(10), Duration::from_secs(5)).await;
        parsed(&answer).expect_error(status, "E_WEBHOOK_BODY_TIMEOUT");
        assert!(started_at.elapsed() >= Duration::from_millis(600), "refused before the timeout");
        // Sending byte by byte does not extend the timeout.
        let drops: Vec<&[u8]> =
            std::iter::once(head.as_bytes()).chain(body.as_bytes()[..30].chunks(1)).collect();
        let answer = raw(role, &drops, Duration::from_millis(60), Duration::from_secs(5)).await;
        assert!(answer.contains("E_WEBHOOK_BODY_TIMEOUT"), "{answer}");
    }
    // A slow body that arrives in time is accepted.
    let signed = sign::generic("acme", ACME_SECRET, body.as_bytes());
    let head = head(&signed, &format!("content-length: {}\r\nconnection: close\r\n", body.len()));
    let (one, two) = body.as_bytes().split_at(30);
    let answer =
        raw(role, &[head.as_bytes(), one, two], Duration::from_millis(100), Duration::from_secs(5))
            .await;
    parsed(&answer).expect(202, "accepted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_flight_bytes_at_their_bound_evict_the_slowest_body() {
    let stack = Stack::builder()
        .workers(0)
        .ingress_env("MAX_BODY_BYTES", "1000")
        .ingress_env("MAX_IN_FLIGHT_BYTES", "1000");
    let stack = stack.start().await;
    let role = &stack.ingresses[0];
    let body = || {
        [
            vec![b' '; 500],
            content_event("content_added", &unique("c"), "t", now_ms()).to_string().into(),
        ]
    };
    let signed = || sign::generic("acme", ACME_SECRET, &body().concat());
    let head = head(&signed(), "content-length: 950\r\n");
    let mut slow = TcpStream::connect(role.url.trim_start_matches("http://")).await.unwrap();
    slow.write_all(head.as_bytes()).await.unwrap();
    slow.write_all(&[b' '; 600]).await.unwrap();
    // Both bodies together exceed the bound. The complete one is accepted, and the incomplete one
    // gets 503.
    let answers =
        tests::poll::until("the slow request is answered", Duration::from_secs(10), async || {
            stack.sender().send(&signed()).await.expect(202, "accepted");
            let mut answer = vec![0; 4096];
            match tokio::time::timeout(Duration::from_millis(50), slow.read(&mut answer)).await {
                Ok(Ok(length)) => Ok(String::from_utf8_lossy(&answer[..length]).into_owned()),
                waiting => Err(format!("{waiting:?}")),
            }
        });
    let answer = parsed(&answers.await);
    answer.expect_error(503, "E_WEBHOOK_OVERLOADED");
    assert!(answer.header("retry-after").is_some());
    stack.sender().send(&signed()).await.expect(202, "accepted");
}
