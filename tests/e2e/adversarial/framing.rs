//! Requests with contradictory framing, and requests that never end.

use super::*;

/// A valid request that an attacker hides behind or inside another one.
fn hidden() -> String {
    let signed = event();
    let body = String::from_utf8(signed.body.clone()).unwrap();
    format!("{}content-length: {}\r\n\r\n{body}", head(&signed, ""), body.len())
}

/// Requests whose end two HTTP parsers may find at different places. Each hides a valid request
/// that only one of the two parsers sees.
fn ambiguous() -> Vec<(&'static str, String)> {
    let post = "POST /api/v1/webhooks/acme HTTP/1.1\r\nhost: x\r\n";
    let shape = |headers: &str, before: &str| {
        let hidden = hidden();
        let all = before.len() + hidden.len();
        format!("{post}{}\r\n\r\n{before}{hidden}", headers.replace("ALL", &all.to_string()))
    };
    let te = "content-length: ALL\r\ntransfer-encoding: chunked";
    vec![
        ("a length and chunks", shape(te, "0\r\n\r\n")),
        (
            "chunks and a length",
            shape("transfer-encoding: chunked\r\ncontent-length: ALL", "0\r\n\r\n"),
        ),
        (
            "a length of nothing and chunks",
            shape("content-length: 0\r\ntransfer-encoding: chunked", "0\r\n\r\n"),
        ),
        ("two lengths", shape("content-length: 0\r\ncontent-length: ALL", "")),
        ("two lengths, swapped", shape("content-length: ALL\r\ncontent-length: 0", "")),
        ("two lengths in one", shape("content-length: 0, ALL", "")),
        ("a length with a sign", shape("content-length: +0", "")),
        ("a length in hex", shape("content-length: 0x0", "")),
        (
            "a folded transfer coding",
            shape("content-length: 0\r\ntransfer-encoding:\r\n chunked", "0\r\n\r\n"),
        ),
        ("a folded header", shape("x: y\r\n content-length: ALL\r\ncontent-length: 0", "")),
        (
            "a blank before the colon",
            shape("content-length: 0\r\ntransfer-encoding : chunked", "0\r\n\r\n"),
        ),
        ("a blank before a length's colon", shape("content-length : ALL\r\ncontent-length: 0", "")),
        (
            "chunked after something",
            shape("transfer-encoding: x, chunked\r\ncontent-length: 0", "0\r\n\r\n"),
        ),
        (
            "chunked before something",
            shape("transfer-encoding: chunked, x\r\ncontent-length: 0", "0\r\n\r\n"),
        ),
        (
            "something like chunked",
            shape("transfer-encoding: xchunked\r\ncontent-length: 0", "0\r\n\r\n"),
        ),
        (
            "chunked twice",
            shape(
                "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\ncontent-length: 0",
                "0\r\n\r\n",
            ),
        ),
        (
            "a control character in chunked",
            shape("transfer-encoding: \u{b}chunked\r\ncontent-length: 0", "0\r\n\r\n"),
        ),
        ("a bare return", shape("x: y\rtransfer-encoding: chunked\r\ncontent-length: 0", "")),
        (
            "a chunk of more than can be counted",
            shape("transfer-encoding: chunked", "fffffffffffffffff0\r\n\r\n0\r\n\r\n"),
        ),
        ("a chunk with a sign", shape("transfer-encoding: chunked", "-0\r\n\r\n")),
        ("a chunk in two notations", shape("transfer-encoding: chunked", "0x0\r\n\r\n")),
        ("a chunk longer than its size", shape("transfer-encoding: chunked", "1\r\nab0\r\n\r\n")),
        ("chunks that old HTTP has not", {
            shape("content-length: 0\r\ntransfer-encoding: chunked", "0\r\n\r\n")
                .replace("HTTP/1.1\r\nhost", "HTTP/1.0\r\nhost")
        }),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ambiguous_framing_is_refused_and_ends_the_connection() {
    let stack = Stack::builder().workers(0).ingress_env("BODY_TIMEOUT_MS", "500").start().await;
    let mut wrong = Vec::new();
    for (name, bytes) in ambiguous() {
        let (received, closed) =
            exchange(address(&stack), bytes.as_bytes(), Duration::from_secs(8)).await;
        let statuses = statuses(&received);
        let refused = statuses.iter().all(|status| status.starts_with('4')) && closed;
        let queued = stack.unfinished("acme").await;
        if !refused || queued > 0 {
            wrong.push(format!("{name}: {statuses:?}, closed: {closed}, queued: {queued}"));
            let (): () = stack.redis.command(&["FLUSHALL"]).await;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    stack.sender().send(&event()).await.expect(202, "accepted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unambiguous_framing_hides_no_request() {
    let stack = Stack::builder().workers(0).ingress_env("BODY_TIMEOUT_MS", "500").start().await;
    let to = address(&stack);
    // Chunk extensions and trailers are not part of the body.
    let signed = event();
    let body = String::from_utf8(signed.body.clone()).unwrap();
    let size = format!("{:x}", body.len());
    let chunked = |chunks: &str| {
        format!(
            "{}{chunks}",
            head(&signed, "transfer-encoding: chunked\r\nconnection: close\r\n\r\n")
        )
    };
    let with = chunked(&format!("{size};name=\"value\"\r\n{body}\r\n0;last\r\n\r\n"));
    let (received, _) = exchange(to, with.as_bytes(), Duration::from_secs(8)).await;
    assert_eq!(statuses(&received), ["202"], "{received}");
    // A complete request inside a body is plain body data.
    let inner = hidden();
    let outer = format!(
        "{}content-length: {}\r\nconnection: close\r\n\r\n{inner}",
        head(&event(), ""),
        inner.len()
    );
    let (received, _) = exchange(to, outer.as_bytes(), Duration::from_secs(8)).await;
    assert_eq!(statuses(&received), ["401"], "{received}");
    assert_eq!(stack.unfinished("acme").await, 1);
}

/// Sends `piece` again and again after `first`. Returns the number of bytes that were accepted, and
/// the status if ingress sent one before it closed the connection.
async fn endless(to: SocketAddr, first: &str, piece: &[u8]) -> (usize, String) {
    let mut stream = connect(to, 8).await.unwrap();
    stream.write_all(first.as_bytes()).await.unwrap();
    let (mut read, mut write) = stream.split();
    let mut taken = 0;
    let sending = async {
        while write.write_all(piece).await.is_ok() {
            taken += piece.len();
        }
        std::future::pending::<()>().await;
    };
    let mut received = Vec::new();
    let ended = timeout(Duration::from_secs(30), async {
        tokio::select! {
            _ = read.read_to_end(&mut received) => {}
            () = sending => {}
        }
    });
    ended.await.expect("the connection was closed");
    (
        taken,
        statuses(&String::from_utf8_lossy(&received))
            .first()
            .map_or(String::new(), |status| (*status).to_owned()),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_input_is_cut_off() {
    let stack = Stack::builder()
        .workers(0)
        .ingress_env("MAX_BODY_BYTES", "65536")
        .ingress_env("BODY_TIMEOUT_MS", "2000")
        .start()
        .await;
    let to = address(&stack);
    let chunked = |signed: &SignedWebhook| head(signed, "transfer-encoding: chunked\r\n\r\n");
    let genuine = event();
    let lost = genuine.clone().to("/api/v1/webhooks/nobody");
    let nowhere = genuine.clone().to("/nothing/at/all");
    let session = format!(
        "PUT /api/v1/sessions/room HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
        transfer-encoding: chunked\r\n\r\n",
        tests::sender::ADMIN_TOKEN
    );
    let chunk = [b"4000\r\n".as_slice(), &[b' '; 0x4000], b"\r\n"].concat();
    let extension = [b"1".as_slice(), &[b';'; 4000]].concat();
    let lie = head(&genuine, &format!("content-length: {}\r\n\r\n", u64::MAX));
    let long = head(&genuine, "content-length: 99999999\r\n\r\n");
    let (genuine, lost, nowhere) = (chunked(&genuine), chunked(&lost), chunked(&nowhere));
    let cases: [(&str, &str, &[u8], &[&str]); 9] = [
        ("chunks to a platform", &genuine, &chunk, &["413"]),
        ("chunks to an unknown path", &lost, &chunk, &["404"]),
        ("chunks to no route", &nowhere, &chunk, &["404"]),
        ("chunks of an announcement", &session, &chunk, &["413"]),
        ("chunks of one byte", &genuine, b"1\r\n \r\n", &["413", "408"]),
        ("a chunk's extension", &genuine, &extension, &["413", "400", "408"]),
        ("a chunk's size", &genuine, b"0000000000000000", &["400", "413", "408"]),
        ("a length out of range", &lie, &chunk, &["413", "400"]),
        ("a length beyond the bound", &long, &chunk, &["413"]),
    ];
    let served = while_serving(&stack, async {
        for (name, first, piece, expected) in cases {
            let started_at = Instant::now();
            let (taken, status) = endless(to, first, piece).await;
            eprintln!(
                "{name}: {status}, and closed after {:?} and {taken} bytes",
                started_at.elapsed()
            );
            // Ingress may close so early that a reset discards its answer.
            assert!(status.is_empty() || expected.contains(&status.as_str()), "{name}: {status}");
            // Ingress reads and discards further input for a moment after it answers, so that a
            // reset does not overtake the answer.
            assert!(
                started_at.elapsed() < Duration::from_secs(10),
                "{name}: {:?}",
                started_at.elapsed()
            );
        }
    })
    .await;
    assert_eq!(stack.unfinished("acme").await, served);
    assert_eq!(stack.unfinished("sessions").await, 0);
    check_memory(&stack, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn header_floods_are_refused_and_bounded() {
    let stack = Stack::builder().workers(0).start().await;
    let to = address(&stack);
    let many: String = (0..2000).map(|n| format!("x-{n}: {n}\r\n")).collect();
    let long = format!("x: {}\r\n", "y".repeat(1 << 20));
    let unending = "x".repeat(1 << 20);
    let same = "x-webhook-signature: sha256=00\r\n".repeat(90);
    let host = "host: x\r\n".repeat(95);
    let cookies = format!("cookie: {}\r\n", "a=b; ".repeat(12_000));
    let signed = event();
    while_serving(&stack, async {
        for flood in [&many, &long, &unending, &same, &host, &cookies] {
            let bytes =
                head(&signed, &format!("{flood}content-length: 0\r\nconnection: close\r\n\r\n"));
            let flooding = (0..40).map(|_| exchange(to, bytes.as_bytes(), Duration::from_secs(10)));
            for (received, closed) in futures_util::future::join_all(flooding).await {
                let statuses = statuses(&received);
                assert!(closed, "{statuses:?} to {}…", &flood[..20]);
                assert!(
                    statuses.iter().all(|status| status.starts_with('4')),
                    "{statuses:?} to {}…",
                    &flood[..20]
                );
            }
        }
    })
    .await;
    check_memory(&stack, 200);
}
