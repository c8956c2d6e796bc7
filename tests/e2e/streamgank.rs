//! StreamGank events: every event of its guide ends in the job's row. Also forgeries and
//! repetitions.

use serde_json::{Value, json};
use tests::fixtures;
use tests::ledger::entries;
use tests::sign::{self, SignedWebhook};
use tests::stack::{DatabaseKind, Stack, StackBuilder};

use crate::WAIT_LIMIT;

const SECRET: &str = "streamgank-secret-90be";
const HEADER: &str = "X-StreamGank-Signature";

const STATUSES: [&str; 8] = [
    "completed",
    "failed",
    "cancelled",
    "extraction_completed",
    "script_completed",
    "completed_with_issues",
    "failed_no_retry",
    "timeout",
];

fn builder() -> StackBuilder {
    Stack::builder().ingress_env("STREAMGANK_WEBHOOK_SECRET", SECRET)
}

fn signed(body: &str) -> SignedWebhook {
    sign::over_body("streamgank", HEADER, SECRET, body.as_bytes())
}

fn event(status: &str) -> SignedWebhook {
    signed(&fixtures::body("streamgank", &format!("job.{status}")))
}

async fn job(stack: &Stack, id: &str) -> Value {
    stack.wait_until_drained(WAIT_LIMIT).await;
    stack
        .database
        .rows("SELECT * FROM jobs WHERE platform = 'streamgank' AND job_id = $1", &[id])
        .await
        .remove(0)
}

on_both!(streamgank_events_of_the_guide_are_stored_in_the_job);
on_both!(job_advances_and_an_older_event_does_not_reset_it);

async fn streamgank_events_of_the_guide_are_stored_in_the_job(kind: DatabaseKind) {
    let stack = builder().database(kind).start().await;
    for status in STATUSES {
        let name = format!("job.{status}");
        let body = fixtures::body("streamgank", &name).replace("job_1704123456789_abc123", status);
        let id = stack.sender().send(&signed(&body)).await.expect(202, "accepted").to_owned();
        let row = job(&stack, status).await;
        assert_eq!(row["status"], status);
        let sent: Value = serde_json::from_str(&body).unwrap();
        let sent = &sent["data"];
        for column in ["current_step", "video_url", "retry_count"] {
            assert_eq!(row[column], sent[column], "{status}: {column}");
        }
        assert_eq!(row["progress"].as_f64(), sent["progress"].as_f64(), "{status}");
        // Text as sent, an object as JSON text. The harness parses it if the database has only
        // text.
        let error = row["error"].as_str().and_then(|text| serde_json::from_str(text).ok());
        assert_eq!(error.unwrap_or(row["error"].clone()), sent["error"], "{status}");
        let mut rest = sent.clone();
        for column in ["job_id", "progress", "current_step", "video_url", "error", "retry_count"] {
            rest.as_object_mut().unwrap().remove(column);
        }
        assert_eq!(row["data"], rest, "{status}: fields without a column");
        let ledger = stack.database.event("streamgank", &id).await.unwrap();
        assert_eq!((&ledger["event_type"], &ledger["action"]), (&json!(name), &json!("recorded")));
        assert_eq!(
            (&ledger["room_id"], &ledger["occurred_at"]),
            (&Value::Null, &json!("2024-01-01T12:05:30.123Z"))
        );
    }
    let done = job(&stack, "completed").await;
    assert_eq!(done["data"]["parameters"]["genre"], "action");
    assert_eq!(
        (&done["data"]["creatomate_id"], &done["data"]["processing_duration_ms"]),
        (&json!("abc123-render-id"), &json!(330_000))
    );
    assert_eq!(stack.database.count("sessions").await, 0);
    assert_eq!(stack.dead("streamgank").await, 0);
}

async fn job_advances_and_an_older_event_does_not_reset_it(kind: DatabaseKind) {
    let stack = builder().database(kind).start().await;
    let at = |status: &str, second: u32| {
        let body = fixtures::body("streamgank", &format!("job.{status}"));
        signed(&body.replace("12:05:30.123Z", &format!("12:05:{second}.123Z")))
    };
    for signed in [at("failed", 31), at("completed", 33)] {
        stack.sender().send(&signed).await.expect(202, "accepted");
        stack.wait_until_drained(WAIT_LIMIT).await;
    }
    let id = "job_1704123456789_abc123";
    let after = job(&stack, id).await;
    assert_eq!(
        (&after["status"], &after["error"]),
        (&json!("completed"), &Value::Null),
        "the error is cleared"
    );
    stack.sender().send(&at("timeout", 32)).await.expect(202, "accepted");
    let late = job(&stack, id).await;
    assert_eq!(late, after);
    assert_eq!(stack.database.count("webhook_events WHERE action = 'stale_ignored'").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streamgank_forgeries_leave_nothing() {
    let stack = builder().start().await;
    let good = event("completed");
    let mut moved = good.clone();
    moved.body = fixtures::body("streamgank", "job.completed")
        .replace("abc123-video", "xyz-video")
        .into_bytes();
    let body = fixtures::body("streamgank", "job.completed");
    let compact = serde_json::from_str::<Value>(&body).unwrap().to_string();
    let forgeries = [
        ("no header", good.clone().without(HEADER)),
        ("another body", moved),
        ("another secret", sign::over_body("streamgank", HEADER, "guess", body.as_bytes())),
        (
            "a signature over reformatted JSON",
            good.clone().without(HEADER).header(HEADER, signed(&compact).value(HEADER)),
        ),
    ];
    for (what, forged) in forgeries {
        let answer = stack.sender().send(&forged).await;
        assert_eq!(
            (answer.status, answer.errcode()),
            (401, "E_WEBHOOK_INVALID_SIGNATURE"),
            "{what}"
        );
    }
    let length: usize = stack.redis.command(&["XLEN", "webhooks:incoming:streamgank"]).await;
    let markers: Vec<String> = stack.redis.command(&["KEYS", "webhook:hash:*"]).await;
    let limit: bool = stack.redis.command(&["EXISTS", "webhooks:limit:streamgank"]).await;
    assert_eq!((length, markers.len(), limit), (0, 0, false));
    stack.sender().send(&good).await.expect(202, "accepted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streamgank_repetition_at_any_endpoint_is_one_event() {
    let stack = builder().workers(0).start().await;
    let delivered = |signed: SignedWebhook, id: &str| signed.header("X-StreamGank-Delivery", id);
    let first = stack
        .sender()
        .send(&delivered(event("failed"), "d-1"))
        .await
        .expect(202, "accepted")
        .to_owned();
    let elsewhere = fixtures::body("streamgank", "job.failed").replace("webhook_1", "webhook_2");
    for again in
        [delivered(event("failed"), "d-1"), delivered(event("failed"), "d-2"), signed(&elsewhere)]
    {
        assert_eq!(stack.sender().send(&again).await.expect(200, "duplicate"), first);
    }
    stack.sender().send(&delivered(event("timeout"), "d-1")).await.expect(202, "accepted");
    let queued = entries(&stack, "webhooks:incoming:streamgank").await;
    assert_eq!(queued.len(), 2);
    assert_eq!(queued[0].1["delivery_id"], b"d-1");
}
