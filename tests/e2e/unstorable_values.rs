//! Values that a column cannot store. The event takes effect, and result, log and metric name the
//! column.

use serde_json::{Value, json};
use tests::sender::{MUX_SECRET, mux_event, now, now_ms, rfc3339, unique};
use tests::sign::{self, SignedWebhook};
use tests::stack::{DatabaseKind, Stack, StackBuilder};

use crate::WAIT_LIMIT;

const REALCAST_SECRET: &str = "realcast-secret-77b0";
const STREAMGANK_SECRET: &str = "streamgank-secret-31ee";

fn builder() -> StackBuilder {
    let builder = Stack::builder().ingress_env("REALCAST_WEBHOOK_SECRET", REALCAST_SECRET);
    builder.ingress_env("STREAMGANK_WEBHOOK_SECRET", STREAMGANK_SECRET)
}

fn realcast(event: &str, data: &Value) -> SignedWebhook {
    let body = json!({"event": event, "timestamp": rfc3339(now_ms()), "data": data}).to_string();
    sign::over_body("realcast", "X-RealCast-Signature", REALCAST_SECRET, body.as_bytes())
}

fn streamgank(event: &str, data: &Value) -> SignedWebhook {
    let body = json!({"event": event, "timestamp": rfc3339(now_ms()), "data": data}).to_string();
    sign::over_body("streamgank", "X-StreamGank-Signature", STREAMGANK_SECRET, body.as_bytes())
}

fn mux(body: &Value) -> SignedWebhook {
    sign::mux(MUX_SECRET, now(), body.to_string().as_bytes())
}

/// Sends `request`, waits until it is finished, and returns the ledger's result of its event.
async fn result(stack: &Stack, platform: &str, request: &SignedWebhook) -> Value {
    let id = stack.sender().send(request).await.expect(202, "accepted").to_owned();
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(stack.dead(platform).await, 0, "{platform}: {id}");
    let row = stack.database.event(platform, &id).await.expect("a row in the ledger");
    match &row["result"] {
        Value::String(text) => serde_json::from_str(text).expect("JSON"),
        other => other.clone(),
    }
}

fn warnings(of: &[(&str, &str)]) -> Value {
    of.iter().map(|(column, reason)| json!({"column": column, "reason": reason})).collect()
}

on_both!(session_goes_live_and_ends_despite_unstorable_values);
on_both!(job_and_recording_are_stored_without_bad_values);
on_both!(unusable_room_id_falls_back_to_the_live_stream_id);

async fn session_goes_live_and_ends_despite_unstorable_values(kind: DatabaseKind) {
    let stack = builder().database(kind).start().await;
    for (number, (column, value, reason)) in [
        ("title", json!("a\u{0}b"), "replaced_characters"),
        ("title", json!({"en": "Hi"}), "wrong_type"),
        ("started_at", json!("around noon"), "unreadable_time"),
        ("app_id", json!(["x"]), "wrong_type"),
    ]
    .into_iter()
    .enumerate()
    {
        let room = format!("live-{number}");
        let data = json!({"stream_id": room, "streamer_id": 17, column: value});
        let result = result(&stack, "realcast", &realcast("stream.live", &data)).await;
        assert_eq!(
            (&result["action"], &result["new_status"]),
            (&json!("status_updated"), &json!("live"))
        );
        assert_eq!(result["warnings"], warnings(&[(column, reason)]), "{data}");
        let session = stack.database.session(&room).await.unwrap();
        assert_eq!(
            (&session["status"], &session["streamer_id"]),
            (&json!("live"), &json!("17")),
            "{data}"
        );
        let expected =
            if reason == "replaced_characters" { json!("a\u{fffd}b") } else { Value::Null };
        assert_eq!(session[column], expected, "{data}");
    }
    for (number, (columns, expected)) in [
        (json!({"duration": "", "peak_viewers": 5}), warnings(&[("duration_seconds", "empty")])),
        (json!({"duration": 60, "peak_viewers": -1}), Value::Null),
        (
            json!({"duration": "1:00", "peak_viewers": 5.0}),
            warnings(&[("duration_seconds", "wrong_type")]),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let room = format!("ended-{number}");
        result(
            &stack,
            "realcast",
            &realcast("stream.live", &json!({"stream_id": room, "title": "T"})),
        )
        .await;
        let mut data = columns.clone();
        data["stream_id"] = json!(room);
        let result = result(&stack, "realcast", &realcast("stream.offline", &data)).await;
        assert_eq!(result.get("warnings").unwrap_or(&Value::Null), &expected, "{data}");
        let session = stack.database.session(&room).await.unwrap();
        assert_eq!(session["status"], "ended", "{data}");
        let peak = columns["peak_viewers"].as_f64().filter(|peak| *peak >= 0.0);
        assert_eq!(session["peak_viewers"].as_f64(), peak, "{data}");
    }
    let worker = &stack.workers[0];
    for (column, reason) in
        [("title", "wrong_type"), ("started_at", "unreadable_time"), ("duration_seconds", "empty")]
    {
        let labels = [
            "platform=\"realcast\"".to_owned(),
            format!("column=\"{column}\""),
            format!("reason=\"{reason}\""),
        ];
        let labels = labels.each_ref().map(String::as_str);
        let counted = worker.metric("webhook_column_warnings_total", &labels).await;
        assert!((counted - 1.0).abs() < f64::EPSILON, "{column}: {counted}");
    }
    let log = worker.process.log();
    let line = log
        .lines()
        .find(|line| line.contains("without columns that cannot be stored"))
        .expect("a line");
    assert!(line.contains("title: replaced_characters") && line.contains("realcast"), "{line}");
    assert!(!log.contains("around noon"), "no line holds a value");
}

async fn job_and_recording_are_stored_without_bad_values(kind: DatabaseKind) {
    let stack = builder().database(kind).start().await;
    let data = json!({"job_id": "j", "error": "stack\u{0}trace", "progress": "50 %",
        "retry_count": "many"});
    let outcome = result(&stack, "streamgank", &streamgank("job.failed", &data)).await;
    let mut seen = outcome["warnings"].as_array().cloned().unwrap_or_default();
    seen.sort_by_key(|warning| warning["column"].to_string());
    let expected = [("error", "replaced_characters"), ("retry_count", "wrong_type")];
    assert_eq!(Value::from(seen), warnings(&expected));
    let job = stack.database.rows("SELECT * FROM jobs", &[]).await.remove(0);
    assert_eq!((&job["status"], &job["error"]), (&json!("failed"), &json!("stack\u{fffd}trace")));
    assert_eq!((job["progress"].as_f64(), &job["retry_count"]), (Some(50.0), &Value::Null));

    let asset = json!({
        "type": "video.asset.ready", "id": unique("asset"), "created_at": rfc3339(now_ms()),
        "data": {"id": "v", "duration": -1}, "object": {"type": "asset", "id": "v"},
    });
    let outcome = result(&stack, "mux", &mux(&asset)).await;
    assert_eq!(outcome.get("warnings"), None, "an unknown number is no warning");
    let recording = stack.database.rows("SELECT * FROM recordings", &[]).await.remove(0);
    assert_eq!(
        (&recording["state"], &recording["duration_seconds"]),
        (&json!("ready"), &Value::Null)
    );
}

async fn unusable_room_id_falls_back_to_the_live_stream_id(kind: DatabaseKind) {
    let stack = builder().database(kind).start().await;
    let sender = stack.sender();
    for (number, room) in ["x".repeat(600), "a\u{0}".to_owned()].into_iter().enumerate() {
        let (name, stream) = (format!("room-{number}"), format!("stream-{number}"));
        sender.announce(&name, &json!({"live_stream_id": stream})).await.expect(202, "accepted");
        stack.status(&name, "ready", WAIT_LIMIT).await;
        let event = mux_event(&unique("e"), "active", Some(&room), &stream, now_ms());
        let answer = sender.send(&mux(&event).header("prefer", "wait=20")).await;
        let reason = if number == 0 { "too_long" } else { "nul_character" };
        assert_eq!(answer.json["results"]["room_id"], name, "{}", answer.text);
        assert_eq!(
            answer.json["results"]["warnings"],
            warnings(&[("room_id", reason)]),
            "{}",
            answer.text
        );
        assert_eq!(stack.database.status(&name).await, "live");
    }
}
