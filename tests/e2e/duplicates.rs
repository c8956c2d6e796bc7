//! Duplicates: an event that arrives again has one effect and one id.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tests::ledger::AcceptanceLog;
use tests::poll;
use tests::sender::{
    ACME_SECRET, MUX_SECRET, Sender, content_event, mux_event, now, now_ms, unique,
};
use tests::sign::{self, SignedWebhook};
use tests::stack::{DatabaseKind, Stack};

use crate::WAIT_LIMIT;

on_both!(thousand_concurrent_duplicates_are_one_event);
on_both!(expired_dedup_marker_does_not_repeat_the_effect);

fn event(platform: &str) -> SignedWebhook {
    let body = content_event("content_added", &unique("c"), "t", now_ms()).to_string();
    sign::generic(platform, ACME_SECRET, body.as_bytes())
}

async fn thousand_concurrent_duplicates_are_one_event(kind: DatabaseKind) {
    const CONNECTIONS: usize = 64;
    const COPIES: usize = 1_000;
    let stack = Stack::builder().database(kind).ingresses(2).workers(2).start().await;
    stack.sender().announce("crowded", &json!({})).await.expect(202, "accepted");
    stack.status("crowded", "ready", WAIT_LIMIT).await;

    let body = mux_event(&unique("event"), "active", Some("crowded"), "ls", now_ms()).to_string();
    let signed = Arc::new(sign::mux(MUX_SECRET, now(), body.as_bytes()));
    let mut connections = tokio::task::JoinSet::new();
    for n in 0..CONNECTIONS {
        let sender = Sender::new(&stack.ingresses[n % 2].url);
        let signed = signed.clone();
        let share = COPIES / CONNECTIONS + usize::from(n < COPIES % CONNECTIONS);
        connections.spawn(async move {
            let mut answers = Vec::new();
            for _ in 0..share {
                answers.push(sender.send(&signed).await);
            }
            answers
        });
    }
    let answers: Vec<_> = connections.join_all().await.into_iter().flatten().collect();
    let mut outcomes: BTreeMap<(u16, &str), usize> = BTreeMap::new();
    for answer in &answers {
        *outcomes.entry((answer.status, answer.outcome())).or_default() += 1;
    }
    assert_eq!(
        outcomes,
        BTreeMap::from([((202, "accepted"), 1), ((200, "duplicate"), COPIES - 1)])
    );
    let ids: BTreeSet<&str> = answers.iter().map(|answer| answer.event_id()).collect();
    assert_eq!(ids.len(), 1, "{ids:?}");

    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(stack.database.count("webhook_events WHERE platform = 'mux'").await, 1);
    assert_eq!(stack.database.status("crowded").await, "live");
    let ledger = AcceptanceLog::default();
    answers.iter().for_each(|answer| ledger.record("mux", answer));
    ledger.check(&stack).await;
}

async fn expired_dedup_marker_does_not_repeat_the_effect(kind: DatabaseKind) {
    let stack = Stack::builder().database(kind).start().await;
    let sender = stack.sender();
    sender.announce("twice", &json!({})).await.expect(202, "accepted");
    stack.status("twice", "ready", WAIT_LIMIT).await;
    let at = now_ms();
    let first = mux_event(&unique("event"), "active", Some("twice"), "ls", at);
    sender.mux(&first).await.expect(202, "accepted");
    stack.status("twice", "live", WAIT_LIMIT).await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    let before = stack.database.event("mux", first["id"].as_str().unwrap()).await.unwrap();

    let markers: Vec<String> = stack.redis.command(&["KEYS", "webhook:hash:*"]).await;
    for marker in &markers {
        let ttl: i64 = stack.redis.command(&["TTL", marker]).await;
        assert!((82_800..=86_400).contains(&ttl), "DEDUP_TTL_HOURS is 24: {ttl} s");
        let (): () = stack.redis.command(&["DEL", marker]).await;
    }
    assert!(!markers.is_empty());
    // A direct write of the application must survive the late duplicate.
    stack.database.execute("UPDATE sessions SET status = 'idle' WHERE room_id = 'twice'").await;
    sender.mux(&first).await.expect(202, "accepted");
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(
        stack.database.status("twice").await,
        "idle",
        "the ledger decides: no second effect"
    );
    assert_eq!(stack.database.event("mux", first["id"].as_str().unwrap()).await.unwrap(), before);
    assert_eq!(stack.dead("mux").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_without_id_is_identified_by_its_content() {
    let stack = Stack::builder().workers(0).start().await;
    let sender = stack.sender();
    let send =
        async |text: &str| sender.send(&sign::generic("acme", ACME_SECRET, text.as_bytes())).await;
    let first =
        send(r#"{"event_type":"t","timestamp":1700000000,"payload":{"a":1.0,"b":"é"}}"#).await;
    let id = first.expect(202, "accepted");
    let same = send(
        "{ \"payload\": {\"b\":\"\\u00e9\", \"a\": 1.0},\n\
            \"timestamp\":1700000000, \"event_type\":\"t\" }",
    )
    .await;
    assert_eq!(
        same.expect(200, "duplicate"),
        id,
        "key order, white space and escapes do not count"
    );
    let other =
        send(r#"{"event_type":"t","timestamp":1700000000,"payload":{"a":1.00,"b":"é"}}"#).await;
    assert_ne!(other.expect(202, "accepted"), id, "numbers count as written");
    // The same content for another platform is another event.
    let body = content_event("content_added", "c", "t", now_ms());
    let on_acme = sender.acme(&body).await;
    let on_netflix = sender.netflix(&body).await;
    assert_ne!(on_acme.expect(202, "accepted"), on_netflix.expect(202, "accepted"));
    assert_eq!(stack.unfinished("acme").await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unsigned_header_does_not_change_the_event_id() {
    let stack = Stack::builder().workers(0).start().await;
    let sender = stack.sender();
    let body = content_event("content_added", "c", "t", now_ms()).to_string();
    let signed = sign::generic("acme", ACME_SECRET, body.as_bytes());
    let id = sender.send(&signed).await.expect(202, "accepted").to_owned();
    for header in [
        "x-realcast-webhook-id",
        "x-streamgank-delivery",
        "webhook-id",
        "x-webhook-id",
        "idempotency-key",
    ] {
        let again = sender.send(&signed.clone().header(header, &unique("other"))).await;
        assert_eq!(again.expect(200, "duplicate"), id, "{header}");
    }
    assert_eq!(stack.unfinished("acme").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_or_overlong_id_falls_back_to_the_content() {
    let stack = Stack::builder().workers(0).start().await;
    let sender = stack.sender();
    let long = "x".repeat(5_000);
    for id in [json!(""), json!(null), json!(long)] {
        let mut ids = BTreeSet::new();
        for n in 0..2 {
            let mut body = mux_event("", "created", None, &format!("ls_{n}"), now_ms());
            body["id"] = id.clone();
            let answer = sender.mux(&body).await;
            ids.insert(answer.expect(202, "accepted").to_owned());
            assert!(answer.event_id().len() <= 256);
            assert_eq!(sender.mux(&body).await.expect(200, "duplicate"), answer.event_id());
        }
        assert_eq!(ids.len(), 2, "two contents, two events");
    }
}

/// Three entries of one event in one batch take effect once, and all three are settled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duplicate_entries_in_one_batch_take_effect_once() {
    let mut stack = Stack::builder().workers(0).start().await;
    let (sender, signed) = (stack.sender(), event("acme"));
    for _ in 0..3 {
        sender.send(&signed).await.expect(202, "accepted");
        // Simulates an expired dedup marker.
        let markers: Vec<String> = stack.redis.command(&["KEYS", "webhook:hash:*"]).await;
        let _: usize = stack.redis.command(&["DEL", &markers[0]]).await;
    }
    sender.send(&event("acme")).await.expect(202, "accepted");
    assert_eq!(stack.unfinished("acme").await, 4);
    stack.add_worker().await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(stack.database.count("webhook_events").await, 2);
    assert_eq!(stack.dead("acme").await, 0);
    let role = &stack.workers[0];
    poll::until("each outcome is counted", WAIT_LIMIT, async || {
        let of =
            async |outcome: &str| role.metric("webhook_events_total", &["acme", outcome]).await;
        match (of("processed").await, of("duplicate").await) {
            (2.0, 2.0) => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    })
    .await;
}

/// Duplicates are found before the database sees them, so no transaction is rolled back for one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duplicate_entries_in_one_batch_roll_nothing_back() {
    let mut stack = Stack::builder().database(DatabaseKind::Postgres).workers(0).start().await;
    let signed = event("acme");
    for _ in 0..3 {
        stack.sender().send(&signed).await.expect(202, "accepted");
        let markers: Vec<String> = stack.redis.command(&["KEYS", "webhook:hash:*"]).await;
        let _: usize = stack.redis.command(&["DEL", &markers[0]]).await;
    }
    stack.add_worker().await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(stack.database.count("webhook_events").await, 1);
    let rolled_back = async || {
        let sql =
            "SELECT xact_rollback AS n FROM pg_stat_database WHERE datname = current_database()";
        stack.database.rows(sql, &[]).await[0]["n"].as_i64()
    };
    // PostgreSQL reports a session's counters with its next transaction, at most once a second.
    poll::throughout("nothing was rolled back", Duration::from_millis(1_500), async || {
        match rolled_back().await {
            Some(0) => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    })
    .await;
    stack.sender().send(&event("acme")).await.expect(202, "accepted");
    stack.wait_until_drained(WAIT_LIMIT).await;
    poll::throughout(
        "nothing was rolled back",
        Duration::from_secs(1),
        async || match rolled_back().await {
            Some(0) => Ok(()),
            seen => Err(format!("{seen:?}")),
        },
    )
    .await;
}

/// With `repeatable`, identical bodies without an id and a time are separate events, also in the
/// ledger.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeatable_event_takes_effect_each_time() {
    let toml = "[platforms.bell]\nsecrets = [\"env:ACME_SECRET\"]\n\
                event = { type = \"/kind\", time = false, repeatable = true, schema = false }\n";
    let stack = Stack::builder().platforms(toml).start().await;
    let signed = sign::generic("bell", ACME_SECRET, br#"{"kind":"ring"}"#);
    for _ in 0..3 {
        stack.sender().send(&signed).await.expect(202, "accepted");
    }
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(stack.database.count("webhook_events WHERE platform = 'bell'").await, 3);
}
