//! Verified requests without a usable event. They are kept as dead letters if the sender never
//! retries.

use serde_json::{Value, json};
use tests::ledger::entries;
use tests::sender::{ACME_SECRET, LIVEKIT_KEY, LIVEKIT_SECRET, now, now_ms, rfc3339};
use tests::sign::{self, SignedWebhook};
use tests::stack::{Stack, StackBuilder};
use tests::{poll, sender};

use crate::WAIT_LIMIT;

const SECRET: &str = "realcast-secret-3c1d";

fn builder() -> StackBuilder {
    Stack::builder()
        .platforms("[platforms.github]\nsecrets = [\"env:REALCAST_WEBHOOK_SECRET\"]\n")
        .ingress_env("REALCAST_WEBHOOK_SECRET", SECRET)
}

fn realcast(body: &[u8]) -> SignedWebhook {
    sign::over_body("realcast", "X-RealCast-Signature", SECRET, body)
}

async fn dead_letter(stack: &Stack, platform: &str) -> Value {
    let listed = stack.dlq_tool(&["list", "--platform", platform, "--output", "json"]).await;
    assert_eq!(listed.code, Some(0), "{listed:?}");
    serde_json::from_str(listed.stdout.trim())
        .unwrap_or_else(|error| panic!("{error}: {}", listed.stdout))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unusable_request_is_kept_and_edited_into_an_event() {
    let stack = builder().start().await;
    let at = now_ms() - 5_000;
    let body = format!(
        "{{\"event\":\"stream.live\",\"event\":\"stream.live\",\"timestamp\":\"{}\",\
         \"data\":{{\"stream_id\":\"r\"}}}}",
        rfc3339(at)
    );
    let answer = stack.sender().send(&realcast(body.as_bytes())).await;
    let id = answer.expect(202, "accepted").to_owned();
    assert_eq!(stack.sender().send(&realcast(body.as_bytes())).await.expect(200, "duplicate"), id);
    stack
        .sender()
        .send(&sign::over_body("realcast", "X-RealCast-Signature", "wrong", b"{"))
        .await
        .expect_error(401, "E_WEBHOOK_INVALID_SIGNATURE");

    let dead = dead_letter(&stack, "realcast").await;
    assert_eq!((&dead["event_id"], &dead["error_code"]), (&json!(id), &json!("invalid_event")));
    assert_eq!((&dead["body"], &dead["worker"]), (&json!(body), &json!("ingress")));
    assert!(dead["error"].as_str().expect("a text").contains("duplicate key"), "{dead}");
    let stream_id = dead["id"].as_str().expect("an id");
    assert_eq!((&dead["origin"], stack.unfinished("realcast").await), (&dead["id"], 0));
    assert_eq!(stack.dlq_tool(&["show", stream_id]).await.code, Some(0));
    let metric = async |outcome: &str| {
        let labels = ["platform=\"realcast\"".to_owned(), format!("outcome=\"{outcome}\"")];
        stack.ingresses[0]
            .metric("webhook_requests_total", &labels.each_ref().map(String::as_str))
            .await
    };
    assert_eq!(
        (metric("kept_invalid").await, metric("accepted").await, metric("invalid_payload").await),
        (1.0, 0.0, 0.0)
    );

    // Without an edit, a worker cannot use it either.
    assert_eq!(stack.dlq_tool(&["replay", "--platform", "realcast"]).await.code, Some(0));
    poll::until("the event is a dead letter again", WAIT_LIMIT, async || {
        stack.wait_until_drained(WAIT_LIMIT).await;
        let dead = dead_letter(&stack, "realcast").await;
        if dead["replays"] == 1 { Ok(()) } else { Err(dead) }
    })
    .await;
    assert_eq!(dead_letter(&stack, "realcast").await["event_id"], json!(id));
    assert_eq!(stack.database.count("webhook_events").await, 0);

    // After a purge the sender can send it again.
    let exported = stack.dlq_tool(&["export"]).await;
    assert_eq!(stack.dlq_tool(&["purge"]).await.code, Some(0));
    assert_eq!(stack.sender().send(&realcast(body.as_bytes())).await.expect(202, "accepted"), id);
    assert_eq!(stack.dlq_tool(&["purge"]).await.code, Some(0));
    let imported = stack
        .program("dlq-tool")
        .arg("import")
        .run_with_input(exported.stdout.as_bytes(), WAIT_LIMIT)
        .await;
    assert_eq!(imported.code, Some(0), "{imported:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edited_unusable_request_has_the_type_and_time_of_the_edit() {
    let stack = builder().start().await;
    let at = rfc3339(now_ms() - 5_000);
    let body = json!({"timestamp": at, "data": {"stream_id": "r"}}).to_string();
    stack.sender().send(&realcast(body.as_bytes())).await.expect(202, "accepted");
    let dead = dead_letter(&stack, "realcast").await;
    assert!(dead["event_type"].is_null(), "{dead}");
    let replayed = stack.dlq_tool(&["replay", "--set", "/event=stream.live"]).await;
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    stack.status("r", "live", WAIT_LIMIT).await;
    let row = stack
        .database
        .event("realcast", dead["event_id"].as_str().expect("an id"))
        .await
        .expect("a row");
    assert_eq!((&row["event_type"], &row["occurred_at"]), (&json!("stream.live"), &json!(at)));
    assert_eq!(stack.dead("realcast").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unusable_request_is_kept_only_if_4xx_is_final() {
    let stack = builder().workers(0).start().await;
    let sender = stack.sender();
    let livekit = sign::livekit(LIVEKIT_KEY, LIVEKIT_SECRET, now(), b"no json");
    sender.send(&livekit).await.expect(202, "accepted");
    let form = b"payload=%7B%22zen%22%3A%22Keep+it%22%7D";
    let github = sign::over_body("github", "X-Hub-Signature-256", SECRET, form)
        .header("X-GitHub-Event", "ping");
    sender.send(&github).await.expect(202, "accepted");
    let dead = dead_letter(&stack, "github").await;
    assert_eq!(dead["event_type"], "ping", "the header is still there");
    assert!(
        dead["error"].as_str().expect("a text").contains("choose application/json at the sender"),
        "{dead}"
    );
    // A body that does not match its content coding.
    let broken = realcast(b"no stream").header("content-encoding", "gzip");
    sender.send(&broken).await.expect(202, "accepted");
    assert_eq!(dead_letter(&stack, "realcast").await["body"], "no stream");

    for (platform, secret) in [("acme", ACME_SECRET), ("netflix", sender::NETFLIX_SECRET)] {
        let answer = sender.send(&sign::generic(platform, secret, b"{}")).await;
        answer.expect_error(400, "E_WEBHOOK_INVALID_PAYLOAD");
        assert!(entries(&stack, &format!("webhooks:dlq:{platform}")).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unusable_requests_are_bounded_and_counted() {
    let toml = "[platforms.realcast]\nrate_limit = 1\nburst = 3\n";
    let stack = Stack::builder()
        .platforms(toml)
        .ingress_env("REALCAST_WEBHOOK_SECRET", SECRET)
        .ingress_env("DLQ_MAX_LEN", "2")
        .ingress_env("STATS_PUBLIC", "true")
        .workers(0)
        .start()
        .await;
    let sender = stack.sender();
    for n in 0..2 {
        sender.send(&realcast(format!("{n} no json").as_bytes())).await.expect(202, "accepted");
    }
    let full = sender.send(&realcast(b"no json")).await;
    full.expect_error(503, "E_WEBHOOK_OVERLOADED");
    assert_eq!(full.json["errmesg"], "Webhook dead letters full");
    let numbers = sender.get("/api/v1/webhooks/metrics").await.json;
    assert_eq!((&numbers["received"], &numbers["failed"]), (&json!(2), &json!(2)), "{numbers}");

    let mut events = Vec::new();
    for n in 0..2 {
        let body = json!({"event": "stream.live", "timestamp": now_ms(),
            "data": {"stream_id": format!("r{n}")}});
        events.push(sender.send(&realcast(body.to_string().as_bytes())).await.status);
    }
    assert_eq!(events, [202, 503], "the requests share the bound of three");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn undecodable_verified_body_is_kept() {
    let stack = builder().workers(0).ingress_env("MAX_BODY_BYTES", "1000").start().await;
    let sender = stack.sender();
    let large = zstd::bulk::compress(&[b' '; 2_000], 3).expect("compressed");
    for (coding, wire, reason) in [
        ("deflate", b"\x78\x9c\xab".as_slice(), "none of gzip, zstd and br"),
        ("gzip, gzip", b"\x1f\x8b\x08", "none of gzip, zstd and br"),
        ("zstd", &large, "larger than MAX_BODY_BYTES once decoded"),
    ] {
        let answer = sender.send(&realcast(wire).header("content-encoding", coding)).await;
        let id = answer.expect(202, "accepted").to_owned();
        let dead = dead_letter(&stack, "realcast").await;
        assert_eq!(
            (&dead["event_id"], &dead["error_code"]),
            (&json!(id), &json!("invalid_event")),
            "{coding}"
        );
        assert!(
            dead["error"].as_str().is_some_and(|error| error.contains(reason)),
            "{coding}: {dead}"
        );
        let stored = &entries(&stack, "webhooks:dlq:realcast").await[0].1["body"];
        assert_eq!(stored, wire, "{coding}");
        assert_eq!(stack.dlq_tool(&["purge", "--yes"]).await.code, Some(0));
        // Unverified requests and other platforms keep their usual answers.
        let (status, errcode) = if coding == "zstd" {
            (413, "E_WEBHOOK_PAYLOAD_TOO_LARGE")
        } else {
            (415, "E_WEBHOOK_UNSUPPORTED_ENCODING")
        };
        let forged = sign::over_body("realcast", "X-RealCast-Signature", "wrong", wire);
        sender.send(&forged.header("content-encoding", coding)).await.expect_error(status, errcode);
        let refused = sign::generic("acme", ACME_SECRET, wire).header("content-encoding", coding);
        sender.send(&refused).await.expect_error(status, errcode);
    }
    assert_eq!(stack.dead("realcast").await + stack.dead("acme").await, 0);
}
