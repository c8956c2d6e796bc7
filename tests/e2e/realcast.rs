//! RealCast: every event of its guide sets the expected rows and columns. Also forgeries,
//! repetitions and rooms of others.

use serde_json::{Value, json};
use tests::ledger::entries;
use tests::sign::{self, SignedWebhook};
use tests::stack::{DatabaseKind, Stack, StackBuilder};
use tests::{fixtures, poll};

use crate::WAIT_LIMIT;

const SECRET: &str = "realcast-secret-41d7";
const HEADER: &str = "X-RealCast-Signature";

/// Events in an order that differs from the order of their times.
const EVENTS: [&str; 8] = [
    "stream.offline",
    "viewer.count.update",
    "recording.ready",
    "stream.live",
    "chat.message.new",
    "viewer.joined",
    "stream.error",
    "recording.started",
];

fn builder() -> StackBuilder {
    Stack::builder().ingress_env("REALCAST_WEBHOOK_SECRET", SECRET)
}

fn event(kind: &str) -> SignedWebhook {
    sign::over_body("realcast", HEADER, SECRET, fixtures::body("realcast", kind).as_bytes())
}

on_both!(realcast_events_of_the_guide_are_stored);
on_both!(announced_room_is_not_changed_by_realcast);

async fn realcast_events_of_the_guide_are_stored(kind: DatabaseKind) {
    let stack = builder().database(kind).start().await;
    let mut actions = Vec::new();
    for kind in EVENTS {
        let id = stack.sender().send(&event(kind)).await.expect(202, "accepted").to_owned();
        stack.wait_until_drained(WAIT_LIMIT).await;
        let row = stack.database.event("realcast", &id).await.unwrap();
        assert_eq!((&row["event_type"], &row["room_id"]), (&json!(kind), &json!("stream_abc123")));
        actions.push((kind, row["action"].as_str().unwrap().to_owned()));
    }
    // Older than the end, these events still set the columns that only they have.
    let others = [
        "viewer.count.update",
        "recording.ready",
        "stream.live",
        "chat.message.new",
        "viewer.joined",
        "stream.error",
    ];
    for (kind, action) in &actions {
        let expected = match *kind {
            "stream.offline" => "status_updated",
            // The title is new, the older number of viewers is stale, and the streamer is new.
            kind if others.contains(&kind) => "recorded",
            _ => "stale_ignored",
        };
        assert_eq!(action, expected, "{kind}");
    }
    let session = stack.database.session("stream_abc123").await.unwrap();
    let expected = json!({
        "platform": "realcast", "status": "ended", "title": "Epic Gaming Session",
        "streamer_id": "user_123",
        "app_id": "app_xyz789", "viewer_count": 128, "peak_viewers": 1234,
        "duration_seconds": 3600.0,
        "error_code": "ENCODER_ERROR", "error_message": "Encoder disconnected unexpectedly",
        "started_at": "2024-12-09T10:00:00.000Z", "ended_at": "2024-12-09T11:00:00.000Z",
        "data": {"viewer_id": "viewer_def456", "change": 3},
        "last_event_at": "2024-12-09T11:00:00.000Z", "created_at": "2024-12-09T10:00:00.000Z",
    });
    for (column, value) in expected.as_object().unwrap() {
        check_equal(&session[column], value, column);
    }

    let recordings = stack.database.rows("SELECT * FROM recordings", &[]).await;
    let expected = json!({
        "platform": "realcast", "recording_id": "rec_ghi789", "room_id": "stream_abc123",
        "state": "ready",
        "url": "https://cdn.telegram.org/file/BAACAgIAAxkBAAI...", "duration_seconds": 3600.0,
        "size_bytes": 524_288_000,
    });
    assert_eq!(recordings.len(), 1);
    for (column, value) in expected.as_object().unwrap() {
        check_equal(&recordings[0][column], value, column);
    }

    let chat = stack.database.rows("SELECT * FROM chat_messages", &[]).await;
    let expected = json!({
        "platform": "realcast", "message_id": "msg_jkl012", "room_id": "stream_abc123",
        "user_id": "user_456",
        "user_name": "GamerPro", "message": "Great stream!", "sent_at": "2024-12-09T10:10:00.000Z",
    });
    assert_eq!(chat.len(), 1);
    for (column, value) in expected.as_object().unwrap() {
        check_equal(&chat[0][column], value, column);
    }
    assert_eq!(stack.dead("realcast").await, 0);
}

/// Compares numbers by value: one database stores 3600, the other 3600.0.
#[track_caller]
fn check_equal(seen: &Value, expected: &Value, what: &str) {
    match (seen.as_f64(), expected.as_f64()) {
        (Some(seen), Some(expected)) => {
            assert!((seen - expected).abs() < f64::EPSILON, "{what}: {seen}")
        }
        _ => assert_eq!(seen, expected, "{what}"),
    }
}

async fn announced_room_is_not_changed_by_realcast(kind: DatabaseKind) {
    let stack = builder().database(kind).start().await;
    let sender = stack.sender();
    sender.announce("stream_abc123", &json!({})).await.expect(202, "accepted");
    stack.status("stream_abc123", "ready", WAIT_LIMIT).await;
    for kind in EVENTS {
        sender.send(&event(kind)).await.expect(202, "accepted");
    }
    poll::until("every event is a dead letter", WAIT_LIMIT, async || {
        match stack.dead("realcast").await {
            8 => Ok(()),
            dead => Err(dead),
        }
    })
    .await;
    for (_, fields) in entries(&stack, "webhooks:dlq:realcast").await {
        assert_eq!(fields["error_code"], b"session_conflict");
    }
    for table in ["chat_messages", "recordings", "webhook_events WHERE platform = 'realcast'"] {
        assert_eq!(stack.database.count(table).await, 0, "{table}");
    }
    assert_eq!(stack.database.status("stream_abc123").await, "ready");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn realcast_forgeries_leave_nothing() {
    let stack = builder().start().await;
    let body = fixtures::body("realcast", "stream.offline");
    let good = event("stream.offline");
    let mut moved = good.clone();
    moved.body = body.replace("stream_abc123", "stream_other").into_bytes();
    let bare = good.value(HEADER).trim_start_matches("sha256=").to_owned();
    let forgeries = [
        ("no header", good.clone().without(HEADER)),
        ("another body", moved),
        ("another secret", sign::over_body("realcast", HEADER, "guess", body.as_bytes())),
        ("an empty secret", sign::over_body("realcast", HEADER, "", body.as_bytes())),
        ("no prefix", good.clone().without(HEADER).header(HEADER, &bare)),
        (
            "another header",
            good.clone().without(HEADER).header("X-Webhook-Signature", good.value(HEADER)),
        ),
        (
            "two wrong headers",
            good.clone().without(HEADER).header(HEADER, &bare).header(HEADER, "sha256=00"),
        ),
    ];
    for (what, forged) in forgeries {
        let answer = stack.sender().send(&forged).await;
        assert_eq!(
            (answer.status, answer.errcode()),
            (401, "E_WEBHOOK_INVALID_SIGNATURE"),
            "{what}"
        );
        let length: usize = stack.redis.command(&["XLEN", "webhooks:incoming:realcast"]).await;
        assert_eq!(length, 0, "{what}");
    }
    let left: Vec<String> = stack.redis.command(&["KEYS", "webhook:hash:*"]).await;
    assert!(left.is_empty(), "{left:?}");
    let limit: bool = stack.redis.command(&["EXISTS", "webhooks:limit:realcast"]).await;
    assert!(!limit, "a forgery costs no quota");
    stack.sender().send(&good).await.expect(202, "accepted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn realcast_repetition_is_one_event_under_any_delivery_id() {
    let stack = builder().workers(0).start().await;
    let sender = stack.sender();
    let delivered = |kind: &str, id: &str| event(kind).header("X-RealCast-Webhook-Id", id);
    let first =
        sender.send(&delivered("viewer.joined", "w-1")).await.expect(202, "accepted").to_owned();
    for again in ["w-1", "w-2"] {
        assert_eq!(
            sender.send(&delivered("viewer.joined", again)).await.expect(200, "duplicate"),
            first
        );
    }
    let other = sender
        .send(&delivered("viewer.count.update", "w-1"))
        .await
        .expect(202, "accepted")
        .to_owned();
    assert_ne!(other, first, "an unsigned header never decides identity");
    let queued = entries(&stack, "webhooks:incoming:realcast").await;
    assert_eq!(queued.len(), 2);
    assert_eq!(queued[0].1["delivery_id"], b"w-1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn realcast_gets_503_instead_of_a_final_refusal() {
    let toml = "[platforms.realcast]\nrate_limit = 1\n";
    let stack = Stack::builder()
        .workers(0)
        .platforms(toml)
        .ingress_env("WEBHOOK_SECRET", SECRET)
        .start()
        .await;
    stack.sender().send(&event("viewer.joined")).await.expect(202, "accepted");
    let answer = stack.sender().send(&event("stream.live")).await;
    answer.expect_error(503, "E_WEBHOOK_RATE_LIMITED");
    assert!(answer.header("retry-after").is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn realcast_value_of_another_type_is_an_invalid_event() {
    let stack = builder().start().await;
    let body = fixtures::body("realcast", "viewer.joined").replace("125", "\"many\"");
    let signed = sign::over_body("realcast", HEADER, SECRET, body.as_bytes());
    stack.sender().send(&signed).await.expect(202, "accepted");
    poll::until("the event is a dead letter", WAIT_LIMIT, async || {
        match stack.dead("realcast").await {
            1 => Ok(()),
            dead => Err(dead),
        }
    })
    .await;
    let (_, fields) = entries(&stack, "webhooks:dlq:realcast").await.remove(0);
    assert_eq!(fields["error_code"], b"invalid_event");
    assert_eq!(stack.database.count("sessions").await, 0);
}
