//! Health routes, metrics with closed label sets, and log lines without secrets.

use serde_json::json;
use tests::poll;
use tests::sender::{ACME_SECRET, Sender, content_event, mux_event, now_ms, unique};
use tests::sign;
use tests::stack::{DatabaseKind, Stack};

use crate::WAIT_LIMIT;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_count_requests_and_events_by_outcome() {
    let toml = "[platforms.tight]\nsecrets = [\"env:ACME_SECRET\"]\nrate_limit = 1\nburst = 1\n\
        event_types = [\"content_added\"]\n";
    let stack =
        Stack::builder().platforms(toml).worker_env("MISSING_SESSION_WAIT_MS", "200").start().await;
    let sender = stack.sender();
    let event = |kind: &str| content_event(kind, &unique("c"), "t", now_ms()).to_string();
    let tight = |body: &str| sign::generic("tight", ACME_SECRET, body.as_bytes());
    let first = tight(&event("content_added"));
    sender.send(&first).await.expect(202, "accepted");
    sender.send(&first).await.expect(200, "duplicate");
    sender.send(&tight(&event("other"))).await.expect(200, "ignored");
    assert_eq!(sender.send(&tight(&event("content_added"))).await.status, 429);
    assert_eq!(sender.send(&tight("{")).await.status, 400);
    assert_eq!(sender.send(&first.clone().without("x-webhook-signature")).await.status, 401);
    for n in 0..5 {
        assert_eq!(
            sender.send(&first.clone().to(&format!("/webhook/unknown-{n}"))).await.status,
            404
        );
    }
    sender.announce("room", &json!({})).await.expect(202, "accepted");
    stack.status("room", "ready", WAIT_LIMIT).await;
    sender
        .mux(&mux_event(&unique("e"), "active", Some("room"), "ls", now_ms()))
        .await
        .expect(202, "accepted");
    sender
        .mux(&mux_event(&unique("e"), "active", Some("nowhere"), "x", now_ms()))
        .await
        .expect(202, "accepted");
    stack.status("room", "live", WAIT_LIMIT).await;

    let ingress = &stack.ingresses[0];
    for outcome in
        ["accepted", "duplicate", "ignored", "rate_limited", "invalid_payload", "invalid_signature"]
    {
        let labels = ["platform=\"tight\"", &format!("outcome=\"{outcome}\"")];
        assert!(
            (ingress.metric("webhook_requests_total", &labels).await - 1.0).abs() < 0.1,
            "{outcome}"
        );
    }
    let unknown = ingress.metric("webhook_requests_total", &["platform=\"unknown\""]).await;
    assert!((unknown - 5.0).abs() < 0.1, "unknown platforms share one label: {unknown}");
    let text = Sender::new(&ingress.ops).get("/metrics").await.text;
    assert!(!text.contains("unknown-1"), "{text}");
    assert!(ingress.metric("webhook_redis_up", &[]).await > 0.5);
    assert!(
        ingress.metric("webhook_request_duration_seconds_count", &["platform=\"tight\""]).await
            > 0.5
    );
    assert!(
        ingress.metric("webhook_enqueue_duration_seconds_count", &["platform=\"tight\""]).await
            > 0.5
    );

    let worker = &stack.workers[0];
    poll::until("the worker's metrics", WAIT_LIMIT, async || {
        let processed = worker
            .metric("webhook_events_total", &["platform=\"mux\"", "outcome=\"processed\""])
            .await;
        let dead = worker
            .metric("webhook_events_total", &["platform=\"mux\"", "outcome=\"dead_lettered\""])
            .await;
        let updates =
            worker.metric("webhook_session_updates_total", &["action=\"status_updated\""]).await;
        let dead_letters = worker.metric("webhook_dead_letters", &["platform=\"mux\""]).await;
        let timed =
            worker.metric("webhook_end_to_end_duration_seconds_count", &["platform=\"mux\""]).await;
        let up = worker.metric("webhook_redis_up", &[]).await
            * worker.metric("webhook_database_up", &[]).await;
        let seen = [processed, dead, updates, dead_letters, timed, up];
        if seen.iter().all(|value| *value > 0.5) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_lines_hold_no_secret_signature_or_body() {
    let stack = Stack::builder().env("RUST_LOG", "trace").env("LOG_FORMAT", "json").start().await;
    let sender = stack.sender();
    let body = content_event("content_added", "c", "needle-in-the-body", now_ms()).to_string();
    let signed = sign::generic("acme", ACME_SECRET, body.as_bytes());
    sender.send(&signed).await.expect(202, "accepted");
    sender
        .send(&sign::generic("acme", "wrong", body.as_bytes()))
        .await
        .expect_error(401, "E_WEBHOOK_INVALID_SIGNATURE");
    sender
        .send(&sign::generic("acme", ACME_SECRET, b"{\"needle-in-the-body\""))
        .await
        .expect_error(400, "E_WEBHOOK_INVALID_PAYLOAD");
    sender
        .announce("room", &json!({"config": {"x": "needle-in-the-body"}}))
        .await
        .expect(202, "accepted");
    stack.wait_until_drained(WAIT_LIMIT).await;
    let signature = signed.value("x-webhook-signature").trim_start_matches("sha256=").to_owned();
    for role in stack.ingresses.iter().chain(&stack.workers) {
        let log = role.process.log();
        assert!(!log.is_empty());
        for needle in [
            "needle-in-the-body",
            &signature,
            ACME_SECRET,
            tests::sender::ADMIN_TOKEN,
            tests::sender::MUX_SECRET,
        ] {
            let line = log.lines().find(|line| line.contains(needle));
            assert!(line.is_none(), "{needle} in the log: {}", line.unwrap_or_default());
        }
        for line in log.lines() {
            assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "not JSON: {line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_commands_agree_with_the_health_routes() {
    let mut stack = Stack::builder().start().await;
    let ask = async |stack: &Stack, name: &str, words: &[&str]| {
        let role = if name == "ingress" { &stack.ingresses[0] } else { &stack.workers[0] };
        let program = stack.program(name).env("OPS_BIND", role.ops.trim_start_matches("http://"));
        program.arg("health").args(words).run(WAIT_LIMIT).await
    };
    for name in ["ingress", "worker"] {
        let ready = ask(&stack, name, &["--ready"]).await;
        assert_eq!((ready.code, ready.stdout.as_str()), (Some(0), "ready\n"), "{ready:?}");
    }
    stack.redis.kill();
    stack.ingresses[0].health("/ready", 503, WAIT_LIMIT).await;
    stack.workers[0].health("/ready", 503, WAIT_LIMIT).await;
    for name in ["ingress", "worker"] {
        let ready = ask(&stack, name, &["--ready"]).await;
        assert_eq!(ready.code, Some(1), "{ready:?}");
        assert!(ready.stdout.starts_with("not ready: Redis does not answer"), "{ready:?}");
        let live = ask(&stack, name, &[]).await;
        assert_eq!((live.code, live.stdout.as_str()), (Some(0), "live\n"), "{live:?}");
    }
}

/// SQLite's write-ahead log grows for as long as a read transaction stays open. Only this metric
/// shows it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_log_size_is_a_metric() {
    let stack = Stack::builder().start().await;
    let path = stack.database.url().trim_start_matches("sqlite://").to_owned();
    for _ in 0..20 {
        stack
            .sender()
            .acme(&content_event("content_added", &unique("c"), "t", now_ms()))
            .await
            .expect(202, "accepted");
    }
    poll::until("the metric equals the size of the log", WAIT_LIMIT, async || {
        let shown = stack.workers[0].metric("webhook_sqlite_wal_bytes", &[]).await;
        let size = std::fs::metadata(format!("{path}-wal")).map_or(0, |found| found.len());
        if size > 0 && format!("{shown}") == size.to_string() {
            Ok(())
        } else {
            Err(format!("{shown} of {size}"))
        }
    })
    .await;

    let stack = Stack::builder().database(DatabaseKind::Postgres).start().await;
    stack
        .sender()
        .acme(&content_event("content_added", &unique("c"), "t", now_ms()))
        .await
        .expect(202, "accepted");
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(format!("{}", stack.workers[0].metric("webhook_sqlite_wal_bytes", &[]).await), "0");
}
