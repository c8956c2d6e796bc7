//! Refusals for reasons other than the signature, each with the status, error code and envelope of
//! the contract.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::json;
use tests::sender::{
    ACME_SECRET, MUX_SECRET, NETFLIX_SECRET, content_event, mux_event, now, now_ms, unique,
};
use tests::sign::{self, SignedWebhook};
use tests::stack::Stack;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_disabled_and_unconfigured_platforms_are_refused() {
    let toml = "[platforms.off]\nsecrets = [\"env:ACME_SECRET\"]\nenabled = false\n";
    let stack = Stack::builder()
        .platforms(toml)
        .workers(0)
        .without_ingress_env("NETFLIX_WEBHOOK_SECRET")
        .start()
        .await;
    let sender = stack.sender();
    let body = content_event("content_added", "c", "t", now_ms()).to_string();
    let to = |platform: &str| sign::generic(platform, ACME_SECRET, body.as_bytes());
    for name in ["unheard-of", "sessions", "out", "MUX", "mux%00", "mux%20", "m%C3%BCx"] {
        sender.send(&to(name)).await.expect_error(404, "E_WEBHOOK_UNSUPPORTED_PLATFORM");
    }
    sender.send(&to("off")).await.expect_error(403, "E_WEBHOOK_PLATFORM_DISABLED");
    let answer = sender.send(&to("netflix")).await;
    answer.expect_error(500, "E_WEBHOOK_CONFIG_MISSING");
    assert_eq!(answer.json["errmesg"], "Webhook signing secret not configured");
    // Errors of the platform take precedence over errors of the request.
    let huge = SignedWebhook { body: vec![b'x'; 2 << 20], ..to("off") };
    sender.send(&huge).await.expect_error(403, "E_WEBHOOK_PLATFORM_DISABLED");
    let streams: Vec<String> = stack.redis.command(&["KEYS", "webhooks:incoming:*"]).await;
    for stream in streams {
        let length: usize = stack.redis.command(&["XLEN", &stream]).await;
        assert_eq!(length, 0, "{stream}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_bodies_are_refused_as_invalid_payload() {
    let stack = Stack::builder().workers(0).start().await;
    let sender = stack.sender();
    let deep = format!("{}1{}", "[".repeat(5_000), "]".repeat(5_000));
    let bodies: [(&str, &[u8]); 11] = [
        ("empty", b""),
        ("not JSON", b"hello"),
        ("cut short", br#"{"event_type":"t","payload":{"#),
        ("two documents", br#"{"event_type":"t","payload":{}}{}"#),
        ("a key twice", br#"{"event_type":"a","event_type":"b","payload":{}}"#),
        ("not UTF-8", b"{\"event_type\":\"t\",\xff\"payload\":{}}"),
        ("not an object", b"[1,2,3]"),
        ("too deep", deep.as_bytes()),
        ("no type", br#"{"payload":{}}"#),
        ("type of another kind", br#"{"event_type":7,"payload":{}}"#),
        ("payload of another kind", br#"{"event_type":"t","payload":"secret-value-31337"}"#),
    ];
    for (what, body) in bodies {
        let answer = sender.send(&sign::generic("acme", ACME_SECRET, body)).await;
        assert_eq!(answer.status, 400, "{what}: {}", answer.text);
        answer.expect_error(400, "E_WEBHOOK_INVALID_PAYLOAD");
        assert!(
            !answer.text.contains("secret-value"),
            "names the path, not the value: {}",
            answer.text
        );
    }
    let answer = sender.send(&sign::generic("acme", ACME_SECRET, bodies[10].1)).await;
    assert!(answer.json["errmesg"].as_str().unwrap().contains("/payload"), "{}", answer.text);
    for body in ["{}", "[]", r#"{"type":{"a":1}}"#] {
        let answer = sender.send(&sign::mux(MUX_SECRET, now(), body.as_bytes())).await;
        answer.expect_error(400, "E_WEBHOOK_INVALID_PAYLOAD");
    }
    assert_eq!(stack.unfinished("acme").await + stack.unfinished("mux").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn netflix_schema_and_platform_field_are_enforced() {
    let stack = Stack::builder().workers(0).start().await;
    let sender = stack.sender();
    let body = |payload: serde_json::Value| {
        json!({"event_type": "content_added",
        "timestamp": now_ms(), "payload": payload})
    };
    for payload in
        [json!({"title": "x"}), json!({"content_id": 5}), json!({"content_id": "a", "title": 5})]
    {
        sender.netflix(&body(payload)).await.expect_error(400, "E_WEBHOOK_INVALID_PAYLOAD");
    }
    let mut named = body(json!({"content_id": "a"}));
    for (name, status) in [("hulu", 400), ("", 400), ("netflix", 202)] {
        named["platform"] = name.into();
        let answer = sender.netflix(&named).await;
        assert_eq!(answer.status, status, "platform {name:?}: {}", answer.text);
    }
    // Ingress checks the schema after the signature.
    let bad = body(json!({})).to_string();
    let forged = sign::generic("netflix", "wrong", bad.as_bytes());
    sender.send(&forged).await.expect_error(401, "E_WEBHOOK_INVALID_SIGNATURE");
    sender
        .send(&sign::generic("netflix", NETFLIX_SECRET, bad.as_bytes()))
        .await
        .expect_error(400, "E_WEBHOOK_INVALID_PAYLOAD");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_have_the_envelope_and_a_logged_error_id() {
    let stack = Stack::builder().workers(0).start().await;
    let sender = stack.sender();
    let mut ids = BTreeSet::new();
    let mut seen = |answer: &tests::sender::HttpAnswer, status: u16, code: &str| {
        answer.expect_error(status, code);
        assert!(
            ids.insert(answer.json["erresid"].as_str().unwrap().to_owned()),
            "an erresid came twice"
        );
    };
    let path =
        |path: &str| SignedWebhook { path: path.to_owned(), headers: Vec::new(), body: Vec::new() };
    seen(&sender.get("/nothing/here").await, 404, "E_NOT_FOUND");
    seen(&sender.send(&path("/")).await, 404, "E_NOT_FOUND");
    seen(&sender.get("/api/v1/webhooks/mux").await, 405, "E_METHOD_NOT_ALLOWED");
    let deleted = sender.request(Method::DELETE, &path("/webhook/mux")).await.unwrap();
    seen(&deleted, 405, "E_METHOD_NOT_ALLOWED");
    seen(
        &sender.send(&path("/api/v1/webhooks/nobody")).await,
        404,
        "E_WEBHOOK_UNSUPPORTED_PLATFORM",
    );
    let body = mux_event(&unique("event"), "active", None, "ls", now_ms()).to_string();
    seen(
        &sender.send(&sign::mux("wrong", now(), body.as_bytes())).await,
        401,
        "E_WEBHOOK_INVALID_SIGNATURE",
    );
    seen(&sender.send(&sign::mux(MUX_SECRET, now(), b"{")).await, 400, "E_WEBHOOK_INVALID_PAYLOAD");
    let log = stack.ingresses[0].process.log();
    let missing: Vec<_> = ids.iter().skip_while(|id| log.contains(id.as_str())).collect();
    assert!(missing.len() <= 4, "errors of verified routes must be in the log: {missing:?}\n{log}");
}
