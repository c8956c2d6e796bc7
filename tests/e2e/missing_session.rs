//! Events for a session that does not exist. They wait, then become dead letters that can be
//! replayed.

use std::time::Duration;

use serde_json::{Value, json};
use tests::poll;
use tests::sender::{mux_asset, mux_event, now_ms, unique};
use tests::stack::{DatabaseKind, Stack};

use crate::WAIT_LIMIT;

on_both!(event_without_session_waits_dies_and_is_replayed);

async fn event_without_session_waits_dies_and_is_replayed(kind: DatabaseKind) {
    let stack =
        Stack::builder().database(kind).worker_env("MISSING_SESSION_WAIT_MS", "1500").start().await;
    let sender = stack.sender();
    let id = unique("event");
    sender
        .mux(&mux_event(&id, "active", Some("nowhere"), "ls_9", now_ms()))
        .await
        .expect(202, "accepted");
    poll::until("the event is in the retry set", WAIT_LIMIT, async || {
        match stack.retrying("mux").await {
            0 => Err("not there"),
            _ => Ok(()),
        }
    })
    .await;
    assert_eq!(stack.dead("mux").await, 0);
    assert!(stack.database.event("mux", &id).await.is_none(), "no ledger row without an effect");
    poll::until("the event is a dead letter", WAIT_LIMIT, async || {
        if stack.dead("mux").await == 1 { Ok(()) } else { Err("not yet") }
    })
    .await;
    assert_eq!((stack.unfinished("mux").await, stack.retrying("mux").await), (0, 0));
    stack.workers[0]
        .process
        .wait_until_logged(
            "No session found for live_stream_id=ls_9, passthrough=nowhere",
            WAIT_LIMIT,
        )
        .await;

    let listed =
        stack.dlq_tool(&["list", "--output", "json", "--error-code", "session_not_found"]).await;
    let dead_letter: Value =
        serde_json::from_str(&listed.stdout).unwrap_or_else(|error| panic!("{error}: {listed:?}"));
    assert_eq!((&dead_letter["event_id"], &dead_letter["platform"]), (&json!(id), &json!("mux")));
    assert_eq!(dead_letter["error_code"], "session_not_found");
    let waited = dead_letter["failed_at"].as_i64().zip(dead_letter["received_at"].as_i64());
    if let Some((failed, received)) = waited {
        assert!(failed - received >= 1_000, "dead-lettered too early: {dead_letter}");
    }

    sender.announce("nowhere", &json!({})).await.expect(202, "accepted");
    stack.status("nowhere", "ready", WAIT_LIMIT).await;
    let replayed = stack.dlq_tool(&["replay", "--event-id", &id]).await;
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    stack.status("nowhere", "live", WAIT_LIMIT).await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(stack.dead("mux").await, 0);
    assert_eq!(stack.database.event("mux", &id).await.unwrap()["action"], "status_updated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_with_a_session_announced_in_time_is_processed() {
    let stack = Stack::builder()
        .worker_env("MISSING_SESSION_WAIT_MS", "30000")
        .worker_env("MAX_ATTEMPTS", "1")
        .start()
        .await;
    let sender = stack.sender();
    let id = unique("event");
    sender
        .mux(&mux_event(&id, "active", Some("late"), "ls", now_ms()))
        .await
        .expect(202, "accepted");
    sender
        .mux(&mux_asset(&unique("event"), "ready", "asset_9", "ls_late", now_ms()))
        .await
        .expect(202, "accepted");
    poll::until("the event is in the retry set", WAIT_LIMIT, async || {
        match stack.retrying("mux").await {
            0 => Err("not there"),
            _ => Ok(()),
        }
    })
    .await;
    // Long enough for several attempts: the wait is bounded by time, not by attempts.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(stack.dead("mux").await, 0);
    sender.announce("late", &json!({"live_stream_id": "ls_late"})).await.expect(202, "accepted");
    stack.status("late", "live", WAIT_LIMIT).await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(stack.dead("mux").await, 0);
    assert_eq!(stack.database.count("webhook_events WHERE platform = 'mux'").await, 2);
}

/// A waiting event does not delay the events after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_waiting_for_a_session_do_not_block_others() {
    let stack = Stack::builder().start().await;
    let sender = stack.sender();
    sender.announce("there", &json!({})).await.expect(202, "accepted");
    stack.status("there", "ready", WAIT_LIMIT).await;
    let mut at = now_ms();
    for n in 0..50 {
        at += 1;
        let body = mux_event(&unique("e"), "active", Some(&format!("absent_{n}")), "x", at);
        sender.mux(&body).await.expect(202, "accepted");
    }
    sender
        .mux(&mux_event(&unique("e"), "active", Some("there"), "x", at))
        .await
        .expect(202, "accepted");
    stack.status("there", "live", Duration::from_secs(10)).await;
    assert_eq!(stack.dead("mux").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn platform_cannot_change_an_announced_room() {
    let toml = r#"
[platforms.intruder]
secrets = ["env:ACME_SECRET"]
missing_session = "create"
[platforms.intruder.effects]
"stop" = { effect = "session.status", status = "stopped", session = "/payload/room" }
"#;
    let stack = Stack::builder().platforms(toml).start().await;
    let sender = stack.sender();
    sender.announce("theirs", &json!({})).await.expect(202, "accepted");
    stack.status("theirs", "ready", WAIT_LIMIT).await;
    for room in ["theirs", "mine"] {
        let body = json!({"event_type": "stop", "timestamp": now_ms(), "payload": {"room": room}})
            .to_string();
        let signed = tests::sign::generic("intruder", tests::sender::ACME_SECRET, body.as_bytes());
        sender.send(&signed).await.expect(202, "accepted");
    }
    stack.status("mine", "stopped", WAIT_LIMIT).await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(stack.database.status("theirs").await, "ready");
    let listed = stack.dlq_tool(&["list", "--output", "json"]).await;
    let dead_letter: Value =
        serde_json::from_str(&listed.stdout).unwrap_or_else(|error| panic!("{error}: {listed:?}"));
    assert_eq!(
        (&dead_letter["error_code"], &dead_letter["platform"]),
        (&json!("session_conflict"), &json!("intruder"))
    );
}

/// Announcements have their own stream. While an older one is unfinished, a missing session is not
/// final. Waiting for it spends no attempt and none of `MISSING_SESSION_WAIT_MS`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_older_announcement_postpones_missing_session() {
    let stack = Stack::builder()
        .worker_env("MISSING_SESSION_WAIT_MS", "300")
        .worker_env("MAX_ATTEMPTS", "1")
        .start()
        .await;
    // A later wire version: the entry stays in the stream until a newer worker starts.
    let stream = "webhooks:incoming:sessions";
    let received = (now_ms() - 1_000).to_string();
    let fields = [
        "v",
        "99",
        "event_id",
        "newer",
        "event_type",
        "session.announced",
        "received_at",
        &received,
        "body",
        "{}",
    ];
    let _: String = stack.redis.command(&[&["XADD", stream, "*"], &fields[..]].concat()).await;
    let body = mux_event(&unique("event"), "active", Some("nowhere"), "ls", now_ms());
    stack.sender().mux(&body).await.expect(202, "accepted");
    poll::until("the event is in the retry set", WAIT_LIMIT, async || {
        match stack.retrying("mux").await {
            0 => Err("not there"),
            _ => Ok(()),
        }
    })
    .await;
    poll::throughout(
        "the event is not dead-lettered",
        Duration::from_secs(2),
        async || match stack.dead("mux").await {
            0 => Ok(()),
            dead => Err(dead),
        },
    )
    .await;
    // The event was rescheduled and promoted several times, so its entry id has changed.
    let removed: i64 = stack.redis.command(&["XTRIM", stream, "MAXLEN", "0"]).await;
    assert_eq!(removed, 1);
    poll::until("the event is a dead letter", WAIT_LIMIT, async || {
        if stack.dead("mux").await == 1 { Ok(()) } else { Err("not yet") }
    })
    .await;
}
