//! Compressed bodies. Ingress verifies them in compressed or decoded form, bounds the decoded size
//! and queues the decoded body.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use tests::sender::{ACME_SECRET, LIVEKIT_KEY, LIVEKIT_SECRET, MUX_SECRET};
use tests::sender::{content_event, livekit_event, mux_event, now, now_ms, unique};
use tests::sign::{self, SignedWebhook};
use tests::stack::Stack;

use crate::WAIT_LIMIT;

const CODINGS: [&str; 3] = ["gzip", "zstd", "br"];

fn encode(coding: &str, body: &[u8]) -> Vec<u8> {
    match coding {
        "gzip" => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
        "zstd" => zstd::bulk::compress(body, 3).unwrap(),
        _ => {
            let mut encoded = Vec::new();
            let parameters = brotli::enc::BrotliEncoderParams { quality: 5, ..Default::default() };
            brotli::BrotliCompress(&mut &*body, &mut encoded, &parameters).unwrap();
            encoded
        }
    }
}

/// The request with its body compressed after signing: the signature covers the decoded body.
fn compressed(signed: SignedWebhook, coding: &str) -> SignedWebhook {
    SignedWebhook {
        body: encode(coding, &signed.body),
        ..signed.header("content-encoding", coding)
    }
}

async fn queued(stack: &Stack, platform: &str) -> Vec<String> {
    let entries: Vec<(String, Vec<String>)> =
        stack.redis.command(&["XRANGE", &format!("webhooks:incoming:{platform}"), "-", "+"]).await;
    let body = |(_, fields): (String, Vec<String>)| {
        fields.chunks(2).find(|pair| pair[0] == "body").map(|pair| pair[1].clone()).expect("a body")
    };
    entries.into_iter().map(body).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compressed_body_signed_in_either_form_is_the_same_event() {
    let stack = Stack::builder().workers(0).start().await;
    let sender = stack.sender();
    let mut bodies = Vec::new();
    for coding in CODINGS {
        let body = content_event("content_added", &unique("c"), "a title", now_ms()).to_string();
        let on_wire = sign::generic("acme", ACME_SECRET, &encode(coding, body.as_bytes()));
        let on_wire = on_wire.header("content-encoding", coding);
        let id = sender.send(&on_wire).await.expect(202, "accepted").to_owned();
        let decoded = compressed(sign::generic("acme", ACME_SECRET, body.as_bytes()), coding);
        assert_eq!(sender.send(&decoded).await.expect(200, "duplicate"), id, "{coding}");
        let plain = sign::generic("acme", ACME_SECRET, body.as_bytes());
        assert_eq!(sender.send(&plain).await.expect(200, "duplicate"), id, "{coding}");
        bodies.push(body);
    }
    assert_eq!(queued(&stack, "acme").await, bodies, "queued decoded, as their senders wrote them");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compressed_bodies_of_every_scheme_are_applied() {
    let stack = Stack::builder().start().await;
    let sender = stack.sender();
    let room = unique("room");
    sender
        .announce(&room, &serde_json::json!({"live_stream_id": "ls-compressed"}))
        .await
        .expect(202, "accepted");
    let body =
        mux_event(&unique("event"), "active", Some(&room), "ls-compressed", now_ms()).to_string();
    let request = compressed(sign::mux(MUX_SECRET, now(), body.as_bytes()), "br");
    sender.send(&request).await.expect(202, "accepted");
    stack.status(&room, "live", WAIT_LIMIT).await;
    let body = livekit_event(&unique("EV"), "room_finished", &room, now() + 1).to_string();
    let request =
        compressed(sign::livekit(LIVEKIT_KEY, LIVEKIT_SECRET, now(), body.as_bytes()), "zstd");
    sender.send(&request).await.expect(202, "accepted");
    stack.status(&room, "stopped", WAIT_LIMIT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compressed_forgery_gets_no_detail_about_its_stream() {
    let stack = Stack::builder().workers(0).start().await;
    let sender = stack.sender();
    let body = content_event("content_added", "c", "t", now_ms()).to_string();
    for coding in CODINGS {
        let forged = compressed(sign::generic("acme", "wrong", body.as_bytes()), coding);
        sender.send(&forged).await.expect_error(401, "E_WEBHOOK_INVALID_SIGNATURE");
        // A stream that cannot be decoded is a forgery without a valid signature and an invalid
        // payload with one.
        let broken = b"not a stream of any kind";
        let stranger = sign::generic("acme", "wrong", broken).header("content-encoding", coding);
        let stranger = sender.send(&stranger).await;
        stranger.expect_error(401, "E_WEBHOOK_INVALID_SIGNATURE");
        assert!(!stranger.text.contains("encoding"), "{}", stranger.text);
        let genuine = sign::generic("acme", ACME_SECRET, broken).header("content-encoding", coding);
        sender.send(&genuine).await.expect_error(400, "E_WEBHOOK_INVALID_PAYLOAD");
        // Ingress decodes nothing without a signature.
        let bomb = SignedWebhook {
            body: encode(coding, &vec![b' '; 3 << 20]),
            ..stranger_request(coding)
        };
        sender.send(&bomb).await.expect_error(401, "E_WEBHOOK_INVALID_SIGNATURE");
    }
    // A stale timestamp is reported as expired, whichever form the signature covers.
    let body = mux_event(&unique("event"), "active", None, "ls", now_ms()).to_string();
    let old = compressed(sign::mux(MUX_SECRET, now() - 3600, body.as_bytes()), "gzip");
    sender.send(&old).await.expect_error(401, "E_WEBHOOK_SIGNATURE_ERROR");
    assert_eq!(stack.unfinished("acme").await + stack.unfinished("mux").await, 0);
}

fn stranger_request(coding: &str) -> SignedWebhook {
    sign::generic("acme", ACME_SECRET, b"")
        .without("x-webhook-signature")
        .header("content-encoding", coding)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn decoded_size_is_bounded_while_decoding() {
    let stack = Stack::builder().workers(0).ingress_env("MAX_BODY_BYTES", "400000").start().await;
    let sender = stack.sender();
    let sized = |size: usize| {
        let frame = r#"{"event_type":"t","timestamp":1,"payload":{"p":""}}"#;
        frame
            .replace(r#""p":"""#, &format!(r#""p":"{}""#, "x".repeat(size - frame.len())))
            .into_bytes()
    };
    for (at, coding) in CODINGS.into_iter().enumerate() {
        // Separate events: one is a byte longer.
        let fits = compressed(sign::generic("acme", ACME_SECRET, &sized(400_000 - at)), coding);
        sender.send(&fits).await.expect(202, "accepted");
        let over = compressed(sign::generic("acme", ACME_SECRET, &sized(400_001)), coding);
        sender.send(&over).await.expect_error(413, "E_WEBHOOK_PAYLOAD_TOO_LARGE");
        // A bomb, signed in its compressed form with the right and with a wrong secret.
        let bomb = encode(coding, &vec![b' '; 128 << 20]);
        assert!(bomb.len() < 400_000, "{coding}: {}", bomb.len());
        for secret in [ACME_SECRET, "wrong"] {
            let bomb = sign::generic("acme", secret, &bomb).header("content-encoding", coding);
            sender.send(&bomb).await.expect_error(413, "E_WEBHOOK_PAYLOAD_TOO_LARGE");
        }
    }
    assert_eq!(stack.unfinished("acme").await, 3);
    let peak = stack.ingresses[0].process.peak_memory().unwrap_or(0);
    assert!(peak < 100 << 20, "{} MiB, though bombs of 128 MiB came", peak >> 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_or_unknown_content_codings_are_refused() {
    let stack = Stack::builder().workers(0).start().await;
    let body = content_event("content_added", "c", "t", now_ms()).to_string();
    let signed = sign::generic("acme", ACME_SECRET, &encode("gzip", body.as_bytes()));
    for coding in ["gzip, gzip", "br, zstd", "deflate", "compress", "gzip;q=1"] {
        let answer = stack.sender().send(&signed.clone().header("content-encoding", coding)).await;
        answer.expect_error(415, "E_WEBHOOK_UNSUPPORTED_ENCODING");
    }
    let twice = signed.header("content-encoding", "gzip").header("content-encoding", "br");
    stack.sender().send(&twice).await.expect_error(415, "E_WEBHOOK_UNSUPPORTED_ENCODING");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inapplicable_content_encoding_is_ignored() {
    let stack = Stack::builder().workers(0).start().await;
    let sender = stack.sender();
    // Charsets and MIME encodings are no content codings. A proxy that decoded the body may leave
    // the others behind.
    let ignored = [
        "UTF-8",
        "none",
        "8bit",
        "binary",
        "identity, utf-8",
        "gzip",
        "zstd",
        "br",
        "gzip, br",
        "deflate",
    ];
    let mut bodies = Vec::new();
    for coding in ignored {
        let body = content_event("content_added", &unique("c"), "a title", now_ms()).to_string();
        let plain =
            sign::generic("acme", ACME_SECRET, body.as_bytes()).header("content-encoding", coding);
        sender.send(&plain).await.expect(202, "accepted");
        let forged =
            sign::generic("acme", "wrong", body.as_bytes()).header("content-encoding", coding);
        assert!(matches!(sender.send(&forged).await.status, 401 | 415), "{coding}");
        bodies.push(body);
    }
    assert_eq!(queued(&stack, "acme").await, bodies);
    // A charset in the list does not affect the coding beside it.
    let body = content_event("content_added", &unique("c"), "a title", now_ms()).to_string();
    let packed = sign::generic("acme", ACME_SECRET, &encode("gzip", body.as_bytes()));
    sender.send(&packed.header("content-encoding", "gzip, utf-8")).await.expect(202, "accepted");
    assert_eq!(queued(&stack, "acme").await.last(), Some(&body));
}
