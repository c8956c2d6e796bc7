//! Event times in the formats of senders. Events are ordered by them, and an unreadable time never
//! wins over a known one.

use serde_json::json;
use tests::sender::{HttpAnswer, Sender, now_ms, rfc3339};
use tests::stack::{DatabaseKind, Stack, StackBuilder};
use tests::{poll, sign};

use crate::WAIT_LIMIT;

const SECRET: &str = "own-secret-6b2e";
const OWN: &str = own_platform!(
    r#"
time = "/at"
session = "/room"
[platforms.own.effects]
"up"   = { effect = "session.status", status = "live" }
"down" = { effect = "session.status", status = "ended" }
"#
);

fn builder() -> StackBuilder {
    Stack::builder().platforms(OWN).ingress_env("OWN_SECRET", SECRET)
}

async fn send(sender: &Sender, kind: &str, room: &str, at: &serde_json::Value) -> HttpAnswer {
    let body =
        json!({"id": format!("{room}-{kind}"), "type": kind, "room": room, "at": at}).to_string();
    sender.send(&sign::over_body("own", "X-Own-Signature", SECRET, body.as_bytes())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_event_loses_however_its_time_is_written() {
    let stack = builder().start().await;
    let sender = stack.sender();
    let (newer, older) = (rfc3339(now_ms() - 60_000), rfc3339(now_ms() - 120_000));
    let forms: [fn(&str) -> String; 6] = [
        |at| at.replace('Z', "+0000"),
        |at| at.replace('Z', "+00"),
        |at| at.replace('Z', ""),
        |at| at.replace('.', ","),
        |at| format!(" {} ", at.replace('T', " ").replace('Z', " UTC")),
        |at| format!("{} +0000 UTC m=+0.1", at.replace('T', " ").trim_end_matches('Z')),
    ];
    for (n, form) in forms.iter().enumerate() {
        send(&sender, "down", &format!("room_{n}"), &form(&newer).into())
            .await
            .expect(202, "accepted");
    }
    stack.wait_until_drained(WAIT_LIMIT).await;
    for (n, form) in forms.iter().enumerate() {
        send(&sender, "up", &format!("room_{n}"), &form(&older).into())
            .await
            .expect(202, "accepted");
    }
    stack.wait_until_drained(WAIT_LIMIT).await;
    for (n, form) in forms.iter().enumerate() {
        assert_eq!(stack.database.status(&format!("room_{n}")).await, "ended", "{}", form(&newer));
    }
}

on_both!(unreadable_time_never_beats_a_known_one);

async fn unreadable_time_never_beats_a_known_one(kind: DatabaseKind) {
    let stack = builder().database(kind).start().await;
    let sender = stack.sender();
    let known = json!(rfc3339(now_ms() - 60_000));
    // Both orders of arrival.
    send(&sender, "down", "first", &known).await.expect(202, "accepted");
    send(&sender, "up", "second", &json!("12/01/2026 10:00 PM")).await.expect(202, "accepted");
    stack.wait_until_drained(WAIT_LIMIT).await;
    stack.status("second", "live", WAIT_LIMIT).await;
    send(&sender, "up", "first", &json!("yesterday")).await.expect(202, "accepted");
    send(&sender, "down", "second", &known).await.expect(202, "accepted");
    stack.wait_until_drained(WAIT_LIMIT).await;
    for room in ["first", "second"] {
        assert_eq!(stack.database.status(room).await, "ended", "{room}");
    }
    // The ledger shows the time of arrival.
    let row = stack.database.event("own", "first-up").await.expect("in the ledger");
    assert_eq!(row["occurred_at"], row["received_at"]);
    let unreadable =
        stack.ingresses[0].metric("webhook_unreadable_times_total", &["platform=\"own\""]).await;
    assert!((unreadable - 2.0).abs() < f64::EPSILON, "{unreadable}");
    let log = stack.ingresses[0].process.log();
    assert_eq!(log.matches("event time is unreadable").count(), 1, "once a minute:\n{log}");
    assert!(!log.contains("yesterday") && !log.contains("10:00 PM"), "never the value:\n{log}");
}

/// The platform's clocks are three hours ahead of UTC, and its times have no offset.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_zone_holds_for_event_times_and_columns() {
    let ahead = OWN
        .replace("time = \"/at\"", "time = \"/at\"\ntime_zone = \"+03:00\"")
        .replace("status = \"live\" }", "status = \"live\", set = { started_at = \"/at\" } }");
    let stack = Stack::builder().platforms(&ahead).ingress_env("OWN_SECRET", SECRET).start().await;
    let sender = stack.sender();
    let (older, newer) = (now_ms() - 120_000, now_ms() - 60_000);
    let local = |at: i64| rfc3339(at + 3 * 3_600_000).replace('Z', "");
    send(&sender, "up", "room", &json!(local(older))).await.expect(202, "accepted");
    send(&sender, "down", "room", &json!(rfc3339(newer))).await.expect(202, "accepted");
    // Go's format in a time zone without a name.
    let go = format!("{} +0300 +03", local(newer - 1000).replace('T', " "));
    send(&sender, "up", "other", &json!(go)).await.expect(202, "accepted");
    send(&sender, "down", "other", &json!(local(newer))).await.expect(202, "accepted");
    stack.wait_until_drained(WAIT_LIMIT).await;
    for (room, started) in [("room", older), ("other", newer - 1000)] {
        let session = stack.database.session(room).await.expect("a session");
        assert_eq!(
            (&session["status"], &session["started_at"]),
            (&json!("ended"), &json!(rfc3339(started)))
        );
    }
    let row = stack.database.event("own", "room-up").await.expect("in the ledger");
    assert_eq!(row["occurred_at"], rfc3339(older));
    let ahead =
        stack.ingresses[0].metric("webhook_future_times_total", &["platform=\"own\""]).await;
    assert!(ahead.abs() < f64::EPSILON, "{ahead}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_ahead_of_arrival_becomes_arrival_and_is_counted() {
    let stack = builder().start().await;
    let sender = stack.sender();
    for room in ["first", "second"] {
        let ahead = json!(rfc3339(now_ms() + 3 * 3_600_000));
        send(&sender, "up", room, &ahead).await.expect(202, "accepted");
    }
    send(&sender, "up", "third", &json!(rfc3339(now_ms() + 60_000))).await.expect(202, "accepted");
    stack.wait_until_drained(WAIT_LIMIT).await;
    let row = stack.database.event("own", "first-up").await.expect("in the ledger");
    assert_eq!(row["occurred_at"], row["received_at"]);
    let ahead =
        stack.ingresses[0].metric("webhook_future_times_total", &["platform=\"own\""]).await;
    assert!((ahead - 2.0).abs() < f64::EPSILON, "{ahead}");
    let log = stack.ingresses[0].process.log();
    assert_eq!(log.matches("ahead of its arrival").count(), 1, "once a minute:\n{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreadable_time_stays_unreadable_through_a_replay() {
    let shared = "rate_limit = 6000\nmissing_session = \"retry\"\nsession_scope = \"shared\"";
    let stack = Stack::builder()
        .platforms(&OWN.replace("rate_limit = 6000", shared))
        .ingress_env("OWN_SECRET", SECRET)
        .worker_env("MISSING_SESSION_WAIT_MS", "200")
        .start()
        .await;
    let sender = stack.sender();
    send(&sender, "up", "room", &json!("soon")).await.expect(202, "accepted");
    poll::until("the event is a dead letter", WAIT_LIMIT, async || match stack.dead("own").await {
        1 => Ok(()),
        other => Err(other),
    })
    .await;
    let shown = stack.dlq_tool(&["list", "--output", "json"]).await;
    let dead_letter: serde_json::Value = serde_json::from_str(&shown.stdout).expect("one line");
    assert_eq!(dead_letter["occurred_at"], 0, "as sent");
    let shown = stack.dlq_tool(&["show", dead_letter["id"].as_str().expect("an id")]).await;
    assert!(shown.stdout.contains("unreadable (older than every known time)"), "{}", shown.stdout);

    // Export and import keep the unreadable time, and the event stays as old as before.
    let exported = stack.dlq_tool(&["export"]).await;
    assert_eq!(stack.dlq_tool(&["purge"]).await.code, Some(0));
    let imported = stack
        .program("dlq-tool")
        .arg("import")
        .run_with_input(exported.stdout.as_bytes(), WAIT_LIMIT)
        .await;
    assert_eq!(imported.code, Some(0), "{imported:?}");
    sender.announce("room", &json!({"status": "idle"})).await.expect(202, "accepted");
    stack.wait_until_drained(WAIT_LIMIT).await;
    let replayed = stack.dlq_tool(&["replay"]).await;
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert!(stack.database.event("own", "room-up").await.is_some(), "the event was applied");
    assert_eq!(stack.database.status("room").await, "idle", "the announcement's time is known");
}
