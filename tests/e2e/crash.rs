//! Killed processes and destroyed Redis keys: no accepted event is lost or applied twice.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tests::ledger::{AcceptanceLog, EventPlace};
use tests::poll;
use tests::sender::{ACME_SECRET, Sender, content_event, mux_event, now_ms, unique};
use tests::sign::{self, SignedWebhook};
use tests::stack::{DatabaseKind, Stack};

use crate::WAIT_LIMIT;

on_both!(worker_killed_in_mid_batch_loses_nothing);

fn event(n: usize) -> SignedWebhook {
    let body =
        content_event("content_updated", &format!("c{}", n % 50), &unique("title"), now_ms())
            .to_string();
    sign::generic("acme", ACME_SECRET, body.as_bytes())
}

/// Sends `count` events over 16 connections and records the answers.
async fn fill(stack: &Stack, ledger: &Arc<AcceptanceLog>, count: usize) {
    let next = Arc::new(AtomicUsize::new(0));
    let mut senders = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (sender, ledger, next) = (stack.sender(), ledger.clone(), next.clone());
        senders.spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    break;
                }
                let answer = sender.send(&event(n)).await;
                answer.expect(202, "accepted");
                ledger.record("acme", &answer);
            }
        });
    }
    senders.join_all().await;
}

async fn worker_killed_in_mid_batch_loses_nothing(kind: DatabaseKind) {
    const EVENTS: usize = 3_000;
    let mut stack = Stack::builder()
        .database(kind)
        .workers(0)
        .worker_env("CLAIM_IDLE_MS", "1000")
        .start()
        .await;
    let ledger = Arc::new(AcceptanceLog::default());
    fill(&stack, &ledger, EVENTS).await;
    let mut killed_midway = 0;
    for round in 0..4 {
        let before = stack.database.count("webhook_events").await;
        stack.add_worker().await;
        poll::until("the worker has begun", WAIT_LIMIT, async || {
            let done = stack.database.count("webhook_events").await;
            if done > before || stack.unfinished("acme").await == 0 { Ok(()) } else { Err(done) }
        })
        .await;
        stack.workers[round].process.kill();
        killed_midway += usize::from(stack.unfinished("acme").await > 0);
    }
    assert!(killed_midway > 0, "the test must kill a worker that has work left: send more events");
    stack.add_worker().await;
    stack.wait_until_drained(Duration::from_secs(40)).await;
    let places = ledger.check(&stack).await;
    assert_eq!(places[&EventPlace::Database], EVENTS, "{places:?}");
    assert_eq!(stack.database.count("webhook_events").await, i64::try_from(EVENTS).unwrap());
    assert_eq!(stack.dead("acme").await, 0);
    let pending: Vec<redis::Value> = stack
        .redis
        .command(&["XPENDING", "webhooks:incoming:acme", "webhook-processors", "-", "+", "10"])
        .await;
    assert!(pending.is_empty(), "{pending:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn worker_killed_beside_another_loses_nothing() {
    // On PostgreSQL, because a worker frozen in a transaction holds the only write lock of SQLite,
    // and no other process can release it.
    let stack = Stack::builder()
        .database(DatabaseKind::Postgres)
        .workers(3)
        .worker_env("CLAIM_IDLE_MS", "1000");
    let mut stack = stack.start().await;
    let ledger = Arc::new(AcceptanceLog::default());
    fill(&stack, &ledger, 300).await;
    stack.workers[0].process.kill();
    // A frozen worker that resumes late must not apply anything twice.
    stack.workers[1].process.freeze();
    fill(&stack, &ledger, 300).await;
    poll::until("the running worker claims every entry", WAIT_LIMIT, async || {
        match stack.unfinished("acme").await {
            0 => Ok(()),
            left => Err(left),
        }
    })
    .await;
    stack.workers[1].process.thaw();
    fill(&stack, &ledger, 100).await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    stack.workers.remove(0);
    ledger.check(&stack).await;
    assert_eq!(stack.database.count("webhook_events").await, 700);
}

/// Events that the killed replica accepted are queued. Events without an answer are safe to send
/// again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ingress_killed_in_mid_request_loses_nothing() {
    let mut stack = Stack::builder().ingresses(2).start().await;
    let ledger = Arc::new(AcceptanceLog::default());
    let other = stack.ingresses[1].sender();
    for round in 0..3 {
        let mut senders = tokio::task::JoinSet::new();
        let broken = Arc::new(AtomicUsize::new(0));
        for n in 0..24 {
            // A separate replica to kill, and no connection pool that could hide a cut connection.
            let sender = Sender::new(&stack.ingresses[0].url);
            let (other, ledger, broken) = (other.clone(), ledger.clone(), broken.clone());
            senders.spawn(async move {
                for m in 0..400 {
                    let signed = event(n + m);
                    match sender.try_send(&signed).await {
                        Ok(answer) => {
                            answer.expect(202, "accepted");
                            ledger.record("acme", &answer);
                        }
                        Err(_) => {
                            broken.fetch_add(1, Ordering::Relaxed);
                            let answer = other.send(&signed).await;
                            assert!([200, 202].contains(&answer.status), "{}", answer.text);
                            ledger.record("acme", &answer);
                            break;
                        }
                    }
                }
            });
        }
        let before = ledger.len();
        poll::until("events flow", WAIT_LIMIT, async || {
            if ledger.len() > before + 150 { Ok(()) } else { Err(ledger.len()) }
        })
        .await;
        stack.ingresses[0].process.kill();
        senders.join_all().await;
        assert!(broken.load(Ordering::Relaxed) > 0, "round {round}: the kill must hit requests");
        let (program, url, ops) = stack.ingress_program();
        stack.ingresses[0] = tests::stack::ServerProcess { process: program.spawn(), url, ops };
        stack.ingresses[0].ready(WAIT_LIMIT).await;
    }
    stack.wait_until_drained(WAIT_LIMIT).await;
    let places = ledger.check(&stack).await;
    assert_eq!(places[&EventPlace::Database], ledger.len(), "{places:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn destroyed_consumer_group_is_recreated_without_gaps() {
    let stack =
        Stack::builder().workers(2).worker_env("MISSING_SESSION_WAIT_MS", "60000").start().await;
    let ledger = Arc::new(AcceptanceLog::default());
    let sender = stack.sender();
    // One event waits for a retry. Its place in the retry set must neither duplicate nor lose it.
    let waiting =
        sender.mux(&mux_event(&unique("e"), "active", Some("later"), "x", now_ms())).await;
    waiting.expect(202, "accepted");
    ledger.record("mux", &waiting);
    for _ in 0..3 {
        fill(&stack, &ledger, 150).await;
        for platform in ["acme", "mux"] {
            let stream = format!("webhooks:incoming:{platform}");
            let gone: i64 =
                stack.redis.command(&["XGROUP", "DESTROY", &stream, "webhook-processors"]).await;
            assert_eq!(gone, 1);
        }
        fill(&stack, &ledger, 150).await;
        poll::until("acme is drained", WAIT_LIMIT, async || match stack.unfinished("acme").await {
            0 => Ok(()),
            left => Err(left),
        })
        .await;
        // The next round destroys a group again, so both must exist.
        poll::until("the groups are back", WAIT_LIMIT, async || {
            for platform in ["acme", "mux"] {
                let groups: Vec<redis::Value> = stack
                    .redis
                    .command(&["XINFO", "GROUPS", &format!("webhooks:incoming:{platform}")])
                    .await;
                if groups.is_empty() {
                    return Err(platform);
                }
            }
            Ok(())
        })
        .await;
    }
    sender.announce("later", &json!({})).await.expect(202, "accepted");
    stack.status("later", "live", WAIT_LIMIT).await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    let places = ledger.check(&stack).await;
    assert_eq!(places[&EventPlace::Database], 901, "{places:?}");
    assert_eq!(stack.dead("acme").await + stack.dead("mux").await, 0);
}

/// Events of a deleted stream are lost, but the worker must continue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_or_mistyped_stream_stops_nothing_else() {
    let stack = Stack::builder().start().await;
    let sender = stack.sender();
    sender.send(&event(0)).await.expect(202, "accepted");
    stack.wait_until_drained(WAIT_LIMIT).await;
    let (): () = stack.redis.command(&["DEL", "webhooks:incoming:acme"]).await;
    sender.send(&event(1)).await.expect(202, "accepted");
    poll::until("the new stream is worked on", WAIT_LIMIT, async || {
        match stack.database.count("webhook_events").await {
            2 => Ok(()),
            n => Err(n),
        }
    })
    .await;
    // A key of the wrong type for one platform does not affect the others.
    let (): () = stack.redis.command(&["DEL", "webhooks:incoming:livekit"]).await;
    let (): () = stack.redis.command(&["SET", "webhooks:incoming:livekit", "not a stream"]).await;
    sender.send(&event(2)).await.expect(202, "accepted");
    poll::until("acme is served beside a broken stream", WAIT_LIMIT, async || {
        match stack.database.count("webhook_events").await {
            3 => Ok(()),
            n => Err(n),
        }
    })
    .await;
    assert!(stack.workers[0].process.is_running());
    let fields: HashMap<String, String> = stack.redis.command(&["HGETALL", "webhooks:meta"]).await;
    assert!(!fields.is_empty());
}

/// An emptied Redis loses its events. The system reports the loss and continues.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn emptied_redis_is_reported_and_work_continues() {
    let stack = Stack::builder().start().await;
    let sender = stack.sender();
    sender.send(&event(0)).await.expect(202, "accepted");
    stack.wait_until_drained(WAIT_LIMIT).await;
    let (): () = stack.redis.command(&["FLUSHALL"]).await;
    for n in 1..=3 {
        sender.send(&event(n)).await.expect(202, "accepted");
    }
    poll::until("new events are processed", WAIT_LIMIT, async || {
        match stack.database.count("webhook_events").await {
            4 => Ok(()),
            n => Err(n),
        }
    })
    .await;
    for role in [&stack.workers[0], &stack.ingresses[0]] {
        poll::until("the loss is on show", Duration::from_secs(75), async || {
            let seen = role.metric("webhook_data_lost", &[]).await;
            if seen > 0.5 { Ok(()) } else { Err(seen) }
        })
        .await;
    }
}
