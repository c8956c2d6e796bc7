//! Traces: one trace from the request to the delivery if an exporter is configured. Tracing never
//! disturbs the pipeline.

use std::time::{Duration, Instant};

use serde_json::json;
use tests::collector::{Collector, Span};
use tests::downstream::{Downstream, ReceiverBehavior};
use tests::poll;
use tests::sender::{ADMIN_TOKEN, MUX_SECRET, content_event, mux_event, now, now_ms};
use tests::sign;
use tests::stack::{Stack, StackBuilder};

use crate::WAIT_LIMIT;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
const OUTBOUND: &str = "outbound-secret-31c7";

fn builder(endpoint: &str) -> StackBuilder {
    Stack::builder()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
}

fn with_destination(builder: StackBuilder, to: &Downstream) -> StackBuilder {
    builder
        .worker_env("WEBHOOK_URLS", &to.url())
        .worker_env("WEBHOOK_SECRET_KEY", OUTBOUND)
        .worker_env("WEBHOOK_ALLOW_PRIVATE", "127.0.0.0/8")
}

/// Announces a session and sends one event of it that belongs to [`TRACE`].
async fn send(stack: &Stack) {
    stack
        .sender()
        .announce("room-1", &json!({"live_stream_id": "ls-1"}))
        .await
        .expect(202, "accepted");
    let event = mux_event("evt_1", "active", Some("room-1"), "ls-1", now_ms());
    let signed = sign::mux(MUX_SECRET, now(), event.to_string().as_bytes())
        .header("traceparent", &format!("00-{TRACE}-{CALLER}-01"));
    stack.sender().send(&signed).await.expect(202, "accepted");
    stack.status("room-1", "live", WAIT_LIMIT).await;
}

/// Terminates every process and checks that each ends within its grace period.
async fn stop(stack: &Stack) {
    for role in stack.ingresses.iter().chain(&stack.workers) {
        role.process.terminate();
        let status = role.process.wait_until_ended(Duration::from_secs(6)).await;
        assert_eq!(status.code(), Some(0), "log:\n{}", role.process.tail());
    }
}

fn span_of_the_trace(spans: &[Span]) -> &Span {
    let mut found = spans.iter().filter(|span| span.trace == TRACE);
    let (Some(span), None) = (found.next(), found.next()) else {
        panic!("not one span of the trace: {spans:#?}")
    };
    span
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trace_covers_the_request_up_to_the_delivery() {
    let (collector, receiver) = (Collector::start(), Downstream::start(ReceiverBehavior::Accept));
    let stack = builder(&format!("http://me:otlp-password@{}", collector.address()))
        .env("LOG_FORMAT", "json");
    let stack = with_destination(stack, &receiver).start().await;
    send(&stack).await;

    // The announcement is an event in its own trace and is not delivered.
    let received = collector.has("webhook receive", 2, WAIT_LIMIT).await;
    let processed = collector.has("webhook process", 2, WAIT_LIMIT).await;
    let delivered = collector.has("webhook deliver", 1, WAIT_LIMIT).await;
    let (receive, process, deliver) = (
        span_of_the_trace(&received),
        span_of_the_trace(&processed),
        span_of_the_trace(&delivered),
    );
    assert_eq!((receive.parent.as_str(), receive.service.as_str()), (CALLER, "tributary-ingress"));
    assert_eq!((&process.parent, process.service.as_str()), (&receive.id, "tributary-worker"));
    assert_eq!((&deliver.parent, deliver.service.as_str()), (&process.id, "tributary-worker"));
    for (span, outcome) in [(receive, "accepted"), (process, "processed")] {
        let fields = ["platform", "event_id", "event_type", "outcome"].map(|name| span.get(name));
        assert_eq!(fields, ["mux", "evt_1", "video.live_stream.active", outcome]);
        assert!(span.error.is_none() && span.took > 0, "{span:?}");
    }
    assert_eq!(
        (process.get("attempt"), process.notes.as_slice()),
        ("1", ["executed".to_owned()].as_slice())
    );
    let fields = ["destination", "attempt", "http.response.status_code", "outcome"]
        .map(|name| deliver.get(name));
    assert_eq!(fields, ["webhook_1", "1", "200", "delivered"]);
    let other = |spans: &[Span]| spans.iter().find(|span| span.trace != TRACE).unwrap().clone();
    let (announced, applied) = (other(&received), other(&processed));
    assert_eq!((announced.parent.as_str(), announced.get("platform")), ("", "sessions"));
    assert_eq!((&applied.trace, &applied.parent), (&announced.trace, &announced.id));

    // The receiver can continue the trace.
    let all = receiver.received();
    let header = &all.values().next().unwrap()[0].headers["traceparent"];
    assert_eq!(header, &format!("00-{TRACE}-{}-01", deliver.id));

    stop(&stack).await;
    for (path, authorization, body) in collector.requests() {
        assert_eq!(path, "/v1/traces");
        assert_eq!(authorization, "Basic bWU6b3RscC1wYXNzd29yZA==");
        let text = String::from_utf8_lossy(&body);
        for secret in [MUX_SECRET, ADMIN_TOKEN, OUTBOUND, "not-a-real-key", "otlp-password", "v1="]
        {
            assert!(!text.contains(secret), "{secret} is in {text}");
        }
    }
    // JSON log lines are flat and name their trace.
    let log = stack.workers[0].process.log();
    let line = log.lines().find(|line| line.contains("Updated session room-1 status")).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(
        (&line["trace_id"], &line["event_id"], &line["platform"]),
        (&json!(TRACE), &json!("evt_1"), &json!("mux"))
    );
    for role in stack.ingresses.iter().chain(&stack.workers) {
        assert!(!role.process.log().contains("otlp-password"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_spans_are_marked_and_last_spans_sent_at_exit() {
    let collector = Collector::start();
    // No span is sent before the end.
    let stack = builder(&format!("http://{}/", collector.address()))
        .env("OTEL_BSP_SCHEDULE_DELAY", "600000")
        .env("OTEL_SERVICE_NAME", "events")
        .env("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20otlp-token")
        .start()
        .await;
    let film = content_event("content_added", "film-1", "A film", now_ms());
    stack.sender().netflix(&film).await.expect(202, "accepted");
    stack.sender().netflix(&film).await.expect(200, "duplicate");
    stack
        .sender()
        .acme(&json!({"event_type": "content_added", "payload": {}}))
        .await
        .expect(202, "accepted");
    // An unverified request does not continue a trace.
    let forged = sign::generic("netflix", "wrong", film.to_string().as_bytes());
    assert_eq!(stack.sender().send(&forged).await.status, 401);
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(stack.dead("acme").await, 1);
    assert_eq!(collector.requests().len(), 0);
    stop(&stack).await;

    let received = collector.has("webhook receive", 3, WAIT_LIMIT).await;
    let outcomes: Vec<&str> = received.iter().map(|span| span.get("outcome")).collect();
    assert_eq!(outcomes, ["accepted", "duplicate", "accepted"]);
    let processed = collector.has("webhook process", 2, WAIT_LIMIT).await;
    let dead = processed.iter().find(|span| span.get("platform") == "acme").unwrap();
    assert_eq!(
        (dead.get("outcome"), dead.error.as_deref()),
        ("dead_lettered", Some("invalid_event"))
    );
    assert!(received.iter().chain(&processed).all(|span| span.service == "events"));
    assert!(
        collector
            .requests()
            .iter()
            .all(|(_, authorization, _)| authorization == "Bearer otlp-token")
    );
    let log = stack.workers[0].process.log();
    let line =
        log.lines().find(|line| line.contains("dead letter") && line.contains("acme")).unwrap();
    assert!(
        line.contains(&format!("trace_id=\"{}\"", dead.trace))
            && line.contains(dead.get("event_id")),
        "{line}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trace_context_passes_when_no_exporter_is_configured() {
    let (collector, receiver) = (Collector::start(), Downstream::start(ReceiverBehavior::Accept));
    // Only this process has no exporter.
    let stack = Stack::builder()
        .env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &format!("http://{}", collector.address()));
    let stack =
        with_destination(stack.env("OTEL_BSP_SCHEDULE_DELAY", "100"), &receiver).start().await;
    send(&stack).await;
    poll::until("a delivery", WAIT_LIMIT, async || {
        if receiver.deliveries() == 1 { Ok(()) } else { Err("none") }
    })
    .await;
    let all = receiver.received();
    assert_eq!(
        all.values().next().unwrap()[0].headers["traceparent"],
        format!("00-{TRACE}-{CALLER}-01")
    );
    stop(&stack).await;
    assert_eq!(collector.requests().len(), 0);
}

/// One collector refuses connections, the other accepts them and never answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unavailable_collector_harms_nothing() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    for address in
        [format!("127.0.0.1:{}", tests::ports::free()), silent.local_addr().unwrap().to_string()]
    {
        let stack = builder(&format!("http://me:otlp-password@{address}"))
            .env("OTEL_EXPORTER_OTLP_TIMEOUT", "2000")
            .env("OTEL_BSP_MAX_QUEUE_SIZE", "16")
            .env("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "16")
            .start()
            .await;
        let started_at = Instant::now();
        for number in 0..100 {
            let film =
                content_event("content_added", &format!("film-{number}"), "A film", now_ms());
            stack.sender().netflix(&film).await.expect(202, "accepted");
        }
        stack.wait_until_drained(WAIT_LIMIT).await;
        let took = started_at.elapsed();
        assert!(took < WAIT_LIMIT, "{took:?}");
        let message = "the trace collector does not take spans";
        for role in stack.ingresses.iter().chain(&stack.workers) {
            role.process.wait_until_logged(message, WAIT_LIMIT).await;
        }
        stop(&stack).await;
        for role in stack.ingresses.iter().chain(&stack.workers) {
            let log = role.process.log();
            assert_eq!(log.matches(message).count(), 1, "{log}");
            assert!(!log.contains("otlp-password"), "{log}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_trace_endpoint_is_reported_without_its_value() {
    let stack = Stack::builder().servers().await;
    let (ingress, ..) = stack.ingress_program();
    for program in [ingress, stack.worker_program().0] {
        let ended = program
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", "collector-hunter2:4317")
            .run(WAIT_LIMIT)
            .await;
        assert_eq!(ended.code, Some(2), "{}", ended.stderr);
        assert!(ended.stderr.contains("OTEL_EXPORTER_OTLP_ENDPOINT: must be"), "{}", ended.stderr);
        assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
    }
}
